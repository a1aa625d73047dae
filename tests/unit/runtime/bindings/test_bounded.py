"""Hosted code that makes large JSON, and reads no answer: what that costs the platform."""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
from collections.abc import AsyncGenerator, Generator
from typing import Final

import msgspec
import pytest

from smcp.kernel import errors, ids
from smcp.runtime.bindings import bounded, door, http, kv, objects, r2
from smcp.stores import bucket_lists as lists
from smcp.stores import bucket_model, buckets, heavy, kvrules, namespaces
from smcp.stores import tenant as stores
from support import storage

ACME: Final = ids.tenant("acme")
OTHER: Final = ids.tenant("other")
_MIB: Final = 1024 * 1024
_ENOUGH_S: Final = 100.0
_BULK: Final = json.dumps({"keys": ["large"], "type": "text"}).encode()


class _Peak:
    mib = 0.0


@contextlib.contextmanager
def _peak() -> Generator[_Peak]:
    """How many MiB more of memory than now there were meanwhile.

    As the kernel counts: to stop tracemalloc while a thread without the interpreter allocates, as those of the object
    store do, is a crash in CPython before 3.12.9 (python/cpython#128679).
    """
    found = _Peak()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM is VmRSS from here (proc(5))
    before = _status("VmRSS")
    yield found
    found.mib = (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncGenerator[stores.Store]:
    async with storage.opened(tmp_path / "store") as opened:
        await opened.provision(ACME)
        await opened.provision(OTHER)
        yield opened


@pytest.fixture
async def every(store: stores.Store) -> namespaces.Namespaces:
    made = namespaces.Namespaces(store)
    for tenant in (ACME, OTHER):
        await made.put(tenant, "notes", "large", b"\x01" * kvrules.MAX_VALUE)
        await made.put(tenant, "notes", "small", b'{"a": 1}', metadata='{"m":"\\u0001"}')
    return made


def _request(method: str, target: str, body: bytes = b"", headers: dict[bytes, bytes] | None = None) -> http.Request:
    return http.Request(method, target, headers or {}, bounded.pieces(body), len(body))


async def _read(response: http.Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    try:
        return b"".join([part async for part in response.body])
    finally:
        await response.body.aclose()  # type: ignore[attr-defined]


class _Asker:
    """Connections to a door that ask, and read only when told to."""

    def __init__(self, directory: pathlib.Path, held: contextlib.AsyncExitStack) -> None:
        self._directory = directory
        self._held = held

    async def door(self, name: str) -> door.Door:
        opened = await door.Door.open(str(self._directory / name), os.getuid(), print)
        self._held.push_async_callback(opened.close)
        return opened

    async def ask(self, name: str, capability: str, body: bytes = _BULK) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_unix_connection(str(self._directory / name), limit=1024)
        self._held.callback(_drop, writer)
        head = f"POST /bulk/get HTTP/1.1\r\nHost: h\r\nX-SMCP-Capability: {capability}\r\nContent-Length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body)
        return reader

    async def status(self, reader: asyncio.StreamReader) -> int:
        async with asyncio.timeout(_ENOUGH_S):
            return int((await reader.readline()).split()[1])


def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.fixture
async def asker(tmp_path: pathlib.Path) -> AsyncGenerator[_Asker]:
    async with contextlib.AsyncExitStack() as held:
        yield _Asker(tmp_path, held)


# --- answers that nobody reads ---


@pytest.mark.requirement("workers:memory:unread-answers")
async def test_many_who_do_not_read_hold_little_and_others_of_the_tenant_are_answered(
    every: namespaces.Namespaces, asker: _Asker
) -> None:
    places = heavy.Heavy(hold_s=5.0)
    way = await asker.door("acme")
    hostile = [way.admit(kv.Binding(every, ACME, "notes", places).answer) for _ in range(3)]
    honest = way.admit(kv.Binding(every, ACME, "notes", places).answer)
    with _peak() as peak:
        begun = [await asker.ask("acme", capability) for _ in range(2) for capability in hostile[:2]]
        for reader in begun:  # each has its place, and the beginning of its answer
            assert await asker.status(reader) == 200
        for _ in range(5):
            for capability in hostile:
                await asker.ask("acme", capability)
        body = json.dumps({"keys": ["small"], "type": "json"}).encode()
        assert await asker.status(await asker.ask("acme", honest, body)) == 200
    assert peak.mib < 32  # nineteen answers of 150 MiB were asked for


@pytest.mark.requirement("workers:memory:unread-answers")
async def test_who_does_not_read_loses_the_connection_in_the_end(every: namespaces.Namespaces, asker: _Asker) -> None:
    way = await asker.door("acme")
    capability = way.admit(kv.Binding(every, ACME, "notes", heavy.Heavy(hold_s=1.0)).answer)
    readers = [await asker.ask("acme", capability) for _ in range(heavy.OF_ONE)]
    for reader in readers:
        assert await asker.status(reader) == 200
    dripping = asyncio.create_task(_drip(readers[0]))  # so slowly that it takes something, and never all
    try:
        assert await asker.status(await asker.ask("acme", capability)) == 200
        assert await asker.status(await asker.ask("acme", capability)) == 200
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
    for reader in readers:
        total = 0
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(_MIB):
                total += len(part)
        assert total < kvrules.MAX_VALUE


async def _drip(reader: asyncio.StreamReader) -> None:
    for _ in range(1_000_000):
        await reader.readexactly(1)
        await asyncio.sleep(0.01)


@pytest.mark.requirement("workers:memory:unread-answers")
async def test_those_of_another_tenant_wait_for_nobody_and_those_of_this_one_not_for_ever(
    every: namespaces.Namespaces, asker: _Asker
) -> None:
    places = heavy.Heavy(hold_s=600.0, wait_s=0.2)
    await asker.door("acme")
    way, other = await asker.door("acme"), await asker.door("other")
    for _ in range(2):
        capability = way.admit(kv.Binding(every, ACME, "notes", places).answer)
        for reader in [await asker.ask("acme", capability) for _ in range(heavy.OF_ONE)]:
            assert await asker.status(reader) == 200
        assert await asker.status(await asker.ask("acme", capability)) == 429
    third = way.admit(kv.Binding(every, ACME, "notes", places).answer)
    assert await asker.status(await asker.ask("acme", third)) == 429
    bucket = objects.Binding(buckets.Buckets(every._store), ACME, "photos", places)  # pyright: ignore[reportPrivateUsage]
    listed = await bucket.answer(_request("GET", "/", headers={objects.REQUEST: b'{"method":"list"}'}))
    assert listed.status == 429
    theirs = other.admit(kv.Binding(every, OTHER, "notes", places).answer)
    assert await asker.status(await asker.ask("other", theirs)) == 200


@pytest.mark.requirement("workers:memory:unread-answers")
async def test_places_come_back_however_an_answer_ends(every: namespaces.Namespaces) -> None:
    places = heavy.Heavy(wait_s=5.0)
    binding = kv.Binding(every, ACME, "notes", places)
    for _ in range(3):
        for body in (_BULK, b"{", b'{"keys":["small"]}', b'{"keys":["large"],"type":"json"}'):
            answered = await binding.answer(_request("POST", "/bulk/get", body))
            if not isinstance(answered.body, bytes):
                async for _part in answered.body:
                    break
                await answered.body.aclose()  # type: ignore[attr-defined]
        never_begun = await binding.answer(_request("POST", "/bulk/get", _BULK))
        assert isinstance(never_begun.body, bounded.Held)
        await never_begun.body.aclose()
        task = asyncio.ensure_future(binding.answer(_request("GET", "/")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    share = places.share(ACME)
    await asyncio.gather(share.take(), share.take())
    await asyncio.gather(*(places.common(ACME, "x").take() for _ in range(2)))
    assert not every.reading


async def test_values_come_as_they_are_in_pieces(every: namespaces.Namespaces) -> None:
    text = 'é€😀\\"\n\x01' * 40_000
    await every.put(ACME, "notes", "text", text.encode() + b"\xf0\x9f")
    await every.put(ACME, "notes", "json", json.dumps([text]).encode())
    binding = kv.Binding(every, ACME, "notes", heavy.Heavy())
    for asked, found in (
        ({"keys": ["text", "none", "text"]}, {"text": text + "\ufffd", "none": None}),
        ({"keys": ["json"], "type": "json"}, {"json": [text]}),
        (
            {"keys": ["small", "json"], "type": "json", "withMetadata": True},
            {"small": {"value": {"a": 1}, "metadata": {"m": "\x01"}}, "json": {"value": [text], "metadata": None}},
        ),
        ({"keys": ["none"]}, {"none": None}),
    ):
        answered = await binding.answer(_request("POST", "/bulk/get", json.dumps(asked).encode()))
        assert (answered.status, json.loads(await _read(answered))) == (200, found)


# --- JSON that is much more than its text ---


@pytest.mark.requirement("workers:memory:json-bombs")
async def test_nothing_is_built_of_a_stored_value(every: namespaces.Namespaces) -> None:
    bomb = b"[" + b"[]," * (kvrules.MAX_VALUE // 3 - 2) + b"[]]"
    await every.put(ACME, "notes", "bomb", bomb)
    binding = kv.Binding(every, ACME, "notes", heavy.Heavy())
    with _peak() as peak:
        answered = await binding.answer(_request("POST", "/bulk/get", b'{"keys":["bomb"],"type":"json"}'))
        assert answered.status == 200
    assert peak.mib < 80  # it twice, while its chunks are joined; its arrays would be ten times as much
    assert await _read(answered) == b'{"bomb":%b}' % bomb


@pytest.mark.requirement("workers:memory:json-bombs")
@pytest.mark.parametrize(
    "data", [b"", b"{", b'"\xff"', b"1 2", b"[1,]", b'1,"other":2', b"[" * 100_000, b'["' + b"a" * 100_000 + b'\xf0"]']
)
async def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(errors.InvalidParams):
        await bounded.check_json(data)


@pytest.mark.requirement("workers:memory:json-bombs")
def test_no_more_texts_are_made_than_a_request_may_have() -> None:
    with _peak() as peak:
        assert bounded.texts(msgspec.Raw(b"[" + b'"a",' * 1_000_000 + b'"a"]'), 100) is None
    assert peak.mib < 24
    keys = ['"\\"' * 300, "\\" * 300, "", "é"] * 25
    assert bounded.texts(msgspec.Raw(json.dumps(keys).encode()), 100) == keys
    assert bounded.texts(msgspec.Raw(json.dumps([*keys, ""]).encode()), 100) is None


@pytest.mark.requirement("workers:memory:json-bombs")
@pytest.mark.parametrize(
    ("head", "item"),
    [
        (b'{"method":"delete","objects":[', b'"a"'),
        (b'{"method":"completeMultipartUpload","parts":[', b"{}"),
        (b'{"method":"put","customFields":[', b"{}"),
        (b'{"method":"createMultipartUpload","customFields":[', b"{}"),
        (b'{"method":"delete","ssec":[', b"[]"),
        (b'{"method":"uploadPart","ssec":[', b"[]"),
        (b'{"method":"delete","object":"a","objects":[', b"[]"),
    ],
)
async def test_no_more_is_made_of_a_request_to_a_bucket_than_it_may_have(
    store: stores.Store, head: bytes, item: bytes
) -> None:
    count = (objects.MOST_REQUEST - len(head) - 10) // (len(item) + 1)
    body = head + (item + b",") * count + item + b"]}"
    binding = objects.Binding(buckets.Buckets(store), ACME, "photos", heavy.Heavy())
    request = _request("PUT", "/", body, {objects.SIZE.lower(): str(len(body)).encode()})
    with _peak() as peak:
        answered = await binding.answer(request)
    assert answered.status == 400
    assert peak.mib < 48  # a few copies of its text


@pytest.mark.requirement("workers:memory:json-bombs")
def test_large_requests_that_are_meant_are_read() -> None:
    keys = ["k\x01" * 500 + str(number) for number in range(1000)]
    asked = r2.large(json.dumps({"method": "delete", "objects": keys}).encode())
    assert asked == r2.Delete(objects=keys)
    parts = [{"etag": "f" * 32, "part": number} for number in range(1, 10_001)]
    told = {"method": "completeMultipartUpload", "object": "k", "uploadId": "u", "parts": parts}
    assert r2.large(json.dumps(told).encode()) == r2.parsed(r2.WRITES, json.dumps(told).encode())
    assert r2.large(json.dumps({"method": "delete", "object": "k" * 70_000}).encode()) == r2.Delete(object="k" * 70_000)


@pytest.mark.requirement("workers:memory:unread-answers")
async def test_a_list_of_much_metadata_comes_in_shorter_pages(store: stores.Store) -> None:
    every = buckets.Buckets(store)
    bucket = every.bucket(ACME, "photos")
    custom = {"a": "\x01" * 2000}
    count = lists.MOST_BYTES // 12_000 + 10
    names = [f"k{number:04}" for number in range(count)]
    for name in names:
        await bucket.put(name, bounded.pieces(b"v"), length=1, about=bucket_model.About(custom=custom))
    binding = objects.Binding(every, ACME, "photos", heavy.Heavy())
    found: list[str] = []
    cursor, pages = "", 0
    while True:
        asked = json.dumps({"method": "list", "include": [0, 1], "cursor": cursor}).encode()
        answered = await binding.answer(_request("GET", "/", headers={objects.REQUEST: asked}))
        data = await _read(answered)
        assert answered.status == 200
        assert dict(answered.headers)[objects.SIZE] == str(len(data)).encode()
        assert len(data) <= lists.MOST_BYTES + 20_000
        page = json.loads(data)
        found += [one["name"] for one in page["objects"]]
        assert base64.b64encode(page["objects"][0]["customFields"][0]["v"].encode()).startswith(b"AQEB")
        pages += 1
        if not page["truncated"]:
            break
        cursor = page["cursor"]
    assert (found, pages) == (names, 2)
