"""Deploying: resolve, download, build, store, probe, live; in the background, one step after the other.

Nothing that is live changes before the last step, and that is one compare-and-set. Whatever happens earlier (an error,
a cancel, the platform's death) leaves a directory that the next start sweeps, at most an artefact that nothing names
yet, and an operation that says how it ended.
"""

import asyncio
import contextlib
import pathlib
import weakref
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from smcp.audit import events
from smcp.deploy import archive, build, builders, manifest, remotes, shelves, versions
from smcp.deploy import artefacts as artefact_store
from smcp.deploy import uploads as upload_store
from smcp.deploy.sources import any as sources
from smcp.deploy.sources import remote
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe, redact
from smcp.stores import records
from smcp.stores import tenant as stores

_TOGETHER: Final = 2
_WAITING: Final = 8
_STEPS: Final = 200
_KEPT_S: Final = 7 * 86400.0
_SUSPENDED: Final = "The tenant was suspended during this deployment. What was live before still is."
_INTERRUPTED: Final = "The platform stopped during this deployment. What was live before still is. Deploy again."


class Step(msgspec.Struct, frozen=True):
    """Progress: when (epoch seconds), which stage, and words for people."""

    at: float
    stage: str
    text: str


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment under way, or how it ended. Kept for a week."""

    id: str
    tenant: str
    state: Literal["running", "succeeded", "failed"]
    steps: tuple[Step, ...] = ()
    error: str | None = None
    server: str | None = None
    deployment: str | None = None


class Probed(msgspec.Struct, frozen=True):
    """What a first instance of a deployment answered."""

    eras: versions.Eras
    tools: tuple[versions.Tool, ...]
    server_info: versions.ServerInfo = versions.ServerInfo()
    instructions: str = ""
    tasks: bool = False
    remarks: tuple[str, ...] = ()
    """What its owner should know, and what keeps nothing from being live."""
    wire: versions.Wire = ""
    """How a remote server speaks."""


Probe = Callable[[ids.TenantId, ids.ServerName, versions.Deployment], Awaitable[Probed]]
"""Starts one instance of a draft and asks it. Raises `errors.SmcpError` when it is no MCP server."""


Reach = Callable[[remote.Remote], Awaitable[None]]
"""Looks whether an address may be dialled, now. Raises `errors.DeployFailed`, which says why not."""


Record = Callable[[events.Event], Awaitable[None]]
"""Writes an event to the audit trail and returns when it is durable."""


class _Order(msgspec.Struct, frozen=True, kw_only=True):
    """What one submission asks for, checked."""

    operation: str
    by: str
    tenant: ids.TenantId
    server: ids.ServerName
    source: sources.Source
    manifest: manifest.Manifest


class Deployer:
    """Runs deployments. One at a time for each tenant, two at a time on this node."""

    def __init__(
        self,
        store: stores.Store,
        versions: versions.Versions,
        artefacts: artefact_store.Artefacts,
        probe: Probe,
        builder: builders.Builders,
        uploads: upload_store.Uploads,
        clock: clocks.Clock,
        *,
        work: pathlib.Path,
        record: Record,
        reach: Reach | None = None,
        metrics: observe.Metrics | None = None,
        traces: observe.Traces | None = None,
        log: observe.Logger | None = None,
    ) -> None:
        """`work` is a directory of the deployer's own: `start` empties it. Without `reach` no remote server is
        deployed."""
        self._log = log
        self._operations = records.Records(store, Operation, ("operation",), cached=1024)
        self._versions = versions
        self._artefacts = artefacts
        self._probe = probe
        self._builder = builder
        self._uploads = uploads
        self._clock = clock
        self._work = work
        self._shelves = shelves.Shelves(work, clock)
        self._record = record
        self._reach = reach
        self._metrics = metrics
        self._traces = traces or observe.Traces()
        self._running: dict[str, Operation] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._busy: dict[tuple[str, str], str] = {}
        self._slots = asyncio.Semaphore(_TOGETHER)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closed = False
        self._stopped: set[str] = set()
        """Operations that end because their tenant was suspended."""

    async def start(self) -> None:
        """Sweep what a crash left: build directories and half-made copies of artefacts. Before anything is deployed."""
        await asyncio.to_thread(self._sweep)

    async def submit(
        self, by: str, tenant: ids.TenantId, source: str, name: str | None, manifest_toml: str | None
    ) -> Operation:
        """Begin a deployment. Raises for what is wrong with the order itself: `errors.InvalidParams`, `errors.BadName`,
        `errors.NotFound` for an upload that is not this tenant's, `errors.Conflict` when the same server is being
        deployed already, `errors.RateLimited` when too many wait."""
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        order = _order(by, tenant, source, name, manifest_toml)
        if isinstance(order.source, sources.Upload):
            await self._uploads.check(tenant, order.source)
        busy = self._busy.get((tenant, order.server))
        if busy is not None:
            raise errors.Conflict(f"The server {order.server} is being deployed already (operation {busy}).")
        if sum(1 for other, _ in self._busy if other == tenant) >= _WAITING:
            raise errors.RateLimited(f"{_WAITING} deployments of this tenant are under way.", retry_after=10)
        self._busy[tenant, order.server] = order.operation
        try:
            operation = Operation(id=order.operation, tenant=tenant, state="running", server=order.server)
            await self._operations.put(tenant, (operation.id,), operation, ttl=_KEPT_S)
        except BaseException:
            del self._busy[tenant, order.server]
            raise
        self._running[operation.id] = operation
        task = asyncio.create_task(self._run(order), name=f"deploy {operation.id}")
        self._tasks[operation.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(operation.id, None))
        return operation

    async def ended(self, tenant: ids.TenantId, operation: str, within_s: float | None = None) -> Operation:
        """As `operation`, when it is not running any more, or after `within_s` at the latest."""
        task = self._tasks.get(operation)
        if task is not None and (await self.operation(tenant, operation)).state == "running":
            await asyncio.wait({task}, timeout=within_s)
        return await self.operation(tenant, operation)

    async def operation(self, tenant: ids.TenantId, operation: str) -> Operation:
        """How a deployment is getting on, or ended. Raises `errors.NotFound`."""
        now = self._running.get(operation)
        if now is not None and now.tenant == tenant:
            return now
        found = await self._operations.get(tenant, operation)
        if found is None:
            raise errors.NotFound
        if found.value.state == "running":
            # It runs nowhere: the process that ran it is gone.
            return msgspec.structs.replace(found.value, state="failed", error=_INTERRUPTED)
        return found.value

    async def stop_tenant(self, tenant: ids.TenantId) -> None:
        """End a suspended tenant's deployments; they fail and change nothing, and no process of theirs is left."""
        theirs = [one.id for one in self._running.values() if one.tenant == tenant]
        self._stopped.update(theirs)
        ended = [self._tasks[one] for one in theirs if one in self._tasks]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        await self._shelves.forget(tenant)

    async def close(self) -> None:
        """End what runs; it fails and changes nothing. Idempotent."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one deployment ---

    async def _run(self, order: _Order) -> None:
        error, code, deployment = "", "", ""
        began = self._clock.monotonic()
        try:
            # The tenant's own turn first: one tenant's many orders wait for each other, not the others for them.
            async with self._turns.setdefault(order.tenant, asyncio.Lock()), self._slots:
                with self._traces.step(observe.Span.DEPLOY, tenant=order.tenant, server=order.server):
                    if isinstance(order.source, remote.Remote):
                        deployment = await self._connect(order, order.source)
                    else:
                        deployment = await self._deploy(order, order.source)
        except errors.SmcpError as failure:
            error, code = failure.public, failure.code
            if self._log is not None:
                # The tenant reads the public half; the rest is what an operator needs.
                self._log.info("deployment failed", tenant=order.tenant, server=order.server, why=str(failure))
        except asyncio.CancelledError:
            error, code = _INTERRUPTED, "unavailable"
            if order.operation in self._stopped:
                error, code = _SUSPENDED, "tenant_suspended"
        except Exception as failure:
            # The edge of a background task: without this nobody would ever hear of it.
            error, code = f"An error of the platform: {type(failure).__name__}. Its log has more.", "internal"
            raise
        finally:
            if self._metrics is not None:
                outcome = "failed" if error else "succeeded"
                took = self._clock.monotonic() - began
                self._metrics.histogram(observe.Metric.DEPLOYS, outcome=outcome).observe(took)
            await self._finish(order, error=error, code=code, deployment=deployment)

    async def _connect(self, order: _Order, source: remote.Remote) -> str:
        """A server that runs elsewhere: nothing is fetched or built."""
        described = order.manifest.remote
        assert described is not None
        if self._reach is None:
            raise errors.DeployFailed("This platform can't reach remote servers.")
        tell = self._teller(order)
        tell("address", ", ".join((source.url, *(f"{name} from {one}" for name, one in described.headers.items()))))
        await self._reach(source)
        number = await self._versions.reserve(order.tenant, order.server)
        try:
            draft = versions.Deployment(
                id=ids.new("dep"),
                server=order.server,
                number=number,
                created=self._clock.now(),
                by=order.by,
                source=str(source),
                digest=remotes.digest(described),
                manifest=order.manifest,
                lock=(),
                argv=(),
                interpreter="",
                runtime="remote",
            )
            final = await self._probed(order, draft, "asking it")
            async with self._versions.changing(order.tenant):
                await self._versions.publish(order.tenant, final)
        except BaseException:
            await self._versions.abandon(order.tenant, order.server)
            raise
        tell("live", f"{order.server} is deployment {final.number}")
        return final.id

    async def _deploy(self, order: _Order, source: sources.Package) -> str:
        directory = self._work / order.operation
        directory.mkdir(parents=True, mode=0o700)
        reserved = False
        try:
            if isinstance(source, sources.Upload):
                # Handed over as a file, so that no builder holds a store or names a tenant.
                await self._uploads.copy(order.tenant, source, directory / build.UPLOAD)
            with self._traces.step(observe.Span.DEPLOY_BUILD):
                shelf = self._shelves.of(order.tenant)
                built = await self._builder.build(source, order.manifest, directory, self._teller(order), shelf)
            number = await self._versions.reserve(order.tenant, order.server)
            reserved = True
            draft = versions.Deployment(
                id=ids.new("dep"),
                server=order.server,
                number=number,
                created=self._clock.now(),
                by=order.by,
                source=built.source,
                digest="",
                manifest=built.asked or order.manifest,
                lock=built.lock,
                argv=built.argv,
                interpreter=built.interpreter,
                runtime=built.runtime,
            )
            return await self._release(order, draft, built, directory)
        except BaseException:
            if reserved:
                await self._versions.abandon(order.tenant, order.server)
            raise
        finally:
            await asyncio.shield(asyncio.to_thread(archive.remove, directory))

    async def _release(
        self, order: _Order, draft: versions.Deployment, built: build.Built, directory: pathlib.Path
    ) -> str:
        tell = self._teller(order)
        async with self._versions.changing(order.tenant):
            digest = await self._artefacts.save(order.tenant, built.tree, directory / "artefact.tar")
            draft = msgspec.structs.replace(draft, digest=digest)
            try:
                # Read back from where it was sealed: what is probed is what will run.
                await self._artefacts.path(order.tenant, digest)
                size = (directory / "artefact.tar").stat().st_size
                tell("store", f"{digest[:19]}…, {size / 1e6:.1f} MB")
                final = await self._probed(order, draft, "starting it once")
                await self._versions.publish(order.tenant, final)
            except BaseException:
                await self._versions.forget(order.tenant, digest)
                raise
        tell("live", f"{order.server} is deployment {final.number}")
        return final.id

    async def _probed(self, order: _Order, draft: versions.Deployment, how: str) -> versions.Deployment:
        """`draft` with what it answered."""
        tell = self._teller(order)
        tell("probe", how)
        with self._traces.step(observe.Span.DEPLOY_PROBE):
            probed = await self._probe(order.tenant, order.server, draft)
        final = msgspec.structs.replace(
            draft,
            eras=probed.eras,
            tools=probed.tools,
            server_info=probed.server_info,
            instructions=probed.instructions,
            tasks=probed.tasks,
            wire=probed.wire,
        )
        tell("probe", f"{len(final.tools)} tools, MCP {', '.join((*final.eras.modern, *final.eras.legacy))}")
        for remark in probed.remarks:
            tell("probe", remark)
        return final

    def _teller(self, order: _Order) -> build.Tell:
        def tell(stage: str, text: str) -> None:
            now = self._running[order.operation]
            step = Step(self._clock.now(), stage, redact.text(text)[:400])
            # Downloads of a large tree of packages are many; the newest matter.
            self._running[order.operation] = msgspec.structs.replace(now, steps=(*now.steps[1 - _STEPS :], step))

        return tell

    async def _finish(self, order: _Order, *, error: str, code: str, deployment: str) -> None:
        """Write how it ended and tell the trail. A failure of either leaves the operation as interrupted."""
        now = self._running[order.operation]
        done = msgspec.structs.replace(
            now,
            state="failed" if error else "succeeded",
            error=redact.text(error) if error else None,
            deployment=deployment or None,
        )
        try:
            with contextlib.suppress(errors.SmcpError):
                await self._operations.put(order.tenant, (done.id,), done, ttl=_KEPT_S)
                await self._record(await self._event(order, code=code, deployment=deployment))
        finally:
            self._running.pop(order.operation, None)
            self._stopped.discard(order.operation)
            self._busy.pop((order.tenant, order.server), None)

    async def _event(self, order: _Order, *, code: str, deployment: str) -> events.Event:
        if code or not deployment:
            return events.DeployFailed(
                tenant=order.tenant,
                actor=order.by,
                operation=order.operation,
                server=order.server,
                code=code,
                outcome="failed",
            )
        made = await self._versions.deployment(order.tenant, order.server, deployment)
        return events.DeploySucceeded(
            tenant=order.tenant,
            actor=order.by,
            operation=order.operation,
            server=order.server,
            deployment=deployment,
            digest=made.digest[:64],
        )

    def _sweep(self) -> None:
        self._artefacts.sweep()
        if self._work.is_dir():
            for left in self._work.iterdir():
                if left.is_dir() and not left.is_symlink():
                    archive.remove(left)
                else:
                    left.unlink()
        self._work.mkdir(parents=True, exist_ok=True, mode=0o700)


def _order(by: str, tenant: ids.TenantId, source: str, name: str | None, manifest_toml: str | None) -> _Order:
    asked = manifest.parse(manifest_toml) if manifest_toml is not None else manifest.Manifest()
    found = sources.parse(source)
    if asked.source and sources.parse(asked.source) != found:
        raise errors.InvalidParams(
            f"The manifest's source is {asked.source[:100]}, but {source[:100]} was asked for. Make them the same."
        )
    if isinstance(found, remote.Remote):
        asked = remotes.settled(found, asked)
    elif asked.remote is not None:
        raise errors.InvalidParams(f"The manifest has [remote], and {source[:100]} is no remote server's address.")
    if asked.worker is not None and not isinstance(found, sources.Upload):
        raise errors.InvalidParams(f"The manifest has [worker], and {source[:100]} is no folder: send the project's.")
    wanted = name or asked.name or sources.server_name(found)
    if not wanted:
        what = "This address" if isinstance(found, remote.Remote) else "An upload"
        raise errors.InvalidParams(f"{what} has no name of its own: say with 'name' what the server is called.")
    return _Order(
        operation=ids.new("op"), by=by, tenant=tenant, server=ids.server(wanted), source=found, manifest=asked
    )
