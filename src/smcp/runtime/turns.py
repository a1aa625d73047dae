"""Turns: who may start a copy now, fairly over tenants.

Starting is the dearest thing that a caller can ask for, so only a few starts are under way at once on this node.
Tenants that wait get turns in rotation, one each; no tenant has all turns at once; within a tenant it is first come,
first served. Spares come last: only when nobody waits, and they never have all turns either.
"""

import asyncio
import collections
from typing import Final

from smcp.kernel import errors, ids

WAITING: Final = 256
"""Starts of one tenant that may wait; more are refused."""

_Waiter = asyncio.Future[None]


class Turn:
    """The right to start one copy. Given back with `end`."""

    __slots__ = ("_ended", "_turns", "spare", "tenant")

    def __init__(self, turns: "Turns", tenant: ids.TenantId, *, spare: bool) -> None:
        self._turns = turns
        self.tenant = tenant
        self.spare = spare
        self._ended = False

    def end(self) -> None:
        """The start is over. Idempotent."""
        if not self._ended:
            self._ended = True
            self._turns.ended(self)


class Turns:
    """The turns of this node."""

    def __init__(self, limit: int) -> None:
        """`limit`: starts at once."""
        self._limit = limit
        self._each = max(1, limit - 1)
        self._running: collections.Counter[ids.TenantId] = collections.Counter()
        self._spares = 0
        self._waiting: collections.OrderedDict[ids.TenantId, collections.deque[_Waiter]] = collections.OrderedDict()
        """In the order of the rotation: whose turn comes next stands first."""
        self._patient: collections.OrderedDict[ids.TenantId, collections.deque[_Waiter]] = collections.OrderedDict()
        """Spares, likewise."""

    @property
    def running(self) -> int:
        """Starts under way."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """Starts that wait, those of spares left out."""
        return sum(map(len, self._waiting.values()))

    def queued(self, tenant: ids.TenantId) -> int:
        """Starts of a tenant that wait, those of spares left out."""
        return len(self._waiting.get(tenant, ()))

    async def take(self, tenant: ids.TenantId, *, spare: bool = False) -> Turn:
        """Wait for a turn. Raises `errors.Unavailable` when too many of the tenant's starts wait already."""
        lane = self._patient if spare else self._waiting
        line = lane.setdefault(tenant, collections.deque())
        if len(line) >= WAITING:
            raise errors.Unavailable(
                "Too many starts of the tenant's servers wait already. Retry shortly.", headers=(("Retry-After", "5"),)
            )
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        line.append(waiter)
        self._next()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # It was given, and nobody is there to use it.
                Turn(self, tenant, spare=spare).end()
            else:
                self._leave(lane, tenant, waiter)
            raise
        return Turn(self, tenant, spare=spare)

    def ended(self, turn: Turn) -> None:
        """For `Turn.end`."""
        self._running[turn.tenant] -= 1
        if not self._running[turn.tenant]:
            del self._running[turn.tenant]
        self._spares -= turn.spare
        self._next()

    @staticmethod
    def _leave(
        lane: collections.OrderedDict[ids.TenantId, collections.deque[_Waiter]],
        tenant: ids.TenantId,
        waiter: _Waiter,
    ) -> None:
        line = lane.get(tenant)
        if line is not None and waiter in line:
            line.remove(waiter)
            if not line:
                del lane[tenant]

    def _next(self) -> None:
        while self.running < self._limit and self._give(self._waiting, spare=False):
            pass
        while (
            not self._waiting
            and self.running < self._limit
            and self._spares < self._each
            and self._give(self._patient, spare=True)
        ):
            pass

    def _give(self, lane: collections.OrderedDict[ids.TenantId, collections.deque[_Waiter]], *, spare: bool) -> bool:
        for tenant, line in lane.items():
            if self._running[tenant] >= self._each:
                continue
            waiter = line.popleft()
            if line:
                lane.move_to_end(tenant)
            else:
                del lane[tenant]
            if not waiter.done():
                self._running[tenant] += 1
                self._spares += spare
                waiter.set_result(None)
            return True
        return False
