"""The trail as its users see it: durable, in order, continued after a restart, closed when it can't be written."""

import asyncio
import pathlib

import pytest

from smcp.audit import chain, events, trail, writer
from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from support import storage, trails
from support.trails import ACME, call

UMBRA = ids.tenant("umbra")


@pytest.fixture
async def store(store: stores.Store) -> stores.Store:
    for tenant in (ACME, UMBRA):
        await store.provision(tenant)
    return store


def calls(entries: list[trail.Entry]) -> list[int]:
    """The numbers of the calls among `entries`."""
    return [entry.event.bytes_in for entry in entries if isinstance(entry.event, events.McpCall)]


@pytest.mark.requirement("audit:trail:durable")
async def test_a_written_event_is_there_for_another_reader(store: stores.Store) -> None:
    time = clock.FrozenClock()
    async with trails.writing(store, time) as made:
        await made.write(call(7))
        other = trail.Trail(store, time, writer="reader", ttl_days=1)
        [started, entry] = await other.query(ACME)
    assert isinstance(started.event, events.ChainStarted)
    assert entry.event == call(7)
    assert entry.writer == "node-1"
    assert entry.time == time.now()


@pytest.mark.requirement("audit:trail:background")
async def test_a_noted_event_is_written_without_anybody_waiting_for_it(store: stores.Store) -> None:
    async with trails.writing(store) as made:
        made.note(call(7))
        assert made.waiting == 1
        async with asyncio.timeout(60):
            tail = store.tenant(ACME).log.tail(writer.STREAM)
            record = await anext(tail)
        assert chain.decode(record.data).lines[-1].event == events.encode(call(7))


@pytest.mark.requirement("audit:trail:batches")
async def test_many_events_share_one_record_and_keep_their_order(store: stores.Store) -> None:
    async with trails.writing(store) as made:
        for number in range(1200):
            made.note(call(number))
        await made.flush(ACME)
        assert made.waiting == 0
        assert await store.tenant(ACME).log.last(writer.STREAM) == 3
        assert calls(await made.query(ACME, limit=5000)) == list(range(1200))
        report = await made.verify(ACME)
    assert report.ok
    # Every thousand entries are vouched for, not only the end.
    assert report.checkpoints == 1


@pytest.mark.requirement("audit:trail:query")
async def test_pages_put_together_are_the_whole_whatever_their_size(store: stores.Store) -> None:
    async with trails.writing(store) as one, trails.writing(store, writer="node-2") as two:
        for number in range(40):
            await (one if number % 3 else two).write(call(number))
        whole = await one.query(ACME, limit=1000)
        for size in (1, 2, 7, 43):
            pages: list[trail.Entry] = []
            while page := await one.query(ACME, after=pages[-1].position if pages else 0, limit=size):
                assert len(page) <= size
                pages += page
            assert pages == whole
    assert calls(whole) == list(range(40))
    assert [entry.position for entry in whole] == sorted({entry.position for entry in whole})
    assert {entry.writer for entry in whole} == {"node-1", "node-2"}


@pytest.mark.requirement("audit:trail:isolated")
async def test_a_tenants_trail_holds_its_own_events_only(store: stores.Store) -> None:
    async with trails.writing(store) as made:
        await made.write(call(1))
        await made.write(call(2, "umbra"))
        assert calls(await made.query(ACME)) == [1]
        assert calls(await made.query(UMBRA)) == [2]
        assert (await made.verify(UMBRA)).ok


@pytest.mark.requirement("audit:trail:restart")
@pytest.mark.parametrize("orderly", [True, False])
async def test_the_same_writer_continues_its_chain_after_a_restart(tmp_path: pathlib.Path, orderly: bool) -> None:
    """Also after a crash, when the last entries had no checkpoint."""
    for start in range(3):
        async with storage.opened(tmp_path) as store:
            await store.provision(ACME)
            made = trail.Trail(store, clock.FrozenClock(), writer="node-1", ttl_days=1)
            await made.start()
            await made.write(call(2 * start))
            await made.write(call(2 * start + 1))
            if orderly:
                await made.close()
            else:
                [task] = [task for task in asyncio.all_tasks() if task.get_name() == "audit"]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    async with storage.opened(tmp_path) as store, trails.writing(store, writer="reader") as made:
        entries = await made.query(ACME)
        report = await made.verify(ACME)
    assert calls(entries) == [0, 1, 2, 3, 4, 5]
    assert sum(isinstance(entry.event, events.ChainStarted) for entry in entries) == 1
    assert report.ok


@pytest.mark.requirement("audit:trail:restart")
async def test_another_writer_begins_a_chain_that_refers_to_the_last_heads(store: stores.Store) -> None:
    for name in ("node-1", "node-2"):
        async with trails.writing(store, writer=name) as made:
            await made.write(call(1))
            await made.close()
    records = await store.tenant(ACME).log.read(writer.STREAM)
    first, second = (
        next(batch for batch in map(chain.decode, (record.data for record in records)) if batch.writer == name)
        for name in ("node-1", "node-2")
    )
    assert [ref.chain for ref in second.refs] == [first.chain]
    assert second.refs[0].count == 3


@pytest.mark.requirement("audit:trail:checkpoints")
async def test_entries_are_vouched_for_after_half_a_minute(store: stores.Store) -> None:
    time = clock.FrozenClock()
    async with trails.writing(store, time) as made:
        await made.write(call(1))
        assert (await made.verify(ACME)).checkpoints == 0
        time.advance(writer.CHECKPOINT_S)
        await made.write(call(2))
        assert (await made.verify(ACME)).checkpoints == 1


@pytest.mark.requirement("audit:trail:fail-closed")
async def test_a_full_queue_refuses_and_one_tenant_can_not_fill_it(store: stores.Store) -> None:
    async with trails.writing(store, queue=40) as made:
        for number in range(10):
            made.note(call(number))
        with pytest.raises(errors.Unavailable):
            made.note(call(10))
        with pytest.raises(errors.Unavailable):
            made.check(ACME)
        made.note(call(0, "umbra"))
        await made.flush(ACME)
        made.note(call(11))
        await made.flush(ACME)
        assert calls(await made.query(ACME)) == [*range(10), 11]


@pytest.mark.requirement("audit:trail:fail-closed")
async def test_when_writing_fails_nothing_more_is_accepted_and_what_was_is_kept(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(ACME)
        made = trail.Trail(store, clock.FrozenClock(), writer="node-1", ttl_days=1)
        await made.start()
        await made.write(call(1))
        await store.close()
        with pytest.raises(errors.Unavailable):
            await made.write(call(2))
        with pytest.raises(errors.Unavailable):
            made.note(call(3))
        with pytest.raises(errors.Unavailable):
            made.check(ACME)
        assert made.waiting == 1
        await made.close()


@pytest.mark.requirement("audit:trail:fail-closed")
async def test_before_the_start_and_after_the_end_nothing_is_accepted(store: stores.Store) -> None:
    made = trail.Trail(store, clock.FrozenClock(), writer="node-1", ttl_days=1)
    with pytest.raises(errors.Unavailable):
        made.note(call())
    await made.start()
    made.note(call(5))
    await made.close()
    await made.close()
    with pytest.raises(errors.Unavailable):
        await made.write(call())
    assert calls(await made.query(ACME)) == [5]


@pytest.mark.requirement("audit:trail:erased")
async def test_an_erased_tenants_trail_is_gone_and_its_namesake_starts_anew(store: stores.Store) -> None:
    async with trails.writing(store) as made:
        await made.write(call(1))
        salted = made.digest(ACME, "10.0.0.1")
        await store.erase(ACME)
        with pytest.raises((errors.NotFound, errors.Unavailable)):
            await made.write(call(2))
        with pytest.raises(errors.NotFound):
            await made.write(call(2))
        await store.provision(ACME)
        await made.write(call(3))
        assert calls(await made.query(ACME)) == [3]
        assert (await made.verify(ACME)).ok
        assert made.digest(ACME, "10.0.0.1") != salted
        assert made.waiting == 0


@pytest.mark.requirement("audit:trail:no-such-tenant")
async def test_an_event_of_no_tenant_is_refused_at_once(store: stores.Store) -> None:
    async with trails.writing(store) as made:
        with pytest.raises(errors.NotFound):
            made.note(call(1, "nobody"))


@pytest.mark.requirement("audit:digest:salted")
async def test_personal_text_stands_in_the_trail_as_a_digest_that_differs_between_tenants(store: stores.Store) -> None:
    async with trails.writing(store) as made:
        digest = made.digest(ACME, "203.0.113.9")
        assert digest == made.digest(ACME, "203.0.113.9")
        assert digest != made.digest(UMBRA, "203.0.113.9")
        assert digest != made.digest(ACME, "203.0.113.8")
        assert made.target(ACME, "get_time") == "get_time"
        private = made.target(ACME, "file:///home/ann")
        assert private.startswith("#")
        assert private != made.target(UMBRA, "file:///home/ann")
        await made.write(events.AuthenticationFailed(tenant="acme", actor="anonymous", why="unknown", address=digest))
