"""Readers that take their time, with results that are far larger than what the platform may hold."""

import asyncio
import re
from typing import Any

import pytest

from real.load.conftest import Running
from support import load, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_BYTES = 100 << 20
_READERS = 4
_ROOM = 20 << 20


class _Reader:
    """One connection that asks for a large result and reads when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._head = b""
        self._tail = b""
        self.size = 0
        """Bytes of the answer's body that were read, frames of the transfer included."""

    @classmethod
    async def open(cls, platform: Platform, at: Endpoint, accept: str, id_: int) -> "_Reader":
        host, port = wire.address(platform.base_url)
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 16)
        asked = load.called(at, "tools/call", wire.call("long", bytes=_BYTES), id_)
        writer.write(asked.replace(b"application/json, text/event-stream", accept.encode()))
        await writer.drain()
        return cls(reader, writer)

    async def read(self, pieces: int | None = None) -> None:
        """Read so many pieces of at most 64 KiB, or all that comes up to the end of the answer."""
        async with asyncio.timeout(300):
            while pieces is None or pieces > 0:
                data = await self._reader.read(1 << 16)
                assert data, (self._head, self._tail)
                if len(self._head) < 8192:
                    self._head += data
                self._tail = (self._tail + data)[-256:]
                self.size += len(data)
                if pieces is not None:
                    pieces -= 1
                elif self._tail.endswith(b"\r\n0\r\n\r\n"):
                    return

    def check(self, id_: int) -> None:
        """The answer was what the server said, from its first byte to its last."""
        head, _, begin = self._head.partition(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        begin = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", begin)
        assert (
            begin.replace(b": keep-alive\n\n", b"")
            .removeprefix(b"event: message\ndata: ")
            .startswith(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[],"x":"zzz' % id_)
        ), begin[:200]
        end = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", self._tail.removesuffix(b"\r\n0\r\n\r\n"))
        assert end.rstrip(b"\n").endswith(b'zzz"}}'), end
        # Each frame of the transfer adds its length and two line ends.
        assert 0 <= self.size - _BYTES < 100_000

    def close(self) -> None:
        self._writer.transport.abort()


async def _most(platform: Platform, until: "asyncio.Task[Any]") -> int:
    """The most memory that the node holds until a task ends."""
    most = 0
    while not until.done():
        most = max(most, await asyncio.to_thread(load.memory, platform))
        await asyncio.sleep(0.02)
    return most


@pytest.mark.requirement("load:slow:memory")
async def test_slow_readers_of_100_mb_results_cost_the_gateway_no_memory(running: Running) -> None:
    with running({"SMCP_RUNTIME_MAX_MESSAGE_BYTES": str(_BYTES + 4096)}) as platform:
        platform.create_tenant("acme")
        # One copy of the server, which all of them share.
        admin = platform.create_key("acme", "admin")
        url = platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "tool", admin, "[scale]\nmax = 1\n")
        at = Endpoint(url, platform.create_key("acme"))
        other = await load.connected(platform.base_url)
        warm = await other.ask(load.called(at, "tools/call", wire.call("long", bytes=4 << 20), 7))
        assert b'{"jsonrpc":"2.0","id":7,"result":{"content":[],"x":"%b"}}' % (b"z" * (4 << 20)) in warm.body
        before = wire.vitals(platform)
        held = load.memory(platform)
        readers: list[_Reader] = []

        async def slowly() -> None:
            for number in range(_READERS):
                accept = "text/event-stream" if number % 2 else "application/json, text/event-stream"
                readers.append(await _Reader.open(platform, at, accept, 1000 + number))
            # All of them have begun to get an answer, and read no more of it for now: all the rest is waiting.
            await asyncio.gather(*(one.read(4) for one in readers))
            for _ in range(10):
                # Nobody else waits for them, on the same copy of the server either.
                assert (await other.ask(load.called(at))).status == 200
                await readers[0].read(4)
                await asyncio.sleep(0.05)
            assert load.spools(platform) == _READERS
            await asyncio.gather(*(one.read() for one in readers))

        task = asyncio.create_task(slowly())
        most = await _most(platform, task) - held
        await task
        for number, one in enumerate(readers):
            one.check(1000 + number)
            one.close()
        # Some go away in the middle: what waited for them is given back.
        leavers = [await _Reader.open(platform, at, "application/json", 2000 + number) for number in range(2)]
        await asyncio.gather(*(one.read(4) for one in leavers))
        for one in leavers:
            one.close()
        after = await wire.settled(platform, before._replace(in_flight=0), files=8)
        print(f"{_READERS} slow readers of {_BYTES >> 20} MiB each: at most {most >> 10} KiB more memory")
        assert most < _ROOM
        # Neither connections nor files that a result waits in are left.
        assert (after.in_flight, after.instances) == (0, 1)
        assert after.files <= before.files + 8
        assert load.spools(platform) == 0
        assert (await other.ask(load.called(at))).status == 200
        other.transport.close()


@pytest.mark.requirement("load:slow:bounded")
async def test_a_result_that_is_larger_than_the_platform_takes_ends_its_server_and_nobody_elses(
    running: Running,
) -> None:
    with running({"SMCP_RUNTIME_MAX_MESSAGE_BYTES": str(8 << 20)}) as platform:
        hosted = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"), (f"pypi:{wire.SCRIPTED}", "second"))
        one = await load.connected(platform.base_url)
        held = load.memory(platform)
        for _ in range(3):
            answer = await one.ask(load.called(hosted["tool"], "tools/call", wire.call("long", bytes=9 << 20)))
            assert b"ended while this call ran" in answer.body, answer.body[:400]
            assert (await one.ask(load.called(hosted["second"]))).status == 200
        answer = await one.ask(load.called(hosted["tool"], "tools/call", wire.call("long", bytes=7 << 20)))
        assert len(answer.body) > 7 << 20
        assert load.memory(platform) - held < _ROOM
        # Who needs a result in memory gets it, up to what is taken apart there.
        order = {"tool": "do", "arguments": {"act": "long", "bytes": 1 << 20}}
        taken = platform.api("POST", "/tenants/acme/servers/second/call", order, key=hosted["second"].key)
        assert taken["x"] == "z" * (1 << 20)
        one.transport.close()
