"""The platform is killed, or the launcher, or both: nothing of theirs goes on, and the next start sweeps."""

import base64
import contextlib
import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from typing import IO, Final, NamedTuple

import msgspec
import pytest

from smcp.sandbox import launch, walls
from smcp.sandbox.cgroups import places
from smcp.sandbox.launcher import linux, messages
from support import cell, processes

pytestmark = pytest.mark.real

_DRIVER: Final = pathlib.Path(cell.__file__).with_name("cell_driver.py")
_WITHIN_S: Final = 60.0
_ROUNDS: Final = 24
# Says that it runs, after it made daemons that left its session and hear no signal that can be ignored.
_STUBBORN: Final = (
    "trap '' TERM HUP INT; for n in 1 2 3; do (trap '' TERM HUP INT; setsid sleep 600) & done; echo up; sleep 600"
)


def _cell(script: str) -> walls.Cell:
    return walls.Cell(
        argv=("/bin/sh", "-c", script),
        binds=(),
        tenant=cell.TENANT,
        memory_bytes=1 << 28,
        tmp_bytes=1 << 20,
        open_files=64,
        processes=32,
    )


class Driver(NamedTuple):
    """A platform's process, its launcher's pid, and what it says."""

    process: "subprocess.Popen[str]"
    launcher: int
    said: IO[str]

    def up(self) -> None:
        """Return when all of its cells run."""
        assert self.said.readline() == f"up {self.launcher}\n"


@contextlib.contextmanager
def _driven(house: messages.House, cells: int) -> Generator[Driver]:
    process = subprocess.Popen(
        [sys.executable, "-P", str(_DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    body = base64.b64encode(msgspec.msgpack.encode(_cell(_STUBBORN))).decode()
    plan = {"house": msgspec.to_builtins(house), "cells": [body] * cells}
    try:
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        word, _, pid = process.stdout.readline().partition(" ")
        assert word == "launcher"
        yield Driver(process, int(pid), process.stdout)
    finally:
        process.kill()
        process.communicate(timeout=60)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _of(house: messages.House) -> set[processes.Process]:
    """Its cells' processes that are bubblewrap's; what they run dies with these (pid_namespaces(7))."""
    return processes.naming(f"smcp-cell:{house.platform}")


def _groups(house: messages.House) -> list[str]:
    """All that is left of its control groups, in any hierarchy."""
    return [place for mount in places.seen().mounts for place in places.left(mount.point, f"smcp-{house.platform}")]


def _next_start(house: messages.House) -> messages.Ready:
    """What a launcher that is started after them finds; it ends again."""
    running, peer = launch.process(house)
    with peer:
        peer.settimeout(100)
        data, _, _ = linux.receive(peer, messages.LARGEST, 1)
    assert running.wait(60) == 0
    answer = msgspec.json.decode(data, type=messages.Answer)
    assert isinstance(answer, messages.Ready)
    return answer


@pytest.mark.requirement("sandbox:launcher:death", "sandbox:launcher:sweep")
@pytest.mark.parametrize("who", ["platform", "launcher", "both"])
def test_whoever_is_killed_every_process_of_every_cell_is_gone(who: str) -> None:
    cell.found()
    with cell.house() as house, _driven(house, 4) as driver:
        driver.up()
        family = processes.descendants(driver.launcher)
        assert len([one for one in family if "sleep" in one.command]) >= 4 * 4
        if who in ("launcher", "both"):
            _end(driver.launcher)
        if who in ("platform", "both"):
            driver.process.kill()
            driver.process.wait()
        family = {one for one in family if who == "platform" or one.pid != driver.launcher}
        assert processes.left(family, _WITHIN_S) == set()
        if who == "platform":
            assert _groups(house) == []  # the launcher took them down before it ended
        found = _next_start(house)
        assert found.swept == 0 or who != "platform"
        assert _groups(house) == []


@pytest.mark.timeout(600)
@pytest.mark.requirement("sandbox:launcher:death", "sandbox:launcher:sweep")
def test_a_kill_at_any_moment_of_the_first_starts_leaves_no_process() -> None:
    dice = random.Random(4711)
    cell.found()
    with cell.house() as house:
        swept = 0
        for number in range(_ROUNDS):
            with _driven(house, 6) as driver:
                # From the first fork on; a cell takes some milliseconds to stand.
                _wait_for_a_cell(house)
                time.sleep(dice.random() * 0.02)
                for pid in ((driver.launcher,), (driver.process.pid,), (driver.launcher, driver.process.pid))[
                    number % 3
                ]:
                    _end(pid)
                gone = os.pidfd_open(driver.process.pid)
                launcher = {one for one in processes.naming("smcp.sandbox.launcher") if one.pid == driver.launcher}
                if number % 3 == 1:
                    assert processes.left(launcher, _WITHIN_S) == set()
                os.close(gone)
                assert processes.left(_of(house), _WITHIN_S) == set(), number
            swept += _next_start(house).swept
            assert _groups(house) == []
        assert _of(house) == set()


def _wait_for_a_cell(house: messages.House) -> None:
    deadline = time.monotonic() + 60
    while not _of(house):
        assert time.monotonic() < deadline


@pytest.mark.requirement("sandbox:launcher:sweep")
def test_a_start_ends_what_calls_itself_a_cell_of_this_platform_and_nothing_else() -> None:
    cell.found()
    with cell.house() as house, contextlib.ExitStack() as stack:
        names = [f"smcp-cell:{house.platform}", f"smcp-cell:{house.platform}0", "smcp-cell:other", "sleep"]
        left = [subprocess.Popen([name, "600"], executable="/usr/bin/sleep") for name in names]
        for process in left:
            stack.callback(process.wait)
            stack.callback(process.kill)
        assert _next_start(house).swept == 1
        assert select.select([os.pidfd_open(left[0].pid)], [], [], 60)[0]
        assert left[0].wait(60) == -signal.SIGKILL
        assert [process.poll() for process in left[1:]] == [None] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of somebody else")
@pytest.mark.requirement("sandbox:launcher:sweep")
def test_a_process_of_another_user_does_not_hold_up_a_start() -> None:
    """Anybody on the machine may call a program so; a launcher without root can't end it, and starts all the same."""
    nobody = 65534
    with cell.house() as house:
        name = f"smcp-cell:{house.platform}"
        process = subprocess.Popen([name, "600"], executable="/usr/bin/sleep")
        try:
            code = "import sys; from smcp.sandbox.launcher import tidy; print(tidy.sweep(sys.argv[1]))"
            began = time.monotonic()
            pid = os.fork()
            if pid == 0:
                os.setresuid(nobody, nobody, nobody)
                from smcp.sandbox.launcher import tidy

                os._exit(tidy.sweep(house.platform))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, code
            assert time.monotonic() - began < 30
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
