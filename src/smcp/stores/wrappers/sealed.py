"""Encryption at rest, and the walls between tenants: the sealed versions of `KV` and `Log`.

Each wrapper puts its tenant before every key, so that it can name nothing outside, and seals every value with
XAES-256-GCM under the tenant's key for that interface. The associated data is the length-prefixed list of tenant,
interface and full key (with the position, for a log), so a ciphertext that is moved, exchanged, cut or replaced by
plain bytes raises `errors.TamperedData` and is never returned. Objects: `sealed_objects`.

Not detected: an older value put back under its own key, and deletion, by who controls the storage itself.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from smcp.kernel import crypto, errors, ids
from smcp.stores.kv import base as kv
from smcp.stores.log import base as log

FORMAT: Final = b"\x01"
"""First byte of every sealed value."""

_STREAMS_KEPT: Final = 4096
_PATIENCE_S: Final = 30.0
"""How long an append tries to come between other writers of its stream."""

_TURN_S: Final = 1.0
_SHARED_TURN_S: Final = 0.05
"""A turn while others are known to write the stream too: for `_SHARED_S` after the last collision."""

_SHARED_S: Final = 10.0
_GAP_S: Final = 0.02
_PAUSE_S: Final = 0.002
_LONGEST_WAIT_S: Final = 0.02


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


class _End:
    """Where a stream ends, as one handle knows it, and whose turn it is to append there."""

    __slots__ = ("asking", "began", "cost", "flying", "landed", "last", "shared_until", "used")

    def __init__(self) -> None:
        self.asking = asyncio.Lock()
        """Held by the one caller that finds out where the stream ends; the others queue behind it, in their order."""
        self.last: int | None = None
        """The position that the next append expects, those under way counted in; None: somebody must ask."""
        self.flying = 0
        self.landed = asyncio.Event()
        self.landed.set()
        self.cost = 0.0
        self.began = self.used = self.shared_until = 0.0

    def holds(self, expect: int | None) -> bool:
        """Whether a caller may append at once, behind what is remembered."""
        if self.last is None or expect not in (None, self.last):
            return False
        now = _now()
        if self.flying == 0 and now - self.used >= _GAP_S:
            self.began = now  # others had their chance meanwhile
        return not self.over(now)

    def over(self, now: float) -> bool:
        """Whether this handle has kept the stream busy for so long that others must get their chance."""
        return now - self.began >= (_SHARED_TURN_S if now < self.shared_until else _TURN_S)


class SealedLog(log.Log):
    """One tenant's part of `inner`, sealed; each record is bound to its stream and position.

    A record's position must be known before it is sealed. The wrapper remembers where the streams end that it wrote
    last and appends under that expectation, several calls at a time. Where the end is not known (any more: another
    process writes, or a call before failed), one caller asks for it while the others wait behind it.

    Who finds another writer there every time tries again after a random wait, up to `_PATIENCE_S`. So that it gets its
    chance, a handle that never stops writing to a stream lets go of it for a moment after each turn.
    """

    def __init__(self, inner: log.Log, tenant: ids.TenantId, key: bytes) -> None:
        self._inner = inner
        self._tenant = tenant
        self._xaes = crypto.Xaes(key)
        self._aad = crypto.length_prefixed(tenant, "log")
        self._ends: OrderedDict[log.Stream, _End] = OrderedDict()

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
        end = self._end(_checked(stream))
        until = _now() + _PATIENCE_S
        while True:
            if end.asking.locked() or not end.holds(expect):
                async with end.asking:
                    if not end.holds(expect):
                        return await self._ask_and_append(end, stream, records, ttl, expect, until)
            assert end.last is not None
            try:
                return await self._append_at(end, stream, records, end.last, ttl)
            except errors.Conflict:
                _look_at_the_time(until)

    async def _ask_and_append(
        self,
        end: _End,
        stream: log.Stream,
        records: Sequence[bytes],
        ttl: float | None,
        expect: int | None,
        until: float,
    ) -> int:
        """Find out where the stream ends and append there; the caller holds `end.asking`."""
        lets_go = end.last is not None and end.over(_now())
        end.last = None
        await end.landed.wait()  # what this handle has under way moves the end, or fails
        if lets_go:
            await asyncio.sleep(max(_PAUSE_S, end.cost) * random.uniform(1, 2))  # noqa: S311  no secret
        wait = _PAUSE_S
        while True:
            last = await self._inner.last((self._tenant, *stream))
            if expect is not None and expect != last:
                raise errors.Conflict(detail=f"the stream's last position is {last}, not {expect}")
            try:
                position = await self._append_at(end, stream, records, last, ttl)
            except errors.Conflict:
                end.shared_until = _now() + _SHARED_S
                _look_at_the_time(until)
                await asyncio.sleep(random.uniform(0, wait))  # noqa: S311  no secret
                wait = min(2 * wait, _LONGEST_WAIT_S)
            else:
                end.began = _now()
                return position

    async def _append_at(
        self, end: _End, stream: log.Stream, records: Sequence[bytes], last: int, ttl: float | None
    ) -> int:
        aad = self._aad + crypto.length_prefixed(*stream)
        sealed = [
            FORMAT + self._xaes.seal(data, b"%b@%d" % (aad, last + count)) for count, data in enumerate(records, 1)
        ]
        # From here to the storage's queue nothing is awaited: calls come there in the order of their positions.
        end.last = last + len(records)
        end.flying += 1
        end.landed.clear()
        began = _now()
        try:
            return await self._inner.append((self._tenant, *stream), sealed, ttl=ttl, expect=last)
        except BaseException:
            end.last = None
            raise
        finally:
            end.used = _now()
            end.cost = end.used - began
            end.flying -= 1
            if end.flying == 0:
                end.landed.set()

    def _end(self, stream: log.Stream) -> _End:
        end = self._ends.get(stream)
        if end is None:
            end = self._ends[stream] = _End()
            if len(self._ends) > _STREAMS_KEPT:  # one in use may go too: then two ask, as two processes do
                self._ends.popitem(last=False)
        else:
            self._ends.move_to_end(stream)
        return end

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
        for position, written, data in records:
            if data[:1] != FORMAT:
                raise errors.TamperedData(detail=f"an unsealed record in log of {self._tenant}")
            opened.append(log.Record(position, written, self._xaes.open(data[1:], b"%b@%d" % (aad, position))))
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
        for stream in [stream for stream in self._ends if stream[: len(prefix)] == prefix]:
            self._ends.pop(stream).last = None

    def check(self) -> None:
        self._inner.check()

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        """Nothing: the storage belongs to whoever bound this handle."""


def _now() -> float:
    return time.monotonic()


def _look_at_the_time(until: float) -> None:
    if _now() >= until:
        raise errors.Unavailable(detail="too many writers of one stream")


def _checked(key: tuple[str, ...]) -> tuple[str, ...]:
    """`key`, which must name something below the tenant: the tenant's own segment alone would be no key of it."""
    if not key:
        raise ValueError("a key is a non-empty tuple of non-empty strings")
    return key
