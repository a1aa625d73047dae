"""Who controls the storage can neither read what is in it nor move, exchange, cut or replace it unseen."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import backends
from contract.backends import ACME, OTHER
from contract.kv import UNHURRIED
from contract.objects import pattern, pieces, whole
from smcp.kernel import clock as clocks
from smcp.kernel import crypto, errors
from smcp.stores import tenant
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import sqlite as log_sqlite
from smcp.stores.objects import base as objects_base
from smcp.stores.objects import obstore
from smcp.stores.wrappers import sealed_objects


class Raw:
    """A store, and the back ends below it: what an attacker with the disk has in hand."""

    def __init__(self, directory: Path) -> None:
        clock = clocks.SystemClock()
        self.directory = directory
        self.kv = kv_sqlite.SqliteKV(directory / "kv.db", clock)
        self.log = log_sqlite.SqliteLog(directory / "log.db", clock)
        self.objects = obstore.ObstoreObjects.in_directory(directory / "objects")
        self.store = tenant.Store(
            self.kv, self.log, self.objects, backends.ring(directory), clock, quota_bytes=10**9, quota_keys=10**6
        )


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[Raw]:
    raw = Raw(tmp_path)
    await raw.store.start()
    yield raw
    await raw.store.close()


@pytest.mark.requirement("stores:sealed:kv")
async def test_a_value_moved_to_another_key_or_tenant_does_not_open(raw: Raw) -> None:
    acme, other = raw.store.tenant(ACME).kv, raw.store.tenant(OTHER).kv
    for kv, name in [(acme, "a"), (acme, "b"), (other, "a")]:
        await kv.put(("k", name), b"same")
    sealed = {entry.key: entry.value for entry in await raw.kv.scan(())}
    for target in [("acme", "k", "b"), ("other", "k", "a"), ("acme", "k\0a"), ("acme", "k", "a", "c")]:
        await raw.kv.put(target, sealed["acme", "k", "a"])
        handle = acme if target[0] == "acme" else other
        with pytest.raises(errors.TamperedData):
            await handle.get(target[1:])
        with pytest.raises(errors.TamperedData):
            await handle.scan(target[1:])
        with pytest.raises(errors.TamperedData):
            [entry async for entry in handle.snapshot(target[1:])]
    assert await acme.get(("k", "a")) is not None


@pytest.mark.requirement("stores:sealed:kv")
@given(cut=st.integers(0, 45), flip=st.integers(1, 255))
@settings(max_examples=20, deadline=None, suppress_health_check=UNHURRIED)
async def test_a_value_that_is_cut_changed_or_plain_does_not_open(raw: Raw, cut: int, flip: int) -> None:
    kv = raw.store.tenant(ACME).kv
    await kv.put(("k",), b"value")
    entry = await raw.kv.get(("acme", "k"))
    assert entry is not None
    flipped = bytearray(entry.value)
    flipped[cut] ^= flip
    for value in [
        entry.value[:cut],
        bytes(flipped),
        entry.value + b"\0",
        b"value",
        b"\x01value",
        b"\x00" + entry.value[1:],
    ]:
        await raw.kv.put(("acme", "k"), value)
        with pytest.raises(errors.TamperedData):
            await kv.get(("k",))


@pytest.mark.requirement("stores:sealed:interfaces")
async def test_what_one_interface_sealed_opens_in_no_other(raw: Raw) -> None:
    acme = raw.store.tenant(ACME)
    await acme.kv.put(("x",), b"value")
    await acme.log.append(("x",), [b"value"])
    await acme.objects.put(("x",), pieces(b"value"))
    entry = await raw.kv.get(("acme", "x"))
    record = (await raw.log.read(("acme", "x")))[0].data
    blob = await whole(raw.objects, ("acme", "x"))
    assert entry is not None
    for value in (record, blob):
        await raw.kv.put(("acme", "x"), value)
        with pytest.raises(errors.TamperedData):
            await acme.kv.get(("x",))
    for value in (entry.value, blob):
        await raw.log.drop(("acme", "x"))
        await raw.log.append(("acme", "x"), [value])
        with pytest.raises(errors.TamperedData):
            await acme.log.read(("x",))
    for value in (entry.value, record):
        await raw.objects.delete(("acme", "x"))
        await raw.objects.put(("acme", "x"), pieces(value))
        with pytest.raises(errors.TamperedData):
            await whole(acme.objects, ("x",))


@pytest.mark.requirement("stores:sealed:log")
async def test_a_record_is_bound_to_tenant_stream_and_position(raw: Raw) -> None:
    log = raw.store.tenant(ACME).log
    await log.append(("s",), [b"1", b"2", b"3"])
    one, two, three = [record.data for record in await raw.log.read(("acme", "s"))]
    for stream, records in [
        (("acme", "s"), [two, one, three]),
        (("acme", "s"), [one, three]),
        (("acme", "s"), [one, one]),
        (("acme", "t"), [one]),
        (("other", "s"), [one]),
        (("acme", "s"), [one[:-1]]),
        (("acme", "s"), [b"1"]),
        (("acme", "s"), [b""]),
    ]:
        await raw.log.drop(stream)
        await raw.log.append(stream, records)
        handle = raw.store.tenant(ACME if stream[0] == "acme" else OTHER).log
        with pytest.raises(errors.TamperedData):
            await handle.read(stream[1:])
        with pytest.raises(errors.TamperedData):
            [record async for record in handle.tail(stream[1:])]


CHUNK = 65536 + crypto.OVERHEAD
HEADER = 17


@pytest.mark.requirement("stores:sealed:objects")
async def test_an_objects_chunks_cannot_be_moved_dropped_repeated_or_cut(raw: Raw) -> None:
    objects = raw.store.tenant(ACME).objects
    data = pattern(3 * 65536)
    await objects.put(("a",), pieces(data))
    await objects.put(("b",), pieces(data))
    good = await whole(raw.objects, ("acme", "a"))
    twin = await whole(raw.objects, ("acme", "b"))
    head, one, two, three = (
        good[:HEADER],
        good[HEADER:][:CHUNK],
        good[HEADER + CHUNK :][:CHUNK],
        good[HEADER + 2 * CHUNK :],
    )
    wrong = [
        head + two + one + three,
        head + one + three,
        head + one + two,
        head + one,
        head + one + two + two + three,
        head + one + two + three + three,
        head + one + two + three[:-1],
        head + twin[HEADER:],
        twin,
        head,
        b"",
        data,
        b"\x00" + good[1:],
        b"\x01" + os.urandom(16) + good[HEADER:],
    ]
    for stored in wrong:
        await raw.objects.delete(("acme", "a"))
        await raw.objects.put(("acme", "a"), pieces(stored))
        with pytest.raises(errors.TamperedData):
            await whole(objects, ("a",))
    await raw.objects.delete(("acme", "a"))
    await raw.objects.put(("acme", "a"), pieces(good))
    assert await whole(objects, ("a",)) == data


@pytest.mark.requirement("stores:sealed:objects")
@pytest.mark.parametrize(("start", "end"), [(0, None), (2 * 65536, None), (3 * 65536, None), (70_000, 3 * 65536)])
async def test_a_range_that_reaches_the_end_shows_that_the_end_was_cut_off(
    raw: Raw, start: int, end: int | None
) -> None:
    objects = raw.store.tenant(ACME).objects
    await objects.put(("a",), pieces(pattern(3 * 65536)))
    good = await whole(raw.objects, ("acme", "a"))
    await raw.objects.delete(("acme", "a"))
    await raw.objects.put(("acme", "a"), pieces(good[: HEADER + 2 * CHUNK]))
    with pytest.raises(errors.TamperedData):
        await whole(objects, ("a",), start, end)
    with pytest.raises(errors.TamperedData):
        await objects.head(("a",))


class Replacing(obstore.ObstoreObjects):
    """A directory in which somebody replaces an object after its first bytes were read."""

    replaced = False

    async def get(self, name: objects_base.Name, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        async for part in super().get(name, start=start, end=end):
            yield part
        if not self.replaced:
            self.replaced = True
            await self.delete(name)
            handle = sealed_objects.SealedObjects(self, ACME, bytes(32))
            await handle.put(name[1:], pieces(b"other"))


@pytest.mark.requirement("stores:sealed:replaced")
async def test_an_object_that_is_replaced_while_it_is_read_is_not_taken_for_tampering(tmp_path: Path) -> None:
    directory = Replacing.in_directory(tmp_path / "objects")
    assert isinstance(directory, Replacing)
    directory.replaced = True
    objects = sealed_objects.SealedObjects(directory, ACME, bytes(32))
    await objects.put(("a",), pieces(pattern(3 * 65536)))
    directory.replaced = False
    with pytest.raises(errors.NotFound):
        await whole(objects, ("a",))
    assert await whole(objects, ("a",)) == b"other"
    await directory.close()


@pytest.mark.requirement("stores:sealed:nothing-plain")
async def test_no_plain_byte_of_a_value_reaches_the_disk(raw: Raw) -> None:
    acme = raw.store.tenant(ACME)
    marker = b"a-secret-that-must-not-be-found"
    await acme.kv.put(("k", acme.private("mail", "ann@example.org")), marker)
    await acme.log.append(("k",), [marker])
    await acme.objects.put(("k",), pieces(marker))
    await raw.store.close()
    files = [path for path in raw.directory.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        content = path.read_bytes()
        assert marker not in content
        assert b"ann@example.org" not in content


@pytest.mark.requirement("stores:sealed:private-names")
async def test_a_private_segment_is_the_same_for_its_tenant_label_and_text_only(raw: Raw) -> None:
    acme, other = raw.store.tenant(ACME), raw.store.tenant(OTHER)
    made = [
        acme.private("mail", "a"),
        acme.private("mail", "b"),
        acme.private("session", "a"),
        other.private("mail", "a"),
    ]
    assert len(set(made)) == 4
    assert acme.private("mail", "a") == made[0]
    assert all(len(segment) == 52 and segment.isalnum() for segment in made)


@pytest.mark.requirement("stores:tenant:isolation")
@given(
    names=st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=5), min_size=1, max_size=3)
)
@settings(max_examples=25, deadline=None, suppress_health_check=UNHURRIED)
async def test_two_tenants_with_the_same_names_never_meet(raw: Raw, names: list[str]) -> None:
    name = tuple(names)
    acme, other = raw.store.tenant(ACME), raw.store.tenant(OTHER)
    platform = raw.store.platform()
    for handle in (acme, other, platform):
        for entry in await handle.kv.scan(()):
            await handle.kv.delete(entry.key)
        await handle.log.drop(())
        for info in await handle.objects.list(()):
            await handle.objects.delete(info.name)
    heard: list[object] = []
    end = other.kv.watch((), heard.append)
    await acme.kv.put(name, b"acme")
    await acme.log.append(name, [b"acme"])
    await acme.objects.put(name, pieces(b"acme"))
    for handle in (other, platform):
        assert await handle.kv.get(name) is None
        assert await handle.kv.scan(()) == []
        assert [entry async for entry in handle.kv.snapshot()] == []
        assert await handle.kv.size(()) == (0, 0)
        assert await handle.log.read(name) == []
        assert await handle.log.last(name) == 0
        assert await handle.log.streams(()) == []
        assert await handle.objects.head(name) is None
        assert await handle.objects.list(()) == []
    # Neither do crafted names reach across: the other tenant's name as the first segment, or a way up.
    for crafted in [("acme", *name), ("..", "acme", *name), ("../acme", *name), ("\0acme", *name)]:
        assert await other.kv.get(crafted) is None
        assert await other.log.read(crafted) == []
        assert await other.objects.head(crafted) is None
    await other.kv.put(name, b"other")
    await other.kv.delete(name)
    await other.log.drop(())
    await other.objects.delete(name)
    entry = await acme.kv.get(name)
    assert entry is not None
    assert entry.value == b"acme"
    assert [record.data for record in await acme.log.read(name)] == [b"acme"]
    assert await whole(acme.objects, name) == b"acme"
    end()
    assert len(heard) == 2, "of its own two changes, and of nothing else"
