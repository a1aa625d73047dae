"""Typed documents: compare-and-set, and a memory that is never older than an acknowledged write."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import backends
from contract.backends import ACME, OTHER
from contract.kv import UNHURRIED
from contract.objects import pieces
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import records, tenant
from smcp.stores.kv import base as kv_base
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import sqlite as log_sqlite
from smcp.stores.objects import obstore


class Doc(msgspec.Struct, frozen=True):
    number: int
    note: str = ""


class SlowKV(kv_sqlite.SqliteKV):
    """SQLite whose answers to `get` wait, after they were read, until they are let go."""

    def __init__(self, path: Path, clock: clocks.Clock) -> None:
        super().__init__(path, clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = asyncio.Event()

    async def get(self, key: kv_base.Key) -> kv_base.Entry | None:
        entry = await super().get(key)
        self.held.set()
        await self.gate.wait()
        return entry


class Kit:
    """A store over a slow KV, and records in it."""

    def __init__(self, directory: Path) -> None:
        self.clock = clocks.FrozenClock()
        self.kv = SlowKV(directory / "kv.db", self.clock)
        self.store = tenant.Store(
            self.kv,
            log_sqlite.SqliteLog(directory / "log.db", self.clock),
            obstore.ObstoreObjects.in_directory(directory / "objects"),
            backends.ring(directory),
            self.clock,
            quota_bytes=10**9,
            quota_keys=10**6,
        )
        self.docs = records.Records(self.store, Doc, ("doc",), cached=16)


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    kit = Kit(tmp_path)
    await kit.store.start()
    yield kit
    await kit.store.close()


@pytest.mark.requirement("stores:records:typed")
async def test_a_document_comes_back_as_it_was_with_its_revision(kit: Kit) -> None:
    revision = await kit.docs.create(ACME, ("a", "b"), Doc(1, "ü"))
    assert await kit.docs.get(ACME, "a", "b") == records.Versioned(Doc(1, "ü"), revision)
    assert await kit.docs.get(OTHER, "a", "b") is None
    with pytest.raises(errors.Conflict):
        await kit.docs.create(ACME, ("a", "b"), Doc(2))
    with pytest.raises(errors.Conflict):
        await kit.docs.put(ACME, ("a", "b"), Doc(2), expect=revision + 1)
    second = await kit.docs.put(ACME, ("a", "b"), Doc(2), expect=revision)
    with pytest.raises(errors.Conflict):
        await kit.docs.delete(ACME, ("a", "b"), expect=revision)
    await kit.docs.delete(ACME, ("a", "b"), expect=second)
    assert await kit.docs.get(ACME, "a", "b") is None


@pytest.mark.requirement("stores:records:typed")
async def test_listing_is_in_order_by_pages_and_keys_are_those_that_get_takes(kit: Kit) -> None:
    for name in "cab":
        await kit.docs.create(ACME, ("x", name), Doc(ord(name)))
    await kit.docs.create(ACME, ("y", "z"), Doc(0))
    page = await kit.docs.list(ACME, "x", limit=2)
    assert [key for key, _ in page] == [("x", "a"), ("x", "b")]
    assert [key for key, _ in await kit.docs.list(ACME, "x", after="b")] == [("x", "c")]
    assert [found.value.number for _, found in await kit.docs.list(ACME)] == [97, 98, 99, 0]
    for key, found in page:
        assert await kit.docs.get(ACME, *key) == found


@pytest.mark.requirement("stores:records:memory")
async def test_what_was_read_or_written_is_answered_from_memory_also_that_it_is_missing(kit: Kit) -> None:
    assert kit.docs.peek(ACME, "a") is records.UNKNOWN
    assert await kit.docs.get(ACME, "a") is None
    assert kit.docs.peek(ACME, "a") is None
    revision = await kit.docs.put(ACME, ("a",), Doc(1))
    assert kit.docs.peek(ACME, "a") == records.Versioned(Doc(1), revision)
    kit.kv.gate.clear()
    assert await kit.docs.get(ACME, "a") == records.Versioned(Doc(1), revision), "the storage would not answer"
    await kit.docs.delete(ACME, ("a",))
    assert kit.docs.peek(ACME, "a") is records.UNKNOWN


@pytest.mark.requirement("stores:records:never-stale")
async def test_a_slow_read_that_a_write_overtook_is_not_remembered(kit: Kit) -> None:
    await kit.docs.put(ACME, ("a",), Doc(1))
    fresh = records.Records(kit.store, Doc, ("doc",))
    kit.kv.gate.clear()
    kit.kv.held.clear()
    reading = asyncio.create_task(fresh.get(ACME, "a"))
    await kit.kv.held.wait()
    revision = await kit.docs.put(ACME, ("a",), Doc(2))
    kit.kv.gate.set()
    late = await reading
    assert late is not None
    assert late.value == Doc(1), "it asked before the write was acknowledged, so both answers are right for it"
    assert fresh.peek(ACME, "a") is records.UNKNOWN
    assert await fresh.get(ACME, "a") == records.Versioned(Doc(2), revision)


@pytest.mark.requirement("stores:records:never-stale")
async def test_a_slow_read_of_nothing_that_a_creation_overtook_is_not_remembered(kit: Kit) -> None:
    kit.kv.gate.clear()
    kit.kv.held.clear()
    reading = asyncio.create_task(kit.docs.get(ACME, "a"))
    await kit.kv.held.wait()
    other = records.Records(kit.store, Doc, ("doc",))
    await other.create(ACME, ("a",), Doc(1))
    kit.kv.gate.set()
    assert await reading is None
    assert kit.docs.peek(ACME, "a") is records.UNKNOWN


@pytest.mark.requirement("stores:records:never-stale")
async def test_a_write_that_another_one_followed_at_once_is_not_remembered(kit: Kit) -> None:
    for _ in range(20):
        await asyncio.gather(kit.docs.put(ACME, ("a",), Doc(1)), kit.docs.delete(ACME, ("a",)))
        stored = await kit.store.tenant(ACME).kv.get(("doc", "a"))
        assert stored is None
        assert not isinstance(kit.docs.peek(ACME, "a"), records.Versioned)


@pytest.mark.requirement("stores:records:never-stale")
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=15, deadline=None, suppress_health_check=UNHURRIED)
async def test_no_reader_sees_less_than_what_was_acknowledged_before_it_asked(
    kit: Kit, plan: Sequence[tuple[int, bool]]
) -> None:
    acknowledged = dict.fromkeys("abc", 0)
    for name in "abc":
        acknowledged[name] = await kit.docs.put(ACME, (name,), Doc(0))

    async def write(name: str) -> None:
        revision = await kit.docs.put(ACME, (name,), Doc(1))
        acknowledged[name] = max(acknowledged[name], revision)

    async def read(name: str) -> None:
        for _ in range(3):
            least = acknowledged[name]
            found = kit.docs.peek(ACME, name)
            if found is records.UNKNOWN:
                found = await kit.docs.get(ACME, name)
            assert isinstance(found, records.Versioned)
            assert found.revision >= least
            await asyncio.sleep(0)

    await asyncio.gather(*[write("abc"[at]) if writes else read("abc"[at]) for at, writes in plan])
    for name in "abc":
        found = await kit.docs.get(ACME, name)
        assert found is not None
        assert found.revision == acknowledged[name]


@pytest.mark.requirement("stores:records:update")
async def test_updates_by_many_at_once_are_all_applied(kit: Kit) -> None:
    await kit.docs.create(ACME, ("n",), Doc(0))

    def add(doc: Doc) -> Doc:
        return msgspec.structs.replace(doc, number=doc.number + 1)

    await asyncio.gather(*[kit.docs.update(ACME, ("n",), add) for _ in range(25)])
    found = await kit.docs.get(ACME, "n")
    assert found is not None
    assert found.value.number == 25
    with pytest.raises(errors.NotFound):
        await kit.docs.update(ACME, ("none",), add)


@pytest.mark.requirement("stores:records:ttl")
async def test_memory_forgets_when_the_time_to_live_has_passed_and_an_update_keeps_it(kit: Kit) -> None:
    await kit.docs.put(ACME, ("a",), Doc(1), ttl=10)
    await kit.docs.update(ACME, ("a",), lambda doc: Doc(doc.number + 1))
    fresh = records.Records(kit.store, Doc, ("doc",))
    assert await fresh.get(ACME, "a") is not None
    kit.clock.advance(9.5)
    for docs in (kit.docs, fresh):
        assert isinstance(docs.peek(ACME, "a"), records.Versioned)
    kit.clock.advance(0.6)
    for docs in (kit.docs, fresh):
        assert docs.peek(ACME, "a") is None
        assert await docs.get(ACME, "a") is None
    await kit.docs.create(ACME, ("a",), Doc(3))
    assert await fresh.get(ACME, "a") is not None


@pytest.mark.requirement("stores:records:bounded")
async def test_memory_is_bounded_and_the_longest_unused_goes_first(kit: Kit) -> None:
    for n in range(16):
        await kit.docs.put(ACME, (str(n),), Doc(n))
    assert isinstance(kit.docs.peek(ACME, "0"), records.Versioned)
    await kit.docs.put(ACME, ("more",), Doc(0))
    assert kit.docs.peek(ACME, "1") is records.UNKNOWN
    assert isinstance(kit.docs.peek(ACME, "0"), records.Versioned)
    for n in range(100):
        await kit.docs.get(ACME, f"none-{n}")
    assert isinstance(kit.docs.peek(ACME, "0"), records.Versioned), "asking for what is missing drives nothing out"
    assert [kit.docs.peek(ACME, f"none-{n}") for n in range(98)] == [records.UNKNOWN] * 98


async def test_a_tenant_that_does_not_exist_has_no_documents_and_takes_none(kit: Kit) -> None:
    nobody = ids.tenant("nobody")
    assert kit.docs.peek(nobody, "a") is None
    assert await kit.docs.get(nobody, "a") is None
    assert await kit.docs.list(nobody) == []
    with pytest.raises(errors.NotFound):
        await kit.docs.put(nobody, ("a",), Doc(1))


@pytest.mark.requirement("stores:tenant:erase")
async def test_memory_forgets_an_erased_tenant(kit: Kit) -> None:
    await kit.docs.put(ACME, ("a",), Doc(1))
    await kit.store.tenant(ACME).objects.put(("o",), pieces(b"1"))
    await kit.store.erase(ACME)
    assert kit.docs.peek(ACME, "a") is None
    await kit.store.provision(ACME)
    assert await kit.docs.get(ACME, "a") is None


async def test_a_value_that_is_no_such_document_is_an_error(kit: Kit) -> None:
    await kit.store.tenant(ACME).kv.put(("doc", "a"), b"\xc1")
    with pytest.raises(errors.TamperedData):
        await kit.docs.get(ACME, "a")
