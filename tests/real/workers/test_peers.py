"""Users of their own at the other end of a door: the kernel says who connected, whatever they send."""

import asyncio
import os
import pathlib
import socket
import tempfile
from collections.abc import Generator

import pytest

from smcp.runtime.bindings import door, http

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users"),
]

_TENANT, _STRANGER = 41_001, 41_002


@pytest.fixture
def reached() -> Generator[pathlib.Path]:
    """A directory in which any user of this machine can reach a socket."""
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        yield directory


def _connected(path: str, user: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    before = os.geteuid()
    os.seteuid(user)
    try:
        made.connect(path)
    finally:
        os.seteuid(before)
    made.setblocking(False)
    return made


async def _answer(path: str, user: int, capability: str) -> bytes:
    """What a process of `user` gets for a request with the right capability."""
    reader, writer = await asyncio.open_unix_connection(sock=_connected(path, user))
    try:
        writer.write(b"GET /k HTTP/1.1\r\nX-SMCP-Capability: %b\r\nConnection: close\r\n\r\n" % capability.encode())
        async with asyncio.timeout(60.0):
            return (await reader.read())[:12]
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.requirement("workers:door:peer")
async def test_only_the_tenants_user_is_answered_also_with_the_right_capability(reached: pathlib.Path) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(204)

    path, told = str(reached / "door"), list[str]()
    way = await door.Door.open(path, _TENANT, told.append)
    try:
        capability = way.admit(handler)
        assert await _answer(path, _TENANT, capability) == b"HTTP/1.1 204"
        for user in (_STRANGER, 0):
            assert await _answer(path, user, capability) == b""
        assert told == ["bindings: refused a connection from a process of another user"]
    finally:
        await way.close()
