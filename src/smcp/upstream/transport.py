"""What the wires need of HTTP: a request goes out, an answer comes. They know no client by name.

`client` reaches servers that somebody else runs, through the guarded way out; `lean` reaches servers that the platform
runs itself, over a unix socket. Neither does anything by itself: no cookies, no decompression, no caching.
"""

import abc
import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from smcp.kernel import errors
from smcp.upstream import places

Fields = Sequence[tuple[str, str]]

SILENCE_S: Final = 600.0
"""Seconds for which an answer may say nothing; who waits for it has limits of its own."""
_DISCARD: Final = 65_536
"""Bytes of an answer that nobody reads, up to which it is read to its end, so that the connection may be used again."""
_DISCARD_S: Final = 2.0


class Answer(abc.ABC):
    """A response whose body has not been read yet."""

    __slots__ = ()

    who: str
    """Whose it is, in words for a person."""
    place: places.Place
    """Where it came from."""
    status: int

    @abc.abstractmethod
    def field(self, name: str) -> str:
        """The first value of a header field (lower case); empty without one."""

    @property
    def media(self) -> str:
        """The type of the body, in lower case and without parameters."""
        return self.field("content-type").partition(";")[0].strip().lower()

    def ready(self) -> bytes | None:
        """The whole body, if it has come already and nobody has read any of it: then it is read. None otherwise."""
        return None

    @abc.abstractmethod
    def chunks(self) -> AsyncGenerator[bytes]:
        """The body as it comes. Raises `errors.ServerFailed` or `errors.ServerTimeout` when it breaks off."""

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `errors.ServerFailed` when it has more than `limit` bytes, or as `chunks`."""
        body = bytearray()
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                if len(body) + len(chunk) > limit:
                    raise errors.ServerFailed(f"The {self.who}'s answer is larger than the platform takes.")
                body += chunk
        return bytes(body)

    async def discard(self) -> None:
        """Read the little that is left, for the connection's sake."""
        if self.ready() is None:
            with contextlib.suppress(errors.SmcpError, TimeoutError):
                async with asyncio.timeout(_DISCARD_S):
                    await self.read(_DISCARD)


class Begun(contextlib.AbstractAsyncContextManager[Answer, None]):
    """A request that was sent without waiting. Who enters it waits for its answer, as with `Client.send`."""

    mark: str = ""
    """What its sender has to remember of it."""

    @abc.abstractmethod
    def whole(self) -> Answer | None:
        """The answer, if it has come as a whole: then its body is `ready`. Raises as entering it does."""

    @abc.abstractmethod
    def close(self) -> None:
        """Nobody waits for it any more, and nothing more is told of it. Idempotent."""


class Client(abc.ABC):
    """Requests to one server."""

    who: str
    """What its server is called in errors, for a person."""

    @abc.abstractmethod
    def send(
        self,
        method: str,
        place: places.Place,
        fields: Fields,
        body: bytes = b"",
        *,
        silence_s: float = SILENCE_S,
        lasting: bool = False,
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """The answer to a request. Leaving it before the body's end takes the connection with it.

        `silence_s`: for how long nothing may come, before the head and between two pieces of the body. `lasting`: a
        stream without an end of its own, which must not take a connection from those who only want an answer.
        Raises `errors.ServerFailed`, `errors.ServerTimeout`, `errors.Unavailable` or `errors.QuotaExceeded`.
        """

    def begin(
        self,
        method: str,
        place: places.Place,
        fields: Fields,
        body: bytes,
        told: Callable[[], None],
        *,
        silence_s: float = SILENCE_S,
    ) -> Begun | None:
        """As `send`, for who need not wait: the request goes out at once, if that can be without waiting; else None.

        `told` is called once, and must not raise: when the answer is whole, has failed, or has to be read by somebody
        who waits, because it is large or says no length. Raises `errors.ServerFailed`.
        """
        return None

    @abc.abstractmethod
    async def close(self) -> None:
        """Close every connection."""
