"""Batches: where they exist they are many messages, and nothing that one message could not do."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_BOTH = "application/json, text/event-stream"


def _call(id_: Any, act: str, token: Any = None, **arguments: Any) -> wire.Json:
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": wire.call(act, token, **arguments)}


async def _open(one: wire.Caller, version: str = "2025-03-26") -> str:
    answer = await one.legacy(None, "initialize", wire.hello(version))
    assert answer.json()["result"]["protocolVersion"] == version, answer.text
    return str(answer.headers["mcp-session-id"])


async def _send(one: wire.Caller, session: str, body: Any, accept: str = _BOTH, **more: str) -> httpx2.Response:
    fields = {"content-type": "application/json", "accept": accept, "mcp-session-id": session}
    return await one.send(fields, body if isinstance(body, bytes) else json.dumps(body).encode(), **more)


def _by_id(found: list[wire.Json]) -> dict[Any, wire.Json]:
    return {one.get("id"): one for one in found}


@pytest.mark.requirement("gateway:batches:accepted")
@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26"])
async def test_a_batch_is_answered_by_one_array_with_an_answer_to_each_request(acme: wire.Caller, version: str) -> None:
    session = await _open(acme, version)
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    ids = [0, "0", 7, "seven", -1]
    batch = [told, *(_call(id_, "echo", text=f"for {id_!r}") for id_ in ids), _call(99, "heard")]
    answer = await _send(acme, session, batch)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    found = _by_id(answer.json())
    assert len(answer.json()) == len(ids) + 1
    assert {id_: wire.said(found[id_])["text"] for id_ in ids} == {id_: f"for {id_!r}" for id_ in ids}
    assert [one["method"] for one in wire.said(found[99])] == ["notifications/initialized"]
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:refused")
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_later_versions_have_no_batches(acme: wire.Caller, version: str) -> None:
    session = await _open(acme, version)
    answer = await _send(acme, session, [_call(1, "echo", text="x")])
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32600, None)
    assert version in answer.json()["error"]["message"]
    assert (await _send(acme, session, _call(2, "heard"))).json()["id"] == 2
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:refused")
async def test_the_modern_wire_has_no_batches_and_neither_has_who_has_no_session(acme: wire.Caller) -> None:
    fields, body = wire.modern("tools/call", wire.call("echo", text="x"))
    answer = await acme.send(fields, b"[" + body + b"]")
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32600, None)
    fields, body = wire.legacy(None, "tools/list")
    assert (await acme.send(fields, b"[" + body + b"]")).status_code == 400
    fields, body = wire.legacy(None, "initialize", wire.hello("2025-03-26"))
    answer = await acme.send(fields, b"[" + body + b"]")
    assert answer.status_code == 400
    assert "mcp-session-id" not in answer.headers


@pytest.mark.requirement("gateway:batches:streams")
async def test_what_comes_before_an_answer_makes_the_answers_events_of_one_stream(acme: wire.Caller) -> None:
    session = await _open(acme)
    batch = [_call(1, "steps", "one", count=3), _call(2, "echo", text="x"), _call(3, "steps", "three", count=2)]
    answer = await _send(acme, session, batch)
    assert answer.headers["content-type"] == "text/event-stream"
    found = wire.messages(answer)
    assert {one["id"] for one in found if "id" in one} == {1, 2, 3}
    tokens = [one["params"]["progressToken"] for one in found if "method" in one]
    assert (tokens.count("one"), tokens.count("three")) == (3, 2)
    order = [one.get("id", one.get("params", {}).get("progressToken")) for one in found]
    assert order.index("one") < order.index(1)
    assert order.index("three") < order.index(3)
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:streams")
async def test_a_client_gets_the_form_that_it_takes(acme: wire.Caller) -> None:
    session = await _open(acme)
    batch = [_call(1, "steps", "t", count=3), _call(2, "echo", text="x")]
    array = await _send(acme, session, batch, "application/json")
    assert array.headers["content-type"] == "application/json"
    assert {one["id"] for one in array.json()} == {1, 2}
    stream = await _send(acme, session, batch[1:], "text/event-stream")
    assert stream.headers["content-type"] == "text/event-stream"
    assert [one["id"] for one in wire.messages(stream)] == [2]
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:accepted")
async def test_a_batch_that_asks_for_nothing_is_202(acme: wire.Caller) -> None:
    session = await _open(acme)
    told = [{"jsonrpc": "2.0", "method": f"notifications/x{number}"} for number in range(3)]
    answer = await _send(acme, session, told)
    assert (answer.status_code, answer.content) == (202, b"")
    heard = wire.said((await _send(acme, session, _call(1, "heard"))).json())
    assert [one["method"] for one in heard] == [one["method"] for one in told]
    fields = {"content-type": "application/json", "accept": _BOTH, "mcp-session-id": session}
    asked = [_call(1, "ask"), _call(2, "ask")]
    async with acme.streaming(fields, json.dumps(asked).encode()) as stream:
        questions = [await stream.message(), await stream.message()]
        assert {one["method"] for one in questions} == {"roots/list"}
        said: list[wire.Json] = [
            {"jsonrpc": "2.0", "id": one["id"], "result": {"roots": [], "for": one["id"]}} for one in questions
        ]
        answer = await _send(acme, session, said)
        assert (answer.status_code, answer.content) == (202, b"")
        answers = _by_id([await stream.message(), await stream.message()])
        assert len({wire.said(answers[id_])["answer"]["for"] for id_ in (1, 2)}) == 2
        await stream.end()
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:apart")
async def test_a_bad_member_gets_an_error_of_its_own_and_the_others_their_answers(acme: wire.Caller) -> None:
    session = await _open(acme)
    modern = {"_meta": {"io.modelcontextprotocol/protocolVersion": wire.MODERN}}
    bad: list[Any] = [
        1, None, [], [_call(5, "echo")], {}, {"jsonrpc": "2.0"}, {"jsonrpc": "1.0", "id": 6, "method": "ping"},
        {"jsonrpc": "2.0", "id": None, "method": "ping"}, {"jsonrpc": "2.0", "id": 7, "method": "ping", "params": []},
        {"jsonrpc": "2.0", "id": 8, "method": "tools/list", "params": modern},
    ]  # fmt: skip
    answer = await _send(acme, session, [_call(1, "echo", text="a"), *bad, _call(2, "echo", text="b")])
    assert answer.status_code == 200
    good = [one for one in answer.json() if "result" in one]
    assert {wire.said(one)["text"] for one in good} == {"a", "b"}
    codes = [one["error"]["code"] for one in answer.json() if "error" in one]
    assert len(codes) == len(bad)
    assert set(codes) == {-32600, -32602, -32020}
    assert {one["id"] for one in answer.json() if "error" in one} == {None}
    only = await _send(acme, session, bad)
    assert (only.status_code, len(only.json())) == (400, len(bad))
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:apart")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([], 400, -32600),
        ([_call(1, "echo"), _call(1, "heard")], 400, -32600),
        ([_call("a", "echo"), _call("a", "heard")], 400, -32600),
        (b'[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","id":"\\u0061","method":"ping"}]', 400, -32600),
        ([{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": wire.hello("2025-03-26")}], 400, -32600),
        ([_call(number, "echo") for number in range(65)], 413, -32600),
        (b"[" + b"1," * 400_000 + b"1]", 413, -32600),
        (b"[" * 400_000, 400, -32600),
        (b'[{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}]', 400, -32700),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}', 400, -32700),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"},]', 400, -32700),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]x', 400, -32700),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"} {}]', 400, -32700),
        (b'["\xff"]', 400, -32700),
        (b"[NaN]", 400, -32700),
    ],
)  # fmt: skip
async def test_a_batch_that_is_wrong_as_a_whole_is_refused_as_a_whole(
    acme: wire.Caller, body: Any, status: int, code: int
) -> None:
    # CVE-2025-53365: malformed and huge bodies
    session = await _open(acme)
    answer = await _send(acme, session, body)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (status, code, None)
    assert (await _send(acme, session, _call(1, "heard"))).json()["id"] == 1
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:stages")
async def test_each_member_is_decided_on_counted_and_put_on_record_like_a_message_of_its_own(
    gate: Gate, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    reader = caller(gate.reader)
    session = await _open(reader)
    before = await reader.legacy(None, "tools/list", mcp_session_id=session)
    listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    batch = [listed, _call(2, "echo", text="no"), {**listed, "id": 3}, {**listed, "id": 4, "method": "made/up"}]
    answer = await _send(reader, session, batch)
    found = _by_id(answer.json())
    assert "tools" in found[1]["result"]
    assert "tools" in found[3]["result"]
    assert {found[id_]["error"]["message"] for id_ in (2, 4)} == {"Your roles do not allow this action."}
    after = await reader.legacy(None, "tools/list", mcp_session_id=session)
    assert _left(before) - _left(after) == 1 + len(batch)
    request_id = answer.headers["smcp-request-id"]
    entries = gate.platform.audit("acme", key=gate.admin)
    mine = [one["event"] for one in entries if one["event"].get("request_id") == request_id]
    calls = sorted((one["method"], one["outcome"]) for one in mine if one["event"] == "mcp_call")
    assert calls == [("_OTHER", "refused"), ("tools/call", "refused"), ("tools/list", "ok"), ("tools/list", "ok")]
    await reader.end(session)


def _left(answer: httpx2.Response) -> int:
    """What is left of the session's rate."""
    policies = [one.strip() for one in answer.headers["ratelimit"].split(",")]
    [mine] = [one for one in policies if one.startswith('"session"')]
    return int(mine.partition("r=")[2].partition(";")[0])


@pytest.mark.requirement("gateway:batches:bounded")
async def test_large_answers_are_streamed_whole_or_refused_one_by_one(acme: wire.Caller) -> None:
    session = await _open(acme)
    batch = [_call(number, "long", bytes=900_000) for number in range(8)]
    stream = await _send(acme, session, batch)
    assert stream.headers["content-type"] == "text/event-stream"
    found = wire.messages(stream)
    assert {one["id"]: len(one["result"]["x"]) for one in found} == dict.fromkeys(range(8), 900000)
    array = await _send(acme, session, batch, "application/json")
    assert len(array.content) < 6 << 20
    found = array.json()
    assert {one["id"] for one in found} == set(range(8))
    assert {one["error"]["code"] for one in found if "error" in one} == {-32600}
    assert sum("result" in one for one in found) >= 4
    await acme.end(session)


@pytest.mark.requirement("gateway:batches:bounded")
async def test_who_hangs_up_leaves_nothing_behind_and_cancels_nothing(gate: Gate, acme: wire.Caller) -> None:
    session = await _open(acme)
    before = wire.vitals(gate.platform)
    fields = {"content-type": "application/json", "accept": _BOTH, "mcp-session-id": session}
    batch = [_call(number, "never", f"t{number}") for number in range(10)]
    async with acme.streaming(fields, json.dumps(batch).encode()) as stream:
        await stream.message()
    assert (await wire.settled(gate.platform, before)).in_flight <= before.in_flight
    heard = wire.said((await _send(acme, session, _call(1, "heard"))).json())
    assert [one for one in heard if one["method"] == "notifications/cancelled"] == []
    await acme.end(session)
