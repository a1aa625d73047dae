"""Spares: copies that are started ahead, because starts were asked for before.

A spare was never used by anybody: it goes to any principal of its tenant and deployment, once. It counts against the
plan, gives way to every start that somebody waits for, and goes with demand, with its server, its secrets, its
deployment, and when the machine's memory runs short.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable
from typing import Final

from smcp.kernel import errors, ids, observe
from smcp.runtime import breaker, demand, driver, starts

_ROOM: Final = 0.15
"""Part of the machine's memory that has to be free for a further spare."""
_TIGHT: Final = 0.07
"""Below this part every spare goes."""
_FIRST_S: Final = 0.3
"""No further spare so soon behind one that was taken: who took it says its first words, and a start takes a core."""
_PAUSE_S: Final = 5.0
_MOST_S: Final = 600.0
"""No spare for so long, at first and at most, behind one that ended by itself; doubled each time."""

_Key = tuple[ids.TenantId, ids.ServerName, bool]


class Shelf:
    """The spares of a server, for one era."""

    __slots__ = ("bad", "coming", "demand", "held_until", "modern", "mute", "ready", "spec")

    def __init__(self, spec: driver.Spec, memory_s: float, *, modern: bool) -> None:
        self.spec = spec
        self.modern = modern
        self.demand = demand.Demand(memory_s)
        self.ready: collections.deque[starts.Copy] = collections.deque()
        self.coming: set[asyncio.Task[None]] = set()
        self.mute = False
        """It ends when it is asked before `initialize`: it is not asked."""
        self.bad = 0
        self.held_until = 0.0


class Spares:
    """Every spare of this node."""

    def __init__(
        self,
        starter: starts.Starts,
        metrics: observe.Metrics,
        *,
        memory_s: float,
        timeout_s: float,
        free: Callable[[], float],
    ) -> None:
        """`memory_s`: how long demand is remembered; `free` says which part of the machine's memory is."""
        self._starts = starter
        self._memory_s = memory_s
        self._timeout_s = timeout_s
        self._free = free
        self._shelves: dict[_Key, Shelf] = {}
        self._closed = False
        self._used = metrics.counter(observe.Metric.SPARES, outcome="used")
        self._unused = metrics.counter(observe.Metric.SPARES, outcome="unused")

    def take(self, spec: driver.Spec, *, modern: bool) -> starts.Copy | None:
        """A copy is asked for: a spare, if there is one. The wish is remembered, and the next spare made.

        Not at once where one was there (`tend` does it): a start takes a core for a while, just when who took the spare
        says its first words.
        """
        shelf = self._shelf(spec, modern=modern)
        now = time.monotonic()
        shelf.demand.take(now)
        found: starts.Copy | None = None
        while shelf.ready and found is None:
            # A modern one that has not answered yet might never do.
            at = next((n for n, one in enumerate(shelf.ready) if one.useful), None if modern else 0)
            if at is None:
                break
            found = shelf.ready[at]
            del shelf.ready[at]
            if not found.instance.alive:
                self._starts.end(found, "it has ended")
                found = None
        if found is not None:
            found.on_closed = None
            found.entry.used()
            found.settle()
            found.heard = found.instance.calls.heard
            self._used.inc()
        else:
            self._fill(shelf, now)
        return found

    def learned(self, spec: driver.Spec, seconds: float, *, modern: bool) -> None:
        """A copy took so long from the wish to its first word."""
        self._shelf(spec, modern=modern).demand.learn(seconds)

    def drop(self, affected: Callable[[starts.Server], bool], reason: str, *, but: str = "") -> None:
        """End the spares of some servers, and those that are coming; deployment `but` is kept."""
        for key, shelf in list(self._shelves.items()):
            if affected(key[:2]) and shelf.spec.deployment != but:
                self._empty(shelf, reason)
                del self._shelves[key]

    def evict(self, tenant: ids.TenantId) -> bool:
        """End one spare of the tenant: the one of the server that was asked for longest ago; or else call off those
        that are coming."""
        mine = [one for key, one in self._shelves.items() if key[0] == tenant and one.ready]
        if not mine:
            # Those that have no place yet would give none back.
            coming = self.coming(lambda one: one[0] == tenant) if self._starts.ledger.spares[tenant] else []
            for task in coming:
                task.cancel()
            return bool(coming)
        shelf = min(mine, key=lambda one: one.demand.taken)
        self._starts.end(shelf.ready.popleft(), "somebody needs its place")
        self._unused.inc()
        return True

    def tend(self, now: float) -> None:
        """Once a second: make what is missing, let go of what is too much."""
        tight = bool(self._shelves) and self._free() < _TIGHT
        for key, shelf in list(self._shelves.items()):
            for copy in [one for one in shelf.ready if not one.instance.alive]:
                self._lost(copy)
            wanted = 0 if tight else self._wanted(shelf, now)
            while len(shelf.ready) > wanted:
                self._starts.end(shelf.ready.popleft(), "idle" if not tight else "memory is short")
                self._unused.inc()
            if shelf.demand.over(now) and not shelf.ready and not shelf.coming and not shelf.spec.least:
                del self._shelves[key]
                continue
            # Whoever asks in the meantime and finds none has one made at once, in `take`.
            if now - shelf.demand.taken >= _FIRST_S:
                self._fill(shelf, now)

    def remove(self, copy: starts.Copy) -> None:
        """It is no spare any more."""
        for shelf in self._shelves.values():
            if copy in shelf.ready:
                shelf.ready.remove(copy)

    def copies(self) -> list[starts.Copy]:
        """Every spare."""
        return [copy for shelf in self._shelves.values() for copy in shelf.ready]

    async def close(self) -> None:
        """Make no more; who made one is gone when this returns."""
        self._closed = True
        coming = [task for shelf in self._shelves.values() for task in shelf.coming]
        for shelf in self._shelves.values():
            self._empty(shelf, "the platform stops")
        await asyncio.gather(*coming, return_exceptions=True)

    def coming(self, affected: Callable[[starts.Server], bool]) -> list["asyncio.Task[None]"]:
        """Those that are being made."""
        return [task for key, shelf in self._shelves.items() if affected(key[:2]) for task in shelf.coming]

    def _shelf(self, spec: driver.Spec, *, modern: bool) -> Shelf:
        key = (spec.tenant, spec.server, modern)
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = Shelf(spec, self._memory_s, modern=modern)
        elif shelf.spec.deployment != spec.deployment:
            # What is known of the demand stays; the copies are of another deployment.
            self._empty(shelf, "another deployment is live")
            shelf.spec, shelf.mute, shelf.bad, shelf.held_until = spec, False, 0, 0.0
        return shelf

    def _empty(self, shelf: Shelf, reason: str) -> None:
        for task in shelf.coming:
            task.cancel()
        while shelf.ready:
            self._starts.end(shelf.ready.popleft(), reason)
            self._unused.inc()

    def _wanted(self, shelf: Shelf, now: float) -> int:
        spec = shelf.spec
        if spec.volume is not None:
            # It would have read files that others change before it is used.
            return 0
        if spec.worker is not None:
            # What costs time is its process, which its tenant's Workers share.
            return 0
        if spec.remote is not None:
            # There is nothing to start, and nobody may speak to a legacy server before its client does.
            return 0
        most = self._starts.ledger.caps(spec.tenant).spares
        learned = shelf.demand.wanted(now, most)
        return learned if shelf.modern else max(learned, min(spec.least, most))

    def _fill(self, shelf: Shelf, now: float) -> None:
        missing = self._wanted(shelf, now) - len(shelf.ready) - len(shelf.coming)
        if missing <= 0 or self._closed or now < shelf.held_until:
            return
        if self._starts.fuse(shelf.spec).state(now) is not breaker.State.CLOSED or self._free() < _ROOM:
            return
        for _ in range(missing):
            task = asyncio.create_task(self._make(shelf), name=f"spare {shelf.spec.tenant}/{shelf.spec.server}")
            shelf.coming.add(task)
            task.add_done_callback(shelf.coming.discard)

    async def _make(self, shelf: Shelf) -> None:
        spec = shelf.spec
        began = time.monotonic()
        try:
            copy = await self._starts.spare(spec, modern=shelf.modern)
        except errors.SmcpError:
            self._hold(shelf)
            return
        if copy is None:
            return
        if shelf.spec is not spec or self._closed:
            copy.turn.end()
            self._starts.end(copy, "another deployment is live")
            return
        copy.on_closed = self._lost
        shelf.ready.append(copy)
        asked = shelf.modern or not shelf.mute
        if asked:
            with contextlib.suppress(errors.SmcpError):
                copy.ask()
        if await self._starts.spoken(copy, self._timeout_s if asked else 0.0):
            shelf.demand.learn(time.monotonic() - began)
            copy.settle()

    def _lost(self, copy: starts.Copy) -> None:
        """A spare has ended by itself."""
        for shelf in self._shelves.values():
            if copy in shelf.ready:
                shelf.ready.remove(copy)
                if not copy.useful and not copy.modern:
                    shelf.mute = True
                self._hold(shelf)
        self._starts.end(copy, "it has ended")

    @staticmethod
    def _hold(shelf: Shelf) -> None:
        shelf.held_until = time.monotonic() + min(_PAUSE_S * 2.0 ** min(shelf.bad, 16), _MOST_S)
        shelf.bad += 1
