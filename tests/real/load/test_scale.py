"""From nothing to two hundred clients and back to nothing."""

import asyncio
import pathlib
import re
import time
from typing import Final

import httpx2
import pytest

from real.load.conftest import Running
from smcp.sandbox.cgroups import places
from support import load, processes, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_CLIENTS = 200
_CALLS = 5
_IDLE_S = 1.0
_PATIENCE_S = 180.0
_OWN: Final = re.compile(rf".*/{places.named('[a-z0-9]+')}(?=/)")
"""The platform's own directory, in the path of a control group: a group of each of its copies is in there."""


def _homes(platform: Platform) -> set[pathlib.Path]:
    """The platform's own directories among the control groups, in each hierarchy; to be asked while copies run.

    Beside them other groups come and go: those of other platforms, and of whoever runs these tests.
    """
    lines: set[str] = set()
    for one in platform.family():
        try:
            lines |= set(pathlib.Path(f"/proc/{one.pid}/cgroup").read_text("utf-8").splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    found: set[pathlib.Path] = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if own := _OWN.match(path):
            hierarchies = (controllers.removeprefix("name="), "", "unified")
            folders = {pathlib.Path("/sys/fs/cgroup") / name / own[0].strip("/") for name in hierarchies}
            found |= {folder for folder in folders if folder.is_dir()}
    return found


async def _left(homes: set[pathlib.Path]) -> set[str]:
    """The groups of copies that there are, once there are none, or after a while."""
    began = time.monotonic()
    while True:
        found = {f"{one}/{name}" for one in homes for name in places.listed(str(one)) if name != places.HOST}
        if not found or time.monotonic() - began > _PATIENCE_S:
            return found
        await asyncio.sleep(0.1)  # a group that is removed tells nobody


async def _unwaited(platform: Platform) -> int:
    """How many ended children nobody has waited for, after a while: between an end and a look at it is a moment."""
    began = time.monotonic()
    while True:
        found = wire.zombies(platform)
        if not found or time.monotonic() - began > _PATIENCE_S:
            return found
        await asyncio.sleep(0.1)  # who waits for a child tells nobody outside


async def _held(platform: Platform, at: Endpoint) -> set[pathlib.Path]:
    """What `_homes` finds while a call keeps a copy from being stopped."""
    never = wire.modern("tools/call", wire.call("never", "held"))
    async with httpx2.AsyncClient(timeout=120.0) as http, wire.Caller(http, at).streaming(*never) as stream:
        assert (await stream.message())["method"] == "notifications/progress"
        assert wire.vitals(platform).instances >= 1
        return _homes(platform)


async def _wave(platform: Platform, at: Endpoint) -> None:
    """All clients at once, each on a connection of its own; every answer must be right."""

    async def client(number: int) -> None:
        connection = await load.connected(platform.base_url)
        for call in range(_CALLS):
            text = f"{number}-{call}"
            answer = await connection.ask(load.called(at, "tools/call", wire.call("echo", text=text), text))
            assert answer.status == 200, answer
            assert f'"{text}"'.encode() in answer.body, answer.body
            assert text.encode() in answer.body.partition(b'"result"')[2], answer.body
        connection.transport.close()

    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))


async def _gone(platform: Platform) -> wire.Vitals:
    """What there is once no copy runs any more."""
    began = time.monotonic()
    now = wire.vitals(platform)
    while (now.instances or now.children or now.in_flight) and time.monotonic() - began < _PATIENCE_S:
        await asyncio.sleep(0.1)  # the end of an idle copy is told to nobody outside
        now = wire.vitals(platform)
    return now


@pytest.mark.requirement("load:scale:zero")
async def test_from_0_to_200_clients_and_back_no_call_fails_and_nothing_is_left(running: Running) -> None:
    settings = {"SMCP_RUNTIME_IDLE_STOP_S": str(_IDLE_S), "SMCP_RUNTIME_STOP_GRACE_S": "1"}
    with running(settings) as platform:
        [at] = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool")).values()
        await _wave(platform, at)
        before = await _gone(platform)
        assert (before.instances, before.children) == (0, 0)
        mounts, homes = processes.mounts(platform.data), set[pathlib.Path]()
        for _ in range(2):
            await _wave(platform, at)
            homes |= await _held(platform, at)
            after = await _gone(platform)
            assert (after.instances, after.children, after.in_flight) == (0, 0, 0)
        # One caller comes back just when the copy is being stopped for having nobody.
        one = await load.connected(platform.base_url)
        for number in range(16):
            answer = await one.ask(load.called(at, "tools/call", wire.call("echo", text="back"), number))
            assert answer.status == 200, answer.body
            assert b"back" in answer.body
            await asyncio.sleep(_IDLE_S * (0.9 + number * 0.05))
        one.transport.close()
        after = await _gone(platform)
        assert (after.instances, after.children, after.in_flight) == (0, 0, 0)
        after = await wire.settled(platform, before, files=8)
        assert after.files <= before.files + 8
        assert await _unwaited(platform) == 0
        assert processes.mounts(platform.data) == mounts
        assert await _left(homes) == set()
