"""Deployments: submitted as a source, built in the background, immutable once made."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access import policy, tools
from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.deploy import deployer, versions
from smcp.deploy.sources import any as sources
from smcp.kernel import errors, ids, redact

_OPERATION: Final = {
    "id": "op-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "tenant": "acme",
    "state": "running",
    "steps": [{"at": 1800000000.0, "stage": "fetch", "text": "mcp-server-time 2026.1.1"}],
    "error": None,
    "server": "time",
    "deployment": None,
}
EXAMPLE: Final = {
    "id": "dep-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "server": "time",
    "number": 1,
    "live": True,
    "created": 1800000000.0,
    "by": "key-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "source": "pypi:mcp-server-time==2026.1.1",
    "digest": "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "argv": ["/app/bin/mcp-server-time"],
    "legacy_versions": ["2025-06-18", "2025-11-25"],
    "modern_versions": [],
    "runtime": "python",
    "remote": None,
    "tools": [{"name": "get_current_time", "description": "Get current time in a specific timezone"}],
    "lock": [{"name": "mcp-server-time", "version": "2026.1.1", "sha256": "9f86d081884c7d65…"}],
}


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to deploy."""

    source: Annotated[
        str,
        Meta(
            # What is wrong in it is said by its own grammar, with the forms that are right.
            max_length=320,
            description=(
                "`pypi:NAME[==VERSION]`, `npm:NAME[@VERSION]`, `upload:DIGEST`, or a remote server's `https://HOST/PATH`"
                " (its headers stand in the manifest: `[remote.headers]`)."
            ),
        ),
    ]
    name: (
        Annotated[
            str, Meta(max_length=ids.MAX_SERVER, description="The server's name; left out: made from the package's.")
        ]
        | None
    ) = None
    manifest: Annotated[str, Meta(max_length=65536, description="The text of an smcp.toml.")] | None = None


class Patience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long somebody would wait for an end."""

    wait: Annotated[float, Meta(ge=0, le=30, description="Seconds to wait for the end, while it is under way.")] = 0.0


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/deployments",
    action=Action.SERVER_DEPLOY,
    status=202,
    raises=(errors.DeployFailed, errors.BadName),
    body_example={"source": "pypi:mcp-server-time", "name": "time"},
    answer_example=_OPERATION,
)
async def submit(call: Call[Order, Nothing]) -> views.Operation:
    """Deploy a server.

    Answers at once with an operation; read it until its state is `succeeded` or `failed`. What was live before stays
    live until the new deployment has been fetched, built without network, started and asked for its tools. A remote
    server is only asked: nothing of it is fetched or built.
    """
    order = call.body
    name = None if order.name is None else ids.server(order.name)
    if redact.text(order.source) != order.source:
        raise errors.InvalidParams("The source holds what looks like a credential; it would be kept and shown.")
    operation = await call.services.deployer.submit(call.principal.id, call.tenant, order.source, name, order.manifest)
    # In the one spelling that is recorded.
    source = str(sources.parse(order.source))
    call.changed(events.DeploySubmitted, operation=operation.id, server=operation.server or "", source=source)
    return _operation(operation)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/operations/{operation}",
    action=Action.SERVER_READ,
    answer_example=_OPERATION,
)
async def operation(call: Call[Nothing, Patience]) -> views.Operation:
    """Show how a deployment is getting on.

    With `wait` the answer comes when it has ended, or as it stands after that time.
    """
    found = await call.services.deployer.ended(call.tenant, call.path["operation"], call.query.wait)
    if call.query.wait:
        # Who asks may have been stopped meanwhile.
        await call.ask_again()
    return _operation(found)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/servers/{server}/deployments",
    action=Action.SERVER_READ,
    answer_example={"items": [EXAMPLE], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[views.Deployment]:
    """List a server's deployments, oldest first."""
    server = await call.services.versions.server(call.tenant, call.server)
    found = await call.services.versions.deployments(call.tenant, call.server)
    return views.page([view(call, one, server.live) for one in found], call.query, lambda one: one.id)


def view(call: Call[Any, Any], deployment: versions.Deployment, live: str | None) -> views.Deployment:
    """A deployment as the caller is shown it; `live` is the id of its server's live one."""
    server = deployment.server
    choice = tools.choice(call.principal, policy.Resource(call.tenant, "server", server, server))
    return views.Deployment(
        id=deployment.id,
        server=deployment.server,
        number=deployment.number,
        live=deployment.id == live,
        created=deployment.created,
        by=deployment.by,
        source=deployment.source,
        digest=deployment.digest,
        argv=list(deployment.argv),
        legacy_versions=list(deployment.eras.legacy),
        modern_versions=list(deployment.eras.modern),
        tools=[
            views.ToolName(tool.name, tool.description)
            for tool in deployment.tools
            if choice is None or choice.shows(tool.name, read_only=tool.read_only)
        ],
        runtime=deployment.runtime,
        remote=_remote(deployment),
        lock=[views.Locked(one.name, one.version, one.sha256) for one in deployment.lock],
    )


def _remote(deployment: versions.Deployment) -> views.Remote | None:
    said = deployment.manifest.remote
    if said is None:
        return None
    return views.Remote(said.url, dict(said.headers), deployment.wire or said.wire)


def _operation(operation: deployer.Operation) -> views.Operation:
    return views.Operation(
        id=operation.id,
        tenant=operation.tenant,
        state=operation.state,
        steps=[views.Step(step.at, step.stage, step.text) for step in operation.steps],
        error=operation.error,
        server=operation.server,
        deployment=operation.deployment,
    )


ENDPOINTS: Final = (submit, operation, index)
