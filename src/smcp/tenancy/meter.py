"""Who used what: counted in memory, durable a second later, kept by the hour.

`Meter.call` and `Meter.used` only add to a row in memory: they cost about half a microsecond, never raise and never
wait. Once a second the rows of each tenant become a batch in its log; every ten seconds batches are folded (`usage`).

When the process dies, what was counted in its last two seconds may be lost, if the store answered until then; nothing
else is, and nothing is ever counted twice. While the store is away the rows stay in memory, merged and bounded, and
`waiting` tells how old the oldest one is.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe
from smcp.stores import tenant as stores
from smcp.tenancy import tenants, usage

COMMIT_S: Final = 1.0
LOSS_S: Final = 2.0
"""What was counted longer than this before a crash is there: a second until the commit, and one for it."""
LATE_S: Final = 10.0
"""When something waits longer than this, `check` raises."""
FOLD_S: Final = 10.0
STORAGE_S: Final = 300.0
ROWS: Final = 10_000
"""Rows of one second, over all tenants; further principals count for `usage.OTHER`."""
WAITING: Final = 1000
"""Rows of one tenant that may wait while the store is away; further principals count for `usage.OTHER`."""

_BATCH: Final = 500
_TOGETHER: Final = 16
_SETTLE: Final = 10_000
_CONFLICTS: Final = 5

_Key = tuple[ids.TenantId, str, str]


class _Book:
    """One tenant's rows on their way into its log."""

    __slots__ = ("accounts", "batch", "batch_since", "failed", "folding", "lines", "since", "unfolded", "writing")

    def __init__(self, accounts: usage.Accounts) -> None:
        self.accounts = accounts
        self.lines: dict[usage.Where, usage.Sums] = {}
        self.since = 0.0
        """When the oldest of the lines was counted (monotonic)."""
        self.batch = b""
        """What is being appended, or was with an unknown outcome: it goes as it is, or would be counted twice."""
        self.batch_since = 0.0
        self.failed = ""
        self.unfolded = True
        self.writing = asyncio.Lock()
        self.folding = asyncio.Lock()

    def add(self, where: usage.Where, sums: usage.Sums, since: float) -> None:
        """Keep a row until it is written."""
        if not self.lines:
            self.since = since
        known = self.lines.get(where)
        if known is None:
            if len(self.lines) >= WAITING:
                where = (where[0], where[1] if len(self.lines) < 2 * WAITING else usage.OTHER, usage.OTHER)
            known = self.lines.setdefault(where, usage.Sums())
        known.add(sums)

    @property
    def busy(self) -> bool:
        """Has it anything that is not durable?"""
        return bool(self.lines or self.batch)

    @property
    def oldest(self) -> float:
        """When the oldest of that was counted."""
        return self.batch_since if self.batch else self.since


class Meter:
    """Every tenant's usage, as one node counts it."""

    def __init__(
        self,
        store: stores.Store,
        owners: tenants.Tenants,
        clock: clocks.Clock,
        metrics: observe.Metrics,
        log: observe.Logger,
        *,
        node: str,
        days: int,
    ) -> None:
        """`node` is unique among the nodes. Hours end after `days`."""
        self._store = store
        self._owners = owners
        self._clock = clock
        self._log = log
        self._node = node
        self._days = days
        self._start = ids.new("start")
        self._number = 0
        self._rows: dict[_Key, usage.Sums] = {}
        self._since = 0.0
        self._hour = _hour(clock.now())
        self._books: dict[ids.TenantId, _Book] = {}
        self._weighed: float | None = None
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failures = {
            step: metrics.counter(observe.Metric.USAGE_FAILURES, step=step) for step in ("commit", "fold")
        }
        metrics.watch(observe.Metric.USAGE_WAITING, self.waiting)

    # --- counting ---

    def call(
        self, tenant: ids.TenantId, server: str, principal: str, *, failed: bool, received: int, sent: int
    ) -> None:
        """One request is over: `received` and `sent` are bytes of bodies. `server` is empty where there is none."""
        sums = self._rows.get((tenant, server, principal))
        if sums is None:
            sums = self._new((tenant, server, principal))
        sums.calls += 1
        if failed:
            sums.errors += 1
        sums.received += received
        sums.sent += sent

    def used(self, tenant: ids.TenantId, server: str, principal: str, more: usage.Sums) -> None:
        """Add `more`; `server` and `principal` are empty where it belongs to no one of them."""
        sums = self._rows.get((tenant, server, principal))
        if sums is None:
            sums = self._new((tenant, server, principal))
        sums.add(more)

    def _new(self, key: _Key) -> usage.Sums:
        rows = self._rows
        if not rows:
            self._since = self._clock.monotonic()
        if len(rows) >= ROWS:
            key = (key[0], key[1] if len(rows) < 2 * ROWS else usage.OTHER, usage.OTHER)
        return rows.setdefault(key, usage.Sums())

    def waiting(self) -> float:
        """Age in seconds of the oldest number that is in memory only; 0 when there is none."""
        oldest = [book.oldest for book in self._books.values() if book.busy]
        if self._rows:
            oldest.append(self._since)
        return self._clock.monotonic() - min(oldest) if oldest else 0.0

    def check(self) -> None:
        """Raises `errors.Unavailable` when something waits for longer than `LATE_S`."""
        if self.waiting() > LATE_S:
            raise errors.Unavailable(detail="usage can't be written")

    def now(self) -> float:
        """Its time, epoch seconds: the one that hours are of."""
        return self._clock.now()

    # --- life ---

    async def start(self) -> None:
        """Begin to write and to fold; what an earlier process left first."""
        self._tasks = [
            asyncio.create_task(work, name=f"usage {name}")
            for name, work in (("ticks", self._tick()), ("commits", self._write_on()), ("folds", self._fold_on()))
        ]

    async def close(self) -> None:
        """Write what was counted, and stop. What the store does not take is lost, and told."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.commit()
        left = [book.accounts.tenant for book in self._books.values() if book.busy]
        if left:
            self._log.error("usage lost: it could not be written before the end", tenants=len(left))

    async def _tick(self) -> None:
        while True:
            # Not over the end of the hour: what was counted by then belongs to that one.
            await asyncio.sleep(max(0.001, min(COMMIT_S, usage.HOUR_S - self._clock.now() % usage.HOUR_S)))
            self._cut()
            self._work.set()

    async def _write_on(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            await self._flush_all()

    async def _fold_on(self) -> None:
        with contextlib.suppress(errors.Unavailable):  # who is asked about is folded then
            async for tenant in self._every():
                self._open(tenant)
        while True:
            for book in [book for book in self._books.values() if book.unfolded]:
                try:
                    await self._fold(book)
                except (errors.SmcpError, OSError) as error:
                    self._forget(book, error)
                    self._failures["fold"].inc()
                    self._log.warning("usage not folded", tenant=book.accounts.tenant, why=str(error))
            if self._weighed is None or self._clock.monotonic() - self._weighed >= STORAGE_S:
                await self.weigh()
            await asyncio.sleep(FOLD_S)

    # --- writing ---

    async def commit(self) -> None:
        """Make everything durable that was counted so far; what the store does not take keeps waiting."""
        self._cut()
        await self._flush_all()

    def _cut(self) -> None:
        rows, self._rows = self._rows, {}
        hour, self._hour = self._hour, _hour(self._clock.now())
        for (tenant, server, principal), sums in rows.items():
            book = self._open(tenant)
            if book is not None:
                book.add((hour, server, principal), sums, self._since)

    def _open(self, tenant: ids.TenantId) -> _Book | None:
        """The tenant's book; None when the tenant has no storage (any more), and so no usage."""
        book = self._books.get(tenant)
        try:
            if book is not None:
                book.accounts.require()
                return book
        except errors.NotFound:
            del self._books[tenant]
        with contextlib.suppress(errors.NotFound):
            made = self._books[tenant] = _Book(usage.Accounts(self._store, tenant, days=self._days))
            return made
        return None

    async def _flush_all(self) -> None:
        busy = [book for book in self._books.values() if book.busy]
        for start in range(0, len(busy), _TOGETHER):
            await asyncio.gather(*(self._tried(book) for book in busy[start : start + _TOGETHER]))

    async def _tried(self, book: _Book) -> None:
        try:
            await self._flush(book)
        except (errors.SmcpError, OSError) as error:
            self._forget(book, error)
            self._failures["commit"].inc()
            if not book.failed:
                self._log.warning("usage not written, tried again", tenant=book.accounts.tenant, why=str(error))
            book.failed = str(error)

    async def _flush(self, book: _Book) -> None:
        async with book.writing:
            while book.busy:
                if not book.batch:
                    self._make(book)
                await book.accounts.append(book.batch)
                book.batch = b""
                book.unfolded = True
        book.failed = ""

    def _make(self, book: _Book) -> None:
        taken = list(book.lines)[:_BATCH]
        lines = [usage.Line(*where, book.lines.pop(where)) for where in taken]
        self._number += 1
        book.batch = msgspec.msgpack.encode(usage.Batch(self._node, self._start, self._number, lines))
        book.batch_since = book.since

    def _forget(self, book: _Book, error: Exception) -> None:
        """An erased tenant has no usage; a namesake begins anew."""
        tenant = book.accounts.tenant
        if isinstance(error, errors.NotFound) and self._books.get(tenant) is book:
            del self._books[tenant]

    # --- folding and reading ---

    async def _fold(self, book: _Book) -> None:
        async with book.folding:
            damaged, conflicts = book.accounts.damaged, 0
            book.unfolded = False
            try:
                for _ in range(_SETTLE):
                    try:
                        if not await book.accounts.fold():
                            break
                    except errors.Conflict:  # another node's fold came first
                        conflicts += 1
                        if conflicts > _CONFLICTS:
                            raise
                await book.accounts.shrink()
            except BaseException:
                book.unfolded = True
                raise
            if book.accounts.damaged > damaged:
                self._log.error("batches of usage were changed or moved", tenant=book.accounts.tenant)

    async def lines(self, tenant: ids.TenantId, first: int, end: int) -> AsyncGenerator[usage.Line]:
        """What `tenant` used from the hour `first` up to, and without, `end`; with all that this node has counted.

        Raises `errors.Unavailable`, `errors.NotFound`, `errors.TamperedData`.
        """
        self._cut()
        book = self._open(tenant)
        if book is None:
            raise errors.NotFound
        await self._flush(book)
        await self._fold(book)
        async for line in book.accounts.lines(first, end):
            yield line

    # --- storage ---

    async def _every(self) -> AsyncGenerator[ids.TenantId]:
        after: str | None = None
        while page := await self._owners.list(after):
            for tenant in page:
                yield tenant.id
            after = page[-1].id

    async def weigh(self) -> None:
        """Count what every tenant stores, for the time since it was counted last."""
        now, before = self._clock.monotonic(), self._weighed
        self._weighed = now
        with contextlib.suppress(errors.SmcpError, OSError):  # the store is away: this time is not counted
            async for tenant in self._every():
                if before is not None and self._store.knows(tenant):
                    try:
                        stored = (await self._store.tenant(tenant).usage()).bytes
                    except errors.NotFound:  # erased just now: the others are counted all the same
                        continue
                    self.used(tenant, "", "", usage.Sums(storage_byte_s=round(stored * (now - before))))


def _hour(now: float) -> int:
    return int(now // usage.HOUR_S)
