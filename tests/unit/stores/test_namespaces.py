"""Namespaces of Workers KV over a real store: limits, sizes, ends, lists, and what is left behind of large values."""

import asyncio
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from contract import backends
from contract.backends import ACME, OTHER
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import kvrules, namespaces
from smcp.stores import tenant as stores

SIZES = [0, 1, namespaces.INLINE, namespaces.INLINE + 1, namespaces.BESIDE, namespaces.BESIDE + 1, 3_000_000]
LARGE = namespaces.BESIDE + 1


class Kit:
    def __init__(self, store: stores.Store, clock: clocks.FrozenClock) -> None:
        self.store = store
        self.clock = clock
        self.every = namespaces.Namespaces(store)

    async def value(self, key: str) -> bytes | None:
        found = await self.every.get(ACME, "notes", key)
        return None if found is None else await found.read()

    async def objects(self) -> int:
        return len(await self.store.tenant(ACME).objects.list(("worker-kv",)))

    async def left(self) -> int:
        """Everything that is stored for namespaces."""
        handle = self.store.tenant(ACME)
        kept = [await handle.kv.scan((prefix,)) for prefix in ("worker-kv", "worker-kv-value", "worker-kv-blob")]
        return sum(map(len, kept)) + await self.objects()


@pytest.fixture
async def kit(tmp_path: pathlib.Path) -> AsyncIterator[Kit]:
    clock = clocks.FrozenClock()
    store = await backends.opened(tmp_path, clock)
    yield Kit(store, clock)
    await store.close()


async def _pieces(data: bytes, size: int = 50_000) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.requirement("workers:kv:values")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("before", [0, namespaces.INLINE + 1, LARGE])
async def test_values_of_every_size_replace_each_other_and_leave_nothing(kit: Kit, size: int, before: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    await kit.every.put(ACME, "notes", "k", bytes(before), metadata='{"old":1}')
    assert await kit.every.put(ACME, "notes", "k", _pieces(data[:size]), metadata='{"new":1}') == size
    found = await kit.every.get(ACME, "notes", "k")
    assert found is not None
    assert (found.size, found.metadata, found.expires) == (size, '{"new":1}', None)
    assert await found.read() == data[:size]
    assert await kit.every.delete(ACME, "notes", "k")
    assert not await kit.every.delete(ACME, "notes", "k")
    assert await kit.value("k") is None
    assert await kit.left() == 0


@pytest.mark.requirement("workers:kv:limits")
@pytest.mark.parametrize("key", ["", ".", "..", "k" * 513, "é" * 257, "\ud800"])
async def test_what_can_not_be_a_key_is_refused(kit: Kit, key: str) -> None:
    for work in (
        kit.every.put(ACME, "notes", key, b""),
        kit.every.get(ACME, "notes", key),
        kit.every.delete(ACME, "notes", key),
    ):
        with pytest.raises(errors.InvalidParams):
            await work


@pytest.mark.requirement("workers:kv:limits")
@pytest.mark.parametrize("key", ["...", "é" * 256, "\0", "a/b", " ", "bulk/get", "\U0010ffff"])
async def test_any_other_text_is_a_key(kit: Kit, key: str) -> None:
    await kit.every.put(ACME, "notes", key, key.encode())
    assert await kit.value(key) == key.encode()
    assert [one.name for one in (await kit.every.list(ACME, "notes")).keys] == [key]


@pytest.mark.requirement("workers:kv:limits")
async def test_values_metadata_and_ends_have_limits(kit: Kit) -> None:
    now = int(kit.clock.now())
    most = bytes(kvrules.MAX_VALUE)
    assert await kit.every.put(ACME, "notes", "k", _pieces(most, 1_000_000)) == len(most)
    with pytest.raises(errors.TooLarge):
        await kit.every.put(ACME, "notes", "k2", _pieces(most + b"x", 1_000_000))
    text = '"' + "m" * (kvrules.MAX_METADATA - 2) + '"'
    await kit.every.put(ACME, "notes", "k", b"", metadata=text, expires=now + 60)
    for metadata, expires, kind in (
        (text[:-1] + 'm"', None, errors.TooLarge),
        ("{", None, errors.InvalidParams),
        ("[\n]", None, errors.InvalidParams),  # it is a header field on its way
        (None, now + 59, errors.InvalidParams),
        (None, 2**53, errors.InvalidParams),
    ):
        with pytest.raises(kind):
            await kit.every.put(ACME, "notes", "k", b"", metadata=metadata, expires=expires)
    assert (await kit.every.list(ACME, "notes")).keys == [
        namespaces.Listed(name="k", size=0, metadata=text, expires=now + 60)
    ]
    assert await kit.objects() == 0  # the refused value, and the one that was replaced


@pytest.mark.requirement("workers:kv:limits")
@pytest.mark.parametrize("text", ["", "a/b", "-a", "a" * 65, "é", "a b", "..", "a\n"])
def test_what_can_not_be_a_namespace_is_refused(text: str) -> None:
    with pytest.raises(errors.BadName):
        kvrules.name(text)


@pytest.mark.requirement("workers:kv:lists")
async def test_lists_are_sorted_by_their_bytes_and_go_on_where_they_ended(kit: Kit) -> None:
    names = ["a", "a\0", "a/", "a/1", "aé", "a\uffff", "a\U00010000", "b", "B", "é"]
    for one in names:
        await kit.every.put(ACME, "notes", one, b"x", metadata=f'"{len(one)}"')
        await kit.every.put(ACME, "note", one, b"another namespace")
        await kit.every.put(OTHER, "notes", one + "s", b"another tenant")
    for prefix in ("", "a", "a/", "aé", "z"):
        for limit in (1, 2, 3, 1000):
            wanted = sorted((one for one in names if one.startswith(prefix)), key=str.encode)
            got: list[str] = []
            cursor = ""
            while True:
                page = await kit.every.list(ACME, "notes", prefix=prefix, cursor=cursor, limit=limit)
                assert len(page.keys) == min(limit, len(wanted) - len(got))
                assert all(one.metadata == f'"{len(one.name)}"' for one in page.keys)
                got += [one.name for one in page.keys]
                if page.cursor is None:
                    break
                cursor = page.cursor
            assert got == wanted


@pytest.mark.requirement("workers:kv:lists")
async def test_a_cursor_fits_its_own_list_only(kit: Kit) -> None:
    for tenant in (ACME, OTHER):
        for namespace in ("notes", "other"):
            for one in ("a-first", "a-second"):
                await kit.every.put(tenant, namespace, one, b"")
    cursor = (await kit.every.list(ACME, "notes", prefix="a", limit=1)).cursor
    assert cursor is not None
    assert "a-first" not in cursor
    assert [one.name for one in (await kit.every.list(ACME, "notes", prefix="a", cursor=cursor)).keys] == ["a-second"]
    for tenant, namespace, prefix, text in (
        (OTHER, "notes", "a", cursor),
        (ACME, "other", "a", cursor),
        (ACME, "notes", "", cursor),
        (ACME, "notes", "a", cursor[:-2]),
        (ACME, "notes", "a", "é"),
        (ACME, "notes", "a", "a-first"),
    ):
        with pytest.raises(errors.InvalidParams):
            await kit.every.list(tenant, namespace, prefix=prefix, cursor=text)
    for limit in (0, 1001):
        with pytest.raises(errors.InvalidParams):
            await kit.every.list(ACME, "notes", limit=limit)


@pytest.mark.requirement("workers:kv:lists")
async def test_namespaces_are_listed_measured_and_cleared(kit: Kit) -> None:
    for namespace, sizes in (("a", [1]), ("a-b", [2, 3]), ("ab", [LARGE, 4])):
        for number, size in enumerate(sizes):
            await kit.every.put(ACME, namespace, f"k{number}", bytes(size))
    await kit.every.put(OTHER, "theirs", "k", b"x")
    assert await kit.every.names(ACME) == ["a", "a-b", "ab"]
    assert await kit.every.names(ACME, after="a", limit=1) == ["a-b"]
    assert await kit.every.size(ACME, "ab") == namespaces.Size(keys=2, bytes=LARGE + 4)
    assert await kit.every.clear(ACME, "ab") == namespaces.Size(keys=2, bytes=LARGE + 4)
    assert await kit.every.clear(ACME, "ab") == namespaces.Size(keys=0, bytes=0)
    assert await kit.every.names(ACME) == ["a", "a-b"]
    assert await kit.every.names(OTHER) == ["theirs"]
    assert await kit.objects() == 0


@pytest.mark.requirement("workers:kv:atomic")
async def test_a_large_value_stays_what_it_was_while_it_is_read(kit: Kit) -> None:
    old, new = b"o" * 1_000_000, b"n" * 1_000_000
    await kit.every.put(ACME, "notes", "k", old)
    first = await kit.every.get(ACME, "notes", "k")
    second = await kit.every.get(ACME, "notes", "k")
    await kit.every.put(ACME, "notes", "k", new)
    assert await kit.objects() == 2
    assert first is not None
    assert second is not None
    assert await first.read() == old
    await second.close()
    await second.close()
    assert await kit.objects() == 1
    assert await kit.value("k") == new


@pytest.mark.requirement("workers:kv:atomic")
async def test_whoever_reads_meanwhile_sees_one_writing_of_a_key_whole(kit: Kit) -> None:
    async def writes(number: int) -> None:
        for turn in range(12):
            size = SIZES[(number + turn) % len(SIZES)]
            mark = number * 12 + turn
            await kit.every.put(ACME, "notes", "k", bytes([mark]) * size, metadata=f"[{mark},{size}]")

    async def reads() -> None:
        while not written.done():
            found = await kit.every.get(ACME, "notes", "k")
            if found is not None and found.metadata is not None:
                mark, size = map(int, found.metadata.strip("[]").split(","))
                assert await found.read() == bytes([mark]) * size

    written = asyncio.gather(*(writes(number) for number in range(4)))
    await asyncio.gather(written, *(reads() for _ in range(4)))
    await kit.every.delete(ACME, "notes", "k")
    assert await kit.left() == 0


@pytest.mark.requirement("workers:kv:leftovers")
async def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(kit: Kit) -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield bytes(LARGE)
        raise errors.RequestTimeout

    await kit.every.put(ACME, "notes", "k", b"before")
    with pytest.raises(errors.RequestTimeout):
        await kit.every.put(ACME, "notes", "k", broken())
    assert await kit.value("k") == b"before"
    assert await kit.left() == 1

    reached = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        yield bytes(LARGE)
        reached.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(kit.every.put(ACME, "notes", "k", endless()))
    await reached.wait()
    assert await kit.every.sweep(ACME) == 0  # what is being written is nobody's leftover
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await kit.left() == 1


@pytest.mark.requirement("workers:kv:leftovers")
async def test_a_key_whose_time_is_up_leaves_nothing(kit: Kit) -> None:
    usage = await kit.store.tenant(ACME).usage()
    for number, size in enumerate([1, namespaces.INLINE + 1, LARGE]):
        await kit.every.put(ACME, "notes", f"k{number}", bytes(size), expires=int(kit.clock.now()) + 60)
    kit.clock.advance(59)
    assert len((await kit.every.list(ACME, "notes")).keys) == 3
    assert await kit.every.sweep(ACME) == 0
    kit.clock.advance(1)
    assert (await kit.every.list(ACME, "notes")).keys == []
    assert await kit.value("k2") is None
    assert await kit.every.names(ACME) == []
    assert await kit.every.sweep(ACME) == 1
    assert await kit.left() == 0
    await kit.store.tenant(ACME).kv.put(("other",), b"")  # what has ended goes with the store's own sweep
    assert (await kit.store.tenant(ACME).usage()).bytes < usage.bytes + 5000


@pytest.mark.requirement("workers:kv:quota")
async def test_a_tenants_quota_holds_and_nothing_of_a_refused_value_counts(tmp_path: pathlib.Path) -> None:
    store = await backends.opened(tmp_path, clocks.FrozenClock(), quota_bytes=1_000_000)
    every = namespaces.Namespaces(store)
    try:
        await every.put(ACME, "notes", "k", bytes(500_000))
        before = await store.tenant(ACME).usage()
        with pytest.raises(errors.QuotaExceeded):
            await every.put(ACME, "notes", "k2", bytes(600_000))
        for number in range(3):
            await every.put(ACME, "notes", f"small{number}", bytes(120_000))
        with pytest.raises(errors.QuotaExceeded):
            await every.put(ACME, "notes", "small", bytes(120_000))
        await every.put(OTHER, "notes", "k", bytes(500_000))
        await every.clear(ACME, "notes")
        after = await store.tenant(ACME).usage()
        assert after.bytes < before.bytes - 500_000
    finally:
        await store.close()


@pytest.mark.requirement("workers:kv:erased")
async def test_erasing_a_tenant_erases_its_namespaces(kit: Kit) -> None:
    for tenant in (ACME, OTHER):
        for number, size in enumerate([1, namespaces.INLINE + 1, LARGE]):
            await kit.every.put(tenant, "notes", f"k{number}", bytes(size))
    await kit.store.erase(ACME)
    with pytest.raises(errors.NotFound):
        await kit.every.get(ACME, "notes", "k0")
    await kit.store.provision(ACME)
    assert await kit.left() == 0
    assert await kit.every.names(ACME) == []
    assert await kit.every.size(OTHER, "notes") == namespaces.Size(keys=3, bytes=LARGE + namespaces.INLINE + 2)
