"""Plans: how much a tenant may take. `standard` is what the settings say, `free` smaller, `custom` the operator's own.

A plan stands in the tenant's record. It is read from memory: `Plans.of` costs a look into a table, and is never older
than an acknowledged change. Where memory does not know (the record was dropped from it), the last known plan holds.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from smcp.kernel import errors, ids, settings
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.tenancy import tenants

STANDARD: Final = "standard"
FREE: Final = "free"
CUSTOM: Final = "custom"
NAMES: Final = (FREE, STANDARD, CUSTOM)

MOST: Final = 2**53
"""The largest limit: the largest whole number that every reader of JSON reads alike."""

_AROUND: Final = 256 * 1024**2
"""Room for what a stronger wall takes around a copy (gVisor's own memory)."""

_OPERATORS: Final = 10
"""Operators' requests are few tenants' worth: provisioning and watching must not stop at one tenant's rate."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant may take. Each number is a limit that is never passed."""

    name: str
    tenant_per_minute: int
    principal_per_minute: int
    session_per_minute: int
    tenant_concurrency: int
    principal_concurrency: int
    principal_sessions: int
    instances: int
    spares: int
    memory_bytes: int
    storage_bytes: int
    storage_keys: int
    egress_bytes_per_day: int
    deployments_kept: int

    @property
    def storage(self) -> stores.Quota:
        """What the tenant may store."""
        return stores.Quota(self.storage_bytes, self.storage_keys)


class Limit(NamedTuple):
    """One limit of a plan, for people."""

    name: str
    unit: str
    text: str
    least: int = 1


LIMITS: Final = (
    Limit("tenant_per_minute", "requests", "Requests of the tenant in any minute."),
    Limit("principal_per_minute", "requests", "Requests of one principal (API key) in any minute."),
    Limit("session_per_minute", "requests", "Requests of one MCP session in any minute."),
    Limit("tenant_concurrency", "requests", "Requests of the tenant in flight at once."),
    Limit("principal_concurrency", "requests", "Requests of one principal in flight at once."),
    Limit("principal_sessions", "sessions", "MCP sessions of one principal; at the cap the longest-idle one ends."),
    Limit("instances", "copies", "Running copies of hosted servers."),
    Limit("spares", "copies", "Copies that are started ahead of demand.", 0),
    Limit("memory_bytes", "bytes", "Memory that the running copies together may take."),
    Limit("storage_bytes", "bytes", "Bytes stored, over all keys and objects."),
    Limit("storage_keys", "keys", "Keys and objects stored."),
    Limit("egress_bytes_per_day", "bytes", "Bytes that hosted servers move over the network in a day (UTC).", 0),
    Limit("deployments_kept", "deployments", "Earlier deployments kept of one server; the oldest go first."),
)
"""Every limit, in the order in which people see them."""

BY_NAME: Final[Mapping[str, Limit]] = {limit.name: limit for limit in LIMITS}

_FREE: Final[Mapping[str, int]] = {
    "tenant_per_minute": 200,
    "principal_per_minute": 200,
    "session_per_minute": 60,
    "tenant_concurrency": 16,
    "principal_concurrency": 8,
    "principal_sessions": 3,
    "instances": 4,
    "spares": 0,
    "memory_bytes": 4 * 1024**3,
    "storage_bytes": 256 * 1024**2,
    "storage_keys": 10_000,
    "egress_bytes_per_day": 1024**3,
    "deployments_kept": 3,
}


def standard(config: settings.Settings) -> Plan:
    """The plan that the settings describe. Raises `errors.BadSettings`."""
    limits = config.limits
    plan = Plan(
        name=STANDARD,
        tenant_per_minute=limits.tenant_per_minute,
        principal_per_minute=limits.principal_per_minute,
        session_per_minute=100,
        tenant_concurrency=limits.tenant_concurrency,
        principal_concurrency=limits.principal_concurrency,
        principal_sessions=limits.principal_sessions,
        instances=limits.tenant_instances,
        spares=4,
        # Copies are charged with what they may take: by default the number of copies is what limits.
        memory_bytes=limits.tenant_instances * (config.sandbox.memory_bytes + _AROUND),
        storage_bytes=config.stores.quota_bytes,
        storage_keys=config.stores.quota_keys,
        egress_bytes_per_day=10 * 1024**3,
        deployments_kept=20,
    )
    try:
        return msgspec.structs.replace(overridden(plan, _numbers(limits.standard)), name=STANDARD)
    except (errors.InvalidParams, ValueError) as error:
        why = error.public if isinstance(error, errors.InvalidParams) else "It is a list of name=number."
        raise errors.BadSettings(f"Wrong setting: limits.standard. {why}") from error


def _numbers(texts: tuple[str, ...]) -> dict[str, int]:
    pairs = (text.partition("=") for text in texts)
    return {name.strip(): int(number) for name, _, number in pairs}


def free(base: Plan) -> Plan:
    """The small plan: never more than `base`, which is `standard`."""
    return msgspec.structs.replace(
        base, name=FREE, **{name: min(number, getattr(base, name)) for name, number in _FREE.items()}
    )


def overridden(base: Plan, limits: Mapping[str, int]) -> Plan:
    """`base` with an operator's numbers. Raises `errors.InvalidParams` for what is no limit or out of range."""
    for name, number in limits.items():
        known = BY_NAME.get(name)
        if known is None:
            raise errors.InvalidParams(f"There is no limit '{name[:40]}'. Limits: {', '.join(BY_NAME)}.")
        if not known.least <= number <= MOST:
            raise errors.InvalidParams(f"{name} is from {known.least} to {MOST}.")
    return msgspec.structs.replace(base, name=CUSTOM, **limits)


class Plans:
    """Every tenant's plan."""

    def __init__(self, store: stores.Store, owners: tenants.Tenants, config: settings.Settings) -> None:
        self._owners = owners
        self.standard: Final = standard(config)
        self.free: Final = free(self.standard)
        self._platform = msgspec.structs.replace(
            self.standard,
            name="platform",
            **{
                name: min(MOST, getattr(self.standard, name) * _OPERATORS)
                for name in ("tenant_per_minute", "principal_per_minute", "session_per_minute")
            },
        )
        self._known: dict[ids.TenantId, tuple[tenants.Tenant, Plan]] = {}
        self.version = 0
        """Grows with every change of any tenant: who keeps a plan compares it."""
        store.watch(("tenant",), self._changed)

    async def start(self) -> None:
        """Read every tenant's plan, so that none is ever guessed. Raises `errors.Unavailable`."""
        after: str | None = None
        while page := await self._owners.list(after=after, limit=1000):
            for tenant in page:
                self._known[tenant.id] = (tenant, self.plan(tenant))
            after = page[-1].id

    def of(self, tenant: ids.TenantId) -> Plan:
        """The tenant's plan; of one that nobody knows, `standard`."""
        return self.look(tenant)[0]

    def look(self, tenant: ids.TenantId) -> tuple[Plan, bool]:
        """The tenant's plan, and whether memory vouches for it: else it is the last one known."""
        if tenant == ids.PLATFORM:
            return self._platform, True
        found = self._owners.peek(tenant)
        known = self._known.get(tenant)
        if isinstance(found, records.Versioned):
            record = found.value
            if known is None or known[0] is not record:
                known = self._known[tenant] = (record, self.plan(record))
            return known[1], True
        return (self.standard if known is None else known[1]), False

    def plan(self, tenant: tenants.Tenant) -> Plan:
        """The plan that a tenant's record describes. Of one whose numbers are none any more, its base."""
        base = self.named(tenant.base if tenant.plan == CUSTOM else tenant.plan)
        if tenant.plan != CUSTOM:
            return base
        usable = {
            name: number
            for name, number in tenant.limits.items()
            if name in BY_NAME and BY_NAME[name].least <= number <= MOST
        }
        return overridden(base, usable)

    def named(self, name: str) -> Plan:
        """`free`, or else `standard`."""
        return self.free if name == FREE else self.standard

    async def assign(
        self, tenant: ids.TenantId, plan: str, base: str = "", limits: Mapping[str, int] | None = None
    ) -> Plan:
        """Give the tenant a plan; counts from the next request on. Raises `InvalidParams`, `NotFound`."""
        await self._owners.assign(tenant, plan, *self.checked(plan, base, limits)[1:])
        return self.of(tenant)

    def checked(
        self, plan: str, base: str = "", limits: Mapping[str, int] | None = None
    ) -> tuple[Plan, str, dict[str, int]]:
        """The plan that these words describe, its base and numbers. Raises `errors.InvalidParams`."""
        if plan not in NAMES:
            raise errors.InvalidParams(f"There is no plan '{plan[:40]}'. Plans: {', '.join(NAMES)}.")
        if plan != CUSTOM:
            if base or limits:
                raise errors.InvalidParams("A base and limits of one's own belong to the plan 'custom'.")
            return self.named(plan), "", {}
        base = base or STANDARD
        if base not in (FREE, STANDARD):
            raise errors.InvalidParams(f"A custom plan stands on '{FREE}' or '{STANDARD}'.")
        return overridden(self.named(base), limits or {}), base, dict(limits or {})

    def _changed(self, _tenant: ids.TenantId, key: tuple[str, ...], _revision: int) -> None:
        self.version += 1


Source = Callable[[ids.TenantId], Plan]
"""From a tenant to its plan, from memory."""
