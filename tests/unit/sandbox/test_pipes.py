"""A pipe's descriptor is closed once, whoever's event loop it is."""

import asyncio
import os
import re
import threading
import time

import pytest
import uvloop

from checks import tree
from smcp.sandbox import pipes

_SECONDS = 1.5
_ROUNDS = 100
"""At least so many, however long a busy machine takes for them."""


class _Opener(threading.Thread):
    """Opens and closes files all the time, and counts those that somebody else closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.lost = 0

    def run(self) -> None:
        while not self.ended.is_set():
            handle = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.stat(os.devnull)  # lets the loop run on
                os.close(handle)
            except OSError:
                self.lost += 1


@pytest.mark.requirement("sandbox:pipes:closed-once")
def test_closing_a_pipe_never_closes_a_file_that_another_thread_has_just_opened() -> None:
    opener = _Opener()

    async def many() -> int:
        rounds = 0
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until or rounds <= _ROUNDS:
            read, write = os.pipe2(os.O_CLOEXEC)
            reads = await pipes.reader(read, asyncio.Protocol)
            writes, _ = await pipes.writer(write, asyncio.BaseProtocol)
            writes.close()
            reads.close()
            rounds += 1
            await asyncio.sleep(0)
        return rounds

    opener.start()
    try:
        assert uvloop.run(many()) > _ROUNDS
    finally:
        opener.ended.set()
        opener.join()
    assert opener.lost == 0


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("make", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_is_written_arrives_and_every_descriptor_is_given_back(make: type[asyncio.AbstractEventLoop]) -> None:
    async def once() -> bytes:
        read, write = os.pipe2(os.O_CLOEXEC)
        stream = asyncio.StreamReader()
        reads = await pipes.reader(read, lambda: asyncio.StreamReaderProtocol(stream))
        writes, _ = await pipes.writer(write, asyncio.BaseProtocol)
        writes.write(b"hello")
        writes.close()
        data = await stream.read()
        reads.close()
        async with asyncio.timeout(60):
            while _open(read) or _open(write):  # noqa: ASYNC110 - nobody tells when a loop has closed one
                await asyncio.sleep(0.01)
        return data

    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(once()) == b"hello"


def test_no_other_place_puts_a_pipe_on_the_loop() -> None:
    direct = re.compile(r"connect_(?:read|write)_pipe")
    found = [
        tree.name(file)
        for file in tree.files()
        if tree.name(file).startswith("src/") and file.suffix == ".py" and direct.search(file.read_text())
    ]
    assert found == ["src/smcp/sandbox/pipes.py"]
