"""Sessions that go on: after a power cut, in another copy of their server, on an earlier deployment."""

import pathlib
from collections.abc import Generator

import httpx2
import pytest

from support import gates, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_REPLAY = 'resume = "replay"\n'
_END = 'resume = "end"\n'
_MODERN = '[env]\nERAS = "modern"\n'


class House:
    """A platform that can be killed and started again, with servers of one tenant and two of its keys."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
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


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    """The platform, running."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    settings = {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf), "SMCP_GATEWAY_CALL_TIMEOUT_S": "60"}
    with Platform(tmp_path_factory.mktemp("house"), settings) as platform:
        yield House(platform)


@pytest.mark.requirement("gateway:kept:restart")
async def test_sessions_go_on_after_a_power_cut_as_their_servers_allow(house: House) -> None:
    names = ("goes-on", "ends", "plain", "bridged")
    async with httpx2.AsyncClient(timeout=60.0) as http:
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
    house.cut()
    async with httpx2.AsyncClient(timeout=60.0) as http:
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
    house.cut()
    async with httpx2.AsyncClient(timeout=60.0) as http:
        for name in names:  # none comes back
            assert (await wire.Caller(http, house.at(name)).legacy(sessions[name], "ping")).status_code == 404
