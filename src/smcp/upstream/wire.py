"""What the wires of servers over HTTP have in common: messages to send, answers to read, and who gets them."""

import abc
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final, Literal, Protocol

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import sse
from smcp.upstream import places, transport

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
ERROR_BYTES: Final = 65_536
"""Longest error of a server that is read."""
WORD_S: Final = 30.0
"""Seconds in which a server takes a message that it does not answer."""
_LONGEST_WAIT_S: Final = 3600.0


def not_here(answer: transport.Answer) -> errors.ServerFailed:
    """The server refuses the request as a whole, with a status that another kind of server would give."""
    return errors.ServerFailed(
        f"The {answer.who} answered with HTTP status {answer.status}.", data={"httpStatus": answer.status}
    )


class Sent(msgspec.Struct, frozen=True):
    """One message for the server."""

    number: int
    """The request's number; 0 for a notification or a response."""
    method: str
    params: msgspec.Raw
    body: bytes

    @property
    def lasts(self) -> bool:
        """Has its answer no end of its own?"""
        return self.method == "subscriptions/listen"


class Owner(Protocol):
    """Whose server it is."""

    def received(self, frame: bytes, of: int | None) -> None:
        """A message of the server, on the stream of request `of` (0: of none; None: all share one).

        Raises `errors.ParseError`."""
        ...

    def waits(self, number: int) -> bool:
        """Is the response to this request still missing?"""
        ...

    def take(self, size: int) -> bool:
        """May `size` bytes more wait in memory?"""
        ...

    def give(self, size: int) -> None:
        """They wait no more."""
        ...

    async def flow(self) -> None:
        """Return when more may be read."""
        ...

    def note(self, text: str) -> None:
        """A line for the server's log."""
        ...

    def gone(self, failure: errors.SmcpError) -> None:
        """The server has ended the whole connection."""
        ...


class Wire(abc.ABC):
    """One way to speak to a server, with everything that one instance needs."""

    name: Literal["streamable", "sse"]
    """As it is recorded with a deployment."""

    def __init__(self, http: transport.Client, place: places.Place, owner: Owner, limit: int) -> None:
        """`limit`: bytes of the largest message that is taken."""
        self.who = http.who
        """What the server is called in errors."""
        self._http = http
        self._place = place
        self._owner = owner
        self._limit = limit

    @abc.abstractmethod
    async def post(self, sent: Sent, begun: transport.Begun | None = None) -> None:
        """Deliver a message; for a request, return when its response has been handed over.

        `begun`: it was sent already, by `begin`. Raises an `errors.SmcpError` when there will be no response.
        """

    def begin(self, sent: Sent, told: Callable[[], None]) -> transport.Begun | None:
        """Send a request at once, if that can be done without waiting; else None, and it is for `post`.

        `told` is called once: then `heard` is asked. Raises `errors.SmcpError`.
        """
        return None

    def heard(self, sent: Sent, begun: transport.Begun) -> bool:
        """Hand the response over, if the answer is nothing but that and has come as a whole; else it is for `post`.

        Raises an `errors.SmcpError` when there will be no response.
        """
        answer = begun.whole()
        if answer is None or answer.status != 200 or answer.media != JSON:
            return False
        body = answer.ready()
        if body is None:
            return False
        self.response_to(sent, self._fit(body))
        if self._owner.waits(sent.number):
            raise errors.ServerFailed(f"The {self.who} ended its answer before the response.")
        return True

    def response_to(self, sent: Sent, body: bytes) -> None:
        """The response to `sent`, which is all of its answer, goes to its reader. Raises `errors.ParseError`."""
        self._owner.received(body, sent.number)

    async def close(self) -> None:  # noqa: B027  most wires end with their requests
        """Say good-bye. Never raises."""

    async def whole(self, answer: transport.Answer) -> bytes:
        """The whole body, counted while it is collected. Raises `errors.ServerFailed` or `errors.Unavailable`."""
        ready = answer.ready()
        if ready is not None:
            await self._owner.flow()
            return self._fit(ready)
        body = bytearray()  # and no list: a piece may be smaller than what a list needs for it
        held = 0
        try:
            async with contextlib.aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    held += len(chunk)
                    if held > self._limit:
                        held -= len(chunk)
                        raise errors.ServerFailed(f"The {self.who}'s answer is larger than the platform takes.")
                    if not self._owner.take(len(chunk)):
                        held -= len(chunk)
                        raise errors.Unavailable("The tenant's servers have more waiting in memory than they may.")
                    body += chunk
                    await self._owner.flow()
            return bytes(body)
        finally:
            self._owner.give(held)

    async def events(self, answer: transport.Answer, parser: sse.Parser) -> AsyncGenerator[sse.Event]:
        """The events of a stream; what is not complete counts as waiting. Raises as `whole`."""
        held = 0
        try:
            async with contextlib.aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    if not self._owner.take(len(chunk)):
                        raise errors.Unavailable("The tenant's servers have more waiting in memory than they may.")
                    held += len(chunk)
                    try:
                        found = parser.feed(chunk)
                    except errors.TooLarge as error:
                        raise errors.ServerFailed(
                            f"A message of the {self.who} is larger than the platform takes."
                        ) from error
                    for event in found:
                        yield event
                    if found or len(chunk) <= 2:
                        self._owner.give(held)
                        held = 0
                    await self._owner.flow()
        finally:
            self._owner.give(held)

    def _fit(self, body: bytes) -> bytes:
        if len(body) > self._limit:
            raise errors.ServerFailed(f"The {self.who}'s answer is larger than the platform takes.")
        return body

    def parser(self) -> sse.Parser:
        """For one stream."""
        return sse.Parser(line_bytes=self._limit + 64, event_bytes=self._limit)

    def hand(self, frame: bytes, of: int | None) -> None:
        """A message goes to its reader; one that is none is told to the log."""
        try:
            self._owner.received(frame, of)
        except errors.ParseError as error:
            self._owner.note(f"ignored a message: {error.public} {frame[:200].decode('utf-8', 'replace')}")

    async def refused(self, answer: transport.Answer, number: int, error: msgspec.Raw | None = None) -> None:
        """An answer whose status is no success: hand over the error in it, or raise what the status means.

        `error`: what was read of it already.
        """
        status = status_failure(answer)
        if status is not None:
            raise status
        error = error or await self.error(answer)
        if not number or error is None:
            raise not_here(answer)
        self._owner.received(jsonrpc.failure(b"%d" % number, error), number)

    async def response(self, answer: transport.Answer) -> jsonrpc.Frame:
        """The response to a request of the wire's own, which is the first on its stream. Raises `errors.ServerFailed`
        or `errors.ParseError`."""
        if answer.status != 200:
            raise status_failure(answer) or errors.ServerFailed(
                f"The {self.who} answered with HTTP status {answer.status}."
            )
        if answer.media == JSON:
            return jsonrpc.frame(await self.whole(answer))
        if answer.media != EVENTS:
            raise errors.ServerFailed(f"The {self.who}'s answer is neither JSON nor an event stream.")
        async with contextlib.aclosing(self.events(answer, self.parser())) as events:
            async for event in events:
                frame = jsonrpc.frame(event.data) if event.data else jsonrpc.Frame()
                if frame.id and not frame.method:
                    return frame
        raise errors.ServerFailed(f"The {self.who} ended its answer before the response.")

    async def error(self, answer: transport.Answer) -> msgspec.Raw | None:
        """The JSON-RPC error in the body, if there is one."""
        if answer.media != JSON:
            return None
        with contextlib.suppress(errors.SmcpError):
            found = jsonrpc.frame(await answer.read(ERROR_BYTES))
            if found.error and jsonrpc.obj(jsonrpc.decode(found.error)) is not None:
                return found.error
        return None


def status_failure(answer: transport.Answer) -> errors.SmcpError | None:
    """What a status means for every request alike; None where the body may say more."""
    if answer.status in (401, 403, 407):
        return errors.ServerFailed(
            f"The {answer.who} refused the credential ({answer.status}): set the secret of its header again, or ask"
            " who runs it."
        )
    if answer.status == 429:
        return errors.RateLimited(
            f"The {answer.who} takes no more requests for now.", retry_after=seconds(answer.field("retry-after"))
        )
    if answer.status == 503 and answer.field("retry-after"):
        wait = str(round(seconds(answer.field("retry-after"))))
        return errors.Unavailable(f"The {answer.who} is not available now (503).", headers=(("Retry-After", wait),))
    if answer.status >= 500:
        return errors.ServerFailed(f"The {answer.who} failed with HTTP status {answer.status}.")
    return None


def seconds(text: str) -> float:
    """What `Retry-After` says in seconds, within reason; a date counts as a few."""
    return min(max(float(text), 1.0), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() and len(text) < 9 else 5.0
