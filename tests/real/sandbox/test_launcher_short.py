"""A launcher that runs out of descriptors, at every step of a start."""

import asyncio
import os
import pathlib
import resource

import pytest

from smcp.kernel import errors
from smcp.sandbox import launch
from support import cell

pytestmark = pytest.mark.real


def _open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.requirement("sandbox:launcher:short")
async def test_a_start_for_which_a_descriptor_is_missing_costs_that_start_only(tmp_path: pathlib.Path) -> None:
    await asyncio.to_thread(cell.found)
    with cell.house(fixed=[tmp_path]) as house:
        running, peer = launch.process(house)
        launcher = await launch.Launcher(peer, running).opened()
        try:
            before, hard = _open(running.pid), resource.prlimit(running.pid, resource.RLIMIT_NOFILE)[1]
            missed = 0
            for most in range(before, before + 64):
                resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (most, hard))
                try:
                    child = await launcher.spawn(cell.python(tmp_path, "pass"), stdin=0, stdout=1, stderr=2)
                except errors.SandboxMissing:
                    missed += 1
                else:
                    await child.wait()
                    break
            assert missed > 4, "no step was short of one"
            assert missed < 64, "it never recovered"
            assert not launcher.ended.is_set()
            # An answer to a later question: by then what belonged to the last cell is given back.
            await launcher.close_volume(cell.TENANT, "none")
            assert _open(running.pid) == before
        finally:
            await launcher.close()
