"""Encryption at rest, and the walls between tenants: the sealed versions of `KV` and `Log`.

Each wrapper puts its tenant before every key, so that it can name nothing outside, and seals every value with
XAES-256-GCM under the tenant's key for that interface. The associated data is the length-prefixed list of tenant,
interface and full key (with the position, for a log), so a ciphertext that is moved, exchanged, cut or replaced by
plain bytes raises `errors.TamperedData` and is never returned. Objects: `sealed_objects`.

Not detected: an older value put back under its own key, and deletion, by who controls the storage itself.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from smcp.kernel import crypto, errors, ids
from smcp.stores.kv import base as kv
from smcp.stores.log import base as log

FORMAT: Final = b"\x01"
"""First byte of every sealed value."""

_STREAMS_KEPT: Final = 4096
_ATTEMPTS: Final = 32


class SealedKV(kv.KV):
    """One tenant's part of `inner`, sealed."""

    def __init__(self, inner: kv.KV, tenant: ids.TenantId, key: bytes) -> None:
        self._inner = inner
        self._tenant = tenant
        self._xaes = crypto.Xaes(key)
        self._aad = crypto.length_prefixed(tenant, "kv")

    async def get(self, key: kv.Key) -> kv.Entry | None:
        entry = await self._inner.get((self._tenant, *_checked(key)))
        return None if entry is None else self._open(entry)

    async def apply(self, ops: Sequence[kv.Op]) -> int:
        return await self._inner.apply([self._seal(op) for op in ops])

    async def scan(
        self, prefix: kv.Key, *, starts_with: str = "", after: kv.Key | None = None, limit: int = 1000
    ) -> list[kv.Entry]:
        entries = await self._inner.scan(
            (self._tenant, *prefix),
            starts_with=starts_with,
            after=None if after is None else (self._tenant, *_checked(after)),
            limit=limit,
        )
        return [self._open(entry) for entry in entries]

    async def size(self, prefix: kv.Key) -> kv.Size:
        return await self._inner.size((self._tenant, *prefix))

    def watch(self, prefix: kv.Key, listener: kv.Listener) -> Callable[[], None]:
        def opened(change: kv.Change) -> None:
            key = change.key[1:]
            value = None if change.value is None else self._unseal(key, change.value)
            listener(change._replace(key=key, value=value))

        return self._inner.watch((self._tenant, *prefix), opened)

    async def snapshot(self, prefix: kv.Key = ()) -> AsyncIterator[kv.Entry]:
        async for entry in self._inner.snapshot((self._tenant, *prefix)):
            yield self._open(entry)

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        """Nothing: the storage belongs to whoever bound this handle."""

    def _seal(self, op: kv.Op) -> kv.Op:
        key = (self._tenant, *_checked(op.key))
        if isinstance(op, kv.Delete):
            return kv.Delete(key, op.expect)
        sealed = FORMAT + self._xaes.seal(op.value, self._aad + crypto.length_prefixed(*op.key))
        return kv.Put(key, sealed, op.ttl, op.expect)

    def _open(self, entry: kv.Entry) -> kv.Entry:
        key = entry.key[1:]
        return kv.Entry(key, self._unseal(key, entry.value), entry.revision, entry.expires)

    def _unseal(self, key: kv.Key, value: bytes) -> bytes:
        if value[:1] != FORMAT:
            raise errors.TamperedData(detail=f"an unsealed value in kv of {self._tenant}")
        return self._xaes.open(value[1:], self._aad + crypto.length_prefixed(*key))


class SealedLog(log.Log):
    """One tenant's part of `inner`, sealed; each record is bound to its stream and position.

    A record's position must be known before it is sealed. The wrapper remembers the next position of the streams it
    wrote last and appends under that expectation, several calls at a time; a call that finds the stream elsewhere
    (because another process writes, or a call before it failed) asks for the position and seals again.
    """

    def __init__(self, inner: log.Log, tenant: ids.TenantId, key: bytes) -> None:
        self._inner = inner
        self._tenant = tenant
        self._xaes = crypto.Xaes(key)
        self._aad = crypto.length_prefixed(tenant, "log")
        self._last: OrderedDict[log.Stream, int] = OrderedDict()
        self._asking = asyncio.Lock()

    async def append(
        self,
        stream: log.Stream,
        records: Sequence[bytes],
        *,
        ttl: float | None = None,
        expect: int | None = None,
    ) -> int:
        if not records:
            raise ValueError("nothing to append")
        _checked(stream)
        last = self._last.get(stream)
        if last is not None:
            if expect in (None, last):
                try:
                    return await self._append_at(stream, records, last, ttl)
                except errors.Conflict:
                    pass  # what was remembered is not so any more; below it is asked for
            self._last.pop(stream, None)
        async with self._asking:
            for _ in range(_ATTEMPTS):
                last = await self._inner.last((self._tenant, *stream))
                if expect is not None and expect != last:
                    raise errors.Conflict(detail=f"the stream's last position is {last}, not {expect}")
                try:
                    return await self._append_at(stream, records, last, ttl)
                except errors.Conflict:
                    self._last.pop(stream, None)
        raise errors.Unavailable(detail="too many writers of one stream")

    async def _append_at(self, stream: log.Stream, records: Sequence[bytes], last: int, ttl: float | None) -> int:
        aad = self._aad + crypto.length_prefixed(*stream)
        sealed = [
            FORMAT + self._xaes.seal(data, b"%b@%d" % (aad, last + count)) for count, data in enumerate(records, 1)
        ]
        self._remember(stream, last + len(records))
        try:
            return await self._inner.append((self._tenant, *stream), sealed, ttl=ttl, expect=last)
        except BaseException:
            self._last.pop(stream, None)
            raise

    def _remember(self, stream: log.Stream, last: int) -> None:
        self._last[stream] = last
        self._last.move_to_end(stream)
        if len(self._last) > _STREAMS_KEPT:
            self._last.popitem(last=False)

    async def read(
        self, stream: log.Stream, *, after: int = 0, since: float | None = None, limit: int = 1000
    ) -> list[log.Record]:
        records = await self._inner.read((self._tenant, *_checked(stream)), after=after, since=since, limit=limit)
        return self._open(stream, records)

    async def tail(self, stream: log.Stream, *, after: int = 0) -> AsyncIterator[log.Record]:
        async for record in self._inner.tail((self._tenant, *_checked(stream)), after=after):
            yield self._open(stream, [record])[0]

    def _open(self, stream: log.Stream, records: list[log.Record]) -> list[log.Record]:
        aad = self._aad + crypto.length_prefixed(*stream)
        opened: list[log.Record] = []
        for position, time, data in records:
            if data[:1] != FORMAT:
                raise errors.TamperedData(detail=f"an unsealed record in log of {self._tenant}")
            opened.append(log.Record(position, time, self._xaes.open(data[1:], b"%b@%d" % (aad, position))))
        return opened

    async def last(self, stream: log.Stream) -> int:
        return await self._inner.last((self._tenant, *_checked(stream)))

    async def streams(self, prefix: log.Stream) -> list[log.Stream]:
        return [stream[1:] for stream in await self._inner.streams((self._tenant, *prefix))]

    async def trim(self, *, now: float) -> int:
        """Trimming is the platform's, over all tenants: a tenant's handle can't name it."""
        raise errors.Forbidden(detail="trim on a tenant's handle")

    async def shrink(self, stream: log.Stream, *, most: int) -> int:
        return await self._inner.shrink((self._tenant, *_checked(stream)), most=most)

    async def drop(self, prefix: log.Stream) -> None:
        await self._inner.drop((self._tenant, *prefix))
        for stream in [stream for stream in self._last if stream[: len(prefix)] == prefix]:
            del self._last[stream]

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        """Nothing: the storage belongs to whoever bound this handle."""


def _checked(key: tuple[str, ...]) -> tuple[str, ...]:
    """`key`, which must name something below the tenant: the tenant's own segment alone would be no key of it."""
    if not key:
        raise ValueError("a key is a non-empty tuple of non-empty strings")
    return key
