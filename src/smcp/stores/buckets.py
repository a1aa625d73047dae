"""Buckets of objects as Cloudflare R2 has them, over a tenant's handle: semantics only, no wire.

An object is a record in the key-value store (`bucket_model.Object`) and bytes in sealed, create-only objects
(`bucket_data`). A write shows when its record is written by compare-and-set: whoever reads sees the one or the other
object, whole, and a reader goes on with the object it began with. Buckets need not be made: one is there while there is
something in it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from smcp.kernel import errors, ids
from smcp.stores import bucket_data as data
from smcp.stores import bucket_lists as lists
from smcp.stores import bucket_model as model
from smcp.stores import bucket_uploads as uploads
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

_ATTEMPTS: Final = 100
_BATCH: Final = 50
_SWEEP_S: Final = 3600.0
_OBJECT: Final = msgspec.msgpack.Decoder(model.Object)


class Reading(NamedTuple):
    """An object, and its bytes from `start` to `end` (exclusive). Who does not read all of `body` closes it."""

    object: model.Object
    start: int
    end: int
    body: AsyncGenerator[bytes, None]


class InBucket(NamedTuple):
    """A bucket and how many objects are in it."""

    name: str
    objects: int


class Size(NamedTuple):
    """What is in a bucket."""

    objects: int
    bytes: int


class Buckets:
    """All tenants' buckets. One for a process: it knows what is being written and read."""

    def __init__(
        self,
        store: stores.Store,
        damaged: Callable[[ids.TenantId, str], None] | None = None,
        *,
        segment: int = data.SEGMENT,
    ) -> None:
        """`damaged`: told of a tenant of whose buckets something can't be swept because a record does not open.

        `segment`: bytes in one stored segment of objects that are written from now on.
        """
        self._store = store
        self._damaged = damaged
        self._segment = segment
        self._data: dict[ids.TenantId, data.Data] = {}
        self._uploads: dict[ids.TenantId, uploads.Locks] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Remove from now on, in the background, what a process that ended has left and what has expired."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever(), name="buckets' sweep")

    async def close(self) -> None:
        """End that. May be called again."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None

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

    def bucket(self, tenant: ids.TenantId, name: str) -> "Bucket":
        """A tenant's bucket. Raises `errors.BadName`, and `errors.NotFound` for a tenant that has no storage."""
        model.bucket_name(name)
        return Bucket(self._of(tenant), name, self._store.now, self._uploads[tenant])

    def _of(self, tenant: ids.TenantId) -> data.Data:
        handle = self._store.tenant(tenant)
        known = self._data.get(tenant)
        if known is None or known.handle is not handle:  # another one: the tenant was erased and made again
            known = self._data[tenant] = data.Data(handle, self._segment, self._damaged)
            self._uploads[tenant] = {}
        return known

    async def names(self, tenant: ids.TenantId, *, after: str = "", limit: int = 1000) -> list[InBucket]:
        """Up to `limit` buckets that something is in, in order, behind the name `after`."""
        store = self._of(tenant).handle.kv
        every = [await lists.segments(store, below, after, limit) for below in (lists.OBJECTS, lists.UPLOADS)]
        found = sorted({name for names in every for name in names})[:limit]
        return [InBucket(name, (await store.size((*lists.OBJECTS, name))).keys) for name in found]

    async def has(self, tenant: ids.TenantId, name: str) -> bool:
        """Whether something is in a tenant's bucket."""
        store = self._of(tenant).handle.kv
        return any([await store.scan((*below, name), limit=1) for below in (lists.OBJECTS, lists.UPLOADS)])

    async def sweep(self, tenant: ids.TenantId) -> None:
        """Remove what a process that ended has left, and uploads that were open for too long."""
        held = self._of(tenant)
        for one in await uploads.expired(held, self._store.now()):
            with contextlib.suppress(errors.ObjectRefused, errors.Conflict):  # completed or aborted meanwhile
                await self.bucket(tenant, one.bucket).uploads.abort(one.key, one.id)
        await held.sweep()


class Bucket:
    """One bucket of one tenant: it can name nothing outside of it."""

    def __init__(self, held: data.Data, name: str, now: "uploads.Now", locks: "uploads.Locks") -> None:
        """Use `Buckets.bucket`."""
        self.name: Final = name
        self._data = held
        self._now = now
        self._kv = held.handle.kv
        self.uploads: Final = uploads.Uploads(held, name, now, locks, self._commit)

    def __repr__(self) -> str:
        return f"Bucket({self._data.handle.tenant}/{self.name})"

    # --- reading --------------------------------------------------------------------------------------------

    async def head(self, key: str) -> model.Object | None:
        """An object without its bytes, or None."""
        return (await self._find(model.key(key)))[0]

    async def get(
        self, key: str, span: model.Range | None = None, only_if: model.Condition | None = None
    ) -> Reading | None:
        """An object with its bytes, or those of `span`; None when there is none.

        Raises `errors.PreconditionFailed`, `errors.ObjectRefused` for a range, `TamperedData` and `RateLimited`
        before the first byte.
        """
        model.key(key)
        while True:
            found, _ = await self._find(key)
            if found is None:
                return None
            if not self._data.going(found.version):
                break  # else it was replaced or deleted meanwhile: what is there now?
        # Nothing is awaited from here to `using`: it can't be removed in between.
        if only_if is not None and not only_if.holds(found):
            raise errors.PreconditionFailed(found=found)
        start, end = (span or model.Range()).of(found.size)
        body = self._body(found, start, end)
        await anext(body)  # what can fail at all fails before anything was said; and a body that began also ends
        return Reading(found, start, end, body)

    async def _body(self, found: model.Object, start: int, end: int) -> AsyncGenerator[bytes, None]:
        async with self._data.using(found.version), contextlib.aclosing(self._data.read(found, start, end)) as chunks:
            first = await anext(chunks, b"")
            yield b""
            if first:
                yield first
            async for chunk in chunks:
                yield chunk

    async def page(
        self,
        *,
        prefix: str = "",
        delimiter: str = "",
        cursor: str = "",
        start_after: str = "",
        limit: int = model.MOST_LISTED,
        most_bytes: int = lists.MOST_BYTES,
    ) -> model.Listing:
        """A page of the bucket in the order of the keys' UTF-8 bytes. Raises `errors.ObjectRefused`.

        `most_bytes`: about how much an answer with all of it as JSON may have; at least one object is listed.
        """
        query = lists.Query(prefix, delimiter, cursor, start_after, limit, most_bytes)
        return await lists.page(self._kv, self.name, query, lambda entry: data.decoded(_OBJECT, entry))

    # --- writing --------------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        content: AsyncIterable[bytes],
        *,
        length: int | None = None,
        about: model.About | None = None,
        only_if: model.Condition | None = None,
        checksums: Mapping[str, bytes] | None = None,
    ) -> model.Object:
        """Write an object; when this returns, it is there and durable, and else nothing of it is.

        Raises `errors.ObjectRefused`, `errors.PreconditionFailed`, `errors.QuotaExceeded`, `errors.RateLimited`,
        `errors.RequestTimeout`, and what `content` raises.
        """
        model.key(key)
        about = about or model.About()
        about.check()
        given = dict(checksums or {})
        source = data.Source(content, model.digests(given), length)
        held = self._data
        async with held.writing():
            if only_if is not None and not only_if.holds(found := await self.head(key)):
                raise errors.PreconditionFailed(found=found)
            await held.room_for(length or 0)
            version = secrets.token_hex(16)
            async with held.using(version):
                try:
                    await held.begin(version, data.Waste(pieces=(data.Doomed(version),), segment=held.segment))
                    await held.write(version, source, held.segment)
                    found = model.Object(
                        version=version,
                        size=source.size,
                        etag="",
                        uploaded=int(self._now() * 1000),
                        segment=held.segment,
                        about=about,
                        checksums=source.check(given),
                        pieces=(model.Piece(version, source.size),),
                    )
                    found = msgspec.structs.replace(found, etag=found.checksums["md5"].hex())
                    await self._commit(key, found, only_if, [kv.Delete(data.waste_key(version))])
                except BaseException:
                    # Removes only what the marker still names: nothing, if the record was written after all.
                    await held.clean(version)
                    raise
        return found

    async def delete(self, *keys: str) -> int:
        """Remove objects, at most 1,000; returns how many were there. What is not there is fine."""
        if len(keys) > model.MOST_DELETED:
            raise model.refused(model.Reason.ARGUMENT, f"At most {model.MOST_DELETED} keys are deleted at once.")
        wanted = list(dict.fromkeys(model.key(key) for key in keys))
        gone = 0
        for at in range(0, len(wanted), _BATCH):
            versions = await self._delete(wanted[at : at + _BATCH])
            await self._data.clean(*versions)
            gone += len(versions)
        return gone

    async def _delete(self, keys: Sequence[str]) -> list[str]:
        for _ in range(_ATTEMPTS):
            found = [(key, *await self._find(key)) for key in keys]
            there = [(key, one, revision) for key, one, revision in found if one is not None]
            ops: list[kv.Op] = [kv.Delete(self._key(key), revision) for key, _, revision in there]
            ops += [_waste(one) for _, one, _ in there]
            try:
                if ops:
                    await self._kv.apply(ops)
            except errors.Conflict:
                continue
            return [one.version for _, one, _ in there]
        raise errors.Conflict

    async def size(self) -> Size:
        """How many objects there are, and the sum of their sizes. Reads the record of each."""
        count = size = 0
        cursor = ""
        while True:
            page = await self.page(cursor=cursor)
            count += len(page.objects)
            size += sum(listed.object.size for listed in page.objects)
            if page.cursor is None:
                return Size(count, size)
            cursor = page.cursor

    async def empty(self) -> int:
        """Remove every object and every open upload; returns how many objects there were."""
        gone = 0
        while (page := await self.page()).objects:
            gone += await self.delete(*[listed.key for listed in page.objects])
        await self.uploads.abort_all()
        return gone

    async def _commit(
        self, key: str, found: model.Object, only_if: model.Condition | None, others: Sequence[kv.Op]
    ) -> None:
        """Make `found` what `key` holds, together with `others`; what it replaces goes."""
        for _ in range(_ATTEMPTS):
            old, revision = await self._find(key)
            if only_if is not None and not only_if.holds(old):
                raise errors.PreconditionFailed(found=old)
            ops: list[kv.Op] = [kv.Put(self._key(key), data.encode(found), expect=revision), *others]
            if old is not None:
                ops.append(_waste(old))
            try:
                await self._kv.apply(ops)
            except errors.Conflict:
                await asyncio.sleep(0)
                continue
            if old is not None:
                await self._data.clean(old.version)
            return
        raise errors.Conflict

    async def _find(self, key: str) -> tuple[model.Object | None, int]:
        entry = await self._kv.get(self._key(key))
        return (None, kv.ABSENT) if entry is None else (data.decoded(_OBJECT, entry), entry.revision)

    def _key(self, key: str) -> kv.Key:
        return (*lists.OBJECTS, self.name, key)


def _waste(found: model.Object) -> kv.Put:
    return kv.Put(data.waste_key(found.version), data.encode(data.waste_of(found)))
