"""What strangers cause has a small share of its own: exact, and nothing of what the tenant itself may write."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import msgspec
import pytest

from contract import backends
from contract.backends import ACME, OTHER
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import records, shares, tenant, vouched
from smcp.stores.kv import base as kv_base

Open = Callable[[], Coroutine[None, None, tenant.Store]]
MOST = shares.SHARES[shares.ASSERTION].records


@pytest.fixture
def clock() -> clocks.FrozenClock:
    return clocks.FrozenClock()


@pytest.fixture
async def reopen(tmp_path: Path, clock: clocks.FrozenClock) -> AsyncIterator[Open]:
    """Opens a store whose tenants may have five keys; a second call closes it and opens it again."""
    opened: list[tenant.Store] = []

    async def again() -> tenant.Store:
        if opened:
            await opened.pop().close()
        opened.append(await backends.opened(tmp_path, clock, quota_bytes=200_000, quota_keys=5))
        return opened[-1]

    yield again
    for store in opened:
        await store.close()


def put(
    name: str, kind: str = shares.ASSERTION, value: bytes = b"x", expect: int | None = kv_base.ABSENT
) -> kv_base.Put:
    return kv_base.Put((*shares.prefix(kind), name), value, 600.0, expect)


async def fill(store: tenant.Store, count: int, owner: ids.TenantId = ACME) -> None:
    for first in range(0, count, 500):
        await store.tenant(owner).kv.apply([put(f"n{number}") for number in range(first, min(first + 500, count))])


@pytest.mark.requirement("stores:shares:exact", "attack:oauth:strangers-storage")
async def test_a_full_share_refuses_strangers_and_stops_nothing_of_the_tenants_own(reopen: Open) -> None:
    """Attack: cause so many records without a credential that the tenant itself can write nothing any more."""
    store = await reopen()
    handle = store.tenant(ACME)
    await handle.kv.put(("mine",), b"1")
    before = await handle.usage()
    await fill(store, MOST)
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.apply([put("more")])
    # A write of both kinds is refused whole.
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.apply([put("more"), kv_base.Put(("mine too",), b"1")])
    assert await handle.usage() == before
    for number in range(4):
        await handle.kv.put(("mine", str(number)), b"1")
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.put(("mine", "more"), b"1")
    # Neither another kind's share, nor another tenant's; and a full quota stops no stranger: the share is apart.
    await handle.kv.apply([put("one", shares.USER_CODE)])
    await fill(store, 1, OTHER)
    # What replaces another, or goes, finds place.
    held = await handle.kv.get((*shares.prefix(shares.ASSERTION), "n1"))
    assert held is not None
    await handle.kv.apply([put("n1", expect=held.revision)])
    await handle.kv.delete((*shares.prefix(shares.ASSERTION), "n2"))
    await handle.kv.apply([put("in its place")])
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.apply([put("more")])


@pytest.mark.requirement("stores:shares:exact")
async def test_many_writers_at_once_do_not_pass_a_share_nor_after_a_restart(
    reopen: Open, clock: clocks.FrozenClock
) -> None:
    store = await reopen()
    await fill(store, MOST - 30)

    async def write(number: int) -> bool:
        try:
            await store.tenant(ACME).kv.apply([put(f"late{number}")])
        except errors.QuotaExceeded:
            return False
        return True

    passed = (await asyncio.gather(*(write(number) for number in range(60)))).count(True)
    size = await store.tenant(ACME).kv.size(shares.prefix(shares.ASSERTION))
    assert (passed, size.keys) == (30, MOST)
    store = await reopen()
    assert await store.tenant(ACME).usage() == (0, 0)
    with pytest.raises(errors.QuotaExceeded):
        await store.tenant(ACME).kv.apply([put("more")])
    # What has ended gives its place back, once it is looked at.
    clock.advance(601)
    await store.tenant(ACME).kv.apply([kv_base.Delete((*shares.prefix(shares.ASSERTION), "n1"))])
    await store.tenant(ACME).kv.apply([put("more")])


@pytest.mark.requirement("stores:shares:exact")
@pytest.mark.parametrize("kind", sorted(shares.SHARES))
async def test_a_strangers_record_has_a_greatest_size(reopen: Open, kind: str) -> None:
    handle = (await reopen()).tenant(ACME)
    most = shares.SHARES[kind].bytes
    await handle.kv.apply([put("fits", kind, bytes(most - 64))])
    with pytest.raises(errors.QuotaExceeded):
        await handle.kv.apply([put("does not", kind, bytes(most))])
    assert sum(one.records * one.bytes for one in shares.SHARES.values()) < 16 * 10**6


class Paper(msgspec.Struct, frozen=True):
    """Something that may be vouched for."""

    text: str
    strange: bool = True


def papers(store: tenant.Store) -> vouched.Vouched[Paper]:
    return vouched.Vouched(store, Paper, shares.CLIENT, ("papers",), lambda one: one.strange)


def signed(paper: Paper) -> Paper:
    return Paper(paper.text + "!", strange=False)


@pytest.mark.requirement("stores:shares:vouched")
async def test_what_somebody_vouches_for_becomes_the_tenants_own_in_one_write(reopen: Open) -> None:
    store = await reopen()
    kept, other = papers(store), papers(store)
    await kept.create(ACME, "a", Paper("a"))
    assert await store.tenant(ACME).usage() == (0, 0)
    assert await other.get(ACME, "b") is None
    for one in (kept, other):
        found = await one.get(ACME, "a")
        assert found is not None
        assert found.value == Paper("a")
        # The name is taken, wherever the document is.
        for value in (Paper("x"), Paper("x", strange=False)):
            with pytest.raises(errors.Conflict):
                await one.create(ACME, "a", value)
    assert await kept.update(ACME, "a", lambda one: Paper(one.text * 2)) == Paper("aa")
    assert await store.tenant(ACME).usage() == (0, 0)
    assert await kept.update(ACME, "a", signed) == Paper("aa!", strange=False)
    assert (await store.tenant(ACME).usage()).keys == 1
    # Another process's memory is as new as the write.
    moved = await other.get(ACME, "a")
    assert moved is not None
    assert moved.value == Paper("aa!", strange=False)
    assert other.peek(ACME, "a") == moved
    assert await other.every(ACME) == [moved.value]
    with pytest.raises(errors.Conflict):
        await other.drop(ACME, "a", found)
    await other.drop(ACME, "a", moved)
    assert await kept.get(ACME, "a") is None
    with pytest.raises(errors.NotFound):
        await kept.update(ACME, "a", signed)


@pytest.mark.requirement("stores:shares:vouched")
async def test_a_document_that_moves_under_its_readers_is_never_missing(reopen: Open) -> None:
    store = await reopen()
    writer = papers(store)
    for turn in range(20):
        await writer.create(ACME, f"d{turn}", Paper("x"))

        async def read(name: str = f"d{turn}") -> bool:
            return isinstance(await papers(store).get(ACME, name), records.Versioned)

        results = await asyncio.gather(*(read() for _ in range(10)), writer.update(ACME, f"d{turn}", signed))
        assert results[:-1] == [True] * 10
        await writer.delete(ACME, f"d{turn}")
        assert await writer.get(ACME, f"d{turn}") is None
