"""What copies take is told once: from time to time, at their end, and when nobody is left to measure it."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

import pytest

from smcp.kernel import errors, ids, observe, settings
from smcp.runtime import calls, driver, sampler
from smcp.sandbox import egress, launch, walls
from support import cell

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_Told = tuple[str, str, str, sampler.Used]


class _Copy(driver.Instance):
    """A copy whose cell sleeps; it never talks."""

    def __init__(self, process: launch.Child) -> None:
        self.process = process
        self.calls = calls.Calls(modern=True, write=lambda data: None, stray=lambda data, method: None, limit=1)
        self.network = egress.Egress(settings.Egress(), observe.Metrics("0")).attach((), (), lambda line: None)
        self.attachment = self.network

    @property
    def alive(self) -> bool:
        return True

    async def stop(self, reason: str) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()


class _Sleepers(driver.Driver):
    """Starts cells that sleep, through a real launcher."""

    def __init__(self, launcher: launch.Launcher) -> None:
        self._launcher = launcher
        self.made: list[_Copy] = []

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        inside = walls.Cell(
            argv=("/usr/bin/sleep", "600"), binds=(), tenant=cell.TENANT, memory_bytes=1 << 28, tmp_bytes=1 << 20,
            open_files=64, processes=16,
        )  # fmt: skip
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            copy = _Copy(await self._launcher.spawn(inside, stdin=nothing, stdout=nothing, stderr=nothing))
        finally:
            os.close(nothing)
        self.made.append(copy)
        return copy

    async def close(self) -> None:
        await asyncio.gather(*(copy.stop("the end") for copy in self.made))


class _Running:
    """A sampler at work, and what it told."""

    def __init__(self, launcher: launch.Launcher) -> None:
        self.launcher = launcher
        self.told: list[_Told] = []
        self.inner = _Sleepers(launcher)
        self.sampler = sampler.Sampler(self.inner, launcher, self._tell, every_s=0.05)
        self._news = asyncio.Event()

    def _tell(self, tenant: ids.TenantId, server: ids.ServerName, principal: str, used: sampler.Used) -> None:
        self.told.append((tenant, server, principal, used))
        self._news.set()

    async def start(self) -> _Copy:
        """A copy."""
        spec = driver.Spec(
            tenant=ids.TenantId("acme"), server=ids.ServerName("time"), deployment="dep-1", artefact="", argv=()
        )
        await self.sampler.start(spec, modern=True, lines=lambda line: None)
        return self.inner.made[-1]

    async def more(self, times: int = 1) -> None:
        """Return when something was told so often from now on."""
        for _ in range(times):
            self._news.clear()
            await self._news.wait()


@pytest.fixture
async def running() -> AsyncGenerator[_Running]:
    async with cell.launched() as launcher:
        made = _Running(launcher)
        yield made
        await made.sampler.close()


@pytest.mark.requirement("usage:copies:egress", "usage:copies:measured")
async def test_what_a_copy_moves_and_takes_is_told_once_and_for_whom_it_runs(running: _Running) -> None:
    copy = await running.start()
    await running.more()
    copy.network.sent, copy.network.received = 100, 1000
    await running.more(2)
    copy.principal = "key-1"
    copy.network.sent += 7
    await copy.stop("the end")
    if copy.network.sent != sum(used.egress_sent for *_, used in running.told):
        await running.more()
    assert {(tenant, server) for tenant, server, *_ in running.told} == {("acme", "time")}
    assert sum(used.egress_sent for *_, used in running.told) == 107
    assert sum(used.egress_received for *_, used in running.told) == 1000
    assert sum(used.egress_sent for _, _, principal, used in running.told if principal == "key-1") == 7
    ended = copy.process.exited.result() if copy.process is not None else None
    assert ended is not None
    assert sum(used.cpu_s for *_, used in running.told) == pytest.approx(ended.cpu_s)
    assert sum(used.memory_byte_s for *_, used in running.told) == pytest.approx(ended.memory_byte_s)
    count = len(running.told)
    await running.start()
    await running.more(2)
    assert len(running.told) >= count + 2  # of the new one: sampling went on after the last one's end


@pytest.mark.requirement("usage:copies:unknown")
async def test_time_that_nobody_measured_is_told_as_unknown(running: _Running) -> None:
    copy = await running.start()
    await running.more()
    measured = len(running.told)
    os.kill(running.launcher.pid, signal.SIGKILL)
    await running.launcher.ended.wait()
    assert copy.process is not None
    await copy.process.wait()
    while len(running.told) == measured:
        await running.more()
    *_, used = running.told[-1]
    assert used.cpu_unknown_s == used.memory_unknown_s == used.copy_s > 0
    assert used.cpu_s == used.memory_byte_s == 0.0
    with pytest.raises(errors.Unavailable):
        await running.launcher.measure([1])
