"""Who shares a running copy of a modern server: what the manifest's `share` says."""

from collections.abc import Callable

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


async def _copies(gate: Gate, share: str, caller: Callable[[Endpoint], wire.Caller]) -> list[object]:
    """Deploy with `share`; which copies answered one principal twice, then another one."""
    url = gate.platform.deploy(
        "acme", f"pypi:{wire.SCRIPTED}", f"shared-by-{share}", gate.admin, f'era = "modern"\nshare = "{share}"\n'
    )
    one, other = caller(Endpoint(url, gate.acme.key)), caller(Endpoint(url, gate.colleague.key))
    return [(await who.act("echo", text="who"))["born"] for who in (one, one, other)]


@pytest.mark.requirement("gateway:sharing:manifest")
async def test_a_copy_is_shared_by_whom_the_manifest_says(
    gate: Gate, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    by_tenant = await _copies(gate, "tenant", caller)
    by_principal = await _copies(gate, "principal", caller)
    by_nobody = await _copies(gate, "session", caller)
    assert len(set(by_tenant)) == 1
    assert by_principal[0] == by_principal[1] != by_principal[2]
    assert len(set(by_nobody)) == 3
    shown = gate.platform.api("GET", "/tenants/acme/servers/shared-by-session", key=gate.admin)
    while shown["instances"]:  # they end in the background: bounded by the test's own timeout
        shown = gate.platform.api("GET", "/tenants/acme/servers/shared-by-session", key=gate.admin)
