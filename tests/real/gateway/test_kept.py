"""Sessions that go on: after a power cut, in another copy of their server, on an earlier deployment."""

import asyncio
import contextlib
import pathlib
import socket
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import pytest

from support import clients, gates, relay, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_REPLAY = 'resume = "replay"\n'
_END = 'resume = "end"\n'
_MODERN = '[env]\nERAS = "modern"\n'


class House:
    """A platform that can be killed and started again, with servers of one tenant and two of its keys."""

    def __init__(self, platform: Platform, front: socket.socket) -> None:
        """`front` listens where a load balancer of the platform would."""
        self.platform = platform
        self._front = front
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")
        self.keys = [platform.create_key("acme") for _ in range(2)]
        for name, manifest in (("goes-on", _REPLAY), ("ends", _END), ("plain", ""), ("bridged", _MODERN)):
            self.deploy(name, manifest)

    def deploy(self, name: str, manifest: str) -> None:
        """Deploy the scripted server once more."""
        self.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, self.admin, manifest)

    def cut(self) -> None:
        """A power cut, and a new start with the same data."""
        self.platform.kill()
        self.platform.start()

    def at(self, name: str, key: int = 0) -> Endpoint:
        """A server, for a key; the address changes with each start."""
        return Endpoint(f"{self.platform.base_url}/t/acme/{name}/mcp", self.keys[key])

    def alone(self, name: str, manifest: str = "") -> str:
        """A server that no other test uses."""
        self.deploy(name, manifest)
        return name

    @contextlib.asynccontextmanager
    async def relayed(self) -> AsyncGenerator[str]:
        """An address that stays the same while the platform's changes."""
        async with relay.relayed(self._front, lambda: wire.address(self.platform.base_url)):
            yield "http://{}:{}".format(*self._front.getsockname())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    """The platform, running."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    settings = {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}
    with socket.create_server(("127.0.0.1", 0)) as front:
        settings["SMCP_GATEWAY_HOSTS"] = "{}:{}".format(*front.getsockname())
        with Platform(tmp_path_factory.mktemp("house"), settings) as platform:
            yield House(platform, front)


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client; what it has open when the platform is killed, it opens anew."""
    transport = httpx2.AsyncHTTPTransport(retries=2)
    async with httpx2.AsyncClient(timeout=120.0, transport=transport) as client:
        yield client


async def _until(status: int, one: wire.Caller, session: str, seconds: float = 120.0) -> None:
    """Ask until the answer has this status."""
    deadline = time.monotonic() + seconds
    while (answer := await one.legacy(session, "ping")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)  # the end of a time limit is told to nobody


def _same(answer: httpx2.Response) -> tuple[int, bytes, list[str]]:
    """An answer without what may differ."""
    fields = sorted(f"{name}: {value}" for name, value in answer.headers.items())
    varies = ("smcp-request-id", "date", "ratelimit:")
    return answer.status_code, answer.content, [field for field in fields if not field.startswith(varies)]


@pytest.mark.requirement("gateway:kept:restart")
async def test_sessions_go_on_after_a_power_cut_as_their_servers_allow(house: House) -> None:
    names = ("goes-on", "ends", "plain", "bridged")
    async with httpx2.AsyncClient(timeout=120.0) as http:
        sessions = {name: await wire.Caller(http, house.at(name)).open() for name in names}
        before = wire.Caller(http, house.at("goes-on"))
        session = sessions["goes-on"]
        born = (await before.act("echo", session))["born"]
        for method, params in (
            ("logging/setLevel", {"level": "warning"}),
            ("resources/subscribe", {"uri": "a:1"}),
            ("resources/subscribe", {"uri": "a:2"}),
            ("resources/unsubscribe", {"uri": "a:1"}),
        ):
            answer = await before.legacy(session, method, params)
            assert (answer.status_code, "result" in answer.json()) == (200, True)
        level = await wire.Caller(http, house.at("bridged")).legacy(
            sessions["bridged"], "logging/setLevel", {"level": "error"}
        )
        assert level.status_code == 200
        # Records are written in their order, a moment behind an answer; of a session is told once its own is there.
        last = await before.open()
    house.cut()
    async with httpx2.AsyncClient(timeout=120.0) as http:
        after = {name: wire.Caller(http, house.at(name)) for name in names}
        assert (await after["ends"].legacy(sessions["ends"], "tools/list")).status_code == 404
        assert (await after["plain"].act("echo", sessions["plain"], text="x"))["text"] == "x"
        stamp = await after["bridged"].act("meta", sessions["bridged"])
        assert stamp["io.modelcontextprotocol/logLevel"] == "error"
        assert stamp["io.modelcontextprotocol/clientInfo"] == {"name": "test", "version": "1"}
        one = after["goes-on"]
        assert (await one.act("echo", session))["born"] != born
        assert await one.act("asked", session) == [
            {"method": "initialize", "params": wire.hello()},
            {"method": "resources/subscribe", "params": {"uri": "a:2"}},
            {"method": "logging/setLevel", "params": {"level": "warning"}},
        ]
        assert await one.act("heard", session) == [{"method": "notifications/initialized", "params": None}]
        for name in ("goes-on", "plain", "bridged"):
            assert await after[name].end(sessions[name]) == 204
        assert await one.end(last) == 204
    house.cut()
    async with httpx2.AsyncClient(timeout=120.0) as http:
        for name in names:  # none comes back
            assert (await wire.Caller(http, house.at(name)).legacy(sessions[name], "ping")).status_code == 404


@pytest.mark.requirement("gateway:kept:bound")
async def test_after_a_restart_a_session_is_its_principals_and_its_servers_only(house: House) -> None:
    # CVE-2026-52869, agentgateway GHSA-mvgg-jvj2-4frq
    async with httpx2.AsyncClient(timeout=120.0) as http:
        session = await wire.Caller(http, house.at("plain")).open()
    house.cut()
    async with httpx2.AsyncClient(timeout=120.0) as http:
        mine = wire.Caller(http, house.at("plain"))
        for verb in ("POST", "GET", "DELETE"):
            answers: set[str] = set()
            for at, told in (
                (house.at("plain", 1), session),
                (house.at("goes-on"), session),
                (house.at("goes-on", 1), session),
                (house.at("plain"), session.swapcase()),
                (house.at("plain"), "never-was"),
            ):
                one = wire.Caller(http, at)
                fields, body = wire.legacy(told, "tools/call", wire.call("echo"), 7)
                content = body if verb == "POST" else None
                answer = await http.request(verb, one.url, headers={**one.bearer, **fields}, content=content)
                answers.add(str(_same(answer)))
            assert len(answers) == 1, answers
            assert "(404, " in answers.pop()
        assert (await mine.act("echo", session, text="mine"))["text"] == "mine"
        stale = await mine.legacy(None, "initialize", wire.hello(), mcp_session_id="never-was")
        assert stale.status_code == 200
        assert await mine.end(stale.headers["mcp-session-id"]) == 204
        assert await mine.end(session) == 204


@pytest.mark.requirement("gateway:kept:cap")
async def test_sessions_from_before_a_restart_count_against_the_cap(house: House) -> None:
    async with httpx2.AsyncClient(timeout=120.0) as http:
        one = wire.Caller(http, house.at("bridged", 1))
        sessions = [await one.open() for _ in range(6)]
    house.cut()
    limits = house.platform.api("GET", "/tenants/acme/limits", key=house.admin)
    assert {row["name"]: row["used"] for row in limits["limits"]}["principal_sessions"] == 6
    async with httpx2.AsyncClient(timeout=120.0) as http:
        one = wire.Caller(http, house.at("bridged", 1))
        newest = await one.open()
        alive = [(await one.legacy(session, "ping")).status_code for session in [*sessions, newest]]
        assert alive.count(200) == 6
        assert alive[-1] == 200
        for session in [*sessions, newest]:
            await one.end(session)


@pytest.mark.requirement("gateway:kept:copies")
async def test_a_session_outlives_its_copy_and_a_call_in_flight_is_told(house: House, http: httpx2.AsyncClient) -> None:
    one = wire.Caller(http, house.at(house.alone("mortal")))
    session = await one.open()
    born = (await one.act("echo", session))["born"]
    async with (
        one.listening(session) as stream,
        one.streaming(*wire.legacy(session, "tools/call", wire.call("never", token="t"), 5)) as waiting,
    ):
        assert (await waiting.message())["method"] == "notifications/progress"  # it is at work
        failed = await one.legacy(session, "tools/call", wire.call("exit"), 6)
        for answer in (wire.messages(failed)[-1], await waiting.message()):
            assert "ended while this call ran" in answer["error"]["message"]
        await stream.end()  # its client is to come back, and gives the server somebody to talk to
    async with one.listening(session) as stream:
        assert await one.act("notice", session, n=1) == "told"
        assert (await stream.message())["params"] == {"n": 1}
    again = await one.act("echo", session)
    assert again["born"] != born
    assert len(await one.act("heard", session)) == 1
    told = house.platform.audit("acme", key=house.admin)
    resumed = [one["event"] for one in told if one["event"]["event"] == "session_resumed"]
    assert "mortal" in {event["server"] for event in resumed}
    # One that ends right after its start again and again is given up.
    for _ in range(12):  # one that a busy machine let live for a while is none of those
        answer = await one.legacy(session, "tools/call", wire.call("exit"))
        if answer.status_code == 404:
            break
        assert "ended while this call ran" in wire.messages(answer)[-1]["error"]["message"]
    assert (await one.legacy(session, "ping")).status_code == 404


@pytest.mark.requirement("gateway:kept:copies")
@pytest.mark.parametrize("manifest", [_END, '[volume]\nsize = "1MiB"\n'])
async def test_a_session_of_a_server_with_state_ends_with_its_copy(
    house: House, http: httpx2.AsyncClient, manifest: str
) -> None:
    one = wire.Caller(http, house.at(house.alone("keeps-" + str(len(manifest)), manifest)))
    session = await one.open()
    await one.legacy(session, "tools/call", wire.call("exit"))
    assert (await one.legacy(session, "ping")).status_code == 404


@pytest.mark.requirement("gateway:kept:version")
async def test_a_copy_that_speaks_another_version_ends_the_session(house: House, http: httpx2.AsyncClient) -> None:
    manifest = 'resume = "replay"\n[env]\nFICKLE = "/data/said"\n[volume]\nsize = "1MiB"\n'
    one = wire.Caller(http, house.at(house.alone("fickle", manifest)))
    session = await one.open()
    await one.legacy(session, "tools/call", wire.call("exit"))
    assert (await one.legacy(session, "ping")).status_code == 404
    assert (await one.legacy(session, "ping")).status_code == 404


@pytest.mark.requirement("gateway:kept:drain")
async def test_sessions_finish_on_the_earlier_deployment_until_their_time_is_over(
    house: House, http: httpx2.AsyncClient
) -> None:
    name = house.alone("renewed", '[env]\nCANARY = "first"\n')
    one = wire.Caller(http, house.at(name))
    old = await one.open()
    house.deploy(name, '[env]\nCANARY = "second"\n')
    new = await one.open()
    assert (await one.act("echo", new))["canary"] == "second"
    assert (await one.act("echo", old))["canary"] == "first"
    house.cut()
    one = wire.Caller(http, house.at(name))
    assert (await one.act("echo", old))["canary"] == "first"
    house.deploy(name, 'drain_s = 0\n[env]\nCANARY = "third"\n')
    for session in (old, new):
        await _until(404, one, session)
    newest = await one.open()
    assert (await one.act("echo", newest))["canary"] == "third"
    house.platform.api("POST", f"/tenants/acme/servers/{name}/rollback", {}, key=house.admin)
    assert (await one.legacy(newest, "ping")).status_code == 404


@pytest.mark.requirement("gateway:kept:drain")
async def test_a_session_without_a_copy_moves_to_the_new_deployment(house: House, http: httpx2.AsyncClient) -> None:
    name = house.alone("moves", '[env]\nERAS = "modern"\nCANARY = "first"\n')
    one = wire.Caller(http, house.at(name))
    session = await one.open()
    assert (await one.act("echo", session))["canary"] == "first"
    house.deploy(name, 'drain_s = 0\n[env]\nERAS = "modern"\nCANARY = "second"\n')
    assert (await one.act("echo", session))["canary"] == "second"
    house.platform.api("POST", f"/tenants/acme/servers/{name}/rollback", {}, key=house.admin)
    assert (await one.act("echo", session))["canary"] == "first"


@pytest.mark.requirement("gateway:kept:outside")
async def test_stop_suspension_and_revocation_end_sessions_with_their_records(
    house: House, http: httpx2.AsyncClient
) -> None:
    platform = house.platform
    name = house.alone("stopped")
    made = platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "to be revoked"})
    key = str(made["secret"])

    async def opened() -> list[tuple[wire.Caller, str]]:
        ways = [wire.Caller(http, house.at(one)) for one in (name, "bridged")]
        return [(way, await way.open()) for way in ways]

    mine, others = await opened()
    theirs = wire.Caller(http, house.at("bridged")._replace(key=key))
    revoked = await theirs.open()
    house.cut()  # also those that no process has met

    def act(path: str, who: str) -> Any:
        return platform.api("POST", path, key=who)

    act(f"/tenants/acme/servers/{name}/stop", house.admin)
    act(f"/tenants/acme/servers/{name}/start", house.admin)
    assert (await wire.Caller(http, house.at(name)).legacy(mine[1], "ping")).status_code == 404
    assert (await wire.Caller(http, house.at("bridged")).legacy(others[1], "ping")).status_code == 200
    before = _keys_stored(house)
    platform.api("DELETE", f"/tenants/acme/keys/{made['key']['id']}", key=house.admin)
    for _ in range(600):
        if _keys_stored(house) < before:
            break
        await asyncio.sleep(0.1)  # the record goes a moment behind the session
    assert _keys_stored(house) == before - 1
    again = wire.Caller(http, house.at("bridged")._replace(key=key))
    assert (await again.legacy(revoked, "ping")).status_code == 401
    act("/tenants/acme/suspend", platform.operator_key)
    act("/tenants/acme/resume", platform.operator_key)
    assert (await wire.Caller(http, house.at("bridged")).legacy(others[1], "ping")).status_code == 404


def _keys_stored(house: House) -> int:
    """How many keys the tenant stores."""
    rows = house.platform.api("GET", "/tenants/acme/limits", key=house.admin)["limits"]
    return int({row["name"]: row["used"] for row in rows}["storage_keys"])


@pytest.mark.requirement("gateway:kept:clients")
@pytest.mark.parametrize("name", ["plain", "bridged"])
async def test_the_official_client_does_not_notice_that_the_platform_was_killed(house: House, name: str) -> None:
    async with house.relayed() as url:
        at = Endpoint(f"{url}/t/acme/{name}/mcp", house.keys[0])
        async with clients.connected(at, "legacy") as client:
            before = clients.texts(await client.call_tool("do", {"act": "echo", "text": "before"}))
            house.cut()
            after = clients.texts(await client.call_tool("do", {"act": "echo", "text": "after"}))
            assert '"text": "before"' in before[0]
            assert '"text": "after"' in after[0]
            assert [tool.name for tool in (await client.list_tools()).tools] == ["do", "shape"]


@pytest.mark.requirement("gateway:kept:expiry")
async def test_time_goes_on_while_the_platform_does_not_run(tmp_path: pathlib.Path) -> None:
    wire.wheel(tmp_path / "wheels")
    limits = {"SMCP_GATEWAY_SESSION_IDLE_S": "20", "SMCP_GATEWAY_SESSION_MAX_S": "60"}
    settings = {**gates.SETTINGS, **limits, "SMCP_DEPLOY_WHEEL_DIRS": str(tmp_path / "wheels")}
    with Platform(tmp_path, settings) as platform:
        key = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))["tool"].key
        async with httpx2.AsyncClient(timeout=120.0) as http:
            one = wire.Caller(http, Endpoint(f"{platform.base_url}/t/acme/tool/mcp", key))
            opened = time.monotonic()
            idle, old = await one.open(), await one.open()
        platform.kill()
        platform.start()
        async with httpx2.AsyncClient(timeout=120.0) as http:
            one = wire.Caller(http, Endpoint(f"{platform.base_url}/t/acme/tool/mcp", key))
            while (await one.legacy(old, "ping")).status_code == 200:
                assert time.monotonic() - opened < 180
                await asyncio.sleep(2)  # time itself is what is tested
            assert time.monotonic() - opened >= 20
            assert (await one.legacy(idle, "ping")).status_code == 404
            now = await wire.settled(platform, wire.vitals(platform)._replace(sessions=0, instances=0, children=0))
            assert now.sessions == 0
        admin = platform.create_key("acme", "admin")
        told = platform.api("GET", "/tenants/acme/audit?limit=1000", key=admin)["items"]
        assert [one["event"]["why"] for one in told if one["event"]["event"] == "session_ended"] == ["expired"] * 2
