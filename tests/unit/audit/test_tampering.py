"""What somebody with the database files can do to the trail, and that it is found and named."""

import pathlib
import sqlite3

import pytest

from smcp.audit import chain, writer
from smcp.kernel import clock
from support import storage, trails
from support.trails import ACME, edit, fill, verify

# Record 1 holds chain_started and three calls, records 2 to 5 three calls each; record 6 is the last checkpoint.
RECORDS = 6


@pytest.mark.requirement("audit:verify:clean")
async def test_an_untouched_trail_is_whole(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)
    report = await verify(tmp_path)
    assert report == chain.Report(True, entries=1 + 15 + 1, checkpoints=1)


@pytest.mark.requirement("audit:verify:changed")
@pytest.mark.parametrize("record", [1, 3, RECORDS])
@pytest.mark.parametrize("byte", [0, 1, 30, -1])
async def test_a_changed_record_is_named(tmp_path: pathlib.Path, record: int, byte: int) -> None:
    await fill(tmp_path)

    def flip(database: sqlite3.Connection) -> None:
        [(data,)] = database.execute("SELECT data FROM records WHERE position = ?", (record,)).fetchall()
        changed = bytearray(data)
        changed[byte] ^= 1
        database.execute("UPDATE records SET data = ? WHERE position = ?", (bytes(changed), record))

    edit(tmp_path, flip)
    report = await verify(tmp_path)
    assert not report.ok
    assert report.position == record * chain.STEP + 1
    assert "does not open" in str(report.problem)


@pytest.mark.requirement("audit:verify:removed")
@pytest.mark.parametrize("record", [1, 2, 4])
async def test_a_removed_record_is_named(tmp_path: pathlib.Path, record: int) -> None:
    await fill(tmp_path)
    edit(tmp_path, lambda database: database.execute("DELETE FROM records WHERE position = ?", (record,)))
    report = await verify(tmp_path)
    assert not report.ok
    # The first one has no neighbour before it that could tell: the next one does.
    assert report.position == (2 if record == 1 else record) * chain.STEP + 1
    assert "removed" in str(report.problem)


@pytest.mark.requirement("audit:verify:removed")
async def test_a_removed_record_is_noticed_although_all_later_ones_were_moved_up(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)

    def close_the_gap(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM records WHERE position = 3")
        for position in range(4, RECORDS + 1):
            database.execute("UPDATE records SET position = ? WHERE position = ?", (position - 1, position))
        database.execute("UPDATE streams SET last = ?", (RECORDS - 1,))

    edit(tmp_path, close_the_gap)
    report = await verify(tmp_path)
    assert not report.ok
    assert report.position == 3 * chain.STEP + 1


@pytest.mark.requirement("audit:verify:reordered")
async def test_two_exchanged_records_are_named(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)

    def exchange(database: sqlite3.Connection) -> None:
        for old, new in ((2, 99), (4, 2), (99, 4)):
            database.execute("UPDATE records SET position = ? WHERE position = ?", (new, old))

    edit(tmp_path, exchange)
    report = await verify(tmp_path)
    assert not report.ok
    assert report.position == 2 * chain.STEP + 1


@pytest.mark.requirement("audit:verify:duplicated")
async def test_a_record_that_was_copied_is_named(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)

    def copy(database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO records SELECT stream, 7, time, expires, data FROM records WHERE position = 2")
        database.execute("UPDATE streams SET last = 7")

    edit(tmp_path, copy)
    report = await verify(tmp_path)
    assert not report.ok
    assert report.position == 7 * chain.STEP + 1


@pytest.mark.requirement("audit:verify:truncated")
@pytest.mark.parametrize("keep", [0, 1, 4, RECORDS - 1])
@pytest.mark.parametrize("counter", [True, False])
async def test_a_cut_off_end_is_noticed(tmp_path: pathlib.Path, keep: int, counter: bool) -> None:
    """By the log's own counter; and by the head record, when that counter was set back too."""
    await fill(tmp_path)

    def cut(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM records WHERE position > ?", (keep,))
        if counter:
            database.execute("UPDATE streams SET last = ?", (keep,))

    edit(tmp_path, cut)
    report = await verify(tmp_path)
    assert not report.ok
    assert "removed" in str(report.problem)
    if keep:
        assert report.position == (keep + 1) * chain.STEP + 1


@pytest.mark.requirement("audit:verify:truncated")
async def test_a_trail_whose_stream_was_dropped_is_noticed(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)

    def drop(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM records")
        database.execute("DELETE FROM streams")

    edit(tmp_path, drop)
    assert not (await verify(tmp_path)).ok


@pytest.mark.requirement("audit:verify:heads")
async def test_a_removed_head_record_is_noticed(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)
    edit(tmp_path, lambda database: database.execute("DELETE FROM kv WHERE instr(key, 'audit-head')"), "kv.db")
    report = await verify(tmp_path)
    assert not report.ok
    assert "head record" in str(report.problem)


@pytest.mark.requirement("audit:verify:heads")
async def test_a_changed_head_record_is_noticed(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)

    def zero(database: sqlite3.Connection) -> None:
        database.execute("UPDATE kv SET value = zeroblob(length(value)) WHERE instr(key, 'audit-head')")

    edit(tmp_path, zero, "kv.db")
    report = await verify(tmp_path)
    assert not report.ok
    assert "head record" in str(report.problem)


@pytest.mark.requirement("audit:verify:retention")
async def test_retention_removes_the_oldest_without_an_alarm_and_a_removal_before_its_time_is_one(
    tmp_path: pathlib.Path,
) -> None:
    time = clock.FrozenClock()
    async with storage.opened(tmp_path) as store:
        await store.provision(ACME)
        async with trails.writing(store, time) as made:
            for number in range(6):
                await made.write(trails.call(number))
                time.advance(100 * 86400)
    edit(tmp_path, lambda database: database.execute("DELETE FROM records WHERE position <= 2"))
    # Now is day 600: the records of day 0 and 100 were due on day 400 and 500, that of day 200 is due today.
    assert (await verify(tmp_path, time)).ok
    early = clock.FrozenClock(now=time.now() - 101 * 86400)
    report = await verify(tmp_path, early)
    assert not report.ok
    assert report.position == 3 * chain.STEP + 1


@pytest.mark.requirement("audit:trail:after-damage")
async def test_a_writer_that_finds_its_chain_damaged_begins_a_new_one_and_says_so(tmp_path: pathlib.Path) -> None:
    await fill(tmp_path)

    def cut(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM records WHERE position >= 5")
        database.execute("UPDATE streams SET last = 4")

    edit(tmp_path, cut)
    async with storage.opened(tmp_path) as store, trails.writing(store) as made:
        await made.write(trails.call(77))
        entries = await made.query(ACME, after=4 * chain.STEP + 999)
        assert [type(entry.event).__name__ for entry in entries] == ["ChainStarted", "McpCall"]
        assert entries[0].event.outcome == "failed"
        report = await made.verify(ACME)
    assert not report.ok
    assert report.position is not None


@pytest.mark.requirement("audit:verify:references")
async def test_a_whole_chain_that_vanished_with_its_head_record_is_missed_by_the_next_one(
    tmp_path: pathlib.Path,
) -> None:
    await fill(tmp_path, writer="node-1")
    await fill(tmp_path, writer="node-2")

    def forget_heads(database: sqlite3.Connection) -> None:
        keys = [row[0] for row in database.execute("SELECT key FROM kv WHERE instr(key, 'audit-head') ORDER BY key")]
        assert len(keys) == 2
        database.execute("DELETE FROM kv WHERE key = ?", (keys[0],))

    def forget_chain(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM records WHERE position <= ?", (RECORDS,))

    edit(tmp_path, forget_heads, "kv.db")
    edit(tmp_path, forget_chain)
    report = await verify(tmp_path)
    assert not report.ok
    assert "removed" in str(report.problem)


def test_the_writers_constants_fit_together() -> None:
    assert chain.BATCH + 2 < chain.STEP
    assert writer.CHECKPOINT_ENTRIES >= 1
