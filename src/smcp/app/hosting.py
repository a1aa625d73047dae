"""Composition of what builds and runs hosted servers: the launcher, the driver, the pool, deployments."""

import dataclasses
import functools
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from smcp.app import foundation, machine, probing, remotes, workers
from smcp.app import secrets as giving
from smcp.audit import events
from smcp.deploy import (
    artefacts,
    builders,
    deployer,
    npm_builder,
    npm_modules,
    pypi_builder,
    secrets,
    upload_builder,
    uploads,
    versions,
    workbench,
)
from smcp.deploy.workers import builder as worker_builder
from smcp.kernel import errors, ids, observe, settings
from smcp.runtime import checks, driver, hiding, journal, ledger, pool, sampler, spool
from smcp.runtime.bindings import outbound
from smcp.runtime.drivers import either, remote, stdio
from smcp.runtime.drivers.workerd import driver as workerd
from smcp.runtime.drivers.workerd import generation, process
from smcp.sandbox import cells, egress, gvisor, interpreter, launch, node, tools, walls
from smcp.sandbox.egress import rules
from smcp.sandbox.volumes import keeper
from smcp.tenancy import limits, meter, usage

_MORE: Final = 65_536
_CONVERSATION: Final = 4 * 1024 * 1024
"""Bytes that a conversation with a remote server takes of the machine."""
_MORE_STARTS: Final = 2
"""Copies that are started at once beyond the number of cores: a start waits for pipes and disks, too."""


@dataclasses.dataclass(frozen=True)
class Hosting:
    """What turns deployments into running copies."""

    launcher: launch.Launcher
    versions: versions.Versions
    uploads: uploads.Uploads
    secrets: secrets.Secrets
    volumes: keeper.Volumes
    specs: "Specs"
    deployer: deployer.Deployer
    journal: journal.Journal
    pool: pool.Pool
    recorder: "Recorder"
    books: checks.Books
    binders: Callable[[ids.TenantId, ids.ServerName], Iterable[ids.ServerName]]
    """The servers at work that reach another one of their tenant by service bindings."""


class Recorder:
    """Puts on record what becomes of deployments, and tells who has to know of a new one."""

    def __init__(self, common: foundation.Common, copies: pool.Pool, lines: journal.Journal) -> None:
        self._common = common
        self._copies = copies
        self._lines = lines
        self.when_live: list[Callable[[ids.TenantId, ids.ServerName, str], Awaitable[None]]] = []
        """Hear of each deployment that goes live: tenant, server, its id. They must not raise."""

    async def __call__(self, event: events.Event) -> None:
        """Raises what the trail raises."""
        if isinstance(event, events.DeploySucceeded):
            owner, name = ids.TenantId(event.tenant), ids.ServerName(event.server)
            self._copies.retire(owner, name, event.deployment)
            self._lines.note(owner, name, f"deployed {event.deployment}")
            for tell in self.when_live:
                await tell(owner, name, event.deployment)
        await self._common.trail.write(event)


async def open(
    base: foundation.Foundation, common: foundation.Common, found: machine.Machine, peer: socket.socket | None
) -> Hosting:
    """Connect to the launcher (`peer`; without one, start it), and compose what runs and builds.

    Raises `errors.SandboxMissing`.
    """
    config = base.settings
    started = await (launch.Launcher.start(found.house(config)) if peer is None else launch.Launcher.adopt(peer))
    base.undo.push_async_callback(started.close)
    reach = egress.Egress(config.egress, base.metrics, budgets=common.egress.budget)
    volumes = keeper.Volumes(common.store, started, base.clock, config, base.metrics, base.log)
    books = checks.Books()
    checked = _checked(books, base.metrics)
    kept_secrets = secrets.Secrets(common.store, base.clock)
    used = functools.partial(_used, common.meter)
    moved = functools.partial(_moved, used)
    isolates = _workers(config, found, started, volumes, common, outbound.Outbound(reach, moved), checked)
    every = either.Either(
        _driver(config, found, started, volumes, reach, checked),
        isolates,
        remote.RemoteDriver(_patience(config), reach, checked, moved),
    )
    sampled = sampler.Sampler(every, started, used)
    isolates.sampled = sampled.shared
    children = hiding.Hiding(sampled, giving.Giver(kept_secrets))
    lines = await _journal(base, common)
    # Behind the last copy's end, and before the log that it is told in.
    base.undo.push_async_callback(volumes.close)
    copies = _pool(config, children, lines, base, common)
    base.undo.push_async_callback(copies.close)
    await copies.start()

    kept = artefacts.Artefacts(common.store, config.platform.directory() / machine.ARTEFACTS, config.deploy.max_bytes)
    made = _versions(base, common, kept)
    specs = Specs(kept, found.python, found.node, found.pinned)
    isolates.peers = workers.Peers(made, specs, children, lines.lines)
    sent = await _uploads(base, common)
    record = Recorder(common, copies, lines)
    maker = deployer.Deployer(
        common.store,
        made,
        kept,
        probing.Prober(children, specs, lines.lines, timeout_s=config.runtime.start_timeout_s),
        _builders(config, found, workbench.Workbench(started, found.python, config.sandbox, config.deploy, reach)),
        sent,
        base.clock,
        work=config.platform.directory() / machine.WORK,
        record=record,
        metrics=base.metrics,
        traces=base.traces,
        log=base.log,
        reach=remotes.Reach(reach),
    )
    base.undo.push_async_callback(maker.close)
    await maker.start()
    return Hosting(
        started, made, sent, kept_secrets, volumes, specs, maker, lines, copies, record, books, isolates.binders
    )


async def _uploads(base: foundation.Foundation, common: foundation.Common) -> uploads.Uploads:
    sent = uploads.Uploads(common.store, base.settings.deploy.max_upload_bytes)
    base.undo.push_async_callback(sent.close)
    await sent.start()
    return sent


async def _journal(base: foundation.Foundation, common: foundation.Common) -> journal.Journal:
    stores = base.settings.stores
    lines = journal.Journal(common.store, base.log, days=stores.log_days, most_bytes=stores.log_bytes)
    base.undo.push_async_callback(lines.close)
    await lines.start()
    return lines


def _versions(base: foundation.Foundation, common: foundation.Common, kept: artefacts.Artefacts) -> versions.Versions:
    return versions.Versions(
        common.store, base.clock, kept, lambda tenant: common.limiter.plan(tenant).deployments_kept
    )


def _pool(
    config: settings.Settings,
    children: driver.Driver,
    lines: journal.Journal,
    base: foundation.Foundation,
    common: foundation.Common,
) -> pool.Pool:
    patience = pool.Patience(
        idle_stop_s=config.runtime.idle_stop_s,
        start_s=config.runtime.start_timeout_s,
        drain_s=config.gateway.call_timeout_s,
    )
    return pool.Pool(
        children,
        lines.lines,
        base.metrics,
        patience,
        caps=functools.partial(_caps, common.limiter),
        starts_at_once=(os.cpu_count() or 1) + _MORE_STARTS,
        memory_bytes=functools.partial(_memory, config.sandbox.memory_bytes, common.limiter),
    )


def _memory(cell: int, limiter: limits.Limiter, spec: driver.Spec) -> int | ledger.Process:
    """What one copy may take, or the process that it is in."""
    if spec.remote is not None:
        return _CONVERSATION
    if spec.worker is not None:
        return ledger.Process(workerd.process(spec), _worker_memory(cell, limiter, spec.tenant))
    return cell + (gvisor.MEMORY if spec.tier == walls.GVISOR else 0)


def _worker_memory(cell: int, limiter: limits.Limiter, tenant: ids.TenantId) -> int:
    """What a process of a tenant's Workers may take: it is made to fit into the plan."""
    return min(cell, limiter.plan(tenant).memory_bytes)


def _caps(limiter: limits.Limiter, tenant: ids.TenantId) -> ledger.Caps:
    plan = limiter.plan(tenant)
    return ledger.Caps(plan.instances, plan.spares, plan.memory_bytes)


def _used(
    counting: meter.Meter, tenant: ids.TenantId, server: ids.ServerName, principal: str, used: sampler.Used
) -> None:
    sums = usage.Sums(
        cpu_us=round(used.cpu_s * 1e6),
        memory_byte_s=round(used.memory_byte_s),
        copy_ms=round(used.copy_s * 1e3),
        cpu_unknown_ms=round(used.cpu_unknown_s * 1e3),
        memory_unknown_ms=round(used.memory_unknown_s * 1e3),
        egress_sent=used.egress_sent,
        egress_received=used.egress_received,
    )
    counting.used(tenant, server, principal, sums)


def _moved(used: sampler.Told, spec: driver.Spec, sent: int, received: int) -> None:
    used(spec.tenant, spec.server, "", sampler.Used(egress_sent=sent, egress_received=received))


def _patience(config: settings.Settings) -> driver.Limits:
    return driver.Limits(
        stop_grace_s=config.runtime.stop_grace_s,
        max_message_bytes=config.runtime.max_message_bytes,
        stream_buffer=config.runtime.stream_buffer,
        tenant_buffer_bytes=config.runtime.tenant_buffer_bytes,
    )


def _driver(
    config: settings.Settings,
    found: machine.Machine,
    started: launch.Launcher,
    volumes: keeper.Volumes,
    reach: egress.Egress,
    checked: stdio.Checked,
) -> driver.Driver:
    # Beside what is built, in a directory that only the platform's own uid can enter.
    spools = spool.Spools(str(config.platform.directory() / machine.WORK))
    cell = functools.partial(_cell, config.sandbox, found)
    return stdio.StdioDriver(cell, started, _patience(config), spools, volumes, reach, checked)


def _workers(
    config: settings.Settings,
    found: machine.Machine,
    started: launch.Launcher,
    volumes: keeper.Volumes,
    common: foundation.Common,
    out: outbound.Outbound,
    checked: stdio.Checked,
) -> workerd.WorkerdDriver:
    means = generation.Means(
        launcher=started,
        cell=functools.partial(_worker_cell, config.sandbox, found, common.limiter),
        doors=os.path.realpath(config.platform.directory() / machine.DOORS),
        makers=workers.Makers(common.namespaces, common.buckets, common.heavy, out),
        patience=process.Patience(start_s=config.runtime.start_timeout_s, answer_s=workerd.ANSWER_S),
        heap_mb=cells.heap_mb(config.sandbox),
    )
    return workerd.WorkerdDriver(means, _patience(config), volumes, checked, drain_s=config.gateway.call_timeout_s)


def _worker_cell(
    sandbox: settings.Sandbox,
    found: machine.Machine,
    limiter: limits.Limiter,
    tenant: ids.TenantId,
    binds: tuple[walls.Bind, ...],
    volume: walls.Volume | None,
    /,
) -> walls.Cell:
    if found.pinned.workerd is None:
        raise tools.missing(tools.WORKERD)
    made = cells.worker(sandbox, found.pinned.workerd, tenant, binds, volume)
    return msgspec.structs.replace(made, memory_bytes=_worker_memory(sandbox.memory_bytes, limiter, tenant))


def _checked(books: checks.Books, metrics: observe.Metrics) -> stdio.Checked:
    wrong = metrics.counter(observe.Metric.INVALID, sender="server")

    def checked(spec: driver.Spec, note: Callable[[str], None], /, *, modern: bool) -> checks.Checks:
        return checks.Checks(books.of(spec.tenant, spec.deployment), note, wrong.inc, modern=modern)

    return checked


def _builders(config: settings.Settings, found: machine.Machine, bench: workbench.Workbench) -> builders.Builders:
    pip = pypi_builder.PypiBuilder(bench, found.index, config.platform.directory() / machine.PIP_CACHE)
    modules = npm_modules.Modules(bench, found.node, found.registry)
    return builders.Builders(
        pypi=pip,
        npm=npm_builder.NpmBuilder(modules),
        upload=upload_builder.UploadBuilder(bench, pip, modules, worker_builder.Workers(bench, modules, found.pinned)),
        gvisor=bool(found.host.runsc),
    )


class Specs:
    """How a deployment is run: its artefact, unpacked on this node, and its command."""

    def __init__(
        self,
        kept: artefacts.Artefacts,
        python: interpreter.Interpreter,
        js: node.Node | None = None,
        pinned: tools.Tools | None = None,
    ) -> None:
        self._artefacts = kept
        self._pinned = pinned or tools.Tools()
        self._python = python
        self._node = js

    async def __call__(
        self, tenant: ids.TenantId, server: ids.ServerName, deployment: versions.Deployment
    ) -> driver.Spec:
        """Raises `errors.ServerStopped` when it was built for another Python, Node.js or workerd than the platform's
        now, `errors.NotFound` when the artefact is gone, `errors.TamperedData` when it is not what it was, and
        `errors.SandboxMissing` for a Worker where there is no workerd."""
        if deployment.runtime == "remote":
            return remotes.spec(tenant, server, deployment)
        if deployment.runtime == "worker":
            artefact = await self._artefacts.path(tenant, deployment.digest)
            return await workers.spec(tenant, server, deployment, artefact, self._pinned)
        if deployment.runtime == "node":
            fits, now = self._node is not None and node.serves(self._node, deployment.interpreter), self._node
        else:
            fits, now = interpreter.serves(self._python, deployment.interpreter), self._python
        if not fits:
            raise errors.ServerStopped(
                f"This server was built for {deployment.interpreter.partition(' ')[0]}, and the platform now runs on "
                f"{now.label.partition(' ')[0] if now else 'a machine without Node.js'}. Deploy it again."
            )
        volume = deployment.manifest.volume
        return driver.Spec(
            tenant=tenant,
            server=server,
            deployment=deployment.id,
            artefact=str(await self._artefacts.path(tenant, deployment.digest)),
            argv=deployment.argv,
            runtime=deployment.runtime,
            tier="gvisor" if deployment.manifest.runtime == "gvisor" else "",
            env=tuple(deployment.manifest.env.items()),
            egress=rules.parsed(deployment.manifest.egress),
            secrets=tuple(deployment.manifest.secrets.items()),
            volume=keeper.VolumeSpec(volume.path, volume.size_bytes) if volume is not None else None,
            least=deployment.manifest.scale.min,
            most=deployment.manifest.scale.max,
        )


def _cell(limits: settings.Sandbox, found: machine.Machine, spec: driver.Spec) -> walls.Cell:
    runs = found.python if spec.runtime == "python" else found.node
    if runs is None:
        raise node.missing()
    env, binds, files = spec.env, (), spec.files
    if spec.egress:
        # The tenant's variables come last: they may name another bundle of certificates.
        env, binds, files = (*egress.ENV, *env), egress.binds(), (*egress.files(), *files)
    ports = rules.ports(spec.egress)
    cell = cells.hosted(limits, runs, spec.tenant, spec.artefact, spec.argv, env, files, spec.mount, ports)
    cell = msgspec.structs.replace(cell, binds=(*cell.binds, *binds))
    if spec.volume is not None:
        # One file may fill the volume, and is told so: above this limit a signal would end the server instead.
        cell = msgspec.structs.replace(cell, file_bytes=max(cell.tmp_bytes, spec.volume.size_bytes + _MORE))
    return gvisor.wider(cell) if spec.tier == walls.GVISOR else cell
