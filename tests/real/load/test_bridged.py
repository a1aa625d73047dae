"""A thousand legacy sessions over one copy of a modern server: what each of them costs."""

import httpx2
import pytest

from real.load.conftest import Running
from support import load, wire
from support.clients import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_SESSIONS = 1000
_EACH = 8 << 10
_CAN: wire.Json = {"roots": {}, "sampling": {}, "elicitation": {}}


@pytest.mark.requirement("load:bridged:memory")
async def test_1000_idle_legacy_sessions_share_one_modern_copy_and_cost_little_each(running: Running) -> None:
    with running({"SMCP_LIMITS_PRINCIPAL_SESSIONS": "2000"}) as platform:
        platform.create_tenant("acme")
        admin, caller = platform.create_key("acme", "admin"), platform.create_key("acme")
        url = platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "tool", admin, 'era = "modern"\n')
        async with httpx2.AsyncClient(timeout=120.0) as http:
            one = wire.Caller(http, Endpoint(url, caller))
            held: list[int] = []
            # The first half makes what is made once: the copy, buffers, arenas.
            for half in range(2):
                for number in range(_SESSIONS // 2):
                    session = await one.open(capabilities=_CAN)
                    assert (await one.act("echo", session, text=f"{half} {number}"))["text"] == f"{half} {number}"
                held.append(load.memory(platform))
            each = (held[1] - held[0]) / (_SESSIONS - _SESSIONS // 2)
            now = wire.vitals(platform)
            print(f"{now.sessions:.0f} idle legacy sessions over {now.instances:.0f} copy: {each / 1024:.1f} KiB each")
            assert (now.sessions, now.instances) == (_SESSIONS, 1)
            assert 0 < each < _EACH
            await one.close()
