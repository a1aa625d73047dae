"""Who is told when a limit gets narrow: once for each crossing."""

import io
import pathlib
from collections.abc import AsyncIterator, Callable

import pytest

from smcp.access import policy
from smcp.kernel import clock, errors, ids, observe, settings
from smcp.stores import tenant as stores
from smcp.tenancy import limits, overview, plans, tenants
from support import storage

ACME = ids.tenant("acme")
WHO = policy.Principal(ACME, "key-1", "api_key", (policy.Role.ADMIN,))


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[stores.Store]:
    async with storage.opened(tmp_path) as opened:
        yield opened


class Told:
    """A watch with a limiter of 10 requests a minute and 1,000 bytes, and what it told."""

    def __init__(self, store: stores.Store) -> None:
        self.time = clock.FrozenClock()
        config = settings.Settings(limits=settings.Limits(tenant_per_minute=10))
        every = plans.Plans(store, tenants.Tenants(store, self.time), config)
        self.limiter = limits.Limiter(config.limits, every, self.time)
        self.bytes = 0
        self.away = False
        self.lines: list[tuple[str, str, int | None]] = []
        shown = overview.Overview(self.limiter, self.time, {"memory_bytes": self._memory}, {})
        log = observe.logger(settings.Log(), io.StringIO())
        self.watch = overview.Watch(shown, lambda: [ACME], self._tell, log)
        self.most = every.standard.memory_bytes

    async def _memory(self, tenant: ids.TenantId) -> int:
        if self.away:
            raise errors.Unavailable
        return self.bytes

    def _tell(self, tenant: ids.TenantId, row: overview.Row) -> None:
        self.lines.append((row.limit.name, row.state, row.used))

    async def looked(self) -> list[tuple[str, str, int | None]]:
        """What a look tells."""
        del self.lines[:]
        await self.watch.look_at_all()
        return list(self.lines)


@pytest.fixture
def told(store: stores.Store) -> Callable[[], Told]:
    return lambda: Told(store)


@pytest.mark.requirement("tenancy:warnings:once")
async def test_each_crossing_is_told_once_and_again_after_use_fell(told: Callable[[], Told]) -> None:
    at = told()
    for _ in range(7):
        at.limiter.rate(WHO)
    assert await at.looked() == []
    at.limiter.rate(WHO)
    assert await at.looked() == [("tenant_per_minute", "warning", 8)]
    at.limiter.rate(WHO)
    assert await at.looked() == []
    at.limiter.rate(WHO)
    assert await at.looked() == [("tenant_per_minute", "reached", 10)]
    for _ in range(3):
        with pytest.raises(errors.RateLimited):
            at.limiter.rate(WHO)
        assert await at.looked() == []
    at.time.advance(61)
    assert await at.looked() == []
    for _ in range(10):
        at.limiter.rate(WHO)
    assert await at.looked() == [("tenant_per_minute", "reached", 10)]


@pytest.mark.requirement("tenancy:warnings:once")
async def test_an_amount_that_goes_up_and_down_around_the_mark_is_told_once(told: Callable[[], Told]) -> None:
    at = told()
    seen: list[str] = []
    for percent in (79, 80, 79, 81, 61, 85, 99, 59, 80):
        at.bytes = at.most * percent // 100 + 1
        seen += [state for name, state, _ in await at.looked() if name == "memory_bytes"]
    assert seen == ["warning", "warning"]


@pytest.mark.requirement("tenancy:warnings:once")
async def test_a_count_that_is_away_ends_nothing(told: Callable[[], Told]) -> None:
    at = told()
    at.bytes, at.away = at.most, True
    assert await at.looked() == []
    at.away = False
    assert await at.looked() == [("memory_bytes", "reached", at.most)]


@pytest.mark.requirement("tenancy:warnings:states")
@pytest.mark.parametrize(
    ("used", "most", "state"),
    [(0, 10, "ok"), (79, 100, "ok"), (80, 100, "warning"), (99, 100, "warning"), (100, 100, "reached"),
     (200, 100, "reached"), (1, 1, "reached"), (0, 0, "ok"), (4, 5, "warning"), (3, 4, "ok")],
)  # fmt: skip
def test_states(used: int, most: int, state: str) -> None:
    row = overview.Row(plans.BY_NAME["instances"], most, used, None)
    assert row.state == state
    assert row.remaining == max(0, most - used)
