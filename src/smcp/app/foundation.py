"""What every room stands on while a platform runs."""

import asyncio
import contextlib
import dataclasses
import os

from smcp.app import tracing
from smcp.audit import trail
from smcp.identity import authenticator, roles
from smcp.identity.accounts import people
from smcp.identity.authn import api_key
from smcp.kernel import clock, hosts, observe, settings
from smcp.stores import buckets, heavy, namespaces
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
        self.undo = contextlib.AsyncExitStack()
        telling = tracing.Tracing(os.environ, self.log, version)
        self.traces = telling.traces
        # The last of all: what is undone before it may still have spans to send.
        self.undo.push_async_callback(asyncio.to_thread, telling.close)


@dataclasses.dataclass(frozen=True)
class Common:
    """Who may do what, and where it is kept."""

    store: stores.Store
    trail: trail.Trail
    tenants: tenants.Tenants
    keys: api_key.ApiKeys
    roles: roles.Roles
    people: people.People
    hosts: hosts.Hosts
    authenticator: authenticator.Authenticator
    plans: plans.Plans
    egress: egress.Days
    limiter: limits.Limiter
    meter: meter.Meter
    namespaces: namespaces.Namespaces
    buckets: buckets.Buckets
    heavy: heavy.Heavy
