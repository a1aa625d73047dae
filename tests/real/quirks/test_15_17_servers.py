"""Quirk 15: what a server asks outside of a call. And what clients do to lists: long names, and lists kept for long."""

import asyncio
import json
from collections.abc import Callable

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


async def _answer(one: wire.Caller, session: str, id_: object, word: str) -> int:
    body = json.dumps({"jsonrpc": "2.0", "id": id_, "result": {"roots": [{"uri": f"file:///{word}"}]}}).encode()
    fields, _ = wire.legacy(session, "ping")
    return (await one.send(fields, body)).status_code


@pytest.mark.requirement("quirk:15:in-flight")
async def test_a_question_without_a_related_request_comes_on_the_call_that_is_in_flight(
    gate: Gate, caller: Make
) -> None:
    one = caller(gate.acme)
    session = await one.open()
    async with one.listening(session), one.streaming(*wire.legacy(session, "tools/call", wire.call("ask"))) as call:
        asked = await call.message()
        assert asked["method"] == "roots/list"
        assert await _answer(one, session, asked["id"], "here") == 202
        assert wire.said(await call.message())["answer"]["roots"] == [{"uri": "file:///here"}]


@pytest.mark.requirement("quirk:15:queued")
async def test_a_question_outside_of_a_call_waits_for_the_stream_and_its_answer_reaches_the_server(
    gate: Gate, caller: Make
) -> None:
    one, other = caller(gate.acme), caller(gate.acme)
    session, theirs = await one.open(), await other.open()
    assert await one.act("asklater", session) == "soon"
    # The server has asked when its next answer is here; nobody listens yet. A slow one may ask while that call is under
    # way, and then on its stream, if the client took any.
    fields, body = wire.legacy(session, "tools/list")
    assert (await one.send(fields, body, accept="application/json")).status_code == 200
    async with one.listening(session) as stream:
        asked = await stream.message()
        assert asked["method"] == "roots/list"
        # Another session's answer to the same id is nobody's.
        assert await _answer(other, theirs, asked["id"], "forged") == 202
        assert await _answer(one, session, asked["id"], "mine") == 202
        assert (await stream.message())["params"]["answer"]["roots"] == [{"uri": "file:///mine"}]


@pytest.mark.requirement("quirk:15:plain")
async def test_a_question_during_a_call_whose_client_takes_no_stream_comes_on_the_sessions(
    gate: Gate, caller: Make
) -> None:
    one = caller(gate.acme)
    session = await one.open()
    fields, body = wire.legacy(session, "tools/call", wire.call("ask"))
    call = asyncio.create_task(one.send(fields, body, accept="application/json"))
    async with one.listening(session) as stream:
        asked = await stream.message()
        assert asked["method"] == "roots/list"
        assert await _answer(one, session, asked["id"], "plain") == 202
        answer = await call
    assert answer.headers["content-type"] == "application/json"
    assert wire.said(answer.json())["answer"]["roots"] == [{"uri": "file:///plain"}]


@pytest.mark.requirement("quirk:15:queued")
async def test_what_waits_for_a_stream_comes_once_and_in_order_however_often_the_stream_is_opened(
    gate: Gate, caller: Make
) -> None:
    one = caller(gate.acme)
    session = await one.open()
    for number in range(5):
        await one.act("notice", session, n=number)
    async with one.listening(session) as stream:
        assert [(await stream.message())["params"]["n"] for _ in range(5)] == list(range(5))
    await one.act("notice", session, n=5)
    async with one.listening(session) as stream:
        assert (await stream.message())["params"]["n"] == 5


@pytest.mark.requirement("quirk:17:names")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_tools_name_is_the_servers_own_at_any_length(gate: Gate, caller: Make, era: str) -> None:
    one = caller(gate.acme)
    session = await one.open() if era == "legacy" else None
    name = "t" * 60 + "_-./" + "T" * 64  # 128: the longest that MCP 2025-11-25 lets a tool have

    async def names() -> list[str]:
        asked = one.modern("tools/list") if session is None else one.legacy(session, "tools/list")
        return [tool["name"] for tool in wire.messages(await asked)[-1]["result"]["tools"]]

    before = await names()
    await one.act("grow", session, name=name)
    # No prefix that would make it longer than clients take (60 or 64, with a prefix of their own).
    assert await names() == [*before, name]
    params = {"name": name, "arguments": {"act": "echo", "text": "long"}}
    call = one.modern("tools/call", params) if session is None else one.legacy(session, "tools/call", params)
    assert wire.said(wire.messages(await call)[-1])["text"] == "long"
    await one.act("grow", session, name="")


@pytest.mark.requirement("quirk:18:lists")
async def test_a_list_is_never_kept_by_the_platform_and_its_change_is_told(gate: Gate, caller: Make) -> None:
    one, other = caller(gate.acme), caller(gate.acme)
    session, theirs = await one.open(), await other.open()

    async def names(who: wire.Caller, which: str) -> list[str]:
        return [tool["name"] for tool in wire.messages(await who.legacy(which, "tools/list"))[-1]["result"]["tools"]]

    before = await names(one, session)
    async with one.listening(session) as stream:
        for number in range(3):
            await one.act("grow", session, name=f"tool-{number}")
            assert (await stream.message())["method"] == "notifications/tools/list_changed"
            assert await names(one, session) == [*before, f"tool-{number}"]
    # Another session's copy has a list of its own.
    assert await names(other, theirs) == before


@pytest.mark.requirement("quirk:16:preflight")
@pytest.mark.parametrize("path", ["/t/acme/tool/mcp", "/t/nobody/none/mcp"])
async def test_a_preflight_needs_no_key_and_allows_all_that_clients_send_and_exposes_all_they_read(
    gate: Gate, caller: Make, path: str
) -> None:
    http = caller(gate.acme).http
    origin = gate.platform.base_url
    wanted = (
        "authorization, content-type, accept, mcp-protocol-version, mcp-session-id, last-event-id, mcp-method,"
        " mcp-name, mcp-param-region, traceparent, tracestate, baggage"
    )
    for verb in ("POST", "GET", "DELETE"):
        asked = {"access-control-request-method": verb, "access-control-request-headers": wanted, "origin": origin}
        answer = await http.options(gate.platform.base_url + path, headers=asked)
        allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == origin
        assert verb in answer.headers["access-control-allow-methods"]
        assert allowed >= {name.strip() for name in wanted.split(",")}
        # Credentials go in a field that scripts set themselves: no cookie is ever wanted.
        assert "access-control-allow-credentials" not in answer.headers
    refused = await http.post(gate.platform.base_url + path, headers={"origin": origin}, content=b"{}")
    exposed = {name.strip().lower() for name in refused.headers["access-control-expose-headers"].split(",")}
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == origin
    assert exposed >= {"mcp-session-id", "www-authenticate"}
