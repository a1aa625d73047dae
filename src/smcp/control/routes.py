"""Every endpoint of the admin API, in the order of its documentation."""

from typing import Final

from smcp.control import (
    audit,
    buckets,
    clients,
    deployments,
    keys,
    kv,
    limits,
    mcp,
    platform,
    roles,
    secrets,
    servers,
    signing_keys,
    tenants,
    uploads,
    usage,
    users,
    volumes,
)
from smcp.control.endpoint import Endpoint

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *platform.ENDPOINTS,
    *tenants.ENDPOINTS,
    *limits.ENDPOINTS,
    *keys.ENDPOINTS,
    *signing_keys.ENDPOINTS,
    *users.ENDPOINTS,
    *clients.ENDPOINTS,
    *roles.ENDPOINTS,
    *uploads.ENDPOINTS,
    *deployments.ENDPOINTS,
    *servers.ENDPOINTS,
    *secrets.ENDPOINTS,
    *volumes.ENDPOINTS,
    *kv.ENDPOINTS,
    *buckets.ENDPOINTS,
    *mcp.ENDPOINTS,
    *audit.ENDPOINTS,
    *usage.ENDPOINTS,
)
