"""A modern server wants to know something of a legacy client: it is asked on the stream of its call, and goes on."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from support import gates, wire
from support.builds import Builds
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

ABLE: Final[wire.Json] = {
    "sampling": {"tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
}
FORM: Final[wire.Json] = {
    "method": "elicitation/create",
    "params": {"mode": "form", "message": "Who?", "requestedSchema": {"type": "object", "properties": {}}},
}
MODEL: Final[wire.Json] = {
    "method": "sampling/createMessage",
    "params": {"messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}], "maxTokens": 9},
}
ROOTS: Final[wire.Json] = {"method": "roots/list"}
SPOKEN: Final[wire.Json] = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hello"}}

Make = Callable[[Endpoint], wire.Caller]


@pytest.fixture(scope="module")
def asker(gate: Gate) -> Endpoint:
    """Acme's server that knows no handshake, with copies that everybody shares."""
    manifest = f'env = {{ ERAS = "modern", LOOK = "1" }}\n{gates.ALONE}'
    return Endpoint(gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "asker", gate.admin, manifest), gate.acme.key)


def wants(state: str | None = "s", **requests: wire.Json) -> wire.Json:
    """The arguments of a call that first wants `requests` answered."""
    asked: wire.Json = {"inputRequests": requests} if requests else {}
    return asked if state is None else {**asked, "requestState": state}


async def respond(client: wire.Caller, session: str, id_: Any, **told: Any) -> int:
    """POST an answer to a question; the status."""
    body = json.dumps({"jsonrpc": "2.0", "id": id_, **told}).encode()
    return (await client.send(wire.legacy(session, "x")[0], body)).status_code


async def question(stream: wire.Stream) -> wire.Json:
    """The next request on a stream."""
    while True:
        message = await stream.message()
        if "method" in message and "id" in message:
            return message
        assert "method" in message, message


async def answer(stream: wire.Stream) -> wire.Json:
    """The response at the end of a stream."""
    while True:
        message = await stream.message()
        if "method" not in message:
            return message


@pytest.mark.requirement("gateway:asking:capabilities")
@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("2025-11-25", {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {}}),
        ("2025-06-18", {"sampling": {}, "elicitation": {}, "roots": {}}),
        ("2025-03-26", {"sampling": {}, "roots": {}}),
    ],
)
async def test_a_server_is_told_what_the_session_can_do_and_no_more(
    asker: Endpoint, caller: Make, version: str, told: wire.Json
) -> None:
    client = caller(asker)
    session = await client.open(version, {**ABLE, "tasks": {"list": {}}, "sampling": {"tools": {}, "other": {}}})
    call = wire.call("meta")
    call["_meta"] = {"io.modelcontextprotocol/clientCapabilities": {"roots": {}, "everything": {}}}
    answer = await client.legacy(session, "tools/call", call, mcp_protocol_version=version)
    assert wire.said(answer.json())["io.modelcontextprotocol/clientCapabilities"] == told
    await client.legacy(session, "logging/setLevel", {"level": "debug"}, mcp_protocol_version=version)
    answer = await client.legacy(session, "tools/call", call, mcp_protocol_version=version)
    assert wire.said(answer.json())["io.modelcontextprotocol/clientCapabilities"] == told


@pytest.mark.requirement("gateway:asking:questions")
async def test_all_questions_of_an_answer_are_asked_at_once_and_the_call_goes_on_with_what_came(
    asker: Endpoint, caller: Make
) -> None:
    client = caller(asker)
    session = await client.open(capabilities=ABLE)
    state = 'opaque "\\u00e9\u00e9" \\/ {}'
    params = wire.call("input", wants=wants(state, who=FORM, model=MODEL, roots=ROOTS))
    async with client.streaming(*wire.legacy(session, "tools/call", params, 5)) as stream:
        asked = [await question(stream) for _ in range(3)]
        ids = {one["method"]: one["id"] for one in asked}
        assert len(set(ids.values())) == 3
        assert all(isinstance(one, str) and len(one) >= 22 for one in ids.values())
        assert {one["method"]: one.get("params") for one in asked} == {
            one["method"]: one.get("params") for one in (FORM, MODEL, ROOTS)
        }
        roots = {"roots": [{"uri": "file:///a"}]}
        told = {"roots/list": roots, "elicitation/create": {"action": "decline"}, "sampling/createMessage": SPOKEN}
        for method, result in told.items():
            assert await respond(client, session, ids[method], result=result) == 202
        result = await answer(stream)
    assert result["id"] == 5
    assert wire.said(result) == {
        "inputResponses": {"who": {"action": "decline"}, "model": SPOKEN, "roots": roots},
        "requestState": state,
    }


@pytest.mark.requirement("gateway:asking:rounds")
async def test_a_server_may_ask_again_or_only_want_to_be_asked_again_and_not_for_ever(
    asker: Endpoint, caller: Make
) -> None:
    client = caller(asker)
    session = await client.open(capabilities=ABLE)
    later = await client.legacy(session, "tools/call", wire.call("input", wants=wants("later"), again=2))
    assert wire.said(wire.messages(later)[-1]) == {"requestState": "later++"}
    for rounds, ends in ((2, "result"), (99, "error")):
        params = wire.call("input", wants=wants("s", roots=ROOTS), again=rounds)
        seen: set[str] = set()
        async with client.streaming(*wire.legacy(session, "tools/call", params)) as stream:
            while True:
                message = await stream.message()
                if "method" not in message:
                    break
                seen.add(message["id"])
                await respond(client, session, message["id"], result={"roots": []})
        assert ends in message, message
        assert len(seen) == min(rounds + 1, 16)


@pytest.mark.requirement("gateway:asking:refused")
async def test_a_clients_error_or_a_wrong_answer_ends_the_call_and_open_questions_with_it(
    asker: Endpoint, caller: Make
) -> None:
    client = caller(asker)
    session = await client.open(capabilities=ABLE)
    for told, status, code in (
        ({"error": {"code": -1, "message": "User rejected sampling"}}, 202, -1),
        ({"result": {"role": "nobody"}}, 400, -32602),
    ):
        params = wire.call("input", wants=wants("s", model=MODEL, roots=ROOTS))
        async with client.streaming(*wire.legacy(session, "tools/call", params, 6)) as stream:
            asked = {one["method"]: one["id"] for one in [await question(stream) for _ in range(2)]}
            assert await respond(client, session, asked["sampling/createMessage"], **told) == status
            withdrawn = await stream.message()
            assert withdrawn["method"] == "notifications/cancelled"
            assert withdrawn["params"]["requestId"] == asked["roots/list"]
            ended = await answer(stream)
            assert (ended["id"], ended["error"]["code"]) == (6, code)
            assert "sampling/createMessage" in ended["error"]["message"]
            # What is open no more takes no answer.
            assert await respond(client, session, asked["roots/list"], result={"roots": []}) == 202
    assert (await client.act("echo", session, text="still here"))["text"] == "still here"


@pytest.mark.requirement("gateway:asking:undeclared")
@pytest.mark.parametrize(
    ("requests", "named"),
    [
        ({"a": FORM}, "elicitation"),
        ({"a": {**FORM, "params": {**FORM["params"], "mode": "url", "url": "https://a.example"}}}, "elicitation"),
        ({"a": {**MODEL, "params": {**MODEL["params"], "tools": []}}}, "sampling.tools"),
        ({f"a{number}": ROOTS for number in range(17)}, "16"),
    ],
)
async def test_a_server_may_not_ask_what_the_client_did_not_declare(
    asker: Endpoint, caller: Make, requests: wire.Json, named: str
) -> None:
    client = caller(asker)
    session = await client.open(capabilities={"roots": {}, "sampling": {}})
    params = wire.call("input", wants={"inputRequests": requests})
    [ended] = wire.messages(await client.legacy(session, "tools/call", params))
    assert ended["error"]["code"] == -32000
    assert named in ended["error"]["message"]


@pytest.mark.requirement("gateway:asking:foreign")
async def test_only_the_session_that_was_asked_can_answer_and_only_once(
    asker: Endpoint, gate: Gate, caller: Make
) -> None:
    client, colleague = caller(asker), caller(Endpoint(asker.url, gate.colleague.key))
    session, sibling, foreign = await client.open(capabilities=ABLE), await client.open(), await colleague.open()
    params = wire.call("input", wants=wants("s", roots=ROOTS))
    async with client.streaming(*wire.legacy(session, "tools/call", params)) as stream:
        id_ = (await question(stream))["id"]
        wrong = {"roots": [{"uri": "file:///forged"}]}
        assert await respond(client, sibling, id_, result=wrong) == 202
        assert await respond(colleague, foreign, id_, result=wrong) == 202
        assert await respond(colleague, session, id_, result=wrong) == 404
        for forged in (1, "1", id_[:-1], id_ + "x"):
            assert await respond(client, session, forged, result=wrong) == 202
        assert await respond(client, session, id_, result={"roots": []}) == 202
        assert await respond(client, session, id_, result=wrong) == 202
        assert wire.said(await answer(stream))["inputResponses"] == {"roots": {"roots": []}}


@pytest.mark.requirement("gateway:asking:cancel")
@pytest.mark.parametrize("by", ["cancelled", "deleted"])
async def test_a_call_that_ends_while_its_question_is_open_takes_the_question_with_it(
    asker: Endpoint, caller: Make, by: str
) -> None:
    client = caller(asker)
    session = await client.open(capabilities=ABLE)
    params = wire.call("input", wants=wants("s", roots=ROOTS))
    async with client.streaming(*wire.legacy(session, "tools/call", params, 8)) as stream:
        id_ = (await question(stream))["id"]
        if by == "cancelled":
            await client.legacy(session, "notifications/cancelled", {"requestId": 8}, id_=None)
        else:
            assert await client.end(session) == 204
        told = [await stream.message()]
        if by != "deleted":
            assert told[0] == {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": id_, "reason": "the call is over"},
            }
        while "method" in told[-1]:
            told.append(await stream.message())
        assert "error" in told[-1]
    if by != "deleted":
        # The server answered the call with its question: there is nothing that it could be told to cancel.
        assert await respond(client, session, id_, result={"roots": []}) == 202
        heard = await client.act("heard", session)
        assert not [one for one in heard if one["method"] == "notifications/cancelled"]


@pytest.mark.requirement("gateway:asking:get")
async def test_a_client_that_takes_no_stream_is_asked_on_its_get_stream(asker: Endpoint, caller: Make) -> None:
    client = caller(asker)
    session = await client.open(capabilities=ABLE)
    async with client.listening(session) as stream:
        params = wire.call("input", wants=wants("s", roots=ROOTS))
        waiting = asyncio.create_task(client.legacy(session, "tools/call", params, accept="application/json"))
        id_ = (await question(stream))["id"]
        assert await respond(client, session, id_, result={"roots": []}) == 202
        async with asyncio.timeout(120):
            assert wire.said((await waiting).json())["inputResponses"] == {"roots": {"roots": []}}


@pytest.mark.requirement("gateway:asking:resumed")
async def test_a_client_that_loses_its_stream_amid_a_question_finds_it_there_again(
    asker: Endpoint, caller: Make
) -> None:
    client = caller(asker)
    session = await client.open(capabilities=ABLE)
    params = wire.call("input", wants=wants("s", roots=ROOTS))
    async with client.streaming(*wire.legacy(session, "tools/call", params, 4)) as stream:
        primed, _ = await stream.event()
    async with client.listening(session, primed) as stream:
        place, asked = await stream.event()
        while not asked:
            place, asked = await stream.event()
        assert asked["method"] == "roots/list"
    # Answered while nobody listens; what comes of it waits behind the question.
    assert await respond(client, session, asked["id"], result={"roots": []}) == 202
    async with client.listening(session, place) as stream:
        result = await answer(stream)
        assert (result["id"], wire.said(result)["inputResponses"]) == (4, {"roots": {"roots": []}})


@pytest.mark.requirement("gateway:asking:died")
async def test_the_answers_go_to_another_copy_when_the_one_that_asked_is_gone(asker: Endpoint, caller: Make) -> None:
    client = caller(asker)
    session, other = await client.open(capabilities=ABLE), await client.open()
    born = (await client.act("echo", other, text="x"))["born"]
    params = wire.call("input", wants=wants("s", roots=ROOTS))
    async with client.streaming(*wire.legacy(session, "tools/call", params)) as stream:
        id_ = (await question(stream))["id"]
        with contextlib.suppress(AssertionError):
            await client.act("exit", other)
        assert await respond(client, session, id_, result={"roots": []}) == 202
        assert wire.said(await answer(stream)) == {"inputResponses": {"roots": {"roots": []}}, "requestState": "s"}
    assert (await client.act("echo", other, text="x"))["born"] != born


@pytest.mark.requirement("gateway:asking:errors")
async def test_a_modern_servers_errors_arrive_in_the_words_of_the_legacy_wire(asker: Endpoint, caller: Make) -> None:
    client = caller(asker)
    session = await client.open(capabilities={})
    lacking: wire.Json = {"code": -32021, "message": "no", "data": {"requiredCapabilities": {"sampling": {}}}}
    [ended] = wire.messages(await client.legacy(session, "tools/call", wire.call("reply", error=lacking)))
    assert ended["error"]["code"] == -32021
    assert "sampling" in ended["error"]["message"]
    assert ended["error"]["data"] == lacking["data"]


@pytest.mark.requirement("gateway:asking:errors")
async def test_a_resource_that_does_not_exist_is_32002_to_a_legacy_client(builds: Builds, caller: Make) -> None:
    client = caller(builds["modern"])
    session = await client.open()
    missing = await client.legacy(session, "resources/read", {"uri": "test://nothing"})
    assert missing.json()["error"]["code"] == -32002
    assert missing.json()["error"]["data"]["uri"] == "test://nothing"
    wrong = await client.legacy(session, "prompts/get", {"name": "nothing"})
    assert wrong.json()["error"]["code"] == -32602
