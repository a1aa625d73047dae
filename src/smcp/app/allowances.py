"""Composition of limits: who counts what, and who hears when a limit gets narrow."""

import asyncio
import contextlib
from collections.abc import Iterable

from smcp.app import foundation, hosting
from smcp.audit import events
from smcp.gateway import sessions
from smcp.kernel import errors, ids, observe
from smcp.tenancy import overview, plans


async def open(
    base: foundation.Foundation, common: foundation.Common, hosted: hosting.Hosting, live: sessions.Sessions
) -> overview.Overview:
    """The overview of every tenant's limits; its watch begins, and what is idle is forgotten from now on."""
    found = overview.Overview(
        common.limiter, base.clock, _amounts(common, hosted, live), {"egress_bytes_per_day": common.egress.resets}
    )
    crossings = {
        (limit.name, state): base.metrics.counter(observe.Metric.LIMIT_CROSSINGS, limit=limit.name, state=state)
        for limit in plans.LIMITS
        for state in (overview.WARNING, overview.REACHED)
    }

    def tell(tenant: ids.TenantId, row: overview.Row) -> None:
        crossings[row.limit.name, row.state].inc()
        base.log.warning(
            "a tenant reached a limit" if row.state == overview.REACHED else "a tenant nears a limit",
            tenant=tenant,
            limit=row.limit.name,
            used=row.used,
            most=row.most,
        )
        # A trail that can't be written now refuses calls by itself; the log has the line.
        with contextlib.suppress(errors.SmcpError):
            common.trail.note(
                events.LimitCrossed(
                    tenant=tenant,
                    actor="platform",
                    limit=row.limit.name,
                    state=row.state,
                    used=row.used or 0,
                    most=row.most,
                )
            )

    def at_work() -> Iterable[ids.TenantId]:
        return [one for one in {*common.limiter.tenants(), *common.egress.tenants()} if one != ids.PLATFORM]

    watch = overview.Watch(found, at_work, tell, base.log)
    base.undo.push_async_callback(watch.close)
    await watch.start()
    forgetting = asyncio.create_task(_forget(common), name="limits-forget")
    base.undo.callback(forgetting.cancel)
    return found


def _amounts(common: foundation.Common, hosted: hosting.Hosting, live: sessions.Sessions) -> dict[str, overview.Amount]:
    async def stored_bytes(tenant: ids.TenantId) -> int:
        return (await common.store.tenant(tenant).usage()).bytes

    async def stored_keys(tenant: ids.TenantId) -> int:
        return (await common.store.tenant(tenant).usage()).keys

    async def copies(tenant: ids.TenantId) -> int:
        return hosted.pool.used(tenant)[0]

    async def memory(tenant: ids.TenantId) -> int:
        return hosted.pool.used(tenant)[1]

    async def of_one_principal(tenant: ids.TenantId) -> int:
        return await live.most(tenant)

    return {
        "principal_sessions": of_one_principal,
        "instances": copies,
        "memory_bytes": memory,
        "storage_bytes": stored_bytes,
        "storage_keys": stored_keys,
        "egress_bytes_per_day": common.egress.used,
        "deployments_kept": hosted.versions.most_kept,
    }


async def _forget(common: foundation.Common) -> None:
    """Let the limiter go of who is idle, a tenant at a time."""
    while True:
        await asyncio.sleep(overview.LOOK_S)
        for _ in common.limiter.forget_idle():
            await asyncio.sleep(0)
