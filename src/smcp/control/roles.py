"""Roles of a tenant's own: made, listed, removed; and what somebody who has some of them could do."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.access import explain, grants, policy
from smcp.access import roles as model
from smcp.access import scopes as known
from smcp.access.policy import Action
from smcp.audit import identity
from smcp.control import credentials, views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.kernel import errors, ids

_ROLE: Final = {
    "name": "reporter",
    "description": "Reads reports",
    "actions": ["mcp:call", "mcp:connect", "mcp:list"],
    "servers": ["time"],
    "tools": ["get_*"],
    "read_only": True,
    "changed": 1800000000.0,
}
_Word = Annotated[str, Meta(max_length=64)]


class RoleOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a role gives, and under which conditions."""

    actions: Annotated[
        tuple[_Word, ...],
        Meta(min_length=1, max_length=len(Action), description="`resource:action`, or `resource:*` for all of one."),
    ]
    description: Annotated[str, Meta(max_length=model.MAX_DESCRIPTION, description="For people.")] = ""
    servers: Annotated[
        tuple[_Word, ...], Meta(max_length=model.MOST_SERVERS, description="It reaches these only; empty: everything.")
    ] = ()
    tools: Annotated[
        tuple[Annotated[str, Meta(max_length=128)], ...],
        Meta(max_length=model.MOST_TOOLS, description="Names of tools, `*` for any text; empty: all tools."),
    ] = ()
    read_only: Annotated[bool, Meta(description="Only tools that said `readOnlyHint` when they were deployed.")] = False


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who wants to do what."""

    action: _Word
    server: Annotated[str, Meta(max_length=64, description="The server; empty for what is no server's.")] = ""
    tool: Annotated[str, Meta(max_length=128, description="The tool that is called or listed.")] = ""
    roles: Annotated[tuple[_Word, ...], Meta(max_length=16, description="Of whoever asks; or name a `key`.")] = ()
    scopes: Annotated[
        tuple[_Word, ...], Meta(max_length=len(known.WORDS), description="Of whoever asks; empty: all.")
    ] = ()
    key: Annotated[str, Meta(max_length=64, description="An API key's id, instead of roles and scopes.")] = ""


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/roles",
    action=Action.ROLE_LIST,
    platform=True,
    answer_example={"items": [_ROLE], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[credentials.Role]:
    """List the tenant's own roles.

    The roles that every tenant has (`admin`, `mcp_user`, `read_only`) are not among them.
    """
    return views.page(
        [_view(role) for role in await call.services.roles.list(call.tenant)], call.query, lambda role: role.name
    )


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/roles/{role}",
    action=Action.ROLE_LIST,
    platform=True,
    answer_example=_ROLE,
)
async def show(call: Call[Nothing, Nothing]) -> credentials.Role:
    """Show a role: one of the tenant's own, or one that every tenant has."""
    name = call.path["role"]
    for role in grants.possible(call.tenant):
        if role.value == name:
            return credentials.Role(name, "", sorted(policy.GRANTS[role]), [], [], read_only=False, changed=None)
    return _view(await call.services.roles.find(call.tenant, name))


@endpoint(
    "PUT",
    "/api/v1/tenants/{tenant}/roles/{role}",
    action=Action.ROLE_SET,
    platform=True,
    body_example={"actions": ["mcp:connect", "mcp:list", "mcp:call"], "servers": ["time"], "tools": ["get_*"]},
    answer_example=_ROLE,
)
async def put(call: Call[RoleOrder, Nothing]) -> credentials.Role:
    """Make a role, or replace it.

    Whoever has it may do what it says with their next request. Nobody writes more into a role than they may do
    themselves.
    """
    body = call.body
    role = model.checked(
        call.tenant,
        model.Custom(
            name=call.path["role"],
            description=body.description,
            actions=body.actions,
            servers=body.servers,
            tools=body.tools,
            read_only=body.read_only,
        ),
    )
    if not grants.covers(call.principal, call.tenant, role.rule()):
        raise errors.Forbidden("You can't write more into a role than you may do yourself.", detail="grants")
    grants.within(call.principal, (), (role.rule(),))
    made = await call.services.roles.set(call.tenant, role)
    call.changed(identity.RoleDefined, role=made.name, grants=len(made.actions))
    return _view(made)


@endpoint(
    "DELETE",
    "/api/v1/tenants/{tenant}/roles/{role}",
    action=Action.ROLE_DELETE,
    platform=True,
    status=204,
)
async def delete(call: Call[Nothing, Nothing]) -> None:
    """Remove a role of the tenant's own.

    Keys and people that have it keep its name, which gives nothing from now on; a role that is made later under the
    same name is theirs again.
    """
    name = call.path["role"]
    await call.services.roles.delete(call.tenant, name)
    call.changed(identity.RoleDeleted, role=name)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/policy/test",
    action=Action.ROLE_TEST,
    platform=True,
    body_example={"action": "mcp:call", "server": "time", "tool": "get_current_time", "roles": ["mcp_user"]},
    answer_example={
        "decision": "allow",
        "hidden": False,
        "allowed": True,
        "because": ["Role mcp_user gives mcp:call here."],
    },
)
async def test(call: Call[Question, Nothing]) -> credentials.Verdict:
    """Say what would be decided, and why. Nothing is done.

    Whether a tool only reads is what it said when the server's live deployment was made.
    """
    body = call.body
    action = next((one for one in Action if one.value == body.action), None)
    if action is None:
        raise errors.InvalidParams(f"There is no action {body.action!r}.")
    server = str(ids.server(body.server)) if body.server else ""
    principal = await _asker(call)
    read_only = bool(body.tool and server) and await _only_reads(call, ids.ServerName(server))
    kind = action.value.partition(":")[0]
    resource = policy.Resource(call.tenant, kind, server, server)
    found = explain.verdict(principal, action, resource, body.tool, read_only=read_only)
    return credentials.Verdict(found.decision.value, found.hidden, found.allowed, list(found.because))


async def _asker(call: Call[Question, Nothing]) -> policy.Principal:
    body = call.body
    if bool(body.key) == bool(body.roles):
        raise errors.InvalidParams("Name either roles or a key.")
    if body.key:
        key = await call.services.keys.find(call.tenant, body.key)
        names, kind = key.roles, "api_key"
        held, servers = key.scopes, key.servers
    else:
        names, kind = body.roles, "user"
        held, servers = body.scopes or None, None
    if held is not None and not set(held) <= known.WORDS.keys():
        raise errors.InvalidParams(f"Scopes are: {', '.join(known.WORDS)}.")
    return policy.Principal(
        call.tenant,
        body.key or "test",
        kind,
        names,
        rules=(await call.services.roles.rules(call.tenant, names)).rules,
        scopes=None if held is None else frozenset(held),
        servers=None if servers is None else frozenset(servers),
    )


async def _only_reads(call: Call[Question, Nothing], server: ids.ServerName) -> bool:
    _, deployment = await call.services.versions.live(call.tenant, server)
    return any(tool.read_only for tool in deployment.tools if tool.name == call.body.tool)


def _view(role: model.Custom) -> credentials.Role:
    return credentials.Role(
        role.name,
        role.description,
        list(role.actions),
        list(role.servers),
        list(role.tools),
        read_only=role.read_only,
        changed=role.changed,
    )


ENDPOINTS: Final = (index, show, put, delete, test)
