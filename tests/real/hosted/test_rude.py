"""Hosted servers that do harm: their own call fails with a clear error, a neighbour is answered meanwhile, nothing of
them is left once they are stopped, and their log tells what happened.
"""

import asyncio
import contextlib
import hashlib
import os
import pathlib
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, Final, NamedTuple

import httpx2
import pytest

from smcp.sandbox.cgroups import places
from support import cell, gates, processes, wire, yardstick
from support.gates import Gate
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

_GROUPS: Final = bool({"cgroup_memory", "cgroup_pids"} & cell.host().layers)
_LIMITED: Final = "cgroup_memory" in cell.host().layers
_ENDED: Final = (
    "The hosted server ended while this call ran. It may have been carried out, in part or as a whole, and was not"
    " repeated: the tool declares neither readOnlyHint nor idempotentHint."
)
_SILENT: Final = "The hosted MCP server did not answer in time."


class Harm(NamedTuple):
    """What a server does, and what comes of it."""

    act: str
    arguments: dict[str, Any]
    error: str
    """What the call ends with; empty: it is answered."""
    told: str
    """What a line of its log holds."""


_HARMS: Final = {
    "prints garbage": Harm("garbage", {}, "", "ignored a message"),
    "floods stdout": Harm("out", {"kind": "garbage", "thousands": 200}, _ENDED, "lines a second that are no messages"),
    "floods stderr": Harm("err", {"thousands": 50}, "", "lines were dropped"),
    "closes stdout": Harm("mute", {}, _SILENT, "[smcp] ended after"),
    "exits in mid-call": Harm("exit", {}, _ENDED, "it ended by itself (exit code 3)"),
    "leaves daemons": Harm("family", {"count": 6}, "", "[smcp] ended after"),
    "ignores signals and the end of its input": Harm("stubborn", {}, "", "[smcp] ended after"),
    "eats memory": Harm("swell", {}, _ENDED, "it took more memory than sandbox.memory_bytes"),
}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """A platform with two tenants, and with short patience."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    # A silent server's call ends by the limit; the others' end by themselves, on a slow machine too.
    environ = {
        **gates.SETTINGS,
        **gates.HASTY,
        "SMCP_GATEWAY_CALL_TIMEOUT_S": "30",
        "SMCP_DEPLOY_WHEEL_DIRS": str(shelf),
    }
    with Platform(tmp_path_factory.mktemp("rude"), environ) as platform:
        yield gates.opened(platform)


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client."""
    async with httpx2.AsyncClient(timeout=120.0) as client:
        yield client


@contextlib.asynccontextmanager
async def _answered(neighbour: wire.Caller) -> AsyncGenerator[None]:
    """Another tenant calls its server all the while, and is answered by the same copy in time."""
    born = (await neighbour.act("echo"))["born"]
    slowest = 0.0
    done = asyncio.Event()

    async def calling() -> None:
        nonlocal slowest
        while not done.is_set():
            began = time.monotonic()
            assert (await neighbour.act("echo"))["born"] == born
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.02)

    async with yardstick.beside() as machine:
        asking = asyncio.create_task(calling())
        try:
            yield
        finally:
            done.set()
            await asking
    # A disk that is slow for a moment holds up the platform, and not the yardstick.
    assert slowest < 5 + 10 * machine.worst, machine.worst


def _groups(platform: Platform) -> set[str]:
    """The platform's cells' control groups, in every hierarchy."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(platform.data))).hexdigest()[:10]
    tops = [place for mount in places.seen().mounts for place in places.left(mount.point, f"smcp-{name}")]
    return {f"{top}/{name}" for top in tops for name in places.listed(top) if name != places.HOST}


def _log(gate: Gate) -> list[str]:
    path = "/tenants/acme/servers/tool/logs?limit=1000"
    lines: list[str] = []
    after = 0
    while True:
        page = gate.platform.api("GET", f"{path}&after={after}", key=gate.admin)
        lines += [line["text"] for line in page["items"]]
        if page["next"] is None:
            return lines
        after = int(page["next"])


async def _soon(condition: Any, what: str) -> None:
    """Neither the kernel's clearing up nor the log's next batch is told to anybody outside."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)


def _switch(gate: Gate, what: str) -> None:
    gate.platform.api("POST", f"/tenants/acme/servers/tool/{what}", key=gate.admin)


@pytest.mark.requirement("hosted:harm:own-call")
@pytest.mark.parametrize("name", list(_HARMS))
async def test_attack_a_server_harms_its_own_call_only_and_leaves_nothing(
    gate: Gate, http: httpx2.AsyncClient, name: str
) -> None:
    harm = _HARMS[name]
    if harm.act == "swell" and not _LIMITED:
        pytest.skip("no memory can be limited for a cell as a whole on this machine")
    mine, neighbour = wire.Caller(http, gate.acme), wire.Caller(http, gate.umbra)
    await asyncio.to_thread(_switch, gate, "stop")
    async with _answered(neighbour):
        groups, family = _groups(gate.platform), gate.platform.family()
        await asyncio.to_thread(_switch, gate, "start")
        lines = len(_log(gate))
        await mine.act("echo")
        grown = gate.platform.family() - family
        assert grown
        if _GROUPS:
            # Of its predecessor there may have been something left when `groups` was seen.
            assert _groups(gate.platform) - groups
        said = wire.messages(await mine.modern("tools/call", wire.call(harm.act, **harm.arguments)))[-1]
        assert said.get("error", {}).get("message", "") == harm.error, said
        grown |= gate.platform.family() - family
        await asyncio.to_thread(_switch, gate, "stop")
    await _soon(lambda: not processes.alive(grown), f"still running: {processes.alive(grown)}")
    await _soon(lambda: _groups(gate.platform) <= groups, "its control groups are still there")
    await asyncio.to_thread(_switch, gate, "start")
    assert (await mine.act("echo", text="again"))["text"] == "again"
    # Last, because what was dropped of a flood is told with the next second's first line.
    await asyncio.sleep(1.1)
    await mine.act("say", text="a line")
    await _soon(lambda: any(harm.told in line for line in _log(gate)[lines:]), str(_log(gate)[lines:][-20:]))
