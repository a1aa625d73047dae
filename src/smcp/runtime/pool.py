"""The pool: which running copy serves whom, started on need, stopped when idle or retired.

A modern server is shared: one copy carries the requests of a whole tenant (or of one principal, where the manifest
says so). A legacy server keeps one client's session, so each session gets a copy of its own.

A copy counts against its tenant's cap from before its start until its process is gone: opening and closing sessions
quickly makes no more processes than the cap.
"""

import asyncio
import collections
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Final

from smcp.kernel import errors, ids, observe
from smcp.runtime import driver, peer

_QUESTION_S: Final = 5.0
"""How long a copy that was silent for a whole call may take to say anything."""

_Key = tuple[ids.TenantId, ids.ServerName, str, str]


class _Shared:
    """A shared copy and how it is used."""

    def __init__(self, key: _Key, starting: "asyncio.Task[driver.Instance]") -> None:
        self.key = key
        self.starting = starting
        self.used = time.monotonic()
        self.retired = False
        """A later deployment is live: no request comes any more, and it is stopped when the last call is answered."""
        self.suspected = False
        """It is being asked whether it still answers."""

    def instance(self) -> driver.Instance | None:
        done = self.starting.done() and not self.starting.cancelled() and self.starting.exception() is None
        return self.starting.result() if done else None


class _Launch:
    """The start of a private copy."""

    def __init__(self, spec: driver.Spec) -> None:
        self.spec = spec
        self.unwanted = False
        """Its server was stopped meanwhile."""
        self.outdated = False
        """What it gets at its start changed meanwhile."""
        self.over = asyncio.Event()


class Pool:
    """Every running copy of this node."""

    def __init__(
        self,
        stdio: driver.Driver,
        lines: Callable[[driver.Spec], driver.Lines],
        metrics: observe.Metrics,
        *,
        idle_stop_s: float,
        tenant_instances: int,
    ) -> None:
        """`lines` makes the sink of one copy's stderr; `tenant_instances` caps the copies of one tenant."""
        self._stdio = stdio
        self._lines = lines
        self._idle_stop_s = idle_stop_s
        self._cap = tenant_instances
        self._shared: dict[_Key, _Shared] = {}
        self._private: dict[driver.Instance, driver.Spec] = {}
        self._launching: set[_Launch] = set()
        self._outdated: set[driver.Instance] = set()
        """Private copies that end with their last call."""
        self._renewals = itertools.count()
        self._starting: collections.Counter[ids.TenantId] = collections.Counter()
        self._ending: collections.Counter[ids.TenantId] = collections.Counter()
        """Shared copies that are being stopped."""
        self._stops: dict[asyncio.Task[None], ids.TenantId] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._started_ok = metrics.histogram(observe.Metric.INSTANCE_START, driver="stdio", outcome="succeeded")
        self._started_bad = metrics.histogram(observe.Metric.INSTANCE_START, driver="stdio", outcome="failed")
        metrics.watch(observe.Metric.INSTANCES, self._count_all, driver="stdio")

    async def start(self) -> None:
        """Begin to stop idle copies."""
        self._sweeper = asyncio.create_task(self._sweep(), name="pool-sweeper")

    def warm(self, spec: driver.Spec, share: str = "") -> driver.Instance | None:
        """The shared copy if it runs already: the hot path, without an await."""
        found = self._shared.get((spec.tenant, spec.server, spec.deployment, share))
        instance = None if found is None else found.instance()
        if found is None or instance is None or not instance.alive:
            return None
        found.used = time.monotonic()
        return instance

    async def shared(self, spec: driver.Spec, share: str = "") -> driver.Instance:
        """The copy that carries modern requests of everybody who has the same `share`; started if need be.

        Raises `errors.ServerFailed`, `errors.SandboxMissing`, or `errors.RateLimited` at the tenant's cap.
        """
        instance = self.warm(spec, share)
        if instance is not None:
            return instance
        key = (spec.tenant, spec.server, spec.deployment, share)
        found = self._shared.get(key)
        if found is None or found.starting.done():
            task = asyncio.create_task(self._start(spec, modern=True), name=f"start {spec.tenant}/{spec.server}")
            found = self._shared[key] = _Shared(key, task)
        found.used = time.monotonic()
        try:
            # Shielded: many wait for one start, and one who gives up must not take it from the others.
            return await asyncio.shield(found.starting)
        except errors.SmcpError:
            if self._shared.get(key) is found:
                del self._shared[key]
            raise

    async def private(self, spec: driver.Spec, *, modern: bool = False) -> driver.Instance:
        """A copy of one's own; the caller ends it through `release`. Raises as `shared` does."""
        launch = _Launch(spec)
        self._launching.add(launch)
        try:
            instance = await self._start(spec, modern=modern)
            self._private[instance] = spec
            if launch.outdated:
                self._outdated.add(instance)
            if launch.unwanted:
                await self.release(instance, "its server was stopped while it started")
                raise errors.Unavailable("The server was stopped or changed while it was starting. Retry.")
            return instance
        finally:
            self._launching.discard(launch)
            launch.over.set()

    async def release(self, instance: driver.Instance, reason: str) -> None:
        """End a private copy."""
        # Shielded: who gives up waiting must not leave the copy half ended.
        await asyncio.shield(self._release(instance, reason))

    def release_soon(self, instance: driver.Instance, reason: str) -> None:
        """As `release`, from where nothing can be awaited."""
        self._release(instance, reason)

    async def stop_server(self, tenant: ids.TenantId, server: ids.ServerName, reason: str) -> None:
        """End every copy of a server, those that are just starting too; returns when none is left."""
        await self._stop(lambda spec_tenant, spec_server: (spec_tenant, spec_server) == (tenant, server), reason)

    async def stop_tenant(self, tenant: ids.TenantId, reason: str) -> None:
        """As `stop_server`, for every server of a tenant."""
        await self._stop(lambda spec_tenant, _: spec_tenant == tenant, reason)

    def retire(self, tenant: ids.TenantId, server: ids.ServerName, live: str) -> None:
        """Deployment `live` has taken over: shared copies of others end with their last call; who listens is told."""
        for key, found in self._shared.items():
            if key[:2] == (tenant, server) and key[2] != live:
                found.retired = True
                self._hush(found)

    def renew(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Something that copies of a server get at their start has changed: no new request reaches one that runs.

        Each ends with its last call; who listens is told. A copy that carries a session ends too, and its session.
        """
        for key, found in list(self._shared.items()):
            if key[:2] == (tenant, server) and not found.retired:
                # Out of the way of the next request, which starts a copy; the sweeper ends this one.
                del self._shared[key]
                found.key = (*key[:3], f"{key[3]}\0{next(self._renewals)}")
                self._shared[found.key] = found
                found.retired = True
                self._hush(found)
        self._outdated |= {one for one, spec in self._private.items() if (spec.tenant, spec.server) == (tenant, server)}
        for launch in self._launching:
            if (launch.spec.tenant, launch.spec.server) == (tenant, server):
                launch.outdated = True
        self._end_retired()

    def suspect(self, instance: driver.Instance) -> None:
        """A shared copy was silent for a whole call: ask it something, and replace it if it is silent again."""
        for found in self._shared.values():
            if found.instance() is instance and not found.suspected:
                found.suspected = True
                self._background(found.key[0], self._question(found, instance))

    async def _question(self, found: _Shared, instance: driver.Instance) -> None:
        try:
            await peer.Peer(instance, modern=True, timeout_s=_QUESTION_S).introduce()
        except errors.ServerTimeout:
            self._drop(found, "it does not answer any more")
        except errors.SmcpError:
            pass  # an answer, or its end, which others notice
        finally:
            found.suspected = False

    async def _stop(self, affected: Callable[[str, str], bool], reason: str) -> None:
        launching = [one for one in self._launching if affected(one.spec.tenant, one.spec.server)]
        for launch in launching:
            launch.unwanted = True
        stops = [self._drop(found, reason) for key, found in list(self._shared.items()) if affected(key[0], key[1])]
        private = [one for one, spec in self._private.items() if affected(spec.tenant, spec.server)]
        stops += [self._release(one, reason) for one in private]
        await asyncio.gather(*map(asyncio.shield, stops), *(launch.over.wait() for launch in launching))

    def instances(self, tenant: ids.TenantId, server: ids.ServerName) -> int:
        """How many copies of a server run on this node."""
        shared = sum(1 for key in self._shared if key[:2] == (tenant, server))
        return shared + sum(1 for spec in self._private.values() if (spec.tenant, spec.server) == (tenant, server))

    async def close(self) -> None:
        """End everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        starting = [found.starting for found in self._shared.values()]
        self._shared.clear()
        self._private.clear()
        await self._stdio.close()
        await asyncio.gather(*starting, *self._stops, return_exceptions=True)

    async def _start(self, spec: driver.Spec, *, modern: bool) -> driver.Instance:
        while self._count(spec.tenant) >= self._cap:
            ending = [stop for stop, tenant in self._stops.items() if tenant == spec.tenant]
            if not ending:
                raise errors.RateLimited(
                    "The tenant runs as many copies of its servers as it may. End sessions, or wait.", retry_after=5.0
                )
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        self._starting[spec.tenant] += 1
        began = time.monotonic()
        try:
            instance = await self._stdio.start(spec, modern=modern, lines=self._lines(spec))
        except errors.SmcpError:
            self._started_bad.observe(time.monotonic() - began)
            raise
        finally:
            self._starting[spec.tenant] -= 1
            if not self._starting[spec.tenant]:
                del self._starting[spec.tenant]
        self._started_ok.observe(time.monotonic() - began)
        return instance

    def _count(self, tenant: ids.TenantId) -> int:
        shared = sum(1 for key, found in self._shared.items() if key[0] == tenant and found.instance() is not None)
        private = sum(1 for spec in self._private.values() if spec.tenant == tenant)
        return shared + private + self._starting[tenant] + self._ending[tenant]

    def _count_all(self) -> float:
        return float(len(self._shared) + len(self._private))

    def _drop(self, found: _Shared, reason: str) -> "asyncio.Task[None]":
        if self._shared.get(found.key) is found:
            del self._shared[found.key]
        tenant = found.key[0]
        self._ending[tenant] += 1
        return self._background(tenant, self._stop_shared(found, reason))

    async def _stop_shared(self, found: _Shared, reason: str) -> None:
        try:
            instance = await asyncio.shield(found.starting)
            await instance.stop(reason)
        except errors.SmcpError:
            return  # it never started
        finally:
            self._ending[found.key[0]] -= 1

    def _release(self, instance: driver.Instance, reason: str) -> "asyncio.Task[None]":
        spec = self._private.get(instance)
        return self._background(spec.tenant if spec else ids.PLATFORM, self._stop_private(instance, reason))

    async def _stop_private(self, instance: driver.Instance, reason: str) -> None:
        try:
            await instance.stop(reason)
        finally:
            self._private.pop(instance, None)
            self._outdated.discard(instance)

    def _background(self, tenant: ids.TenantId, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._stops[task] = tenant
        task.add_done_callback(self._stops.pop)
        return task

    @staticmethod
    def _hush(found: _Shared) -> None:
        instance = found.instance()
        if instance is not None:
            instance.calls.end_listening(errors.Unavailable("A new version of the server is live. Listen again."))

    def _end_retired(self) -> None:
        """Let go of what no request reaches any more and no call waits for."""
        for found in list(self._shared.values()):
            instance = found.instance()
            if found.retired and instance is not None and not len(instance.calls):
                self._drop(found, "retired")
        for one in [one for one in self._outdated if not len(one.calls)]:
            self._outdated.discard(one)
            self._release(one, "its secrets changed")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_stop_s / 4, 15.0))
            limit = time.monotonic() - self._idle_stop_s
            for found in list(self._shared.values()):
                instance = found.instance()
                if instance is None:
                    if found.starting.done():  # it failed, and nobody waited to hear of it
                        self._drop(found, "it did not start")
                    continue
                if found.retired:
                    self._hush(found)
                idle = (found.retired or found.used < limit) and not len(instance.calls)
                if idle or not instance.alive:
                    self._drop(found, "retired" if found.retired else "idle")
            self._end_retired()
            for instance in [one for one in self._private if not one.alive]:
                self._release(instance, "it has ended")
