"""Messages of one conversation that are under way to its server, and the answers that are read.

A request that can be sent without waiting is, and its answer is read where it comes in, if it comes as a whole: no
task, no future and no timer for it. Whatever has to wait for something (a connection, a place, a stream, what must not
be overtaken) has a task.
"""

import asyncio
import collections
import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

from smcp.kernel import errors
from smcp.upstream import transport
from smcp.upstream import wire as wires

AT_ONCE: Final = 128
"""Messages that are under way at once: each has a connection of its own."""
LISTENERS: Final = 512
"""Streams that last, beside those messages."""
WAITING: Final = 256
"""Messages that wait for the ones before them."""
WAITING_BYTES: Final = 8 * 1024 * 1024


class Speaker(Protocol):
    """Who knows how the server is spoken to."""

    who: str
    """What the server is called in errors."""

    def begin(self, sent: wires.Sent, told: Callable[[], None]) -> transport.Begun | None:
        """As `wires.Wire.begin`."""
        ...

    def heard(self, sent: wires.Sent, begun: transport.Begun) -> bool:
        """As `wires.Wire.heard`."""
        ...

    async def post(self, sent: wires.Sent, begun: transport.Begun | None) -> None:
        """As `wires.Wire.post`."""
        ...

    def failed(self, sent: wires.Sent, error: errors.SmcpError) -> None:
        """There will be no response to it."""
        ...


class Deliveries:
    """Those of one conversation."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._places = Places(AT_ONCE)
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._begun: dict[int, tuple[wires.Sent, transport.Begun]] = {}
        """Requests without a task, by number."""
        self._listening = 0
        self._held = 0
        """Bytes of messages that are not delivered yet."""
        self._before: asyncio.Task[None] | None = None
        """The last message that what follows waits for."""

    def put(self, sent: wires.Sent, cancelled: int = 0) -> None:
        """Deliver a message; when that is done, request `cancelled` is aborted. Raises `errors.Unavailable`."""
        full = len(self._tasks) + len(self._begun) - self._listening >= AT_ONCE + WAITING
        if full or (sent.lasts and self._listening >= LISTENERS) or self._held + len(sent.body) > WAITING_BYTES:
            raise errors.Unavailable(f"Too many messages to the {self._speaker.who} are under way. Retry shortly.")
        self._held += len(sent.body)
        if sent.number and self._before is None and not sent.lasts and self._begin(sent):
            return
        self._listening += sent.lasts
        task = self._start(sent, self._deliver(sent, self._before, cancelled))
        if not sent.number:
            # What has no response has no other sign of its arrival: what follows it must not overtake it.
            self._before = task

    def abort(self, number: int) -> None:
        """Hang up on this request."""
        found = self._begun.pop(number, None)
        if found is not None:
            self._over(*found)
        for task, mine in self._tasks.items():
            if mine == number:
                task.cancel()

    def close(self) -> None:
        """Hang up on all, but for whoever calls."""
        me = asyncio.current_task()
        for number in tuple(self._begun):
            self._over(*self._begun.pop(number))
        for task in self._tasks:
            if task is not me:
                task.cancel()

    # --- without a task ---

    def _begin(self, sent: wires.Sent) -> bool:
        """Send a request, if that can be without waiting for anything."""
        if not self._places.enter_now():
            return False
        try:
            begun = self._speaker.begin(sent, functools.partial(self._told, sent))
        except errors.SmcpError:
            begun = None  # its task finds the same, and tells it
        if begun is None:
            self._places.leave()
            return False
        self._begun[sent.number] = sent, begun
        return True

    def _told(self, sent: wires.Sent) -> None:
        """Its answer is there, or somebody has to read it."""
        found = self._begun.pop(sent.number, None)
        if found is None:
            return
        over = True
        try:
            over = self._speaker.heard(sent, found[1])
        except errors.SmcpError as error:
            self._failed(sent, error)
        except Exception as error:  # noqa: BLE001  a fault of ours, as in `_deliver`; there is no task to tell the log
            self._failed(sent, self._fault())
            told = {"message": "an answer could not be handed over", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)
        if over:
            self._over(*found)
        else:
            self._start(sent, self._read(*found), found[1])

    def _over(self, sent: wires.Sent, begun: transport.Begun) -> None:
        begun.close()
        self._held -= len(sent.body)
        self._places.leave()

    # --- with a task ---

    def _start(
        self, sent: wires.Sent, run: Coroutine[None, None, None], begun: transport.Begun | None = None
    ) -> "asyncio.Task[None]":
        task = asyncio.create_task(run, name="message to a server")
        self._tasks[task] = sent.number
        task.add_done_callback(functools.partial(self._delivered, sent, begun))
        return task

    def _delivered(self, sent: wires.Sent, begun: transport.Begun | None, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if begun is not None:
            self._over(sent, begun)
            return
        self._held -= len(sent.body)
        self._listening -= sent.lasts
        if self._before is task:
            self._before = None

    async def _deliver(self, sent: wires.Sent, before: "asyncio.Task[None] | None", cancelled: int) -> None:
        try:
            if before is not None:
                await asyncio.wait({before})
            # What lasts keeps nobody from being answered: it has a bound and connections of its own.
            async with contextlib.nullcontext() if sent.lasts else self._places:
                await self._read(sent, None)
        finally:
            if cancelled:
                self.abort(cancelled)

    async def _read(self, sent: wires.Sent, begun: transport.Begun | None) -> None:
        try:
            await self._speaker.post(sent, begun)
        except errors.SmcpError as error:
            self._failed(sent, error)
        except Exception:
            # A fault of ours: the log gets it with the task, and nobody waits for what will not come.
            self._failed(sent, self._fault())
            raise

    def _failed(self, sent: wires.Sent, error: errors.SmcpError) -> None:
        if isinstance(error, errors.ParseError):
            who = self._speaker.who
            error = errors.ServerInvalid(f"The {who}'s answer is not valid: {error.public}")
        self._speaker.failed(sent, error)

    def _fault(self) -> errors.ServerFailed:
        return errors.ServerFailed(f"The conversation with the {self._speaker.who} failed on the platform.")


class Places:
    """So many at once; who comes first is served first."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    def enter_now(self) -> bool:
        """Take a place, if one is free."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def __aenter__(self) -> None:
        if self.enter_now():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # it came just when nobody wanted it any more
            raise

    async def __aexit__(self, *raised: object) -> None:
        self.leave()
