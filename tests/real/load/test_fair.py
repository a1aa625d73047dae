"""What one tenant does to another's time."""

import asyncio
import base64
import contextlib
import json
import pathlib
import statistics
import sys
import time
from collections.abc import AsyncGenerator

import pytest

from real.load.conftest import Running
from support import load, wire
from support.clients import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(900)]

_FLOODERS = 64
_CALLERS = 4
_WINDOW_S = 1.0
_ROUNDS = 7
_ATTEMPTS = 5
"""A machine that does something else at times spoils one comparison; a platform that is not fair fails all."""
_TESTS = pathlib.Path(__file__).parents[2]


class _Flood:
    """A process of its own that floods when it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def line(self) -> bytes:
        """What it says next."""
        async with asyncio.timeout(60):
            return await self._out.readline()

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncGenerator[dict[str, int]]:
        """It floods meanwhile; in the end, how it was answered."""
        answers: dict[str, int] = {}
        self._in.write(b"go\n")
        try:
            yield answers
        finally:
            self._in.write(b"stop\n")
            answers.update(json.loads(await self.line()))


@contextlib.asynccontextmanager
async def _flooding(base_url: str, request: bytes) -> AsyncGenerator[_Flood]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.flood", str(_FLOODERS), cwd=_TESTS, stdin=-1, stdout=-1
    )
    assert process.stdin is not None
    flood = _Flood(process)
    try:
        process.stdin.write(b"%b %b\n" % (base_url.encode(), base64.b64encode(request)))
        assert await flood.line() == b"ready\n"
        yield flood
    finally:
        process.stdin.close()
        await process.communicate()


async def _p99(at: Endpoint, base_url: str) -> float:
    """The 99th percentile of a modest tenant's calls, in ms."""
    taken: list[float] = []
    end = time.monotonic() + _WINDOW_S

    async def caller() -> None:
        connection = await load.connected(base_url)
        request = load.called(at, "tools/call", wire.call("echo", text="x"))
        while time.monotonic() < end:
            began = time.perf_counter()
            answer = await connection.ask(request)
            taken.append(time.perf_counter() - began)
            assert answer.status == 200, answer
            await asyncio.sleep(0.004)
        connection.transport.close()

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    taken.sort()
    return taken[len(taken) * 99 // 100] * 1000


async def _compared(flood: _Flood, good: Endpoint, base: str) -> tuple[float, float, int]:
    """The medians of the 99th percentiles without and with the flood, turn and turn about; how many were refused."""
    quiet: list[float] = []
    noisy: list[float] = []
    refused = 0
    for _ in range(_ROUNDS):
        quiet.append(await _p99(good, base))
        async with flood.on() as answers:
            noisy.append(await _p99(good, base))
        refused += answers.get("429", 0)
    return statistics.median(quiet), statistics.median(noisy), refused


@pytest.mark.requirement("load:fair:flood")
async def test_a_flooding_tenant_changes_anothers_p99_by_less_than_a_factor_of_two(running: Running) -> None:
    with running({}) as platform:
        [bad] = platform.host("umbra", (f"pypi:{wire.SCRIPTED}", "tool")).values()
        [good] = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool")).values()
        platform.api("PUT", "/tenants/umbra/plan", {"plan": "free"})
        request = load.called(bad, "tools/call", wire.call("echo", text="y" * 200))
        base = platform.base_url
        async with _flooding(base, request) as flood:
            await _p99(good, base)
            async with flood.on():  # its rate is used up from here on
                await asyncio.sleep(1.5)
            for attempt in range(_ATTEMPTS):
                before, during, refused = await _compared(flood, good, base)
                print(f"p99 {before:.1f} ms; beside a flood, of which {refused} were refused, {during:.1f} ms")
                assert refused > _FLOODERS * _ROUNDS
                if during < 2 * before:
                    break
                assert attempt + 1 < _ATTEMPTS
