"""A shared copy that is of no use any more: it is ended, and the next call gets another one."""

from collections.abc import Callable

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = pytest.mark.real


def _alone(gate: Gate, name: str, caller: Callable[[Endpoint], wire.Caller]) -> wire.Caller:
    """A server that no other test uses."""
    url = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, gate.admin, 'era = "modern"\n')
    return caller(Endpoint(url, gate.acme.key))


async def _refused(who: wire.Caller, act: str, **arguments: object) -> str:
    answer = await who.modern("tools/call", wire.call(act, **arguments))
    return str(wire.messages(answer)[-1]["error"]["message"])


@pytest.mark.requirement("review:hung:replaced")
@pytest.mark.parametrize("act", ["sleep", "mute"])
async def test_a_copy_that_hangs_is_replaced_after_a_call_has_waited_in_vain(
    gate: Gate, caller: Callable[[Endpoint], wire.Caller], act: str
) -> None:
    # A copy that closes its output can't be told from a silent one: the sandbox's first process keeps the pipe open.
    who = _alone(gate, f"hangs-by-{act}", caller)
    before = (await who.act("echo", text="before"))["born"]
    assert "in time" in await _refused(who, act, seconds=60)
    # It is asked once more, and replaced when it says nothing to that either; calls meanwhile still meet the old one.
    while "error" in (answer := wire.messages(await who.modern("tools/call", wire.call("echo", text="after")))[-1]):
        assert any(word in answer["error"]["message"] for word in ("answer", "while this call ran"))
    assert wire.said(answer)["born"] != before
