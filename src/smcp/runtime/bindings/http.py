"""What a binding is asked and what it answers, and what is refused before: HTTP/1.1 without its wire (`connection`)."""

import asyncio
import enum
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from smcp.kernel import errors

CHUNK: Final = 65_536
"""Bytes that are read at once, and up to which a body may wait before its sender is held up."""
_PART: Final = 64
"""What a piece of a body costs beside its bytes: many small ones are not for free."""


class Limits(NamedTuple):
    """How patient the platform is with a process of Workers, and how many connections that may have."""

    head_s: float = 10.0
    """Seconds from the first byte of a head to its last one."""
    stall_s: float = 120.0
    """Seconds in which something of a body must come or be taken while the other side waits for it."""
    wait_s: float = 30.0
    """Seconds to wait for a place among a binding's requests."""
    idle_s: float = 120.0
    """Seconds for which a connection without a request is kept: longer than workerd keeps one, so that its next request
    does not meet a connection that is just being closed."""
    linger_s: float = 5.0
    """Seconds for the other side to finish a body that nobody wants, and to read the last answer."""
    connections: int = 256


class Refusal(enum.Enum):
    """Everything that is refused: the status that is answered (0: nothing), and what is told of it."""

    PEER = (0, "a connection from a process of another user")
    CONNECTIONS = (0, "a connection beyond those that one process may have")
    LATE = (408, "a request that took too long to arrive")
    LARGE = (431, "a request with too large a head")
    MALFORMED = (400, "what is no HTTP/1.1 request")
    PIPELINED = (0, "a request that did not wait for the answer of the one before")
    CONNECT = (405, "a CONNECT request")
    UPGRADE = (501, "a request for another protocol")
    CAPABILITY = (403, "a request without the key of a binding")
    TARGET = (400, "a request whose target is not of the form that its binding takes")
    BUSY = (503, "a request beyond those that one binding may have under way")
    AWAY = (503, "a request while the platform's storage was away")
    FAILED = (500, "a request that failed by a fault of the platform")


class Body:
    """A request's body as it comes. Its sender is held up while nobody takes it."""

    __slots__ = ("_ended", "_hold", "_parts", "_size", "_stall_s", "_waiter")

    def __init__(self, hold: Callable[[bool], None], stall_s: float) -> None:
        """`hold`: told whether its sender must wait."""
        self._stall_s = stall_s
        self._hold = hold
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """A piece more."""
        self._parts.append(data)
        self._size += len(data) + _PART
        if self._size >= CHUNK:
            self._hold(True)
        self._wake()

    def end(self) -> None:
        """It is whole."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        """Raises `errors.RequestTimeout` when nothing comes for `Limits.stall_s`."""
        while not self._parts:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self._stall_s):
                    await self._waiter
            except TimeoutError:
                raise errors.RequestTimeout from None
            finally:
                self._waiter = None
        part = self._parts.popleft()
        self._size -= len(part) + _PART
        if self._size < CHUNK:
            self._hold(False)
        return part


class Request:
    """What a binding is asked. `headers` are in lower case; a field that came several times is joined by commas."""

    __slots__ = ("body", "headers", "length", "method", "target")

    def __init__(
        self, method: str, target: str, headers: Mapping[bytes, bytes], body: AsyncIterator[bytes], length: int | None
    ) -> None:
        """`target` as it came: an encoded path with its query, or a URL for what takes those. `length`: of the body,
        None where its sender does not know."""
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.length = length

    async def read(self, most: int) -> bytes:
        """The whole body. Raises `errors.TooLarge` when it has more than `most` bytes, and `errors.RequestTimeout`."""
        if self.length is not None and self.length > most:
            raise errors.TooLarge
        parts: list[bytes] = []
        async for part in self.body:
            most -= len(part)
            if most < 0:
                raise errors.TooLarge
            parts.append(part)
        return b"".join(parts)


class Response:
    """What a binding answers."""

    __slots__ = ("body", "headers", "length", "reason", "status", "within_s")

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes | AsyncIterator[bytes] = b"",
        length: int | None = None,
        reason: str = "",
    ) -> None:
        """`length` is for an iterator whose sum is known: it then must be right, else the connection breaks off; and
        for the answer to HEAD. An iterator that can be closed (`aclose`) is, when it is not needed any more."""
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length
        self.reason = reason
        self.within_s: float | None = None
        """Seconds in which all of it must be taken, else the connection breaks off: for what holds memory meanwhile."""


Handler = Callable[[Request], Awaitable[Response]]


class Grant:
    """What one capability leads to."""

    __slots__ = ("_places", "_wait_s", "handler", "proxy")

    def __init__(self, handler: Handler, *, proxy: bool, at_once: int, wait_s: float) -> None:
        self.handler = handler
        self.proxy = proxy
        """It takes URLs as targets, and nothing else."""
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(at_once)

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            raise Busy from None

    async def __aexit__(self, *_: object) -> None:
        self._places.release()


class Busy(Exception):
    """All places of a binding are taken."""
