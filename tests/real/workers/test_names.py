"""No question for a name and no packet leaves a Worker's process, whatever its code tries."""

import asyncio
import contextlib
import pathlib
import socket
from collections.abc import AsyncGenerator, Sequence

import pytest

from support import netcell, reaching
from support.reaching import ALLOWED, OTHER, Reacher, Site, World

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PORTS = (80, 443, 853)


@contextlib.asynccontextmanager
async def _network() -> AsyncGenerator[netcell.Netcell]:
    async with netcell.opened(PORTS) as cell:
        with contextlib.ExitStack() as sockets:
            for one in cell.sockets:
                one.setblocking(False)
                sockets.enter_context(one)
            yield cell


def _within(cell: netcell.Netcell) -> reaching.Start:
    """Runs a command in a network in which every packet arrives at this test's sockets."""

    @contextlib.asynccontextmanager
    async def start(command: Sequence[str], where: pathlib.Path) -> AsyncGenerator[None]:
        task = asyncio.create_task(cell.stay(*command))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return start


def _seen(cell: netcell.Netcell) -> list[bytes]:
    """What has arrived."""
    found: list[bytes] = []
    for one in cell.sockets:
        with contextlib.suppress(BlockingIOError):
            if one.type == socket.SOCK_DGRAM:
                found.append(one.recv(512))
            else:
                one.accept()[0].close()
                found.append(b"a connection")
    return found


@pytest.mark.requirement("attack:workers:dns-leak")
async def test_code_that_tries_every_way_out_makes_no_packet(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with (
        _network() as cell,
        Site().open(world.secure()) as site,
        world.worker(f"{ALLOWED}:{site.port}", start=_within(cell)) as worker,
    ):
        assert (await worker.fetch(f"https://{ALLOWED}:{site.port}/"))["status"] == 200
        for url in (f"https://leak.{OTHER}/", f"http://leak.{OTHER}/", "http://192.0.2.1/", "http://localhost/"):
            assert (await worker.fetch(url))["status"] == 403
        for address in (f"leak.{OTHER}:443", "192.0.2.1:53", "localhost:80"):
            assert "error" in await worker.ask("connect", address=address)
        await worker.ask("websocket", url=f"https://leak.{OTHER}/")
        # node:dns asks over HTTPS, which is a fetch like any other.
        assert "error" in await worker.ask("dns", name=f"leak.{OTHER}")
        assert any("cloudflare-dns.com:443" in line for line in worker.lines)
        assert _seen(cell) == []


@pytest.mark.requirement("attack:workers:dns-leak")
async def test_workerds_own_network_does_leak_and_is_seen(tmp_path: pathlib.Path) -> None:
    # So that the test above can fail: what allows no address still asks for names.
    async with _network() as cell:
        where = tmp_path / "own"
        where.mkdir()
        async with reaching.running(where, "network = (allow = [])", {}, _within(cell)):
            asked = cell.sockets[0]
            lost = asyncio.create_task(Reacher(str(where / "in"), [], [], {}).fetch(f"http://leak.{OTHER}/"))
            packet = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(asked, 512), reaching.WAIT_S)
            assert b"\x04leak\x05other\x07example" in packet
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
