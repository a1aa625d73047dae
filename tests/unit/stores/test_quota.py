"""A tenant's quota is exact: never passed, never charged twice, and the same after a restart."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from contract import backends
from contract.backends import ACME, OTHER
from contract.objects import pieces, whole
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import tenant
from smcp.stores.kv import base as kv_base

MAX_BYTES = 200_000
MAX_KEYS = 20
Open = Callable[[], Coroutine[Any, Any, tenant.Store]]


@pytest.fixture
def clock() -> clocks.FrozenClock:
    return clocks.FrozenClock()


@pytest.fixture
async def reopen(tmp_path: Path, clock: clocks.FrozenClock) -> AsyncIterator[Open]:
    """Opens the store; a second call closes it and opens it again."""
    stores: list[tenant.Store] = []

    async def opened() -> tenant.Store:
        if stores:
            await stores.pop().close()
        stores.append(await backends.opened(tmp_path, clock, quota_bytes=MAX_BYTES, quota_keys=MAX_KEYS))
        return stores[-1]

    yield opened
    for store in stores:
        await store.close()


async def counted(handle: tenant.Handle) -> tenant.Usage:
    """What is stored in fact, from the storage itself: sealed values and objects with their names."""
    size = await handle.kv.size(())
    blobs = await handle.objects.list((), limit=10_000)
    # 17 bytes of header and 40 for each chunk of 64 KiB; names with the tenant before them, each segment ended by NUL.
    stored = sum(info.size + 17 + 40 * max(1, -(-info.size // 65536)) for info in blobs)
    names = sum(len(segment.encode()) + 1 for info in blobs for segment in (handle.tenant, *info.name))
    return tenant.Usage(size.bytes + stored + names, size.keys + len(blobs))


@pytest.mark.requirement("stores:quota:exact")
async def test_usage_is_what_is_stored_whatever_was_done(reopen: Open, clock: clocks.FrozenClock) -> None:
    handle = (await reopen()).tenant(ACME)
    steps: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: handle.kv.put(("a",), b"1" * 100),
        lambda: handle.kv.put(("a",), b"1" * 5000),
        lambda: handle.kv.put(("a",), b"1"),
        lambda: handle.kv.put(("b", "ü\0"), b"", ttl=10),
        lambda: handle.kv.put(("b", "ü\0"), b"22", ttl=10),
        lambda: handle.objects.put(("o", "ü"), pieces(b"x" * 70_000)),
        lambda: handle.objects.put(("p",), pieces(b"")),
        lambda: handle.kv.apply([kv_base.Delete(("a",)), kv_base.Put(("c",), b"3"), kv_base.Delete(("none",))]),
        lambda: handle.objects.delete(("o", "ü")),
        lambda: handle.objects.delete(("o", "ü")),
        lambda: handle.kv.delete(("none",)),
    ]
    assert await handle.usage() == (0, 0)
    for step in steps:
        await step()
        assert await handle.usage() == await counted(handle)
    clock.advance(11)
    await handle.kv.put(("b", "ü\0"), b"again")
    assert await handle.usage() == await counted(handle)
    assert (await handle.usage()).keys == 3


@pytest.mark.requirement("stores:quota:exact")
async def test_a_write_over_the_quota_is_refused_whole_and_one_up_to_it_is_not(reopen: Open) -> None:
    handle = (await reopen()).tenant(ACME)
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.apply([kv_base.Put(("small",), b"1"), kv_base.Put(("big",), bytes(MAX_BYTES))])
    assert await handle.kv.get(("small",)) is None
    assert await handle.usage() == (0, 0)
    for n in range(MAX_KEYS):
        await handle.kv.put(("k", str(n)), b"")
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("one more",), b"")
    with pytest.raises(errors.QuotaExceeded):
        await handle.objects.put(("one more",), pieces(b""))
    await handle.kv.put(("k", "0"), b"an old key may be written")
    await handle.kv.apply([kv_base.Delete(("k", "1")), kv_base.Put(("one more",), b"")])
    assert await handle.usage() == await counted(handle)


@pytest.mark.requirement("stores:quota:exact")
async def test_many_writers_at_once_fill_the_quota_and_do_not_pass_it(reopen: Open) -> None:
    handle = (await reopen()).tenant(ACME)

    async def write(n: int) -> bool:
        try:
            if n % 3:
                await handle.kv.put(("k", str(n)), bytes(15_000))
            else:
                await handle.objects.put(("o", str(n)), pieces(bytes(10_000), bytes(5_000)))
        except errors.QuotaExceeded:
            return False
        return True

    stored = await asyncio.gather(*[write(n) for n in range(60)])
    usage = await handle.usage()
    assert usage == await counted(handle)
    assert usage.keys == stored.count(True)
    assert MAX_BYTES - MAX_BYTES // 16 - 2 * 15_100 < usage.bytes <= MAX_BYTES, "full, but for what did not fit"


@pytest.mark.requirement("stores:quota:parallel")
async def test_a_hundred_parallel_writers_never_pass_the_quota_nor_do_they_after_a_restart(reopen: Open) -> None:
    """Keys and objects of all sizes, some of them given up half-way: looked at while it goes on, and after it."""
    handle = (await reopen()).tenant(ACME)
    most = 0

    async def write(writer: int, turn: int) -> None:
        nonlocal most
        size = 200 * (writer % 13 + 1)
        work = (
            handle.objects.put(("o", str(writer), str(turn)), pieces(bytes(size), bytes(size)))
            if writer % 4 == 0
            else handle.kv.put(("k", str(writer % 40)), bytes(size * 3))
        )
        task = asyncio.ensure_future(work)
        if writer % 5 == 0:
            for _ in range(writer):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        most = max(most, (await counted(handle)).bytes)

    for turn in range(2):
        await asyncio.gather(*[write(writer, turn) for writer in range(100)])
        handle = (await reopen()).tenant(ACME)
        usage = await handle.usage()
        assert usage == await counted(handle)
        assert usage.bytes <= MAX_BYTES
        assert usage.keys <= MAX_KEYS
    assert 0 < most <= MAX_BYTES


@pytest.mark.requirement("stores:quota:parallel")
async def test_an_object_whose_writer_gave_up_is_charged_if_it_is_there(reopen: Open) -> None:
    handle = (await reopen()).tenant(ACME)
    for patience in range(0, 60, 3):
        task = asyncio.ensure_future(handle.objects.put(("o", str(patience)), pieces(bytes(1000))))
        for _ in range(patience):
            await asyncio.sleep(0.0003)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await handle.usage() == await counted(handle)


@pytest.mark.requirement("stores:quota:follows")
async def test_a_quota_that_changes_counts_from_the_next_write_on(reopen: Open) -> None:
    store = await reopen()
    handle = store.tenant(ACME)
    await handle.kv.put(("a",), bytes(100_000))
    store.limit(lambda who: quota(who, 50_000))
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("b",), bytes(1000))
    await handle.kv.put(("a",), bytes(99_000))
    assert await handle.kv.get(("a",)) is not None, "what is there stays, and may shrink"
    store.limit(lambda who: quota(who, 500_000))
    await handle.kv.put(("b",), bytes(150_000))
    assert await handle.usage() == await counted(handle)


def quota(who: ids.TenantId, most: int) -> tenant.Quota:
    return tenant.Quota(most if who == ACME else 10**9, 1000)


@pytest.mark.requirement("stores:quota:exact")
async def test_writers_of_the_same_keys_are_charged_once(reopen: Open) -> None:
    handle = (await reopen()).tenant(ACME)

    async def work(n: int) -> None:
        for turn in range(12):
            key = ("k", str((n + turn) % 5))
            if (n + turn) % 4 == 0:
                await handle.kv.delete(key)
            else:
                await handle.kv.put(key, bytes(20_000 + 1000 * n))

    await asyncio.gather(*[work(n) for n in range(8)])
    assert await handle.usage() == await counted(handle)
    assert (await handle.usage()).bytes <= MAX_BYTES


@pytest.mark.requirement("stores:quota:revoke")
async def test_with_a_full_quota_an_old_key_can_still_grow_a_little_and_shrink_and_go(reopen: Open) -> None:
    handle = (await reopen()).tenant(ACME)
    await handle.kv.put(("api key",), b"x" * 100)
    for n in range((MAX_BYTES - MAX_BYTES // 16) // 20_100):
        await handle.kv.put(("fill", str(n)), bytes(20_000))
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("fill", "last"), bytes(20_000))
    await handle.kv.put(("api key",), b"x" * 120)
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("api key",), bytes(MAX_BYTES))
    await handle.kv.put(("fill", "0"), b"")
    await handle.kv.put(("fill", "last"), bytes(20_000))
    assert (await handle.usage()).bytes <= MAX_BYTES


@pytest.mark.requirement("stores:quota:exact")
async def test_an_object_that_passes_the_quota_on_its_way_is_not_stored(reopen: Open) -> None:
    handle = (await reopen()).tenant(ACME)
    sent = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 65536
            yield bytes(65536)

    with pytest.raises(errors.QuotaExceeded):
        await handle.objects.put(("o",), endless())
    assert sent < 3 * MAX_BYTES
    assert await handle.objects.list(()) == []
    assert await handle.usage() == (0, 0)
    await handle.objects.put(("o",), pieces(bytes(100_000)))


@pytest.mark.requirement("stores:quota:restart")
async def test_usage_is_the_same_after_a_restart(reopen: Open, clock: clocks.FrozenClock) -> None:
    handle = (await reopen()).tenant(ACME)
    await handle.kv.put(("a",), b"1" * 1000)
    await handle.kv.put(("short",), b"1", ttl=5)
    await handle.objects.put(("o",), pieces(bytes(100_000)))
    before = await handle.usage()
    clock.advance(10)
    handle = (await reopen()).tenant(ACME)
    assert await handle.usage() == before, "what has expired counts until it is removed"
    await handle.kv.put(("short",), b"1")
    assert await handle.usage() == before
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("b",), bytes(MAX_BYTES - before.bytes))


@pytest.mark.requirement("stores:quota:tenants-apart")
async def test_one_tenants_full_quota_is_its_own(reopen: Open) -> None:
    store = await reopen()
    with pytest.raises(errors.QuotaExceeded):
        await store.tenant(ACME).kv.put(("a",), bytes(MAX_BYTES))
    await store.tenant(OTHER).kv.put(("a",), bytes(100_000))
    for n in range(2 * MAX_KEYS):
        await store.platform().kv.put(("k", str(n)), bytes(MAX_BYTES // 4))
    assert (await store.tenant(ACME).usage()).bytes == 0


@pytest.mark.requirement("stores:tenant:erase")
async def test_erasing_removes_everything_and_old_handles_write_no_more(reopen: Open) -> None:
    store = await reopen()
    old, other = store.tenant(ACME), store.tenant(OTHER)
    for handle in (old, other):
        await handle.kv.put(("a",), b"1")
        await handle.log.append(("s",), [b"1"])
        await handle.objects.put(("o",), pieces(b"1"))
    key = store.ring.data_key(ACME, "x")
    await store.erase(ACME)
    assert not store.knows(ACME)
    with pytest.raises(errors.NotFound):
        store.tenant(ACME)
    with pytest.raises(errors.NotFound):
        await old.kv.put(("a",), b"2")
    with pytest.raises(errors.NotFound):
        await old.objects.put(("o",), pieces(b"2"))
    await store.erase(ACME)
    await store.provision(ACME)
    new = store.tenant(ACME)
    assert await new.kv.scan(()) == []
    assert await new.log.streams(()) == []
    assert await new.objects.list(()) == []
    assert await new.usage() == (0, 0)
    assert store.ring.data_key(ACME, "x") != key
    assert await whole(other.objects, ("o",)) == b"1"
    with pytest.raises(errors.Forbidden):
        await store.erase(store.platform().tenant)


@pytest.mark.requirement("stores:metered:counts")
async def test_what_is_done_is_counted_with_its_failures_and_bytes(reopen: Open) -> None:
    store = await reopen()
    handle = store.tenant(ACME)
    await handle.kv.put(("a",), b"12345")
    with pytest.raises(errors.Conflict):
        await handle.kv.put(("a",), b"1", expect=kv_base.ABSENT)
    await handle.kv.get(("a",))
    await handle.log.append(("s",), [b"12", b"34"])
    await handle.objects.put(("o",), pieces(b"1234567"))
    assert await whole(handle.objects, ("o",)) == b"1234567"
    counts = store.counts
    named = {
        f"{op.interface}.{op.method}": (counts.calls[op], counts.failures[op], counts.bytes[op]) for op in counts.calls
    }
    assert named == {
        "kv.apply": (2, 1, 5),
        "kv.get": (1, 0, 5),
        "log.append": (1, 0, 4),
        "objects.put": (1, 0, 7),
        "objects.get": (1, 0, 7),
    }
