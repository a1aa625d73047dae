"""Where a tenant stands: each limit of its plan, what is used of it, and who is told when it gets narrow.

Rates and places come from the limiter, amounts from whoever counts them (handed in by `app.allowances`). `Watch` looks
at the tenants that are at work every few seconds: a line in the log, an event in the tenant's trail and a count for
each crossing of 80 % and of the limit, and not again before use fell below 60 %. The path of a request pays nothing
for it, and none is missed: what a window counts stays in it for a minute.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe
from smcp.tenancy import limits, plans

OK: Final = "ok"
WARNING: Final = "warning"
REACHED: Final = "reached"
LOOK_S: Final = 5.0

_WARN: Final = 80
_CALM: Final = 60
_LEVELS: Final = {OK: 0, WARNING: 1, REACHED: 2}
_ROLLING: Final = frozenset({"principal_sessions", "deployments_kept", "spares"})
"""At these limits the oldest gives way, or nothing is lost: no reason to warn anybody."""

Amount = Callable[[ids.TenantId], Awaitable[int]]
"""How much of something a tenant uses now. Raises `errors.Unavailable` when that can't be said."""


class Row(NamedTuple):
    """One limit of one tenant."""

    limit: plans.Limit
    most: int
    used: int | None
    """None: not counted."""
    resets: float | None
    """When some of what is used comes back by itself, in seconds since the epoch; None: it does not."""

    @property
    def remaining(self) -> int | None:
        """What is left; never below zero."""
        return None if self.used is None else max(0, self.most - self.used)

    @property
    def state(self) -> str:
        """`ok`, `warning` from 80 % on, or `reached`."""
        if not self.used or self.limit.name == "spares":
            return OK
        if self.used >= self.most:
            return REACHED
        return WARNING if self.used * 100 >= self.most * _WARN else OK


class Overview:
    """Every limit of a tenant, as of now."""

    def __init__(
        self,
        limiter: limits.Limiter,
        clock: clocks.Clock,
        amounts: Mapping[str, Amount],
        resets: Mapping[str, Callable[[], float]],
    ) -> None:
        """`amounts` and `resets` by the name of the limit."""
        self._limiter = limiter
        self._clock = clock
        self._amounts = amounts
        self._resets = resets

    async def of(self, tenant: ids.TenantId, plan: plans.Plan | None = None, without: Iterable[str] = ()) -> list[Row]:
        """A row for each limit of the tenant's plan, or of `plan`. Raises `errors.Unavailable`."""
        plan = plan or self._limiter.plan(tenant)
        rates = self._limiter.used(tenant)
        now = self._clock.now()
        rows: list[Row] = []
        for limit in plans.LIMITS:
            if limit.name in without:
                continue
            used: int | None = None
            resets: float | None = None
            if limit.name in self._amounts:
                used = await self._amounts[limit.name](tenant)
                resets = self._resets[limit.name]() if limit.name in self._resets else None
            elif limit.unit == "requests":
                used, wait = rates.get(limit.name, (0, 0))
                resets = now + wait if wait else None
            rows.append(Row(limit, getattr(plan, limit.name), used, resets))
        return rows


class Watch:
    """Tells, once for each crossing, that a limit gets narrow."""

    def __init__(
        self,
        overview: Overview,
        at_work: Callable[[], Iterable[ids.TenantId]],
        tell: Callable[[ids.TenantId, Row], None],
        log: observe.Logger,
    ) -> None:
        """`at_work` names the tenants to look at."""
        self._overview = overview
        self._at_work = at_work
        self._tell = tell
        self._log = log
        self._told: dict[ids.TenantId, dict[str, str]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_for_ever(), name="limits-watch")

    async def close(self) -> None:
        """Stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self, tenant: ids.TenantId) -> None:
        """Compare a tenant's standing with what was told of it. Raises `errors.Unavailable`."""
        told = self._told.setdefault(tenant, {})
        for row in await self._overview.of(tenant, without=_ROLLING):
            name = row.limit.name
            before = told.get(name, OK)
            if _LEVELS[row.state] > _LEVELS[before]:
                told[name] = row.state
                self._tell(tenant, row)
            elif (row.used or 0) * 100 < row.most * _CALM:
                told.pop(name, None)
        if not told:
            del self._told[tenant]

    async def look_at_all(self) -> None:
        """Look at every tenant that is at work, or of whom something was told."""
        for tenant in {*self._at_work(), *self._told}:
            try:
                await self.look(tenant)
            except errors.SmcpError as error:
                # The store is away, or the tenant was erased: the next round looks again.
                self._log.debug("limits could not be looked at", tenant=tenant, why=str(error))
                if isinstance(error, errors.NotFound):
                    self._told.pop(tenant, None)
            await asyncio.sleep(0)  # others' requests come in between

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look_at_all()
            except Exception:  # noqa: BLE001 - whatever a room's count raised, warnings must not end with it
                self._log.exception("looking at limits failed")
