"""The life of volumes: opened before a server's first copy, saved while copies run, closed behind the last.

A volume is a file system in memory that only its server's cells see. All copies of a server share it. What is kept is a
history of sealed snapshots; the newest fills the volume when it is opened. So a copy's end, a stop, a restart of the
platform lose nothing, and the sudden death of the platform or the machine loses what changed since the last snapshot.

Opening, saving, closing, restoring and deleting one volume wait for each other (`_Book.lock`). A volume whose last
state could not be stored stays open, in memory, and is tried again. A history that can't be read keeps the server from
starting: it is never begun anew over what was there.
"""

import asyncio
import contextlib
import hashlib
import itertools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Final

import msgspec

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe, settings
from smcp.sandbox import walls
from smcp.sandbox.volumes import frost, snapshots, tar
from smcp.stores import decided
from smcp.stores import tenant as stores

FREEZE_S: Final = 2.0
"""Longest time that a server is held still for a snapshot, which goes on without that after it."""

_TOGETHER: Final = 4
"""Snapshots that are taken or stored at once, of as many tenants."""
_ANYWAY: Final = 10
"""Without calls, every so many rounds: a server may write by itself."""
_LAST_TRIES: Final = 2
_MOVING: Final = "taken while the server ran"

Tell = Callable[[str], None]
"""Gets lines for the server's log."""
Stop = Callable[[], Awaitable[None]]
"""Ends every copy of the server."""


class VolumeSpec(msgspec.Struct, frozen=True):
    """The volume that a deployment asks for."""

    path: str
    """Where the server sees it."""
    size_bytes: int
    scratch: bool = False
    """For a copy that is only asked who it is: it gets the newest state, and what it makes of it is forgotten."""


class State(msgspec.Struct, frozen=True):
    """A volume as it is now."""

    open: bool
    """Whether it is in memory now."""
    size_bytes: int
    """Its size while it is open; 0 otherwise."""
    unsaved: str
    """Why its last state could not be stored, if so."""
    history: snapshots.History | None


class _Book:
    """One volume of this node."""

    def __init__(self, tenant: ids.TenantId, server: ids.ServerName, name: str) -> None:
        self.tenant = tenant
        self.server = server
        self.name = name
        """What the launcher calls it."""
        self.lock = asyncio.Lock()
        self.users = 0
        """Operations under way: the book is not thrown away."""
        self.wanted = 0
        """Copies that are just getting it: it is not closed."""
        self.holds: set[Hold] = set()
        self.open = False
        self.size = 0
        self.barred = ""
        """Why no copy may have it now."""
        self.doomed = False
        """It is being deleted: what is in it need not be stored."""
        self.spare = ""
        """The snapshot that is being restored: it is not dropped for a newer one."""
        self.stale = False
        """A copy ran since the newest snapshot began to be taken."""
        self.newest: snapshots.Snapshot | None = None
        self.unsaved = ""
        self.rounds = 0
        self.tell: Tell = _nobody
        self.keeper: asyncio.Task[None] | None = None

    @property
    def scratch(self) -> bool:
        """Nothing of it is kept."""
        return self.name != self.server


class Hold:
    """One copy's use of a volume. `released` must be called when the copy is gone, or did not start."""

    def __init__(self, book: _Book, volume: walls.Volume, released: "Callable[[Hold], None]") -> None:
        self.volume: Final = volume
        """For the copy's cell."""
        self.active = True
        """Set whenever the copy gets or says something: its volume may change."""
        self.child: tar.Child | None = None
        self._book = book
        self._released = released

    def started(self, child: tar.Child) -> None:
        """The copy runs: it is held still while a snapshot is taken."""
        self.child = child

    def release(self) -> None:
        """The copy is gone, all its processes. Idempotent; what follows happens in the background."""
        self._released(self)


class Volumes:
    """Every volume of this node."""

    def __init__(
        self,
        store: stores.Store,
        launcher: tar.Launcher,
        clock: clocks.Clock,
        config: settings.Settings,
        metrics: observe.Metrics,
        log: observe.Logger,
        *,
        freeze_s: float = FREEZE_S,
    ) -> None:
        self._config = config.volumes
        self._freeze_s = freeze_s
        self._store = store
        self._snapshots = snapshots.Snapshots(store, config.volumes.keep)
        self._launcher = launcher
        self._tar = tar.Tar(launcher, config.sandbox)
        self._clock = clock
        self._log = log
        self._books: dict[tuple[ids.TenantId, str], _Book] = {}
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(_TOGETHER)
        self._turns: weakref.WeakValueDictionary[ids.TenantId, asyncio.Lock] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._counts = {
            outcome: metrics.counter(observe.Metric.VOLUME_SNAPSHOTS, outcome=outcome)
            for outcome in ("stored", "unchanged", "failed")
        }
        metrics.watch(observe.Metric.VOLUMES, lambda: float(sum(one.open for one in self._books.values())))

    # --- for copies -----------------------------------------------------------------------------------------

    async def acquire(self, tenant: ids.TenantId, server: ids.ServerName, spec: VolumeSpec, tell: Tell) -> Hold:
        """The volume for one copy that is about to start, opened and filled if it was not.

        Raises `errors.InvalidParams` or `errors.QuotaExceeded` for a size that is not to be had, `errors.TamperedData`
        and `errors.ServerFailed` when its last state can't be restored, `errors.Unavailable`.
        """
        if spec.size_bytes > self._config.max_bytes:
            raise errors.InvalidParams(
                f"The manifest's volume is larger than volumes.max_bytes ({self._config.max_bytes} bytes) allows."
            )
        name = f"{server}--probe-{next(self._numbers)}" if spec.scratch else server
        with self._using(tenant, server, name) as book:
            book.wanted += 1
            try:
                # To its end also when nobody waits any more: half opened, it would be nobody's.
                await decided.decided(self._open(book, spec.size_bytes, tell))
                self._admit(book)
                if not book.open:
                    raise errors.Unavailable("The server's volume was just closed. Retry.")
                hold = Hold(book, walls.Volume(name, spec.path), self._released)
                book.holds.add(hold)
                book.stale = True
                return hold
            finally:
                book.wanted -= 1
                if not book.holds:
                    self._background(self._settle(book))

    def _admit(self, book: _Book) -> None:
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        if book.barred:
            raise errors.Unavailable(book.barred)

    def _released(self, hold: Hold) -> None:
        book = hold._book  # pyright: ignore[reportPrivateUsage] - one pair of classes, one file
        if hold in book.holds:
            book.holds.discard(hold)
            if not book.holds:
                self._background(self._settle(book))

    # --- for people -----------------------------------------------------------------------------------------

    async def state(self, tenant: ids.TenantId, server: ids.ServerName) -> State:
        """The volume as it is now."""
        book = self._books.get((tenant, server))
        history = await self._snapshots.history(tenant, server)
        if book is None:
            return State(open=False, size_bytes=0, unsaved="", history=history)
        return State(book.open, book.size, book.unsaved, history)

    async def snapshot(self, tenant: ids.TenantId, server: ids.ServerName) -> snapshots.Snapshot:
        """The newest snapshot, taken now if anything changed since the last one.

        Raises `errors.NotFound` for a volume that never held anything, and what storing raises.
        """
        with self._using(tenant, server, server) as book:
            return await decided.decided(self._snapshot_now(book))

    async def _snapshot_now(self, book: _Book) -> snapshots.Snapshot:
        async with book.lock:
            if book.open:
                await self._save(book, "asked for")
            history = await self._snapshots.history(book.tenant, book.server)
            if history is None or history.newest is None:
                raise errors.NotFound("The server has no volume, or nothing was ever kept of it.")
            return history.newest

    async def restore(
        self, tenant: ids.TenantId, server: ids.ServerName, snapshot: str, stop: Stop
    ) -> snapshots.Snapshot:
        """End the server's copies and go back to an earlier state, as the newest of the history.

        What was there is stored before, as ever. Raises `errors.NotFound`, `errors.TamperedData` when that snapshot is
        damaged, `errors.Conflict` when somebody else restores or deletes, and what storing raises. Then nothing has
        changed.
        """
        with self._using(tenant, server, server) as book, self._barred(book, "The server's volume is being restored."):
            book.spare = snapshot
            try:
                await stop()
                return await decided.decided(self._restore(book, snapshot))
            finally:
                book.spare = ""

    async def _restore(self, book: _Book, snapshot: str) -> snapshots.Snapshot:
        async with book.lock:
            history = await self._snapshots.history(book.tenant, book.server) or snapshots.History()
            found = history.find(snapshot)
            async for _ in self._snapshots.read(book.tenant, book.server, found):
                pass  # damaged is told now, not at the next start
            await self._close(book)
            now = self._clock.now()
            made = msgspec.structs.replace(found, id=ids.new("snap"), time=now, note=f"restored from {found.id}")
            await self._snapshots.add(book.tenant, book.server, made)
            return made

    async def delete(self, tenant: ids.TenantId, server: ids.ServerName, stop: Stop) -> bool:
        """End the server's copies and remove its volume with its history; whether there was anything.

        Raises `errors.Conflict` when somebody else restores or deletes it.
        """
        with self._using(tenant, server, server) as book, self._barred(book, "The server's volume is being deleted."):
            book.doomed = True
            try:
                await stop()
                return await decided.decided(self._discard(book))
            finally:
                book.doomed = False

    async def _discard(self, book: _Book) -> bool:
        async with book.lock:
            await self._close(book)
            there = await self._snapshots.history(book.tenant, book.server) is not None
            await self._snapshots.discard(book.tenant, book.server)
            return there

    async def close(self) -> None:
        """Store what is not stored yet, and close. Every copy has ended before. Idempotent."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await asyncio.gather(*(self._end(book) for book in list(self._books.values())))
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _end(self, book: _Book) -> None:
        async with book.lock:
            if not book.open:
                return
            book.holds.clear()
            for _ in range(_LAST_TRIES):
                with contextlib.suppress(errors.SmcpError):
                    await self._close(book)
                    return
            self._log.error("a volume's last state is lost", tenant=book.tenant, server=book.server, why=book.unsaved)
            await self._shut(book)

    # --- opening and closing; hold the book's lock ----------------------------------------------------------

    async def _open(self, book: _Book, size: int, tell: Tell) -> None:
        async with book.lock:
            self._admit(book)
            book.tell = tell
            if book.open:
                return
            others = sum(one.size for one in self._books.values() if one.tenant == book.tenant)
            if others + size > self._config.tenant_bytes:
                raise errors.QuotaExceeded(
                    "The volumes of the tenant's running servers would take more memory than volumes.tenant_bytes."
                )
            book.size = size
            try:
                history = await self._history(book)
                await self._launcher.open_volume(book.tenant, book.name, size)
                book.open = True
                if history.newest is not None:
                    data = self._snapshots.read(book.tenant, book.server, history.newest)
                    await self._tar.unpack(book.tenant, book.name, size, data)
            except BaseException as error:
                tell(f"[smcp] volume: not opened: {error}")
                await self._shut(book)
                raise
            book.newest, book.stale, book.unsaved, book.rounds = history.newest, False, "", 0
            if not book.scratch:
                book.keeper = asyncio.create_task(self._keep(book), name=f"volume {book.tenant}/{book.server}")

    async def _history(self, book: _Book) -> snapshots.History:
        if book.scratch:
            # Only read: the server's own book may be storing something just now.
            return await self._snapshots.history(book.tenant, book.server) or snapshots.History()
        return await self._snapshots.begin(book.tenant, book.server)

    async def _settle(self, book: _Book) -> None:
        """Store and close a volume that no copy uses any more. A failure is told, and tried again by `_keep`."""
        async with book.lock:
            if book.open and not book.holds and not book.wanted:
                with contextlib.suppress(errors.SmcpError):
                    await self._close(book)
        self._tidy(book)

    async def _close(self, book: _Book) -> None:
        """Store an unused volume's last state, and close it unless a copy came meanwhile. Raises as `_save`."""
        if not book.open:
            return
        if book.holds and book.barred:
            raise errors.Unavailable("A copy of the server still runs, although it was told to end. Retry.")
        if book.stale and not book.doomed and not book.scratch and self._store.knows(book.tenant):
            await self._save(book)
        if book.barred or self._closed or not (book.holds or book.wanted):
            await self._shut(book)

    async def _shut(self, book: _Book) -> None:
        was_open, book.open, book.size, book.stale = book.open, False, 0, False
        if book.keeper is not None:
            book.keeper.cancel()
        book.keeper = None
        if was_open:
            # A launcher that is gone took every volume with it.
            with contextlib.suppress(errors.SmcpError, OSError):
                await self._launcher.close_volume(book.tenant, book.name)

    # --- saving ---------------------------------------------------------------------------------------------

    async def _keep(self, book: _Book) -> None:
        """Save an open volume on a schedule."""
        quiet = 0
        while book.keeper is asyncio.current_task():
            await asyncio.sleep(self._config.snapshot_s)
            if not book.holds:
                await decided.decided(self._settle(book))
                continue
            active = any(hold.active for hold in book.holds)
            for hold in book.holds:
                hold.active = False
            # Once more behind the last call: what it began may have been written since.
            quiet = 0 if active else quiet + 1
            if quiet < 2 or quiet % _ANYWAY == 0 or book.unsaved:
                await decided.decided(self._save_scheduled(book))

    async def _save_scheduled(self, book: _Book) -> None:
        async with book.lock:
            if book.open and book.holds:
                with contextlib.suppress(errors.SmcpError):
                    await self._save(book)

    async def _save(self, book: _Book, note: str = "") -> None:
        """Take and store a snapshot, unless nothing changed. Raises what kept it from being stored."""
        try:
            # The tenant's own turn first: its many volumes wait for each other, not the others for them.
            async with self._turns.setdefault(book.tenant, asyncio.Lock()), self._slots:
                outcome = await self._take(book, note)
        except Exception as error:
            # Whatever it was: the state is still there, is tried again, and nobody loses it without being told.
            known = error if isinstance(error, errors.SmcpError) else errors.Unavailable(detail=repr(error))
            book.stale, book.unsaved = True, known.public
            self._counts["failed"].inc()
            book.tell(
                f"[smcp] volume: not stored, and kept in memory until it is: {known.public} {known.detail}".rstrip()
            )
            self._log.warning("volume not stored", tenant=book.tenant, server=book.server, why=known.public)
            raise known from error
        book.unsaved = ""
        self._counts[outcome].inc()

    async def _take(self, book: _Book, note: str) -> str:
        """`stored` or `unchanged`."""
        # Before anything is read: a copy that runs now may write behind our look, also when it has ended by then.
        book.stale = bool(book.holds)
        snapshot, digest, size, taken = ids.new("snap"), hashlib.sha256(), 0, self._clock.now()
        async with (
            frost.Frost([hold.child for hold in book.holds], self._freeze_s) as still,
            self._tar.packing(book.tenant, book.name, book.size) as packing,
        ):

            async def content() -> AsyncIterator[bytes]:
                nonlocal size
                async for chunk in packing.chunks():
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
                await still.thaw()
                if book.newest is not None and digest.hexdigest() == book.newest.digest:
                    raise _Unchanged

            try:
                await self._snapshots.put(book.tenant, book.server, snapshot, content())
            except _Unchanged:
                return "unchanged"
        notes = [note, _MOVING if still.failed or packing.torn else "", _left_out(packing.unread)]
        made = snapshots.Snapshot(
            id=snapshot,
            object=snapshot,
            time=taken,
            bytes=size,
            digest=digest.hexdigest(),
            note="; ".join(filter(None, notes)),
        )
        await self._snapshots.add(book.tenant, book.server, made, spare=book.spare)
        book.newest = made
        if packing.unread:
            book.tell(f"[smcp] volume: {_left_out(packing.unread)}: {' / '.join(packing.unread)}")
        return "stored"

    # --- bookkeeping ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _using(self, tenant: ids.TenantId, server: ids.ServerName, name: str) -> Generator[_Book]:
        book = self._books.get((tenant, name))
        if book is None:
            book = self._books[tenant, name] = _Book(tenant, server, name)
        book.users += 1
        try:
            yield book
        finally:
            book.users -= 1
            self._tidy(book)

    def _tidy(self, book: _Book) -> None:
        key = (book.tenant, book.name)
        # A task that waited for the lock may still have a book that was thrown away, and made anew, meanwhile.
        if self._books.get(key) is book and not (book.users or book.open or book.holds or book.lock.locked()):
            del self._books[key]

    @contextlib.contextmanager
    def _barred(self, book: _Book, why: str) -> Generator[None]:
        if book.barred:
            raise errors.Conflict(book.barred)
        book.barred = f"{why} Retry shortly."
        try:
            yield
        finally:
            book.barred = ""

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Unchanged(Exception):
    """The content is what the newest snapshot holds."""


def _left_out(unread: tuple[str, ...]) -> str:
    return "without what the server itself may not read" if unread else ""


def _nobody(_line: str) -> None:
    """Before anybody listens."""
