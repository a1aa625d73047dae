"""A hosted server's log: bounded in size whatever it writes, followed without a delay, and nobody else's matter."""

import asyncio
import io
import pathlib
from collections.abc import AsyncGenerator

import pytest

from smcp.kernel import ids, observe, settings
from smcp.runtime import driver, journal
from smcp.stores import tenant as stores
from support import storage

_ACME = ids.TenantId("acme")
_LOUD, _QUIET = ids.ServerName("loud"), ids.ServerName("quiet")
_MOST = 65536


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncGenerator[stores.Store]:
    async with storage.opened(tmp_path) as opened:
        await opened.provision(_ACME)
        yield opened


def _journal(store: stores.Store, most_bytes: int = _MOST) -> journal.Journal:
    log = observe.logger(settings.Log(), io.StringIO())
    return journal.Journal(store, log, days=14, most_bytes=most_bytes)


def _sink(one: journal.Journal, server: ids.ServerName) -> driver.Lines:
    return one.lines(driver.Spec(tenant=_ACME, server=server, deployment="dep-1", artefact="/", argv=("x",)))


async def _texts(one: journal.Journal, server: ids.ServerName) -> list[str]:
    return [line.text for line in await one.read(_ACME, server, after=0, limit=10_000)]


async def _stored(store: stores.Store, server: ids.ServerName) -> int:
    return await store.tenant(_ACME).log.shrink(("journal", server), most=10**12)


@pytest.mark.requirement("runtime:logs:size")
async def test_a_flood_keeps_its_newest_lines_within_the_bound_and_touches_no_other_log(store: stores.Store) -> None:
    one = _journal(store)
    _sink(one, _QUIET)("the only line of the quiet one")
    loud = _sink(one, _LOUD)
    biggest = 0
    for number in range(400):
        loud(f"{number} " + "x" * (number % 7) * 300)
        if number % 20 == 19:
            await one.read(_ACME, _LOUD, after=10**9, limit=1)
            biggest = max(biggest, await _stored(store, _LOUD))
    assert _MOST / 2 < biggest <= _MOST
    kept = [int(text.split()[0]) for text in await _texts(one, _LOUD)]
    assert kept == list(range(400 - len(kept), 400))
    assert await _texts(one, _QUIET) == ["the only line of the quiet one"]


@pytest.mark.requirement("runtime:logs:size")
async def test_one_batch_that_is_too_much_leaves_its_last_lines(store: stores.Store) -> None:
    one = _journal(store)
    loud = _sink(one, _LOUD)
    for number in range(400):
        loud(f"{number} " + "x" * 4000)
    kept = await _texts(one, _LOUD)
    assert 2 < len(kept) < 20
    assert kept[-1].startswith("399 ")
    assert await _stored(store, _LOUD) <= _MOST


@pytest.mark.requirement("runtime:logs:size")
async def test_what_an_earlier_run_left_counts_and_a_smaller_bound_holds_from_the_next_line_on(
    store: stores.Store,
) -> None:
    before = _journal(store, 10 * _MOST)
    loud = _sink(before, _LOUD)
    for number in range(100):
        loud(f"{number} " + "x" * 2000)
    await before.close()
    assert await _stored(store, _LOUD) > 2 * _MOST
    after = _journal(store)
    _sink(after, _LOUD)("the next")
    await after.close()
    assert await _stored(store, _LOUD) <= _MOST
    assert (await _texts(after, _LOUD))[-1] == "the next"


@pytest.mark.requirement("runtime:logs:follow")
async def test_who_waits_gets_the_next_line_at_once_and_only_of_that_server(store: stores.Store) -> None:
    one = _journal(store)
    waiting = asyncio.create_task(one.read(_ACME, _LOUD, after=0, limit=10, wait_s=3600))
    await asyncio.sleep(0)
    _sink(one, _QUIET)("of another")
    _sink(one, _LOUD)("at last")
    assert [line.text for line in await asyncio.wait_for(waiting, 60)] == ["at last"]
    again = one.read(_ACME, _LOUD, after=0, limit=10, wait_s=3600)
    assert [line.text for line in await asyncio.wait_for(again, 60)] == ["at last"]


@pytest.mark.requirement("runtime:logs:follow")
async def test_who_waits_in_vain_or_for_a_platform_that_stops_gets_an_empty_answer(store: stores.Store) -> None:
    one = _journal(store)
    assert await one.read(_ACME, _LOUD, after=0, limit=10, wait_s=0.05) == []
    waiting = asyncio.create_task(one.read(_ACME, _LOUD, after=0, limit=10, wait_s=3600))
    await asyncio.sleep(0)
    one.hush()
    assert await asyncio.wait_for(waiting, 60) == []
    assert await asyncio.wait_for(one.read(_ACME, _LOUD, after=0, limit=10, wait_s=3600), 60) == []


@pytest.mark.requirement("runtime:logs:follow")
async def test_readers_that_give_up_cost_no_line_and_change_no_order(store: stores.Store) -> None:
    one = _journal(store, 10 * _MOST)
    loud = _sink(one, _LOUD)
    for number in range(200):
        loud(str(number))
        reading = asyncio.create_task(one.read(_ACME, _LOUD, after=0, limit=1))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert await _texts(one, _LOUD) == [str(number) for number in range(200)]


@pytest.mark.requirement("runtime:logs:follow")
async def test_a_deleted_servers_lines_are_gone_also_those_not_yet_written(store: stores.Store) -> None:
    one = _journal(store)
    _sink(one, _LOUD)("written")
    await one.read(_ACME, _LOUD, after=0, limit=1)
    _sink(one, _LOUD)("waiting")
    await one.drop(_ACME, _LOUD)
    assert await _texts(one, _LOUD) == []
    one.note(_ACME, _LOUD, "deployed dep-2")
    assert await _texts(one, _LOUD) == ["[smcp] deployed dep-2"]
