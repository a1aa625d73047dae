"""Typed documents with compare-and-set and a cache that is never older than an acknowledged write.

The cache is told of every change before the write that made it returns (`KV.watch`), and drops what it holds of the
key. A read that was under way meanwhile may have seen the older value: it is given to its caller, who asked before
the write was acknowledged, and not kept. Values are shared between readers: use frozen structs.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import msgspec

from smcp.kernel import errors, ids
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

T = TypeVar("T")

_ATTEMPTS: Final = 100
_Place = tuple[str, ...]


class Unknown(enum.Enum):
    """The type of `UNKNOWN`."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
"""What `peek` answers when memory doesn't say: ask `get`."""


class Versioned(msgspec.Struct, Generic[T], frozen=True):
    """A document, the revision that wrote it, and when it ends (epoch seconds; None: never)."""

    value: T
    revision: int
    expires: float | None = None


class _Use:
    """A read or write under way: the revision of the last change that was told of its key since it began."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = 0


class Records(Generic[T]):
    """The documents of type `T` below one prefix, of any tenant."""

    def __init__(self, store: stores.Store, type: type[T], prefix: kv.Key, *, cached: int = 65536) -> None:
        """`cached`: how many documents stay in memory; of keys known not to exist, an eighth of that."""
        self._store = store
        self._prefix = prefix
        self._decoder = msgspec.msgpack.Decoder(type)
        self._encoder = msgspec.msgpack.Encoder()
        self._found: OrderedDict[_Place, Versioned[T]] = OrderedDict()
        self._missing: OrderedDict[_Place, None] = OrderedDict()
        self._most_found = cached
        self._most_missing = max(1, cached // 8)
        self._uses: dict[_Place, list[_Use]] = {}
        store.watch(prefix, self._changed)

    # --- reading --------------------------------------------------------------------------------------------

    def peek(self, tenant: ids.TenantId, *key: str) -> Versioned[T] | Unknown | None:
        """The document or None, if memory knows; else `UNKNOWN`. Never waits."""
        place = (tenant, *key)
        found = self._found.get(place)
        if found is not None:
            if found.expires is not None and found.expires <= self._store.now():
                return None
            self._found.move_to_end(place)
            return found
        if place in self._missing or not self._store.knows(tenant):
            return None
        return UNKNOWN

    async def get(self, tenant: ids.TenantId, *key: str) -> Versioned[T] | None:
        """The document, or None: also for a tenant that does not exist."""
        known = self.peek(tenant, *key)
        if known is not UNKNOWN:
            return known
        place = (tenant, *key)
        with self._using(place) as use:
            entry = await self._store.tenant(tenant).kv.get(self._prefix + key)
            found = None if entry is None else self._decode(entry)
            if use.seen == 0:
                self._remember(place, found)
        return found

    async def list(
        self, tenant: ids.TenantId, *prefix: str, after: str | kv.Key | None = None, limit: int = 1000
    ) -> list[tuple[kv.Key, Versioned[T]]]:
        """Up to `limit` documents whose key begins with `prefix`, in order, behind the segment (or several) `after`."""
        if not self._store.knows(tenant):
            return []
        below = self._prefix + prefix
        behind = (after,) if isinstance(after, str) else after
        entries = await self._store.tenant(tenant).kv.scan(
            below, after=None if behind is None else (*below, *behind), limit=limit
        )
        return [(entry.key[len(self._prefix) :], self._decode(entry)) for entry in entries]

    # --- writing --------------------------------------------------------------------------------------------

    async def put(
        self,
        tenant: ids.TenantId,
        key: kv.Key,
        value: T,
        *,
        expect: int | None = None,
        ttl: float | None = None,
    ) -> int:
        """Write a document; returns its revision. Raises `errors.Conflict` when `expect` does not hold."""
        place = (tenant, *key)
        # Counted from before the write, so that memory forgets no later than the store.
        expires = None if ttl is None else self._store.now() + ttl
        with self._using(place) as use:
            revision = await self._store.tenant(tenant).kv.put(
                self._prefix + key, self._encoder.encode(value), ttl=ttl, expect=expect
            )
            if use.seen == revision:
                self._remember(place, Versioned(value, revision, expires))
        return revision

    def staged(self, key: kv.Key, value: T, *, expect: int | None = None, ttl: float | None = None) -> kv.Put:
        """The write of a document, for `KV.apply` of a tenant's handle: together with others, or none of them."""
        return kv.Put(self._prefix + key, self._encoder.encode(value), ttl, expect)

    def unstaged(self, key: kv.Key, *, expect: int | None = None) -> kv.Delete:
        """The removal of a document, as `staged`."""
        return kv.Delete(self._prefix + key, expect)

    async def create(self, tenant: ids.TenantId, key: kv.Key, value: T) -> int:
        """Write a document that does not exist yet. Raises `errors.Conflict` when it does."""
        return await self.put(tenant, key, value, expect=kv.ABSENT)

    async def update(self, tenant: ids.TenantId, key: kv.Key, change: Callable[[T], T]) -> T:
        """Replace a document by `change` of it, whoever else writes; returns the new one. Its end stays.

        `change` may be called several times. Raises `errors.NotFound`, and what `change` raises.
        """
        for _ in range(_ATTEMPTS):
            found = await self.get(tenant, *key)
            if found is None:
                raise errors.NotFound
            value = change(found.value)
            if value == found.value:
                return value
            ttl = None if found.expires is None else found.expires - self._store.now()
            if ttl is not None and ttl <= 0:
                raise errors.NotFound
            try:
                await self.put(tenant, key, value, expect=found.revision, ttl=ttl)
            except errors.Conflict:
                continue
            return value
        raise errors.Conflict

    async def delete(self, tenant: ids.TenantId, key: kv.Key, *, expect: int | None = None) -> None:
        """Remove a document. Raises `errors.Conflict` when `expect` does not hold."""
        await self._store.tenant(tenant).kv.delete(self._prefix + key, expect=expect)

    # --- memory ---------------------------------------------------------------------------------------------

    def _decode(self, entry: kv.Entry) -> Versioned[T]:
        try:
            return Versioned(self._decoder.decode(entry.value), entry.revision, entry.expires)
        except msgspec.DecodeError as error:
            raise errors.TamperedData(detail=f"a record below {self._prefix} is no record: {error}") from error

    @contextmanager
    def _using(self, place: _Place) -> Generator[_Use]:
        use = _Use()
        self._uses.setdefault(place, []).append(use)
        try:
            yield use
        finally:
            uses = self._uses[place]
            uses.remove(use)
            if not uses:
                del self._uses[place]

    def _changed(self, tenant: ids.TenantId, key: kv.Key, revision: int) -> None:
        place = (tenant, *key[len(self._prefix) :])
        self._found.pop(place, None)
        self._missing.pop(place, None)
        for use in self._uses.get(place, ()):
            use.seen = revision

    def _remember(self, place: _Place, found: Versioned[T] | None) -> None:
        if found is not None:
            self._found[place] = found
            if len(self._found) > self._most_found:
                self._found.popitem(last=False)
            return
        self._missing[place] = None
        if len(self._missing) > self._most_missing:
            self._missing.popitem(last=False)
