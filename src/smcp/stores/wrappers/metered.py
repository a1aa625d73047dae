"""What is done with storage, counted: calls, failures and bytes for each operation."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from smcp.stores.kv import base as kv
from smcp.stores.log import base as log
from smcp.stores.objects import base as objects

T = TypeVar("T")


class Operation(NamedTuple):
    """What was done: `kv`, `log` or `objects`, and which method."""

    interface: str
    method: str


class Counts:
    """Numbers that only grow, by operation. One for a store, shared by all its handles."""

    def __init__(self) -> None:
        self.calls: Counter[Operation] = Counter()
        self.failures: Counter[Operation] = Counter()
        self.bytes: Counter[Operation] = Counter()
        """Of values that went in or came out, before sealing and after opening."""
        self.took: Callable[[Operation, float], None] | None = None
        """Told of each call's seconds, failed or not."""

    async def call(self, operation: Operation, work: Awaitable[T]) -> T:
        """Count a call of `operation` and whether it failed."""
        self.calls[operation] += 1
        began = time.perf_counter()
        try:
            return await work
        except BaseException:
            self.failures[operation] += 1
            raise
        finally:
            if self.took is not None:
                self.took(operation, time.perf_counter() - began)


_KV_GET: Final = Operation("kv", "get")
_KV_APPLY: Final = Operation("kv", "apply")
_KV_SCAN: Final = Operation("kv", "scan")
_KV_SNAPSHOT: Final = Operation("kv", "snapshot")
_LOG_APPEND: Final = Operation("log", "append")
_LOG_READ: Final = Operation("log", "read")
_LOG_TAIL: Final = Operation("log", "tail")
_OBJECTS_PUT: Final = Operation("objects", "put")
_OBJECTS_GET: Final = Operation("objects", "get")
_OBJECTS_LIST: Final = Operation("objects", "list")
_OBJECTS_DELETE: Final = Operation("objects", "delete")


class MeteredKV(kv.KV):
    """`inner`, counted."""

    def __init__(self, inner: kv.KV, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts

    async def get(self, key: kv.Key) -> kv.Entry | None:
        entry = await self._counts.call(_KV_GET, self._inner.get(key))
        if entry is not None:
            self._counts.bytes[_KV_GET] += len(entry.value)
        return entry

    async def apply(self, ops: Sequence[kv.Op]) -> int:
        revision = await self._counts.call(_KV_APPLY, self._inner.apply(ops))
        self._counts.bytes[_KV_APPLY] += sum(len(op.value) for op in ops if isinstance(op, kv.Put))
        return revision

    async def scan(
        self, prefix: kv.Key, *, starts_with: str = "", after: kv.Key | None = None, limit: int = 1000
    ) -> list[kv.Entry]:
        entries = await self._counts.call(
            _KV_SCAN, self._inner.scan(prefix, starts_with=starts_with, after=after, limit=limit)
        )
        self._counts.bytes[_KV_SCAN] += sum(len(entry.value) for entry in entries)
        return entries

    async def size(self, prefix: kv.Key) -> kv.Size:
        return await self._inner.size(prefix)

    def watch(self, prefix: kv.Key, listener: kv.Listener) -> Callable[[], None]:
        return self._inner.watch(prefix, listener)

    async def snapshot(self, prefix: kv.Key = ()) -> AsyncIterator[kv.Entry]:
        self._counts.calls[_KV_SNAPSHOT] += 1
        async for entry in self._inner.snapshot(prefix):
            self._counts.bytes[_KV_SNAPSHOT] += len(entry.value)
            yield entry

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()


class MeteredLog(log.Log):
    """`inner`, counted."""

    def __init__(self, inner: log.Log, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts

    async def append(
        self, stream: log.Stream, records: Sequence[bytes], *, ttl: float | None = None, expect: int | None = None
    ) -> int:
        last = await self._counts.call(_LOG_APPEND, self._inner.append(stream, records, ttl=ttl, expect=expect))
        self._counts.bytes[_LOG_APPEND] += sum(map(len, records))
        return last

    async def read(
        self, stream: log.Stream, *, after: int = 0, since: float | None = None, limit: int = 1000
    ) -> list[log.Record]:
        records = await self._counts.call(_LOG_READ, self._inner.read(stream, after=after, since=since, limit=limit))
        self._counts.bytes[_LOG_READ] += sum(len(record.data) for record in records)
        return records

    async def tail(self, stream: log.Stream, *, after: int = 0) -> AsyncIterator[log.Record]:
        self._counts.calls[_LOG_TAIL] += 1
        async for record in self._inner.tail(stream, after=after):
            self._counts.bytes[_LOG_TAIL] += len(record.data)
            yield record

    async def last(self, stream: log.Stream) -> int:
        return await self._inner.last(stream)

    async def streams(self, prefix: log.Stream) -> list[log.Stream]:
        return await self._inner.streams(prefix)

    async def trim(self, *, now: float) -> int:
        return await self._inner.trim(now=now)

    async def shrink(self, stream: log.Stream, *, most: int) -> int:
        return await self._inner.shrink(stream, most=most)

    async def drop(self, prefix: log.Stream) -> None:
        await self._inner.drop(prefix)

    def check(self) -> None:
        self._inner.check()

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()


class MeteredObjects(objects.Objects):
    """`inner`, counted."""

    def __init__(self, inner: objects.Objects, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts

    async def put(self, name: objects.Name, data: AsyncIterable[bytes]) -> int:
        async def counted() -> AsyncGenerator[bytes, None]:
            async for chunk in data:
                self._counts.bytes[_OBJECTS_PUT] += len(chunk)
                yield chunk

        return await self._counts.call(_OBJECTS_PUT, self._inner.put(name, counted()))

    async def get(self, name: objects.Name, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        self._counts.calls[_OBJECTS_GET] += 1
        async for chunk in self._inner.get(name, start=start, end=end):
            self._counts.bytes[_OBJECTS_GET] += len(chunk)
            yield chunk

    async def head(self, name: objects.Name) -> objects.Info | None:
        return await self._inner.head(name)

    async def delete(self, name: objects.Name) -> None:
        await self._counts.call(_OBJECTS_DELETE, self._inner.delete(name))

    async def list(
        self, prefix: objects.Name, *, after: objects.Name | None = None, limit: int = 1000
    ) -> list[objects.Info]:
        return await self._counts.call(_OBJECTS_LIST, self._inner.list(prefix, after=after, limit=limit))

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()
