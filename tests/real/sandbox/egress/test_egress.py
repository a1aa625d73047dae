"""Egress, asked from inside a real network namespace behind real walls, by the clients that hosted servers use."""

import asyncio
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from smcp.kernel import settings
from support import netcell, node

pytestmark = pytest.mark.real


@pytest.mark.requirement("sandbox:egress:any-program", "sandbox:egress:verdicts")
async def test_python_reaches_an_allowed_host_and_no_other(site: int) -> None:
    world = netcell.pinned("allowed.example")
    async with world.cell(f"allowed.example:{site}") as (cell, attachment):
        found = await cell.ask(
            f"""
            import json, socket, urllib.request
            def tried(url):
                try:
                    return urllib.request.urlopen(url, timeout=60).read().decode()
                except OSError as error:
                    return str(error)
            print(json.dumps([
                tried("http://allowed.example:{site}/"), tried("http://ALLOWED.example.:{site}/"),
                tried("http://allowed.example/"), tried("http://evil.example/"),
                tried("http://169.254.169.254/latest/meta-data/"), tried("http://127.0.0.1/"), tried("http://10.0.0.1/"),
            ]))
            """
        )
        assert found[:2] == ["hello", "hello"]
        assert "not known" in found[3]
        assert all("reset" in found[number] or "closed" in found[number] for number in (2, 4, 5, 6)), found
        assert attachment.sent > 0
        assert attachment.received > 2 * len("hello")
    assert world.lines[0] == f"[smcp] egress allowed: allowed.example:{site} → 127.0.0.1"
    assert world.lines[1:] == [
        "[smcp] egress refused: allowed.example:80 (not in the manifest's egress)",
        "[smcp] egress refused: evil.example (not in the manifest's egress)",
        "[smcp] egress refused: 169.254.169.254:80 (not in the manifest's egress)",
        "[smcp] egress refused: 127.0.0.1:80 (not in the manifest's egress)",
        "[smcp] egress refused: 10.0.0.1:80 (not in the manifest's egress)",
    ]
    told = world.metrics.render().decode()
    assert 'smcp_egress_verdicts_total{reason="",verdict="allowed"} 2.0' in told
    assert 'smcp_egress_verdicts_total{reason="address",verdict="refused"} 3.0' in told


def _nodes() -> list[str]:
    """The one that the tests bring, and the distribution's, which is older where there is one."""
    system = "/usr/bin/node"
    return [str(node.program()), *([system] if os.path.exists(system) else [])]


@pytest.mark.requirement("sandbox:egress:any-program")
@pytest.mark.parametrize("program", _nodes())
async def test_nodes_fetch_reaches_an_allowed_host_without_proxy_variables(site: int, program: str) -> None:
    world = netcell.pinned("allowed.example")
    code = f"""
    const tried = (url) => fetch(url).then((r) => r.text(), (e) => e.cause?.code ?? String(e));
    console.log(JSON.stringify([
        await tried("http://allowed.example:{site}/"), await tried("http://evil.example:{site}/"),
        await tried("http://169.254.169.254/"),
    ]));
    """
    async with world.cell(f"allowed.example:{site}") as (cell, _):
        home = str(pathlib.Path(program).parents[1])
        said = await cell.run(program, "--input-type=module", "-e", code, binds={} if home == "/usr" else {home: home})
    assert said.code == 0, said
    assert json.loads(said.out) == ["hello", "ENOTFOUND", "ECONNRESET"]


@pytest.mark.requirement("sandbox:egress:any-program")
@pytest.mark.parametrize("uid", [None, netcell.NOBODY], ids=["own", "rootless"])
async def test_curl_reaches_an_allowed_host_also_without_privilege(site: int, uid: int | None) -> None:
    assert shutil.which("curl", path="/usr/bin") is not None, "curl is not installed: sudo apt-get install curl"
    world = netcell.pinned("api.allowed.example")
    async with world.cell(f"*.allowed.example:{site}", uid=uid) as (cell, _):
        said = await cell.run("/usr/bin/curl", "-sS", f"http://api.allowed.example:{site}/")
    assert (said.code, said.out) == (0, "hello"), said


@pytest.mark.requirement("sandbox:egress:only-tcp")
async def test_nothing_but_tcp_to_the_listeners_gets_anywhere(site: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0smcp-egress-{os.getpid()}")
    abstract.listen()
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outside.bind(("0.0.0.0", 0))
    world = netcell.pinned("allowed.example")
    try:
        async with world.cell(f"allowed.example:{site}") as (cell, _):
            found = await cell.ask(
                f"""
                import json, socket
                def tried(family, kind, address, protocol=0):
                    try:
                        with socket.socket(family, kind, protocol) as made:
                            made.settimeout(60)
                            made.connect(address)
                            made.send(b"x" * 64)
                            return repr(made.recv(1))
                    except OSError as error:
                        return type(error).__name__
                I, S = socket.AF_INET, socket.AF_INET6
                T, U, R = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
                unix = socket.AF_UNIX
                print(json.dumps({{
                    "host's listener": tried(I, T, ("127.0.0.1", {listener.getsockname()[1]})),
                    "udp": tried(I, U, ("127.0.0.1", {outside.getsockname()[1]})),
                    "udp out": tried(I, U, ("8.8.8.8", 53)),
                    "quic": tried(I, U, ("192.52.193.1", 443)),
                    "ping": tried(I, U, ("8.8.8.8", 0), socket.IPPROTO_ICMP),
                    "raw": tried(I, R, ("8.8.8.8", 0), socket.IPPROTO_ICMP),
                    "ipv6": tried(S, T, ("2001:4860:4860::8888", 443)),
                    "link-local": tried(S, T, ("fe80::1", 443, 0, 1)),
                    "abstract": tried(unix, T, "\\0smcp-egress-{os.getpid()}"),
                    "devices": [name for _, name in socket.if_nameindex() if name == "lo"],
                }}))
                """
            )
    finally:
        listener.close()
        abstract.close()
        outside.close()
    assert found == {
        "host's listener": "ConnectionRefusedError",
        "udp": "ConnectionRefusedError",
        "udp out": "ConnectionRefusedError",
        "quic": "ConnectionRefusedError",
        "ping": "PermissionError",
        "raw": "PermissionError",
        "ipv6": "OSError",
        "link-local": "OSError",
        "abstract": "ConnectionRefusedError",
        "devices": ["lo"],
    }


@pytest.mark.requirement("sandbox:egress:own-loopback")
async def test_a_servers_own_loopback_works_beside_egress(site: int) -> None:
    world = netcell.pinned("allowed.example")
    async with world.cell(f"allowed.example:{site}") as (cell, _):
        found = await cell.ask(
            """
            import json, socket
            own = socket.create_server(("localhost", 0))
            client = socket.create_connection(own.getsockname())
            client.sendall(b"own")
            print(json.dumps(own.accept()[0].recv(3).decode()))
            """
        )
    assert found == "own"


@pytest.mark.requirement("sandbox:egress:dialled-is-checked")
async def test_a_name_that_flips_between_check_and_dial_leads_only_to_what_was_checked(site: int) -> None:
    """CVE-2026-53708: a resolver that says a permitted address first, and then the metadata's or the host's."""
    asked: list[str] = []
    other = socket.create_server(("127.0.0.66", site))

    async def flips(name: str, _: int) -> Sequence[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) % 2 else ["127.0.0.66"]

    # Only the first answer's address is open: whoever resolved again would dial the second.
    world = netcell.World(settings.Egress(allowed_networks=("127.0.0.1/32",)), flips)
    other.setblocking(False)
    try:
        async with world.cell(f"flip.example:{site}") as (cell, _):
            found = await cell.ask(
                f"""
                import json, urllib.request
                def tried():
                    try:
                        return urllib.request.urlopen("http://flip.example:{site}/", timeout=60).read().decode()
                    except OSError as error:
                        return "failed"
                print(json.dumps([tried(), tried(), tried()]))
                """
            )
        with pytest.raises(BlockingIOError):
            other.accept()
    finally:
        other.close()
    assert found == ["hello", "failed", "hello"]
    # Once for each connection: what was checked is not asked for again.
    assert asked == ["flip.example"] * 3
    assert f"[smcp] egress refused: flip.example:{site} → 127.0.0.66 (not a public address)" in world.lines


@pytest.mark.requirement("sandbox:egress:networks")
@pytest.mark.parametrize(
    "answers",
    [
        ["169.254.169.254"],
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fd00:ec2::254"],
        ["93.184.216.34", "127.0.0.1"],
    ],
)
async def test_an_allowed_name_that_leads_inside_is_refused(site: int, answers: list[str]) -> None:
    async def inside(_: str, __: int) -> Sequence[str]:
        return answers

    world = netcell.World(settings.Egress(), inside)
    async with world.cell(f"rebound.example:{site}") as (cell, _):
        found = await cell.ask(netcell.CONNECT.format(host="rebound.example", port=site))
    assert found == "ConnectionResetError"
    assert len(world.lines) == 1
    assert world.lines[0].startswith(f"[smcp] egress refused: rebound.example:{site} → {answers[-1]} (")


@pytest.mark.requirement("sandbox:egress:literal")
async def test_a_literal_address_needs_a_rule_and_the_operators_leave(site: int) -> None:
    world = netcell.World(settings.Egress(), connect_s=60.0)
    async with world.cell(f"10.255.255.1:{site}") as (cell, _):
        assert await cell.ask(netcell.CONNECT.format(host="10.255.255.1", port=site)) == "ConnectionResetError"
    assert world.lines == [
        f"[smcp] egress refused: 10.255.255.1:{site} → 10.255.255.1 (not a public address)",
    ]


@pytest.mark.requirement("sandbox:egress:trusted")
async def test_an_operators_own_hosts_may_be_on_this_machine_but_not_metadata(site: int) -> None:
    answers = {"index.example": "127.0.0.1", "wrong.example": "169.254.169.254"}

    async def resolve(name: str, _: int) -> Sequence[str]:
        return [answers[name]]

    world = netcell.World(settings.Egress(), resolve)
    texts = (f"index.example:{site}", f"wrong.example:{site}", f"localhost:{site}")
    async with world.cell(*texts, trusted=True) as (cell, _):
        found = await cell.ask(
            f"""
            import json, urllib.request
            def tried(name):
                try:
                    return urllib.request.urlopen(f"http://{{name}}:{site}/", timeout=60).read().decode()
                except OSError as error:
                    return "failed"
            print(json.dumps([tried("index.example"), tried("wrong.example"), tried("localhost")]))
            """
        )
    assert found == ["hello", "failed", "hello"]


@pytest.mark.requirement("sandbox:egress:dns-closed")
async def test_a_name_that_is_not_allowed_is_asked_of_nobody(site: int) -> None:
    asked: list[str] = []

    async def resolve(name: str, _: int) -> Sequence[str]:
        asked.append(name)
        return []

    world = netcell.World(settings.Egress(), resolve)
    async with world.cell(f"*.allowed.example:{site}") as (cell, _):
        found = await cell.ask(
            """
            import json, socket
            def tried(name):
                try:
                    return socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)[0][4][0]
                except OSError:
                    return ""
            names = ["allowed.example", "evilallowed.example", "secret.evil.example", "a.b.allowed.example",
                     "x.allowed.example.", "X.ALLOWED.EXAMPLE", "x y.allowed.example", "localhost"]
            print(json.dumps([tried(name) for name in names]))
            """
        )
    assert found[:3] == ["", "", ""]
    assert found[3].startswith("192.52.193.")
    assert found[4] == found[5] != found[3]
    assert found[4].startswith("192.52.193.")
    assert found[6:] == ["", "127.0.0.1"]
    assert asked == []


@pytest.mark.requirement("sandbox:egress:apart")
async def test_two_cells_know_nothing_of_each_others_names(site: int) -> None:
    world = netcell.pinned("one.example", "two.example")
    ask = """
    import json, socket
    address = socket.getaddrinfo({mine!r}, {port}, type=socket.SOCK_STREAM)[0][4][0]
    try:
        socket.getaddrinfo({other!r}, {port})
        known = True
    except OSError:
        known = False
    print(json.dumps([address, known]))
    """
    async with world.cell(f"one.example:{site}") as (first, _), world.cell(f"two.example:{site}") as (second, _):
        one = await first.ask(ask.format(mine="one.example", other="two.example", port=site))
        two = await second.ask(ask.format(mine="two.example", other="one.example", port=site))
    # The same address stands for another name in each.
    assert one == two == ["192.52.193.1", False]


@pytest.mark.requirement("sandbox:egress:closed", "sandbox:egress:networks")
def test_only_a_fresh_namespace_is_entered_and_every_address_is_its_own() -> None:
    code = """
import ctypes, ipaddress, json, os, socket
from smcp.sandbox import network
from smcp.sandbox.egress import guard
flags = 0x40000000 | (0x10000000 if os.geteuid() else 0)
assert ctypes.CDLL(None, use_errno=True).unshare(flags) == 0
made = network.enter([443, 80])
names = [one.getsockname() for one in made]
# A public address that is this machine's own: the guard finds it by asking the kernel.
own = guard.is_own(ipaddress.ip_address("8.8.8.8")), guard.Guard(()).refusal("8.8.8.8")
try:
    network.enter([8080])
    again = ""
except OSError as error:
    again = str(error)
print(json.dumps([names, own, again, any(one.get_inheritable() for one in made)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [["127.0.0.1", 53], ["0.0.0.0", 443], ["0.0.0.0", 80]],
        [True, "this machine"],
        "[Errno 22] this network namespace is not a fresh one",
        False,
    ]


@pytest.mark.requirement("sandbox:egress:networks")
async def test_a_name_that_is_not_found_and_a_host_that_does_not_answer_are_told(site: int) -> None:
    asked = asyncio.Event()

    async def resolve(name: str, _: int) -> Sequence[str]:
        if name == "gone.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name == "silent.example":
            asked.set()
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    config = settings.Egress(allowed_networks=netcell.LOOPBACK)
    world, hurried = netcell.World(config, resolve), netcell.World(config, resolve, connect_s=0.3)
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    async with world.cell(f"gone.example:{site}", f"closed.example:{closed}") as (cell, _):
        found = await cell.ask(
            f"""
            import json, socket
            def tried(host, port):
                try:
                    with socket.create_connection((host, port), 60) as made:
                        return repr(made.recv(1))
                except OSError as error:
                    return type(error).__name__
            names = (("gone.example", {site}), ("closed.example", {closed}))
            print(json.dumps([tried(*one) for one in names]))
            """
        )
    assert found == ["ConnectionResetError"] * 2
    assert world.lines == [
        f"[smcp] egress failed: gone.example:{site} (the name was not found: Name or service not known)",
        f"[smcp] egress failed: closed.example:{closed} (no connection: Connection refused)",
    ]
    async with hurried.cell(f"silent.example:{site}") as (cell, _):
        assert await cell.ask(netcell.CONNECT.format(host="silent.example", port=site)) == "ConnectionResetError"
    assert asked.is_set()
    assert hurried.lines == [
        f"[smcp] egress failed: silent.example:{site} (the name was not found: no answer in time)",
    ]
