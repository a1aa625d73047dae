"""What a cell takes of processor and memory is told: while it lives and at its end, with control groups and without."""

import os
import subprocess
import sys

import pytest

from smcp.sandbox import walls
from smcp.sandbox.launcher import taken
from support import busy, cell

pytestmark = pytest.mark.real


@pytest.mark.requirement("usage:copies:measured")
async def test_a_cells_processor_and_memory_are_told_while_it_runs_and_at_its_end() -> None:
    async with cell.standing() as (launcher, house):
        reading, ended = await busy.taken(launcher, house)
    assert reading.cpu_s is not None
    assert reading.memory_byte_s is not None
    assert ended.cpu_s is not None
    assert ended.memory_byte_s is not None
    assert busy.ENOUGH <= reading.cpu_s <= ended.cpu_s < 60
    assert 0 < reading.memory_byte_s <= ended.memory_byte_s


@pytest.mark.requirement("usage:copies:measured")
async def test_a_cell_that_is_gone_before_anybody_looked_is_told_all_the_same() -> None:
    inside = walls.Cell(
        argv=("/usr/bin/true",), binds=(), tenant=cell.TENANT, memory_bytes=1 << 28, tmp_bytes=1 << 20, open_files=64,
        processes=16,
    )  # fmt: skip
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    async with cell.launched() as launcher:
        child = await launcher.spawn(inside, stdin=nothing, stdout=nothing, stderr=nothing)
        os.close(nothing)
        await child.wait()
    ended = child.exited.result()
    assert ended.cpu_s
    assert ended.memory_byte_s


@pytest.mark.requirement("usage:copies:measured", "usage:copies:unknown")
def test_without_a_group_the_processes_below_a_cell_are_counted_and_who_is_gone_is_unknown() -> None:
    script = (
        "import subprocess, sys, time\n"
        "held = bytearray(b'x' * 30_000_000)\n"
        "work = 'import time\\nwhile time.process_time() < 0.4: pass\\n'\n"
        "subprocess.run([sys.executable, '-c', work])\n"
        "work += 'print(1, flush=True); input()'\n"
        "with subprocess.Popen([sys.executable, '-c', work], stdin=-1, stdout=-1) as one:\n"
        "    one.stdout.readline()\n"
        "    print('ready', flush=True)\n"
        "    input()\n"
        "    one.communicate(b'\\n')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        cpu_s, memory = taken.below(running.pid)
        running.communicate("\n")
    assert cpu_s is not None
    assert memory is not None
    assert cpu_s >= 0.75  # of the one that has ended and the one that lives, in ticks of a hundredth
    assert memory > 30_000_000
    assert taken.below(running.pid) == (None, None)
