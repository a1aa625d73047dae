"""What the admin API is handed: rooms below it, and the runtime's few functions that it calls."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import msgspec

# Classes, not modules: this file is a list of parts, each named like its room.
from smcp.access import policy
from smcp.audit.trail import Trail
from smcp.deploy.deployer import Deployer
from smcp.deploy.secrets import Secrets
from smcp.deploy.uploads import Uploads
from smcp.deploy.versions import Versions
from smcp.identity.accounts.people import People
from smcp.identity.authenticator import Authenticator
from smcp.identity.authn.api_key import ApiKeys
from smcp.identity.oauth.clients import Clients
from smcp.identity.roles import Roles
from smcp.identity.signing import Signing
from smcp.kernel import ids, observe
from smcp.kernel.hosts import Hosts
from smcp.kernel.settings import Settings
from smcp.runtime.pool import View
from smcp.sandbox.volumes.keeper import Volumes
from smcp.stores.buckets import Buckets
from smcp.stores.heavy import Heavy
from smcp.stores.namespaces import Namespaces
from smcp.tenancy.limits import Limiter
from smcp.tenancy.meter import Meter
from smcp.tenancy.overview import Overview
from smcp.tenancy.plans import Plans
from smcp.tenancy.tenants import Tenants


class Invoke(Protocol):
    """One MCP request to a tenant's server, through the gateway's own stages from the lease on."""

    async def __call__(
        self,
        principal: policy.Principal,
        tenant: ids.TenantId,
        server: ids.ServerName,
        method: str,
        params: dict[str, Any],
        /,
    ) -> dict[str, Any]:
        """The JSON-RPC result. Raises the errors of `kernel.errors`."""
        ...


class LogLine(NamedTuple):
    """A line that a hosted server wrote to stderr, or that the platform wrote about it."""

    position: int
    time: float
    text: str


class ReadLogs(Protocol):
    """Reads a server's log lines."""

    async def __call__(
        self, tenant: ids.TenantId, server: ids.ServerName, /, *, after: int, limit: int, wait_s: float
    ) -> list[LogLine]:
        """Up to `limit` lines behind position `after`; where there is none, the next within `wait_s` seconds."""
        ...


StopServer = Callable[[ids.TenantId, ids.ServerName], Awaitable[None]]
"""Ends every running instance of a server; returns when none is left."""

RenewServer = Callable[[ids.TenantId, ids.ServerName], None]
"""Lets every running instance of a server end with its last call: something that they get at their start changed."""

StopTenant = Callable[[ids.TenantId], Awaitable[None]]
"""Ends every running instance of a tenant; returns when none is left."""

DropLogs = Callable[[ids.TenantId, ids.ServerName], Awaitable[None]]
"""Removes a server's log lines."""

Instances = Callable[[ids.TenantId, ids.ServerName], int]
"""How many instances of a server run on this node."""

Running = Callable[[ids.TenantId, ids.ServerName], View]
"""What runs of a server on this node, copy by copy."""


class Ready(NamedTuple):
    """A condition for taking traffic."""

    name: str
    check: Callable[[], None]
    """Raises an `errors.SmcpError` when it does not hold. Cheap: asked on every /readyz."""


class Layer(NamedTuple):
    """A layer of the walls around hosted servers: there, or why not."""

    name: str
    present: bool
    why: str
    fix: str


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the admin API needs, made and joined in `app.wire`."""

    version: str
    public_url: str
    """How clients reach the platform, without a slash at the end."""
    settings: Settings
    hosts: Hosts
    authenticator: Authenticator
    plans: Plans
    overview: Overview
    limiter: Limiter
    meter: Meter
    trail: Trail
    tenants: Tenants
    keys: ApiKeys
    signing: Signing
    clients: Clients
    roles: Roles
    people: People
    versions: Versions
    uploads: Uploads
    deployer: Deployer
    secrets: Secrets
    volumes: Volumes
    namespaces: Namespaces
    heavy: Heavy
    buckets: Buckets
    invoke: Invoke
    read_logs: ReadLogs
    stop_server: StopServer
    roll_back: StopServer
    """End what serves on for a server that goes back to another deployment."""
    renew_server: RenewServer
    stop_tenant: StopTenant
    drop_logs: DropLogs
    instances: Instances
    running: Running
    ready: tuple[Ready, ...]
    layers: tuple[Layer, ...]
    """The walls around hosted servers."""
    metrics: observe.Metrics
    logger: observe.Logger
