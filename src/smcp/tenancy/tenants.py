"""Tenants: made, listed, suspended, resumed.

A tenant exists exactly when its record in the platform's handle does. `create` makes the data key first and the record
last: a crash in between leaves a key that protects nothing, which the next `create` of that name takes over. So
there is no half tenant to repair.
"""

import enum
from typing import Final

import msgspec

from smcp.kernel import clock, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

MAX_DISPLAY_NAME: Final = 80
DEFAULT_PLAN: Final = "standard"


class State(enum.StrEnum):
    """Whether a tenant is served."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """The unit of isolation."""

    id: ids.TenantId
    display_name: str
    """For people; not an identifier."""
    state: State
    plan: str
    created: float
    base: str = ""
    """Of a custom plan: the plan that its numbers are changes of."""
    limits: dict[str, int] = {}
    """Of a custom plan: the operator's numbers (`tenancy.plans.LIMITS`)."""


class Tenants:
    """The tenants of this platform. The platform tenant itself is none of them: it is always active."""

    def __init__(self, store: stores.Store, clock: clock.Clock) -> None:
        self._store = store
        self._clock = clock
        self._records = records.Records(store, Tenant, ("tenant",))

    async def create(self, id: str, display_name: str = "") -> Tenant:
        """A new, active tenant of the plan `DEFAULT_PLAN`. `display_name` defaults to the id.

        Raises `errors.BadName`, `errors.InvalidParams`, `errors.Conflict` (the name is taken).
        """
        tenant_id = ids.tenant(id)
        display_name = display_name or id
        if len(display_name) > MAX_DISPLAY_NAME or not display_name.isprintable():
            raise errors.InvalidParams(f"A display name is up to {MAX_DISPLAY_NAME} printable characters.")
        if await self._records.get(ids.PLATFORM, tenant_id) is not None:
            raise _taken(tenant_id)
        await self._store.provision(tenant_id)
        tenant = Tenant(
            id=tenant_id, display_name=display_name, state=State.ACTIVE, plan=DEFAULT_PLAN, created=self._clock.now()
        )
        try:
            await self._records.create(ids.PLATFORM, (tenant_id,), tenant)
        except errors.Conflict:
            raise _taken(tenant_id) from None
        return tenant

    async def get(self, id: ids.TenantId) -> Tenant:
        """The tenant. Raises `errors.NotFound`."""
        found = await self._records.get(ids.PLATFORM, id)
        if found is None:
            raise errors.NotFound(f"There is no tenant '{id}'.", detail="tenant")
        return found.value

    async def list(self, after: str | None = None, limit: int = 100) -> list[Tenant]:
        """Up to `limit` tenants in the order of their ids, behind `after`."""
        page = await self._records.list(ids.PLATFORM, after=after, limit=limit)
        return [entry.value for _, entry in page]

    async def suspend(self, id: ids.TenantId) -> Tenant:
        """Stop serving the tenant from the next request on. Again is fine. Raises `errors.NotFound`."""
        return await self._set_state(id, State.SUSPENDED)

    async def resume(self, id: ids.TenantId) -> Tenant:
        """Serve the tenant again from the next request on. Again is fine. Raises `errors.NotFound`."""
        return await self._set_state(id, State.ACTIVE)

    def peek(self, id: ids.TenantId) -> records.Versioned[Tenant] | records.Unknown | None:
        """The tenant's record if memory knows; never waits."""
        return self._records.peek(ids.PLATFORM, id)

    async def assign(self, id: ids.TenantId, plan: str, base: str, limits: dict[str, int]) -> Tenant:
        """Write which plan the tenant has; `tenancy.plans` checks the words. Raises `errors.NotFound`."""

        def change(tenant: Tenant) -> Tenant:
            return msgspec.structs.replace(tenant, plan=plan, base=base, limits=limits)

        return await self._records.update(ids.PLATFORM, (id,), change)

    def served(self, id: ids.TenantId) -> bool:
        """Does memory know that the tenant is active? False says nothing: ask `active`. Never waits."""
        if id == ids.PLATFORM:
            return True
        found = self._records.peek(ids.PLATFORM, id)
        return isinstance(found, records.Versioned) and found.value.state is State.ACTIVE

    async def active(self, id: ids.TenantId) -> None:
        """Returns when the tenant is served; from memory when it was asked before.

        Raises `errors.TenantSuspended`, `errors.NotFound`.
        """
        if id == ids.PLATFORM:
            return
        found = self._records.peek(ids.PLATFORM, id)
        if found is records.UNKNOWN:
            found = await self._records.get(ids.PLATFORM, id)
        if not isinstance(found, records.Versioned):
            raise errors.NotFound(detail="tenant")
        if found.value.state is not State.ACTIVE:
            raise errors.TenantSuspended()

    async def _set_state(self, id: ids.TenantId, state: State) -> Tenant:
        def change(tenant: Tenant) -> Tenant:
            return msgspec.structs.replace(tenant, state=state)

        return await self._records.update(ids.PLATFORM, (id,), change)


def _taken(id: ids.TenantId) -> errors.Conflict:
    return errors.Conflict(f"There is a tenant '{id}' already.", detail="tenant")
