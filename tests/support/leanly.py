"""Requests of the lean client to a server by hand."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import budgets, calls
from smcp.runtime.drivers import conversation as talks
from smcp.runtime.drivers import remote
from smcp.upstream import lean, mirrors, places, transport
from support import byhand, conversations

PLACE: Final = places.Place("http", "localhost", 80, "/mcp")
JSON: Final = [("Content-Type", "application/json")]
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PLAIN: Final = HEAD + b"Content-Length: 2\r\n\r\n{}"


class Called:
    """What came of a request."""

    def __init__(self, answer: transport.Answer, body: bytes) -> None:
        self.status, self.media, self.body = answer.status, answer.media, body
        self.field = answer.field


@contextlib.asynccontextmanager
async def both(**wishes: Any) -> AsyncGenerator[tuple[lean.Client, byhand.ByHand]]:
    """A client and its server."""
    async with byhand.served(wishes.pop("backlog", 128)) as server:
        client = lean.Client(server.path, **wishes)
        try:
            yield client, server
        finally:
            await client.close()


async def call(client: lean.Client, method: str = "POST", body: bytes = b"{}", **wishes: Any) -> Called:
    """One request, whole."""
    async with client.send(method, PLACE, JSON, body, **wishes) as answer:
        ready = answer.ready()
        return Called(answer, await answer.read(1 << 24) if ready is None else ready)


def calling(client: lean.Client, *told: Any, **wishes: Any) -> "asyncio.Task[Called]":
    """The same, beside the test."""
    return asyncio.create_task(call(client, *told, **wishes))


async def done(task: "asyncio.Task[Called]") -> Called:
    """Its result."""
    async with asyncio.timeout(byhand.WAIT_S):
        return await task


async def failed(task: "asyncio.Task[Called]", kind: type[errors.SmcpError], text: str) -> None:
    """It fails in this way."""
    with pytest.raises(kind, match=text):
        await done(task)


async def warm(client: lean.Client, server: byhand.ByHand) -> byhand.Peer:
    """A connection that was used and is kept."""
    task = calling(client)
    peer = await server.peer()
    await peer.answer(PLAIN)
    await done(task)
    return peer


@contextlib.asynccontextmanager
async def conversation(
    *, modern: bool = True, **wishes: Any
) -> AsyncGenerator[tuple[talks.Conversation, byhand.ByHand]]:
    """A conversation with a server by hand, over the lean client."""
    async with byhand.served() as server:
        instance = talks.Conversation(
            conversations.limits(),
            lambda _: None,
            lambda _: None,
            remote.Shared(lean.Client(server.path, **wishes)),
            modern=modern,
            budget=budgets.Budget(1 << 26),
        )
        instance.choose("streamable", PLACE, mirrors.Mirrors())
        try:
            yield instance, server
        finally:
            await instance.stop("the test is over")


def ask(
    instance: talks.Conversation, text: str = "a", *, name: str = "echo", modern: bool = True
) -> tuple[int, calls.Call]:
    """Call a tool; the request's number, and the call."""
    meta = {"_meta": conversations.meta()} if modern else {}
    return instance.calls.ask("tools/call", jsonrpc.encode({"name": name, "arguments": {"text": text}, **meta}))


def response(number: int, text: str = "a") -> bytes:
    """What a tool answers."""
    return b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%b"}]}}' % (number, text.encode())


def replied(body: bytes, media: str = "application/json", status: str = "200 OK") -> bytes:
    """An answer with a body."""
    fields = f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    return fields.encode() + body


async def over(call: calls.Call) -> calls.Call:
    """The call, when it is over."""
    async with asyncio.timeout(byhand.WAIT_S):
        await call.completed()
    return call
