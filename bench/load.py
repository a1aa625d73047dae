"""The load: keep-alive HTTP/1.1 connections, one request in flight on each, every answer checked.

Latency is taken from the write of a request to the end of its answer. Nothing is retried: a wrong status, id or text
is an error, and a run with an error has no result.
"""

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import httptools
import msgspec


class Target(NamedTuple):
    """What is asked, and how its answers are checked."""

    host: str
    port: int
    heads: Sequence[bytes]
    """Request line and headers, all but Content-Length and the empty line. Connections share them out: each of them
    uses its own in turns, and they use the same ones only where there are fewer heads than connections."""
    body: Callable[[int], bytes]
    """The body of the request with this number."""
    expect: Callable[[int], tuple[int, str]]
    """Id and text that the answer to the request with this number must have."""
    path: str = ""
    """A unix socket, which is connected to instead."""


class Sample(NamedTuple):
    """What one run at one number of connections gave."""

    connections: int
    calls: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU of the measured processes per call."""
    load_us: float
    """CPU of who measures, per call: far below the others', or the load is what is measured."""


class _Text(msgspec.Struct):
    text: str


class _Result(msgspec.Struct):
    content: list[_Text]


class _Answer(msgspec.Struct):
    id: int
    result: _Result


_decode = msgspec.json.Decoder(_Answer).decode


class _Run:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.number = 0
        self.taken: list[float] = []
        self.wrong = ""
        self.stopping = False

    def fail(self, why: str) -> None:
        self.wrong = self.wrong or why
        self.stopping = True


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run, heads: Sequence[bytes]) -> None:
        self._run = run
        self._heads = itertools.cycle(heads)
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._number = 0
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._run.number += 1
        self._number = self._run.number
        body = self._run.target.body(self._number)
        self._sent = time.perf_counter()
        self._transport.write(b"%scontent-length: %d\r\n\r\n%s" % (next(self._heads), len(body), body))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._run.fail(f"not HTTP: {error!r}")
            self._transport.close()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        taken = time.perf_counter() - self._sent
        body = b"".join(self._body)
        self._body.clear()
        self._check(body)
        self._run.taken.append(taken)
        if self._run.stopping:
            self._transport.close()
        else:
            self._send()

    def _check(self, body: bytes) -> None:
        status: int = self._parser.get_status_code()
        try:
            answer = _decode(event(body))
            right = (answer.id, answer.result.content[0].text) == self._run.target.expect(self._number)
        except (msgspec.MsgspecError, IndexError):
            right = False
        if status != 200 or not right:
            self._run.fail(f"HTTP {status}: {body[:400].decode('utf-8', 'replace')}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.stopping:
            self._run.fail(f"the connection was closed: {exc!r}")
        if not self.done.done():
            self.done.set_result(None)


def event(body: bytes) -> bytes:
    """The last message of an event stream, or the body as it is."""
    if body[:1] == b"{":
        return body
    data = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    return data[-1] if data else b""


async def measure(target: Target, connections: int, warm_s: float, seconds: float, cpu: Callable[[], float]) -> Sample:
    """Load `target` for `seconds` after `warm_s`; `cpu` reads the microseconds that the measured side has used.

    Raises RuntimeError with the first wrong answer.
    """
    loop = asyncio.get_running_loop()
    run = _Run(target)
    open_: list[_Connection] = []
    for number in range(connections):
        heads = target.heads[number::connections] or (target.heads[number % len(target.heads)],)
        made = functools.partial(_Connection, run, heads)
        if target.path:
            _, connection = await loop.create_unix_connection(made, target.path)
        else:
            _, connection = await loop.create_connection(made, target.host, target.port)
        open_.append(connection)
    await asyncio.sleep(warm_s)
    run.taken.clear()
    cpu_before, own_before, before = cpu(), time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    passed, own, used = time.perf_counter() - before, time.process_time() - own_before, cpu() - cpu_before
    taken = sorted(run.taken)
    run.stopping = True
    await asyncio.wait([connection.done for connection in open_], timeout=10)
    if run.wrong or not taken:
        raise RuntimeError(f"wrong answer under load: {run.wrong or 'none came at all'}")
    return Sample(
        connections=connections,
        calls=len(taken),
        per_second=len(taken) / passed,
        p50_ms=taken[len(taken) // 2] * 1000,
        p99_ms=taken[min(len(taken) - 1, len(taken) * 99 // 100)] * 1000,
        cpu_us=used / len(taken),
        load_us=own * 1e6 / len(taken),
    )
