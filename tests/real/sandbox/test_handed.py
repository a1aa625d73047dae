"""What a cell's command is handed beside its streams: sockets of the platform's that listen; and a way to connect."""

import asyncio
import json
import os
import pathlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from smcp.kernel import errors
from smcp.sandbox import launch, pipes, walls
from smcp.sandbox.launcher import messages
from support import cell

pytestmark = pytest.mark.real

_LISTING = """
import json, os, socket
found = {}
for name in sorted(os.listdir("/proc/self/fd"), key=int):
    try:
        found[name] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
    except OSError:
        pass  # the one that lists them
names = [socket.socket(fileno=number).getsockname().rpartition("/")[2] for number in range(3, 3 + COUNT)]
print(json.dumps([found, names]))
"""


def _listeners(at: pathlib.Path, names: Sequence[str]) -> list[socket.socket]:
    made: list[socket.socket] = []
    for name in names:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(str(at / name))
        one.listen()
        made.append(one)
    return made


async def _said(launcher: launch.Launcher, inside: walls.Cell, handed: Sequence[int]) -> Any:
    """What a cell prints as JSON."""
    read, write = os.pipe2(os.O_CLOEXEC)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    reader = asyncio.StreamReader()
    transport = await pipes.reader(read, lambda: asyncio.StreamReaderProtocol(reader))
    try:
        child = await launcher.spawn(inside, stdin=nothing, stdout=write, stderr=write, handed=handed)
    finally:
        os.close(write)
        os.close(nothing)
    text = await reader.read()
    transport.close()
    assert await child.wait() == 0, text
    return json.loads(text)


@pytest.mark.requirement("workers:cell:handed")
@pytest.mark.parametrize("count", [1, 3, walls.MOST_HANDED])
async def test_a_command_gets_what_it_is_handed_in_order_and_nothing_else(tmp_path: pathlib.Path, count: int) -> None:
    listeners = _listeners(tmp_path, [f"s{number}" for number in range(count)])
    inside = cell.python(tmp_path, _LISTING.replace("COUNT", str(count)))
    async with cell.launched(fixed=[tmp_path, *(bind.source for bind in inside.binds)]) as launcher:
        named = msgspec.structs.replace(inside, handed=count)
        found, names = await _said(launcher, named, [one.fileno() for one in listeners])
        assert names == [f"s{number}" for number in range(count)]
        assert [kind for number, kind in found.items() if 3 <= int(number) < 3 + count] == ["socket"] * count
        assert {int(number) for number in found} <= {*range(3 + count), 3 + count}  # the last lists the others
        # The same cell without them has none of them.
        found, names = await _said(launcher, cell.python(tmp_path, _LISTING.replace("COUNT", "0")), [])
        assert "socket" not in found.values()
    for one in listeners:
        one.close()


@pytest.mark.requirement("workers:cell:handed")
async def test_a_start_whose_descriptors_are_not_those_that_its_cell_names_is_refused(tmp_path: pathlib.Path) -> None:
    (one,) = _listeners(tmp_path, ["s"])
    inside = cell.python(tmp_path, "print(1)")
    async with cell.launched(fixed=[tmp_path, *(bind.source for bind in inside.binds)]) as launcher:
        for named, handed in ((0, 1), (2, 1), (1, 0)):
            with pytest.raises(errors.SandboxMissing, match="as many descriptors as its cell names"):
                await _said(launcher, msgspec.structs.replace(inside, handed=named), [one.fileno()] * handed)
        assert await _said(launcher, inside, []) == 1  # the launcher goes on
    one.close()
    raw = msgspec.msgpack.encode(msgspec.structs.replace(inside, handed=walls.MOST_HANDED + 1))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(raw, type=walls.Cell)


_CONNECT = """
import json, socket
peer = socket.socket(socket.AF_UNIX)
peer.connect("/run/door")
print(json.dumps(peer.recv(100).decode()))
"""


@pytest.mark.requirement("workers:cell:door")
async def test_a_cell_connects_to_its_own_tenants_socket_and_is_known_by_its_uid() -> None:
    async with cell.standing() as made:
        inside = cell.python("/", _CONNECT)
        doors = {tenant: pathlib.Path(made.house.doors, tenant, "one") for tenant in ("acme", "globex")}
        for place in doors.values():
            place.parent.mkdir(mode=0o700)
        listeners = [_listeners(place.parent, [place.name])[0] for place in doors.values()]
        for place in doors.values():
            place.chmod(0o666)
        uid = await made.launcher.identify("acme")
        assert uid == await made.launcher.identify("acme")
        other = await made.launcher.identify("globex")
        assert other != uid if made.house.uid_first else other is uid is None

        def shows(tenant: str) -> walls.Cell:
            binds = (*inside.binds[:-1], walls.Bind(str(doors[tenant]), "/run/door"))
            return msgspec.structs.replace(inside, binds=binds)

        async def answer() -> int:
            peer, _ = await asyncio.get_running_loop().sock_accept(listeners[0])
            with peer:
                who: int = struct.unpack("=iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
                peer.send(b"welcome")
            return who

        listeners[0].setblocking(False)
        answering = asyncio.create_task(answer())
        assert await _said(made.launcher, shows("acme"), []) == "welcome"
        assert await answering == (os.geteuid() if uid is None else uid)
        # Another tenant's door is none that it may be shown.
        with pytest.raises(errors.SandboxMissing, match="No cell of this kind may see"):
            await _said(made.launcher, shows("globex"), [])
        for one in listeners:
            one.close()


@pytest.mark.requirement("workers:cell:door")
async def test_a_question_about_a_uid_is_about_a_tenant() -> None:
    async with cell.launched() as launcher:
        launcher.post(messages.Identify(2, "../acme"))
        await launcher.ended.wait()
        with pytest.raises(errors.Unavailable):
            await launcher.identify("acme")
