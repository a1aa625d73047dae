"""Composition: the one place that picks back ends and drivers, and joins the rooms that do not know each other.

Read it from top to bottom: what is made first is used by what comes later, and closing undoes it in the reverse order.
"""

import asyncio
import contextlib
import dataclasses
import functools
import os
from typing import Final

from smcp.app import gauges, probing
from smcp.audit import events, trail
from smcp.control import app as control
from smcp.control import services
from smcp.deploy import artefacts, build, deployer, index, versions
from smcp.gateway import asgi, exchange, invoke, meters, sessions, targets
from smcp.identity import authenticator
from smcp.identity.authn import api_key
from smcp.kernel import clock, errors, hosts, ids, observe, settings
from smcp.ops import doctor
from smcp.runtime import driver, journal, pool
from smcp.runtime.drivers import stdio
from smcp.sandbox import cells, interpreter, probe, walls
from smcp.stores import local
from smcp.stores import tenant as stores
from smcp.tenancy import limits, tenants
from smcp.web import docs

NODE: Final = "node-1"
"""The writer's name in the audit trail; there is one node so far."""


class Front:
    """The ASGI application: MCP below `/t/`, the admin API and its pages everywhere else."""

    def __init__(self, gateway: asgi.App, admin: asgi.Asgi) -> None:
        self._gateway = gateway
        self._admin = admin

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] == "http":
            app = self._gateway if scope["raw_path"].startswith(b"/t/") else self._admin
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            # No WebSocket here: refused before any origin could matter (CVE-2026-59950).
            await receive()
            await send({"type": "websocket.close", "code": 1008})


class Foundation:
    """What every room stands on while a platform runs."""

    def __init__(self, config: settings.Settings, version: str) -> None:
        self.settings = config
        self.version = version
        self.clock = clock.SystemClock()
        self.log = observe.logger(config.log)
        self.metrics = observe.Metrics(version)
        self.traces = observe.Traces()
        self.undo = contextlib.AsyncExitStack()


class Platform:
    """A platform that is put together and at work, without a socket."""

    def __init__(
        self, base: Foundation, gateway: asgi.App, app: Front, keys: api_key.ApiKeys, audit: trail.Trail
    ) -> None:
        self._base = base
        self._gateway = gateway
        self.app = app
        self.keys = keys
        self.trail = audit

    @classmethod
    async def open(cls, config: settings.Settings, *, port: int, version: str) -> "Platform":
        """Put everything together for a platform that listens on `port`.

        Raises what keeps it from starting: `errors.BadSettings`, `errors.SandboxMissing`, `errors.Unavailable`.
        """
        base = Foundation(config, version)
        try:
            return await _compose(base, port)
        except BaseException:
            await base.undo.aclose()
            raise

    async def drain(self) -> None:
        """Let what is under way end, for as long as a hosted server gets to stop."""
        await self._gateway.drain(self._base.settings.runtime.stop_grace_s)

    async def close(self) -> None:
        """Hosted servers first, then what must still be written, then the store."""
        await self._base.undo.aclose()


async def _compose(base: Foundation, port: int) -> Platform:
    config = base.settings
    store = local.open_local(config.platform.directory(), config, base.clock)
    base.undo.push_async_callback(store.close)
    await store.start()
    audit = trail.Trail(store, base.clock, writer=NODE, ttl_days=config.stores.audit_days)
    base.undo.push_async_callback(audit.close)
    await audit.start()

    owners = tenants.Tenants(store, base.clock)
    keys = api_key.ApiKeys(store, owners.active, base.clock)
    base.undo.push_async_callback(keys.close)
    names = hosts.Hosts(
        host=config.gateway.host,
        port=port,
        public_url=config.gateway.public_url,
        hosts=config.gateway.hosts,
        origins=config.gateway.origins,
    )
    common = _Common(
        store,
        audit,
        owners,
        keys,
        names,
        authenticator.Authenticator((keys,)),
        limits.Limiter(config.limits, base.clock),
    )
    gauges.connect(base.metrics, store.counts, common.limiter, audit)
    hosting = await _hosting(base, common)
    parts = await _gateway(base, common, hosting)
    admin = control.build(_services(base, common, hosting, parts, port), docs.pages())
    gateway = asgi.App(parts)
    return Platform(base, gateway, Front(gateway, admin), keys, audit)


@dataclasses.dataclass(frozen=True)
class _Common:
    """Who may do what, and where it is kept."""

    store: stores.Store
    trail: trail.Trail
    tenants: tenants.Tenants
    keys: api_key.ApiKeys
    hosts: hosts.Hosts
    authenticator: authenticator.Authenticator
    limiter: limits.Limiter


@dataclasses.dataclass(frozen=True)
class _Hosting:
    """What turns deployments into running copies."""

    versions: versions.Versions
    specs: "Specs"
    deployer: deployer.Deployer
    journal: journal.Journal
    pool: pool.Pool


async def _hosting(base: Foundation, common: _Common) -> _Hosting:
    config = base.settings
    python = interpreter.current()
    machine = await asyncio.to_thread(probe.host, config.sandbox.require)
    child_limits = driver.Limits(
        stop_grace_s=config.runtime.stop_grace_s,
        max_message_bytes=config.runtime.max_message_bytes,
        stream_buffer=config.runtime.stream_buffer,
        tenant_buffer_bytes=config.runtime.tenant_buffer_bytes,
    )
    children = stdio.StdioDriver(functools.partial(_cell, config.sandbox, python), machine, child_limits)
    lines = journal.Journal(common.store, base.log, days=config.stores.log_days)
    base.undo.push_async_callback(lines.close)
    await lines.start()
    copies = pool.Pool(
        children,
        lines.lines,
        base.metrics,
        idle_stop_s=config.runtime.idle_stop_s,
        tenant_instances=config.limits.tenant_instances,
    )
    base.undo.push_async_callback(copies.close)
    await copies.start()

    directory = config.platform.directory()
    kept = artefacts.Artefacts(common.store, directory / "cache" / "artefacts", config.deploy.max_bytes)
    found = versions.Versions(common.store, base.clock, kept)
    specs = Specs(kept, python)
    prober = probing.Prober(children, specs, timeout_s=config.runtime.start_timeout_s)
    builder = build.Builder(
        machine, python, config.sandbox, config.deploy, index.read(os.environ), directory / "cache" / "pip"
    )

    async def record(event: events.Event) -> None:
        if isinstance(event, events.DeploySucceeded):
            copies.retire(ids.TenantId(event.tenant), ids.ServerName(event.server), event.deployment)
        await common.trail.write(event)

    maker = deployer.Deployer(
        common.store,
        found,
        kept,
        prober,
        builder,
        base.clock,
        work=directory / "work",
        record=record,
        metrics=base.metrics,
    )
    base.undo.push_async_callback(maker.close)
    await maker.start()
    return _Hosting(found, specs, maker, lines, copies)


class Specs:
    """How a deployment is run: its artefact, unpacked on this node, and its command."""

    def __init__(self, kept: artefacts.Artefacts, python: interpreter.Interpreter) -> None:
        self._artefacts = kept
        self._python = python

    async def __call__(
        self, tenant: ids.TenantId, server: ids.ServerName, deployment: versions.Deployment
    ) -> driver.Spec:
        """Raises `errors.ServerStopped` when it was built for another Python than the platform's now,
        `errors.NotFound` when the artefact is gone, `errors.TamperedData` when it is not what it was."""
        if not interpreter.serves(self._python, deployment.interpreter):
            raise errors.ServerStopped(
                f"This server was built for {deployment.interpreter.partition(' ')[0]}, and the platform now runs on "
                f"{self._python.label.partition(' ')[0]}. Deploy it again."
            )
        return driver.Spec(
            tenant=tenant,
            server=server,
            deployment=deployment.id,
            artefact=str(await self._artefacts.path(tenant, deployment.digest)),
            argv=deployment.argv,
            env=tuple(deployment.manifest.env.items()),
        )


def _cell(limits: settings.Sandbox, python: interpreter.Interpreter, spec: driver.Spec) -> walls.Cell:
    return cells.hosted(limits, python, spec.artefact, spec.argv, spec.env)


async def _gateway(base: Foundation, common: _Common, hosting: _Hosting) -> exchange.Parts:
    config = base.settings

    def told(session: sessions.Session, reason: str) -> None:
        # A session that ends while the trail can't be written has ended all the same.
        with contextlib.suppress(errors.SmcpError):
            tenant, actor = session.key
            common.trail.note(events.SessionEnded(tenant=tenant, actor=actor, server=session.server, why=reason))

    open_sessions = sessions.Sessions(
        hosting.pool.release_soon,
        base.clock,
        base.metrics,
        idle_s=config.gateway.session_idle_s,
        max_s=config.gateway.session_max_s,
        per_principal=config.limits.principal_sessions,
        told=told,
    )
    base.undo.push_async_callback(open_sessions.close)
    await open_sessions.start()
    return exchange.Parts(
        settings=config,
        hosts=common.hosts,
        authenticator=common.authenticator,
        limiter=common.limiter,
        targets=targets.Targets(hosting.versions, hosting.specs),
        sessions=open_sessions,
        pool=hosting.pool,
        trail=common.trail,
        metrics=base.metrics,
        meters=meters.Meters(base.metrics),
        traces=base.traces,
        log=base.log,
    )


def _services(
    base: Foundation, common: _Common, hosting: _Hosting, parts: exchange.Parts, port: int
) -> services.Services:
    async def read_logs(
        tenant: ids.TenantId, server: ids.ServerName, /, *, after: int, limit: int
    ) -> list[services.LogLine]:
        lines = await hosting.journal.read(tenant, server, after=after, limit=limit)
        return [services.LogLine(*line) for line in lines]

    async def stop_server(tenant: ids.TenantId, server: ids.ServerName) -> None:
        await hosting.pool.stop_server(tenant, server, "its owner stopped it")

    async def stop_tenant(tenant: ids.TenantId) -> None:
        await hosting.pool.stop_tenant(tenant, "its tenant was suspended")

    return services.Services(
        version=base.version,
        public_url=public_url(base.settings, port),
        settings=base.settings,
        hosts=common.hosts,
        authenticator=common.authenticator,
        limiter=common.limiter,
        trail=common.trail,
        tenants=common.tenants,
        keys=common.keys,
        versions=hosting.versions,
        deployer=hosting.deployer,
        invoke=functools.partial(invoke.invoke, parts),
        read_logs=read_logs,
        stop_server=stop_server,
        stop_tenant=stop_tenant,
        drop_logs=hosting.journal.drop,
        instances=hosting.pool.instances,
        ready=(
            services.Ready("store", common.store.check),
            services.Ready("audit", functools.partial(common.trail.check, ids.PLATFORM)),
            services.Ready("disk", functools.partial(doctor.require_disk, base.settings)),
        ),
        metrics=base.metrics,
        logger=base.log,
    )


def public_url(config: settings.Settings, port: int) -> str:
    """How clients reach the platform, without a slash at the end."""
    if config.gateway.public_url:
        return config.gateway.public_url.rstrip("/")
    host = config.gateway.host
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    return f"http://{named}:{port}"
