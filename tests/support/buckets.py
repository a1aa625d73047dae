"""Buckets to test with, and what must be true of them at any time."""

from collections.abc import AsyncGenerator, AsyncIterable

import msgspec

from contract.backends import ACME
from smcp.kernel import ids
from smcp.stores import bucket_data, bucket_model, buckets
from smcp.stores import tenant as stores


async def pieces(*parts: bytes) -> AsyncGenerator[bytes, None]:
    """The parts, as a body that arrives."""
    for part in parts:
        yield part


async def whole(reading: buckets.Reading | None) -> bytes:
    """All bytes of a reading, which must be there."""
    assert reading is not None
    return b"".join([chunk async for chunk in reading.body])


async def drained(data: AsyncIterable[bytes]) -> int:
    """How many bytes there are."""
    return sum([len(chunk) async for chunk in data])


async def nothing_left(store: stores.Store, tenant: ids.TenantId = ACME) -> None:
    """Every stored byte belongs to a record: no marker, no orphan, nothing missing, and the quota knows it."""
    handle = store.tenant(tenant)
    names: set[str] = set()
    keys = 0
    async for entry in handle.kv.snapshot((bucket_data.PREFIX,)):
        keys += 1
        kind = entry.key[1]
        if kind == "objects":
            found = msgspec.msgpack.decode(entry.value, type=bucket_model.Object)
            parts, segment = await bucket_data.Data(handle, 1).pieces(found), found.segment
        elif kind == "parts":
            parts, segment = (msgspec.msgpack.decode(entry.value, type=bucket_model.Part).piece,), 0
        else:
            assert kind in ("uploads", "manifests"), entry.key
            continue
        for piece in parts:
            count = -(-piece.size // segment) if segment else 1
            names |= {f"{piece.blob}-{index}" for index in range(count if piece.size else 0)}
    stored = await handle.objects.list((bucket_data.PREFIX,), limit=1_000_000)
    assert {info.name[-1] for info in stored} == names
    every = await handle.objects.list((), limit=1_000_000)
    assert (await handle.usage()).keys == (await handle.kv.size(())).keys + len(every)
