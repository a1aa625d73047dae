"""Conversations over the lean client: a call needs no task where it waits for nothing, and loses nothing by it."""

import asyncio
import json
from typing import Any, Final

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import calls
from smcp.runtime.drivers import conversation as talks
from smcp.runtime.drivers import deliveries
from support import byhand, conversations
from support.leanly import ask, conversation, over, replied, response

STREAM: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def others() -> set["asyncio.Task[Any]"]:
    """The tasks that run, but for the test's own."""
    return {one for one in asyncio.all_tasks() if one is not asyncio.current_task()}


async def warm(instance: talks.Conversation, server: byhand.ByHand, *, modern: bool = True) -> byhand.Peer:
    """The connection of a call that was answered."""
    number, call = ask(instance, modern=modern)
    peer = await server.peer()
    await peer.answer(replied(response(number)))
    assert (await over(call)).failure is None
    if delivering := others():
        await asyncio.wait(delivering)
    await asyncio.sleep(0)
    return peer


def text(call: calls.Call) -> str:
    """What a tool said."""
    assert call.failure is None, call.failure
    found: Any = json.loads(call.response)
    return found["result"]["content"][0]["text"]


@pytest.mark.requirement("workers:lean:no-task")
async def test_a_call_on_a_kept_connection_has_no_task_and_says_what_its_body_says() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        for turn in range(5):
            number, call = ask(instance, name="äcon")
            assert others() == set()
            found = await peer.answer(replied(response(number, f"said {turn}")))
            assert text(await over(call)) == f"said {turn}"
            assert b"\r\nMCP-Protocol-Version: %b\r\n" % eras.MODERN[-1].encode() in found.head
            assert b"\r\nMcp-Method: tools/call\r\nMcp-Name: =?base64?w6Rjb24=?=\r\n" in found.head
            assert json.loads(found.body)["id"] == number
        assert server.nobody()


@pytest.mark.requirement("workers:lean:no-task")
@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_however_an_answer_comes_it_is_handed_over_once(pieces: int, size: int, chunked: bool) -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance)
        said = "x" * size
        body = response(number, said)
        await peer.request()
        if chunked:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            told = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            told = replied(body)
        step = len(told) // pieces + 1
        for at in range(0, len(told), step):
            await peer.send(told[at : at + step])
            await asyncio.sleep(0)
        assert text(await over(call)) == said
        number, call = ask(instance)
        await peer.answer(replied(response(number, "next")))
        assert text(await over(call)) == "next"


@pytest.mark.requirement("workers:lean:no-task")
async def test_a_stream_is_read_as_it_comes() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance)
        await peer.answer(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
        event = b"data: %b\n\n" % response(number, "streamed")
        await peer.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert text(await over(call)) == "streamed"
        # The response is there: nobody waits for the end of its stream.
        assert await peer.ended()
        number, call = ask(instance)
        whole = replied(b"data: %b\n\n" % response(number, "at once"), "text/event-stream")
        await (await server.peer()).answer(whole)
        assert text(await over(call)) == "at once"


@pytest.mark.requirement("workers:lean:cancelled")
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", STREAM + b"\r\n"])
async def test_a_call_that_is_cancelled_is_hung_up_on(begun: bytes) -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance)
        await peer.answer(begun)
        for _ in range(5):
            await asyncio.sleep(0)
        instance.calls.cancel(number, "not needed", errors.BadRequest(calls.CANCELLED))
        assert await peer.ended()
        assert (await over(call)).failure is not None
        number, call = ask(instance)
        await (await server.peer()).answer(replied(response(number)))
        assert text(await over(call)) == "a"


@pytest.mark.requirement("workers:lean:repeated")
async def test_a_call_that_was_not_read_is_sent_once_more_without_a_word() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance)
        await byhand.readable(peer)
        peer.close()
        await (await server.peer()).answer(replied(response(number, "again")))
        assert text(await over(call)) == "again"


@pytest.mark.requirement("workers:lean:carried-out")
async def test_a_call_that_was_read_fails_and_the_next_one_does_not() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        _, call = ask(instance)
        await peer.request()
        peer.close()
        assert conversations.failure((await over(call)).failure) == "The connection to the hosted server broke."
        number, call = ask(instance)
        await (await server.peer()).answer(replied(response(number)))
        assert text(await over(call)) == "a"


@pytest.mark.requirement("workers:lean:told")
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (replied(b"not json"), "The hosted server's answer is not valid"),
        (replied(b"[]"), "The hosted server's answer is not valid"),
        (replied(response(999)), "The hosted server's answer is not valid"),
        (replied(b'{"jsonrpc":"2.0","method":"notifications/a"}'), "The hosted server ended its answer before the"),
        (replied(b"hello", "text/html"), "The hosted server's answer is neither JSON nor an event stream."),
        (replied(b"", "text/plain", "500 No"), "The hosted server failed with HTTP status 500."),
        (replied(b"", "text/plain", "404 No"), "The hosted server answered with HTTP status 404."),
        (b"HTTP/1.1 307 No\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n", "The hosted server redirects (307)"),
        (b"HTTP/2 200 OK\r\n\r\n", "The hosted server does not speak HTTP as it should."),
    ],
)
async def test_what_is_wrong_with_an_answer_is_told_to_who_waits(answer: bytes, why: str) -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance)
        await peer.answer(answer)
        assert conversations.failure((await over(call)).failure).startswith(why)
        assert not instance.calls.waits(number)
        assert instance.alive


@pytest.mark.requirement("workers:lean:no-task")
async def test_a_server_that_misses_a_field_is_asked_again_with_it() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance, "mirrored")
        error = b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32020,"message":"a header is missing"}}' % number
        await peer.answer(replied(error, status="400 Bad Request"))
        schema = {"type": "object", "properties": {"text": {"type": "string", "x-mcp-header": "Text"}}}
        listed = {"jsonrpc": "2.0", "id": "smcp-list-0", "result": {"tools": [{"name": "echo", "inputSchema": schema}]}}
        assert b'"tools/list"' in (await peer.answer(replied(jsonrpc.encode(listed)))).body
        assert b"\r\nMcp-Param-Text: mirrored\r\n" in (await peer.answer(replied(response(number)))).head
        assert text(await over(call)) == "a"
        number, call = ask(instance, "known now")
        assert b"\r\nMcp-Param-Text: known now\r\n" in (await peer.answer(replied(response(number)))).head
        assert text(await over(call)) == "a"


@pytest.mark.requirement("workers:lean:held")
async def test_what_was_said_waits_while_its_reader_holds_the_server_back() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        number, call = ask(instance)
        instance.brake(True)
        await peer.answer(replied(response(number)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not call.done
        instance.brake(False)
        assert text(await over(call)) == "a"


@pytest.mark.requirement("workers:lean:at-once")
async def test_more_calls_than_there_may_be_at_once_wait_for_each_other_and_all_are_answered() -> None:
    async with conversation() as (instance, server):
        await warm(instance, server)

        async def serve(peer: byhand.Peer) -> None:
            try:
                while True:
                    found = json.loads((await peer.request()).body)
                    await peer.send(replied(response(found["id"], found["params"]["arguments"]["text"])))
            except (EOFError, ConnectionError):
                pass

        most = deliveries.AT_ONCE + deliveries.WAITING
        asked = [ask(instance, f"{number}") for number in range(most)]
        with pytest.raises(errors.Unavailable, match="Too many messages to the hosted server are under way"):
            ask(instance)
        serving = [asyncio.create_task(serve(one)) for one in server.peers]

        async def accept() -> None:
            while True:
                serving.append(asyncio.create_task(serve(await server.peer())))

        accepting = asyncio.create_task(accept())
        for number, (_, call) in enumerate(asked):
            assert text(await over(call)) == f"{number}"
        assert len(server.peers) <= deliveries.AT_ONCE
        for _ in range(3):
            await asyncio.sleep(0)
        # Nothing is left of them: as many may be asked again.
        again = [ask(instance, "again") for _ in range(most)]
        for _, call in again:
            assert text(await over(call)) == "again"
        accepting.cancel()
        await instance.stop("over")
        await asyncio.gather(accepting, *serving, return_exceptions=True)


@pytest.mark.requirement("workers:lean:cancelled")
async def test_the_end_of_a_conversation_hangs_up_on_all_that_is_under_way() -> None:
    async with conversation() as (instance, server):
        peer = await warm(instance, server)
        _, call = ask(instance)
        await peer.request()
        await instance.stop("it is over")
        assert (await over(call)).failure is not None
        assert await peer.ended()


@pytest.mark.requirement("workers:lean:session")
async def test_calls_that_lost_the_same_session_begin_one_new_session_together() -> None:
    async with conversation(modern=False) as (instance, server):
        hello = jsonrpc.encode({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}})
        number, call = instance.calls.ask("initialize", hello)
        greeting = b'{"jsonrpc":"2.0","id":%d,"result":{"protocolVersion":"2025-11-25"}}'

        def greeted(number: int, session: bytes) -> bytes:
            return replied(greeting % number).replace(b"\r\n\r\n", b"\r\nMcp-Session-Id: %b\r\n\r\n" % session, 1)

        peer = await server.peer()
        await peer.answer(greeted(number, b"one"))
        assert (await over(call)).failure is None
        first, second = ask(instance, "1", modern=False), ask(instance, "2", modern=False)
        other = await server.peer()
        gone = replied(b"", "text/plain", "404 Not Found")
        for one in (peer, other):
            assert b"\r\nMcp-Session-Id: one\r\n" in (await one.request()).head
        await peer.send(gone)
        assert b'"initialize"' in (await peer.answer(greeted(0, b"two"))).body
        found = await peer.answer(replied(response(first[0], "1")))
        assert b"\r\nMcp-Session-Id: two\r\n" in found.head
        assert text(await over(first[1])) == "1"
        await other.send(gone)
        # Not the session that there is by now: only the one that the call was made in is lost.
        found = await other.answer(replied(response(second[0], "2")))
        assert b"\r\nMcp-Session-Id: two\r\n" in found.head
        assert text(await over(second[1])) == "2"
