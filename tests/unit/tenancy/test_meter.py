"""Usage: counted in memory, committed in batches, folded exactly once."""

import asyncio
import pathlib
import random
import sqlite3
import timeit
from collections.abc import AsyncIterator

import pytest

from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv_base
from smcp.tenancy import meter, tenants, usage
from support import metering
from support.metering import ACME

NOON = 500_000 * 3600.0
"""The beginning of an hour."""


@pytest.fixture
def faults() -> metering.Faults:
    return metering.Faults()


@pytest.fixture
def time() -> clock.FrozenClock:
    return clock.FrozenClock(now=NOON)


@pytest.fixture
async def store(
    tmp_path: pathlib.Path, faults: metering.Faults, time: clock.FrozenClock
) -> AsyncIterator[stores.Store]:
    async with metering.opened(tmp_path, faults, time) as opened:
        await opened.provision(ACME)
        yield opened


def count(counting: meter.Meter, calls: int = 1, server: str = "time", principal: str = "key-1") -> None:
    for _ in range(calls):
        counting.call(ACME, server, principal, failed=False, received=10, sent=100)


@pytest.mark.requirement("usage:meter:counted")
async def test_calls_count_for_their_server_principal_and_hour(store: stores.Store, time: clock.FrozenClock) -> None:
    counting = metering.made(store, time)
    counting.call(ACME, "time", "key-1", failed=False, received=3, sent=30)
    counting.call(ACME, "time", "key-1", failed=True, received=4, sent=40)
    counting.call(ACME, "git", "key-2", failed=False, received=5, sent=50)
    counting.used(ACME, "time", "", usage.Sums(cpu_us=7, egress_sent=8))
    await counting.commit()
    time.advance(3600)
    await counting.commit()
    counting.call(ACME, "time", "key-1", failed=False, received=6, sent=60)
    assert await metering.lines(counting) == {
        (500_000, "time", "key-1"): usage.Sums(calls=2, errors=1, received=7, sent=70),
        (500_000, "git", "key-2"): usage.Sums(calls=1, received=5, sent=50),
        (500_000, "time", ""): usage.Sums(cpu_us=7, egress_sent=8),
        (500_001, "time", "key-1"): usage.Sums(calls=1, received=6, sent=60),
    }


@pytest.mark.requirement("usage:meter:counted")
async def test_a_range_of_hours_begins_with_its_first_and_ends_before_its_last(
    store: stores.Store, time: clock.FrozenClock
) -> None:
    counting = metering.made(store, time)
    for _ in range(5):
        count(counting)
        await counting.commit()
        time.advance(3600)
        await counting.commit()
    hours = [line.hour async for line in counting.lines(ACME, 500_001, 500_004)]
    assert hours == [500_001, 500_002, 500_003]


@pytest.mark.requirement("usage:meter:durable", "usage:meter:once")
async def test_what_was_committed_is_there_for_the_next_process_and_once(
    tmp_path: pathlib.Path, faults: metering.Faults
) -> None:
    for life in range(1, 4):
        async with metering.opened(tmp_path, faults) as store:
            await store.provision(ACME)
            counting = metering.made(store)
            count(counting, 5)
            await counting.commit()
            assert counting.waiting() == 0.0
            count(counting, 2)  # never committed: this process dies
            if life == 2:
                # It folds what it can before that; it also sees its own two, and writes them.
                assert await metering.calls(counting) == 5 + 7
    async with metering.opened(tmp_path, faults) as store:
        assert await metering.calls(metering.made(store)) == 17


@pytest.mark.requirement("usage:meter:once", "usage:meter:away")
@pytest.mark.parametrize("step", ["before append", "after append", "before fold", "after fold"])
async def test_an_answer_that_is_lost_neither_loses_nor_doubles_a_call(
    store: stores.Store, time: clock.FrozenClock, faults: metering.Faults, step: str
) -> None:
    counting = metering.made(store, time)

    def broken(now: str) -> None:
        if now == step:
            raise errors.Unavailable(detail="the answer was lost")

    for number in range(1, 8):
        count(counting, number)
        faults.ask = broken if number % 2 else metering.nothing
        await counting.commit()
        if "fold" in step and number % 2:
            with pytest.raises(errors.Unavailable):
                await metering.calls(counting)
    faults.ask = metering.nothing
    await counting.commit()
    assert await metering.calls(counting) == 28
    assert await metering.calls(metering.made(store, time)) == 28


@pytest.mark.requirement("usage:meter:once")
async def test_two_nodes_that_fold_the_same_batches_count_them_once(
    store: stores.Store, time: clock.FrozenClock, faults: metering.Faults
) -> None:
    first, second = metering.made(store, time), metering.made(store, time, node="node-2")
    count(first, 3)
    count(second, 4)
    await first.commit()
    await second.commit()
    raced: list[int] = []

    async def race() -> None:
        raced.append(await metering.calls(second))

    def other_first(step: str) -> None:
        """The other node folds between this one's reading and its writing."""
        if step == "before fold":
            faults.ask = metering.nothing
            racing.append(asyncio.get_running_loop().create_task(race()))

    racing: list[asyncio.Task[None]] = []
    faults.ask, faults.pause = other_first, lambda: asyncio.gather(*racing)
    assert await metering.calls(first) == 7
    assert raced == [7]


@pytest.mark.requirement("usage:meter:away", "usage:meter:bounded")
async def test_while_the_store_is_away_rows_wait_merged_and_bounded_and_it_shows(
    store: stores.Store, time: clock.FrozenClock, faults: metering.Faults
) -> None:
    counting = metering.made(store, time)

    def away(_: str) -> None:
        raise errors.Unavailable(detail="away")

    faults.ask = away
    total = 0
    for second in range(20):
        for number in range(1000):
            count(counting, 1, principal=f"key-{second}-{number}")
        total += 1000
        await counting.commit()
        time.advance(1)
    assert counting.waiting() == 20.0
    with pytest.raises(errors.Unavailable):
        counting.check()
    faults.ask = metering.nothing
    await counting.commit()
    assert counting.waiting() == 0.0
    counting.check()
    found = await metering.lines(counting)
    assert sum(sums.calls for sums in found.values()) == total
    assert len(found) <= usage.RECORDS + 2
    assert found[500_000, "time", usage.OTHER].calls >= total - 2 * meter.WAITING


@pytest.mark.requirement("usage:meter:bounded")
async def test_an_hour_has_a_bounded_number_of_records_however_many_keys_call(
    store: stores.Store, time: clock.FrozenClock
) -> None:
    counting = metering.made(store, time)
    for number in range(3 * usage.RECORDS):
        count(counting, 1, principal=f"key-{number}")
        if number % 500 == 0:
            await counting.commit()
    found = await metering.lines(counting)
    assert len(found) == usage.RECORDS + 1
    assert sum(sums.calls for sums in found.values()) == 3 * usage.RECORDS
    # Who has a record keeps it.
    count(counting, 5, principal="key-0")
    assert (await metering.lines(counting))[500_000, "time", "key-0"].calls == 6


@pytest.mark.requirement("usage:meter:bounded")
async def test_one_second_keeps_a_bounded_number_of_rows(store: stores.Store, time: clock.FrozenClock) -> None:
    counting = metering.made(store, time)
    for number in range(2 * meter.ROWS):
        counting.call(ACME, f"server-{number}", f"key-{number}", failed=False, received=0, sent=0)
    assert len(counting._rows) <= 2 * meter.ROWS + 1  # pyright: ignore[reportPrivateUsage] - memory is what is tested
    for number in range(2 * meter.ROWS):
        counting.call(ACME, f"more-{number}", f"key-{number}", failed=False, received=0, sent=0)
    assert len(counting._rows) <= 2 * meter.ROWS + 1  # pyright: ignore[reportPrivateUsage]


@pytest.mark.requirement("usage:meter:quota")
async def test_a_tenant_with_a_full_quota_is_metered_all_the_same(store: stores.Store, time: clock.FrozenClock) -> None:
    handle = store.tenant(ACME)
    await handle.kv.apply([kv_base.Put(("full", str(number)), b"x") for number in range(1000)])
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("more",), b"x")
    counting = metering.made(store, time)
    count(counting, 4)
    assert await metering.calls(counting) == 4


@pytest.mark.requirement("usage:meter:erased")
async def test_an_erased_tenants_usage_is_unreadable_and_not_a_namesakes(
    store: stores.Store, time: clock.FrozenClock
) -> None:
    counting = metering.made(store, time)
    count(counting, 3)
    assert await metering.calls(counting) == 3
    before = [entry async for entry in store.platform().kv.snapshot((usage.HOURS, ACME))]
    assert len(before) == 1
    assert b"key-1" not in before[0].value
    assert not any("key-1" in part or "time" in part for part in before[0].key)
    count(counting, 9)
    await store.erase(ACME)
    await counting.commit()
    with pytest.raises(errors.NotFound):
        await metering.calls(counting)
    await store.provision(ACME)
    count(counting, 2)
    assert await metering.calls(counting) == 2
    # What is left of the first tenant is sealed under a key that is gone, and ends by itself.
    assert all(entry.expires is not None for entry in before)


@pytest.mark.requirement("usage:meter:isolated")
async def test_a_tenants_usage_is_its_own(store: stores.Store, time: clock.FrozenClock) -> None:
    umbra = ids.tenant("umbra")
    await store.provision(umbra)
    counting = metering.made(store, time)
    count(counting, 3)
    counting.call(umbra, "time", "key-1", failed=False, received=1, sent=1)
    assert await metering.calls(counting) == 3
    assert await metering.calls(counting, umbra) == 1


@pytest.mark.requirement("usage:meter:retention")
async def test_hours_end_after_their_time(store: stores.Store, time: clock.FrozenClock) -> None:
    counting = metering.made(store, time)
    count(counting, 3)
    assert await metering.calls(counting) == 3
    time.advance(400 * 86400 - 1)
    assert await metering.calls(counting) == 3
    time.advance(3602)
    assert await metering.calls(counting) == 0


@pytest.mark.requirement("usage:meter:damaged")
async def test_a_batch_that_was_changed_costs_itself_and_holds_up_no_other(
    tmp_path: pathlib.Path, faults: metering.Faults
) -> None:
    async with metering.opened(tmp_path, faults) as store:
        await store.provision(ACME)
        counting = metering.made(store)
        for number in (1, 10, 100):
            count(counting, number)
            await counting.commit()
    with sqlite3.connect(tmp_path / "store/log.db") as connection:
        connection.execute("UPDATE records SET data = x'0102' WHERE position = 2")
    connection.close()
    async with metering.opened(tmp_path, faults) as store:
        assert await metering.calls(metering.made(store)) == 101


@pytest.mark.requirement("usage:meter:bounded")
async def test_folded_batches_leave_the_log(store: stores.Store, time: clock.FrozenClock) -> None:
    counting = metering.made(store, time)
    chance = random.Random(4)
    sent = 0
    for _ in range(150):
        for number in range(60):
            calls = chance.randrange(1, 4)
            sent += calls
            count(counting, calls, principal=f"key-{number:040}")
        await counting.commit()
    assert await metering.calls(counting) == sent
    records = await store.tenant(ACME).log.read(usage.STREAM, limit=1000)
    assert sum(len(record.data) for record in records) < 300_000
    count(counting, 1)
    assert await metering.calls(counting) == sent + 1


@pytest.mark.requirement("usage:meter:storage")
async def test_storage_counts_for_the_time_that_it_is_kept(store: stores.Store, time: clock.FrozenClock) -> None:
    await tenants.Tenants(store, time).create("umbra")
    umbra = ids.TenantId("umbra")
    await store.tenant(umbra).kv.put(("a",), b"x" * 1000)
    stored = (await store.tenant(umbra).usage()).bytes
    counting = metering.made(store, time)
    await counting.weigh()
    time.advance(300)
    await counting.weigh()
    found = await metering.lines(counting, umbra)
    assert found == {(500_000, "", ""): usage.Sums(storage_byte_s=stored * 300)}


@pytest.mark.requirement("usage:meter:background")
async def test_in_the_background_usage_is_written_folded_and_flushed_in_the_end(
    tmp_path: pathlib.Path, faults: metering.Faults
) -> None:
    async with metering.opened(tmp_path, faults) as store:
        await store.provision(ACME)
        counting = metering.made(store)
        await counting.start()
        count(counting, 3)
        async for record in store.tenant(ACME).log.tail(usage.STREAM):  # waits for the commit
            assert record.position == 1
            break
        count(counting, 4)
        await counting.close()
    async with metering.opened(tmp_path, faults) as store:
        assert await metering.calls(metering.made(store)) == 7


@pytest.mark.requirement("usage:meter:cheap")
async def test_counting_a_call_costs_microseconds_at_most(store: stores.Store) -> None:
    """The figure itself is in docs/decisions/0024-usage.md; here only that nothing dear has crept in."""
    counting = metering.made(store)

    def call() -> None:
        counting.call(ACME, "time", "key-1", failed=False, received=100, sent=1000)

    best = min(timeit.repeat(call, number=2000, repeat=20)) / 2000
    assert best < 20e-6  # measured: about 0.5e-6
