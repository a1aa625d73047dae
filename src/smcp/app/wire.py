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

from smcp.app import allowances, foundation, gauges, hosting, machine, sessions
from smcp.audit import trail
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
from smcp.identity import authenticator
from smcp.identity.authn import api_key
from smcp.kernel import hosts, ids, settings
from smcp.ops import doctor
from smcp.sandbox import probe
from smcp.stores import local
from smcp.tenancy import egress, limits, meter, overview, plans, tenants
from smcp.web import docs

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
        audit: trail.Trail,
        hosted: hosting.Hosting,
    ) -> None:
        self._base = base
        self.gateway = gateway
        self.admin = admin
        self.keys = keys
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
    ) -> "Platform":
        """Put everything together for a platform that listens on `port`.

        `found` and `launcher` come from whoever started this process with less privilege than its own; without them
        the platform looks at the machine and starts a launcher itself.
        Raises what keeps it from starting: `errors.BadSettings`, `errors.SandboxMissing`, `errors.Unavailable`.
        """
        base = foundation.Foundation(config, version)
        try:
            return await _compose(base, port, found, launcher)
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
    base: foundation.Foundation, port: int, found: machine.Machine | None, peer: socket.socket | None
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
    keys = api_key.ApiKeys(store, owners.active, base.clock, tenant_served=owners.served)
    base.undo.push_async_callback(keys.close)
    names = hosts.Hosts(
        host=config.gateway.host,
        port=port,
        public_url=config.gateway.public_url,
        hosts=config.gateway.hosts,
        origins=config.gateway.origins,
        scheme=_scheme(config),
        trusted=config.gateway.trusted_proxies,
    )
    common = foundation.Common(
        store,
        audit,
        owners,
        keys,
        names,
        authenticator.Authenticator((keys,)),
        every,
        days,
        limits.Limiter(config.limits, every, base.clock),
        counting,
    )
    gauges.connect(base.metrics, config, store, common.limiter, audit)
    lag = asyncio.create_task(gauges.time_the_loop(base.metrics), name="event loop's lag")
    base.undo.callback(lag.cancel)
    hosted = await hosting.open(base, common, found, peer)
    parts = await _gateway(base, common, hosted)
    shown = await allowances.open(base, common, hosted, parts.sessions)
    admin = control.build(_services(base, common, hosted, parts, shown, port, found.layers), docs.pages())
    return Platform(base, front.App(parts), admin, keys, audit, hosted)


async def _gateway(base: foundation.Foundation, common: foundation.Common, hosted: hosting.Hosting) -> exchange.Parts:
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
    live = await sessions.open(base, common, hosted, found)
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
        versions=hosted.versions,
        uploads=hosted.uploads,
        deployer=hosted.deployer,
        secrets=hosted.secrets,
        volumes=hosted.volumes,
        invoke=functools.partial(invoke.invoke, parts),
        read_logs=read_logs,
        stop_server=functools.partial(sessions.stop_server, hosted, parts.sessions, parts.targets),
        roll_back=functools.partial(sessions.roll_back, hosted, parts.sessions, parts.targets),
        renew_server=functools.partial(sessions.renew, hosted, parts.targets),
        stop_tenant=functools.partial(sessions.stop_tenant, hosted, parts.sessions),
        drop_logs=hosted.journal.drop,
        instances=hosted.pool.instances,
        running=hosted.pool.view,
        ready=(
            services.Ready("store", common.store.check),
            services.Ready("audit", functools.partial(common.trail.check, ids.PLATFORM)),
            services.Ready("usage", common.meter.check),
            services.Ready("disk", functools.partial(doctor.require_disk, base.settings)),
        ),
        layers=tuple(services.Layer(*layer) for layer in layers),
        metrics=base.metrics,
        logger=base.log,
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
