"""Who may do what: one closed list of actions, four roles, one pure function.

Nothing here touches a store, a clock or the network, so that every decision can be replayed and the whole
table can be printed (tests/golden/roles.txt; over all endpoints: tests/golden/access-matrix.txt). Everything that
is not granted is refused.

404 or 403? A caller who may not even read a resource must not learn that it exists: `decide` then answers
`CONCEAL`. A caller who may read it and asks for more gets `DENY` (omicron's http-status-codes reasoning).
"""

import enum
import hashlib
from typing import Final

import msgspec

from smcp.kernel import ids


class Action(enum.StrEnum):
    """Every action that exists, `resource:verb`. Alphabetical."""

    AUDIT_READ = "audit:read"
    AUDIT_VERIFY = "audit:verify"
    KEY_CREATE = "key:create"
    KEY_LIST = "key:list"
    KEY_REVOKE = "key:revoke"
    MCP_CALL = "mcp:call"
    MCP_CONNECT = "mcp:connect"
    MCP_LIST = "mcp:list"
    MCP_READ = "mcp:read"
    PLATFORM_METRICS = "platform:metrics"
    PLATFORM_READ = "platform:read"
    PLATFORM_USAGE = "platform:usage"
    # In the plural: "secret:" and a word is what a leaked credential looks like to `kernel.redact`.
    SECRETS_LIST = "secrets:list"
    SECRETS_WRITE = "secrets:write"
    SERVER_DELETE = "server:delete"
    SERVER_DEPLOY = "server:deploy"
    SERVER_LIST = "server:list"
    SERVER_LOGS = "server:logs"
    SERVER_READ = "server:read"
    SERVER_ROLLBACK = "server:rollback"
    SERVER_START = "server:start"
    SERVER_STOP = "server:stop"
    TENANT_CREATE = "tenant:create"
    TENANT_LIST = "tenant:list"
    TENANT_PLAN = "tenant:plan"
    TENANT_READ = "tenant:read"
    TENANT_RESUME = "tenant:resume"
    TENANT_SUSPEND = "tenant:suspend"
    USAGE_READ = "usage:read"
    VOLUME_DELETE = "volume:delete"
    VOLUME_READ = "volume:read"
    VOLUME_RESTORE = "volume:restore"
    VOLUME_SNAPSHOT = "volume:snapshot"


class Role(enum.StrEnum):
    """What a principal is within its own tenant; `operator` exists in the platform tenant only."""

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

GRANTS: Final[dict[Role, frozenset[Action]]] = {
    Role.READ_ONLY: _SEE | _READ_MCP,
    Role.MCP_USER: _SEE | _USE_MCP,
    Role.ADMIN: frozenset(Action) - _RUN_PLATFORM,
    # Operators run the platform and help tenants; they do not use a tenant's tools or read its resources.
    Role.OPERATOR: frozenset(Action) - _USE_MCP,
}


VERSION: Final = hashlib.sha256(repr(sorted((role, sorted(may)) for role, may in GRANTS.items())).encode()).hexdigest()
"""Another one for another table: what was shown under one policy is not shown under the next."""


class Principal(msgspec.Struct, frozen=True):
    """Who is calling, as verified by `identity`: the only source of a tenant."""

    tenant: ids.TenantId
    id: str
    """Unique in its tenant, e.g. `key-01h…`. Never a secret."""
    kind: str
    """`api_key`; later `user` or `client`."""
    roles: tuple[Role, ...]
    label: str = ""
    """A name for people; not an identifier."""


class Resource(msgspec.Struct, frozen=True):
    """What is being acted on. `tenant` comes from the route, never from a body."""

    tenant: ids.TenantId
    kind: str
    name: str = ""


class Decision(enum.Enum):
    """The answer of `decide`."""

    ALLOW = "allow"
    DENY = "deny"
    """403: the caller may know the resource, but not do this."""
    CONCEAL = "conceal"
    """404: the caller may not know that it exists."""


def decide(principal: Principal, action: Action, resource: Resource) -> Decision:
    """May `principal` do `action` to `resource`? Default deny.

    An action or a role that is not in `GRANTS` grants nothing, and neither does a role that does not reach the
    resource: a tenant's roles end at the tenant's border, and `operator` means nothing outside the platform tenant.
    """
    visible = False
    for role in principal.roles:
        if _reaches(principal, role, resource):
            if action in GRANTS[role]:
                return Decision.ALLOW
            visible = True
    return Decision.DENY if visible else Decision.CONCEAL


def _reaches(principal: Principal, role: Role, resource: Resource) -> bool:
    if role not in GRANTS:
        return False
    if role is Role.OPERATOR:
        return principal.tenant == ids.PLATFORM
    return principal.tenant == resource.tenant
