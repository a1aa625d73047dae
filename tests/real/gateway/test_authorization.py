"""Who may do what at the gateway, when that ends, and what the audit trail says of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import files, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


@pytest.mark.requirement("gateway:access:roles")
async def test_a_reader_lists_and_reads_and_may_not_call(gate: Gate, caller: Make) -> None:
    reader = caller(gate.reader)
    for method in ("server/discover", "tools/list", "resources/list"):
        assert (await reader.modern(method)).status_code == 200, method
    for method, params in (("tools/call", wire.call("echo")), ("x/unknown", {})):
        answer = await reader.modern(method, params, "mine")
        said = answer.json()
        assert (answer.status_code, said["id"], said["error"]["code"]) == (403, "mine", -32000)
        # No other token of theirs would do: a challenge would send clients after one.
        assert "www-authenticate" not in answer.headers
    session = await reader.open()
    assert (await reader.legacy(session, "tools/list")).status_code == 200
    assert (await reader.legacy(session, "tools/call", wire.call("echo"))).status_code == 403


@pytest.mark.requirement("gateway:access:roles")
async def test_an_operator_can_not_use_a_tenants_tools(gate: Gate, caller: Make) -> None:
    operator = caller(gate.operator)
    nowhere = caller(gate.operator._replace(url=gate.operator.url.replace("acme", "nobody")))
    for method, params in (("tools/list", {}), ("tools/call", wire.call("echo")), ("server/discover", {})):
        answers = [await one.modern(method, params) for one in (operator, nowhere)]
        assert answers[0].status_code in (403, 404)
        assert "acme-tool" not in answers[0].text
        assert answers[0].content == answers[1].content


@pytest.mark.requirement("gateway:access:ends")
async def test_a_suspended_tenant_is_refused_from_the_next_request_on_until_it_is_resumed(
    gate: Gate, caller: Make
) -> None:
    gate.platform.create_tenant("shortlived")
    key = gate.platform.create_key("shortlived")
    one = caller(Endpoint(gate.acme.url.replace("acme", "shortlived"), key))
    assert (await one.modern("tools/list")).status_code == 404
    gate.platform.api("POST", "/tenants/shortlived/suspend")
    assert (await one.modern("tools/list")).status_code == 403
    gate.platform.api("POST", "/tenants/shortlived/resume")
    assert (await one.modern("tools/list")).status_code == 404


def _trail(gate: Gate, after: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = gate.platform.api("GET", f"/tenants/acme/audit?after={after}&limit=500", key=gate.admin)
        found += page["items"]
        if page["next"] is None:
            return found
        after = int(page["next"])


def _end(gate: Gate) -> int:
    return max(int(entry["position"]) for entry in _trail(gate))


@pytest.mark.requirement("gateway:audit:outcomes")
async def test_every_outcome_is_on_record_and_no_secret_or_argument_is(
    gate: Gate, acme: wire.Caller, caller: Make
) -> None:
    secret = "hunter2-argument-value"
    begin = _end(gate)
    session = await acme.open()
    answers = {
        "ok": await acme.modern("tools/call", wire.call("echo", text=secret)),
        "ok-legacy": await acme.legacy(session, "tools/call", wire.call("echo", text=secret)),
        "rpc_error": await acme.modern("prompts/get", {"name": "nothing", "arguments": {"x": secret}}),
        "insufficient_scope": await caller(gate.reader).modern("tools/call", wire.call("echo", text=secret)),
        "call_interrupted": await acme.modern("tools/call", wire.call("exit", text=secret)),
        "not_found": await caller(gate.umbra._replace(url=gate.acme.url)).modern("tools/call", wire.call("echo")),
        "read": await acme.modern("resources/read", {"uri": f"file:///{secret}"}),
    }
    await acme.end(session)
    # Who reads a trail finds all that was noted before: nothing has to be waited for.
    entries = _trail(gate, begin)
    by_request = {json.dumps(entry): entry for entry in entries}
    text = "\n".join(by_request)
    for outcome, answer in answers.items():
        request = answer.headers["smcp-request-id"]
        mine = [line for line in by_request if f'"{request}"' in line]
        if outcome == "not_found":  # it is on record where its actor belongs, not where it knocked
            assert mine == []
            continue
        assert mine, outcome
        wanted = {"ok": '"ok"', "ok-legacy": '"ok"', "read": '"ok"'}.get(outcome, f'"{outcome}"')
        assert any(wanted in line for line in mine), (outcome, mine)
    assert "session_opened" in text
    assert "session_ended" in text
    for hidden in (secret, session, gate.acme.key, gate.acme.key.rpartition("_")[2], gate.reader.key, gate.admin):
        assert hidden not in text
    report = gate.platform.api("POST", "/tenants/acme/audit/verify", key=gate.admin)
    assert (report["ok"], report["problem"]) == (True, None)


@pytest.mark.requirement("gateway:audit:outcomes")
async def test_neither_the_platforms_log_nor_a_database_file_holds_a_key_or_an_argument(
    gate: Gate, acme: wire.Caller
) -> None:
    marker = "argument-that-nobody-keeps"
    await acme.act("echo", text=marker)
    kept = b"".join(data for path, data in files.below(gate.platform.data) if "cache" not in path.parts)
    kept += gate.platform.log.read_bytes()
    assert len(kept) > 10_000
    for hidden in (marker, gate.acme.key, gate.acme.key.rpartition("_")[2], gate.umbra.key, gate.admin):
        assert hidden.encode() not in kept
