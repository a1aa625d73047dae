"""The key-value interface on one SQLite file: the embedded default.

One table in key order (`stores.keys`). The revision is a counter that every transaction writes back, so that it
never runs backwards, whatever is deleted. Expired rows are invisible at once and removed by a sweep.
"""

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import keys, sqlite
from smcp.stores.kv import base

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kv (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, expires REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS kv_expires ON kv (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('revision', 0);
"""
_SWEEP_S: Final = 30.0
_SWEEP_ROWS: Final = 500
_PAGE: Final = 500

_COLUMNS: Final = "key, value, revision, expires"
_LIVE: Final = "(expires IS NULL OR expires > ?)"


class SqliteKV(base.KV):
    """`base.KV` on the file `path`."""

    def __init__(self, path: Path, clock: clocks.Clock) -> None:
        """Open or make the file; raises `errors.Unavailable`, with the way out, when another process has it."""
        self._clock = clock
        # By the first segment of the prefix, since that is the tenant; "" for the empty prefix.
        self._watchers: dict[str, list[tuple[base.Key, base.Listener]]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._revision = 0
        self._written = 0
        self._database = sqlite.Database(path, _SCHEMA, self._keep_revision)

    # --- reading --------------------------------------------------------------------------------------------

    async def get(self, key: base.Key) -> base.Entry | None:
        encoded = keys.encode(key)
        now = self._clock.now()

        def run(connection: sqlite3.Connection) -> base.Entry | None:
            row = connection.execute(
                f"SELECT value, revision, expires FROM kv WHERE key = ? AND {_LIVE}",  # noqa: S608  a constant
                (encoded, now),
            ).fetchone()
            return None if row is None else base.Entry(key, *row)

        return await self._database.read(run)

    async def scan(
        self, prefix: base.Key, *, starts_with: str = "", after: base.Key | None = None, limit: int = 1000
    ) -> list[base.Entry]:
        low, high = keys.span(prefix, starts_with)
        start = low if after is None else max(low, keys.encode(after))
        now = self._clock.now()
        return await self._database.read(
            lambda connection: _page(connection, start, high, now, limit, skip=start if after is not None else None)
        )

    async def size(self, prefix: base.Key) -> base.Size:
        low, high = keys.span(prefix)

        def run(connection: sqlite3.Connection) -> base.Size:
            row = connection.execute(
                "SELECT count(*), coalesce(sum(length(key) + length(value)), 0) FROM kv WHERE key >= ? AND key < ?",
                (low, high),
            ).fetchone()
            return base.Size(*row)

        return await self._database.ordered(run)

    async def snapshot(self, prefix: base.Key = ()) -> AsyncIterator[base.Entry]:
        low, high = keys.span(prefix)
        now = self._clock.now()
        if self._database.closing:
            raise errors.Unavailable(detail="the store is closed")
        connection = await asyncio.to_thread(self._begin_snapshot)
        try:
            skip: bytes | None = None
            while True:
                page = await asyncio.to_thread(self._snapshot_page, connection, skip or low, high, now, skip)
                for entry in page:
                    yield entry
                if not page:
                    return
                skip = keys.encode(page[-1].key)
        finally:
            connection.close()

    def _begin_snapshot(self) -> sqlite3.Connection:
        try:
            connection = self._database.connect()
            connection.execute("BEGIN")
            connection.execute("SELECT number FROM meta").fetchall()  # the moment: a read transaction starts here
        except sqlite3.Error as error:
            raise errors.Unavailable(detail=f"snapshot: {error}") from error
        return connection

    def _snapshot_page(
        self, connection: sqlite3.Connection, start: bytes, high: bytes, now: float, skip: bytes | None
    ) -> list[base.Entry]:
        try:
            return _page(connection, start, high, now, _PAGE, skip)
        except sqlite3.Error as error:
            raise errors.Unavailable(detail=f"snapshot: {error}") from error

    # --- writing --------------------------------------------------------------------------------------------

    async def apply(self, ops: Sequence[base.Op]) -> int:
        if not ops:
            raise ValueError("nothing to apply")
        encoded = [keys.encode(op.key) for op in ops]
        if len(set(encoded)) != len(encoded):
            raise ValueError("a key is named twice")
        if any(isinstance(op, base.Put) and op.ttl is not None and not 0 < op.ttl < math.inf for op in ops):
            raise ValueError("a time to live is a positive number of seconds")
        self._start_sweeper()
        revision, _ = await self._database.write(lambda connection: self._apply(connection, ops, encoded), self._tell)
        return revision

    def _apply(
        self, connection: sqlite3.Connection, ops: Sequence[base.Op], encoded: list[bytes]
    ) -> tuple[int, list[base.Change]]:
        now = self._clock.now()
        before: list[int | None] = []
        for op, key in zip(ops, encoded, strict=True):
            row = connection.execute("SELECT revision, length(value), expires FROM kv WHERE key = ?", (key,)).fetchone()
            live = row is not None and (row[2] is None or row[2] > now)
            revision = row[0] if row is not None and live else base.ABSENT
            if op.expect is not None and op.expect != revision:
                raise errors.Conflict
            before.append(None if row is None else row[1])
        revision = self._next_revision(connection)
        changes: list[base.Change] = []
        for op, key, replaced in zip(ops, encoded, before, strict=True):
            if isinstance(op, base.Put):
                expires = None if op.ttl is None else now + op.ttl
                connection.execute(
                    f"INSERT OR REPLACE INTO kv ({_COLUMNS}) VALUES (?, ?, ?, ?)",  # noqa: S608  a constant
                    (key, op.value, revision, expires),
                )
                changes.append(base.Change(op.key, op.value, revision, replaced))
            elif replaced is not None:
                connection.execute("DELETE FROM kv WHERE key = ?", (key,))
                changes.append(base.Change(op.key, None, revision, replaced))
        return revision, changes

    def _next_revision(self, connection: sqlite3.Connection) -> int:
        if self._revision == 0:
            self._revision = self._written = connection.execute(
                "SELECT number FROM meta WHERE name = 'revision'"
            ).fetchone()[0]
        self._revision += 1
        return self._revision

    def _keep_revision(self, connection: sqlite3.Connection) -> None:
        if self._revision != self._written:
            connection.execute("UPDATE meta SET number = ? WHERE name = 'revision'", (self._revision,))
            self._written = self._revision

    # --- expiry ---------------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """Remove what has expired by now, telling the watchers; returns how many keys."""
        removed = 0
        while True:
            _, changes = await self._database.write(self._sweep_some, self._tell)
            removed += len(changes)
            if len(changes) < _SWEEP_ROWS:
                return removed

    def _sweep_some(self, connection: sqlite3.Connection) -> tuple[int, list[base.Change]]:
        rows = connection.execute(
            "SELECT key, length(value) FROM kv WHERE expires <= ? LIMIT ?", (self._clock.now(), _SWEEP_ROWS)
        ).fetchall()
        if not rows:
            return 0, []
        revision = self._next_revision(connection)
        connection.executemany("DELETE FROM kv WHERE key = ?", [(key,) for key, _ in rows])
        return revision, [base.Change(keys.decode(key), None, revision, length) for key, length in rows]

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever())

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            with contextlib.suppress(errors.Unavailable):  # the next round tries again; callers see it themselves
                await self.sweep()

    # --- watching -------------------------------------------------------------------------------------------

    def watch(self, prefix: base.Key, listener: base.Listener) -> Callable[[], None]:
        entry = (prefix, listener)
        first = prefix[0] if prefix else ""
        self._watchers.setdefault(first, []).append(entry)

        def end() -> None:
            watchers = self._watchers.get(first, [])
            with contextlib.suppress(ValueError):
                watchers.remove(entry)
            if not watchers:
                self._watchers.pop(first, None)

        return end

    def _tell(self, written: tuple[int, list[base.Change]]) -> None:
        for change in written[1]:
            for prefix, listener in (*self._watchers.get("", ()), *self._watchers.get(change.key[0], ())):
                if keys.below(change.key, prefix):
                    try:
                        listener(change)
                    except Exception as error:  # noqa: BLE001  one broken listener must not keep the news from others
                        context: dict[str, Any] = {"message": "a storage watcher raised", "exception": error}
                        asyncio.get_running_loop().call_exception_handler(context)

    async def ping(self) -> None:
        await self._database.ping()

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._database.close()


def _page(
    connection: sqlite3.Connection, start: bytes, high: bytes, now: float, limit: int, skip: bytes | None
) -> list[base.Entry]:
    """Up to `limit` live rows from `start` on, without `skip`."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM kv WHERE key {'>' if skip is not None else '>='} ? AND key < ? AND {_LIVE} "  # noqa: S608
        "ORDER BY key LIMIT ?",
        (start, high, now, max(0, limit)),
    ).fetchall()
    return [base.Entry(keys.decode(row[0]), *row[1:]) for row in rows]
