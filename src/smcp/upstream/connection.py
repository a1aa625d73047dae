"""One HTTP/1.1 connection to a server that runs here, and the answer that comes on it.

What is on the other end is a tenant's code: its answer is read as strictly as a client's request is. llhttp refuses
most of what two readers could understand differently; the rest is refused here:

| an answer | what happens |
|---|---|
| with two Content-Lengths, or one beside Transfer-Encoding, or a coding that is not just `chunked` | refused |
| of another version than 1.0 and 1.1, or that changes the protocol (101) | refused |
| 1xx | passed over; what comes with it counts as head |
| a head of more than `HEAD_BYTES` or `FIELDS` fields | refused, as is as much in a row that is no body |
| that ends with the connection | is whole only when the connection was closed, and not broken |
| with anything behind it | is taken, and its connection is not used again |

A reader that is slow stops the other side: no more than `HELD` bytes and one read are kept.
"""

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Protocol, cast

import httptools

from smcp.kernel import errors
from smcp.upstream import places, transport

WHO: Final = "hosted server"
HEAD_BYTES: Final = 65_536
FIELDS: Final = 256
HELD: Final = 262_144
"""Bytes of a body that wait for their reader before the other side is stopped."""
WRITE_S: Final = 60.0
"""Seconds for which the other side may take nothing of a request."""
_SMALL: Final = 1024
_FEW: Final = 8
"""So many pieces are kept as they came; smaller ones behind them are put together, because each costs more memory than
is in it."""
SHORT: Final = 16_384
"""Bytes of a body that nobody needs to wait for: they are taken when all have come."""
NEVER: Final = float("inf")


class _RefusedError(Exception):
    """What llhttp lets through. Only inside of this file: the parser hands it on."""


class Owner(Protocol):
    """Whose connection it is."""

    def freed(self, one: "Connection", /) -> None:
        """The connection has nothing more to do with the answer that it had; it may have another if it is `usable`."""
        ...

    def lost(self, one: "Connection", /) -> None:
        """A connection that nobody used is at its end."""
        ...

    def arm(self, due: float, /) -> None:
        """Look at all that is under way at `due`, in the loop's time, or before."""
        ...


class Answer(transport.Answer):
    """The answer to one request; made with it, so that it may fail before it begins."""

    __slots__ = (
        "_connection",
        "_fields",
        "_held",
        "_loop",
        "_parts",
        "_silence_s",
        "_told",
        "_waiter",
        "begun",
        "due",
        "ended",
        "failure",
        "place",
        "status",
        "unread",
        "untouched",
    )  # fmt: skip

    who = WHO

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        place: places.Place,
        silence_s: float,
        due: float,
        told: Callable[[], None] | None = None,
    ) -> None:
        """`due`: when its head must be there, in the loop's time; later pieces come within `silence_s` seconds.

        `told` is called when it has ended, or somebody has to read it; once.
        """
        self.place = place
        self.status = 0
        self.begun = False
        """Its head is there."""
        self.ended = False
        """All of it is there, or nothing more comes."""
        self.failure: errors.SmcpError | None = None
        """Why nothing more comes."""
        self.untouched = True
        """No byte of it has come."""
        self.unread = False
        """It has failed, and the server has certainly not read the whole request."""
        self.due = due
        """When something must have come."""
        self._loop = loop
        self._silence_s = silence_s
        self._fields: dict[bytes, bytes] = {}
        self._parts: collections.deque[bytes | bytearray] = collections.deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._told = told
        self._connection: Connection | None = None

    # --- for who reads it ---

    def field(self, name: str) -> str:
        return self._fields.get(name.encode("ascii"), b"").strip(b" \t").decode("latin-1")

    def ready(self) -> bytes | None:
        if not self.ended or self.failure is not None:
            return None
        body = bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

    async def chunks(self) -> AsyncGenerator[bytes]:
        while True:
            while self._parts:
                part = self._parts.popleft()
                self._held -= len(part)
                if self._connection is not None and self._held <= HELD // 2 and self.due == NEVER:
                    self.due = self._loop.time() + self._silence_s
                    self._connection.read_on(self.due)
                yield bytes(part)
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return
            await self._more()

    async def headed(self) -> None:
        """Return when its head is there, or it has failed."""
        while not self.begun and not self.ended:
            await self._more()

    def close(self) -> None:
        """Nobody reads on. What is not at its end takes the connection with it. Idempotent."""
        self._told = None
        if self._connection is not None:
            self._connection.abort()
        self._parts.clear()

    # --- for its connection ---

    def on(self, connection: "Connection") -> None:
        """It comes on this connection."""
        self._connection = connection

    def begin(self, status: int, fields: dict[bytes, bytes]) -> None:
        """Its head."""
        self.begun, self.status, self._fields = True, status, fields
        self.due = self._loop.time() + self._silence_s
        self._wake()

    def feed(self, part: bytes) -> bool:
        """A piece of its body; True when that is enough for now."""
        if len(part) >= _SMALL or len(self._parts) < _FEW:
            self._parts.append(part)
        elif isinstance(last := self._parts[-1], bytearray):
            last += part
        else:
            self._parts.append(bytearray(part))
        self._held += len(part)
        full = self._held > HELD
        # Who does not read can't say that nothing came.
        self.due = NEVER if full else self._loop.time() + self._silence_s
        self._wake()
        return full

    def end(self, failure: errors.SmcpError | None = None) -> None:
        """Nothing more comes, because of `failure` or because it is whole."""
        self._connection, self.ended, self.failure = None, True, failure
        self._wake()
        self._tell()

    def passed(self, *, bounded: bool) -> None:
        """A piece of it has come; `bounded`: how long it is has been said."""
        if self._told is not None and self.begun and not (bounded and self._held <= SHORT):
            self._tell()

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Connection(asyncio.Protocol):
    """A connection, which has one request at a time."""

    def __init__(self, owner: Owner, generation: int) -> None:
        self.generation = generation
        """Connections that were made for an earlier process of the server are not kept."""
        self.since = 0.0
        """Since when nobody uses it, in the loop's time."""
        self.stalled = NEVER
        """Since when the server takes no more of the request, in the loop's time."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._paused = False
        self._spoilt = False
        """Something came that belongs to no answer."""
        self._renew("")

    def _renew(self, method: str) -> None:
        """Nothing has come of the next answer."""
        self._bodiless = method == "HEAD"
        self._fields: dict[bytes, bytes] = {}
        self._many = 0
        self._size = 0
        """Bytes of fields."""
        self._quiet = 0
        """Bytes that came in since there was a piece of body."""
        self._interim = False
        self._open = False
        """It ends with the connection."""
        self._bounded = False
        self._over = False
        self._keep = False

    @property
    def usable(self) -> bool:
        """May it have another request?"""
        return self._answer is None and not self._spoilt and self._transport is not None

    def ask(self, answer: Answer, method: str, head: bytes, body: bytes) -> None:
        """Send a request; `answer` hears what comes of it."""
        self._renew(method)
        self._answer = answer
        answer.on(self)
        if self._transport is None:  # it was closed before it could be used; nobody is told before this has returned
            answer.unread = True
            self._loop.call_soon(self.fail, _broken("it was closed before the request was sent"))
        elif len(body) < HEAD_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def abort(self) -> None:
        """Close it at once, whatever is under way."""
        self.fail(_broken("it was given up"))

    def fail(self, failure: errors.SmcpError) -> None:
        """Close it at once; who waits for an answer gets `failure`."""
        answer = self._detach()
        if answer is not None:
            answer.end(failure)

    def read_on(self, due: float) -> None:
        """The reader of its answer has caught up, and waits until `due` for more."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        self._owner.arm(due)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()  # nobody has asked anything
            return
        answer.untouched = False
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._over:
                self.fail(_unspoken(str(error.__context__ or error)))
                return
            self._spoilt = True
        if self._over:
            self._finish()
        elif self._quiet > HEAD_BYTES:
            self.fail(_unspoken("too much that is no body"))
        else:
            answer.passed(bounded=self._bounded)

    def eof_received(self) -> bool:
        answer = self._answer
        if answer is not None and answer.begun and self._open:
            self._finish()
        else:
            self._ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    def pause_writing(self) -> None:
        self.stalled = self._loop.time()
        self._owner.arm(self.stalled + WRITE_S)

    def resume_writing(self) -> None:
        self.stalled = NEVER

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._spoilt = self._spoilt or self._over

    def on_header(self, name: bytes, value: bytes) -> None:
        self._many += 1
        self._size += len(name) + len(value)
        if self._size > HEAD_BYTES or self._many > FIELDS:
            raise _RefusedError("a head that is too large")
        if self._over or self._answer is None or self._answer.begun:
            return  # a trailer, or of no answer: nobody reads it
        low = name.lower()
        if low in self._fields and low in (b"content-length", b"transfer-encoding"):
            raise _RefusedError("two fields that say where it ends")
        self._fields.setdefault(low, value)

    def on_headers_complete(self) -> None:
        if self._over or self._answer is None:
            return
        status, fields = self._parser.get_status_code(), self._fields
        coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0") or status == 101:
            raise _RefusedError("another protocol")
        if coding is not None and (length is not None or coding.strip().lower() != b"chunked" or version == "1.0"):
            raise _RefusedError("a coding that leaves open where it ends")
        self._fields = {}
        if status < 200:
            if coding is not None or length is not None:
                raise _RefusedError("an interim answer with a body")
            self._interim = True
            return
        self._bounded = length is not None
        self._open = coding is None and length is None and status not in (204, 304)
        self._answer.begin(status, fields)
        if self._bodiless:
            # The parser waits for a body that does not come: what this connection says next it would not understand.
            self._over, self._spoilt = True, True

    def on_body(self, data: bytes) -> None:
        if self._over or self._answer is None:
            self._spoilt = True
            return
        self._quiet = 0
        if self._answer.feed(data) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._over:
            self._over, self._keep = True, self._parser.should_keep_alive()

    # --- the end of an answer ---

    def _finish(self) -> None:
        """The answer is whole."""
        answer, transport_ = self._answer, self._transport
        # A request that is not wholly sent, although it is answered, would go on in front of the next one.
        if answer is None or transport_ is None or not self._keep or self._spoilt or transport_.get_write_buffer_size():
            answer = self._detach()
        else:
            self._answer = None
            if self._paused:
                self._paused = False
                transport_.resume_reading()
            self._owner.freed(self)
        if answer is not None:
            answer.end()

    def _ended(self, cause: Exception | None) -> None:
        """The other side has closed the connection, or it broke."""
        answer = self._answer
        if answer is not None and answer.untouched:
            # A unix socket that is closed with something unread in it says so (ECONNRESET), and one that was closed
            # before takes nothing (EPIPE). Then the server has not had the whole request, and can't have acted on it.
            unsent = self._transport is not None and self._transport.get_write_buffer_size() > 0
            answer.unread = unsent or isinstance(cause, BrokenPipeError | ConnectionResetError)
        self.fail(_broken("it was closed before the answer was whole" if cause is None else str(cause)))

    def _detach(self) -> Answer | None:
        """Close the connection at once; the answer that was under way on it."""
        answer, self._answer = self._answer, None
        link, self._transport = self._transport, None
        if link is not None:
            link.abort()
        if answer is not None:
            self._owner.freed(self)
        elif link is not None:
            self._owner.lost(self)
        return answer


def _unspoken(detail: str) -> errors.ServerFailed:
    return errors.ServerFailed(f"The {WHO} does not speak HTTP as it should.", detail=detail[:300])


def _broken(detail: str) -> errors.ServerFailed:
    return errors.ServerFailed(f"The connection to the {WHO} broke.", detail=detail[:300])
