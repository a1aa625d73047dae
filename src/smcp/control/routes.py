"""Every endpoint of the admin API, in the order of its documentation."""

from typing import Final

from smcp.control import (
    audit,
    deployments,
    keys,
    limits,
    mcp,
    platform,
    secrets,
    servers,
    tenants,
    uploads,
    usage,
    volumes,
)
from smcp.control.endpoint import Endpoint

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *platform.ENDPOINTS,
    *tenants.ENDPOINTS,
    *limits.ENDPOINTS,
    *keys.ENDPOINTS,
    *uploads.ENDPOINTS,
    *deployments.ENDPOINTS,
    *servers.ENDPOINTS,
    *secrets.ENDPOINTS,
    *volumes.ENDPOINTS,
    *mcp.ENDPOINTS,
    *audit.ENDPOINTS,
    *usage.ENDPOINTS,
)
