"""A tenant's namespaces of Workers KV: keys with a value, metadata and an end, below the limits of Cloudflare's.

A key's record holds what it has: a small value itself, a larger one by the name of a second record that is written and
removed in the same transaction, a large one by the name of an object. So value and metadata are never torn, and who
has written reads what he wrote.

A large value is on record (`_BLOB`) before its first byte is stored, and until its last one is gone. Whatever ends in
between, a write that failed, a process that was killed, a key whose time is up, leaves a record that no key leads to:
`sweep` finds it and removes the object.
"""

import asyncio
import contextlib
import secrets
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Final

import msgspec

from smcp.kernel import errors, ids
from smcp.stores import decided, kvrules
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

INLINE: Final = 1024
"""Bytes of a value that is kept in the key's own record: lists read those records, a thousand at a time."""
BESIDE: Final = 131_072
"""Bytes of a value that is kept in a record beside; what is larger is an object."""
LARGE_AT_ONCE: Final = 4
"""Large values of one tenant that are written at once: each has some megabytes in memory."""

_KEYS: Final = "worker-kv"
_VALUES: Final = "worker-kv-value"
_BLOB: Final = "worker-kv-blob"
_PAGE: Final = 250
_ATTEMPTS: Final = 100
_WAIT_S: Final = 30.0
_SWEEP_S: Final = 600.0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a key has."""

    size: int
    body: "bytes | Chunks"
    """The value; `Chunks` for a large one, which must be read or closed."""
    metadata: str | None
    """JSON text."""
    expires: int | None
    """Epoch seconds."""

    async def read(self) -> bytes:
        """The whole value."""
        if isinstance(self.body, bytes):
            return self.body
        return b"".join([chunk async for chunk in self.body])

    async def close(self) -> None:
        """Without reading it."""
        if not isinstance(self.body, bytes):
            await self.body.aclose()


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A key in a list."""

    name: str
    size: int
    metadata: str | None
    expires: int | None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Keys in the order of their UTF-8 bytes."""

    keys: list[Listed]
    cursor: str | None
    """Continues behind them; None when there are no more."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace holds: keys, and the bytes of their values."""

    keys: int
    bytes: int


class _Key(msgspec.Struct, frozen=True, array_like=True):
    """As stored."""

    size: int
    value: bytes | None
    beside: str
    blob: str
    metadata: str | None
    expires: int | None

    def __repr__(self) -> str:
        return f"_Key({self.size})"


class _Blob(msgspec.Struct, frozen=True, array_like=True):
    """Whose value an object is, or was meant to be."""

    namespace: str
    key: str


class Chunks:
    """A large value as it is read. It stays what it was while it is read, whoever writes the key meanwhile."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], pin: "_Pin") -> None:
        self._first: bytes | None = first
        self._rest = rest
        self._pin = pin

    def __aiter__(self) -> "Chunks":
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return await anext(self._rest)
        except BaseException:
            await self._pin.release()
            raise

    async def aclose(self) -> None:
        """Read no more of it. May be called again."""
        close = getattr(self._rest, "aclose", None)
        if close is not None:
            await close()
        await self._pin.release()


class _Pin:
    """An object that is being read: it is not removed before."""

    def __init__(self, owner: "Namespaces", tenant: ids.TenantId, blob: str) -> None:
        self._owner: Namespaces | None = owner
        self._tenant = tenant
        self._blob = blob
        owner.reading[blob] += 1

    async def release(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        owner.reading[self._blob] -= 1
        if owner.reading[self._blob] == 0:
            del owner.reading[self._blob]
            if self._blob in owner.doomed:
                owner.doomed.discard(self._blob)
                await owner.collect(self._tenant, self._blob)


class Namespaces:
    """Every tenant's namespaces. One process has the store, so what is under way in it is known here."""

    def __init__(self, store: stores.Store, damaged: Callable[[ids.TenantId, str], None] | None = None) -> None:
        """`damaged`: told of a tenant whose large values can't be swept because a record of them does not open."""
        self._store = store
        self._damaged = damaged
        self._encoder = msgspec.msgpack.Encoder()
        self._keys = msgspec.msgpack.Decoder(_Key)
        self._blobs = msgspec.msgpack.Decoder(_Blob)
        self._turns: weakref.WeakValueDictionary[tuple[str, ...], asyncio.Lock] = weakref.WeakValueDictionary()
        self._large: weakref.WeakValueDictionary[ids.TenantId, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._writing: set[str] = set()
        self.reading: Counter[str] = Counter()
        self.doomed: set[str] = set()
        """Objects that nobody needs but who reads them now."""
        self._sweeper: asyncio.Task[None] | None = None

    def now(self) -> float:
        """The time that ends are measured with, epoch seconds."""
        return self._store.now()

    def start(self) -> None:
        """Remove from now on, in the background, what nothing leads to."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever(), name="kv namespaces' sweep")

    async def close(self) -> None:
        """End that. May be called again."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None

    # --- reading --------------------------------------------------------------------------------------------

    async def get(self, tenant: ids.TenantId, namespace: str, key: str) -> Found | None:
        """What the key has, if anything. Raises `errors.InvalidParams` for what can't be a key."""
        handle = self._store.tenant(tenant)
        place = (_KEYS, namespace, kvrules.checked(key))
        for _ in range(_ATTEMPTS):
            entry = await handle.kv.get(place)
            if entry is None:
                return None
            held = self._read(entry)
            body = held.value
            if body is None:
                body = await (self._beside(handle, held) if held.beside else self._chunks(handle, held))
            if body is not None:
                return Found(size=held.size, body=body, metadata=held.metadata, expires=held.expires)
            # It was replaced between the two reads: the key leads somewhere else by now.
        raise errors.Unavailable(detail="a key was replaced again and again while it was read")

    async def _beside(self, handle: stores.Handle, held: _Key) -> bytes | None:
        entry = await handle.kv.get((_VALUES, held.beside))
        return None if entry is None else entry.value

    async def _chunks(self, handle: stores.Handle, held: _Key) -> Chunks | None:
        pin = _Pin(self, handle.tenant, held.blob)
        rest = aiter(handle.objects.get((_KEYS, held.blob)))
        try:
            return Chunks(await anext(rest), rest, pin)
        except errors.NotFound:
            await pin.release()
            return None
        except BaseException:
            await pin.release()
            raise

    async def list(
        self, tenant: ids.TenantId, namespace: str, *, prefix: str = "", cursor: str = "", limit: int = kvrules.MAX_LIST
    ) -> Page:
        """Up to `limit` keys that begin with `prefix`, behind what `cursor` was given for.

        Raises `errors.InvalidParams`, also for a cursor of another tenant, namespace or prefix.
        """
        if not 1 <= limit <= kvrules.MAX_LIST:
            raise errors.InvalidParams(f"A list has 1 to {kvrules.MAX_LIST} keys.")
        if prefix:
            kvrules.encoded(prefix)
        cursors = kvrules.Cursors(self._store.ring.data_key(tenant, kvrules.CURSOR), namespace, prefix)
        after = cursors.opened(cursor) if cursor else None
        found: list[Listed] = []
        while len(found) <= limit:
            entries = await self._scan(tenant, namespace, prefix, after, min(_PAGE, limit + 1 - len(found)))
            if not entries:
                return Page(keys=found, cursor=None)
            for entry in entries:
                held = self._read(entry)
                found.append(Listed(name=entry.key[2], size=held.size, metadata=held.metadata, expires=held.expires))
            after = found[-1].name
        del found[limit:]
        return Page(keys=found, cursor=cursors.sealed(found[-1].name))

    async def names(self, tenant: ids.TenantId, *, after: str = "", limit: int = kvrules.MAX_LIST) -> "list[str]":
        """The tenant's namespaces that hold something, by name."""
        handle, found = self._store.tenant(tenant), list[str]()
        place: kv.Key | None = _behind(after) if after else None
        while len(found) < limit:
            entries = await handle.kv.scan((_KEYS,), after=place, limit=1)
            if not entries:
                break
            found.append(entries[0].key[1])
            place = _behind(found[-1])
        return found

    async def size(self, tenant: ids.TenantId, namespace: str) -> Size:
        """What the namespace holds."""
        keys = total = 0
        after: str | None = None
        while entries := await self._scan(tenant, namespace, "", after, _PAGE):
            keys += len(entries)
            total += sum(self._read(entry).size for entry in entries)
            after = entries[-1].key[2]
        return Size(keys=keys, bytes=total)

    async def _scan(
        self, tenant: ids.TenantId, namespace: str, prefix: str, after: str | None, limit: int
    ) -> "list[kv.Entry]":
        place = None if after is None else (_KEYS, namespace, after)
        return await self._store.tenant(tenant).kv.scan(
            (_KEYS, namespace), starts_with=prefix, after=place, limit=limit
        )

    # --- writing --------------------------------------------------------------------------------------------

    async def put(
        self,
        tenant: ids.TenantId,
        namespace: str,
        key: str,
        value: bytes | AsyncIterable[bytes],
        *,
        metadata: str | None = None,
        expires: int | None = None,
    ) -> int:
        """Give the key a value, with its metadata and its end, in place of all it had. Returns the value's size.

        Raises `errors.InvalidParams`, `errors.TooLarge`, `errors.QuotaExceeded`, and what `value` raises.
        """
        place = (_KEYS, namespace, kvrules.checked(key))
        kvrules.check_metadata(metadata)
        kvrules.check_expires(expires, self._store.now())
        pieces = _pieces(value)
        start = bytearray()
        async for piece in pieces:
            start += piece
            if len(start) > BESIDE:
                return await self._put_large(tenant, place, _chain(bytes(start), pieces), metadata, expires)
        size = len(start)
        if size <= INLINE:
            await self._place(tenant, place, _Key(size, bytes(start), "", "", metadata, expires))
        else:
            beside = secrets.token_hex(16)
            await self._place(tenant, place, _Key(size, None, beside, "", metadata, expires), bytes(start))
        return size

    async def _put_large(
        self,
        tenant: ids.TenantId,
        place: kv.Key,
        value: AsyncIterator[bytes],
        metadata: str | None,
        expires: int | None,
    ) -> int:
        handle, blob = self._store.tenant(tenant), secrets.token_hex(16)
        async with self._room(tenant):
            self._writing.add(blob)
            try:
                await handle.kv.put((_BLOB, blob), self._encoder.encode(_Blob(place[1], place[2])))
                size = await handle.objects.put((_KEYS, blob), _bounded(value))
                await self._place(tenant, place, _Key(size, None, "", blob, metadata, expires))
            except BaseException:
                # The key may lead to it all the same: a cancelled write can have been carried out.
                with contextlib.suppress(errors.SmcpError):  # then the next sweep does it
                    await decided.decided(self.collect(tenant, blob))
                raise
            finally:
                self._writing.discard(blob)
        return size

    async def delete(self, tenant: ids.TenantId, namespace: str, key: str) -> bool:
        """Remove the key; whether there was one."""
        return await self._place(tenant, (_KEYS, namespace, kvrules.checked(key)), None)

    async def clear(self, tenant: ids.TenantId, namespace: str) -> Size:
        """Remove every key that the namespace has now; how many those were, and the bytes of their values."""
        keys = total = 0
        after: str | None = None
        while entries := await self._scan(tenant, namespace, "", after, _PAGE):
            for entry in entries:
                # Key by key, so that each is removed with what belongs to it, whoever writes it meanwhile.
                if await self._place(tenant, entry.key, None):
                    keys += 1
                    total += self._read(entry).size
            after = entries[-1].key[2]
        return Size(keys=keys, bytes=total)

    async def _place(self, tenant: ids.TenantId, place: kv.Key, new: _Key | None, beside: bytes = b"") -> bool:
        """Let the key have `new` and remove what it had; whether it had anything."""
        handle = self._store.tenant(tenant)
        async with self._turn(tenant, place):
            for _ in range(_ATTEMPTS):
                entry = await handle.kv.get(place)
                old = None if entry is None else self._read(entry)
                expect = kv.ABSENT if entry is None else entry.revision
                ops: list[kv.Op] = [] if new is None else self._puts(place, new, beside, expect)
                if new is None and entry is not None:
                    ops.append(kv.Delete(place, expect))
                if old is not None and old.beside:
                    ops.append(kv.Delete((_VALUES, old.beside)))
                if not ops:
                    return False
                try:
                    await handle.kv.apply(ops)
                except errors.Conflict:
                    continue  # its time was up just now
                if old is not None and old.blob:
                    with contextlib.suppress(errors.SmcpError):  # then the next sweep does it
                        await self.collect(tenant, old.blob)
                return old is not None
        raise errors.Conflict

    def _puts(self, place: kv.Key, new: _Key, beside: bytes, expect: int) -> "list[kv.Op]":
        ttl = None if new.expires is None else max(new.expires - self._store.now(), 0.001)
        ops: list[kv.Op] = [kv.Put(place, self._encoder.encode(new), ttl, expect)]
        if new.beside:
            ops.append(kv.Put((_VALUES, new.beside), beside, ttl))
        return ops

    @contextlib.asynccontextmanager
    async def _turn(self, tenant: ids.TenantId, place: kv.Key) -> AsyncGenerator[None]:
        """One writer of a key at a time."""
        where = (tenant, *place)
        lock = self._turns.setdefault(where, asyncio.Lock())
        async with lock:
            yield

    @contextlib.asynccontextmanager
    async def _room(self, tenant: ids.TenantId) -> AsyncGenerator[None]:
        """One of the places for large values. Raises `errors.RateLimited` when none gets free."""
        places = self._large.setdefault(tenant, asyncio.Semaphore(LARGE_AT_ONCE))
        try:
            async with asyncio.timeout(_WAIT_S):
                await places.acquire()
        except TimeoutError:
            raise errors.RateLimited("Too many large values are being written. Wait and retry.") from None
        try:
            yield
        finally:
            places.release()

    # --- what nothing leads to ------------------------------------------------------------------------------

    async def collect(self, tenant: ids.TenantId, blob: str) -> bool:
        """Remove a large value if no key leads to it; whether it was. One that is being read is removed behind that."""
        handle = self._store.tenant(tenant)
        noted = await handle.kv.get((_BLOB, blob))
        if noted is None:
            return False
        owner = self._owner(noted)
        entry = await handle.kv.get((_KEYS, owner.namespace, owner.key))
        if entry is not None and self._read(entry).blob == blob:
            return False
        if self.reading[blob]:
            self.doomed.add(blob)
            return False
        await handle.objects.delete((_KEYS, blob))
        await handle.kv.delete((_BLOB, blob))  # last: until then somebody finds what is left
        return True

    async def sweep(self, tenant: ids.TenantId) -> int:
        """Remove the tenant's large values that no key leads to; returns how many."""
        removed, after = 0, None
        while entries := await self._store.tenant(tenant).kv.scan((_BLOB,), after=after, limit=_PAGE):
            for entry in entries:
                # Asked before the key is: once it is not being written any more, its key leads to it or never will.
                if entry.key[1] not in self._writing and await self.collect(tenant, entry.key[1]):
                    removed += 1
            after = entries[-1].key
        return removed

    async def _sweep_for_ever(self) -> None:
        while True:
            for tenant in self._store.ring.tenants():
                try:
                    await self.sweep(tenant)
                except errors.TamperedData as error:
                    if self._damaged is not None:
                        self._damaged(tenant, str(error))
                except errors.SmcpError:
                    pass  # away, or the tenant was just erased: the next round tries again
            await asyncio.sleep(_SWEEP_S)

    def _owner(self, entry: kv.Entry) -> _Blob:
        try:
            return self._blobs.decode(entry.value)
        except msgspec.DecodeError:
            raise errors.TamperedData(detail="a record of a large KV value is none") from None

    def _read(self, entry: kv.Entry) -> _Key:
        try:
            return self._keys.decode(entry.value)
        except msgspec.DecodeError:
            raise errors.TamperedData(detail="a record of a KV namespace is none") from None


async def _pieces(value: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    if isinstance(value, bytes):
        yield value
        return
    async for piece in value:
        yield piece


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _bounded(value: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    size = 0
    async for piece in value:
        size += len(piece)
        if size > kvrules.MAX_VALUE:
            raise errors.TooLarge(f"A value has at most {kvrules.MAX_VALUE} bytes.")
        yield piece


def _behind(namespace: str) -> kv.Key:
    """Behind every key of `namespace`, and before those of the next one (`stores.keys`)."""
    return (_KEYS, namespace + "\0")
