"""Answers on their way back, in both eras: streams, progress, questions, cancellations, slow and vanishing readers."""

import asyncio
from collections.abc import Callable

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


@pytest.mark.requirement("gateway:streams:form")
async def test_an_answer_is_plain_unless_something_comes_before_it_or_the_client_takes_streams_only(
    acme: wire.Caller,
) -> None:
    session = await acme.open()
    both = "application/json, text/event-stream"
    for accept, steps, kind in [
        (both, 0, "application/json"),
        (both, 2, "text/event-stream"),
        ("text/event-stream", 0, "text/event-stream"),
        ("application/json", 2, "application/json"),
        ("*/*", 0, "application/json"),
        ("application/*", 0, "application/json"),
        ("Application/JSON;q=0.5", 0, "application/json"),
        ("text/*", 2, "text/event-stream"),
    ]:
        params = wire.call("steps", token="t", count=steps)
        for answer in (
            await acme.modern("tools/call", params, accept=accept),
            await acme.legacy(session, "tools/call", params, accept=accept),
        ):
            assert answer.headers["content-type"] == kind, (accept, steps)
            found = wire.messages(answer)
            assert wire.said(found[-1]) == "done"
            assert len(found) == 1 + (steps if kind == "text/event-stream" else 0)
    for accept in ("text/html", "image/png", "application/xml;q=1"):
        assert (await acme.modern("tools/list", accept=accept)).status_code == 406


@pytest.mark.requirement("gateway:streams:form")
async def test_proxies_are_told_to_leave_a_stream_alone(acme: wire.Caller) -> None:
    answer = await acme.modern("tools/call", wire.call("steps", token=1, count=1))
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.requirement("gateway:streams:asks")
async def test_a_legacy_servers_question_reaches_the_client_and_its_answer_the_server(acme: wire.Caller) -> None:
    session = await acme.open()
    async with acme.streaming(*wire.legacy(session, "tools/call", wire.call("ask"))) as stream:
        question = await stream.message()
        assert question["method"] == "roots/list"
        for id_ in ("unasked", question["id"], question["id"]):  # twice: the second changes nothing
            body = b'{"jsonrpc":"2.0","id":"%b","result":{"roots":[{"uri":"file:///mine"}]}}' % id_.encode()
            fields, _ = wire.legacy(session, "ping")
            assert (await acme.send(fields, body)).status_code == 202
        assert wire.said(await stream.message()) == {"answer": {"roots": [{"uri": "file:///mine"}]}}


@pytest.mark.requirement("gateway:streams:cancel")
async def test_a_legacy_client_that_hangs_up_does_not_cancel_but_may_say_so(acme: wire.Caller) -> None:
    session = await acme.open()
    async with acme.streaming(*wire.legacy(session, "tools/call", wire.call("never", token="t"), 77)) as stream:
        assert (await stream.message())["method"] == "notifications/progress"
    await asyncio.sleep(0.5)  # time for a cancellation that must not come
    methods = [note["method"] for note in await acme.act("heard", session)]
    assert "notifications/cancelled" not in methods
    cancelled = await acme.legacy(session, "notifications/cancelled", {"requestId": 77, "reason": "enough"}, id_=None)
    assert cancelled.status_code == 202
    last = (await acme.act("heard", session))[-1]
    assert last["method"] == "notifications/cancelled"
    assert last["params"]["requestId"] != 77  # the server knows the call by a number of the platform's
    assert last["params"]["reason"] == "enough"


@pytest.mark.requirement("gateway:streams:cancel")
async def test_a_cancelled_legacy_call_is_over_though_its_server_never_answers(gate: Gate, acme: wire.Caller) -> None:
    session = await acme.open()
    async with acme.streaming(*wire.legacy(session, "tools/call", wire.call("never", token="t"), 78)) as stream:
        assert (await stream.message())["method"] == "notifications/progress"
        cancelled = await acme.legacy(session, "notifications/cancelled", {"requestId": 78}, id_=None)
        assert cancelled.status_code == 202
        ended = await stream.message()
        assert (ended["id"], ended["error"]["message"]) == (78, "The client cancelled this request.")
        with pytest.raises(StopAsyncIteration):
            await stream.message()
    assert (await wire.settled(gate.platform, wire.vitals(gate.platform)._replace(in_flight=0))).in_flight == 0


@pytest.mark.requirement("gateway:streams:slow-reader")
async def test_a_reader_that_does_not_read_costs_bounded_memory_and_its_own_call_only(
    gate: Gate, acme: wire.Caller
) -> None:
    await acme.act("echo")
    held = _memory(wire.vitals(gate.platform).pid)
    host, port = wire.address(gate.platform.base_url)
    fields, body = wire.modern("tools/call", wire.call("steps", token=1, count=4000, size=50_000))
    sent = [("host", f"{host}:{port}"), *{**acme.bearer, **fields}.items(), ("content-length", str(len(body)))]
    reader, writer = await asyncio.open_connection(host, port, limit=4096)
    writer.write(wire.request("POST", "/t/acme/tool/mcp", sent, body))
    await writer.drain()
    most = 0
    for _ in range(30):  # 200 MB are on their way; the others are served meanwhile
        await asyncio.wait_for(acme.modern("tools/list"), 120)
        most = max(most, _memory(wire.vitals(gate.platform).pid) - held)
        await asyncio.sleep(0.05)
    data = b""
    while chunk := await reader.read(1 << 20):
        data += chunk
    writer.close()
    assert most < 64 << 20
    assert b"read too slowly" in data
    assert (await acme.act("echo", text="fine"))["text"] == "fine"


def _memory(pid: int) -> int:
    """Bytes of memory that a process holds."""
    with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * 4096
