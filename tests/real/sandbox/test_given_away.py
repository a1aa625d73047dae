"""A hosted server that gives its own pipes to a cell that goes on."""

import asyncio
import pathlib
import textwrap

import msgspec
import pytest

from smcp.runtime import budgets, driver, spool
from smcp.runtime.drivers import stdio
from smcp.sandbox import launch, walls
from support import cell

pytestmark = pytest.mark.real

_GIVES = """
import os, socket, time
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind("/data/given")
    listening.listen(1)
    os.rename("/data/given", "/data/taken")
    there, _ = listening.accept()
    socket.send_fds(there, [b"x"], [1, 2])
    time.sleep(600)
"""
_TAKES = """
import os, socket, sys, time
while not os.path.exists("/data/taken"):
    time.sleep(0.01)
with socket.socket(socket.AF_UNIX) as there:
    there.connect("/data/taken")
    _, ends, _, _ = socket.recv_fds(there, 1, 2)
    os.write(ends[1], b"taken\\n")
    time.sleep(600)
"""


def _none() -> spool.Spool:
    raise AssertionError("a copy that says nothing large has no use for a disk")


class _Copy:
    """A running copy, and the lines of its journal."""

    def __init__(self) -> None:
        self.said: list[str] = []
        limits = driver.Limits(
            stop_grace_s=0.2, max_message_bytes=1 << 20, stream_buffer=16, tenant_buffer_bytes=1 << 26
        )
        self.instance = stdio.StdioInstance(
            limits, self._line, lambda _: None, modern=True, budget=budgets.Budget(1 << 26), spools=_none
        )
        self.taken = asyncio.Event()

    def _line(self, line: str) -> None:
        self.said.append(line)
        if line == "taken":
            self.taken.set()


async def _begun(launcher: launch.Launcher, app: pathlib.Path, code: str) -> _Copy:
    made = _Copy()
    inside = cell.python(app, textwrap.dedent(code))
    await made.instance.begin(launcher, msgspec.structs.replace(inside, volume=walls.Volume("memory", "/data")))
    return made


@pytest.mark.requirement("runtime:stdio:given-away")
async def test_an_instance_ends_although_another_cell_holds_its_pipes(tmp_path: pathlib.Path) -> None:
    async with cell.launched(fixed=[tmp_path]) as launcher:
        await launcher.open_volume(cell.TENANT, "memory", 1 << 20)
        gives, takes = await _begun(launcher, tmp_path, _GIVES), await _begun(launcher, tmp_path, _TAKES)
        async with asyncio.timeout(60):
            await gives.taken.wait()
            await gives.instance.stop("idle")
        assert not gives.instance.alive
        assert any("ended after" in line for line in gives.said), gives.said
        # What the other one writes there now is nobody's: the reading end is closed, and the other one unharmed.
        assert takes.instance.alive
        async with asyncio.timeout(60):
            await takes.instance.stop("the test ends")
