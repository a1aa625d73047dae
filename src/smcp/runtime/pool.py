"""The pool: which running copy serves whom, started on need or ahead of it, stopped when idle or retired.

A modern server is shared: a few copies carry the requests of a whole tenant (or of one principal, where the manifest
says so). A legacy server keeps one client's session, so each session gets a copy of its own.

| room | what it decides |
|---|---|
| `groups` | shared copies: which one a call goes to, how many there are, when they end |
| `spares` | copies that wait for the next session, started ahead |
| `starts` | the way of one copy from the wish to its first word, and its end |
| `turns`, `ledger`, `breaker` | who may start now, how much a tenant may have, who is left alone for a while |
| `demand`, `scaling` | how many spares, how many copies: from what was seen |
| `health` | who does not answer any more |
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec

from smcp.kernel import errors, ids, observe
from smcp.runtime import breaker, driver, groups, health, ledger, memory, spares, starts

_EVICT_S = 5.0
"""A shared copy that is idle for so long gives way to another server of its tenant."""
_TICK_S = 1.0


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long the pool waits for what. All in seconds."""

    idle_stop_s: float
    """Without requests, until a shared copy is stopped, and demand forgotten."""
    start_s: float = 30.0
    """For a copy to be started and to answer for the first time."""
    drain_s: float = 300.0
    """For the last calls of a retired copy."""
    check_s: float = health.CHECK_S
    """Without a word of an idle copy, until it is asked whether it is there."""
    answer_s: float = health.ANSWER_S
    """For its answer."""


class Seen(msgspec.Struct, frozen=True):
    """One copy, as its owner may see it."""

    kind: str
    """`shared`, `own` (a session's, or one request's) or `spare`."""
    state: str
    """`starting` (it has not said anything yet), `serving`, `ready` (a spare), `draining`, `ending`."""
    deployment: str
    outstanding: int
    age_s: float


class View(msgspec.Struct, frozen=True):
    """What runs of one server on this node."""

    copies: tuple[Seen, ...]
    starting: int
    waiting: int
    """Requests that wait for a shared copy, and starts that wait for a turn."""
    breaker: str
    retry_s: float
    """Seconds until a start is tried again, while the breaker is open."""


class _Launch:
    """The start of a private copy."""

    def __init__(self, spec: driver.Spec, task: "asyncio.Task[starts.Copy]") -> None:
        self.server = spec.tenant, spec.server
        self.task = task
        self.unwanted = False
        """Its server was stopped meanwhile."""
        self.outdated = False
        """What it gets at its start changed meanwhile."""


class Pool:
    """Every running copy of this node."""

    def __init__(
        self,
        stdio: driver.Driver,
        lines: Callable[[driver.Spec], driver.Lines],
        metrics: observe.Metrics,
        patience: Patience,
        *,
        caps: Callable[[ids.TenantId], ledger.Caps],
        starts_at_once: int,
        memory_bytes: Callable[[driver.Spec], int | ledger.Process],
        free_memory: Callable[[], float] = memory.free,
    ) -> None:
        """`lines` makes the sink of one copy's stderr; `caps` says what a tenant's plan allows, `memory_bytes` what a
        copy may take at most (or which process it is in), `free_memory` which part of the machine's memory is free."""
        self._stdio = stdio
        self._patience = patience
        self._starts = starts.Starts(
            stdio,
            lines,
            metrics,
            ledger.Ledger(caps),
            at_once=starts_at_once,
            timeout_s=patience.start_s,
            memory=memory_bytes,
        )
        self._starts.evict = self._evict
        self._groups = groups.Groups(
            self._starts,
            self._shared_copy,
            idle_s=patience.idle_stop_s,
            drain_s=patience.drain_s,
            wait_s=patience.start_s,
        )
        self._live = self._groups.live
        self._spares = spares.Spares(
            self._starts, metrics, memory_s=patience.idle_stop_s, timeout_s=patience.start_s, free=free_memory
        )
        self._health = health.Health(self._silent, check_s=patience.check_s, answer_s=patience.answer_s)
        self._private: dict[driver.Instance, starts.Copy] = {}
        self._launching: set[_Launch] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._replaced = metrics.counter(observe.Metric.INSTANCES_SILENT)
        self._waits = {
            source: metrics.histogram(observe.Metric.INSTANCE_WAITS, source=source) for source in ("start", "spare")
        }
        for kind, state in itertools.product(observe.DRIVERS, observe.INSTANCE_STATES):
            metrics.watch(
                observe.Metric.INSTANCES, lambda k=kind, s=state: self._in_state(k, s), driver=kind, state=state
            )

    async def start(self) -> None:
        """Begin to look after the copies."""
        self._sweeper = asyncio.create_task(self._sweep(), name="pool-sweeper")

    async def close(self) -> None:
        """End everything."""
        tasks: list[asyncio.Task[Any]] = [*self._groups.starting(_every), *(launch.task for launch in self._launching)]
        if self._sweeper is not None:
            tasks.append(self._sweeper)
        for task in tasks:
            task.cancel()
        await self._health.close()
        await self._spares.close()
        self._groups.stop(_every)
        for copy in list(self._starts.copies):
            self._starts.end(copy, "the platform stops")
        await self._stdio.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._starts.ended()
        self._private.clear()

    # --- for requests ---

    def warm(self, spec: driver.Spec, share: str = "") -> driver.Instance | None:
        """The shared copy with the fewest calls, if one runs already: the hot path, without an await."""
        group = self._live.get((spec.tenant, spec.server, spec.deployment, share))
        return None if group is None else group.pick()

    def peek(self, spec: driver.Spec, share: str = "") -> driver.Instance | None:
        """A shared copy that runs, without a sign that anybody needs it."""
        group = self._live.get((spec.tenant, spec.server, spec.deployment, share))
        return None if group is None else next((one for one in group.ready if one.alive), None)

    def when_ready(self, told: Callable[[groups.Key], None]) -> None:
        """`told` hears of each shared copy that takes calls from now on. It must not raise."""
        self._groups.when_ready = told

    async def shared(self, spec: driver.Spec, share: str = "") -> driver.Instance:
        """A copy that carries modern requests of everybody who has the same `share`; started if need be.

        Raises `errors.ServerCrashing` while its breaker is open, `errors.ServerTimeout` or `errors.Unavailable` when
        it does not come in time, `errors.RateLimited` at the tenant's cap, or what the driver raises.
        """
        instance = self.warm(spec, share)
        if instance is not None:
            return instance
        began = time.monotonic()
        instance = await self._groups.get(spec, share)
        self._waits["start"].observe(time.monotonic() - began)
        return instance

    async def private(self, spec: driver.Spec, *, modern: bool = False) -> driver.Instance:
        """A copy of one's own, that nobody has used before; the caller ends it through `release`.

        Raises as `shared` does.
        """
        began = time.monotonic()
        copy = self._spares.take(spec, modern=modern)
        source = "start" if copy is None else "spare"
        if copy is None:
            copy = await self._launch(spec, modern=modern)
        copy.instance.owner = None
        self._private[copy.instance] = copy
        self._waits[source].observe(time.monotonic() - began)
        return copy.instance

    async def release(self, instance: driver.Instance, reason: str) -> None:
        """End a private copy."""
        # Shielded: who gives up waiting must not leave the copy half ended.
        task = self._release(instance, reason)
        if task is not None:
            await asyncio.shield(task)

    def release_soon(self, instance: driver.Instance, reason: str) -> None:
        """As `release`, from where nothing can be awaited."""
        self._release(instance, reason)

    def suspect(self, instance: driver.Instance) -> None:
        """A shared copy was silent for a whole call: ask it something, and replace it if it is silent again."""
        found = self._groups.find(instance)
        if found is not None:
            self._health.suspect(found[1])

    # --- for whoever administers servers ---

    async def stop_server(self, tenant: ids.TenantId, server: ids.ServerName, reason: str) -> None:
        """End every copy of a server, those that are just starting too; returns when none is left."""
        await self._stop(lambda one: one == (tenant, server), reason)

    async def stop_tenant(self, tenant: ids.TenantId, reason: str) -> None:
        """As `stop_server`, for every server of a tenant."""
        await self._stop(lambda one: one[0] == tenant, reason)

    def retire(self, tenant: ids.TenantId, server: ids.ServerName, live: str) -> None:
        """Deployment `live` has taken over: shared copies of others end with their last call; who listens is told."""
        self._groups.retire((tenant, server), live)
        self._spares.drop(lambda one: one == (tenant, server), "another deployment is live", but=live)
        self._starts.forget(lambda one: one == (tenant, server), but=live)

    def renew(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Something that copies of a server get at their start has changed: no new request reaches one that runs.

        Each ends with its last call; who listens is told. A copy that carries a session ends too, and its session.
        """
        wanted = (tenant, server)
        self._groups.renew(wanted)
        self._spares.drop(lambda one: one == wanted, "its secrets changed")
        for launch in self._launching:
            launch.outdated = launch.outdated or launch.server == wanted
        for copy in self._private.values():
            copy.outdated = copy.outdated or copy.server == wanted
        self._starts.forget(lambda one: one == wanted)
        self._end_outdated()

    def instances(self, tenant: ids.TenantId, server: ids.ServerName) -> int:
        """How many copies of a server run on this node; those that are ending, and spares, left out."""
        return sum(
            1
            for copy in self._starts.copies
            if copy.server == (tenant, server) and copy.ending is None and not copy.entry.spare
        )

    def used(self, tenant: ids.TenantId) -> tuple[int, int]:
        """The tenant's copies, and the bytes of memory that they may take, as its plan counts them."""
        return self._starts.ledger.used(tenant)

    def view(self, tenant: ids.TenantId, server: ids.ServerName) -> View:
        """What runs of a server on this node."""
        now = time.monotonic()
        wanted = (tenant, server)
        mine = [one for one in self._groups.all() if one.key[:2] == wanted]
        draining = {copy for one in mine for copy in one.draining}
        fuses = list(self._starts.fuses(wanted))
        worst = max(fuses, key=lambda one: one.wait(now), default=breaker.Breaker())
        return View(
            copies=tuple(
                Seen(
                    kind="spare" if copy.entry.spare else "own" if copy.instance in self._private else "shared",
                    state=_state(copy, draining),
                    deployment=copy.spec.deployment,
                    outstanding=len(copy.instance.calls),
                    age_s=round(now - copy.born, 3),
                )
                for copy in sorted(self._starts.copies, key=lambda one: one.born)
                if copy.server == wanted
            ),
            starting=self._starts.starting[wanted],
            waiting=sum(len(one.waiters) for one in mine) + self._starts.turns.queued(tenant),
            breaker=worst.state(now).value,
            retry_s=round(worst.wait(now), 3),
        )

    # --- inside ---

    async def _shared_copy(self, spec: driver.Spec) -> starts.Copy:
        began = time.monotonic()
        copy = self._spares.take(spec, modern=True)
        if copy is None:
            copy = await self._starts.asked(spec, modern=True)
            await self._starts.prove(copy)
            self._spares.learned(spec, time.monotonic() - began, modern=True)
        return copy

    async def _launch(self, spec: driver.Spec, *, modern: bool) -> starts.Copy:
        # A task of its own, so that a stop can call it off while its caller waits for it.
        launch = _Launch(spec, asyncio.create_task(self._starts.asked(spec, modern=modern)))
        self._launching.add(launch)
        try:
            copy = await launch.task
        except asyncio.CancelledError:
            if launch.task.done() and not launch.task.cancelled() and launch.task.exception() is None:
                # It had come, and its caller was called off before hearing of it.
                self._starts.listen(launch.task.result())
                self._starts.end(launch.task.result(), "nobody waits for it any more")
            if not launch.unwanted:
                raise
            raise errors.Unavailable("The server was stopped or changed while it was starting. Retry.") from None
        finally:
            self._launching.discard(launch)
        copy.outdated = launch.outdated
        if launch.unwanted:
            await asyncio.shield(self._starts.end(copy, "its server was stopped while it started"))
            raise errors.Unavailable("The server was stopped or changed while it was starting. Retry.")
        self._starts.listen(copy)
        return copy

    def _release(self, instance: driver.Instance, reason: str) -> "asyncio.Task[None] | None":
        copy = self._private.pop(instance, None)
        if copy is None:
            return None
        if not instance.alive and copy.ending is None:
            self._starts.crashed(copy)
        return self._starts.end(copy, reason)

    async def _stop(self, affected: Callable[[starts.Server], bool], reason: str) -> None:
        starting = [*self._groups.starting(affected), *self._spares.coming(affected)]
        for launch in self._launching:
            if affected(launch.server):
                launch.unwanted = True
                launch.task.cancel()
                starting.append(asyncio.create_task(_over(launch.task)))
        self._groups.stop(affected)
        self._spares.drop(affected, reason)
        self._end_all(affected, reason)
        await asyncio.gather(*map(asyncio.shield, starting), return_exceptions=True)
        # Once more: what was just there when it was called off.
        ends = self._end_all(affected, reason)
        await asyncio.gather(*map(asyncio.shield, ends))
        self._starts.forget(affected)

    def _end_all(self, affected: Callable[[starts.Server], bool], reason: str) -> list["asyncio.Task[None]"]:
        mine = [copy for copy in self._starts.copies if affected(copy.server)]
        for copy in mine:
            self._private.pop(copy.instance, None)
        return [self._starts.end(copy, reason) for copy in mine]

    def _evict(self, tenant: ids.TenantId) -> bool:
        return self._spares.evict(tenant) or self._groups.evict(tenant, _EVICT_S)

    def _silent(self, copy: starts.Copy) -> None:
        """A copy does not answer any more."""
        found = self._groups.find(copy.instance)
        if found is not None:
            found[0].remove(copy)
        self._spares.remove(copy)
        self._replaced.inc()
        self._starts.end(copy, "it does not answer any more")

    def _end_outdated(self) -> None:
        for copy in [one for one in self._private.values() if one.outdated and not len(one.instance.calls)]:
            self._release(copy.instance, "its secrets changed")

    def _in_state(self, kind: str, state: str) -> float:
        if state == "starting":
            return float(self._starts.coming[kind])
        copies = [one for one in self._starts.copies if one.spec.driver == kind]
        if state == "ending":
            return float(sum(1 for one in copies if one.ending is not None))
        spare = state == "spare"
        return float(sum(1 for one in copies if one.ending is None and one.entry.spare is spare))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._patience.idle_stop_s / 4, _TICK_S))
            now = time.monotonic()
            self._groups.tend(now)
            self._spares.tend(now)
            shared = [copy for group in self._groups.all() for copy in group.copies.values()]
            self._health.tend(now, [*shared, *(one for one in self._spares.copies() if one.useful)])
            self._end_outdated()
            for instance in [one for one in self._private if not one.alive]:
                self._release(instance, "it has ended")
            self._starts.tidy()


def _state(copy: starts.Copy, draining: set[starts.Copy]) -> str:
    if copy.ending is not None:
        return "ending"
    if copy in draining or copy.outdated:
        return "draining"
    if copy.entry.spare:
        return "ready" if copy.useful else "starting"
    return "serving"


def _every(_server: starts.Server) -> bool:
    return True


async def _over(task: "asyncio.Task[starts.Copy]") -> None:
    await asyncio.wait({task})
