"""The ledger: how many copies a tenant has, and what memory they may take, beside what its plan allows.

A copy counts from before its start until its process is gone: opening and closing quickly makes no more processes than
the cap. Its memory counts as what it may take at most, so that no number of copies can ever take more than the plan.
Copies in one process count its memory once, as long as one of them is there.
"""

import asyncio
import collections
from collections.abc import Callable, Hashable
from typing import NamedTuple

import msgspec

from smcp.kernel import ids


class Caps(msgspec.Struct, frozen=True):
    """What a tenant's plan allows on this node."""

    instances: int
    spares: int
    memory_bytes: int
    """Over all its copies."""


class Process(NamedTuple):
    """A process that several copies of a tenant are in."""

    key: Hashable
    """The same for those in it."""
    memory: int
    """Bytes that it may take at most."""


class _Open:
    """A process in the ledger."""

    __slots__ = ("copies", "memory")

    def __init__(self, memory: int) -> None:
        self.copies = 0
        self.memory = memory


class Entry:
    """One copy in the ledger."""

    __slots__ = ("_ledger", "memory", "spare", "tenant")

    def __init__(self, ledger: "Ledger", tenant: ids.TenantId, memory: int | Process, *, spare: bool) -> None:
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
        self._processes: dict[tuple[ids.TenantId, Hashable], _Open] = {}
        self.spares: collections.Counter[ids.TenantId] = collections.Counter()
        self._room: dict[ids.TenantId, set[asyncio.Future[None]]] = {}

    def caps(self, tenant: ids.TenantId) -> Caps:
        """What the tenant may have now."""
        return self._caps(tenant)

    def used(self, tenant: ids.TenantId) -> tuple[int, int]:
        """The tenant's copies, and the bytes of memory that they may take."""
        return self._copies[tenant], self._memory[tenant]

    def fits(self, tenant: ids.TenantId, memory: int | Process, *, spare: bool = False) -> bool:
        """Whether one more copy is within the plan. `memory`: bytes of its own, or the process that it is in."""
        caps = self._caps(tenant)
        if spare and self.spares[tenant] >= caps.spares:
            return False
        return self._copies[tenant] < caps.instances and (
            self._memory[tenant] + self._more(tenant, memory) <= caps.memory_bytes
        )

    def _more(self, tenant: ids.TenantId, memory: int | Process) -> int:
        """What one more takes beside those that are there."""
        if isinstance(memory, int):
            return memory
        return 0 if (tenant, memory.key) in self._processes else memory.memory

    def enter(self, tenant: ids.TenantId, memory: int | Process, *, spare: bool = False) -> Entry | None:
        """Count one more copy; None when it does not fit."""
        if not self.fits(tenant, memory, spare=spare):
            return None
        self._copies[tenant] += 1
        self._memory[tenant] += self._more(tenant, memory)
        if isinstance(memory, Process):
            self._processes.setdefault((tenant, memory.key), _Open(memory.memory)).copies += 1
        self.spares[tenant] += spare
        return Entry(self, tenant, memory, spare=spare)

    def strike(self, entry: Entry) -> None:
        """For `Entry.strike`."""
        tenant = entry.tenant
        self._copies[tenant] -= 1
        self._memory[tenant] -= self._freed(entry)
        self.spares[tenant] -= entry.spare
        if not self._copies[tenant]:
            for book in (self._copies, self._memory, self.spares):
                del book[tenant]
        for waiter in self._room.pop(tenant, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _freed(self, entry: Entry) -> int:
        if isinstance(entry.memory, int):
            return entry.memory
        key = (entry.tenant, entry.memory.key)
        found = self._processes[key]
        found.copies -= 1
        if found.copies:
            return 0
        del self._processes[key]
        return found.memory

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
