"""Quirk 13: which era is it? Servers take the question badly, and clients ask it badly."""

from collections.abc import Callable

import pytest

from support import clients, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_OLDER = ("exits", "silent", "hangs", "no-id", "params", "garbled", "unknown", "eager", "locks")


async def _how(one: wire.Caller, session: str | None) -> object:
    params: wire.Json = {"name": "how", "arguments": {}}
    call = one.modern("tools/call", params) if session is None else one.legacy(session, "tools/call", params)
    return wire.said(wire.messages(await call)[-1])


@pytest.mark.requirement("quirk:13:servers")
@pytest.mark.parametrize("how", _OLDER)
async def test_a_server_that_takes_the_question_badly_is_hosted_in_the_era_it_speaks(
    shy: dict[str, Endpoint], caller: Make, how: str
) -> None:
    one = caller(shy[how])
    assert await _how(one, await one.open()) == how


@pytest.mark.requirement("quirk:13:servers")
async def test_a_server_that_ends_at_initialize_is_hosted_for_clients_of_both_eras(
    shy: dict[str, Endpoint], caller: Make
) -> None:
    one = caller(shy["exits-modern"])
    assert await _how(one, None) == "exits-modern"
    assert await _how(one, await one.open()) == "exits-modern"


@pytest.mark.requirement("quirk:13:recorded")
@pytest.mark.parametrize("how", [*_OLDER, "exits-modern"])
def test_what_the_probe_found_is_recorded_with_the_deployment(gate: Gate, shy: dict[str, Endpoint], how: str) -> None:
    assert how in shy
    made = gate.platform.api("GET", f"/tenants/acme/servers/shy-{how}", key=gate.admin)["deployment"]
    if how == "exits-modern":
        assert (made["modern_versions"], made["legacy_versions"]) == (["2026-07-28"], [])
    else:
        assert (made["modern_versions"], made["legacy_versions"][0]) == ([], "2025-11-25")


@pytest.mark.requirement("quirk:13:clients")
@pytest.mark.parametrize("id_", [1, 0, "probe-1"])
async def test_a_client_that_probes_an_older_server_may_stay_modern_or_shake_hands_at_once(
    shy: dict[str, Endpoint], caller: Make, id_: object
) -> None:
    one = caller(shy["exits"])
    answer = await one.modern("server/discover", {}, id_)
    told = answer.json()
    assert (answer.status_code, told["id"], told["result"]["supportedVersions"]) == (200, id_, ["2026-07-28"])
    assert await _how(one, None) == "exits"
    assert await _how(one, await one.open()) == "exits"


@pytest.mark.requirement("quirk:13:clients")
async def test_a_relay_that_forgets_the_headers_of_a_probe_is_told_which_one_and_may_shake_hands(
    acme: wire.Caller,
) -> None:
    fields, body = wire.modern("server/discover", {}, "relayed")
    for forgotten in ("mcp-method", "mcp-protocol-version"):
        kept = {name: value for name, value in fields.items() if name != forgotten}
        answer = await acme.send(kept, body)
        told = answer.json()
        assert (answer.status_code, told["id"], told["error"]["code"]) == (400, "relayed", -32020)
        assert forgotten in told["error"]["message"].lower()
    assert await acme.act("echo", await acme.open(), text="still") is not None


@pytest.mark.requirement("quirk:13:clients")
async def test_a_probe_of_no_version_that_exists_names_those_that_do(acme: wire.Caller) -> None:
    fields, body = wire.modern("server/discover", {}, 5)
    body = body.replace(b"2026-07-28", b"2031-01-01")
    answer = await acme.send(fields, body, mcp_protocol_version="2031-01-01")
    told = answer.json()
    assert (answer.status_code, told["id"], told["error"]["code"]) == (400, 5, -32022)
    assert told["error"]["data"] == {"supported": ["2026-07-28"], "requested": "2031-01-01"}


@pytest.mark.requirement("quirk:13:clients")
@pytest.mark.parametrize("how", ["exits", "exits-modern"])
async def test_the_python_client_that_probes_stays_modern_with_each(shy: dict[str, Endpoint], how: str) -> None:
    seen = await clients.python(shy[how], "auto", "how", {})
    assert (seen.version, seen.tools, seen.texts) == ("2026-07-28", ("how",), (f'"{how}"',))


@pytest.mark.requirement("quirk:13:clients")
async def test_both_eras_of_one_server_are_found_at_one_address_in_any_order(gate: Gate, caller: Make) -> None:
    one = caller(gate.acme)
    session = await one.open()
    assert (await one.modern("server/discover")).status_code == 200
    # A client that keeps its session id and goes over to the modern wire: there it says nothing.
    assert (await one.modern("tools/list", mcp_session_id=session)).status_code == 200
    assert (await one.legacy(session, "tools/list")).status_code == 200
