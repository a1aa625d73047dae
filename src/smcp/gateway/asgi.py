"""The thin adapter between ASGI and the pipeline. Nothing else in the gateway knows ASGI."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from smcp.gateway import exchange, pipeline
from smcp.kernel import errors, ids
from smcp.protocol import headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class App:
    """The ASGI application for `/t/…`."""

    def __init__(self, parts: exchange.Parts) -> None:
        self._parts = parts
        self._live: set[exchange.Exchange] = set()
        self._idle = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        x = exchange.Exchange(_Request(scope, receive), _Response(receive, send), ids.new("req"))
        self._live.add(x)
        try:
            await pipeline.run(self._parts, x)
        finally:
            self._live.discard(x)
            if not self._live:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """End what never ends by itself (streams that listen), then give calls up to `seconds` to be answered."""
        self._parts.sessions.end_streams()
        for x in self._live:
            if x.call is not None and x.call.listens:
                x.call.fail(errors.Unavailable("The platform is stopping."))
        if self._live:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()


class _Request:
    """`exchange.Incoming` over an ASGI scope."""

    __slots__ = ("_receive", "_scope", "fields")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self.fields = headers.Fields(scope["headers"])

    @property
    def method(self) -> str:
        return str(self._scope["method"])

    @property
    def path(self) -> bytes:
        raw: bytes = self._scope["raw_path"]
        # A query means nothing here, and what means nothing may not hide anything either.
        return raw + b"?" if self._scope["query_string"] else raw

    @property
    def address(self) -> str:
        client = self._scope.get("client")
        return str(client[0]) if client else ""

    async def body(self, limit: int) -> bytes:
        told = self.fields.only("content-length")
        if told is not None and told.isdigit() and int(told) > limit:
            raise errors.TooLarge(f"The body is larger than {limit} bytes.")
        message = await self._receive()
        chunk: bytes = message.get("body", b"")
        if not message.get("more_body", False) and message["type"] == "http.request":
            if len(chunk) > limit:
                raise errors.TooLarge(f"The body is larger than {limit} bytes.")
            return chunk
        return await self._rest(message, limit)

    async def _rest(self, message: MutableMapping[str, Any], limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise exchange.ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise errors.TooLarge(f"The body is larger than {limit} bytes.")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
            message = await self._receive()


class _Response:
    """`exchange.Outgoing` over ASGI."""

    __slots__ = ("_receive", "_send")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def start(self, status: int, fields: list[exchange.Header]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": fields})

    async def send(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def gone(self) -> None:
        while True:
            if (await self._receive())["type"] == "http.disconnect":
                return
