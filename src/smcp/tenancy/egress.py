"""Egress by the day: how many bytes a tenant's hosted servers have moved over the network since midnight (UTC).

Counted in memory before each chunk is passed on, and written for every tenant that moved something every `SAVE_S`
seconds: what a crash loses is what moved since then. If the store takes nothing for `UNSAVED_S` seconds, nothing more
moves, so that the loss stays bounded. Kept in the platform's storage, where a tenant's full quota can't stop it.
"""

import asyncio
import contextlib
from typing import Final

import msgspec

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.tenancy import plans

SAVE_S: Final = 1.0
UNSAVED_S: Final = 5.0
DAY_S: Final = 86_400


class Day(msgspec.Struct, frozen=True):
    """What a tenant moved in one day; `day` counts from the Unix epoch, UTC."""

    day: int
    bytes: int


class Budget:
    """One tenant's day. Implements `sandbox.egress.budget.Budget`."""

    def __init__(self, days: "Days", tenant: ids.TenantId) -> None:
        self._days = days
        self._tenant = tenant
        self._loading = asyncio.Lock()
        self._known = False
        self._day = 0
        self._bytes = 0
        self._unsaved_since: float | None = None

    async def ready(self) -> bool:
        """May more be moved today? Raises `errors.Unavailable` when what was moved before can't be read."""
        if not self._known:
            async with self._loading:
                if not self._known:
                    found = await self._days.read(self._tenant)
                    self._day, self._bytes = found.day, found.bytes
                    self._known = True
        return self.used() < self._days.limit(self._tenant)

    def used(self) -> int:
        """Bytes moved today."""
        today = self._days.today()
        if today != self._day:
            self._day, self._bytes = today, 0
        return self._bytes

    def spend(self, amount: int) -> bool:
        """Count `amount` bytes that are about to move; False, and nothing counted, when they may not."""
        used = self.used() + amount
        if not self._known or used > self._days.limit(self._tenant):
            return False
        now = self._days.now()
        if self._unsaved_since is None:
            self._unsaved_since = now
            self._days.dirty(self)
        elif now - self._unsaved_since > UNSAVED_S:
            return False
        self._bytes = used
        return True

    async def save(self) -> None:
        """Write what was moved. Raises `errors.Unavailable`."""
        since, self._unsaved_since = self._unsaved_since, None
        try:
            await self._days.write(self._tenant, Day(self._day, self._bytes))
        except BaseException:
            self._unsaved_since = since
            raise


class Days:
    """Every tenant's day."""

    def __init__(self, store: stores.Store, plan: plans.Source, clock: clocks.Clock, log: observe.Logger) -> None:
        self._records = records.Records(store, Day, ("egress-day",))
        self._plan = plan
        self._clock = clock
        self._log = log
        self._budgets: dict[ids.TenantId, Budget] = {}
        self._dirty: dict[Budget, None] = {}
        self._task: asyncio.Task[None] | None = None

    def budget(self, tenant: ids.TenantId) -> Budget:
        """The tenant's day, shared by all copies of its servers."""
        found = self._budgets.get(tenant)
        if found is None:
            found = self._budgets[tenant] = Budget(self, tenant)
        return found

    async def used(self, tenant: ids.TenantId) -> int:
        """Bytes moved today. Raises `errors.Unavailable`."""
        budget = self.budget(tenant)
        await budget.ready()
        return budget.used()

    def tenants(self) -> list[ids.TenantId]:
        """Those whose servers may reach something."""
        return list(self._budgets)

    def resets(self) -> float:
        """When the day ends: seconds since the epoch."""
        return float((self.today() + 1) * DAY_S)

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._save_for_ever(), name="egress-days")

    async def close(self) -> None:
        """Write what is left, if the store takes it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.save()

    async def save(self) -> None:
        """Write every day that changed; what can't be written stays for the next time, and is told."""
        for budget in list(self._dirty):
            del self._dirty[budget]
            try:
                await budget.save()
            except (errors.SmcpError, OSError) as error:
                self._dirty[budget] = None
                self._log.warning("egress of the day could not be written", why=str(error))
            except BaseException:
                self._dirty[budget] = None  # called off amid a write: the end writes it
                raise

    async def _save_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            with contextlib.suppress(errors.SmcpError):
                await self.save()

    # --- for Budget ---

    def today(self) -> int:
        """The day, counted from the epoch."""
        return int(self._clock.now() // DAY_S)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()

    def limit(self, tenant: ids.TenantId) -> int:
        """Bytes a day."""
        return self._plan(tenant).egress_bytes_per_day

    def dirty(self, budget: Budget) -> None:
        """`budget` has something to write."""
        self._dirty[budget] = None

    async def read(self, tenant: ids.TenantId) -> Day:
        """What is written of a tenant."""
        found = await self._records.get(ids.PLATFORM, tenant)
        return Day(self.today(), 0) if found is None else found.value

    async def write(self, tenant: ids.TenantId, day: Day) -> None:
        """Write a tenant's day."""
        await self._records.put(ids.PLATFORM, (tenant,), day)
