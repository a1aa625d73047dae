"""How much one tenant may store: keys and bytes over its key-value pairs and objects, exact under concurrency.

Counted is what is stored: sealed values and objects, and their names. A write first reserves the most that it can
add, then the change that the storage reports says what it added in fact, so usage is never estimated. Where the
pessimistic reservation does not fit, the write waits until no other is under way and is computed exactly.

Logs are not counted: a tenant could otherwise fill its quota to act without a trail. They are bounded by their time
to live. And what replaces an existing key may use a small reserve that new keys can't, so that a tenant with a full
quota can still have an API key revoked.

Not counted either is what strangers cause, which has shares of its own (`shares`): a write that passes one is refused
at once, and nobody waits for it.
"""

import asyncio
import collections
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Sequence
from typing import Final, NamedTuple

from smcp.kernel import errors, ids
from smcp.stores import decided, keys, shares
from smcp.stores.kv import base as kv
from smcp.stores.objects import base as objects

_LARGEST_RESERVE: Final = 1024 * 1024
_COUNTED: Final = 100_000
"""Objects in one page when they are counted: each page may mean that all of them are listed."""


class Usage(NamedTuple):
    """What a tenant stores."""

    bytes: int
    keys: int


class Quota(NamedTuple):
    """What a tenant may store."""

    bytes: int
    keys: int


class Ledger:
    """One tenant's usage and limits. Lives as long as the tenant's handle."""

    def __init__(
        self, store: kv.KV, blobs: objects.Objects, tenant: ids.TenantId, quota: Callable[[], Quota] | None
    ) -> None:
        """`store` and `blobs` are the raw ones. `quota` is asked at every write: it may change; None: no limit."""
        self._store = store
        self._blobs = blobs
        self._tenant = tenant
        self._quota = quota
        self._bytes = self._keys = 0
        self._held_bytes = self._held_keys = 0
        self._theirs: collections.Counter[str] = collections.Counter()
        """Strangers' records by kind, with those that are being written."""
        self._changes = 0
        self._ready = False
        self._closed = False
        self._end_watch: Callable[[], None] | None = None
        self._loading = asyncio.Lock()
        self._gate = asyncio.Lock()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._names: dict[objects.Name, tuple[asyncio.Lock, list[int]]] = {}

    async def usage(self) -> Usage:
        """What is stored now."""
        await self.ready()
        return Usage(self._bytes, self._keys)

    async def ready(self) -> None:
        """Count once what is there; every change after that is reported by the storage."""
        if self._closed:
            raise errors.NotFound(detail=f"tenant {self._tenant} was erased")
        if self._ready:
            return
        async with self._loading:
            if self._ready:
                return
            if self._end_watch is None:
                self._end_watch = self._store.watch((self._tenant,), self._changed)
            blobs = await self._count_objects()
            while True:
                # No write passes before this is done, but expiry does; then the count is taken again.
                seen = self._changes
                size = await self._store.size((self._tenant,))
                theirs = await self._store.size((self._tenant, shares.SEGMENT))
                kinds = {
                    kind: (await self._store.size((self._tenant, *shares.prefix(kind)))).keys for kind in shares.SHARES
                }
                if seen == self._changes:
                    break
            self._bytes = size.bytes - theirs.bytes + blobs.bytes
            self._keys = size.keys - theirs.keys + blobs.keys
            self._theirs = collections.Counter(kinds)
            self._ready = True

    async def _count_objects(self) -> Usage:
        after: objects.Name | None = None
        total = count = 0
        while page := await self._blobs.list((self._tenant,), after=after, limit=_COUNTED):
            total += sum(info.size + len(keys.encode(info.name)) for info in page)
            count += len(page)
            after = page[-1].name
        return Usage(total, count)

    async def close(self) -> None:
        """Refuse further writes and wait for those under way: the tenant is being erased."""
        self._closed = True
        async with self._gate:
            await self._idle.wait()
        if self._end_watch is not None:
            self._end_watch()
            self._end_watch = None

    def _changed(self, change: kv.Change) -> None:
        self._changes += 1
        if change.key[1] == shares.SEGMENT:
            self._theirs[change.key[2]] += (change.value is not None) - (change.replaced is not None)
            return
        name = len(keys.encode(change.key))
        if change.value is not None:
            self._bytes += name + len(change.value)
            self._keys += 1
        if change.replaced is not None:
            self._bytes -= name + change.replaced
            self._keys -= 1

    # --- reserving ------------------------------------------------------------------------------------------

    def hold(self, more_keys: int, more_bytes: int, *, reserve: bool = False) -> bool:
        """Reserve; False when it does not fit. `reserve`: the reserve may be used."""
        if self._quota is not None:
            most = self._quota()
            spare = 0 if reserve else min(_LARGEST_RESERVE, most.bytes // 16)
            if more_bytes > 0 and self._bytes + self._held_bytes + more_bytes > most.bytes - spare:
                return False
            if more_keys > 0 and self._keys + self._held_keys + more_keys > most.keys:
                return False
        self._held_bytes += max(0, more_bytes)
        self._held_keys += max(0, more_keys)
        return True

    def let_go(self, more_keys: int, more_bytes: int) -> None:
        """Give a reservation back."""
        self._held_bytes -= max(0, more_bytes)
        self._held_keys -= max(0, more_keys)

    @contextlib.contextmanager
    def sharing(self, ops: Sequence[kv.Op]) -> Generator[None]:
        """While `ops` are written: place for what they add to the strangers' shares.

        Raises `errors.QuotaExceeded` when a share is full or a value is larger than one may be. What replaces another
        (`expect` says so) finds its place taken by that.
        """
        puts = [op for op in ops if isinstance(op, kv.Put) and op.key[1] == shares.SEGMENT]
        if any(len(op.value) > shares.SHARES[op.key[2]].bytes for op in puts):
            raise errors.QuotaExceeded(detail="a stranger's record is too large")
        more = collections.Counter(op.key[2] for op in puts if not op.expect)
        full = [kind for kind, count in more.items() if self._theirs[kind] + count > shares.SHARES[kind].records]
        if full:
            raise errors.QuotaExceeded(detail=f"strangers' share is full: {' '.join(full)}")
        self._theirs += more
        try:
            yield
        finally:
            # What was written was counted again when the storage told of it.
            self._theirs.subtract(more)

    def add_object(self, name: objects.Name, stored: int, sign: int) -> None:
        """Count an object that was stored (`sign` 1) or removed (-1)."""
        self._bytes += sign * (stored + len(keys.encode(name)))
        self._keys += sign

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncGenerator[None]:
        """A write that others may run beside."""
        while self._gate.locked():
            async with self._gate:
                pass
        self.enter()
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """A write beside which no other runs."""
        async with self._gate:
            await self._idle.wait()
            self.enter()
            yield

    def enter(self) -> None:
        """Raises `errors.NotFound` once the tenant is erased."""
        if self._closed:
            raise errors.NotFound(detail=f"tenant {self._tenant} was erased")

    @contextlib.asynccontextmanager
    async def naming(self, name: objects.Name) -> AsyncGenerator[None]:
        """Only one caller at a time changes an object, so that its size is counted once."""
        lock, users = self._names.setdefault(name, (asyncio.Lock(), [0]))
        users[0] += 1
        try:
            async with lock:
                self.enter()
                yield
        finally:
            users[0] -= 1
            if users[0] == 0:
                del self._names[name]


class QuotaKV(kv.KV):
    """The raw `inner`, with every write charged to `ledger`. Reads pass."""

    def __init__(self, inner: kv.KV, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    async def apply(self, ops: Sequence[kv.Op]) -> int:
        await self._ledger.ready()
        with self._ledger.sharing(ops):
            return await self._charged(ops, [op for op in ops if op.key[1] != shares.SEGMENT])

    async def _charged(self, ops: Sequence[kv.Op], own: Sequence[kv.Op]) -> int:
        """Write `ops`, of which `own` are charged."""
        ledger = self._ledger
        puts = [op for op in own if isinstance(op, kv.Put)]
        most = sum(_stored(op) for op in puts)
        async with ledger.writing():
            if ledger.hold(len(puts), most):
                try:
                    return await self._inner.apply(ops)
                finally:
                    ledger.let_go(len(puts), most)
        async with ledger.alone():
            more_keys, more_bytes = await self._exactly(own)
            if not ledger.hold(more_keys, more_bytes, reserve=more_keys <= 0):
                raise errors.QuotaExceeded
            try:
                return await self._inner.apply(ops)
            finally:
                ledger.let_go(more_keys, more_bytes)

    async def _exactly(self, ops: Sequence[kv.Op]) -> tuple[int, int]:
        """What `ops` add: never less than in fact. What expires may be gone by then, and counts as absent."""
        more_keys = more_bytes = 0
        for op in ops:
            old = await self._inner.get(op.key)
            if old is not None and old.expires is None:
                more_keys -= 1
                more_bytes -= len(keys.encode(op.key)) + len(old.value)
            if isinstance(op, kv.Put):
                more_keys += 1
                more_bytes += _stored(op)
        return more_keys, more_bytes

    async def get(self, key: kv.Key) -> kv.Entry | None:
        return await self._inner.get(key)

    async def scan(
        self, prefix: kv.Key, *, starts_with: str = "", after: kv.Key | None = None, limit: int = 1000
    ) -> list[kv.Entry]:
        return await self._inner.scan(prefix, starts_with=starts_with, after=after, limit=limit)

    async def size(self, prefix: kv.Key) -> kv.Size:
        return await self._inner.size(prefix)

    def watch(self, prefix: kv.Key, listener: kv.Listener) -> Callable[[], None]:
        return self._inner.watch(prefix, listener)

    def snapshot(self, prefix: kv.Key = ()) -> AsyncIterator[kv.Entry]:
        return self._inner.snapshot(prefix)

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        """Nothing: the storage belongs to whoever made it."""


def _stored(op: kv.Put) -> int:
    return len(keys.encode(op.key)) + len(op.value)


class QuotaObjects(objects.Objects):
    """The raw `inner`, with every object charged to `ledger`. Reads pass."""

    def __init__(self, inner: objects.Objects, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    async def put(self, name: objects.Name, data: AsyncIterable[bytes]) -> int:
        ledger = self._ledger
        await ledger.ready()
        held = len(keys.encode(name))

        async def charged() -> AsyncGenerator[bytes, None]:
            nonlocal held
            async for chunk in data:
                ledger.enter()
                if not ledger.hold(0, len(chunk)):
                    raise errors.QuotaExceeded
                held += len(chunk)
                yield chunk

        async with ledger.naming(name):
            if await self._inner.head(name) is not None:
                raise errors.Conflict
            if not ledger.hold(1, held):
                raise errors.QuotaExceeded
            try:
                stored = await self._inner.put(name, charged())
                ledger.add_object(name, stored, 1)
            except BaseException:
                # Cancelled, or failed, when the object may have had its name already: looked at before the place that
                # is held for it is given back.
                await decided.decided(self._settle(name, held))
                raise
            finally:
                ledger.let_go(1, held)
        return stored

    async def _settle(self, name: objects.Name, most: int) -> None:
        try:
            info = await self._inner.head(name)
        except errors.Unavailable:
            # Nobody can say: counted as if it were there, until the next start counts anew.
            self._ledger.add_object(name, most, 1)
            return
        if info is not None:
            self._ledger.add_object(name, info.size, 1)

    async def delete(self, name: objects.Name) -> None:
        await self._ledger.ready()
        await decided.decided(self._delete(name))

    async def _delete(self, name: objects.Name) -> None:
        async with self._ledger.naming(name):
            info = await self._inner.head(name)
            if info is not None:
                await self._inner.delete(name)
                self._ledger.add_object(name, info.size, -1)

    def get(self, name: objects.Name, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        return self._inner.get(name, start=start, end=end)

    async def head(self, name: objects.Name) -> objects.Info | None:
        return await self._inner.head(name)

    async def list(
        self, prefix: objects.Name, *, after: objects.Name | None = None, limit: int = 1000
    ) -> list[objects.Info]:
        return await self._inner.list(prefix, after=after, limit=limit)

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        """Nothing: the storage belongs to whoever made it."""
