"""Buckets over the admin API: streams in both directions, what goes with an object, and what is told of it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from smcp.control import answers, endpoint
from smcp.stores import bucket_model
from support.buckets import nothing_left, pieces
from unit.control import world as worlds

WHO = f"{worlds.OWN}/admin"
PATH = f"/api/v1/tenants/{worlds.OWN}/buckets"
OCTETS = {"Content-Type": "application/octet-stream"}


async def put(world: worlds.World, key: str, content: Any, bucket: str = "docs", **query: str) -> Any:
    return await world.send("PUT", f"{PATH}/{bucket}/objects/{key}", WHO, content=content, headers=OCTETS, params=query)


@pytest.mark.requirement("workers:objects-api:round-trip")
async def test_an_object_is_written_shown_read_in_parts_and_deleted(world: worlds.World) -> None:
    content = bytes(range(256)) * 1000
    sent = {
        "content_type": "text/html",
        "cache_control": "no-cache",
        "metadata": json.dumps({"by": "Ada"}),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    answer = await put(world, "a%2Fb%20%C3%BC%3F%23%25", pieces(content[:100_000], content[100_000:]), **sent)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["key"], made["bytes"], made["metadata"]) == ("a/b ü?#%", len(content), {"by": "Ada"})
    assert made["http"] == {"Content-Type": "text/html", "Cache-Control": "no-cache"}
    assert made["checksums"]["sha256"] == sent["sha256"]
    where = "a%2Fb%20%C3%BC%3F%23%25"
    assert await world.ok("GET", f"{PATH}/docs/about/{where}", WHO) == made
    assert (await world.ok("GET", f"{PATH}/docs", WHO))["items"] == [made]
    got = await world.send("GET", f"{PATH}/docs/objects/{where}", WHO)
    assert got.content == content
    assert got.headers["etag"] == f'"{made["etag"]}"'
    # What it is called by whoever wrote it is not what a browser takes it for.
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == "attachment"
    part = await world.send("GET", f"{PATH}/docs/objects/{where}?offset=255990&length=5&etag={made['etag']}", WHO)
    assert (part.content, part.headers["content-length"]) == (content[255990:255995], "5")
    head = await world.send("HEAD", f"{PATH}/docs/objects/{where}", WHO)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    for query, status in (("offset=256000", 400), ("etag=other", 409), ("length=0", 400), ("offset=-1", 400)):
        assert (await world.send("GET", f"{PATH}/docs/objects/{where}?{query}", WHO)).status_code == status
    assert (await world.send("DELETE", f"{PATH}/docs/objects/{where}", WHO)).status_code == 204
    for path in (f"objects/{where}", f"about/{where}"):
        assert (await world.send("GET", f"{PATH}/docs/{path}", WHO)).status_code == 404
    assert (await world.send("DELETE", f"{PATH}/docs/objects/{where}", WHO)).status_code == 404


@pytest.mark.requirement("workers:objects-api:refused")
async def test_what_is_refused_is_refused_with_a_reason_and_leaves_nothing(world: worlds.World) -> None:
    for content, query, status in (
        (b"x", {"sha256": "0" * 64}, 400),
        (b"x", {"metadata": "[]"}, 400),
        (b"x", {"metadata": json.dumps({"k": "v" * 2048})}, 400),
        (b"x", {"metadata": '{"k": 1}'}, 400),
        (b"x", {"content_type": "x" * 1025}, 400),
        (b"x", {"unknown": "1"}, 400),
    ):
        assert (await put(world, "k", content, **query)).status_code == status, query
    assert (await put(world, "k", b"first", absent="true")).status_code == 200
    assert (await put(world, "k", b"second", absent="true")).status_code == 409
    assert (await world.send("GET", f"{PATH}/docs/objects/k", WHO)).content == b"first"
    assert (await put(world, "x" * 1025, b"x")).status_code == 400
    large = {**OCTETS, "Content-Length": str(bucket_model.MOST_PUT + 1)}
    answer = await world.send("PUT", f"{PATH}/docs/objects/k", WHO, content=pieces(b"x"), headers=large)
    assert answer.status_code == 413
    wrong = await world.send("PUT", f"{PATH}/docs/objects/k", WHO, content=b"x", headers={"Content-Type": "text/plain"})
    assert wrong.status_code == 415
    for name in ("A", "ab", "a_b"):
        assert (await world.send("GET", f"{PATH}/{name}", WHO)).json()["error"]["code"] == "bad_name"
    await nothing_left(world.store, worlds.OWN)


@pytest.mark.requirement("workers:objects-api:buckets")
async def test_buckets_are_listed_and_deleted_whole_after_a_dry_run(world: worlds.World) -> None:
    for key in ("a/1", "a/2", "b"):
        await put(world, key, key.encode())
    await world.parts.buckets.bucket(worlds.OWN, "docs").uploads.create("open")
    listed = {one["name"]: one["objects"] for one in (await world.ok("GET", PATH, WHO))["items"]}
    assert listed["docs"] == 3
    assert await world.ok("GET", f"{PATH}?limit=1", WHO) == {"items": [{"name": "docs", "objects": 3}], "next": "docs"}
    behind = await world.ok("GET", f"{PATH}?limit=1&after=docs", WHO)
    assert behind == {"items": [{"name": "photos", "objects": 1}], "next": None}
    page = await world.ok("GET", f"{PATH}/docs?delimiter=/", WHO)
    assert ([one["key"] for one in page["items"]], page["prefixes"], page["next"]) == (["b"], ["a/"], None)
    first = await world.ok("GET", f"{PATH}/docs?limit=2", WHO)
    rest = await world.ok("GET", f"{PATH}/docs?limit=2&after={first['next']}", WHO)
    assert [one["key"] for one in (*first["items"], *rest["items"])] == ["a/1", "a/2", "b"]
    told = {"name": "docs", "objects": 3, "bytes": 7}
    assert await world.ok("DELETE", f"{PATH}/docs?dry_run=true", WHO) == told | {"dry_run": True}
    assert len((await world.ok("GET", f"{PATH}/docs", WHO))["items"]) == 3
    assert await world.ok("DELETE", f"{PATH}/docs", WHO) == told | {"dry_run": False}
    assert (await world.send("DELETE", f"{PATH}/docs", WHO)).status_code == 404
    await nothing_left(world.store, worlds.OWN)


@pytest.mark.requirement("workers:objects-api:audit")
async def test_the_trail_tells_who_wrote_and_deleted_and_no_key(world: worlds.World) -> None:
    await put(world, "ada%20lovelace", b"12345", bucket="audited")
    await world.send("DELETE", f"{PATH}/audited/objects/ada%20lovelace", WHO)
    for key in ("b", "c"):
        await put(world, key, b"1", bucket="audited")
    await world.ok("DELETE", f"{PATH}/audited", WHO)
    trail = [event for event in await world.trail(worlds.OWN) if event.get("bucket") == "audited"]
    kinds = [(event["event"], event.get("bytes"), event.get("objects")) for event in trail]
    assert kinds == [
        ("object_put", 5, None),
        ("object_deleted", None, 1),
        ("object_put", 1, None),
        ("object_put", 1, None),
        ("object_deleted", None, 2),
    ]
    assert "lovelace" not in repr(trail)
    assert trail[0]["key"] == trail[1]["key"] != trail[2]["key"]
    assert [bool(event["key"]) for event in trail] == [True, True, True, True, False]


class _Client:
    """An ASGI client that takes as much as it is told to, and then leaves or falls silent."""

    def __init__(self, take: int, leaves: bool) -> None:
        self.left = take
        self.leaves = leaves
        self.gone = asyncio.Event()
        self.taken = 0

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] != "http.response.body":
            return
        if self.left == 0 and not self.leaves:
            await asyncio.Event().wait()
        self.left -= 1
        self.taken += len(message["body"])
        if self.left == 0 and self.leaves:
            self.gone.set()
            await asyncio.sleep(0)


@pytest.mark.requirement("workers:objects-api:slow-readers")
@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_leaves_or_takes_nothing_ends_the_reading(leaves: bool) -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)
        finally:
            closed.set()

    client = _Client(5, leaves)
    streamed = answers.Streamed(endpoint.Stream(chunks(), 10**9), 200, 0.05)
    await asyncio.wait_for(streamed({"type": "http", "method": "GET"}, client.receive, client.send), 60)
    assert closed.is_set()
    assert 5000 <= client.taken < 10**6
