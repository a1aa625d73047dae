"""Servers: shown, stopped, started, rolled back, deleted; and their logs."""

import functools
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import deployments, views
from smcp.control.endpoint import Call, Nothing, Page, Positions, endpoint
from smcp.deploy import versions
from smcp.kernel import errors, ids

_EXAMPLE: Final = {
    "name": "time",
    "tenant": "acme",
    "created": 1800000000.0,
    "desired": "running",
    "live": "dep-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "endpoint": "http://127.0.0.1:8080/t/acme/time/mcp",
    "instances": 1,
}

_RUNNING: Final = {
    "copies": [
        {
            "kind": "shared",
            "state": "serving",
            "deployment": "dep-01kaq3v7q0zj1x5w9n2c8d4f6g",
            "outstanding": 2,
            "age_s": 61.5,
        }
    ],
    "starting": 0,
    "waiting": 0,
    "breaker": "closed",
    "retry_s": 0.0,
}


class Following(Positions, frozen=True, forbid_unknown_fields=True):
    """Paging by position, where what comes next may be waited for."""

    wait: Annotated[
        float, Meta(ge=0, le=30, description="Seconds to wait for a line, when there is none behind `after` yet.")
    ] = 0.0


class RollbackTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to go back to."""

    to: (
        Annotated[str, Meta(max_length=64, description="A deployment's id; left out: the one before the live one.")]
        | None
    ) = None


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/servers",
    action=Action.SERVER_LIST,
    answer_example={"items": [_EXAMPLE], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[views.Server]:
    """List a tenant's servers."""
    found = await call.services.versions.servers(call.tenant)
    return views.page([_view(call, one) for one in found], call.query, lambda one: one.name)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/servers/{server}",
    action=Action.SERVER_READ,
    answer_example=_EXAMPLE | {"deployment": deployments.EXAMPLE, "running": _RUNNING},
)
async def show(call: Call[Nothing, Nothing]) -> views.ServerDetail:
    """Show a server with its live deployment."""
    server, live = await call.services.versions.live(call.tenant, call.server)
    return views.ServerDetail(
        **msgspec.structs.asdict(_view(call, server)),
        deployment=deployments.view(call, live, server.live),
        running=msgspec.convert(call.services.running(call.tenant, call.server), views.Running, from_attributes=True),
    )


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/servers/{server}/stop",
    action=Action.SERVER_STOP,
    answer_example=_EXAMPLE | {"desired": "stopped", "instances": 0},
)
async def stop(call: Call[Nothing, Nothing]) -> views.Server:
    """Stop a server.

    Its sessions and processes end; its endpoint answers `server_stopped` until it is started again.
    """
    # First the wish, so that no request starts an instance behind the one that is being ended.
    server = await call.services.versions.set_desired(call.tenant, call.server, "stopped")
    call.changed(events.ServerStopped, server=call.server)
    await call.services.stop_server(call.tenant, call.server)
    return _view(call, server)


@endpoint(
    "POST", "/api/v1/tenants/{tenant}/servers/{server}/start", action=Action.SERVER_START, answer_example=_EXAMPLE
)
async def start(call: Call[Nothing, Nothing]) -> views.Server:
    """Start a stopped server. Its first request starts an instance."""
    server = await call.services.versions.set_desired(call.tenant, call.server, "running")
    call.changed(events.ServerStarted, server=call.server)
    return _view(call, server)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/servers/{server}/rollback",
    action=Action.SERVER_ROLLBACK,
    raises=(errors.Conflict,),
    body_example={"to": "dep-01kaq3v7q0zj1x5w9n2c8d4f6g"},
    answer_example=_EXAMPLE,
)
async def rollback(call: Call[RollbackTo, Nothing]) -> views.Server:
    """Make an earlier deployment live again.

    Instances of the one that was live end, with their sessions: what is rolled back does not serve on.
    """
    before = await call.services.versions.server(call.tenant, call.server)
    server = await call.services.versions.rollback(call.tenant, call.server, call.body.to)
    call.changed(events.ServerRolledBack, server=call.server, deployment=server.live or "", before=before.live or "")
    await call.services.roll_back(call.tenant, call.server)
    return _view(call, server)


@endpoint(
    "DELETE",
    "/api/v1/tenants/{tenant}/servers/{server}",
    action=Action.SERVER_DELETE,
    raises=(errors.Conflict,),
    status=204,
)
async def delete(call: Call[Nothing, Nothing]) -> None:
    """Delete a server with its deployments, secrets, volume and logs. This can't be undone."""
    await call.services.versions.server(call.tenant, call.server)
    stop = functools.partial(call.services.stop_server, call.tenant, call.server)
    # First: if this is cut off here, a server stays that has to be deleted again; in the other order secrets and files
    # would stay that the next server of this name gets.
    await call.services.volumes.delete(call.tenant, call.server, stop)
    await call.services.secrets.drop(call.tenant, call.server)
    await call.services.versions.delete(call.tenant, call.server)
    call.changed(events.ServerDeleted, server=call.server)
    # Once more, for a copy that began before the name was gone.
    await call.services.volumes.delete(call.tenant, call.server, stop)
    # Last: its copies write until their end.
    await call.services.drop_logs(call.tenant, call.server)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/servers/{server}/logs",
    action=Action.SERVER_LOGS,
    answer_example={"items": [{"position": 1, "time": 1800000000.0, "text": "started"}], "next": None},
)
async def logs(call: Call[Nothing, Following]) -> views.Listing[views.LogLine]:
    """Read a server's log.

    What it writes to stderr, and what the platform says about its instances. `next` is null when there is nothing newer
    yet; the last line's `position` continues from there later. With `wait` the answer comes with the next line, or is
    empty when none came in that time: to follow a log, ask again and again from the last position. A server whose first
    deployment failed has a log, too.
    """
    page = call.query
    try:
        await call.services.versions.server(call.tenant, call.server)
    except errors.NotFound:
        # It never was live: its log says why.
        if not await call.services.read_logs(call.tenant, call.server, after=0, limit=1, wait_s=0.0):
            raise
    lines = await call.services.read_logs(
        call.tenant, call.server, after=page.after, limit=page.limit, wait_s=page.wait
    )
    if page.wait:
        # Time has passed: who lost the right meanwhile gets nothing of it.
        await call.ask_again()
    items = [views.LogLine(line.position, line.time, line.text) for line in lines]
    return views.Listing(items, items[-1].position if len(items) == page.limit else None)


def _view(call: Call[Any, Any], server: versions.Server) -> views.Server:
    return views.Server(
        name=server.name,
        tenant=call.tenant,
        created=server.created,
        desired=server.desired,
        live=server.live,
        endpoint=f"{call.services.public_url}/t/{call.tenant}/{server.name}/mcp",
        instances=call.services.instances(call.tenant, ids.ServerName(server.name)),
    )


ENDPOINTS: Final = (index, show, stop, start, rollback, delete, logs)
