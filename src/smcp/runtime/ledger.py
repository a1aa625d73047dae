"""The ledger: how many copies a tenant has, and what memory they may take, beside what its plan allows.

A copy counts from before its start until its process is gone: opening and closing quickly makes no more processes than
the cap. Its memory counts as what it may take at most, so that no number of copies can ever take more than the plan.
"""

import asyncio
import collections
from collections.abc import Callable

import msgspec

from smcp.kernel import ids


class Caps(msgspec.Struct, frozen=True):
    """What a tenant's plan allows on this node."""

    instances: int
    spares: int
    memory_bytes: int
    """Over all its copies."""


class Entry:
    """One copy in the ledger."""

    __slots__ = ("_ledger", "memory", "spare", "tenant")

    def __init__(self, ledger: "Ledger", tenant: ids.TenantId, memory: int, *, spare: bool) -> None:
        self._ledger: Ledger | None = ledger
        self.tenant = tenant
        self.memory = memory
        self.spare = spare

    def used(self) -> None:
        """A spare is a spare no longer."""
        if self.spare and self._ledger is not None:
            self.spare = False
            self._ledger.spares[self.tenant] -= 1

    def strike(self) -> None:
        """The copy is gone. Idempotent."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.strike(self)


class Ledger:
    """The books of all tenants."""

    def __init__(self, caps: Callable[[ids.TenantId], Caps]) -> None:
        self._caps = caps
        self._copies: collections.Counter[ids.TenantId] = collections.Counter()
        self._memory: collections.Counter[ids.TenantId] = collections.Counter()
        self.spares: collections.Counter[ids.TenantId] = collections.Counter()
        self._room: dict[ids.TenantId, set[asyncio.Future[None]]] = {}

    def caps(self, tenant: ids.TenantId) -> Caps:
        """What the tenant may have now."""
        return self._caps(tenant)

    def used(self, tenant: ids.TenantId) -> tuple[int, int]:
        """The tenant's copies, and the bytes of memory that they may take."""
        return self._copies[tenant], self._memory[tenant]

    def fits(self, tenant: ids.TenantId, memory: int, *, spare: bool = False) -> bool:
        """Whether one more copy is within the plan."""
        caps = self._caps(tenant)
        if spare and self.spares[tenant] >= caps.spares:
            return False
        return self._copies[tenant] < caps.instances and self._memory[tenant] + memory <= caps.memory_bytes

    def enter(self, tenant: ids.TenantId, memory: int, *, spare: bool = False) -> Entry | None:
        """Count one more copy; None when it does not fit."""
        if not self.fits(tenant, memory, spare=spare):
            return None
        self._copies[tenant] += 1
        self._memory[tenant] += memory
        self.spares[tenant] += spare
        return Entry(self, tenant, memory, spare=spare)

    def strike(self, entry: Entry) -> None:
        """For `Entry.strike`."""
        tenant = entry.tenant
        self._copies[tenant] -= 1
        self._memory[tenant] -= entry.memory
        self.spares[tenant] -= entry.spare
        if not self._copies[tenant]:
            for book in (self._copies, self._memory, self.spares):
                del book[tenant]
        for waiter in self._room.pop(tenant, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def room(self, tenant: ids.TenantId) -> None:
        """Return when a copy of the tenant is gone."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._room.setdefault(tenant, set())
        waiters.add(waiter)
        try:
            await waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._room.get(tenant) is waiters:
                del self._room[tenant]
