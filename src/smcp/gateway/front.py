"""The gateway's front: one request on a connection, between the HTTP parser and the pipeline.

It stands where an ASGI adapter would, and costs a quarter of one: the parser's pieces become an `exchange.Incoming`, an
answer that is whole leaves in one write, and nothing waits on a timer or a task of its own
(docs/decisions/0026-hot-path.md has the figures). `app.http` owns the connection and calls `feed`, `complete` and
`lost`.
"""

import asyncio
import contextlib
import http
from collections.abc import Callable
from typing import Final, Protocol

from smcp.gateway import exchange, pipeline
from smcp.gateway import head as heads
from smcp.kernel import errors, ids
from smcp.protocol import headers

_PIECES: Final = 1024
"""Pieces of a body that are kept apart."""
_READ_AHEAD: Final = 65_536
"""Bytes of a body that are taken before somebody asks for them; then the connection is not read."""

STATUS_LINES: Final = {code.value: b"HTTP/1.1 %d %b\r\n" % (code, code.phrase.encode()) for code in http.HTTPStatus}
_BODILESS: Final = frozenset({204, 304})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Protocol):
    """What a request needs of its connection."""

    @property
    def address(self) -> str:
        """The peer's address, empty where there is none."""
        ...

    @property
    def common(self) -> bytes:
        """Header lines that every answer carries."""
        ...

    def write(self, data: bytes) -> None:
        """Send; never waits."""
        ...

    async def drain(self) -> None:
        """Return when the peer has read enough that more may be sent."""
        ...

    def pause(self) -> None:
        """Read no more of the connection for now."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def over(self, *, close: bool) -> None:
        """The answer is complete."""
        ...


class App:
    """Every request for `/t/…`."""

    def __init__(self, parts: exchange.Parts) -> None:
        self._parts = parts
        self._live: set[exchange.Exchange] = set()
        self._idle = asyncio.Event()

    def begin(self, request: "Request") -> None:
        """Answer one request; never waits."""
        x = exchange.Exchange(request, request, ids.request(), self._over)
        self._live.add(x)
        rest = pipeline.begin(self._parts, x)
        if rest is not None:
            x.task = asyncio.get_running_loop().create_task(rest)

    def _over(self, x: exchange.Exchange) -> None:
        self._live.discard(x)
        x.task = None
        x.out.finish()
        if not self._live:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """End what never ends by itself (streams that listen), then give calls up to `seconds` to be answered."""
        self._parts.sessions.end_streams()
        self._parts.channels.end_all()
        for x in self._live:
            if x.call is not None and x.call.listens:
                x.call.fail(errors.Unavailable("The platform is stopping."))
        if self._live:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()


def known(fields: headers.Fields) -> bool:
    """Has a request with these fields shown a credential that is good?"""
    return isinstance(fields.memo, heads.Head) and fields.memo.recall is not None


class Request:
    """`exchange.Incoming` and `exchange.Outgoing` of one request."""

    __slots__ = (
        "_arrived",
        "_asked",
        "_broken",
        "_chunked",
        "_chunks",
        "_connection",
        "_done",
        "_gone",
        "_held",
        "_keep_alive",
        "_length",
        "_newer",
        "_started",
        "_tell",
        "_waiter",
        "fields",
        "head",
        "method",
        "path",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: bytes,
        fields: headers.Fields,
        length: bytes,
        *,
        newer: bool,
        keep_alive: bool,
        body: bytes | None = None,
    ) -> None:
        """`length` is the Content-Length, empty without one; `newer`: HTTP/1.1, not 1.0; `body`, when it is whole.

        `fields` may be those of an earlier request of this connection, if method, path and all fields are the same.
        """
        self._connection = connection
        self.method = method
        self.path = path
        self.fields = fields
        memo = fields.memo
        if isinstance(memo, heads.Head):
            self.head = memo
        else:
            self.head = fields.memo = heads.Head()
        self._length = length
        self._newer = newer
        self._keep_alive = keep_alive
        self._arrived = body is not None
        self._chunks = [] if body is None else [body]
        self._held = 0 if body is None else len(body)
        self._asked = False
        self._broken = False
        self._waiter: asyncio.Future[None] | None = None
        self._started = False
        self._chunked = False
        self._done = False
        self._gone = False
        self._tell: Callable[[], None] | None = None

    # --- from the connection ---

    @property
    def done(self) -> bool:
        """Has it been answered?"""
        return self._done

    def feed(self, data: bytes) -> None:
        """A piece of the body. What comes after the answer is dropped."""
        if self._done:
            return
        self._chunks.append(data)
        if len(self._chunks) > _PIECES:
            # Each piece costs more than its bytes where a client sends them one by one.
            self._chunks = [b"".join(self._chunks)]
        self._held += len(data)
        if not self._asked and self._held > _READ_AHEAD:
            self._connection.pause()
        self._wake()

    def complete(self) -> None:
        """The body is whole."""
        self._arrived = True
        self._wake()

    def broken(self) -> None:
        """The body is no HTTP: the rest of it can't be read."""
        self._broken = True
        self._wake()

    def lost(self) -> None:
        """The client has closed the connection."""
        self._gone = True
        self._wake()
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def close_after(self) -> None:
        """The connection ends with this answer."""
        self._keep_alive = False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- exchange.Incoming ---

    @property
    def address(self) -> str:
        return self._connection.address

    def arrived(self, limit: int) -> bytes | None:
        told = self._length
        if self._held > limit or (told.isdigit() and (len(told) > 18 or int(told) > limit)):
            raise errors.TooLarge(f"The body is larger than {limit} bytes.")
        if not self._arrived:
            return None
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def body(self, limit: int, seconds: float) -> bytes:
        await self._rest(limit, seconds)
        found = self.arrived(limit)
        assert found is not None, "all of it has come, or more than is taken"
        return found

    async def _rest(self, limit: int, seconds: float) -> None:
        self._asked = True
        if not self._held and (self.fields.get(b"expect") or "").lower() == "100-continue":
            self._connection.write(_CONTINUE)
        try:
            async with asyncio.timeout(seconds):
                while not self._arrived:
                    if self._gone:
                        raise exchange.ClientGone
                    if self._broken:
                        raise errors.BadRequest("The body is not HTTP: its chunks or its trailer fields can't be read.")
                    if self._held > limit:
                        return
                    self._connection.resume()
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        except TimeoutError as error:
            raise errors.RequestTimeout from error

    # --- exchange.Outgoing ---

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send an answer at once. RFC 9110, 9.3.2: the answer to HEAD has no body; 8.6: a 204 has no length."""
        if self._done or self._gone:
            self._done = True
            return
        if status in _BODILESS:
            self._connection.write(self._head(status, lines) + b"\r\n")
        elif self.method == "HEAD":
            self._connection.write(self._head(status, lines) + b"content-length: %d\r\n\r\n" % len(body))
        else:
            self._connection.write(b"%bcontent-length: %d\r\n\r\n%b" % (self._head(status, lines), len(body), body))
        self._started = True
        self._end()

    def start(self, status: int, lines: bytes) -> None:
        if self._gone:
            return
        self._started = True
        self._chunked = self._newer
        head = self._head(status, lines)
        if self._chunked:
            head += b"transfer-encoding: chunked\r\n"
        else:
            self._keep_alive = False  # RFC 9112, 6.3: without a length, the end of the connection ends the body
        self._connection.write(head + b"\r\n")

    async def send(self, data: bytes) -> None:
        if self._gone or self._done:
            return
        if data:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self._connection.drain()

    async def taken(self) -> None:
        await self._connection.drain()

    def end(self) -> None:
        if self._gone or self._done:
            return
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        self._end()

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        self._tell = tell
        if self._gone and tell is not None:
            self._tell = None
            tell()

    def finish(self) -> None:
        """Whoever answered is through. Without a complete answer, only the end of the connection can say so."""
        self._tell = None
        self._chunks.clear()
        if not self._done:
            self._keep_alive = False
            self._end()

    def _head(self, status: int, lines: bytes) -> bytes:
        if not self._keep_alive:
            lines += b"connection: close\r\n"
        return STATUS_LINES[status] + self._connection.common + lines

    def _end(self) -> None:
        self._done = True
        self._connection.over(close=not self._keep_alive)
