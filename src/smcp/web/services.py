"""What the pages are handed, made and joined in `app.wire`."""

import msgspec

# Classes, not modules: this file is a list of parts, each named like its room.
from smcp.audit.trail import Trail
from smcp.identity.accounts.accounts import Accounts
from smcp.identity.accounts.browser import BrowserSessions
from smcp.identity.oauth.authorize import Authorizations
from smcp.identity.oauth.clients import Clients
from smcp.identity.oauth.codes import Codes
from smcp.identity.oauth.device import Devices
from smcp.identity.oauth.grants import Grants
from smcp.identity.oauth.resources import Resources
from smcp.kernel import observe
from smcp.kernel.clock import Clock
from smcp.tenancy.limits import Limiter
from smcp.tenancy.tenants import Tenants
from smcp.web.csrf import DataKey


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the pages need."""

    version: str
    public_url: str
    """How clients reach the platform, without a slash at the end."""
    clock: Clock
    key: DataKey
    tenants: Tenants
    limiter: Limiter
    trail: Trail
    metrics: observe.Metrics
    logger: observe.Logger
    accounts: Accounts
    sessions: BrowserSessions
    authorizing: Authorizations
    clients: Clients
    grants: Grants
    codes: Codes
    devices: Devices
    resources: Resources
