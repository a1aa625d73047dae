"""What every room stands on while a platform runs."""

import contextlib
import dataclasses

from smcp.audit import trail
from smcp.identity import authenticator
from smcp.identity.authn import api_key
from smcp.kernel import clock, hosts, observe, settings
from smcp.stores import tenant as stores
from smcp.tenancy import egress, limits, meter, plans, tenants


class Foundation:
    """What every room stands on while a platform runs."""

    def __init__(self, config: settings.Settings, version: str) -> None:
        self.settings = config
        self.version = version
        self.clock = clock.SystemClock()
        self.log = observe.logger(config.log)
        self.metrics = observe.Metrics(version)
        self.traces = observe.Traces()
        self.undo = contextlib.AsyncExitStack()


@dataclasses.dataclass(frozen=True)
class Common:
    """Who may do what, and where it is kept."""

    store: stores.Store
    trail: trail.Trail
    tenants: tenants.Tenants
    keys: api_key.ApiKeys
    hosts: hosts.Hosts
    authenticator: authenticator.Authenticator
    plans: plans.Plans
    egress: egress.Days
    limiter: limits.Limiter
    meter: meter.Meter
