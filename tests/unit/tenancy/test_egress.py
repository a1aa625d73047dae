"""Egress of the day: counted together, bounded, and the same after a restart."""

import asyncio
import io
import pathlib
from collections.abc import AsyncIterator

import pytest

from smcp.kernel import clock, errors, ids, observe, settings
from smcp.stores import local
from smcp.stores import tenant as stores
from smcp.tenancy import egress, plans, tenants
from support import storage

ACME, GLOBEX = ids.tenant("acme"), ids.tenant("globex")
LIMIT = 1_000_000


@pytest.fixture
def time() -> clock.FrozenClock:
    return clock.FrozenClock(1_800_000_000.0)


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[stores.Store]:
    async with storage.opened(tmp_path) as opened:
        yield opened


def days(store: stores.Store, time: clock.FrozenClock) -> egress.Days:
    config = settings.Settings(limits=settings.Limits(standard=(f"egress_bytes_per_day={LIMIT}",)))
    every = plans.Plans(store, tenants.Tenants(store, time), config)
    return egress.Days(store, every.of, time, observe.logger(settings.Log(), io.StringIO()))


@pytest.mark.requirement("tenancy:egress:counted")
async def test_all_copies_of_a_tenant_share_one_day_and_never_pass_it(
    store: stores.Store, time: clock.FrozenClock
) -> None:
    made = days(store, time)
    first, second, other = made.budget(ACME), made.budget(ACME), made.budget(GLOBEX)
    assert not first.spend(1), "nothing before it is known what was moved"
    assert await first.ready()
    assert await other.ready()
    moved = sum(4096 for number in range(1000) if (first, second)[number % 2].spend(4096))
    assert moved == LIMIT // 4096 * 4096
    assert second.spend(LIMIT - moved), "to the last byte"
    assert not await first.ready()
    assert not first.spend(1)
    assert other.spend(LIMIT)
    assert await made.used(ACME) == LIMIT
    await made.close()


@pytest.mark.requirement("tenancy:egress:counted")
async def test_a_new_day_begins_at_midnight(store: stores.Store, time: clock.FrozenClock) -> None:
    made = days(store, time)
    budget = made.budget(ACME)
    await budget.ready()
    assert budget.spend(LIMIT)
    await made.save()
    time.advance(made.resets() - time.now() - 1)
    assert not await budget.ready()
    time.advance(1)
    assert await budget.ready()
    assert budget.spend(LIMIT)
    await made.close()


@pytest.mark.requirement("tenancy:egress:restart")
async def test_the_day_outlives_a_crash_but_for_what_moved_since_it_was_written(
    store: stores.Store, time: clock.FrozenClock
) -> None:
    before = days(store, time)
    budget = before.budget(ACME)
    await budget.ready()
    budget.spend(1000)
    await before.save()
    budget.spend(7)
    # No close: the process is gone.
    assert await days(store, time).used(ACME) == 1000
    await before.close()
    assert await days(store, time).used(ACME) == 1007


@pytest.mark.requirement("tenancy:egress:restart")
async def test_it_is_written_by_itself_within_about_a_second(store: stores.Store, time: clock.FrozenClock) -> None:
    made = days(store, time)
    written = asyncio.Event()
    store.watch(("egress-day",), lambda _tenant, _key, _revision: written.set())
    await made.start()
    budget = made.budget(ACME)
    await budget.ready()
    budget.spend(5)
    async with asyncio.timeout(60):
        await written.wait()
    assert await days(store, time).used(ACME) == 5
    await made.close()


@pytest.mark.requirement("tenancy:egress:closed", "tenancy:egress:restart")
async def test_without_the_store_nothing_moves_that_would_be_forgotten(
    tmp_path: pathlib.Path, time: clock.FrozenClock
) -> None:
    store = local.open_local(tmp_path, settings.Settings(), clock.SystemClock())
    await store.start()
    made = days(store, time)
    known, unknown = made.budget(ACME), made.budget(GLOBEX)
    await known.ready()
    await store.close()
    with pytest.raises(errors.Unavailable):
        await unknown.ready()
    assert not unknown.spend(1)
    assert known.spend(1)
    await made.save()
    time.advance(egress.UNSAVED_S + 0.1)
    assert not known.spend(1), "what moves would be lost by a crash, and it has been too much already"
    await made.close()


@pytest.mark.requirement("tenancy:egress:counted")
async def test_a_write_that_is_called_off_is_made_up_for(store: stores.Store, time: clock.FrozenClock) -> None:
    made = days(store, time)
    budget = made.budget(ACME)
    await budget.ready()
    assert budget.spend(1000)
    saving = asyncio.create_task(made.save())
    await asyncio.sleep(0)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    assert budget.spend(500)
    await made.close()
    assert await days(store, time).used(ACME) == 1500
