"""Streams of the legacy wire, and who follows them: what `replay` keeps, and `resume` sends."""

import asyncio
import collections
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from smcp.gateway import sessions
from smcp.kernel import jsonrpc
from smcp.runtime import calls, spool

OPENED: Final = b"o"
"""A stream was opened; its data is `Asked`."""
OPEN: Final = b"p"
"""The same again, for a stream whose first record had to go."""
MESSAGE: Final = b"m"
ENDED: Final = b"e"
"""The response, which ends the stream."""
ENDED_LARGE: Final = b"l"
"""The response, which was too large to be kept here."""

_INBOX: Final = 64
_INBOX_BYTES: Final = 1024 * 1024
"""What waits in memory for a connection, before it reads from the log."""
_LARGE_S: Final = 120.0
"""How long an answer that is too large for the log waits on disk for its client to come back."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """The request that a stream answers. New fields come at the end, with a default."""

    id: bytes
    method: str
    params: bytes = b""
    repeatable: bool = False
    """It may be asked again: `params` are kept."""
    seen: str = ""
    """Which tools the caller had (`narrow.digest`): what came for them is not for who has others now."""


class Item(NamedTuple):
    """An event on its way to a client."""

    position: int
    """0: it is not kept."""
    kind: bytes
    data: bytes


class Follower(sessions.Stream):
    """A connection that follows a stream."""

    def __init__(self, after: int = 0, *, behind: bool) -> None:
        """`after`: what the client has. `behind`: there is more on record."""
        super().__init__()
        self.after = after
        self.behind = behind
        self.lost = False
        """Something was neither sent nor kept."""
        self._inbox: collections.deque[Item] = collections.deque()
        self._held = 0
        self._woken = False

    def offer(self, item: Item) -> None:
        """A new event. Without room for it, it and those before are read from the log again."""
        if self.behind:
            self.lost = self.lost or not item.position
        else:
            self._inbox.append(item)
            self._held += len(item.data)
            if len(self._inbox) > _INBOX or (self._held > _INBOX_BYTES and len(self._inbox) > 1):
                self.lost = self.lost or not all(one.position for one in self._inbox)
                self._inbox.clear()
                self._held = 0
                self.behind = True
        self.wake()

    def waits(self) -> bool:
        """Is there anything to send?"""
        return self.behind or self.lost or bool(self._inbox)

    def take(self) -> Item | None:
        """The next event that is in memory."""
        if not self._inbox:
            return None
        item = self._inbox.popleft()
        self._held -= len(item.data)
        return item

    def close(self) -> None:
        """Another connection follows, or nobody does."""
        self.closed = True
        self._inbox.clear()
        self.wake()

    async def wait(self) -> None:
        if not self._woken:
            await super().wait()
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        super().wake()


class Sink(Protocol):
    """Where a stream is put on record."""

    def has_room(self, track: "Track", /) -> bool:
        """May `track` put more now? If not, its `pump` is called once it may."""
        ...

    def doomed(self) -> bool:
        """Do all hosted servers end just now, and this process with them?"""
        ...

    def put(self, track: "Track", kind: bytes, data: bytes, /) -> None:
        """An event of it."""
        ...


class Track:
    """One stream: of one request, or the session's GET stream."""

    def __init__(self, events: Sink, asked: Asked | None, number: int = 0) -> None:
        self.number = number
        """0 until it is on record."""
        self.opened = number
        """Position of the record that tells what it is."""
        self.asked = asked
        self.done = False
        """Its last event is on record, or was sent."""
        self.last = number
        """Position of its last event on record."""
        self.gap = 0
        """Position of its newest event that is not kept any more."""
        self.lost = False
        """It had an event that was never kept, and nobody followed."""
        self.kept = True
        self.sent = 0
        """Position of the last event that was sent to anybody."""
        self.call: calls.Call | None = None
        self.repeating = False
        """Its request is being sent again, after a restart."""
        self.large: spool.Result | None = None
        self.reading = False
        """`large` is being sent."""
        self.owner: Follower | None = None
        """Who hears of the end, even when it does not follow any more."""
        self._events = events
        self._follower: Follower | None = None
        self._ending = False
        self._brake: Callable[[bool], None] | None = None
        self._again: Callable[[], bool] | None = None
        self._braked = False

    def follow(self, follower: Follower) -> None:
        """From now on `follower` gets what comes, and who did so far does not: no message goes to two connections."""
        if self._follower is not None:
            self._follower.close()
        self._follower = follower

    def leave(self, follower: Follower) -> None:
        """Nobody follows, if `follower` did."""
        if self._follower is follower:
            self._follower = None

    def drive(
        self, call: calls.Call, brake: Callable[[bool], None] | None, again: Callable[[], bool] | None = None
    ) -> None:
        """Put on record what `call` brings, until it is over; `brake` holds back the hosted server meanwhile.

        `again`: is the call, which has failed, in flight again?
        """
        self.call = call
        self._brake = brake
        self._again = again
        self.pump()

    def _hold(self, on: bool) -> None:
        if on != self._braked and self._brake is not None:
            self._braked = on
            self._brake(on)

    def pump(self) -> None:
        """Take what there is. Called by whoever makes it come: it must not wait."""
        call = self.call
        if call is None or self._ending:
            return
        while call.frames:
            if not self._events.has_room(self):
                self._hold(True)
                return  # asked again once there is
            self._events.put(self, MESSAGE, call.take())
        self._hold(False)
        if not call.done:
            call.watch(self.pump)
            return
        doomed = call.failure is not None and self._events.doomed()
        if call.failure is not None and not doomed and self._again is not None and self._again():
            call.watch(self.pump)
            return
        self._ending = True
        if doomed:
            return  # its end is not its own: the next process finds it open, and knows better what to say
        if call.failure is not None:
            failure = call.failure
            self._events.put(self, ENDED, jsonrpc.error(call.id, failure.rpc_code, failure.public, failure.data))
        elif call.spooled is not None:
            self.large, call.spooled = call.spooled, None
            asyncio.get_running_loop().call_later(_LARGE_S, self._give_up)
            self._events.put(self, ENDED_LARGE, b"")
        else:
            self._events.put(self, ENDED, call.response)

    def arrived(self, item: Item) -> bool:
        """An event is on record, or can't be: to whoever follows. False when nobody got what is not kept."""
        self.done = self.done or item.kind in (ENDED, ENDED_LARGE)
        if item.position:
            self.last = item.position
        follower = self._follower
        if follower is not None and not follower.closed:
            follower.offer(item)
        if self.owner is not None and self.done:
            self.owner.wake()
        return bool(item.position) or (follower is not None and not follower.closed)

    def wake(self) -> None:
        """Something that concerns everybody happened."""
        self._hold(False)
        for one in (self._follower, self.owner):
            if one is not None:
                one.wake()

    def _give_up(self) -> None:
        if self.reading:
            asyncio.get_running_loop().call_later(_LARGE_S, self._give_up)
        else:
            self.drop_large()

    def drop_large(self) -> None:
        """What waits on disk is not needed any more. Idempotent."""
        if self.large is not None:
            self.large.close()
            self.large = None
