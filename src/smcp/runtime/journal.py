"""The journal: what each hosted server writes to stderr, and what the platform says about its copies.

Lines are gathered and written in batches into the tenant's own sealed log, bounded in length and in rate, so that a
server that floods its stderr costs it its own lines and nobody anything else.
"""

import asyncio
import collections
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from smcp.kernel import errors, ids, observe, redact
from smcp.runtime import driver
from smcp.stores import tenant as stores

_LINE: Final = 4096
_BATCH_S: Final = 0.2
_PER_SECOND: Final = 500
"""Lines that one server may write a second; more are counted and dropped."""
_OWN: Final = 100
"""As many more for what the platform itself says of a copy's life, so that no flood hides how it ended."""
_LIFE: Final = ("[smcp] started", "[smcp] ended", "[smcp] killed")
_WAITING: Final = 20_000
"""Lines that may wait to be written, over all servers."""

_Server = tuple[ids.TenantId, ids.ServerName]


class Line(NamedTuple):
    """A line of a server's journal."""

    position: int
    time: float
    text: str


class _Book:
    __slots__ = ("dropped", "lines", "second", "taken")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.second = 0
        self.taken = 0
        self.dropped = 0


class Journal:
    """Every server's lines on this node."""

    def __init__(self, store: stores.Store, log: observe.Logger, *, days: int) -> None:
        self._store = store
        self._log = log
        self._ttl = days * 86400.0
        self._books: collections.defaultdict[_Server, _Book] = collections.defaultdict(_Book)
        self._waiting = 0
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write_on(), name="journal")

    async def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._flush()

    def lines(self, spec: driver.Spec) -> driver.Lines:
        """The sink for one server."""
        server = (spec.tenant, spec.server)
        return lambda text: self._take(server, text)

    async def read(self, tenant: ids.TenantId, server: ids.ServerName, *, after: int, limit: int) -> list[Line]:
        """Up to `limit` lines behind position `after`."""
        await self._flush()
        records = await self._store.tenant(tenant).log.read(("journal", server), after=after, limit=limit)
        return [Line(one.position, one.time, redact.text(one.data.decode("utf-8", "replace"))) for one in records]

    async def tail(self, tenant: ids.TenantId, server: ids.ServerName, *, after: int) -> AsyncIterator[Line]:
        """The lines behind `after`, then each new one."""
        async for one in self._store.tenant(tenant).log.tail(("journal", server), after=after):
            yield Line(one.position, one.time, redact.text(one.data.decode("utf-8", "replace")))

    async def drop(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Remove everything that a deleted server wrote: a later one of that name begins with an empty journal."""
        book = self._books.pop((tenant, server), None)
        if book is not None:
            self._waiting -= len(book.lines)
        await self._store.tenant(tenant).log.drop(("journal", server))

    def _take(self, server: _Server, text: str) -> None:
        book = self._books[server]
        now = int(time.monotonic())
        if book.second != now:
            if book.dropped:
                book.lines.append(b"[smcp] %d lines were dropped: too many a second" % book.dropped)
                self._waiting += 1
            book.second, book.taken, book.dropped = now, 0, 0
        most = _PER_SECOND + _OWN if text.startswith(_LIFE) else _PER_SECOND
        if book.taken >= most or self._waiting >= _WAITING:
            book.dropped += 1
            return
        book.taken += 1
        book.lines.append(text.encode("utf-8", "replace")[:_LINE])
        self._waiting += 1

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(_BATCH_S)
            await self._flush()

    async def _flush(self) -> None:
        now = int(time.monotonic())
        for server, book in list(self._books.items()):
            # What was dropped is told with the next line; until then the book is kept.
            if not book.lines and not book.dropped and book.second < now - 1:
                del self._books[server]
        full = [(server, book) for server, book in self._books.items() if book.lines]
        for (tenant, server), book in full:
            lines, book.lines = book.lines, []
            self._waiting -= len(lines)
            try:
                await self._store.tenant(tenant).log.append(("journal", server), lines, ttl=self._ttl)
            except errors.SmcpError as error:
                # A full quota or a store that is away costs lines of a log, and must not cost the server.
                self._log.warning("journal lines lost", tenant=tenant, server=server, lines=len(lines), why=error.code)
