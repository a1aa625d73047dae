"""A platform with two tenants, whose servers do what a test tells them."""

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from support import wire
from support.clients import Endpoint
from support.platform import Platform

# Small buffers, so that a test meets them; room in the plan and in time, so that it meets nothing else. An answer that
# takes longer than a heartbeat comes as a stream, and a call counts from its arrival, with the start of a copy: on a
# machine that stands still for some seconds both would be told of the platform that are the machine's.
SETTINGS: Final = {
    "SMCP_GATEWAY_CALL_TIMEOUT_S": "100",
    "SMCP_GATEWAY_BODY_TIMEOUT_S": "30",
    "SMCP_GATEWAY_HEARTBEAT_S": "20",
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
BRISK: Final = {"SMCP_GATEWAY_HEARTBEAT_S": "0.3"}
"""For tests that wait for heartbeats, or for what is looked at with each of them."""
HASTY: Final = {**BRISK, "SMCP_GATEWAY_CALL_TIMEOUT_S": "10", "SMCP_GATEWAY_BODY_TIMEOUT_S": "4"}
"""For tests that wait until somebody's time is over."""
ALONE: Final = "[scale]\nmax = 1\n"
"""One shared copy, however slow the machine is: tests ask it what it has heard, and when it was born."""


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
        platform.deploy("acme", source, name, admin, f'[env]\nCANARY = "acme-{name}"\n{ALONE}')
        for name in ("tool", "second")
    )
    old = platform.deploy("acme", source, "old", admin, f'sse = true\n[env]\nCANARY = "acme-old"\n{ALONE}')
    platform.create_tenant("umbra")
    owner = platform.create_key("umbra", "admin")
    theirs = platform.deploy("umbra", source, "tool", owner, f'[env]\nCANARY = "umbra-tool"\n{ALONE}')
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


@contextlib.contextmanager
def running(factory: pytest.TempPathFactory, name: str, more: Mapping[str, str] | None = None) -> Generator[Gate]:
    """The same on a platform of its own, which runs for as long; `more`: settings beside `SETTINGS`."""
    shelf = factory.mktemp("wheels")
    wire.wheel(shelf)
    with Platform(factory.mktemp(name), {**SETTINGS, **(more or {}), "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}) as platform:
        yield opened(platform)


def role(gate: Gate, name: str, actions: list[str], **conditions: Any) -> None:
    """Make or change a role of acme."""
    gate.platform.api("PUT", f"/tenants/acme/roles/{name}", {"actions": actions, **conditions}, key=gate.admin)


def key(gate: Gate, *roles: str, **more: Any) -> str:
    """A new key of acme."""
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": roles, **more}, key=gate.admin)
    return str(made["secret"])
