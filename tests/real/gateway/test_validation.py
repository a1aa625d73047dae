"""What is not valid, in both directions: a clear error that names the place, and everybody lives on."""

import asyncio
import time
from typing import Any

import pytest

from support import wire
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_WRONG = {"content": [{"type": "text", "text": 3}]}


def _shape(result: Any = None, **arguments: Any) -> wire.Json:
    return {"name": "shape", "arguments": {"act": "reply", "result": result, **arguments}}


async def _logged(gate: Gate, *texts: str) -> bool:
    """Whether the server's log comes to hold all of `texts`; what a copy writes is read in the platform's own time."""
    deadline = time.monotonic() + 60
    while True:
        log = await asyncio.to_thread(gate.platform.smcp, "server", "logs", "acme/tool", key=gate.admin, text=True)
        if all(text in log for text in texts) or time.monotonic() > deadline:
            return all(text in log for text in texts)


async def _opened(acme: wire.Caller, version: str) -> str:
    answer = await acme.legacy(None, "initialize", wire.hello(version))
    assert answer.status_code == 200
    return str(answer.headers["mcp-session-id"])


@pytest.mark.requirement("validation:client:params")
async def test_params_that_are_not_valid_are_named(acme: wire.Caller) -> None:
    answer = await acme.modern("tools/call", {"name": "do", "arguments": []})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602
    assert "/arguments: " in answer.json()["error"]["message"]
    refused = await acme.legacy(None, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})
    assert refused.status_code == 200
    assert "mcp-session-id" not in refused.headers
    assert "/clientInfo: " in refused.json()["error"]["message"]
    session = await acme.open()
    answer = await acme.legacy(session, "resources/read", {"uri": 3})
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32602)
    assert "/uri: " in answer.json()["error"]["message"]
    notice = await acme.legacy(session, "notifications/progress", {"progress": 1}, id_=None)
    assert (notice.status_code, notice.json()["id"]) == (400, None)
    assert (await acme.act("echo", session, text="on"))["text"] == "on"


@pytest.mark.requirement("validation:client:arguments")
async def test_arguments_that_do_not_fit_are_told_to_the_model(acme: wire.Caller) -> None:
    await acme.modern("tools/list")  # after a notice that they changed, tools are known again from a list
    answer = await acme.modern("tools/call", _shape(n="hunter2"))
    result = answer.json()["result"]
    assert (answer.status_code, result["isError"], result["resultType"]) == (200, True, "complete")
    assert "/arguments/n: " in result["content"][0]["text"]
    assert "hunter2" not in answer.text
    streamed = await acme.modern("tools/call", _shape(n="x"), accept="text/event-stream")
    assert wire.messages(streamed)[-1]["result"]["isError"]
    session = await _opened(acme, "2025-11-25")
    assert (await acme.legacy(session, "tools/call", _shape(n="x"))).json()["result"]["isError"]
    await acme.end(session)
    session = await _opened(acme, "2025-06-18")
    answer = await acme.legacy(session, "tools/call", _shape(n="x"), mcp_protocol_version="2025-06-18")
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32602)
    await acme.end(session)


@pytest.mark.requirement("validation:server:results")
async def test_a_wrong_result_is_a_clear_error_and_a_line_and_the_copy_lives_on(gate: Gate, acme: wire.Caller) -> None:
    born = (await acme.act("echo"))["born"]
    session = await acme.open()
    for answer in (
        await acme.modern("tools/call", wire.call("reply", result=_WRONG)),
        await acme.legacy(session, "tools/call", wire.call("reply", result=_WRONG)),
    ):
        assert answer.status_code == 200
        assert answer.json()["error"]["code"] == -32000
        assert "/content/0/text: " in answer.json()["error"]["message"]
    assert (await acme.act("echo"))["born"] == born
    told = "its answer to tools/call of 'do' is not valid for MCP 2025-11-25: /content/0/text: "
    assert await _logged(gate, told)


@pytest.mark.requirement("validation:server:output")
async def test_a_structured_result_has_to_fit(acme: wire.Caller) -> None:
    await acme.modern("tools/list")  # after a notice that they changed, tools are known again from a list
    right = await acme.modern("tools/call", _shape({"content": [], "structuredContent": {"n": 1}}, n=1))
    assert right.json()["result"]["structuredContent"] == {"n": 1}
    wrong = await acme.modern("tools/call", _shape({"content": [], "structuredContent": {"n": "x"}}, n=1))
    assert "/structuredContent/n: " in wrong.json()["error"]["message"]
    missing = await acme.modern("tools/call", _shape({"content": []}, n=1))
    assert "/structuredContent: is missing" in missing.json()["error"]["message"]


@pytest.mark.requirement("validation:server:notices")
@pytest.mark.requirement("validation:server:requests")
async def test_wrong_notices_and_questions_do_not_reach_the_client(gate: Gate, acme: wire.Caller) -> None:
    session = await acme.open()
    before: list[wire.Json] = [
        {"method": "notifications/message", "params": {"level": "loud", "data": 1}},
        {"id": "q", "method": "sampling/createMessage", "params": {}},
        {"method": "notifications/message", "params": {"level": "info", "data": "right"}},
    ]
    result = {"content": [{"type": "text", "text": "1"}]}
    answer = await acme.legacy(session, "tools/call", wire.call("reply", before=before, result=result))
    assert [one.get("method", "answer") for one in wire.messages(answer)] == ["notifications/message", "answer"]
    dropped = "dropped notifications/message, which is not valid for MCP 2025-11-25: /level: "
    assert await _logged(gate, dropped, "refused its sampling/createMessage, which is not valid for MCP 2025-11-25: /")


@pytest.mark.requirement("validation:client:answers")
async def test_a_clients_wrong_answer_is_refused_and_the_server_hears_of_it(acme: wire.Caller) -> None:
    session = await acme.open()
    async with acme.streaming(*wire.legacy(session, "tools/call", wire.call("ask"))) as stream:
        question = await stream.message()
        fields, _ = wire.legacy(session, "ping")
        refused = await acme.send(
            fields, b'{"jsonrpc":"2.0","id":"%b","result":{"roots":[1]}}' % question["id"].encode()
        )
        assert (refused.status_code, refused.json()["id"]) == (400, None)
        assert "/roots/0: " in refused.json()["error"]["message"]
        assert wire.said(await stream.message())["answer"]["code"] == -32602


@pytest.mark.requirement("validation:server:unreadable")
async def test_an_answer_with_nan_does_not_leave_its_caller_waiting(acme: wire.Caller) -> None:
    answer = await acme.modern("tools/call", wire.call("nan"))
    assert "not a JSON-RPC message" in answer.json()["error"]["message"]
