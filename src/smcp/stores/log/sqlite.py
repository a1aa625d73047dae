"""The log interface on one SQLite file: the embedded default.

A stream is a row that remembers the last position given out, so that trimming never makes a position come back.
"""

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import keys, sqlite
from smcp.stores.log import base

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS streams (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    stream INTEGER NOT NULL, position INTEGER NOT NULL, time REAL NOT NULL, expires REAL, data BLOB NOT NULL,
    PRIMARY KEY (stream, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_expires ON records (expires) WHERE expires IS NOT NULL;
"""
_ROWS: Final = 200
_TRIM_ROWS: Final = 2000
_PAGE: Final = 500
_MOST: Final = 2**63 - 1  # SQLite's largest integer


class SqliteLog(base.Log):
    """`base.Log` on the file `path`."""

    def __init__(self, path: Path, clock: clocks.Clock) -> None:
        """Open or make the file; raises `errors.Unavailable`, with the way out, when another process has it."""
        self._clock = clock
        self._tails: dict[bytes, set[asyncio.Event]] = {}
        self._database = sqlite.Database(path, _SCHEMA)

    async def append(
        self,
        stream: base.Stream,
        records: Sequence[bytes],
        *,
        ttl: float | None = None,
        expect: int | None = None,
    ) -> int:
        if not records:
            raise ValueError("nothing to append")
        if ttl is not None and not 0 < ttl < math.inf:
            raise ValueError("a time to live is a positive number of seconds")
        name = keys.encode(stream)
        return await self._database.write(
            lambda connection: self._append(connection, name, records, ttl, expect), lambda _: self._wake(name)
        )

    def _append(
        self,
        connection: sqlite3.Connection,
        name: bytes,
        records: Sequence[bytes],
        ttl: float | None,
        expect: int | None,
    ) -> int:
        row = connection.execute("SELECT id, last FROM streams WHERE name = ?", (name,)).fetchone()
        last: int = 0 if row is None else row[1]
        if expect is not None and expect != last:
            raise errors.Conflict(detail=f"the stream's last position is {last}, not {expect}")
        if row is None:
            stream = connection.execute("INSERT INTO streams (name, last) VALUES (?, 0)", (name,)).lastrowid
        else:
            stream = row[0]
        now = self._clock.now()
        expires = None if ttl is None else now + ttl
        # Many rows to a statement: for each one SQLite lets go of the interpreter's lock once, and while the event
        # loop is busy getting it back takes milliseconds.
        for start in range(0, len(records), _ROWS):
            rows = records[start : start + _ROWS]
            values: list[object] = []
            for count, data in enumerate(rows, last + start + 1):
                values += (stream, count, now, expires, data)
            places = ",".join(["(?, ?, ?, ?, ?)"] * len(rows))
            connection.execute(f"INSERT INTO records VALUES {places}", values)  # noqa: S608  question marks only
        connection.execute("UPDATE streams SET last = ? WHERE id = ?", (last + len(records), stream))
        return last + len(records)

    async def read(
        self, stream: base.Stream, *, after: int = 0, since: float | None = None, limit: int = 1000
    ) -> list[base.Record]:
        name = keys.encode(stream)

        def run(connection: sqlite3.Connection) -> list[base.Record]:
            rows = connection.execute(
                "SELECT position, time, data FROM records WHERE stream = (SELECT id FROM streams WHERE name = ?)"
                " AND position > ? AND time >= ? ORDER BY position LIMIT ?",
                (name, min(after, _MOST), -math.inf if since is None else since, max(0, limit)),
            ).fetchall()
            return [base.Record(*row) for row in rows]

        return await self._database.read(run)

    async def tail(self, stream: base.Stream, *, after: int = 0) -> AsyncIterator[base.Record]:
        name = keys.encode(stream)
        news = asyncio.Event()
        self._tails.setdefault(name, set()).add(news)
        try:
            while True:
                news.clear()
                records = await self.read(stream, after=after, limit=_PAGE)
                for record in records:
                    after = record.position
                    yield record
                if not records:
                    await news.wait()
        finally:
            events = self._tails[name]
            events.discard(news)
            if not events:
                del self._tails[name]

    def _wake(self, name: bytes) -> None:
        for event in self._tails.get(name, ()):
            event.set()

    async def last(self, stream: base.Stream) -> int:
        name = keys.encode(stream)

        def run(connection: sqlite3.Connection) -> int:
            row = connection.execute("SELECT last FROM streams WHERE name = ?", (name,)).fetchone()
            return 0 if row is None else row[0]

        return await self._database.read(run)

    async def streams(self, prefix: base.Stream) -> list[base.Stream]:
        low, high = keys.span(prefix)

        def run(connection: sqlite3.Connection) -> list[base.Stream]:
            rows = connection.execute(
                "SELECT name FROM streams WHERE name >= ? AND name < ?"
                " AND EXISTS (SELECT 1 FROM records WHERE stream = streams.id) ORDER BY name",
                (low, high),
            ).fetchall()
            return [keys.decode(row[0]) for row in rows]

        return await self._database.read(run)

    async def trim(self, *, now: float) -> int:
        def run(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT stream, position FROM records WHERE expires <= ? LIMIT ?", (now, _TRIM_ROWS)
            ).fetchall()
            connection.executemany("DELETE FROM records WHERE stream = ? AND position = ?", rows)
            return len(rows)

        total = 0
        while True:  # in pieces, so that appends wait for none of them long
            removed = await self._database.write(run)
            total += removed
            if removed < _TRIM_ROWS:
                return total

    async def shrink(self, stream: base.Stream, *, most: int) -> int:
        name = keys.encode(stream)

        def look(connection: sqlite3.Connection) -> tuple[int, int]:
            # One statement with one row: it adds up from the newest record on, and tells the newest that is too much.
            row = connection.execute(
                "SELECT COALESCE(MAX(position) FILTER (WHERE total > ?), 0),"
                " COALESCE(MAX(total) FILTER (WHERE total <= ?), 0) FROM ("
                "SELECT position, SUM(LENGTH(data)) OVER (ORDER BY position DESC) AS total FROM records"
                " WHERE stream = (SELECT id FROM streams WHERE name = ?))",
                (most, most, name),
            ).fetchone()
            return row[0], row[1]

        last, left = await self._database.read(look)

        def cut(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM records WHERE (stream, position) IN (SELECT stream, position FROM records WHERE"
                " stream = (SELECT id FROM streams WHERE name = ?) AND position <= ? ORDER BY position LIMIT ?)",
                (name, last, _TRIM_ROWS),
            ).rowcount

        while last and await self._database.write(cut) == _TRIM_ROWS:
            pass  # in pieces, so that appends wait for none of them long
        return left

    async def drop(self, prefix: base.Stream) -> None:
        low, high = keys.span(prefix)

        def run(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM records WHERE stream IN (SELECT id FROM streams WHERE name >= ? AND name < ?)",
                (low, high),
            )
            connection.execute("DELETE FROM streams WHERE name >= ? AND name < ?", (low, high))

        await self._database.write(run)

    def check(self) -> None:
        self._database.check()

    async def ping(self) -> None:
        await self._database.ping()

    async def close(self) -> None:
        await self._database.close()
        for events in self._tails.values():
            for event in events:
                event.set()  # a waiting tail reads once more and hears that the store is closed
