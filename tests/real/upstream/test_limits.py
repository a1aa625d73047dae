"""What must not hold up a call to a remote server, nor end it wrongly: listeners, odd answers, faults."""

import asyncio
from collections.abc import Awaitable
from typing import Final

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import calls, driver, peer
from smcp.upstream import modern, wire
from support import conversations
from support.upstreams import Asked, Rude, answer, chunk, endpoint, polite

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_BODY: Final = b"\r\n\r\n"
_LISTENERS: Final = 140
"""More than the calls that may be under way at once."""


def _discover(one: Asked) -> bytes:
    return one.result({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"})


@pytest.mark.requirement("upstream:bounds:listeners")
async def test_those_who_only_listen_hold_up_no_call() -> None:
    heard = asyncio.Semaphore(0)
    ended = asyncio.Event()

    async def forever(_one: Asked) -> bytes:
        heard.release()
        await ended.wait()
        return b""

    def do(one: Asked) -> bytes | Awaitable[bytes]:
        if one.method == "subscriptions/listen":
            return forever(one)
        return _discover(one) if one.method == "server/discover" else one.result({"tools": []})

    async with Rude(do).open() as rude, conversations.far() as far:
        instance = await far.start(conversations.spec(rude.url), modern=True)
        client = peer.Peer(instance, modern=True, timeout_s=conversations.WAIT_S)
        await client.introduce()
        params = jsonrpc.encode({"_meta": conversations.meta(), "notifications": {"toolsListChanged": True}})
        listening = [instance.calls.ask("subscriptions/listen", params) for _ in range(_LISTENERS)]
        async with asyncio.timeout(conversations.WAIT_S):
            for _ in listening:
                await heard.acquire()
        assert await client.tools() == []
        assert not any(call.done for _, call in listening)
        ended.set()


@pytest.mark.requirement("upstream:rude:other-answer")
@pytest.mark.parametrize("id_", [999, None, "1"])
async def test_a_response_to_another_request_is_the_servers_fault_and_nobodys_answer(id_: object) -> None:
    def do(one: Asked) -> bytes:
        if one.method == "tools/list":
            return answer(200, {"jsonrpc": "2.0", "id": id_, "result": {"tools": []}})
        return _discover(one)

    async with Rude(do).open() as rude, conversations.far() as far:
        instance = await far.start(conversations.spec(rude.url), modern=True)
        client = peer.Peer(instance, modern=True, timeout_s=conversations.WAIT_S)
        await client.introduce()
        with pytest.raises(errors.ServerInvalid):
            await client.tools()


@pytest.mark.requirement("upstream:fault:told")
async def test_a_fault_of_the_platforms_own_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def faulty(_self: modern.Modern, sent: wire.Sent) -> None:
        raise ZeroDivisionError(sent.method)

    async with Rude(_discover).open() as rude, conversations.far() as far:
        instance: driver.Instance = await far.start(conversations.spec(rude.url), modern=True)
        await peer.Peer(instance, modern=True, timeout_s=conversations.WAIT_S).introduce()
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context.get("exception")))
        monkeypatch.setattr(modern.Modern, "post", faulty)
        _, call = instance.calls.ask("tools/list", jsonrpc.encode({"_meta": conversations.meta()}))
        async with asyncio.timeout(conversations.WAIT_S):
            await call.completed()
        assert isinstance(call, calls.Call)
        assert isinstance(call.failure, errors.ServerFailed)
        assert "ZeroDivision" not in str(call.failure)


@pytest.mark.requirement("upstream:auto:older")
async def test_an_older_server_may_answer_before_it_has_taken_the_message() -> None:
    """Its answer comes by the stream; what follows it must not go the newer way meanwhile."""
    streams: list[Asked] = []
    followed = asyncio.Event()

    async def first(one: Asked) -> bytes:
        streams[0].say(chunk(f"data: {polite(one).partition(_BODY)[2].decode()}\n\n"))
        await followed.wait()
        return answer(202)

    def do(one: Asked) -> bytes | Awaitable[bytes]:
        if one.verb == "GET":
            streams.append(one)
            return endpoint("/messages")
        if one.target != "/messages":
            return answer(405)
        if one.method == "initialize":
            return first(one)
        followed.set()
        if "id" in one.message:
            streams[0].say(chunk(f"data: {polite(one).partition(_BODY)[2].decode()}\n\n"))
        return answer(202)

    async with Rude(do).open() as rude, conversations.far() as far:
        instance = await far.start(conversations.spec(rude.url))
        client = peer.Peer(instance, modern=False, timeout_s=conversations.WAIT_S)
        await client.introduce()
        assert await client.tools() == []
        assert instance.wire == "sse"
        assert [one.target for one in rude.asked if one.verb == "POST"] == ["/mcp", *["/messages"] * 3]
