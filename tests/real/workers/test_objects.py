"""The R2 binding as the real workerd speaks it, over a real door, on a real store."""

import asyncio
import hashlib
import pathlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contract import backends
from contract.backends import ACME, OTHER
from contract.objects import pattern
from smcp.kernel import clock as clocks
from smcp.runtime.bindings import door, objects
from smcp.stores import buckets, heavy
from smcp.stores import tenant as stores
from support import doorworker
from support.buckets import nothing_left

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SCRIPT = (pathlib.Path(__file__).parents[2] / "fixtures/bucket.js").read_text()
MIB = 1024 * 1024
NOW_MS = 1_800_000_000_000


class Kit:
    """A Worker with buckets of two tenants, and the store behind them."""

    def __init__(self, store: stores.Store, worker: doorworker.Worker) -> None:
        self.store = store
        self.worker = worker

    async def do(self, what: str, **asked: Any) -> Any:
        answer = await self.worker.ask({"do": what, **asked})
        assert "error" not in answer, answer
        return answer["answer"]

    async def error(self, what: str, **asked: Any) -> str:
        return str((await self.worker.ask({"do": what, **asked}))["error"])


@asynccontextmanager
async def kit(directory: pathlib.Path, **quota: int) -> AsyncGenerator[Kit]:
    store = await backends.opened(directory / "data", clocks.FrozenClock(), **quota)
    held = buckets.Buckets(store)
    socket = str(directory / "door")
    opened = await door.Door.open(socket, None, print)
    places = {"BUCKET": (ACME, "photos"), "SECOND": (ACME, "photos-2"), "THEIRS": (OTHER, "photos")}
    bound = [
        doorworker.Bound(name, "r2Bucket", opened.admit(objects.Binding(held, *place, heavy.Heavy()).answer))
        for name, place in places.items()
    ]
    try:
        async with doorworker.running(SCRIPT, socket, bound) as worker:
            yield Kit(store, worker)
        await opened.close()
        for tenant in (ACME, OTHER):
            await nothing_left(store, tenant)
    finally:
        await opened.close()
        await store.close()


@pytest.mark.requirement("workers:r2:objects")
async def test_an_object_goes_through_with_its_metadata(tmp_path: pathlib.Path) -> None:
    http = {
        "contentType": "text/plain; charset=utf-8",
        "contentLanguage": "de",
        "contentDisposition": "attachment",
        "contentEncoding": "identity",
        "cacheControl": "no-cache",
        "cacheExpiry": "2027-02-01T00:00:00.000Z",
    }
    body = "".join(map(chr, range(256)))
    md5 = hashlib.md5(body.encode("latin-1"), usedforsecurity=False).hexdigest()
    custom = {"who": "Zoë", "empty": ""}
    async with kit(tmp_path) as at:
        for key in ("plain", "a b/ü?#%/€ \U0001f600", "x" * 1024, "quote\"'\\", "\x01\n\x1f\x80", "a" + "é" * 511):
            put = await at.do("put", key=key, body=body, options={"httpMetadata": http, "customMetadata": custom})
            assert (put["key"], put["size"], put["etag"], put["httpEtag"]) == (key, 256, md5, f'"{md5}"')
            head = await at.do("head", key=key)
            assert (head["httpMetadata"], head["customMetadata"]) == (http, custom)
            assert (head["checksums"], head["storageClass"]) == ({"md5": md5}, "Standard")
            assert (head["version"], head["uploaded"]) == (put["version"], NOW_MS)
            got = await at.do("get", key=key)
            assert got["body"] == body
            assert got["object"] == head | {"range": {"offset": 0, "length": 256}, "body": True}
        long_ago = {"cacheExpiry": "1907-02-01T00:00:00.000Z"}
        await at.do("put", key="long ago", body="", options={"httpMetadata": long_ago})
        assert (await at.do("head", key="long ago"))["httpMetadata"] == long_ago
        bare = await at.do("put", key="bare", body="")
        nothing = {"offset": 0, "length": 0}
        assert await at.do("get", key="bare") == {"object": bare | {"range": nothing, "body": True}, "body": ""}
        assert (bare["httpMetadata"], bare["customMetadata"]) == ({}, {})
        assert await at.do("head", key="absent") is None
        assert await at.do("get", key="absent") == {"object": None}
        await at.do("delete", keys="absent")
        await at.do("delete", keys=["plain", "bare", "absent"])
        assert await at.do("head", key="plain") is None
        await at.do("put", key="cold", body="x", options={"storageClass": "InfrequentAccess"})
        assert (await at.do("head", key="cold"))["storageClass"] == "InfrequentAccess"


@pytest.mark.requirement("workers:r2:ranges")
async def test_ranges_as_options_and_as_a_header(tmp_path: pathlib.Path) -> None:
    content = pattern(300_000).decode("latin-1")
    async with kit(tmp_path) as at:
        await at.do("put", key="k", body=content)
        for given, start, stop in (
            ({"range": {"offset": 0}}, 0, 300_000),
            ({"range": {"offset": 10, "length": 5}}, 10, 15),
            ({"range": {"length": 70_000}}, 0, 70_000),
            ({"range": {"offset": 65_530, "length": 10}}, 65_530, 65_540),
            ({"range": {"offset": 299_999, "length": 10}}, 299_999, 300_000),
            ({"range": {"suffix": 7}}, 299_993, 300_000),
            ({"range": {"suffix": 400_000}}, 0, 300_000),
            ({"range_header": "bytes=5-9"}, 5, 10),
            ({"range_header": "bytes=299990-"}, 299_990, 300_000),
            ({"range_header": "bytes=-3"}, 299_997, 300_000),
            ({"range_header": "bytes=1-2,4-5"}, 0, 300_000),
            ({"range_header": "lines=1-2"}, 0, 300_000),
        ):
            got = await at.do("get", key="k", options=given)
            assert got["body"] == content[start:stop], given
            assert got["object"]["range"] == {"offset": start, "length": stop - start}, given
            assert got["object"]["size"] == 300_000
        for wrong in ({"range": {"offset": 300_000}}, {"range": {"suffix": 0}}, {"range_header": "bytes=300000-"}):
            assert (await at.error("get", key="k", options=wrong)).endswith("(10039)")


@pytest.mark.requirement("workers:r2:conditions")
async def test_conditions_as_options_and_as_headers(tmp_path: pathlib.Path) -> None:
    async with kit(tmp_path) as at:
        etag = (await at.do("put", key="k", body="one"))["etag"]
        head = await at.do("head", key="k")

        async def reads(**options: Any) -> bool:
            got = await at.do("get", key="k", options=options)
            same = {name: value for name, value in got["object"].items() if name not in ("body", "range")}
            assert same == {name: value for name, value in head.items() if name != "body"}
            return "body" in got

        assert await reads(onlyIf={"etagMatches": etag})
        assert not await reads(onlyIf={"etagMatches": "other"})
        assert not await reads(onlyIf={"etagDoesNotMatch": etag})
        assert await reads(onlyIf={"etagDoesNotMatch": "other"})
        assert await reads(onlyIf={"uploadedBefore": NOW_MS + 1})
        assert not await reads(onlyIf={"uploadedBefore": NOW_MS})
        assert not await reads(onlyIf={"uploadedAfter": NOW_MS})
        assert await reads(onlyIf={"uploadedAfter": -5000})
        assert not await reads(onlyIf={"uploadedBefore": -5000})
        assert await reads(only_headers={"if-match": f'"{etag}"'})
        assert not await reads(only_headers={"if-none-match": f'W/"{etag}", "other"'})
        assert not await reads(only_headers={"if-none-match": "*"})
        assert not await reads(only_headers={"if-modified-since": "Fri, 15 Jan 2027 08:00:00 GMT"})
        assert await at.do("get", key="absent", options={"onlyIf": {"etagMatches": etag}}) == {"object": None}

        absent = {"only_headers": {"if-none-match": "*"}}
        assert await at.do("put", key="k", body="two", options=absent) is None
        assert await at.do("put", key="new", body="two", options=absent) is not None
        assert await at.do("put", key="k", body="two", options={"onlyIf": {"etagMatches": "other"}}) is None
        assert (await at.do("get", key="k"))["body"] == "one"
        assert await at.do("put", key="k", body="two", options={"onlyIf": {"etagMatches": etag}}) is not None
        assert (await at.do("get", key="k"))["body"] == "two"


@pytest.mark.requirement("workers:r2:list")
async def test_lists_by_prefix_delimiter_and_cursor_with_metadata(tmp_path: pathlib.Path) -> None:
    keys = ["a/1", "a/2", "b", "c/1", "d", "ü"]
    options = {"httpMetadata": {"contentType": "text/x"}, "customMetadata": {"n": "1"}}
    async with kit(tmp_path) as at:

        async def listed(**asked: Any) -> tuple[list[str], list[str], str | None]:
            page = await at.do("list", options=asked)
            assert page["truncated"] is ("cursor" in page)
            return [one["key"] for one in page["objects"]], page["delimitedPrefixes"], page.get("cursor")

        for key in keys:
            await at.do("put", key=key, body="x", options=options)
        assert await listed() == (keys, [], None)
        for one in (await at.do("list", options={"include": ["httpMetadata", "customMetadata"]}))["objects"]:
            assert {name: one[name] for name in options} == options
        for one in (await at.do("list", options={"include": []}))["objects"]:
            assert not {"httpMetadata", "customMetadata"} & set(one)
        assert await listed(delimiter="/") == (["b", "d", "ü"], ["a/", "c/"], None)
        assert await listed(prefix="a/") == (["a/1", "a/2"], [], None)
        assert await listed(startAfter="c/1") == (["d", "ü"], [], None)
        first, _, cursor = await listed(limit=4)
        assert (first, await listed(limit=4, cursor=cursor)) == (keys[:4], (keys[4:], [], None))
        assert (await at.error("list", options={"limit": 1001})).endswith("(10022)")
        assert (await at.error("list", options={"cursor": "forged"})).endswith("(10029)")


@pytest.mark.requirement("workers:r2:multipart")
async def test_multipart_uploads(tmp_path: pathlib.Path) -> None:
    sizes = [5 * MIB, 5 * MIB, 3]
    options = {"httpMetadata": {"contentType": "text/x"}, "customMetadata": {"n": "1"}}
    async with kit(tmp_path) as at:
        done = await at.do("multipart", key="k", sizes=sizes, options=options)
        head = await at.do("head", key="k")
        assert head == done["object"] | options
        assert (head["size"], head["etag"][-2:]) == (sum(sizes), "-3")
        got = await at.do("get", key="k", options={"range": {"offset": 10 * MIB - 2}})
        assert got["body"] == "BBCCC"
        expected = b"".join(bytes([65 + n]) * size for n, size in enumerate(sizes))
        assert (await at.do("get_stream", key="k"))["sha256"] == hashlib.sha256(expected).hexdigest()

        upload = await at.do("create", key="k")
        part = await at.do("part", key="k", upload=upload, number=1, body="abc")
        assert part == {"partNumber": 1, "etag": hashlib.md5(b"abc", usedforsecurity=False).hexdigest()}
        second = await at.do("part", key="k", upload=upload, number=2, body="abc")
        for key, parts, code in (
            ("k", [part | {"etag": "0" * 32}], "(10025)"),
            ("j", [part], "(10024)"),
            ("k", [part, second], "(10011)"),
            ("k", [], "(10029)"),
        ):
            assert (await at.error("complete", key=key, upload=upload, parts=parts)).endswith(code)
        assert (await at.do("complete", key="k", upload=upload, parts=[part]))["size"] == 3
        assert (await at.do("get", key="k"))["body"] == "abc"
        upload = await at.do("create", key="k")
        await at.do("part", key="k", upload=upload, number=1, body="abc")
        for bucket in ("SECOND", "THEIRS"):
            assert (await at.error("abort", bucket=bucket, key="k", upload=upload)).endswith("(10024)")
        await at.do("abort", key="k", upload=upload)
        assert (await at.error("part", key="k", upload=upload, number=1, body="abc")).endswith("(10024)")


@pytest.mark.requirement("workers:r2:errors")
async def test_what_is_refused_has_r2s_code_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    async with kit(tmp_path, quota_bytes=20 * MIB) as at:

        async def code(key: str, **options: Any) -> str:
            return (await at.error("put", key=key, body="x", options=options)).rpartition("(")[2].rstrip(")")

        assert await code("") == "10020"
        assert await code("x" * 1025) == "10020"
        assert await code("\x7f") == "10020"
        assert await code("k", customMetadata={"k": "v" * 2048}) == "10012"
        for name, length in (("md5", 16), ("sha1", 20), ("sha256", 32), ("sha384", 48), ("sha512", 64)):
            assert await code("k", **{name: "0" * 2 * length}) == "10037"
            right = hashlib.new(name, b"x", usedforsecurity=False).hexdigest()
            put = await at.do("put", key=name, body="x", options={name: right})
            assert put["checksums"][name] == right
        assert await code("k", ssecKey="0" * 64) == "10029"
        assert (await at.error("get", key="md5", options={"ssecKey": "0" * 64})).endswith("(10029)")
        assert await code("k", storageClass="Glacier") == "10029"
        assert (await at.error("delete", keys=[str(n) for n in range(1001)])).endswith("(10029)")
        assert (await at.error("put_stream", key="k", size=30 * MIB)).endswith("(10042)")
        assert await at.error("put_broken", key="k", size=MIB, after=100_000)
        assert await at.do("head", key="k") is None


@pytest.mark.requirement("workers:r2:streams")
async def test_large_streams_go_through_and_who_leaves_early_holds_nothing(tmp_path: pathlib.Path) -> None:
    size = 40 * MIB + 5
    async with kit(tmp_path) as at:
        put, again = await asyncio.gather(at.do("put_stream", key="k", size=size), at.do("put_stream", key="j", size=3))
        assert (put["object"]["size"], again["object"]["size"]) == (size, 3)
        assert (await at.do("get_stream", key="k"))["sha256"] == put["sha256"]
        assert await at.do("get_and_leave", key="k") > 0
        await at.do("delete", keys=["k", "j"])
        assert (await at.do("list"))["objects"] == []


@pytest.mark.requirement("workers:r2:apart")
async def test_bindings_lead_to_their_own_bucket_and_tenant(tmp_path: pathlib.Path) -> None:
    places = ("BUCKET", "SECOND", "THEIRS")
    async with kit(tmp_path) as at:
        for place in places:
            await at.do("put", bucket=place, key="k", body=place)
        for place in places:
            assert (await at.do("get", bucket=place, key="k"))["body"] == place
        await at.do("delete", bucket="THEIRS", keys="k")
        assert (await at.do("get", key="k"))["body"] == "BUCKET"
        assert await at.do("head", bucket="THEIRS", key="k") is None
