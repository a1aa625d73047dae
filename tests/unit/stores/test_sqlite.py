"""What the SQLite engine promises beyond the contracts of the interfaces."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.kv import key_lists, segments
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import keys, sqlite
from smcp.stores.kv import base as kv_base
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import sqlite as log_sqlite


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[sqlite.Database]:
    database = sqlite.Database(tmp_path / "x.db", "CREATE TABLE IF NOT EXISTS t (n INTEGER)")
    yield database
    await database.close()


def _numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]


@pytest.mark.requirement("stores:keys:order")
@given(names=key_lists, prefix=st.lists(segments, max_size=2), starts=st.just("") | segments)
def test_encoded_keys_decode_and_sort_as_keys_do(names: list[kv_base.Key], prefix: list[str], starts: str) -> None:
    assert [keys.decode(keys.encode(name)) for name in names] == names
    by_bytes = sorted(names, key=keys.encode)
    assert by_bytes == sorted(names, key=lambda name: [segment.encode() for segment in name])
    low, high = keys.span(prefix, starts)
    for name in names:
        inside = list(name[: len(prefix)]) == prefix and (
            not starts or (len(name) > len(prefix) and name[len(prefix)].startswith(starts))
        )
        assert (low <= keys.encode(name) < high) == inside


@pytest.mark.requirement("stores:sqlite:group-commit")
async def test_waiting_writers_share_a_commit(database: sqlite.Database) -> None:
    commits = 0

    def insert(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (1)")
        return connection.total_changes

    def count(_: sqlite3.Connection) -> None:
        nonlocal commits
        commits += 1

    database.before_commit = count
    await asyncio.gather(*[database.write(insert) for _ in range(200)])
    assert len(await database.read(_numbers)) == 200
    assert commits < 50


@pytest.mark.requirement("stores:sqlite:group-commit")
@pytest.mark.parametrize("raised", [RuntimeError, OverflowError, sqlite3.IntegrityError])
async def test_a_job_that_fails_halfway_leaves_nothing_and_takes_no_other_with_it(
    database: sqlite.Database, raised: type[Exception]
) -> None:
    def insert(number: int) -> Any:
        def run(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO t VALUES (?)", (number,))
            if number % 10 == 0:
                raise raised("halfway")

        return run

    done = await asyncio.gather(*[database.write(insert(n)) for n in range(40)], return_exceptions=True)
    assert await database.read(_numbers) == [n for n in range(40) if n % 10]
    for n, outcome in enumerate(done):
        if n % 10:
            assert outcome is None
        elif raised is sqlite3.IntegrityError:
            assert isinstance(outcome, errors.Unavailable)
        else:
            assert isinstance(outcome, raised)


@pytest.mark.requirement("stores:sqlite:one-process")
async def test_a_second_opening_says_who_has_the_file_and_what_to_do(tmp_path: Path) -> None:
    first = kv_sqlite.SqliteKV(tmp_path / "kv.db", clocks.SystemClock())
    with pytest.raises(errors.Unavailable, match=r"pid \d+.*platform\.data_dir"):
        kv_sqlite.SqliteKV(tmp_path / "kv.db", clocks.SystemClock())
    await first.put(("a",), b"1")
    await first.close()
    second = kv_sqlite.SqliteKV(tmp_path / "kv.db", clocks.SystemClock())
    assert await second.get(("a",)) is not None
    await second.close()


@pytest.mark.requirement("stores:sqlite:unavailable")
async def test_a_closed_store_says_that_it_is_unavailable_and_closes_again(tmp_path: Path) -> None:
    clock = clocks.SystemClock()
    kv, log = kv_sqlite.SqliteKV(tmp_path / "kv.db", clock), log_sqlite.SqliteLog(tmp_path / "log.db", clock)
    accepted = [asyncio.ensure_future(kv.put(("k", str(n)), b"")) for n in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(kv.close(), kv.close(), log.close())
    await asyncio.gather(*accepted)
    await kv.close()
    for call in [kv.get(("a",)), kv.put(("a",), b""), kv.scan(()), kv.ping(), kv.size(()), log.append(("s",), [b""])]:
        with pytest.raises(errors.Unavailable):
            await call
    with pytest.raises(errors.Unavailable):
        [entry async for entry in kv.snapshot()]
    again = kv_sqlite.SqliteKV(tmp_path / "kv.db", clock)
    assert len(await again.scan(())) == 50, "what was accepted before the close was finished"
    await again.close()


@pytest.mark.requirement("stores:log:tail")
async def test_a_waiting_tail_hears_that_the_log_was_closed(tmp_path: Path) -> None:
    log = log_sqlite.SqliteLog(tmp_path / "log.db", clocks.SystemClock())
    await log.append(("s",), [b"1"])
    tail = log.tail(("s",))
    assert (await anext(tail)).position == 1
    waiting = asyncio.ensure_future(anext(tail))
    await log.last(("s",))
    await log.close()
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(waiting, 60)


@pytest.mark.requirement("stores:sqlite:unavailable")
async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "kv.db").write_bytes(b"this is not a database file at all, not even nearly" * 100)
    with pytest.raises(errors.Unavailable, match=r"kv\.db"):
        kv_sqlite.SqliteKV(tmp_path / "kv.db", clocks.SystemClock())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.Unavailable):
        kv_sqlite.SqliteKV(tmp_path / "file" / "kv.db", clocks.SystemClock())


@pytest.mark.requirement("stores:sqlite:unavailable")
async def test_a_damaged_page_is_unavailable_and_never_a_wrong_answer(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    kv = kv_sqlite.SqliteKV(path, clocks.SystemClock())
    await kv.apply([kv_base.Put(("k", f"{n:03}"), bytes(300)) for n in range(200)])
    await kv.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    kv = kv_sqlite.SqliteKV(path, clocks.SystemClock())
    with pytest.raises(errors.Unavailable):
        await kv.scan(())
    await kv.close()


@pytest.mark.requirement("stores:sqlite:owner-only")
async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    kv = kv_sqlite.SqliteKV(tmp_path / "deep" / "kv.db", clocks.SystemClock())
    await kv.put(("a",), b"1")
    files = sorted((tmp_path / "deep").iterdir())
    assert {path.name for path in files} == {"kv.db", "kv.db-wal", "kv.db-shm", "kv.db.lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700
    await kv.close()


@pytest.mark.requirement("stores:kv:ttl")
async def test_a_sweep_removes_what_has_expired_and_tells_the_watchers(tmp_path: Path) -> None:
    clock = clocks.FrozenClock()
    kv = kv_sqlite.SqliteKV(tmp_path / "kv.db", clock)
    await kv.apply([kv_base.Put(("k", f"{n:04}"), b"12345", ttl=10 if n % 2 else 1000) for n in range(1200)])
    heard: list[kv_base.Change] = []
    kv.watch(("k",), heard.append)
    assert await kv.sweep() == 0
    clock.advance(10)
    assert (await kv.size(())).keys == 1200
    assert await kv.sweep() == 600
    assert (await kv.size(())).keys == 600
    assert {change.key for change in heard} == {("k", f"{n:04}") for n in range(1, 1200, 2)}
    assert {(change.value, change.replaced) for change in heard} == {(None, 5)}
    await kv.close()


@pytest.mark.requirement("stores:kv:watch")
async def test_a_watcher_that_raises_is_reported_and_keeps_nobody_from_hearing(tmp_path: Path) -> None:
    kv = kv_sqlite.SqliteKV(tmp_path / "kv.db", clocks.SystemClock())
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def broken(change: kv_base.Change) -> None:
        raise RuntimeError("broken listener")

    heard: list[kv_base.Change] = []
    kv.watch((), broken)
    kv.watch(("a",), heard.append)
    await kv.put(("a",), b"1")
    assert [change.key for change in heard] == [("a",)]
    assert [str(context["exception"]) for context in reported] == ["broken listener"]
    await kv.close()
