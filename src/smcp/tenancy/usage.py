"""What a tenant used, as it is kept: batches in a log, folded exactly once into one record per server, principal, hour.

A batch lies in the tenant's own log, the hours in the platform's storage, where no quota of the tenant can stop them.
There each is sealed under the tenant's key, at a place that this key names: who erases the tenant has erased them.

Exactly once: a batch carries its name (node, start of the process, number), so that one which was appended again after
an unknown outcome is skipped; and the position up to which the log is folded moves in the same `KV.apply` as the sums,
each under the revision it was read with. Sums are integers: no order and no grouping of batches changes them.
"""

from collections.abc import AsyncGenerator
from typing import Final, TypeVar

import msgspec

from smcp.kernel import crypto, errors, ids
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kvs
from smcp.stores.log import base as logs

T = TypeVar("T")

STREAM: Final = ("usage",)
"""The log stream that all nodes of a tenant share."""
HOURS: Final = "usage"
CURSORS: Final = "usage-cursor"
"""First segments of the keys, in the platform's storage."""
OTHER: Final = "_other"
"""Stands for principals beyond what is told apart; no principal and no server has such a name."""
RECORDS: Final = 1000
"""Principals and servers of one tenant that an hour tells apart; further ones count for `OTHER`."""
HOUR_S: Final = 3600

_BATCHES: Final = 200
_LINES: Final = 1000
_PAGE: Final = 100
_HOURS_KNOWN: Final = 72
_KEEP: Final = 262_144
"""Bytes of folded batches that stay in the log: more than is appended while one fold is under way."""
_SHRINK: Final = 64


class Sums(msgspec.Struct, array_like=True, gc=False):
    """What was used. Every number can be added to another of its kind."""

    calls: int = 0
    """Requests that were read and belong to the tenant, answered or not."""
    errors: int = 0
    """Those of them that were refused or failed."""
    received: int = 0
    """Bytes of the requests' bodies."""
    sent: int = 0
    """Bytes of the answers' bodies."""
    cpu_us: int = 0
    memory_byte_s: int = 0
    copy_ms: int = 0
    """Time that copies of servers ran, each for itself."""
    cpu_unknown_ms: int = 0
    """The part of it in which nothing told what they took of the processor."""
    memory_unknown_ms: int = 0
    egress_sent: int = 0
    """Bytes that servers sent to hosts outside."""
    egress_received: int = 0
    storage_byte_s: int = 0

    def add(self, more: "Sums") -> None:
        """Add every number of `more`."""
        for name in FIELDS:
            amount = getattr(more, name)
            if amount:
                setattr(self, name, getattr(self, name) + amount)


FIELDS: Final = Sums.__struct_fields__

Where = tuple[int, str, str]
"""Hour (full hours since the epoch), server, principal; empty for what belongs to no one of them."""


class Line(msgspec.Struct, array_like=True):
    """What one principal used of one server in one hour."""

    hour: int
    server: str
    principal: str
    sums: Sums


class Batch(msgspec.Struct, array_like=True):
    """What a node counted since its last batch of this tenant."""

    node: str
    start: str
    number: int
    """Grows with every batch of a start, over all tenants."""
    lines: list[Line]


class _Cursor(msgspec.Struct):
    position: int = 0
    """Of the last batch that is folded."""
    last: dict[str, tuple[str, int]] = {}
    """For each node its last batch that is folded: start and number."""
    records: dict[int, int] = {}
    """How many records the latest hours have."""


class Accounts:
    """One tenant's usage in storage."""

    def __init__(self, store: stores.Store, tenant: ids.TenantId, *, days: int) -> None:
        """Hours end after `days`. Raises `errors.NotFound` when the tenant has no storage."""
        self.tenant: Final = tenant
        self._store = store
        self._handle = handle = store.tenant(tenant)
        self._log = handle.log
        self._kv = store.platform().kv
        self._xaes = crypto.Xaes(store.ring.data_key(tenant, "tenancy.usage"))
        self._place = (HOURS, tenant, handle.private("usage", "place"))
        self._cursor_key = (CURSORS, *self._place[1:])
        self._days = days
        self._folded = 0
        self.damaged = 0
        """Batches that could not be read, because they were changed or moved, and count for nothing."""

    def require(self) -> None:
        """Raises `errors.NotFound` when the tenant was erased, also when a namesake was made since."""
        if self._store.tenant(self.tenant) is not self._handle:
            raise errors.NotFound(detail="the tenant was erased")

    async def append(self, batch: bytes) -> None:
        """Make an encoded batch durable. Raises as the store does; then it may be there all the same."""
        self.require()
        await self._log.append(STREAM, [batch], ttl=self._days * 86400.0)

    # --- folding ---

    async def fold(self) -> bool:
        """Fold some batches; True when there may be more. Raises `errors.Conflict` when somebody else has."""
        self.require()
        entry = await self._kv.get(self._cursor_key)
        cursor = _Cursor() if entry is None else _decode(entry.value, _Cursor)
        records = await self._batches(cursor)
        if not records:
            return False
        found: dict[Where, Sums] = {}
        for record in records:
            cursor.position = record.position
            batch = _decode(record.data, Batch) if record.data else None
            if batch is not None and _fresh(cursor, batch):
                for line in batch.lines:
                    found.setdefault((line.hour, line.server, line.principal), Sums()).add(line.sums)
            if len(found) >= _LINES:
                break
        ops = await self._sums(cursor, found)
        revision = kvs.ABSENT if entry is None else entry.revision
        ops.append(kvs.Put(self._cursor_key, msgspec.msgpack.encode(cursor), expect=revision))
        await self._kv.apply(ops)
        self._folded += len(records)
        return True

    async def shrink(self) -> None:
        """Let folded batches go, now and then. To be called when `fold` has found no more."""
        if self._folded >= _SHRINK:
            await self._log.shrink(STREAM, most=_KEEP)
            self._folded = 0

    async def _batches(self, cursor: _Cursor) -> list[logs.Record]:
        """The next ones. One that was changed or moved comes without its data: it must not hold up all others."""
        try:
            return await self._log.read(STREAM, after=cursor.position, limit=_BATCHES)
        except errors.TamperedData:
            pass
        try:
            return await self._log.read(STREAM, after=cursor.position, limit=1)
        except errors.TamperedData:
            self.damaged += 1
            return [logs.Record(cursor.position + 1, 0.0, b"")]

    async def _sums(self, cursor: _Cursor, found: dict[Where, Sums]) -> list[kvs.Op]:
        """The records of `found`, as they are to be written."""
        made: dict[kvs.Key, tuple[Line, int]] = {}
        for (hour, server, principal), sums in found.items():
            key, line, revision = await self._line(made, hour, server, principal)
            if revision == kvs.ABSENT and key not in made:
                if cursor.records.get(hour, 0) >= RECORDS:
                    key, line, revision = await self._line(made, hour, server, OTHER)
                else:
                    cursor.records[hour] = cursor.records.get(hour, 0) + 1
            line.sums.add(sums)
            made[key] = (line, revision)
        for hour in sorted(cursor.records)[:-_HOURS_KNOWN]:
            del cursor.records[hour]
        now = self._store.now()
        ops: list[kvs.Op] = []
        for key, (line, revision) in made.items():
            ttl = (line.hour + 1) * HOUR_S + self._days * 86400.0 - now
            if ttl > 0:
                ops.append(kvs.Put(key, self._seal(key, line), ttl, revision))
        return ops

    async def _line(
        self, made: dict[kvs.Key, tuple[Line, int]], hour: int, server: str, principal: str
    ) -> tuple[kvs.Key, Line, int]:
        """A record's key, the record as it is so far, and its revision."""
        key = (*self._place, _hour(hour), self._handle.private("usage", f"{server}/{principal}"))
        if key in made:
            return key, *made[key]
        entry = await self._kv.get(key)
        if entry is None:
            return key, Line(hour, server, principal, Sums()), kvs.ABSENT
        return key, self._open(entry), entry.revision

    # --- reading ---

    async def lines(self, first: int, end: int) -> AsyncGenerator[Line]:
        """The records of the hours from `first` up to, and without, `end`, in the order of the hours.

        Raises `errors.TamperedData` for one that was changed or moved.
        """
        after: kvs.Key | None = (*self._place, _hour(first - 1), "~") if first > 0 else None
        stop = _hour(end)
        while page := await self._kv.scan(self._place, after=after, limit=_PAGE):
            for entry in page:
                if entry.key[len(self._place)] >= stop:
                    return
                yield self._open(entry)
            after = page[-1].key

    def _seal(self, key: kvs.Key, line: Line) -> bytes:
        return self._xaes.seal(msgspec.msgpack.encode(line), crypto.length_prefixed(*key))

    def _open(self, entry: kvs.Entry) -> Line:
        return _decode(self._xaes.open(entry.value, crypto.length_prefixed(*entry.key)), Line)


def _fresh(cursor: _Cursor, batch: Batch) -> bool:
    """Whether `batch` was not folded before; from now on it was."""
    known = cursor.last.get(batch.node)
    if known is not None and known[0] == batch.start and batch.number <= known[1]:
        return False
    cursor.last[batch.node] = (batch.start, batch.number)
    return True


def _hour(hour: int) -> str:
    """An hour as a segment of a key: their order is that of time."""
    return f"{hour:010d}"


def _decode(data: bytes, type: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=type)
    except msgspec.DecodeError as error:
        raise errors.TamperedData(detail=f"not usage: {error}") from error
