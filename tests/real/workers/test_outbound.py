"""What a Worker's `fetch` reaches, with the real workerd, the real door and real TLS servers."""

import asyncio
import pathlib
from collections.abc import Sequence

import pytest

from smcp.kernel import clock, ids, observe, settings
from smcp.tenancy import egress, plans, tenants
from support import conversations, reaching, storage
from support.reaching import ALLOWED, OTHER, Came, Site, World, answer

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

INNER = ("10.0.0.7", "169.254.169.254", "127.0.0.1", "::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00::1")


@pytest.mark.requirement("workers:outbound:allowed", "workers:outbound:metered")
async def test_an_allowed_host_is_reached_over_tls_and_no_other(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with Site().open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        found = await worker.fetch(f"https://{ALLOWED}:{site.port}/a?b=c", method="POST", body="sent")
        assert (found["status"], found["text"]) == (200, "hello")
        (came,) = site.came
        assert (came.method, came.target, came.body) == ("POST", "/a?b=c", b"sent")
        assert came.field("host") == f"{ALLOWED}:{site.port}"
        assert not [name for name, _ in came.fields if name.startswith("x-smcp")]
        refused = await worker.fetch(f"https://{OTHER}:{site.port}/")
        assert (refused["status"], refused["headers"]["x-smcp-refused"]) == (403, "egress")
        assert f"{OTHER}:{site.port} is not in the egress" in refused["text"]
        assert len(site.came) == site.connections == 1
        assert any(f"allowed: {ALLOWED}:{site.port} → 127.0.0.1" in line for line in worker.lines)
        assert any(f"refused: {OTHER}:{site.port}" in line for line in worker.lines)
        assert worker.moved[0] > 100
        assert worker.moved[1] > 30


@pytest.mark.requirement("attack:workers:ssrf")
async def test_no_address_and_no_spelling_of_one_is_reached_past_the_rules(tmp_path: pathlib.Path) -> None:
    # The operator opened loopback, so that it is the rules alone that hold here.
    names = conversations.Names({})
    world = World(tmp_path, hosts=(), resolve=names)
    async with Site().open(None) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        tried = [
            *(f"http://{host}:{site.port}/" for host in ("127.0.0.1", "2130706433", "0x7f.1", "[::1]", "localhost")),
            *(f"http://{host}:{site.port}/" for host in ("127.1", "[::ffff:127.0.0.1]", "127.0.0.1.", "①27.0.0.1")),
            *("http://169.254.169.254/latest/meta-data", "http://metadata.google.internal/", "http://0.0.0.0/"),
            *(f"http://{host}:{site.port}/" for host in (f"{ALLOWED}.evil.example", f"a.{ALLOWED}", "evil-" + ALLOWED)),
            *(f"http://{ALLOWED}:{port}/" for port in (80, 443, site.port + 1 if site.port < 65535 else 1)),
            *(f"http://{ALLOWED}:{site.port}@evil.example/", f"http://evil.example/{ALLOWED}:{site.port}"),
            *("https://1.1.1.1/dns-query?name=example.com", f"http://{ALLOWED}%2eevil.example/"),
        ]
        for url in tried:
            found = await worker.fetch(url)
            # What is no URL at all goes no further than the code.
            assert found.get("status") == 403 or "Invalid URL" in found["error"], (url, found)
        assert site.connections == 0
        assert names.asked == []
        assert any("refused: 169.254.169.254:80" in line for line in worker.lines)


@pytest.mark.requirement("attack:workers:ssrf")
@pytest.mark.parametrize("inner", INNER)
async def test_an_allowed_name_that_leads_to_an_inner_address_is_refused(tmp_path: pathlib.Path, inner: str) -> None:
    names = conversations.Names({ALLOWED: [("93.184.216.34", inner)]})
    world = World(tmp_path, hosts=(), networks=(), resolve=names)
    async with world.worker(ALLOWED) as worker:
        found = await worker.fetch(f"https://{ALLOWED}/")
        assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "egress")
        assert inner not in found["text"]
        assert names.asked == [ALLOWED]
        assert any(f"refused: {ALLOWED}:443 → {inner}" in line for line in worker.lines)


@pytest.mark.requirement("attack:workers:ssrf")
async def test_an_address_in_the_manifest_opens_no_inner_network(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, networks=())
    async with world.worker("10.0.0.7", "169.254.169.254:80") as worker:
        for url in ("https://10.0.0.7/", "http://169.254.169.254/latest/meta-data"):
            found = await worker.fetch(url)
            assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "egress")
            assert "not dialled" in found["text"]


@pytest.mark.requirement("attack:workers:rebinding")
async def test_the_address_that_was_checked_is_dialled_and_each_later_one_is_checked_again(
    tmp_path: pathlib.Path,
) -> None:
    # CVE-2026-53708: the first answer is good, and whoever asks a second time is led inside.
    names = conversations.Names({ALLOWED: [["127.0.0.1"], ["169.254.169.254"]]})
    world = World(tmp_path, hosts=(), resolve=names)

    async def once(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"hello", "Connection: close"))
        await writer.drain()
        writer.close()

    async with Site(once).open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        found = await worker.fetch(f"https://{ALLOWED}:{site.port}/")
        assert (found["status"], names.asked) == (200, [ALLOWED])
        found = await worker.fetch(f"https://{ALLOWED}:{site.port}/")
        assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "egress")
        assert names.asked == [ALLOWED] * 2
        assert len(site.came) == 1


@pytest.mark.requirement("attack:workers:redirect")
async def test_each_hop_of_a_redirect_is_checked_as_a_request_of_its_own(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    hops: dict[str, str] = {}

    async def lead(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = hops.get(came.target)
        writer.write(answer(b"", f"Location: {there}", status=302) if there else answer(b"here"))

    secure = world.secure()
    async with Site(lead).open(secure) as site, Site().open(secure) as other:
        hops |= {
            "/own": "/end",
            "/other": f"https://{OTHER}:{other.port}/end",
            "/third": f"https://third.example:{other.port}/",
            "/metadata": "http://169.254.169.254/latest/meta-data",
            "/plain": f"http://{ALLOWED}:80/",
        }
        async with world.worker(f"{ALLOWED}:{site.port}", f"{OTHER}:{other.port}") as worker:
            here = f"https://{ALLOWED}:{site.port}"
            assert (await worker.fetch(f"{here}/own"))["url"] == f"{here}/end"
            assert (await worker.fetch(f"{here}/other"))["text"] == "hello"
            assert len(other.came) == 1
            for path in ("/third", "/metadata", "/plain"):
                found = await worker.fetch(here + path)
                assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "egress"), path
            assert (await worker.fetch(f"{here}/metadata", redirect="manual"))["status"] == 302
            assert len(other.came) == other.connections == 1


@pytest.mark.requirement("workers:outbound:http-only")
async def test_connections_and_web_sockets_are_refused_and_nothing_is_dialled(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with Site().open(None) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        for address in (f"{ALLOWED}:{site.port}", f"127.0.0.1:{site.port}", "169.254.169.254:80"):
            found = await worker.ask("connect", address=address)
            assert "cannot connect" in found["error"], found
        assert any("CONNECT" in line for line in worker.lines)
        found = await worker.ask("websocket", url=f"http://{ALLOWED}:{site.port}/")
        assert (found["status"], found["socket"]) == (501, False)
        assert any("another protocol" in line for line in worker.lines)
        assert site.connections == 0


@pytest.mark.requirement("workers:outbound:tls")
@pytest.mark.parametrize("names", [["another.example"], []])
async def test_a_certificate_must_be_the_hosts_and_of_a_trusted_authority(
    tmp_path: pathlib.Path, names: Sequence[str]
) -> None:
    world = World(tmp_path)
    (tmp_path / "strange").mkdir()
    secure = world.secure(*names) if names else World(tmp_path / "strange").secure(ALLOWED)
    async with Site().open(secure) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        found = await worker.fetch(f"https://{ALLOWED}:{site.port}/")
        assert (found["status"], found["headers"]["x-smcp-refused"]) == (502, "unreachable")
        assert "certificate is refused" in found["text"]
        assert site.came == []


@pytest.mark.requirement("workers:outbound:metered")
async def test_a_tenant_that_has_moved_its_bytes_of_the_day_gets_no_further(tmp_path: pathlib.Path) -> None:
    (tmp_path / "store").mkdir()
    async with storage.opened(tmp_path / "store") as store:
        # It stands: no midnight comes, and nothing has waited too long to be written.
        time = clock.FrozenClock()
        config = settings.Settings(limits=settings.Limits(standard=("egress_bytes_per_day=30000",)))
        every = plans.Plans(store, tenants.Tenants(store, time), config)
        days = egress.Days(store, every.of, time, observe.logger(settings.Log()))
        world = World(tmp_path, budgets=days.budget)
        async with Site().open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
            url = f"https://{ALLOWED}:{site.port}/"
            assert (await worker.fetch(url))["status"] == 200
            # In the middle of a body: nobody waits for what can't come.
            found = await worker.fetch(url, method="POST", body="x" * 40_000)
            assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "quota"), (found, worker.lines)
            moved = await days.used(ids.tenant("acme"))
            assert moved == sum(worker.moved) <= 30_000
            while (found := await worker.fetch(url))["status"] == 200:
                assert sum(worker.moved) <= 30_000
            assert found["headers"]["x-smcp-refused"] == "quota"
            assert any("of the day are used up" in line for line in worker.lines)
        await days.close()


@pytest.mark.requirement("workers:outbound:streams")
async def test_what_is_given_up_is_given_up_at_the_host_as_well(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)

    async def endless(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"5\r\nhello\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    async with Site(endless).open(world.secure()) as site, world.worker(f"{ALLOWED}:{site.port}") as worker:
        url = f"https://{ALLOWED}:{site.port}/"
        assert await worker.ask("abandon", url=url) == {"read": True}
        await asyncio.wait_for(site.closed.acquire(), reaching.WAIT_S)
        async with worker.open("GET", worker.through("down", url)) as (status, reader):
            assert (status, await reader.readexactly(5)) == (200, b"hello")
        await asyncio.wait_for(site.closed.acquire(), reaching.WAIT_S)
