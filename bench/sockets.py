"""What a call over a unix socket takes of this process: the bare socket, the lean client, a whole conversation.

The server is a process of its own, so that only one side is measured. `python -m bench.sockets DIRECTORY` is that
server: it echoes bytes at one socket, and is the lean MCP server at another.
"""

import asyncio
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Final, NamedTuple, cast

import uvloop

from bench import bare, cores, figures, lean
from smcp.kernel import jsonrpc
from smcp.protocol import eras
from smcp.runtime import budgets, driver, spool
from smcp.runtime.drivers import conversation, remote
from smcp.upstream import lean as client
from smcp.upstream import mirrors, places

_TOPIC: Final = "a call over a unix socket, processor time of this side"
_AT_ONCE: Final = (1, 16)
_PLACE: Final = places.Place("http", "localhost", 80, "/mcp")
_FIELDS: Final = (
    ("Accept", "application/json, text/event-stream"),
    ("Content-Type", "application/json"),
    ("MCP-Protocol-Version", eras.MODERN[-1]),
    ("Mcp-Method", "tools/call"),
    ("Mcp-Name", "echo"),
)
_META: Final = jsonrpc.encode({"_meta": {eras.META_VERSION: eras.MODERN[-1], eras.META_CAPABILITIES: {}}})[1:]
_LIMITS: Final = driver.Limits(
    stop_grace_s=5.0, max_message_bytes=spool.IN_MEMORY, stream_buffer=64, tenant_buffer_bytes=1 << 26
)

_Call = Callable[[int], Awaitable[None]]
"""Makes the call with this number. Raises RuntimeError when its answer is wrong."""


class Plan(NamedTuple):
    """Rounds, and calls in each of every way."""

    rounds: int
    calls: int


def measure(plan: Plan, found: figures.Figures, where: cores.Cores) -> None:
    """Add the figures: every way in turns. Raises RuntimeError when an answer was wrong."""
    with served(where) as directory:
        uvloop.run(_measure(plan, found, directory))


async def _measure(plan: Plan, found: figures.Figures, directory: pathlib.Path) -> None:
    for at_once in _AT_ONCE:
        async with contextlib.AsyncExitStack() as stack:
            ways = {
                figures.BARE: await _echo(stack, directory, at_once),
                "the lean client": await _client(stack, directory),
                "a conversation, 2026-07-28": await _conversation(stack, directory),
            }
            for way in ways.values():
                await _took(way, at_once, at_once * 4)
            for _ in range(plan.rounds):
                for how, way in ways.items():
                    found.add(_TOPIC, f"{at_once} at once", how, "µs", [await _took(way, at_once, plan.calls)])


async def _took(call: _Call, at_once: int, number: int) -> float:
    """Microseconds of processor time for each of so many calls."""

    async def some(first: int) -> None:
        for one in range(first, number, at_once):
            await call(one)

    before = time.process_time()
    await asyncio.gather(*(some(first) for first in range(at_once)))
    return (time.process_time() - before) / number * 1e6


class _Echoed(asyncio.Protocol):
    """Waits for one answer."""

    def __init__(self) -> None:
        self.waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(data)


async def _echo(stack: contextlib.AsyncExitStack, directory: pathlib.Path, at_once: int) -> _Call:
    loop = asyncio.get_running_loop()
    links = [(await loop.create_unix_connection(_Echoed, str(directory / "echo")))[1] for _ in range(at_once)]
    for link in links:
        stack.callback(link.transport.abort)
    head = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in _FIELDS)

    async def call(number: int) -> None:
        link, sent = links[number % at_once], head + _params(number)
        link.waiter = loop.create_future()
        link.transport.write(sent)
        if await link.waiter != sent:
            raise RuntimeError("what came back is not what was sent")

    return call


async def _client(stack: contextlib.AsyncExitStack, directory: pathlib.Path) -> _Call:
    http = client.Client(str(directory / "http"))
    stack.push_async_callback(http.close)

    async def call(number: int) -> None:
        body = jsonrpc.request(b"%d" % number, "tools/call", _params(number))
        async with http.send("POST", _PLACE, _FIELDS, body) as answer:
            bare.check(answer.ready() or await answer.read(1 << 20), number)

    return call


async def _conversation(stack: contextlib.AsyncExitStack, directory: pathlib.Path) -> _Call:
    http = client.Client(str(directory / "http"))
    made = conversation.Conversation(
        _LIMITS,
        _ignored,
        lambda _: None,
        remote.Shared(http),
        modern=True,
        budget=budgets.Budget(_LIMITS.tenant_buffer_bytes),
    )
    made.choose("streamable", _PLACE, mirrors.Mirrors())
    stack.push_async_callback(made.stop, "the bench is over")

    async def call(number: int) -> None:
        params = _params(number)
        told = jsonrpc.Message(
            jsonrpc.Kind.REQUEST, "tools/call", {"name": "echo", "_meta": {}}, b"%d" % number, params, b""
        )
        asked, waiting = made.calls.send(told)
        await waiting.wait()
        if waiting.failure is not None:
            raise RuntimeError(str(waiting.failure))
        bare.check(waiting.response, number)
        made.calls.forget(asked)

    return call


def _params(number: int) -> bytes:
    return bare.params(number)[:-1] + b"," + _META


def _ignored(_line: str) -> None:
    pass


# --- the server ---


@contextlib.contextmanager
def served(where: cores.Cores) -> Generator[pathlib.Path]:
    """Where both sockets are; their server has a core of its own, if there is one."""
    with tempfile.TemporaryDirectory(prefix="smcp-bench-") as name:
        argv = [sys.executable, "-m", "bench.sockets", name]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=pathlib.Path(__file__).parents[1]) as server:
            try:
                os.sched_setaffinity(server.pid, {where.measured})
                assert server.stdout is not None
                if server.stdout.readline() != b"ready\n":
                    raise RuntimeError("the bench's own server did not start")
                yield pathlib.Path(name)
            finally:
                server.kill()


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _serve(directory: pathlib.Path) -> None:
    loop = asyncio.get_running_loop()
    echo = await loop.create_unix_server(_Echo, str(directory / "echo"))
    http = await loop.create_unix_server(lean.Connection, str(directory / "http"))
    print("ready", flush=True)
    await asyncio.gather(echo.serve_forever(), http.serve_forever())


if __name__ == "__main__":
    uvloop.run(_serve(pathlib.Path(sys.argv[1])))
