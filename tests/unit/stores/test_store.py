"""The store as a whole: it refuses when its storage does not answer, and lives through restarts."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contract import backends
from contract.backends import ACME
from smcp.kernel import clock as clocks
from smcp.kernel import errors, settings
from smcp.stores import local, tenant
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import sqlite as log_sqlite
from smcp.stores.objects import obstore


class StallingKV(kv_sqlite.SqliteKV):
    """SQLite whose pings wait while it is told to, or fail."""

    def __init__(self, path: Path, clock: clocks.Clock) -> None:
        super().__init__(path, clock)
        self.answers = asyncio.Event()
        self.answers.set()
        self.answered = asyncio.Event()
        self.fails = False
        self.asked = 0

    async def ping(self) -> None:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            self.answered.set()
            raise errors.Unavailable
        await super().ping()
        self.answered.set()


class FailingLog(log_sqlite.SqliteLog):
    """SQLite whose writing thread can be made to meet an error."""

    async def fail(self, run: Callable[[sqlite3.Connection], None]) -> None:
        await self._database.write(run)


class Kit:
    def __init__(self, directory: Path, *, patience_s: float = tenant.PATIENCE_S) -> None:
        self.clock = clocks.FrozenClock()
        self.kv = StallingKV(directory / "kv.db", self.clock)
        self.log = FailingLog(directory / "log.db", self.clock)
        self.store = tenant.Store(
            self.kv,
            self.log,
            obstore.ObstoreObjects.in_directory(directory / "objects"),
            backends.ring(directory),
            self.clock,
            quota_bytes=10**9,
            quota_keys=10**6,
            patience_s=patience_s,
        )


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    kit = Kit(tmp_path)
    yield kit
    kit.kv.answers.set()
    await kit.store.close()


async def next_answer(kit: Kit) -> None:
    kit.kv.answered.clear()
    await asyncio.wait_for(kit.kv.answered.wait(), 60)
    await asyncio.sleep(0)


@pytest.mark.requirement("stores:tenant:fail-closed")
async def test_a_store_refuses_before_its_start_and_after_its_end(kit: Kit) -> None:
    with pytest.raises(errors.Unavailable):
        kit.store.check()
    await kit.store.start()
    kit.store.check()
    await kit.store.close()
    with pytest.raises(errors.Unavailable):
        kit.store.check()
    await kit.store.close()


@pytest.mark.requirement("stores:tenant:fail-closed")
@pytest.mark.parametrize("fails", [False, True], ids=["no answer", "failing answer"])
async def test_a_store_refuses_two_seconds_after_the_last_answer_and_allows_again_with_the_next(
    kit: Kit, fails: bool
) -> None:
    await kit.store.start()
    kit.kv.fails = fails
    if not fails:
        kit.kv.answers.clear()
    kit.clock.advance(2.0)
    kit.store.check()
    kit.clock.advance(0.1)
    with pytest.raises(errors.Unavailable):
        kit.store.check()
    if fails:
        await next_answer(kit)
        with pytest.raises(errors.Unavailable):
            kit.store.check()
    kit.kv.fails = False
    kit.kv.answers.set()
    await next_answer(kit)
    kit.store.check()


@pytest.mark.requirement("stores:tenant:proof")
async def test_who_comes_when_the_answer_is_late_waits_for_it_and_all_ask_together(kit: Kit) -> None:
    await kit.store.start()
    await kit.store.proven()
    kit.kv.answers.clear()
    kit.clock.advance(2.1)
    asked = kit.kv.asked
    callers = [asyncio.create_task(kit.store.proven()) for _ in range(200)]
    await asyncio.sleep(0.1)
    assert not any(caller.done() for caller in callers)
    assert kit.kv.asked == asked + 1
    kit.kv.answers.set()
    await asyncio.wait_for(asyncio.gather(*callers), 60)
    kit.store.check()


@pytest.mark.requirement("stores:tenant:proof")
async def test_an_answer_that_took_too_long_proves_nothing_and_the_next_one_does(kit: Kit) -> None:
    await kit.store.start()
    kit.kv.answers.clear()
    kit.clock.advance(2.1)
    caller = asyncio.create_task(kit.store.proven())
    await asyncio.sleep(0)
    kit.clock.advance(2.1)
    asked = kit.kv.asked
    kit.kv.answers.set()
    await asyncio.wait_for(caller, 60)
    assert kit.kv.asked > asked


@pytest.mark.requirement("stores:tenant:proof")
async def test_nobody_waits_where_the_storage_says_no_or_is_closed(tmp_path: Path) -> None:
    kit = Kit(tmp_path, patience_s=600)
    await kit.store.start()
    kit.kv.fails = True
    kit.clock.advance(2.1)
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(kit.store.proven(), 60)
    kit.kv.fails = False
    kit.kv.answers.clear()
    waiting = asyncio.create_task(kit.store.proven())
    await asyncio.sleep(0)
    await kit.store.close()
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(waiting, 60)
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(kit.store.proven(), 60)


@pytest.mark.requirement("stores:tenant:proof")
async def test_a_silent_storage_is_unavailable_after_the_patience(tmp_path: Path) -> None:
    kit = Kit(tmp_path, patience_s=0.05)
    await kit.store.start()
    kit.kv.answers.clear()
    kit.clock.advance(2.1)
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(kit.store.proven(), 60)
    await kit.store.close()


@pytest.mark.requirement("stores:tenant:fail-closed")
async def test_a_start_fails_when_the_storage_does_not_answer(kit: Kit) -> None:
    kit.kv.fails = True
    with pytest.raises(errors.Unavailable):
        await kit.store.start()


@pytest.mark.requirement("stores:tenant:fail-closed-log")
async def test_an_error_of_the_disk_below_the_log_takes_the_whole_store_away(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    await kit.store.start()
    await kit.store.proven()

    def fail(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE  # what SQLite says when a write fails
        raise error

    with pytest.raises(errors.Unavailable):
        await kit.log.fail(fail)
    kit.clock.advance(tenant.STALE_S + 1)
    with pytest.raises(errors.Unavailable, match=r"log\.db"):
        await kit.store.proven()
    assert not kit.store.fresh()
    # What is stored can be read as before: it is the answers that nobody may give any more.
    assert await kit.store.platform().kv.get(("k",)) is None
    await kit.store.close()


@pytest.mark.requirement("stores:tenant:fail-closed")
async def test_a_ping_passes_thousands_of_waiting_writes(tmp_path: Path) -> None:
    kv = kv_sqlite.SqliteKV(tmp_path / "kv.db", clocks.SystemClock())
    finished: list[str] = []

    async def note(name: str) -> None:
        if name == "ping":
            await kv.ping()
        else:
            await kv.put(("k", name), bytes(1000))
        finished.append(name)

    writes = [asyncio.create_task(note(str(n))) for n in range(5000)]
    await asyncio.sleep(0)
    await note("ping")
    assert finished.index("ping") < 2000
    await asyncio.gather(*writes)
    await kv.close()


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    for turn in range(3):
        store = await backends.opened(tmp_path, clocks.SystemClock())
        handle = store.tenant(ACME)
        assert [entry.value for entry in await handle.kv.scan(())] == [b"%d" % n for n in range(turn)]
        await handle.kv.put(("k", str(turn)), b"%d" % turn)
        assert await handle.log.append(("s",), [b""]) == turn + 1
        await store.close()


def test_keys_stay_apart_from_data(tmp_path: Path) -> None:
    async def once() -> None:
        await (await backends.opened(tmp_path, clocks.SystemClock())).close()

    asyncio.run(once())
    assert {path.name for path in tmp_path.iterdir()} == {"keys", "store"}
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"root.key", "ring.json", "wrapping.json"}


def test_a_wrong_objects_url_stops_the_start_and_shows_no_credential(tmp_path: Path) -> None:
    wrong = settings.Settings(stores=settings.Stores(objects_url="nonsense://user:hunter2@host"))
    with pytest.raises(errors.BadSettings, match="objects_url") as raised:
        local.open_local(tmp_path, wrong, clocks.SystemClock())
    assert "hunter2" not in str(raised.value)
