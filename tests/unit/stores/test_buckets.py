"""Objects in buckets: what is written is read, on conditions and in ranges, and nothing is left behind."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from contract import backends
from contract.backends import ACME, OTHER
from contract.objects import pattern
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import bucket_data, bucket_model, buckets
from smcp.stores import tenant as stores
from support.buckets import nothing_left, pieces, whole

SEGMENT = 100_000


class Kit:
    def __init__(self, store: stores.Store, clock: clocks.FrozenClock) -> None:
        self.store = store
        self.clock = clock
        self.buckets = buckets.Buckets(store, segment=SEGMENT)
        self.bucket = self.buckets.bucket(ACME, "photos")


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    clock = clocks.FrozenClock()
    store = await backends.opened(tmp_path, clock)
    yield Kit(store, clock)
    await store.close()


async def refusal(work: object) -> bucket_model.Reason:
    with pytest.raises(errors.ObjectRefused) as caught:
        await work  # type: ignore[misc]
    return bucket_model.Reason(caught.value.reason)


@pytest.mark.requirement("workers:objects:whole")
@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 5 * SEGMENT + 17])
async def test_an_object_comes_back_whole_with_what_was_said_about_it(kit: Kit, size: int) -> None:
    content = pattern(size)
    about = bucket_model.About(
        bucket_model.HttpFields(content_type="text/plain", cache_expiry=1_800_000_000_000), {"who": "Zoë"}
    )
    parts = [content[at : at + 30_000] for at in range(0, size, 30_000)]
    put = await kit.bucket.put("a/ü 1", pieces(b"", *parts), length=size, about=about)
    assert put.etag == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert (put.size, put.about, put.uploaded) == (size, about, int(kit.clock.now() * 1000))
    assert await kit.bucket.head("a/ü 1") == put
    reading = await kit.bucket.get("a/ü 1")
    assert await whole(reading) == content
    assert reading is not None
    assert (reading.object, reading.start, reading.end) == (put, 0, size)
    assert await kit.bucket.head("a") is None
    assert await kit.bucket.get("a") is None
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:ranges")
async def test_every_range_is_the_slice_that_it_names(kit: Kit) -> None:
    size = 3 * SEGMENT + 7
    content = pattern(size)
    await kit.bucket.put("r", pieces(content))
    edges = [0, 1, 65535, 65536, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT, size - 1]
    for offset in edges:
        for length in (None, 1, 10, SEGMENT, size, size * 2):
            reading = await kit.bucket.get("r", bucket_model.Range(offset, length))
            stop = size if length is None else offset + length
            assert await whole(reading) == content[offset:stop], (offset, length)
            assert reading is not None
            assert (reading.start, reading.end) == (offset, min(stop, size))
    for suffix in (1, SEGMENT, size, size + 1):
        reading = await kit.bucket.get("r", bucket_model.Range(suffix=suffix))
        assert await whole(reading) == content[-suffix:]
    for wrong in (
        bucket_model.Range(size),
        bucket_model.Range(-1),
        bucket_model.Range(0, 0),
        bucket_model.Range(suffix=0),
        bucket_model.Range(0, suffix=1),
    ):
        assert await refusal(kit.bucket.get("r", wrong)) is bucket_model.Reason.RANGE
    await kit.bucket.put("empty", pieces())
    assert await whole(await kit.bucket.get("empty", bucket_model.Range(0))) == b""
    assert await whole(await kit.bucket.get("empty", bucket_model.Range(suffix=5))) == b""


E = bucket_model.Etag
C = bucket_model.Condition
T = 1_800_000_000_500
MINE, OTHERS = (E("mine"),), (E("others"),)


@pytest.mark.requirement("workers:objects:conditions")
@pytest.mark.parametrize(
    ("condition", "there", "absent"),
    [
        (C(), True, True),
        (C(matches=MINE), True, False),
        (C(matches=OTHERS), False, False),
        (C(matches=(E("others"), E("mine"))), True, False),
        (C(matches=(E("mine", weak=True),)), False, False),
        (C(matches=(E(wildcard=True),)), True, False),
        (C(differs=MINE), False, True),
        (C(differs=(E("mine", weak=True),)), False, True),
        (C(differs=OTHERS), True, True),
        (C(differs=(E(wildcard=True),)), False, True),
        (C(before=T), False, True),
        (C(before=T + 1), True, True),
        (C(before=T, whole_seconds=True), True, True),
        (C(after=T), False, False),
        (C(after=T - 1), True, False),
        (C(after=T - 500, whole_seconds=True), False, False),
        (C(matches=MINE, before=1), True, False),
        (C(matches=OTHERS, before=T + 1), False, False),
        (C(differs=OTHERS, after=T), True, False),
        (C(differs=MINE, after=1), False, False),
        (C(before=T + 1, after=T - 1), True, False),
        (C(before=T + 1, after=T), False, False),
    ],
)
async def test_a_condition_holds_as_http_says(condition: bucket_model.Condition, there: bool, absent: bool) -> None:
    found = bucket_model.Object(version="v", size=0, etag="mine", uploaded=T, segment=1)
    assert condition.holds(found) is there
    assert condition.holds(None) is absent


@pytest.mark.requirement("workers:objects:conditions")
async def test_reads_and_writes_heed_their_condition(kit: Kit) -> None:
    first = await kit.bucket.put("k", pieces(b"one"), only_if=C(differs=(E(wildcard=True),)))
    with pytest.raises(errors.PreconditionFailed) as caught:
        await kit.bucket.put("k", pieces(b"two"), only_if=C(differs=(E(wildcard=True),)))
    assert caught.value.found == first
    with pytest.raises(errors.PreconditionFailed) as caught:
        await kit.bucket.get("k", only_if=C(matches=OTHERS))
    assert caught.value.found == first
    await kit.bucket.put("k", pieces(b"two"), only_if=C(matches=(E(first.etag),)))
    assert await whole(await kit.bucket.get("k", only_if=C(differs=(E(first.etag),)))) == b"two"
    with pytest.raises(errors.PreconditionFailed):
        await kit.bucket.put("absent", pieces(b"x"), only_if=C(matches=MINE))
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:compare-and-set")
async def test_of_many_writers_on_one_condition_one_wins_and_the_others_leave_nothing(kit: Kit) -> None:
    absent = C(differs=(E(wildcard=True),))

    async def write(writer: int) -> bool:
        try:
            await kit.bucket.put("k", pieces(b"%d" % writer * 50_000, b"%d" % writer * 50_000), only_if=absent)
        except errors.PreconditionFailed:
            return False
        return True

    won = [writer for writer, one in enumerate(await asyncio.gather(*[write(writer) for writer in range(9)])) if one]
    assert len(won) == 1
    assert await whole(await kit.bucket.get("k")) == b"%d" % won[0] * 100_000
    await asyncio.gather(*[kit.bucket.put("k", pieces(b"%d" % writer * 1000)) for writer in range(9)])
    assert len(set(await whole(await kit.bucket.get("k")))) == 1
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:checksums")
async def test_what_arrives_must_have_the_checksums_that_were_given(kit: Kit) -> None:
    for name, length in bucket_model.HASHES.items():
        right = hashlib.new(name, b"content", usedforsecurity=False).digest()
        put = await kit.bucket.put(name, pieces(b"con", b"tent"), checksums={name: right})
        assert put.checksums[name] == right
        wrong = bytes([right[0] ^ 1]) + right[1:]
        assert await refusal(kit.bucket.put(name, pieces(b"content"), checksums={name: wrong})) is (
            bucket_model.Reason.DIGEST
        )
        assert await refusal(kit.bucket.put(name, pieces(b"content"), checksums={name: right[: length - 1]})) is (
            bucket_model.Reason.DIGEST
        )
        assert await kit.bucket.head(name) == put
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:limits")
async def test_what_is_too_much_is_refused_and_leaves_nothing(kit: Kit) -> None:
    put = kit.bucket.put
    for key in ("", "ü" * 513, "\ud800", "a\x7f"):
        assert await refusal(put(key, pieces())) is bucket_model.Reason.KEY
        assert await refusal(kit.bucket.delete(key)) is bucket_model.Reason.KEY
    await put("ü" * 512, pieces(b"longest"))
    custom = {"k": "v" * 2047}
    assert (await put("m", pieces(), about=bucket_model.About(custom=custom))).about.custom == custom
    many = [bucket_model.About(custom={"kk": "v" * 2047}), bucket_model.About(bucket_model.HttpFields("x" * 8193))]
    for about in many:
        assert await refusal(put("m", pieces(), about=about)) is bucket_model.Reason.METADATA
        assert await refusal(kit.bucket.uploads.create("m", about)) is bucket_model.Reason.METADATA
    assert await refusal(put("b", pieces(), length=bucket_model.MOST_PUT + 1)) is bucket_model.Reason.TOO_LARGE
    assert await refusal(put("b", pieces(b"12"), length=3)) is bucket_model.Reason.INCOMPLETE
    assert await refusal(put("b", pieces(b"12", b"34"), length=3)) is bucket_model.Reason.INCOMPLETE
    assert await refusal(kit.bucket.delete(*map(str, range(1001)))) is bucket_model.Reason.ARGUMENT
    for limit in (0, 1001):
        assert await refusal(kit.bucket.page(limit=limit)) is bucket_model.Reason.ARGUMENT
    for name in ("ab", "a" * 64, "-ab", "ab-", "Abc", "a_b", "a/b", ""):
        with pytest.raises(errors.BadName):
            kit.buckets.bucket(ACME, name)
    assert await kit.bucket.head("b") is None
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:nothing-left")
async def test_an_upload_that_breaks_off_leaves_what_was_there(kit: Kit) -> None:
    await kit.bucket.put("k", pieces(b"before"))

    async def broken() -> AsyncGenerator[bytes, None]:
        yield bytes(250_000)
        raise errors.BadRequest("The body ended early.")

    with pytest.raises(errors.BadRequest):
        await kit.bucket.put("k", broken())
    gone = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        yield bytes(250_000)
        gone.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(kit.bucket.put("k", endless()))
    await gone.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await whole(await kit.bucket.get("k")) == b"before"
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:readers")
async def test_a_reader_goes_on_with_the_object_that_it_began(kit: Kit) -> None:
    old = pattern(5 * SEGMENT)
    await kit.bucket.put("k", pieces(old))
    replaced, deleted, dropped = [await kit.bucket.get("k") for _ in range(3)]
    await kit.bucket.put("k", pieces(b"new"))
    assert await whole(await kit.bucket.get("k")) == b"new"
    assert await kit.bucket.delete("k") == 1
    assert await whole(replaced) == old
    assert dropped is not None
    await dropped.body.aclose()
    assert await whole(deleted) == old
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:quota")
async def test_a_put_over_quota_is_refused_before_its_body_and_leaves_nothing(tmp_path: Path) -> None:
    store = await backends.opened(tmp_path, clocks.FrozenClock(), quota_bytes=1_000_000)
    bucket = buckets.Buckets(store, segment=SEGMENT).bucket(ACME, "photos")
    touched = False

    async def watched(parts: int) -> AsyncGenerator[bytes, None]:
        nonlocal touched
        touched = True
        for _ in range(parts):
            yield bytes(10_000)

    before = await store.tenant(ACME).usage()
    with pytest.raises(errors.QuotaExceeded):
        await bucket.put("k", watched(200), length=2_000_000)
    assert not touched, "announced as too large, and read nevertheless"
    with pytest.raises(errors.QuotaExceeded):
        await bucket.put("k", watched(200))
    assert touched
    assert await bucket.head("k") is None
    assert await store.tenant(ACME).usage() == before
    await bucket.put("k", watched(80))
    assert (await store.tenant(ACME).usage()).bytes > 800_000
    assert await bucket.delete("k") == 1
    assert await store.tenant(ACME).usage() == before
    await store.close()


@pytest.mark.requirement("workers:objects:delete")
async def test_many_objects_go_at_once(kit: Kit) -> None:
    keys = [f"k{n:03d}" for n in range(120)]
    await asyncio.gather(*[kit.bucket.put(key, pieces(b"x")) for key in keys])
    assert await kit.bucket.delete(*keys[:100], *keys[:100], "absent") == 100
    assert [listed.key for listed in (await kit.bucket.page()).objects] == keys[100:]
    assert await kit.bucket.empty() == 20
    assert await kit.buckets.names(ACME) == []
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:apart")
async def test_buckets_and_tenants_of_the_same_names_are_apart(kit: Kit) -> None:
    places = [(tenant, name) for tenant in (ACME, OTHER) for name in ("photos", "photos-2")]
    for tenant, name in places:
        await kit.buckets.bucket(tenant, name).put("k", pieces(f"{tenant}/{name}".encode()))
    for tenant, name in places:
        assert await whole(await kit.buckets.bucket(tenant, name).get("k")) == f"{tenant}/{name}".encode()
    await kit.buckets.bucket(ACME, "uploads").uploads.create("k")
    assert await kit.buckets.names(ACME) == [("photos", 1), ("photos-2", 1), ("uploads", 0)]
    assert await kit.buckets.names(ACME, after="photos", limit=1) == [("photos-2", 1)]
    assert [await kit.buckets.has(ACME, name) for name in ("photos", "uploads", "other")] == [True, True, False]
    assert await kit.buckets.bucket(ACME, "photos").empty() == 1
    assert await kit.buckets.names(OTHER) == [("photos", 1), ("photos-2", 1)]
    with pytest.raises(errors.NotFound):
        kit.buckets.bucket(backends.ids.tenant("nobody"), "photos")


@pytest.mark.requirement("workers:objects:erased")
async def test_an_erased_tenants_buckets_are_gone_also_for_a_namesake(kit: Kit) -> None:
    await kit.bucket.put("k", pieces(b"old"))
    await kit.store.erase(ACME)
    with pytest.raises(errors.NotFound):
        await kit.bucket.put("k", pieces(b"late"))
    await kit.store.provision(ACME)
    assert await kit.buckets.bucket(ACME, "photos").get("k") is None
    await kit.buckets.bucket(ACME, "photos").put("k", pieces(b"new"))
    await nothing_left(kit.store)


@pytest.mark.requirement("workers:objects:constant-memory")
async def test_the_bytes_of_an_object_are_not_gathered(kit: Kit) -> None:
    await kit.bucket.put("k", pieces(*[bytes(10_000)] * 100))
    reading = await kit.bucket.get("k")
    assert reading is not None
    assert max([len(chunk) async for chunk in reading.body]) <= 65536
    assert bucket_data.SEGMENT * 5 == bucket_model.MOST_PUT


@pytest.mark.requirement("workers:objects:nothing-left")
@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_wherever_a_put_is_cancelled_it_is_there_or_leaves_nothing(kit: Kit, turns: int) -> None:
    await kit.bucket.put("k", pieces(b"before"))
    task = asyncio.create_task(kit.bucket.put("k", pieces(bytes(150_000))))
    watched = asyncio.Event()
    # A write of the store, and so many turns of the loop behind it, are places as good as any.
    end = kit.store.tenant(ACME).kv.watch((), lambda change: watched.set())
    await watched.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    end()
    assert await whole(await kit.bucket.get("k")) in (b"before", bytes(150_000))
    await nothing_left(kit.store)
