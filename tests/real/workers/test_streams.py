"""Large bodies between a Worker and another host: at the speed of whoever reads, in constant memory."""

import asyncio
import gzip
import pathlib
from typing import Final

import pytest

from support import reaching
from support.reaching import ALLOWED, Came, Site, World, answer

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SIZE: Final = 100_000_000
PIECE: Final = 65_536
LONG_S: Final = 300.0
MOST: Final = 50_000_000
"""Bytes by which the memory of this process, where the platform's side is and the other host as well, may grow."""


def _memory() -> int:
    for line in pathlib.Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.requirement("workers:outbound:streams")
async def test_a_large_answer_comes_as_fast_as_it_is_read(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    held = asyncio.Event()
    sent = 0

    async def much(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {SIZE}\r\n\r\n".encode())
        while sent < SIZE:
            piece = bytes(min(PIECE, SIZE - sent))
            writer.write(piece)
            sent += len(piece)
            try:
                async with asyncio.timeout(2.0):
                    await writer.drain()
            except TimeoutError:
                held.set()
                await writer.drain()

    async with Site(much).open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        before = most = _memory()
        async with worker.open("GET", worker.through("down", f"https://{ALLOWED}:{site.port}/")) as (status, reader):
            assert status == 200
            # Nobody reads: the host must be held up long before it has said everything.
            await asyncio.wait_for(held.wait(), LONG_S)
            assert sent < SIZE / 2
            read = 0
            while data := await asyncio.wait_for(reader.read(PIECE), reaching.WAIT_S):
                read += len(data)
                most = max(most, _memory())
            assert read == SIZE
        assert most - before < MOST
        assert worker.moved[1] > SIZE


@pytest.mark.requirement("workers:outbound:streams")
async def test_a_large_request_goes_as_fast_as_it_is_taken(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    before = most = _memory()
    got = 0

    async def take(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got, most
        assert (came.method, came.field("transfer-encoding")) == ("PUT", "chunked")
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
            got += size
            most = max(most, _memory())
        await reader.readexactly(2)
        writer.write(answer(b"taken"))

    async with Site(take).open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        path = worker.through("up", f"https://{ALLOWED}:{site.port}/", size=SIZE)
        before = most = _memory()
        async with worker.open("GET", path, wait_s=LONG_S) as (status, reader):
            assert (status, await reader.read()) == (200, b"taken")
        assert got == SIZE
        assert most - before < MOST
        assert worker.moved[0] > SIZE


@pytest.mark.requirement("workers:outbound:streams")
async def test_an_encoded_answer_comes_as_it_is_and_the_code_decodes_it(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    packed = gzip.compress(b"hello" * 1000)

    async def pack(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Without a length: it ends with its connection.
        writer.write(b"HTTP/1.0 200 X\r\nContent-Encoding: gzip\r\n\r\n" + packed)
        await writer.drain()
        writer.close()

    async with Site(pack).open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        found = await worker.fetch(f"https://{ALLOWED}:{site.port}/")
        assert found["text"] == "hello" * 1000
        assert worker.moved[1] < 1000


@pytest.mark.requirement("workers:outbound:streams")
async def test_an_answer_that_breaks_off_does_not_pass_for_a_whole_one(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)

    async def half(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = "Content-Length: 100" if came.target == "/length" else "Transfer-Encoding: chunked"
        writer.write(f"HTTP/1.1 200 X\r\n{length}\r\n\r\n5\r\nhello\r\n".encode())
        await writer.drain()
        writer.transport.abort()

    async with Site(half).open(None) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        for path in ("/length", "/chunks"):
            found = await worker.fetch(f"http://{ALLOWED}:{site.port}{path}")
            assert "error" in found, found
        # It is the host's fault, and not the platform's.
        assert not any("fault" in line for line in worker.lines), worker.lines
