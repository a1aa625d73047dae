"""Composition: the one place that picks back ends and drivers, and joins the rooms that do not know each other.

Read it from top to bottom: what is made first is used by what comes later, and closing undoes it in the reverse order.
"""

import asyncio
import functools
import os
import socket
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp

from smcp.app import allowances, authorization, edges, foundation, gauges, hosting, inviting, machine, sessions, tokens
from smcp.audit import identity, trail
from smcp.control import app as control
from smcp.control import services
from smcp.gateway import (
    alarms,
    channel,
    exchange,
    feeds,
    front,
    invoke,
    lists,
    meters,
    parked,
    parkedseal,
    replay,
    targets,
)
from smcp.identity import authenticator, roles, signing
from smcp.identity.accounts import inviters, people
from smcp.identity.authn import api_key
from smcp.identity.oauth import clients, lifetimes
from smcp.kernel import errors, hosts, ids, settings
from smcp.ops import doctor
from smcp.sandbox import probe
from smcp.stores import buckets, heavy, local, namespaces
from smcp.stores import tenant as stores
from smcp.tenancy import egress, limits, meter, overview, plans, tenants

NODE: Final = "node-1"
"""The writer's name in the audit trail; there is one node so far."""
_REPLAY_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are kept of one session's event streams."""
_REPLAY_S: Final = 300.0
"""Seconds that a stream's events are kept beyond the longest time that a call may take."""
_ALARM_S: Final = 0.25
"""How exactly heartbeats and time limits of calls are kept, at best."""


class Platform:
    """A platform that is put together and at work, without a socket."""

    def __init__(
        self,
        base: foundation.Foundation,
        gateway: front.App,
        admin: ASGIApp,
        keys: api_key.ApiKeys,
        humans: people.People,
        audit: trail.Trail,
        hosted: hosting.Hosting,
    ) -> None:
        self._base = base
        self.gateway = gateway
        self.admin = admin
        self.keys = keys
        self.people = humans
        self.trail = audit
        self._journal = hosted.journal
        self.lost = hosted.launcher.ended
        self.metrics = base.metrics
        self.log = base.log

    @classmethod
    async def open(
        cls,
        config: settings.Settings,
        *,
        port: int,
        version: str,
        found: machine.Machine | None = None,
        launcher: socket.socket | None = None,
        lives: lifetimes.Lifetimes | None = None,
    ) -> "Platform":
        """Put everything together for a platform that listens on `port`.

        `found` and `launcher` come from whoever started this process with less privilege than its own; without them
        the platform looks at the machine and starts a launcher itself. `lives`: how long tokens live, if otherwise.
        Raises what keeps it from starting: `errors.BadSettings`, `errors.SandboxMissing`, `errors.Unavailable`.
        """
        base = foundation.Foundation(config, version)
        try:
            return await _compose(base, port, found, launcher, lives or lifetimes.Lifetimes())
        except BaseException:
            await base.undo.aclose()
            raise

    async def drain(self) -> None:
        """Let what is under way end, for as long as a hosted server gets to stop."""
        self._journal.hush()
        await self.gateway.drain(self._base.settings.runtime.stop_grace_s)

    async def close(self) -> None:
        """Hosted servers first, then what must still be written, then the store."""
        await self._base.undo.aclose()


async def _compose(
    base: foundation.Foundation,
    port: int,
    found: machine.Machine | None,
    peer: socket.socket | None,
    lives: lifetimes.Lifetimes,
) -> Platform:
    config = base.settings
    if found is None:
        found = await asyncio.to_thread(machine.Machine.find, config, os.environ)
    store = local.open_local(config.platform.directory(), config, base.clock)
    base.undo.push_async_callback(store.close)
    await store.start()
    audit = trail.Trail(store, base.clock, writer=NODE, ttl_days=config.stores.audit_days)
    base.undo.push_async_callback(audit.close)
    await audit.start()

    owners = tenants.Tenants(store, base.clock)
    every = plans.Plans(store, owners, config)
    await every.start()
    store.limit(lambda tenant: every.of(tenant).storage)
    days = egress.Days(store, every.of, base.clock, base.log)
    base.undo.push_async_callback(days.close)
    await days.start()
    counting = meter.Meter(store, owners, base.clock, base.metrics, base.log, node=NODE, days=config.stores.audit_days)
    base.undo.push_async_callback(counting.close)
    await counting.start()
    spaces, kept = _kept(base, store)
    custom = roles.Roles(store, base.clock)
    keys = _keys(base, store, audit, owners, custom)
    names = _hosts(config, port)
    authorizing = authorization.open(base, store, audit, owners, names, public_url(config, port))
    humans = _people(base, store, audit, owners, inviting.behind(keys, authorizing.clients, custom))
    issuing = tokens.open(store, base.clock, audit, owners, humans.users, custom, authorizing, lives, _scheme(config))
    common = foundation.Common(
        store,
        audit,
        owners,
        keys,
        custom,
        humans,
        names,
        authenticator.Authenticator((keys, issuing.method)),
        every,
        days,
        limits.Limiter(config.limits, every, base.clock),
        counting,
        spaces,
        kept,
        heavy.Heavy(),
    )
    _observe(base, common)
    hosted = await hosting.open(base, common, found, peer)
    authorizing.resources.servers = functools.partial(_servers, hosted)
    parts = await _gateway(base, common, hosted, authorizing.clients)
    shown = await allowances.open(base, common, hosted, parts.sessions)
    served = _services(base, common, hosted, parts, shown, authorizing, issuing.signing, port, found.layers)
    admin = control.build(served, edges.routes(base, common, authorizing, issuing, public_url(config, port)))
    return Platform(base, front.App(parts), admin, keys, humans, audit, hosted)


def _keys(
    base: foundation.Foundation, store: stores.Store, audit: trail.Trail, owners: tenants.Tenants, custom: roles.Roles
) -> api_key.ApiKeys:
    keys = api_key.ApiKeys(store, owners.active, base.clock, custom, tenant_served=owners.served)
    keys.when_ending = functools.partial(_tell_of_key, base, audit)
    base.undo.push_async_callback(keys.close)
    return keys


def _people(
    base: foundation.Foundation,
    store: stores.Store,
    audit: trail.Trail,
    owners: tenants.Tenants,
    behind: inviters.Behind,
) -> people.People:
    humans = people.build(store, audit, base.clock, owners.active, behind)
    base.undo.push_async_callback(humans.close)
    return humans


def _hosts(config: settings.Settings, port: int) -> hosts.Hosts:
    return hosts.Hosts(
        host=config.gateway.host,
        port=port,
        public_url=config.gateway.public_url,
        hosts=config.gateway.hosts,
        origins=config.gateway.origins,
        scheme=_scheme(config),
        trusted=config.gateway.trusted_proxies,
    )


def _observe(base: foundation.Foundation, common: foundation.Common) -> None:
    gauges.connect(base.metrics, base.settings, common.store, common.limiter, common.trail)
    lag = asyncio.create_task(gauges.time_the_loop(base.metrics), name="event loop's lag")
    base.undo.callback(lag.cancel)


async def _servers(hosted: hosting.Hosting, tenant: ids.TenantId) -> list[str]:
    """The names of a tenant's servers."""
    return [one.name for one in await hosted.versions.servers(tenant)]


def _tell_of_key(base: foundation.Foundation, audit: trail.Trail, tenant: ids.TenantId, key: str, ends: float) -> None:
    """A key that is in use ends soon: into the tenant's trail, where its administrators look."""
    base.log.warning("an API key in use ends soon", tenant=tenant, key=key, ends=ends)
    try:
        audit.note(identity.KeyEnding(tenant=tenant, actor="platform", key=key, ends=ends))
    except errors.Unavailable as error:
        base.log.error("audit entry lost", detail=error.detail)


def _kept(base: foundation.Foundation, store: stores.Store) -> tuple[namespaces.Namespaces, buckets.Buckets]:
    """What Workers keep, for their bindings and for whoever asks from outside."""
    spaces = namespaces.Namespaces(
        store, lambda tenant, why: base.log.error("kv namespaces can't be swept", tenant=tenant, why=why)
    )
    kept = buckets.Buckets(store, lambda tenant, why: base.log.error("buckets can't be swept", tenant=tenant, why=why))
    for one in (spaces, kept):
        base.undo.push_async_callback(one.close)
        one.start()
    return spaces, kept


async def _gateway(
    base: foundation.Foundation,
    common: foundation.Common,
    hosted: hosting.Hosting,
    applications: clients.Clients,
) -> exchange.Parts:
    config = base.settings
    found = targets.Targets(hosted.versions, hosted.specs, hosted.books)
    kept_s = config.gateway.call_timeout_s + _REPLAY_S
    replays = replay.Replays(
        common.store,
        base.log,
        session_bytes=_REPLAY_BYTES,
        kept_s=kept_s,
        doomed=hosted.launcher.ended.is_set,
    )
    base.undo.push_async_callback(replays.settled)
    live = await sessions.open(base, common, hosted, found, applications)
    live.listen(replays.forget)
    waiting = parked.Parked(parkedseal.Seals(common.store.ring.data_key))
    live.listen(waiting.ended)
    base.undo.push_async_callback(replays.close)
    waits = config.gateway
    notices = feeds.Feeds(found, hosted.pool, base.log, patience_s=config.runtime.start_timeout_s)
    live.listen(notices.ended)
    hosted.recorder.when_live.append(notices.deployed)
    base.undo.push_async_callback(notices.close)
    waking = alarms.Alarms(min(_ALARM_S, waits.heartbeat_s / 4, waits.call_timeout_s / 4))
    base.undo.callback(waking.close)
    return exchange.Parts(
        settings=config,
        hosts=common.hosts,
        authenticator=common.authenticator,
        limiter=common.limiter,
        targets=found,
        sessions=live,
        replays=replays,
        channels=channel.Channels(lambda tenant: common.limiter.plan(tenant).principal_sessions),
        parked=waiting,
        feeds=notices,
        lists=lists.Lists(base.clock, base.metrics),
        pool=hosted.pool,
        trail=common.trail,
        metrics=base.metrics,
        meters=meters.Meters(base.metrics),
        traces=base.traces,
        alarms=waking,
        meter=common.meter,
        journal=hosted.journal,
        log=base.log,
    )


def _services(
    base: foundation.Foundation,
    common: foundation.Common,
    hosted: hosting.Hosting,
    parts: exchange.Parts,
    shown: overview.Overview,
    authorizing: authorization.Authorization,
    signer: signing.Signing,
    port: int,
    layers: Sequence[probe.Layer],
) -> services.Services:
    async def read_logs(
        tenant: ids.TenantId, server: ids.ServerName, /, *, after: int, limit: int, wait_s: float
    ) -> list[services.LogLine]:
        lines = await hosted.journal.read(tenant, server, after=after, limit=limit, wait_s=wait_s)
        return [services.LogLine(*line) for line in lines]

    return services.Services(
        version=base.version,
        public_url=public_url(base.settings, port),
        settings=base.settings,
        hosts=common.hosts,
        authenticator=common.authenticator,
        plans=common.plans,
        overview=shown,
        limiter=common.limiter,
        meter=common.meter,
        trail=common.trail,
        tenants=common.tenants,
        keys=common.keys,
        signing=signer,
        clients=authorizing.clients,
        roles=common.roles,
        people=common.people,
        versions=hosted.versions,
        uploads=hosted.uploads,
        deployer=hosted.deployer,
        secrets=hosted.secrets,
        volumes=hosted.volumes,
        namespaces=common.namespaces,
        heavy=common.heavy,
        buckets=common.buckets,
        invoke=functools.partial(invoke.invoke, parts),
        read_logs=read_logs,
        stop_server=functools.partial(sessions.stop_server, hosted, parts.sessions, parts.targets),
        roll_back=functools.partial(sessions.roll_back, hosted, parts.sessions, parts.targets),
        renew_server=functools.partial(sessions.renew, hosted, parts.targets),
        stop_tenant=functools.partial(sessions.stop_tenant, hosted, parts.sessions),
        drop_logs=hosted.journal.drop,
        instances=hosted.pool.instances,
        running=hosted.pool.view,
        ready=_ready(base, common),
        layers=tuple(services.Layer(*layer) for layer in layers),
        metrics=base.metrics,
        logger=base.log,
    )


def _ready(base: foundation.Foundation, common: foundation.Common) -> tuple[services.Ready, ...]:
    """What has to hold for taking traffic."""
    return (
        services.Ready("store", common.store.check),
        services.Ready("audit", functools.partial(common.trail.check, ids.PLATFORM)),
        services.Ready("usage", common.meter.check),
        services.Ready("disk", functools.partial(doctor.require_disk, base.settings)),
    )


def public_url(config: settings.Settings, port: int) -> str:
    """How clients reach the platform, without a slash at the end."""
    if config.gateway.public_url:
        return config.gateway.public_url.rstrip("/")
    host = config.gateway.host
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    return f"{_scheme(config)}://{named}:{port}"


def _scheme(config: settings.Settings) -> str:
    return "https" if config.tls.on else "http"
