"""V8 broken: a native program in workerd's place, in the very cell that the driver makes, beside another tenant's."""

import asyncio
import json
import os
import pathlib
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest

from smcp.sandbox import cells, interpreter, launch, walls
from support import cell, handmade

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_CODE: Final = (pathlib.Path(__file__).parents[2] / "fixtures" / "native.py").read_text("utf-8")
_TAKEN: Final = "acme"
_OTHER: Final = "globex"
_SOURCE: Final = 'import { serve } from "./mcp.js";\nexport default serve({ who: () => "WHO" });\n'
_SIGN: Final = "FOUND "
_DENIED: Final = {"EPERM", "ENOSYS"}


class _InPlace(launch.Launcher):
    """A launcher that starts the program in place of what the cells of one tenant would run, and changes nothing else
    of them but that they see a Python to run it."""

    known: str = "{}"

    async def spawn(
        self, cell: walls.Cell, *, stdin: int, stdout: int, stderr: int, handed: Sequence[int] = ()
    ) -> launch.Child:
        if cell.tenant == _TAKEN:
            runs = interpreter.current()
            argv = (runs.executable, "-I", "-c", _CODE, self.known, *cell.argv[1:])
            env = (*cell.env, *(one for one in cells.base_env(runs) if one[0] not in dict(cell.env)))
            cell = msgspec.structs.replace(cell, argv=argv, binds=(*cell.binds, *runs.binds), env=env)
        return await super().spawn(cell, stdin=stdin, stdout=stdout, stderr=stderr, handed=handed)


@asynccontextmanager
async def _running() -> AsyncGenerator[tuple[handmade.Workers, _InPlace]]:
    await asyncio.to_thread(cell.found)
    with cell.house() as house:
        launcher = await _InPlace.start(house)
        running = handmade.Workers(cell.Standing(launcher, house))
        try:
            yield running, launcher
        finally:
            await running.driver.close()
            await launcher.close()


async def _found(running: handmade.Workers, launcher: _InPlace, **known: Any) -> dict[str, Any]:
    """What the program finds in the cell."""
    launcher.known = json.dumps(known)
    instance = await running.start(running.spec("taken", _SOURCE, tenant=_TAKEN))
    seen = running.lines[f"{_TAKEN}/taken"]
    await handmade.until(lambda: any(_SIGN in line for line in seen))
    await instance.stop("done")
    (found,) = [line.partition(_SIGN)[2] for line in seen if _SIGN in line]
    return json.loads(found)


@pytest.mark.requirement("workers:native:reach")
async def test_attack_a_program_in_workerds_place_reaches_its_own_tenants_door_and_nothing_else() -> None:
    with socket.socket(socket.AF_UNIX) as abstract:
        name = f"smcp-native-{secrets.token_hex(8)}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        async with _running() as (running, launcher):
            other = await running.start(running.spec("one", _SOURCE, tenant=_OTHER))
            doors = pathlib.Path(running.standing.house.doors)
            theirs = [str(one) for one in (doors / _OTHER).rglob("*") if one.is_socket()]
            assert len(theirs) == 3  # its health, its one Worker, its door
            found = await _found(
                running,
                launcher,
                door="/run/smcp/door",
                capability=f"x-smcp-capability: {secrets.token_urlsafe(32)}",
                sockets=[*theirs, "/var/run/docker.sock", "/run/dbus/system_bus_socket"],
                abstract=[name],
                files=["/etc/shadow", "/root", "/home", str(doors), *theirs, __file__],
                processes=[os.getpid(), os.getppid()],
            )
            assert await handmade.call(other, "who") == "WHO"
    # The one door is its own, and opens to nobody without a capability.
    assert [found[way].split()[1][0] for way in ("door", "forged", "connect")] == ["4"] * 3, found
    assert "connected" not in found["sockets"].values()
    assert set(found["abstract"].values()) == {"ECONNREFUSED"}
    assert found["files"] == {}
    assert found["writable"] == []
    assert found["listed"] == []


@pytest.mark.requirement("workers:native:kernel")
async def test_attack_a_program_in_workerds_place_has_no_network_no_process_and_no_way_to_look_into_one() -> None:
    async with _running() as (running, launcher):
        found = await _found(
            running,
            launcher,
            door="/run/smcp/door",
            capability="x: y",
            sockets=[],
            abstract=[],
            files=[],
            processes=[os.getpid()],
        )
    network = found["network"]
    assert network.pop("devices") == ["lo"]
    assert not [way for way, came in network.items() if came in ("connected", "resolved") or "socket" in came], network
    assert set(found["calls"].values()) <= _DENIED, found["calls"]
    assert found["processes"] == [1, 2]
    assert set(found["kill"].values()) == {"ESRCH"}
    # What it was handed: its configuration, its log, where it says that it is up, and sockets that listen.
    assert found["fds"] == {
        "0": "/memfd:workerd (deleted)",
        **dict.fromkeys(("1", "2", "3"), "pipe:[]"),
        **dict.fromkeys(("4", "5"), "socket:[]"),
    }
