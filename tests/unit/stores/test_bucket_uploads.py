"""Multipart uploads: R2's rules, late parts, expiry; and what a process leaves when it ends in the middle."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import pytest

from contract import backends
from contract.backends import ACME
from contract.objects import pattern
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import bucket_data, bucket_model, buckets
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import sqlite as log_sqlite
from smcp.stores.objects import obstore
from support.buckets import nothing_left, pieces, whole

LEAST = bucket_model.LEAST_PART
P = bucket_model.Published


class Kit:
    def __init__(self, store: stores.Store, clock: clocks.FrozenClock) -> None:
        self.store = store
        self.clock = clock
        self.buckets = buckets.Buckets(store, segment=3_000_000)
        self.bucket = self.buckets.bucket(ACME, "photos")
        self.uploads = self.bucket.uploads

    async def reason(self, key: str, upload: str, *parts: bucket_model.Published) -> bucket_model.Reason:
        with pytest.raises(errors.ObjectRefused) as caught:
            await self.uploads.complete(key, upload, parts)
        return bucket_model.Reason(caught.value.reason)


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    clock = clocks.FrozenClock()
    store = await backends.opened(tmp_path, clock)
    yield Kit(store, clock)
    await store.close()


@pytest.mark.requirement("workers:objects:multipart")
async def test_parts_in_any_order_become_one_object(kit: Kit) -> None:
    content = pattern(2 * LEAST + 1234)
    cut = [content[:LEAST], content[LEAST : 2 * LEAST], content[2 * LEAST :]]
    await kit.bucket.put("k", pieces(b"before"))
    about = bucket_model.About(bucket_model.HttpFields(content_type="text/plain"), {"a": "b"}, "InfrequentAccess")
    upload = await kit.uploads.create("k", about)
    etags = dict(
        zip(
            (3, 1, 2),
            await asyncio.gather(
                kit.uploads.part("k", upload, 3, pieces(cut[2]), length=1234),
                kit.uploads.part("k", upload, 1, pieces(cut[0])),
                kit.uploads.part("k", upload, 2, pieces(b"another")),
            ),
            strict=True,
        )
    )
    await kit.uploads.part("k", upload, 9, pieces(b"never named"))
    etags[2] = await kit.uploads.part("k", upload, 2, pieces(cut[1]))
    assert await whole(await kit.bucket.get("k")) == b"before"
    made = await kit.uploads.complete("k", upload, [P(number, etags[number]) for number in (2, 3, 1)])
    joined = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in cut)
    assert made.etag == hashlib.md5(joined, usedforsecurity=False).hexdigest() + "-3"
    assert made == await kit.bucket.head("k")
    assert (made.size, made.about) == (len(content), about)
    assert await whole(await kit.bucket.get("k")) == content
    for offset, length in ((LEAST - 5, 10), (2 * LEAST - 1, 2), (2_999_999, 4), (0, len(content))):
        reading = await kit.bucket.get("k", bucket_model.Range(offset, length))
        assert await whole(reading) == content[offset : offset + length]
    assert await kit.reason("k", upload, P(1, etags[1])) is bucket_model.Reason.UPLOAD
    await nothing_left(kit.store)
    assert await kit.bucket.delete("k") == 1
    await nothing_left(kit.store)
    assert await kit.store.tenant(ACME).objects.list(()) == []


@pytest.mark.requirement("workers:objects:multipart-rules")
async def test_an_upload_is_completed_by_r2s_rules(kit: Kit) -> None:
    upload = await kit.uploads.create("k")
    sizes = {1: LEAST, 2: LEAST + 1, 3: 10, 4: LEAST, 5: LEAST + 2}
    etags = {n: await kit.uploads.part("k", upload, n, pieces(bytes(size))) for n, size in sizes.items()}

    def named(*numbers: int) -> list[bucket_model.Published]:
        return [P(number, etags[number]) for number in numbers]

    reasons = bucket_model.Reason
    assert await kit.reason("k", upload) is reasons.ARGUMENT
    assert await kit.reason("k", upload, *named(1, 1)) is reasons.ARGUMENT
    assert await kit.reason("k", upload, P(1, etags[2])) is reasons.PART
    assert await kit.reason("k", upload, *named(1), P(7, etags[1])) is reasons.PART
    assert await kit.reason("k", upload, *named(3, 4)) is reasons.TOO_SMALL
    assert await kit.reason("k", upload, *named(1, 2, 4)) is reasons.UNEVEN
    assert await kit.reason("k", upload, *named(1, 5)) is reasons.UNEVEN
    for key, name in (("other", upload), ("k", "0" * 64), ("k", "../x"), ("k", "")):
        assert await kit.reason(key, name, *named(1)) is reasons.UPLOAD
        with pytest.raises(errors.ObjectRefused):
            await kit.uploads.part(key, name, 1, pieces())
        with pytest.raises(errors.ObjectRefused):
            await kit.uploads.abort(key, name)
    for number in (0, 10_001):
        with pytest.raises(errors.ObjectRefused):
            await kit.uploads.part("k", upload, number, pieces())
    assert (await kit.uploads.complete("k", upload, named(1, 3))).size == LEAST + 10
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:multipart-late")
@pytest.mark.parametrize("ending", ["abort", "complete"])
async def test_a_part_that_is_late_takes_its_bytes_back(kit: Kit, ending: str) -> None:
    upload = await kit.uploads.create("k")
    etag = await kit.uploads.part("k", upload, 1, pieces(b"in time"))
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield bytes(100_000)
        begun.set()
        await go.wait()
        yield bytes(100_000)

    late = asyncio.create_task(kit.uploads.part("k", upload, 2, slow()))
    await begun.wait()
    if ending == "abort":
        await kit.uploads.abort("k", upload)
    else:
        await kit.uploads.complete("k", upload, [P(1, etag)])
    go.set()
    with pytest.raises(errors.ObjectRefused) as caught:
        await late
    assert caught.value.reason is bucket_model.Reason.UPLOAD
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:multipart-expires")
async def test_an_upload_that_stays_open_ends_after_a_week(kit: Kit) -> None:
    old = await kit.uploads.create("old")
    await kit.uploads.part("old", old, 1, pieces(bytes(100)))
    kit.clock.advance(24 * 3600)
    young = await kit.uploads.create("young")
    kit.clock.advance(bucket_model.UPLOAD_LIFE_S - 24 * 3600 - 1)
    await kit.buckets.sweep(ACME)
    assert len(await kit.uploads.open()) == 2
    kit.clock.advance(1)
    await kit.buckets.sweep(ACME)
    assert await kit.uploads.open() == [("young", young)]
    await nothing_left(kit.store)
    assert await kit.bucket.empty() == 0
    assert await kit.store.tenant(ACME).kv.scan(()) == []


@pytest.mark.requirement("workers:objects:manifest")
async def test_an_object_of_many_parts_has_them_on_a_record_of_their_own(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_model, "LEAST_PART", 10)
    content = pattern(1000)
    upload = await kit.uploads.create("k")
    etags = await asyncio.gather(
        *[kit.uploads.part("k", upload, n + 1, pieces(content[n * 10 : n * 10 + 10])) for n in range(100)]
    )
    made = await kit.uploads.complete("k", upload, [P(n + 1, etag) for n, etag in enumerate(etags)])
    assert made.pieces is None
    assert await whole(await kit.bucket.get("k", bucket_model.Range(5, 900))) == content[5:905]
    await nothing_left(kit.store)
    await kit.bucket.put("k", pieces(b"instead"))
    await nothing_left(kit.store)
    assert len(await kit.store.tenant(ACME).objects.list(())) == 1


@pytest.mark.requirement("workers:objects:nothing-left")
async def test_what_a_process_that_ended_has_left_is_swept_and_nothing_else(kit: Kit) -> None:
    handle = kit.store.tenant(ACME)
    kept = pattern(7_000_000)
    await kit.bucket.put("kept", pieces(kept))
    held = bucket_data.Data(handle, 3_000_000)
    # As `put` does before its record is written, and as a replacement does before its bytes are removed.
    await held.begin("a" * 32, bucket_data.Waste(pieces=(bucket_data.Doomed("a" * 32),)))
    await held.write("a" * 32, bucket_data.Source(pieces(bytes(7_000_000)), {}, None), 3_000_000)
    await handle.kv.apply([kv.Put(bucket_data.waste_key("b" * 32), bucket_data.encode(bucket_data.Waste()))])
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield kept
        begun.set()
        await go.wait()

    writing = asyncio.create_task(kit.bucket.put("slow", slow()))
    await begun.wait()
    await kit.buckets.sweep(ACME)
    go.set()
    await writing
    await nothing_left(kit.store)
    assert await whole(await kit.bucket.get("slow")) == kept
    assert await whole(await kit.bucket.get("kept")) == kept


@pytest.mark.requirement("workers:objects:tampered")
async def test_an_object_whose_bytes_are_missing_or_changed_is_not_served_and_can_be_deleted(kit: Kit) -> None:
    handle = kit.store.tenant(ACME)
    put = await kit.bucket.put("k", pieces(bytes(7_000_000)))
    await handle.objects.delete((bucket_data.PREFIX, f"{put.version}-1"))
    assert await whole(await kit.bucket.get("k", bucket_model.Range(0, 10))) == bytes(10)
    reading = await kit.bucket.get("k")
    with pytest.raises(errors.TamperedData):
        await whole(reading)
    assert await kit.bucket.delete("k") == 1
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:tampered")
async def test_records_that_do_not_open_are_told_of_and_keep_nobody_elses_waste_alive(tmp_path: Path) -> None:
    clock = clocks.FrozenClock()
    store = await backends.opened(tmp_path, clock)
    told: list[tuple[str, str]] = []
    heard = asyncio.Event()

    def damaged(tenant: str, why: str) -> None:
        told.append((tenant, why))
        heard.set()

    held = buckets.Buckets(store, damaged)
    for tenant in (ACME, backends.OTHER):
        handle = store.tenant(tenant)
        await handle.kv.put(bucket_data.waste_key("b" * 32), bucket_data.encode(bucket_data.Waste()))
    await store.tenant(ACME).kv.put(bucket_data.waste_key("a" * 32), b"no record")
    held.start()
    await heard.wait()
    await held.sweep(backends.OTHER)
    await held.sweep(ACME)
    assert {tenant for tenant, _ in told} == {ACME}
    await nothing_left(store, backends.OTHER)
    left = await store.tenant(ACME).kv.scan((bucket_data.PREFIX, "waste"))
    assert [entry.key[-1] for entry in left] == ["a" * 32]
    await held.close()
    await store.close()


class HoldingKV(kv_sqlite.SqliteKV):
    """SQLite in which the record of a part waits in front of its transaction."""

    def __init__(self, path: Path, clock: clocks.Clock) -> None:
        super().__init__(path, clock)
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def apply(self, ops: Sequence[kv.Op]) -> int:
        if any(op.key[1:3] == bucket_data.part_key("")[:2] and isinstance(op, kv.Put) for op in ops):
            self.reached.set()
            await self.go.wait()
        return await super().apply(ops)


@pytest.mark.requirement("workers:objects:multipart-late")
async def test_a_part_and_an_end_that_share_no_lock_leave_nothing(tmp_path: Path) -> None:
    clock = clocks.FrozenClock()
    holding = HoldingKV(tmp_path / "kv.db", clock)
    log = log_sqlite.SqliteLog(tmp_path / "log.db", clock)
    blobs = obstore.ObstoreObjects.in_directory(tmp_path / "objects")
    store = stores.Store(holding, log, blobs, backends.ring(tmp_path), clock, quota_bytes=10**9, quota_keys=10**6)
    mine, others = (buckets.Buckets(store).bucket(ACME, "photos") for _ in range(2))
    upload = await mine.uploads.create("k")
    part = asyncio.create_task(mine.uploads.part("k", upload, 1, pieces(b"x")))
    await holding.reached.wait()
    await others.uploads.abort("k", upload)
    holding.go.set()
    with pytest.raises(errors.ObjectRefused):
        await part
    await nothing_left(store)
    assert await store.tenant(ACME).kv.scan(()) == []
    await store.close()
