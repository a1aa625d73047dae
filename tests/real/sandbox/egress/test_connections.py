"""What a cell's connections are like: bounded, ended in the right way, and closed with the cell."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from smcp.kernel import settings
from support import netcell

pytestmark = pytest.mark.real


@pytest.mark.requirement("sandbox:egress:bounded")
async def test_a_cell_has_so_many_connections_and_silent_ones_end(site: int) -> None:
    # What stands here is ended by nobody: it is the number that the next ones are refused for.
    world = netcell.pinned("allowed.example", connections=3, idle_s=3600.0)
    async with world.cell(f"allowed.example:{site}") as (cell, _):
        found = await cell.ask(
            f"""
            import json, socket
            def ended():
                # A refusal may come while connect() still waits.
                try:
                    return repr(socket.create_connection(("allowed.example", {site}), 60).recv(1))
                except OSError as error:
                    return type(error).__name__
            made = [socket.create_connection(("allowed.example", {site}), 60) for _ in range(3)]
            over = [ended() for _ in range(2)]
            for one in made:
                one.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
            print(json.dumps([over, [one.recv(5).decode() for one in made]]))
            """
        )
    assert found == [["ConnectionResetError"] * 2, ["HTTP/"] * 3]
    assert any("3 connections are open" in line for line in world.lines)
    world = netcell.pinned("allowed.example", idle_s=0.5)
    async with world.cell(f"allowed.example:{site}") as (cell, _):
        assert await cell.ask(netcell.CONNECT.format(host="allowed.example", port=site)) == "ConnectionResetError"
    assert world.lines == [f"[smcp] egress allowed: allowed.example:{site} → 127.0.0.1"]


@pytest.mark.requirement("sandbox:egress:relay")
async def test_a_side_that_has_ended_still_receives_and_a_slow_reader_stops_the_sender() -> None:
    much = 8_000_000
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    async def serve() -> bytes:
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        made, _ = await loop.sock_accept(server)
        got = bytearray()
        while data := await loop.sock_recv(made, 65536):
            got += data
        # The client has ended its side; the answer goes the other way all the same.
        await loop.sock_sendall(made, b"y" * much)
        made.close()
        return bytes(got)

    world = netcell.pinned("allowed.example")
    serving = asyncio.create_task(serve())
    async with world.cell(f"allowed.example:{port}") as (cell, attachment):
        found = await cell.ask(
            f"""
            import json, socket
            made = socket.create_connection(("allowed.example", {port}), 60)
            made.sendall(b"x" * {much})
            made.shutdown(socket.SHUT_WR)
            total = 0
            while data := made.recv(1000):
                total += len(data)
            print(json.dumps(total))
            """
        )
        assert found == much
        assert (attachment.sent, attachment.received) == (much, much)
    assert await serving == b"x" * much
    server.close()


@pytest.mark.requirement("sandbox:egress:relay")
async def test_a_connection_that_breaks_outside_breaks_inside_and_does_not_end_as_if_whole() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        made, _ = await loop.sock_accept(server)
        await loop.sock_sendall(made, b"half")
        await loop.sock_recv(made, 2)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.close()

    world = netcell.pinned("allowed.example")
    serving = asyncio.create_task(serve())
    async with world.cell(f"allowed.example:{port}") as (cell, _):
        found = await cell.ask(
            f"""
            import json, socket
            made = socket.create_connection(("allowed.example", {port}), 60)
            got = made.recv(4).decode()
            made.sendall(b"go")
            try:
                print(json.dumps([got, repr(made.recv(1))]))
            except OSError as error:
                print(json.dumps([got, type(error).__name__]))
            """
        )
    await serving
    server.close()
    assert found == ["half", "ConnectionResetError"]


@pytest.mark.requirement("sandbox:egress:closed")
async def test_closing_ends_every_connection_and_no_descriptor_stays(site: int) -> None:
    world = netcell.pinned("allowed.example")
    async with world.cell(f"allowed.example:{site}") as (cell, attachment):
        asking = asyncio.create_task(cell.ask(netcell.CONNECT.format(host="allowed.example", port=site)))
        await world.told.wait()
        attachment.close()
        attachment.close()
        assert await asking == "ConnectionResetError"
        assert all(one.fileno() == -1 for one in cell.sockets)


@pytest.mark.requirement("sandbox:egress:bounded")
async def test_a_loop_that_only_asks_and_connects_is_slowed_down(site: int) -> None:
    world = netcell.pinned("allowed.example")
    async with world.cell(f"allowed.example:{site}") as (cell, _):
        count, took = await cell.ask(
            """
            import json, socket, time
            count, began = 0, time.monotonic()
            while time.monotonic() < began + 3 or (count < 200 and time.monotonic() < began + 20):
                try:
                    with socket.create_connection(("1.2.3.4", 443), 1) as made:
                        made.settimeout(1)
                        made.recv(1)
                except ConnectionError:
                    count += 1
                except OSError:
                    pass
            print(json.dumps([count, time.monotonic() - began]))
            """
        )
    # 128 at once and 64 a second; without a bound it is thousands.
    assert 128 <= count < 258 + 64 * took
    assert len(world.lines) == 1


@pytest.mark.requirement("sandbox:egress:relay")
async def test_an_address_that_does_not_answer_holds_up_the_next_only_shortly(site: int) -> None:
    # One whose queue is full: it takes no more connections, and says nothing about it.
    full = socket.socket()
    full.bind(("127.0.0.77", site))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())

    async def resolve(_: str, __: int) -> Sequence[str]:
        return ["127.0.0.77", "127.0.0.1"]

    world = netcell.World(settings.Egress(allowed_networks=netcell.LOOPBACK), resolve, connect_s=300.0)
    try:
        async with world.cell(f"two.example:{site}") as (cell, _):
            found = await cell.ask(
                f"""
                import json, urllib.request
                # Less than what the platform itself waits for an address that does not answer.
                print(json.dumps(urllib.request.urlopen("http://two.example:{site}/", timeout=60).read().decode()))
                """
            )
    finally:
        for one in (full, *waiting):
            one.close()
    assert found == "hello"
    assert world.lines == [f"[smcp] egress allowed: two.example:{site} → 127.0.0.1"]


@pytest.mark.requirement("sandbox:egress:bounded")
async def test_one_cells_transfer_is_paced_so_that_the_platform_has_time_for_others() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    much = 8_388_608 + 33_554_432

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        made, _ = await loop.sock_accept(server)
        await loop.sock_sendall(made, b"z" * much)
        made.close()

    world = netcell.pinned("allowed.example")
    serving = asyncio.create_task(serve())
    async with world.cell(f"allowed.example:{port}") as (cell, _):
        found = await cell.ask(
            f"""
            import json, socket, time
            began, total = time.monotonic(), 0
            made = socket.create_connection(("allowed.example", {port}), 60)
            while data := made.recv(1 << 18):
                total += len(data)
            print(json.dumps([total, time.monotonic() - began]))
            """
        )
    await serving
    server.close()
    # 8 MiB at once and 32 MiB a second; a relay without a bound takes 50 ms for it.
    assert found[0] == much
    assert found[1] > 0.9


@pytest.mark.requirement("sandbox:egress:bounded")
async def test_questions_that_are_never_answered_keep_their_places_and_take_no_other_cells(site: int) -> None:
    asked: list[str] = []

    async def resolve(name: str, _: int) -> Sequence[str]:
        asked.append(name)
        if name.endswith("silent.example"):
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    world = netcell.World(settings.Egress(allowed_networks=netcell.LOOPBACK), resolve, connect_s=0.2)
    async with world.cell(f"*.silent.example:{site}") as (cell, _), world.cell(f"a.example:{site}") as (other, _):
        await cell.ask(
            f"""
            import json, socket
            for number in range(8):
                try:
                    socket.create_connection((f"{{number}}.silent.example", {site}), 60).recv(1)
                except OSError:
                    pass
            print(json.dumps(True))
            """
        )
        # What is asked now may take its time: what is left unanswered is.
        world.egress.connect_s = 60.0
        said = await other.run("/usr/bin/curl", "-sS", f"http://a.example:{site}/")
    assert said.out == "hello", said
    assert asked == ["0.silent.example", "1.silent.example", "2.silent.example", "3.silent.example", "a.example"]
