"""A platform with two tenants, whose servers do what a test tells them."""

from dataclasses import dataclass, field

from support import wire
from support.clients import Endpoint
from support.platform import Platform

# Short patience and small buffers, so that a test meets them; room in the plan, so that it meets nothing else.
SETTINGS = {
    "SMCP_GATEWAY_CALL_TIMEOUT_S": "4",
    "SMCP_GATEWAY_BODY_TIMEOUT_S": "1",
    "SMCP_GATEWAY_HEARTBEAT_S": "0.3",
    "SMCP_RUNTIME_MAX_MESSAGE_BYTES": "1000000",
    "SMCP_RUNTIME_STREAM_BUFFER": "64",
    "SMCP_RUNTIME_STOP_GRACE_S": "1",
    "SMCP_SANDBOX_MEMORY_BYTES": "200000000",
    "SMCP_LIMITS_TENANT_PER_MINUTE": "1000000",
    "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "1000000",
    "SMCP_LIMITS_UNAUTHENTICATED_PER_MINUTE": "1000000",
    "SMCP_LIMITS_PRINCIPAL_SESSIONS": "6",
    # No copy that nobody asked for: tests count processes.
    "SMCP_LIMITS_STANDARD": "session_per_minute=1000000,spares=0",
}


@dataclass(frozen=True)
class Gate:
    """The platform, and who may do what there."""

    platform: Platform
    acme: Endpoint
    """Acme's server, for a key that may call."""
    colleague: Endpoint
    """The same for another key of acme."""
    second: Endpoint
    """Acme's other server, for the first key."""
    reader: Endpoint
    """Acme's server, for a key that may only read."""
    operator: Endpoint
    """Acme's server, for the operator's key."""
    umbra: Endpoint
    """Another tenant's server, for a key of that tenant."""
    old: Endpoint
    """A server of acme whose manifest turns the transport of MCP 2024-11-05 on, for the first key."""
    admin: str = field(repr=False)
    """The key of acme's administrator."""


def opened(platform: Platform) -> Gate:
    """The tenants acme and umbra with their servers, on a platform that runs."""
    source = f"pypi:{wire.SCRIPTED}"
    platform.create_tenant("acme")
    admin = platform.create_key("acme", "admin")
    user, colleague, reader = (platform.create_key("acme", role) for role in ("mcp_user", "mcp_user", "read_only"))
    first, second = (
        platform.deploy("acme", source, name, admin, f'[env]\nCANARY = "acme-{name}"\n') for name in ("tool", "second")
    )
    old = platform.deploy("acme", source, "old", admin, 'sse = true\n[env]\nCANARY = "acme-old"\n')
    platform.create_tenant("umbra")
    owner = platform.create_key("umbra", "admin")
    theirs = platform.deploy("umbra", source, "tool", owner, '[env]\nCANARY = "umbra-tool"\n')
    return Gate(
        platform,
        Endpoint(first, user),
        Endpoint(first, colleague),
        Endpoint(second, user),
        Endpoint(first, reader),
        Endpoint(first, platform.operator_key),
        Endpoint(theirs, platform.create_key("umbra", "mcp_user")),
        Endpoint(old, user),
        admin,
    )
