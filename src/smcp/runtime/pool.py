"""The pool: which running copy serves whom, started on need, stopped when idle or retired.

A modern server is shared: one copy carries the requests of a whole tenant (or of one principal, where the manifest
says so). A legacy server keeps one client's session, so each session gets a copy of its own.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine

from smcp.kernel import errors, ids, observe
from smcp.runtime import driver

_Key = tuple[str, str, str, str]


class _Shared:
    """A shared copy and how it is used."""

    def __init__(self, key: _Key, starting: "asyncio.Task[driver.Instance]") -> None:
        self.key = key
        self.starting = starting
        self.used = time.monotonic()
        self.retired = False

    def instance(self) -> driver.Instance | None:
        done = self.starting.done() and not self.starting.cancelled() and self.starting.exception() is None
        return self.starting.result() if done else None


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
        self._starting: dict[ids.TenantId, int] = {}
        self._stops: set[asyncio.Task[None]] = set()
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
        instance = await self._start(spec, modern=modern)
        self._private[instance] = spec
        return instance

    async def release(self, instance: driver.Instance, reason: str) -> None:
        """End a private copy."""
        self._private.pop(instance, None)
        await instance.stop(reason)

    def release_soon(self, instance: driver.Instance, reason: str) -> None:
        """As `release`, from where nothing can be awaited."""
        self._background(self.release(instance, reason))

    async def stop_server(self, tenant: ids.TenantId, server: ids.ServerName, reason: str, keep: str = "") -> None:
        """End every copy of a server, except those of the deployment `keep`."""
        shared = [found for key, found in self._shared.items() if key[:2] == (tenant, server) and key[2] != keep]
        for found in shared:
            self._drop(found, reason)
        private = [
            instance
            for instance, spec in self._private.items()
            if (spec.tenant, spec.server) == (tenant, server) and spec.deployment != keep
        ]
        await asyncio.gather(*(self.release(instance, reason) for instance in private), *self._stops)

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
        starting = self._starting.get(spec.tenant, 0)
        if self._count(spec.tenant) + starting >= self._cap:
            raise errors.RateLimited(
                "The tenant runs as many copies of its servers as it may. End sessions, or wait.", retry_after=5.0
            )
        self._starting[spec.tenant] = starting + 1
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
        return shared + sum(1 for spec in self._private.values() if spec.tenant == tenant)

    def _count_all(self) -> float:
        return float(len(self._shared) + len(self._private))

    def _drop(self, found: _Shared, reason: str) -> None:
        if self._shared.get(found.key) is found:
            del self._shared[found.key]
        self._background(self._stop_shared(found, reason))

    async def _stop_shared(self, found: _Shared, reason: str) -> None:
        try:
            instance = await found.starting
        except errors.SmcpError:
            return
        await instance.stop(reason)

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_stop_s / 4, 15.0))
            limit = time.monotonic() - self._idle_stop_s
            for found in list(self._shared.values()):
                instance = found.instance()
                if instance is None:
                    continue
                if not instance.alive or (found.used < limit and not len(instance.calls)):
                    self._drop(found, "idle")
            for instance in [one for one in self._private if not one.alive]:
                self._private.pop(instance, None)
