"""Composition of legacy sessions: where they are kept, and what ends them from outside."""

import contextlib

from smcp.app import foundation, hosting
from smcp.audit import events
from smcp.gateway import kept, sessions, targets
from smcp.identity.oauth import clients
from smcp.kernel import errors, ids


async def open(
    base: foundation.Foundation,
    common: foundation.Common,
    hosted: hosting.Hosting,
    found: targets.Targets,
    applications: clients.Clients,
) -> sessions.Sessions:
    """The sessions of every tenant; what has expired is ended from now on."""

    def told(session: sessions.Session, reason: str) -> None:
        # A session that ends while the trail can't be written has ended all the same.
        with contextlib.suppress(errors.SmcpError):
            tenant, actor = session.key
            common.trail.note(events.SessionEnded(tenant=tenant, actor=actor, server=session.server, why=reason))

    made = sessions.Sessions(
        hosted.pool.release_soon,
        kept.Kept(common.store, base.log),
        base.clock,
        base.metrics,
        idle_s=base.settings.gateway.session_idle_s,
        max_s=base.settings.gateway.session_max_s,
        per_principal=lambda tenant: common.limiter.plan(tenant).principal_sessions,
    )
    made.listen(told)

    async def retire(tenant: ids.TenantId, server: ids.ServerName, deployment: str) -> None:
        _renew_binders(hosted, found, tenant, server)
        # It may be gone again, or can't be started: then its requests say so.
        with contextlib.suppress(errors.SmcpError):
            live = await found.deployed(tenant, server, deployment)
            made.retire(tenant, server, deployment, live.drain_s)

    hosted.recorder.when_live.append(retire)
    common.keys.when_revoked = made.revoked
    common.people.users.when_ended.append(made.revoked)
    applications.when_revoked = made.client_revoked
    base.undo.push_async_callback(made.close)
    await made.start()
    return made


async def stop_server(
    hosted: hosting.Hosting,
    live: sessions.Sessions,
    found: targets.Targets,
    tenant: ids.TenantId,
    server: ids.ServerName,
) -> None:
    """End a server's sessions and copies; what it answered before is not given any more."""
    # Twice: at once, and behind the last copy, for what opened meanwhile.
    await live.end_all(tenant, "stopped", server=server)
    _renew_binders(hosted, found, tenant, server)
    await hosted.pool.stop_server(tenant, server, "its owner stopped it")
    found.outdated(tenant, server)
    await live.end_all(tenant, "stopped", server=server)


async def roll_back(
    hosted: hosting.Hosting,
    live: sessions.Sessions,
    found: targets.Targets,
    tenant: ids.TenantId,
    server: ids.ServerName,
) -> None:
    """End a server's copies, with the sessions that have one; the others go on with the next."""
    # At once: the deployment that is live again has the id under which its answers were kept.
    found.outdated(tenant, server)
    await live.end_all(tenant, "replaced", server=server, bridged=False)
    _renew_binders(hosted, found, tenant, server)
    await hosted.pool.stop_server(tenant, server, "its owner went back to another deployment")
    await live.end_all(tenant, "replaced", server=server, bridged=False)


def renew(hosted: hosting.Hosting, found: targets.Targets, tenant: ids.TenantId, server: ids.ServerName) -> None:
    """A server's secrets are others now: its copies end, and what they answered by the old ones is not given."""
    _renew(hosted, found, tenant, server)
    _renew_binders(hosted, found, tenant, server)


def _renew(hosted: hosting.Hosting, found: targets.Targets, tenant: ids.TenantId, server: ids.ServerName) -> None:
    hosted.pool.renew(tenant, server)
    found.outdated(tenant, server)


def _renew_binders(
    hosted: hosting.Hosting, found: targets.Targets, tenant: ids.TenantId, server: ids.ServerName
) -> None:
    # A Worker reaches another one as that was when its own copy started: code, secrets, and whether it runs at all.
    for binder in hosted.binders(tenant, server):
        _renew(hosted, found, tenant, binder)


async def stop_tenant(hosted: hosting.Hosting, live: sessions.Sessions, tenant: ids.TenantId) -> None:
    """End everything of a tenant that is at work."""
    hosted.uploads.stop_tenant(tenant)
    await hosted.deployer.stop_tenant(tenant)
    await live.end_all(tenant, "suspended")
    await hosted.pool.stop_tenant(tenant, "its tenant was suspended")
    await live.end_all(tenant, "suspended")
