"""HTTP to a server that the platform runs itself, over a unix socket: as little as a call can cost, and nothing more.

No name, no address, no TLS, no redirects, no cookies. What it shares with `client` is the interface (`transport`).
Connections are kept; nothing is timed by a timer of its own: one looks at all that is under way.

**When a request is repeated.** Once, on a new connection, if it went out on one that was kept, no byte of an answer
came, and the server certainly has not read all of it: it had closed the connection before everything was written, or
closed it with something unread (what a unix socket tells). A request that was read may have been carried out, and is
never repeated, but for GET and HEAD.
"""

import asyncio
import collections
import contextlib
import errno
import re
import socket
from collections.abc import Callable
from typing import Final

from smcp.kernel import errors
from smcp.upstream import connection, fields, places, transport
from smcp.upstream.connection import NEVER, WHO

CONNECTIONS: Final = 256
STREAMS: Final = 2048
"""Connections that are held by streams, beside the others."""
KEPT: Final = 128
KEPT_S: Final = 10.0
"""Seconds for which an idle connection is kept: less than the 15 after which workerd closes its own."""
WAITING: Final = 1024
"""Requests that wait for a connection."""
PLACE_S: Final = 30.0
"""Seconds to wait for one of the connections."""
CONNECT_S: Final = 15.0
"""Seconds to wait for a server that is just starting, and has as many waiting before it as its socket takes."""
_GRAIN_S: Final = 0.1
"""How exact times of silence are."""
_TRIES_S: Final = (0.005, 0.1)
"""Seconds between two tries to connect: the first, and the longest."""
_REQUEST_BYTES: Final = 65_536
_HEAD_KEPT: Final = (256, 1024)
"""Heads of requests that are remembered, and characters of the longest."""
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_TARGET: Final = re.compile(r"/[!-~]{0,8191}")
_HOST: Final = re.compile(r"[a-z0-9.-]{1,253}(?::[0-9]{1,5})?")
_VALUE: Final = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_SAFE: Final = ("GET", "HEAD")
_REDIRECTS: Final = (301, 302, 303, 307, 308)


class Client(transport.Client):
    """Requests to the server that listens at one unix socket."""

    who = WHO

    def __init__(
        self, path: str, host: str = "localhost", *, most: int = CONNECTIONS, streams: int = STREAMS, kept: int = KEPT
    ) -> None:
        """`path` is the socket's. `host` is what every request says in its Host field, whatever its address is."""
        if not _HOST.fullmatch(host):
            raise ValueError("no host that a request can name")
        self._loop = asyncio.get_running_loop()
        self._common = f"HTTP/1.1\r\nHost: {host}\r\nUser-Agent: smcp\r\nAccept-Encoding: identity\r\n"
        self._names: set[str] = set()
        """Names of fields that were found to be good."""
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], str] = {}
        """What most requests repeat, but for their length."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._pools = tuple(Pool(path, number, kept, self.arm) for number in (most, streams))

    def send(
        self,
        method: str,
        place: places.Place,
        fields: transport.Fields,
        body: bytes = b"",
        *,
        silence_s: float = transport.SILENCE_S,
        lasting: bool = False,
    ) -> "_Request":
        """The answer to a request, which is sent as it is entered."""
        head = self._head(method, place.target, fields, body)
        return _Request(self._pools[lasting], method, place, head, body, silence_s)

    def begin(
        self,
        method: str,
        place: places.Place,
        fields: transport.Fields,
        body: bytes,
        told: Callable[[], None],
        *,
        silence_s: float = transport.SILENCE_S,
    ) -> "_Request | None":
        """Only on a connection that is kept: another one has to be waited for."""
        pool = self._pools[False]
        if not pool.ready:
            return None
        made = _Request(pool, method, place, self._head(method, place.target, fields, body), body, silence_s)
        made.begin(told)
        return made

    def renew(self) -> None:
        """Another process listens from now on: no connection that there is now gets another request."""
        for pool in self._pools:
            pool.renew()

    async def close(self) -> None:
        for pool in self._pools:
            pool.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def arm(self, due: float) -> None:
        """Look at all that is under way at `due`, in the loop's time, or before."""
        if self._timer is None or due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        due = min(pool.sweep(now) for pool in self._pools)
        if due != NEVER:
            self.arm(max(due, now + _GRAIN_S))

    def _head(self, method: str, target: str, told: transport.Fields, body: bytes) -> bytes:
        """Raises `errors.ServerFailed` for what no head can say: it is never sent."""
        key = (method, target, tuple(told))
        text = self._heads.get(key) or self._written(key)
        return (
            f"{text}Content-Length: {len(body)}\r\n\r\n".encode("ascii")
            if body or method == "POST"
            else (f"{text}\r\n".encode("ascii"))
        )

    def _written(self, key: tuple[str, str, tuple[tuple[str, str], ...]]) -> str:
        method, target, told = key
        if _METHOD.fullmatch(method) is None or _TARGET.fullmatch(target) is None:
            raise _unsendable("its method or path")
        lines = [f"{method} {target} {self._common}"]
        for name, value in told:
            if name not in self._names:
                self._check(name)
            if _VALUE.fullmatch(value) is None:
                raise _unsendable(f"the value of {name}")
            lines.append(f"{name}: {value}\r\n")
        text = "".join(lines)
        if len(text) > _REQUEST_BYTES:
            raise _unsendable("its size")
        if len(text) <= _HEAD_KEPT[1]:
            if len(self._heads) >= _HEAD_KEPT[0]:
                self._heads.clear()
            self._heads[key] = text
        return text

    def _check(self, name: str) -> None:
        if not fields.named(name) or fields.framing(name):
            raise _unsendable(f"the name of {name[:64]!a}")
        if len(self._names) < 256:
            self._names.add(name)


class _Request(transport.Begun):
    """A request, from its sending to the end of its answer."""

    __slots__ = ("_answer", "_body", "_due", "_head", "_method", "_place", "_pool", "_silence_s")

    def __init__(
        self, pool: "Pool", method: str, place: places.Place, head: bytes, body: bytes, silence_s: float
    ) -> None:
        self._pool = pool
        self._method = method
        self._place = place
        self._head = head
        self._body = body
        self._silence_s = silence_s
        self._due = pool.now() + silence_s
        self._answer: connection.Answer | None = None

    def begin(self, told: Callable[[], None]) -> None:
        """Send it on a connection that is kept; there must be one."""
        self._ask(self._pool.kept(), told)

    def whole(self) -> connection.Answer | None:
        answer = self._answer
        if answer is None or not answer.begun or not answer.ended or answer.failure is not None:
            return None
        _check(answer)
        return answer

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()

    async def __aenter__(self) -> connection.Answer:
        answer, kept = self._answer, True
        if answer is None:
            found, kept = await self._pool.take(self._due)
            answer = self._ask(found)
        try:
            await answer.headed()
            if kept and answer.ended and answer.untouched and (answer.unread or self._method in _SAFE):
                found, _ = await self._pool.take(self._due, fresh=True)
                answer = self._ask(found)
                await answer.headed()
            if answer.failure is not None and not answer.begun:
                raise answer.failure
            _check(answer)
        except BaseException:
            self.close()
            raise
        return answer

    async def __aexit__(self, *raised: object) -> None:
        self.close()

    def _ask(self, found: connection.Connection, told: Callable[[], None] | None = None) -> connection.Answer:
        answer = connection.Answer(self._pool.loop, self._place, self._silence_s, self._due, told)
        self._answer = answer
        self._pool.ask(found, answer, self._method, self._head, self._body)
        return answer


class Pool:
    """Connections to one socket: so many at once, and who comes first is served first. A `connection.Owner`."""

    def __init__(self, path: str, most: int, kept: int, arm: Callable[[float], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.arm = arm
        self._path = path
        self._most = most
        self._kept = kept
        self._busy = 0
        """Places that are taken: each has an answer under way, is being connected, or is about to be."""
        self._active: dict[connection.Connection, connection.Answer] = {}
        self._idle: collections.deque[connection.Connection] = collections.deque()
        """The one that was used last stands last, and is used first."""
        self._waiting: dict[asyncio.Future[None], float] = {}
        self._generation = 0
        self._closed = False

    @property
    def ready(self) -> bool:
        """Is there a place, with a connection that is kept, for who does not want to wait?"""
        return bool(self._idle) and self._busy < self._most and not self._waiting

    def kept(self) -> connection.Connection:
        """That place, and its connection. As with `take`, `ask` follows at once."""
        self._busy += 1
        return self._idle.pop()

    async def take(self, due: float, *, fresh: bool = False) -> tuple[connection.Connection, bool]:
        """A place, and a connection for it: was it a kept one? `ask` follows at once, without anything between.

        Raises `errors.Unavailable`, `errors.ServerFailed` or `errors.ServerTimeout`.
        """
        if self._busy < self._most and not self._waiting and not self._closed:
            self._busy += 1
        else:
            await self._turn(due)
        if self._idle and not fresh:
            return self._idle.pop(), True
        try:
            return await self._dial(due), False
        except BaseException:
            self._leave()
            raise

    def ask(
        self, found: connection.Connection, answer: connection.Answer, method: str, head: bytes, body: bytes
    ) -> None:
        """Send a request on a connection that was taken; its place is given back with the end of the answer."""
        self._active[found] = answer
        self.arm(answer.due)
        found.ask(answer, method, head, body)

    def renew(self) -> None:
        """As `Client.renew`."""
        self._generation += 1
        for one in tuple(self._idle):
            one.abort()

    def close(self) -> None:
        """Give up all that is under way; nothing more is sent."""
        self._closed = True
        self.renew()
        for one in tuple(self._active):
            one.fail(_over())
        for turn in tuple(self._waiting):
            self._refuse(turn, _over())

    def sweep(self, now: float) -> float:
        """End what has waited for too long; when to look again, in the loop's time."""
        due = NEVER
        for turn, until in tuple(self._waiting.items()):
            if until <= now:
                self._refuse(turn, _full())
            else:
                due = min(due, until)
        for one, answer in tuple(self._active.items()):
            until = min(answer.due, one.stalled + connection.WRITE_S)
            if until <= now:
                one.fail(errors.ServerTimeout(f"The {WHO} did not answer in time."))
            else:
                due = min(due, until)
        while self._idle and self._idle[0].since + KEPT_S <= now:
            self._idle[0].abort()
        return min(due, self._idle[0].since + KEPT_S) if self._idle else due

    # --- connection.Owner ---

    def freed(self, one: connection.Connection) -> None:
        self._active.pop(one, None)
        kept = not self._closed and one.generation == self._generation and len(self._idle) < self._kept
        if one.usable and kept:
            one.since = self.now()
            self._idle.append(one)
            self.arm(one.since + KEPT_S)
        else:
            one.abort()
        self._leave()

    def lost(self, one: connection.Connection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(one)

    # --- places ---

    async def _turn(self, due: float) -> None:
        """Wait for a place."""
        if self._closed:
            raise _over()
        if len(self._waiting) >= WAITING:
            raise _full()
        turn: asyncio.Future[None] = self.loop.create_future()
        until = self._waiting[turn] = min(due, self.now() + PLACE_S)
        self.arm(until)
        try:
            await turn
        except BaseException:
            if self._waiting.pop(turn, None) is None and not turn.cancelled() and turn.exception() is None:
                self._leave()  # it came just when nobody wanted it any more
            raise

    def _leave(self) -> None:
        """A place is free: it goes to who has waited longest."""
        while self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():
                turn.set_result(None)
                return
        self._busy -= 1

    def _refuse(self, turn: "asyncio.Future[None]", failure: errors.SmcpError) -> None:
        self._waiting.pop(turn, None)
        if not turn.done():
            turn.set_exception(failure)

    async def _dial(self, due: float) -> connection.Connection:
        wait, longest = _TRIES_S
        until = min(due, self.now() + CONNECT_S)
        while (link := self._connected()) is None:
            # Nothing tells when the listener's queue has room again.
            if self.now() + wait > until:
                raise errors.ServerTimeout(f"The {WHO} took no connection in time.")
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)
        generation = self._generation
        try:
            _, made = await self.loop.create_unix_connection(lambda: connection.Connection(self, generation), sock=link)
        except OSError as error:
            link.close()
            raise errors.ServerFailed(f"The {WHO} can't be reached.", detail=str(error)) from error
        except BaseException:
            link.close()
            raise
        if self._closed:
            made.abort()
            raise _over()
        return made

    def _connected(self) -> socket.socket | None:
        """None when the listener has as many waiting as it takes."""
        try:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:  # no descriptor is left
            raise _full() from error
        try:
            made.connect(self._path)  # at once, or not at all
        except OSError as error:
            made.close()
            if error.errno == errno.EAGAIN:
                return None
            raise errors.ServerFailed(f"The {WHO} can't be reached.", detail=str(error)) from error
        return made


def _check(answer: connection.Answer) -> None:
    if answer.status in _REDIRECTS and answer.field("location"):
        raise errors.ServerFailed(
            f"The {WHO} redirects ({answer.status}), which is not followed: set the path in the manifest to where it"
            " answers."
        )
    if answer.field("content-encoding").lower() not in ("", "identity"):
        raise errors.ServerFailed(f"The {WHO}'s answer is compressed, although it was asked not to be.")


def _unsendable(what: str) -> errors.ServerFailed:
    return errors.ServerFailed(f"A request to the {WHO} can't be sent: {what} is not what HTTP has.")


def _full() -> errors.Unavailable:
    return errors.Unavailable(f"Too many connections to the {WHO} are in use. Retry shortly.")


def _over() -> errors.ServerFailed:
    return errors.ServerFailed(f"The conversation with the {WHO} has ended.")
