"""HTTP/1.1 as workerd speaks it to the platform: requests with streamed bodies in, responses with streamed bodies out.

One request at a time on a connection, kept alive, each body at the speed of its reader. Whatever hosted code may make
its process send is bounded in size and time, and what is not a plain request (CONNECT, an upgrade, a second request
before the first one's answer) ends the connection: nothing of it reaches a handler.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import httptools

from smcp.kernel import errors
from smcp.runtime.bindings import http

HEAD_BYTES: Final = 65_536
"""Bytes of a request's head."""
_DISCARD: Final = 8 * 1024 * 1024
"""Bytes of a body that nobody wants, up to which it is read to its end, so that its sender reads the answer."""
_NEVER: Final = math.inf
_PHRASES: Final = {one.value: one.phrase.encode() for one in HTTPStatus}
_FRAMING: Final = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""What this side alone says of its responses."""
_UNPRINTABLE: Final = re.compile(r"[^ -~]+")
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""RFC 9110, section 5.6.2."""


class House(Protocol):
    """Whose connections they are."""

    limits: http.Limits
    buffer: memoryview
    """What any connection reads into: it is taken out of there before anybody else reads."""

    def enter(self, who: "Connection", transport: asyncio.Transport) -> http.Refusal | None:
        """A connection was made: why it must not stay, if it must not."""
        ...

    def leave(self, who: "Connection") -> None:
        """It is gone."""
        ...

    def find(self, fields: Sequence[tuple[bytes, bytes]]) -> tuple[http.Grant | None, dict[bytes, bytes]]:
        """What a head's capability leads to, and the head without it."""
        ...

    def refused(self, why: http.Refusal, error: BaseException | None = None) -> None:
        """Something was."""
        ...

    def begun(self, task: "asyncio.Task[None]") -> None:
        """A request is being answered."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One connection of a process of Workers."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._limits = house.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast("Any", None)
        self._parser: Any = httptools.HttpRequestParser(self)
        self.grant: http.Grant | None = None
        """Whose request is being answered."""
        self._task: asyncio.Task[None] | None = None
        self._body: http.Body | None = None
        self._began = False
        """The head of the answer is out."""
        self._keep = True
        self._whole = True
        """The request has been read to its end."""
        self._discard = 0
        """Bytes of an unwanted body that may still come, and one."""
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._in_head = True
        self._raw = 0
        """Bytes since the last whole head or piece of a body: of a head, of trailers, of what goes before a chunk."""
        self._wrong = http.Refusal.MALFORMED
        self._early = bytearray()
        self._held = False
        self._dead = False
        """It was told to close: nothing that comes is looked at."""
        self._writable: asyncio.Event | None = None
        self._deadline = _NEVER
        self._late: http.Refusal | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses of asyncio's
        why = self._house.enter(self, self._transport)
        if why is None:
            self._expect(self._limits.idle_s)
        else:
            self._refuse(why)

    def connection_lost(self, exc: Exception | None) -> None:
        self._dead = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._house.leave(self)
        self._parser = None

    def eof_received(self) -> None:
        """The other side sends no more: nothing can follow, so the transport closes."""

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._house.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._house.buffer[:nbytes]
        if self._dead:
            return
        if self._task is not None and self._whole:
            # The answer's last bytes may be there before this side has noticed that it is over.
            self._early += data
            if len(self._early) >= http.CHUNK:
                self.hold(True)
        else:
            self._feed(data)

    def _feed(self, data: memoryview | bytearray) -> None:
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(http.Refusal.UPGRADE)
        except httptools.HttpParserError:
            self._refuse(self._wrong)
        if self._dead:
            return
        if self._raw > HEAD_BYTES:
            self._refuse(http.Refusal.LARGE)
        elif self._in_head and self._raw and self._late is None:
            self._expect(self._limits.head_s, http.Refusal.LATE)

    def hold(self, on: bool) -> None:
        """Read no more, or read on."""
        if on != self._held and not self._transport.is_closing():
            self._held = on
            if on:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def abort(self) -> None:
        """End it now, whatever is under way."""
        self._dead = True
        self._transport.abort()

    def _refuse(self, why: http.Refusal) -> None:
        self._house.refused(why)
        status = why.value[0]
        if self._task is not None or not status:
            self.abort()  # an answer in the middle of another one's would be taken for a part of it
        else:
            self._dead = True
            self._transport.write(_plain(status, close=True))
            self._close()

    def _close(self) -> None:
        """Close once the other side has read what it was sent, for which it has a while."""
        self._dead = True
        self._expect(self._limits.linger_s)
        self._transport.close()

    # --- one deadline, one timer ---

    def _expect(self, seconds: float, late: http.Refusal | None = None) -> None:
        self._late = late
        self._deadline = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._time_is_up)
        elif self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._deadline == _NEVER:
            return
        if self._loop.time() + 0.001 < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._time_is_up)
        elif self._late is not None and not self._dead:
            self._refuse(self._late)
        else:
            self.abort()

    # --- the parser ---

    def on_message_begin(self) -> None:
        if self._task is not None:
            self._wrong = http.Refusal.PIPELINED
            raise ValueError("a request before the answer of the one before")
        self._url = b""
        self._fields = []
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer field, which must not pass for what was checked in the head
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._raw = 0
        self._late, self._deadline = None, _NEVER
        method: str = self._parser.get_method().decode("ascii")
        grant, headers = self._house.find(self._fields)
        wrong = self._unfit(method, grant, headers)
        if wrong is not None or grant is None:
            # It becomes an error of the parser: nothing behind it is read.
            self._wrong = wrong or http.Refusal.CAPABILITY
            raise ValueError("refused")
        self.grant = grant
        self._keep = self._parser.should_keep_alive()
        self._whole = False
        self._body = http.Body(self.hold, self._limits.stall_s)
        length = None if b"transfer-encoding" in headers else int(headers.get(b"content-length", b"0"))
        request = http.Request(method, self._url.decode("ascii"), headers, self._body, length)
        self._task = self._loop.create_task(self._answer(grant, request))
        self._house.begun(self._task)

    def _unfit(self, method: str, grant: http.Grant | None, headers: Mapping[bytes, bytes]) -> http.Refusal | None:
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._fields)
        if size > HEAD_BYTES:
            return http.Refusal.LARGE
        if method == "CONNECT":
            return http.Refusal.CONNECT
        if self._parser.should_upgrade() or b"upgrade" in headers:
            return http.Refusal.UPGRADE
        coding = headers.get(b"transfer-encoding", b"chunked").lower()
        if self._parser.get_http_version() != "1.1" or not self._url.isascii() or coding != b"chunked":
            return http.Refusal.MALFORMED
        if grant is None:
            return http.Refusal.CAPABILITY
        absolute = self._url[:8].lower().startswith((b"http://", b"https://"))
        if absolute is not grant.proxy or not (absolute or self._url.startswith(b"/")) or b"#" in self._url:
            return http.Refusal.TARGET
        return None

    def on_body(self, data: bytes) -> None:
        self._raw = 0
        if self._body is not None:
            self._body.feed(data)
        else:
            self._discard -= len(data)
            if self._discard <= 0:
                self._close()

    def on_message_complete(self) -> None:
        self._in_head = self._whole = True
        self._raw = 0
        if self._body is not None:
            self._body.end()
        elif not self._dead:
            self._expect(self._limits.idle_s)

    # --- answering ---

    async def _answer(self, grant: http.Grant, request: http.Request) -> None:
        try:
            async with grant:
                response = await grant.handler(request)
                await self._send(request, response)
        except asyncio.CancelledError:
            self.abort()
            raise
        except errors.Unavailable as error:
            self._fail(http.Refusal.AWAY, 503, error)
        except errors.SmcpError as error:
            self._fail(http.Refusal.FAILED if error.http_status == 500 else None, error.http_status, error)
        except _Stalled:
            self.abort()
        except http.Busy:
            self._fail(http.Refusal.BUSY, 503)
        except Exception as error:  # noqa: BLE001 - the last line of defence: what a handler did not expect ends here
            self._fail(http.Refusal.FAILED, 500, error)
        self._over()

    def _fail(self, why: http.Refusal | None, status: int, error: BaseException | None = None) -> None:
        if why is not None:
            self._house.refused(why, error)
        if self._began:
            self.abort()  # so that what is there does not pass for the whole
        elif not self._transport.is_closing():
            self._transport.write(_plain(status))

    async def _send(self, request: http.Request, response: http.Response) -> None:
        if response.within_s is None:
            await self._write(request, response)
            return
        try:
            async with asyncio.timeout(response.within_s):
                await self._write(request, response)
        except TimeoutError:
            raise _Stalled from None

    async def _write(self, request: http.Request, response: http.Response) -> None:
        body = response.body
        bare = request.method == "HEAD" or response.status in (204, 304)
        if isinstance(body, bytes):
            length = len(body) if response.length is None or not bare else response.length
            head = _head(response, length, keep=self._keep)
            self._began = True
            self._transport.write(head if bare else head + body)
            if self._writable is not None:
                await self._drained()
            return
        async with _closing(body):
            head = _head(response, response.length, keep=self._keep)
            self._began = True
            self._transport.write(head)
            if not bare:
                await self._stream(body, response.length)

    async def _stream(self, body: AsyncIterator[bytes], left: int | None) -> None:
        async for data in body:
            if left is None:
                if data:
                    self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
            else:
                left -= len(data)
                if left < 0:
                    raise ValueError("a body is longer than its length")
                self._transport.write(data)
            if self._writable is not None:
                await self._drained()
        if left:
            raise ValueError("a body is shorter than its length")
        if left is None:
            self._transport.write(b"0\r\n\r\n")

    async def _drained(self) -> None:
        """The other side has read on. Raises `_Stalled` when it does not."""
        while self._writable is not None:
            try:
                async with asyncio.timeout(self._limits.stall_s):
                    await self._writable.wait()
            except TimeoutError:
                raise _Stalled from None

    def _over(self) -> None:
        """The answer is out, the last byte of it just now: the next request's turn."""
        self._task = self._body = self.grant = None
        self._began = False
        if self._dead or self._transport.is_closing():
            return
        if not self._keep:
            self._close()
            return
        self.hold(False)
        if not self._whole:
            self._discard = _DISCARD
            self._expect(self._limits.linger_s)
            return
        self._expect(self._limits.idle_s)
        if self._early:
            early, self._early = self._early, bytearray()
            self._feed(early)


class _Stalled(Exception):
    """Nobody reads an answer."""


@contextlib.asynccontextmanager
async def _closing(body: AsyncIterator[bytes]) -> AsyncGenerator[None]:
    """Whatever `body` holds is let go in the end."""
    try:
        yield
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(body, "aclose", None)
        if close is not None:
            await close()


def _head(response: http.Response, length: int | None, *, keep: bool) -> bytes:
    """Raises `ValueError` for a field that would end up as something else."""
    reason = _UNPRINTABLE.sub(" ", response.reason).encode() or _PHRASES.get(response.status, b"-")
    lines = [b"HTTP/1.1 %d %b\r\n" % (response.status, reason)]
    for name, value in response.headers:
        if b"\r" in value or b"\n" in value or b"\0" in value or not _TOKEN.issuperset(name) or not name:
            raise ValueError("a header field of a response has wrong characters")
        if name.lower() not in _FRAMING:
            lines.append(b"%b: %b\r\n" % (name, value))
    if response.status not in (204, 304):
        lines.append(b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length)
    lines.append(b"\r\n" if keep else b"Connection: close\r\n\r\n")
    return b"".join(lines)


def _plain(status: int, *, close: bool = False) -> bytes:
    return _head(http.Response(status), 0, keep=not close)
