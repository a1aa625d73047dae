"""Who may do what: one closed list of actions, four roles, the roles that tenants make themselves, one pure function.

Nothing here touches a store, a clock or the network, so that every decision can be replayed and the whole
table can be printed (tests/golden/roles.txt; over all endpoints: tests/golden/access-matrix.txt). Everything that
is not granted is refused. What a principal is (its roles' rules, its scopes) was worked out when its credential was
verified, and is read here.

Roles give. Scopes, and the servers that a key is for, only take away. Together: roles ∩ scopes ∩ servers.

404 or 403? A caller who may not even read a resource must not learn that it exists: `decide` then answers
`CONCEAL`. A caller who may read it and asks for more gets `DENY` (omicron's http-status-codes reasoning).
"""

import enum
import hashlib
from typing import Final, TypeGuard

import msgspec

from smcp.access import patterns, scopes
from smcp.access.actions import Action as Action
from smcp.kernel import ids


class Role(enum.StrEnum):
    """The roles that every tenant has; `operator` exists in the platform tenant only."""

    ADMIN = "admin"
    MCP_USER = "mcp_user"
    OPERATOR = "operator"
    READ_ONLY = "read_only"


_SEE: Final = frozenset({Action.TENANT_READ, Action.SERVER_LIST, Action.SERVER_READ, Action.VOLUME_READ})
_READ_MCP: Final = frozenset({Action.MCP_CONNECT, Action.MCP_LIST, Action.MCP_READ})
_RUN_PLATFORM: Final = frozenset(
    {
        Action.PLATFORM_METRICS,
        Action.PLATFORM_READ,
        Action.PLATFORM_USAGE,
        Action.TENANT_CREATE,
        Action.TENANT_LIST,
        Action.TENANT_PLAN,
        Action.TENANT_RESUME,
        Action.TENANT_SUSPEND,
    }
)
_USE_MCP: Final = _READ_MCP | {Action.MCP_CALL}
_USE_DATA: Final = frozenset({Action.KV_READ, Action.KV_WRITE, Action.OBJECT_READ, Action.OBJECT_WRITE})
"""What a tenant's code keeps, in plain text: the tenant's administrators alone."""

GRANTS: Final[dict[Role, frozenset[Action]]] = {
    Role.READ_ONLY: _SEE | _READ_MCP,
    Role.MCP_USER: _SEE | _USE_MCP,
    Role.ADMIN: frozenset(Action) - _RUN_PLATFORM,
    # Operators run the platform and help tenants; they do not use a tenant's tools or read its resources and data.
    Role.OPERATOR: frozenset(Action) - _USE_MCP - _USE_DATA,
}


VERSION: Final = hashlib.sha256(repr(sorted((role, sorted(may)) for role, may in GRANTS.items())).encode()).hexdigest()
"""Another one for another table: what was shown under one policy is not shown under the next."""


API: Final = ""
"""`Principal.audience` of a token for the admin API: no server has this name."""


class Rule(msgspec.Struct, frozen=True):
    """A role of a tenant's own: what it gives, and under which conditions. It ends at the tenant's border."""

    role: str
    actions: frozenset[Action]
    servers: frozenset[str] = frozenset()
    """It reaches these servers only, and nothing that is no server's; empty: the whole tenant."""
    tools: tuple[str, ...] = ()
    """It reaches tools whose name fits one of these (`patterns`) only; empty: all."""
    read_only: bool = False
    """It reaches only tools that said, when they were deployed, that they change nothing (`readOnlyHint`)."""

    @property
    def some_tools(self) -> bool:
        """Does it depend on the tool?"""
        return bool(self.tools) or self.read_only

    def fits(self, tool: str, *, read_only: bool) -> bool:
        """Does it reach this tool?"""
        return (read_only or not self.read_only) and (not self.tools or patterns.any_fits(self.tools, tool))


class Principal(msgspec.Struct, frozen=True):
    """Who is calling, as verified by `identity`: the only source of a tenant."""

    tenant: ids.TenantId
    id: str
    """Unique in its tenant, e.g. `key-01h…`. Never a secret."""
    kind: str
    """`api_key`, `user` (a person, through an OAuth client or the pages) or `client` (an OAuth client itself)."""
    roles: tuple[str, ...]
    """By name. Those of `Role` give what `GRANTS` says; all others what `rules` say of them."""
    label: str = ""
    """A name for people; not an identifier."""
    client: str = ""
    """The OAuth client that acts for the principal; empty where none does."""
    audience: str | None = None
    """The one server that the credential is for (RFC 8707), or `API` for the admin API; None: wherever roles reach."""
    scopes: frozenset[str] | None = None
    """What was consented to (`access.scopes`); None: not narrowed. Scopes only take away from what the roles give."""
    rules: tuple[Rule, ...] = ()
    """What `roles` of the tenant's own give: `identity.roles.Roles.rules` as of now."""
    servers: frozenset[str] | None = None
    """The credential reaches these servers only, and nothing that is no server's; None: not narrowed."""
    networks: tuple[str, ...] = ()
    """Where requests may come from (`access.addresses`); empty: anywhere."""
    expires: float | None = None
    """When the credential ends, in epoch seconds: for telling its holder in time. None: never."""


class Resource(msgspec.Struct, frozen=True):
    """What is being acted on. `tenant` comes from the route, never from a body."""

    tenant: ids.TenantId
    kind: str
    name: str = ""
    server: str = ""
    """The server that it is, or belongs to; empty for what is no server's."""


class Decision(enum.Enum):
    """The answer of `decide`."""

    ALLOW = "allow"
    DENY = "deny"
    """403: the caller may know the resource, but not do this."""
    STEP_UP = "step_up"
    """403 `insufficient_scope`: the roles allow it, but the scopes of this token do not (RFC 6750, 3.1)."""
    CONCEAL = "conceal"
    """404: the caller may not know that it exists."""


def decide(principal: Principal, action: Action, resource: Resource) -> Decision:
    """May `principal` do `action` to `resource`? Default deny.

    An action or a role that is not in `GRANTS` or `rules` grants nothing, and neither does a role that does not reach
    the resource: a tenant's roles end at the tenant's border, and `operator` means nothing outside the platform tenant.
    Of tools, `tools` says which.
    """
    if principal.servers is not None and resource.server not in principal.servers:
        return Decision.CONCEAL
    visible = False
    for role in principal.roles:
        if _reaches(role, principal, resource):
            if action in GRANTS[role]:
                return _within(principal, action)
            visible = True
    for rule in principal.rules:
        if reaches(principal, rule, resource):
            if action in rule.actions:
                return _within(principal, action)
            visible = True
    return Decision.DENY if visible else Decision.CONCEAL


def _within(principal: Principal, action: Action) -> Decision:
    if principal.scopes is None or action in scopes.actions(principal.scopes):
        return Decision.ALLOW
    # A key has the scopes that it was made with: its holder can't ask for more.
    return Decision.DENY if principal.kind == "api_key" else Decision.STEP_UP


def _reaches(role: str, principal: Principal, resource: Resource) -> TypeGuard[Role]:
    if role not in GRANTS:
        return False
    if role == Role.OPERATOR:
        return principal.tenant == ids.PLATFORM
    return principal.tenant == resource.tenant


def reaches(principal: Principal, rule: Rule, resource: Resource) -> bool:
    """Does one of the principal's own rules say anything of `resource`?"""
    return principal.tenant == resource.tenant and (not rule.servers or resource.server in rule.servers)


def given(principal: Principal, resource: Resource) -> frozenset[Action]:
    """What the roles that every tenant has give at `resource`."""
    return frozenset[Action]().union(*(GRANTS[role] for role in principal.roles if _reaches(role, principal, resource)))
