"""The journal: what each hosted server writes to stderr, and what the platform says about its copies.

Lines are gathered and written in batches into the tenant's own sealed log, bounded in length, in rate and in size, so
that a server that floods its stderr costs it its own lines and nobody anything else.
"""

import asyncio
import collections
import contextlib
import time
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
_LIFE: Final = ("[smcp] started", "[smcp] ended", "[smcp] killed", "[smcp] deployed", "[smcp] volume")
_WAITING: Final = 20_000
"""Lines that may wait to be written, over all servers."""

_RECORD: Final = 64
"""Bytes that are counted for a line beside its own: at least what sealing adds."""

_Server = tuple[ids.TenantId, ids.ServerName]


class Line(NamedTuple):
    """A line of a server's journal."""

    position: int
    time: float
    text: str


class _Book:
    __slots__ = ("dropped", "lines", "second", "taken", "writing")

    def __init__(self) -> None:
        self.writing = asyncio.Lock()
        """One batch after the other, or lines would change places."""
        self.lines: list[bytes] = []
        self.second = 0
        self.taken = 0
        self.dropped = 0


class Journal:
    """Every server's lines on this node."""

    def __init__(self, store: stores.Store, log: observe.Logger, *, days: int, most_bytes: int) -> None:
        """`most_bytes` bounds what is kept of one server."""
        self._store = store
        self._log = log
        self._ttl = days * 86400.0
        self._most = most_bytes
        self._sizes: dict[_Server, int] = {}
        """Bytes that are kept of a server, at most; known from its first batch on."""
        self._followers: collections.defaultdict[_Server, set[asyncio.Event]] = collections.defaultdict(set)
        self._hushed = False
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

    def note(self, tenant: ids.TenantId, server: ids.ServerName, text: str) -> None:
        """Something that the platform says about a server."""
        self._take((tenant, server), f"[smcp] {text}")

    async def read(
        self, tenant: ids.TenantId, server: ids.ServerName, *, after: int, limit: int, wait_s: float = 0.0
    ) -> list[Line]:
        """Up to `limit` lines behind position `after`.

        Where there is none, the first within `wait_s` seconds; none when nothing comes, or the platform stops.
        """
        key = (tenant, server)
        news = asyncio.Event()
        self._followers[key].add(news)
        deadline = time.monotonic() + wait_s
        try:
            while True:
                lines = await self._read(key, after, limit)
                left = deadline - time.monotonic()
                if lines or left <= 0 or self._hushed:
                    return lines
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), left)
                news.clear()
        finally:
            followers = self._followers[key]
            followers.discard(news)
            if not followers:
                del self._followers[key]

    async def _read(self, server: _Server, after: int, limit: int) -> list[Line]:
        if server in self._books:
            await self._write(server, self._books[server])
        records = await self._store.tenant(server[0]).log.read(("journal", server[1]), after=after, limit=limit)
        return [Line(one.position, one.time, redact.text(one.data.decode("utf-8", "replace"))) for one in records]

    def hush(self) -> None:
        """Let nobody wait for lines any more: the platform stops."""
        self._hushed = True
        for server in self._followers:
            self._wake(server)

    def _wake(self, server: _Server) -> None:
        for news in self._followers.get(server, ()):
            news.set()

    async def drop(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Remove everything that a deleted server wrote: a later one of that name begins with an empty journal."""
        book = self._books.get((tenant, server)) or _Book()
        async with book.writing:
            self._books.pop((tenant, server), None)
            self._waiting -= len(book.lines)
            book.lines.clear()
            self._sizes.pop((tenant, server), None)
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
        self._wake(server)

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(_BATCH_S)
            await self._flush()

    async def _flush(self) -> None:
        now = int(time.monotonic())
        for server, book in list(self._books.items()):
            # What was dropped is told with the next line; until then the book is kept.
            if not book.lines and not book.dropped and book.second < now - 1 and not book.writing.locked():
                del self._books[server]
        for server, book in [(server, book) for server, book in self._books.items() if book.lines]:
            await self._write(server, book)

    async def _write(self, server: _Server, book: _Book) -> None:
        async with book.writing:
            lines, book.lines = book.lines, []
            if not lines:
                return
            self._waiting -= len(lines)
            try:
                try:
                    lines = await self._make_room(server, lines)
                except asyncio.CancelledError:  # a reader that gave up: its lines are others' too
                    book.lines[:0] = lines
                    self._waiting += len(lines)
                    raise
                await self._store.tenant(server[0]).log.append(("journal", server[1]), lines, ttl=self._ttl)
            except errors.SmcpError as error:
                # A store that is away costs lines of a log, and must not cost the server.
                self._log.warning(
                    "journal lines lost", tenant=server[0], server=server[1], lines=len(lines), why=error.code
                )

    async def _make_room(self, server: _Server, lines: list[bytes]) -> list[bytes]:
        """Remove old lines until `lines` fit; returns them, or as many of the last as fit into half of all there is."""
        half = self._most // 2
        added = 0
        for number, line in enumerate(reversed(lines)):
            if added + len(line) + _RECORD > half:
                lines = lines[len(lines) - number :]
                break
            added += len(line) + _RECORD
        log, stream = self._store.tenant(server[0]).log, ("journal", server[1])
        if server not in self._sizes:
            self._sizes[server] = await log.shrink(stream, most=self._most)
        if self._sizes[server] + added > self._most:
            # More than is needed, so that it is not looked for with every batch.
            self._sizes[server] = await log.shrink(stream, most=min(self._most - added, self._most * 7 // 8))
        self._sizes[server] += added
        return lines
