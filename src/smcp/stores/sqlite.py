"""One SQLite file with one writing thread, for the back ends that stand on SQLite.

Writers never touch the file themselves: they queue jobs, and the writing thread runs all that wait in one
transaction. With `synchronous=FULL` in WAL mode a commit is one fsync, so sixty-four waiting writers share its price.
Reading threads have connections of their own and are never blocked by the writer (WAL).

What `after` of a job does runs on the event loop's thread, in commit order, before the job's caller goes on.
"""

import asyncio
import collections
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from smcp.kernel import errors
from smcp.stores import decided

T = TypeVar("T")

_JOBS_PER_COMMIT: Final = 512
_READS_PER_TURN: Final = 16
_READERS: Final = 2
_CACHED_KIB: Final = 2048
"""Of pages, for each connection. They fill as the file grows, and are kept: a platform has six connections. Behind them
is the operating system's cache, which all of them share."""


class _Job(Generic[T]):
    """Something to run on a connection, and who waits for it."""

    __slots__ = ("after", "error", "future", "result", "run")

    def __init__(
        self,
        run: Callable[[sqlite3.Connection], T],
        after: Callable[[T], None] | None,
        future: asyncio.Future[T],
    ) -> None:
        self.run = run
        self.after = after
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


# Wakes the writing thread so that it looks at the pings; never run, so it needs nobody who waits.
_WAKE: Final = typing.cast(_Job[Any], object())


class Database:
    """The file, its lock, its threads. Only one process may have it open."""

    def __init__(
        self, path: Path, schema: str, before_commit: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        """Open `path`, made with `schema` where it does not exist. Raises `errors.Unavailable`.

        `before_commit` runs at the end of every write transaction.
        """
        self._path = path
        self.before_commit = before_commit
        self._closing = False
        self._broken = ""
        self._closed: asyncio.Future[None] | None = None
        self._writes: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._pings: collections.deque[asyncio.Future[None]] = collections.deque()
        self._reads: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(path)
        except OSError as error:
            raise errors.Unavailable(
                f"The storage directory {path.parent} can't be used.", detail=str(error)
            ) from error
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its -wal and -shm the same mode
            self._writer = self.connect()
            self._writer.executescript(schema)
            self._readers = [self.connect() for _ in range(_READERS)]
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise errors.Unavailable(f"The storage file {path} can't be opened.", detail=str(error)) from error
        self._threads = [threading.Thread(target=self._write_loop, name=f"{path.name}-writer", daemon=True)]
        self._threads += [
            threading.Thread(target=self._read_loop, args=(reader,), name=f"{path.name}-reader", daemon=True)
            for reader in self._readers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    async def write(self, run: Callable[[sqlite3.Connection], T], after: Callable[[T], None] | None = None) -> T:
        """Run a job in a write transaction; returns when it is durable.

        `run` may raise an `errors.SmcpError` or `ValueError` before its first change, and must bear being run again.
        A caller that is cancelled hears of it only when the write is decided: nothing happens behind its back.
        """
        return await decided.decided(self._submit(self._writes, run, after))

    async def ordered(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """Run a reading job between the writes, so that its answer fits what `after` was told so far."""
        return await self._submit(self._writes, run, None)

    async def read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """Run a reading job; it sees every write that was acknowledged before."""
        return await self._submit(self._reads, run, None)

    def check(self) -> None:
        """Raises `errors.Unavailable` after an I/O error. Asks no thread."""
        if self._broken:
            raise errors.Unavailable(detail=self._broken)

    async def ping(self) -> None:
        """Answered by the writing thread between two transactions, however many writes wait behind it."""
        if self._closing:
            raise errors.Unavailable(detail=f"{self._path.name} is closed")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings.append(future)
        self._writes.put(_WAKE)
        await future

    def connect(self) -> sqlite3.Connection:
        """A further connection in autocommit mode. The caller closes it."""
        connection = sqlite3.connect(
            self._path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        cached = f"cache_size=-{_CACHED_KIB}"
        for pragma in ("journal_mode=WAL", "synchronous=FULL", cached, "journal_size_limit=67108864"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    async def close(self) -> None:
        """Finish the jobs that were accepted, end the threads, let go of the file. Idempotent."""
        if self._closed is not None:
            await asyncio.shield(self._closed)
            return
        self._closing = True
        self._closed = asyncio.get_running_loop().run_in_executor(None, self._finish)
        await asyncio.shield(self._closed)

    def _finish(self) -> None:
        self._writes.put(None)
        for _ in self._readers:
            self._reads.put(None)
        for thread in self._threads:
            thread.join()
        for connection in (*self._readers, self._writer):
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        os.close(self._lock)

    def _submit(
        self,
        jobs: "queue.SimpleQueue[_Job[Any] | None]",
        run: Callable[[sqlite3.Connection], T],
        after: Callable[[T], None] | None,
    ) -> asyncio.Future[T]:
        if self._closing:
            raise errors.Unavailable(detail=f"{self._path.name} is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        jobs.put(_Job(run, after, future))
        return future

    # --- the writing thread ---------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        more = True
        while more:
            jobs, more = _take(self._writes, _JOBS_PER_COMMIT)
            self._answer_pings()
            jobs = [job for job in jobs if job is not _WAKE]
            if jobs:
                self._run_writes(jobs)
                _report(jobs)
        self._answer_pings()

    def _answer_pings(self) -> None:
        waiting = [self._pings.popleft() for _ in range(len(self._pings))]
        if not waiting:
            return
        problem: Exception | None = errors.Unavailable(detail=self._broken) if self._broken else None
        try:
            self._writer.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except sqlite3.Error as error:
            problem = self._translated(error)
        for future in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(_answer, future, problem)

    def _run_writes(self, jobs: list[_Job[Any]]) -> None:
        try:
            self._transaction(jobs)
        except Exception as error:  # noqa: BLE001  whatever one job did, the others in its transaction must not suffer
            self._translated(error)
            for job in jobs:
                try:
                    self._transaction([job])
                except Exception as error:  # noqa: BLE001  it belongs to the job's caller
                    job.error = self._translated(error)

    def _transaction(self, jobs: list[_Job[Any]]) -> None:
        self.check()
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.result = job.error = None
                try:
                    job.result = job.run(connection)
                except (errors.SmcpError, ValueError) as error:
                    job.error = error
            if self.before_commit is not None:
                self.before_commit(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    # --- the reading threads --------------------------------------------------------------------------------

    def _read_loop(self, connection: sqlite3.Connection) -> None:
        more = True
        while more:
            jobs, more = _take(self._reads, _READS_PER_TURN)
            for job in jobs:
                try:
                    job.result = job.run(connection)
                except Exception as error:  # noqa: BLE001  it belongs to the job's caller
                    job.error = self._translated(error)
            if jobs:
                _report(jobs)

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, (sqlite3.Error, OSError)):
            return error
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_IOERR:
            # After a failed fsync nobody knows what reached the disk: no answer until a restart has recovered the WAL.
            self._broken = f"{self._path.name}: an earlier I/O error: {error}"
        raised = errors.Unavailable(detail=f"{self._path.name}: {error}")
        raised.__cause__ = error
        return raised


def _take(jobs: "queue.SimpleQueue[_Job[Any] | None]", most: int) -> tuple[list[_Job[Any]], bool]:
    """At least one job, or the end mark; then what else waits. The flag is False after the end mark."""
    first = jobs.get()
    if first is None:
        return [], False
    taken = [first]
    while len(taken) < most:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            break
        if job is None:
            return taken, False
        taken.append(job)
    return taken, True


def _report(jobs: list[_Job[Any]]) -> None:
    """Tell the callers on their loop's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        jobs[0].future.get_loop().call_soon_threadsafe(_settle, jobs)


def _settle(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        if job.error is None and job.after is not None:
            job.after(job.result)
        if job.future.cancelled():
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)


def _answer(future: asyncio.Future[None], problem: Exception | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(None)
    else:
        future.set_exception(problem)


def _lock(path: Path) -> int:
    """Take the lock file beside `path`; the kernel lets go of it when the process ends, however it ends."""
    name = path.with_name(path.name + ".lock")
    handle = os.open(name, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise errors.Unavailable(
            f"Another SMCP process (pid {holder}) uses {path}. Stop it, or give this one its own platform.data_dir."
        ) from error
    os.truncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
