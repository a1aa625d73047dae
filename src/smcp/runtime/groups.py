"""Groups: the shared copies of one server for everybody who may share them.

A call goes to the copy with the fewest unanswered calls. A group that has none makes its callers wait while one starts;
one that is not asked for goes to zero.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from smcp.kernel import errors, ids
from smcp.runtime import driver, scaling, starts

WAITING: Final = 512
"""Callers who may wait for one group's copy; more are refused."""

Key = tuple[ids.TenantId, ids.ServerName, str, str]
"""Tenant, server, deployment, and who shares."""


class Group:
    """Shared copies of one deployment."""

    __slots__ = (
        "_answered", "_looked", "copies", "draining", "key", "ready", "retired", "scaler", "spec", "starting", "used",
        "waiters",
    )  # fmt: skip

    def __init__(self, key: Key, spec: driver.Spec) -> None:
        self.key = key
        self.spec = spec
        self.ready: list[driver.Instance] = []
        """Those that take calls."""
        self.copies: dict[driver.Instance, starts.Copy] = {}
        """Those in `ready`."""
        self.draining: set[starts.Copy] = set()
        """Those that take no more calls, and end with their last one."""
        self.starting: set[asyncio.Task[None]] = set()
        self.waiters: set[asyncio.Future[errors.SmcpError | None]] = set()
        self.used = time.monotonic()
        self.retired = 0.0
        """When a later deployment came live, or something that its copies got at their start changed."""
        self.scaler = scaling.Scaler()
        self._answered = 0
        self._looked = self.used

    def pick(self) -> driver.Instance | None:
        """The copy for a call: the hot path, without an await."""
        ready = self.ready
        if not ready:
            return None
        best = ready[0]
        if len(ready) > 1:
            least = len(best.calls)
            for one in ready:
                if least == 0:
                    break
                calls = len(one.calls)
                if calls < least:
                    best, least = one, calls
        if not best.alive:
            # Its end is under way: whoever hears of it does the rest.
            ready.remove(best)
            return self.pick()
        self.used = time.monotonic()
        return best

    def add(self, copy: starts.Copy) -> None:
        """A copy that has answered."""
        self.copies[copy.instance] = copy
        self.ready.append(copy.instance)
        self.wake(None)

    def remove(self, copy: starts.Copy) -> None:
        """It takes no more calls."""
        if self.copies.pop(copy.instance, None) is not None and copy.instance in self.ready:
            self.ready.remove(copy.instance)

    def drain(self, copy: starts.Copy) -> None:
        """Let it end with its last call; who listens is told to listen again."""
        self.remove(copy)
        self.draining.add(copy)
        copy.instance.calls.end_listening(errors.Unavailable("This copy of the server ends. Listen again."))

    def wake(self, failure: errors.SmcpError | None) -> None:
        """Let the waiting look again, or hear why there is nothing."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(failure)

    async def wait(self, seconds: float) -> errors.SmcpError | None:
        """Return at the next `wake`. Raises `errors.Unavailable` when too many wait, or nothing comes in time."""
        if len(self.waiters) >= WAITING:
            raise errors.Unavailable(
                "Too many requests wait for this server to start. Retry shortly.", headers=(("Retry-After", "2"),)
            )
        waiter: asyncio.Future[errors.SmcpError | None] = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError as error:
            raise errors.ServerTimeout("The hosted MCP server did not start in time.") from error
        finally:
            self.waiters.discard(waiter)

    @property
    def outstanding(self) -> int:
        """Calls without an answer."""
        return sum(len(one.calls) for one in self.ready)

    def look(self, now: float) -> scaling.Look:
        """What there is to see, since the last look."""
        answered = sum(one.calls.sent - len(one.calls) for one in self.ready)
        before, self._answered = self._answered, answered
        seconds, self._looked = max(now - self._looked, 0.001), now
        return scaling.Look(
            copies=len(self.ready),
            starting=len(self.starting),
            outstanding=self.outstanding,
            # With a copy less the sum may be smaller than it was.
            answered=max(0, answered - before),
            seconds=seconds,
        )


class Groups:
    """Every group of this node."""

    def __init__(
        self,
        starter: starts.Starts,
        source: Callable[[driver.Spec], Awaitable[starts.Copy]],
        *,
        idle_s: float,
        drain_s: float,
        wait_s: float,
    ) -> None:
        """`source` gives a shared copy that has answered. `drain_s` bounds how long a retired copy waits for its calls,
        `wait_s` how long a caller waits for a copy."""
        self._starts = starter
        self._source = source
        self._idle_s = idle_s
        self._drain_s = drain_s
        self._wait_s = wait_s
        self.live: dict[Key, Group] = {}
        self.when_ready: Callable[[Key], None] = lambda _: None
        """Hears of each copy that takes calls from now on. Must not raise."""
        self._old: set[Group] = set()
        """Those that no request finds any more."""

    def all(self) -> list[Group]:
        """Those that requests find, and the others."""
        return [*self.live.values(), *self._old]

    async def get(self, spec: driver.Spec, share: str) -> driver.Instance:
        """A shared copy; started if need be, by one who wants it, and awaited by all. Raises as `Pool.shared`."""
        key = (spec.tenant, spec.server, spec.deployment, share)
        deadline = time.monotonic() + self._wait_s
        while True:
            group = self.live.get(key)
            if group is None:
                group = self.live[key] = Group(key, spec)
            instance = group.pick()
            if instance is not None:
                return instance
            group.used = time.monotonic()
            if not group.starting:
                self._grow(group)
            failure = await group.wait(max(0.001, deadline - time.monotonic()))
            # A copy that was outdated while it started serves those who waited for it, and nobody later.
            instance = group.pick() if failure is None else None
            if instance is not None:
                return instance
            # Ended before it said a word: nobody has lost anything yet, and its breaker says when to give up.
            if failure is not None and not isinstance(failure, errors.ServerFailed):
                raise failure

    def _grow(self, group: Group) -> None:
        task = asyncio.create_task(self._one_more(group), name=f"start {group.key[0]}/{group.key[1]}")
        group.starting.add(task)

    async def _one_more(self, group: Group) -> None:
        task = asyncio.current_task()
        failure: errors.SmcpError | None = errors.Unavailable("The server was stopped while it was starting. Retry.")
        try:
            copy = await self._source(group.spec)
            copy.on_closed = self._lost
            group.add(copy)
            failure = None
            if not copy.instance.alive:
                self._lost(copy)
            else:
                self.when_ready(group.key)
        except errors.SmcpError as error:
            failure = error
        finally:
            if task is not None:
                group.starting.discard(task)
            if failure is not None and not group.ready:
                group.wake(failure)

    def _lost(self, copy: starts.Copy) -> None:
        for group in self.all():
            if group.copies.get(copy.instance) is copy:
                group.remove(copy)
                self._starts.crashed(copy)
            group.draining.discard(copy)
        self._starts.end(copy, "it has ended")

    def find(self, instance: driver.Instance) -> tuple[Group, starts.Copy] | None:
        """The group that an instance belongs to."""
        for group in self.all():
            copy = group.copies.get(instance)
            if copy is not None:
                return group, copy
        return None

    # --- what happens around it ---

    def retire(self, server: starts.Server, live: str) -> None:
        """Deployment `live` has taken over."""
        for group in self.live.values():
            if group.key[:2] == server and group.key[2] != live and not group.retired:
                group.retired = time.monotonic()
                self._hush(group)

    def renew(self, server: starts.Server) -> None:
        """No request reaches a copy of now any more."""
        for key, group in list(self.live.items()):
            if key[:2] == server:
                del self.live[key]
                group.retired = group.retired or time.monotonic()
                self._old.add(group)
                self._end_retired(group, group.retired)

    def stop(self, affected: Callable[[starts.Server], bool]) -> None:
        """Give up what is starting, and forget what runs; its copies are ended by the caller."""
        for group in self.all():
            if affected(group.key[:2]):
                self._forget(group)
                for task in group.starting:
                    task.cancel()
                for copy in list(group.copies.values()):
                    group.remove(copy)
                group.wake(errors.Unavailable("The server was stopped or changed while it was starting. Retry."))

    def starting(self, affected: Callable[[starts.Server], bool]) -> list["asyncio.Task[None]"]:
        """The starts under way."""
        return [task for group in self.all() if affected(group.key[:2]) for task in group.starting]

    def evict(self, tenant: ids.TenantId, idle_s: float) -> bool:
        """End the copy that nobody has used for longest, if it is `idle_s` seconds or more."""
        now = time.monotonic()
        idle = [
            group
            for group in self.live.values()
            if group.key[0] == tenant and group.ready and not group.outstanding and now - group.used >= idle_s
        ]
        if not idle:
            return False
        group = min(idle, key=lambda one: one.used)
        self._end(group, group.copies[group.ready[-1]], "another server of the tenant needs its place")
        return True

    def tend(self, now: float) -> None:
        """Once a second: let go of what is idle or retired, and keep as many copies as the calls need."""
        for group in self.all():
            for copy in [one for one in group.copies.values() if not one.instance.alive]:
                self._lost(copy)
            self._drained(group, now)
            if group.retired:
                self._end_retired(group, now)
            elif self._idle(group, now):
                for copy in list(group.copies.values())[group.spec.least :]:
                    self._end(group, copy, "idle")
            if not group.retired and (group.spec.least or not self._idle(group, now)):
                self._scale(group, now)
            if not (group.ready or group.starting or group.draining or group.waiters) and (
                group.retired or self._idle(group, now)
            ):
                self._forget(group)

    def _idle(self, group: Group, now: float) -> bool:
        return now - group.used >= self._idle_s and not group.outstanding and not group.waiters

    def _scale(self, group: Group, now: float) -> None:
        have = len(group.ready) + len(group.starting)
        wanted = group.scaler.wanted(now, group.look(now), self._bounds(group.spec))
        if wanted > have and (group.ready or group.spec.least) and not self._refused(group):
            for _ in range(wanted - have):
                self._grow(group)
        elif wanted < have and len(group.ready) > 1:
            idlest = min(group.ready, key=lambda one: len(one.calls))
            group.drain(group.copies[idlest])
            self._drained(group, now)

    def _refused(self, group: Group) -> bool:
        return any(one.wait(time.monotonic()) > 0 for one in self._starts.fuses(group.key[:2]))

    def _bounds(self, spec: driver.Spec) -> scaling.Bounds:
        if spec.volume is not None:
            # Two copies would disagree about files that they have read.
            return scaling.Bounds(min(spec.least, 1), 1)
        if spec.worker is not None:
            # They would be conversations with the same isolate.
            return scaling.Bounds(min(spec.least, 1), 1)
        allowed = self._starts.ledger.caps(spec.tenant).instances
        most = max(1, min(spec.most or allowed, allowed))
        return scaling.Bounds(min(spec.least, most), most)

    def _drained(self, group: Group, now: float) -> None:
        for copy in list(group.draining):
            if not len(copy.instance.calls) or not copy.instance.alive:
                group.draining.discard(copy)
                self._starts.end(copy, "it is not needed any more")

    def _end_retired(self, group: Group, now: float) -> None:
        self._hush(group)
        over = now - group.retired >= self._drain_s
        for copy in list(group.copies.values()):
            if over or not len(copy.instance.calls):
                self._end(group, copy, "retired")
        if over:
            for copy in list(group.draining):
                group.draining.discard(copy)
                self._starts.end(copy, "retired")

    def _end(self, group: Group, copy: starts.Copy, reason: str) -> None:
        group.remove(copy)
        self._starts.end(copy, reason)

    def _forget(self, group: Group) -> None:
        self._old.discard(group)
        if self.live.get(group.key) is group:
            del self.live[group.key]

    @staticmethod
    def _hush(group: Group) -> None:
        for instance in group.ready:
            instance.calls.end_listening(errors.Unavailable("A new version of the server is live. Listen again."))
