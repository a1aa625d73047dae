"""Quirks 1 and 3: to a client a 404 is the end, and a session must not be one process's own memory."""

import pathlib
from collections.abc import Generator
from typing import Final

import httpx2
import pytest

from support import gates, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SOURCE: Final = f"pypi:{wire.SCRIPTED}"
_SERVERS: Final = {"own": "", "bridged": 'era = "modern"\n[env]\nERAS = "modern"\n'}


class House:
    """A platform that is deployed to and killed, and a client that knows nothing of it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")
        self.key = platform.create_key("acme")
        for name in _SERVERS:
            self.deploy(name)

    def deploy(self, name: str) -> None:
        """One more version of a server."""
        self.platform.deploy("acme", _SOURCE, name, self.admin, _SERVERS[name])

    def client(self, http: httpx2.AsyncClient, name: str) -> wire.Caller:
        """The client; the address is another one after each start, as behind a balancer."""
        return wire.Caller(http, Endpoint(f"{self.platform.base_url}/t/acme/{name}/mcp", self.key))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    """The platform, running."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    settings = {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}
    with Platform(tmp_path_factory.mktemp("house"), settings) as platform:
        yield House(platform)


@pytest.mark.requirement("quirk:01:deploys")
@pytest.mark.parametrize("name", list(_SERVERS))
async def test_a_client_that_takes_404_for_the_end_works_on_through_deployments(house: House, name: str) -> None:
    async with httpx2.AsyncClient(timeout=120.0) as http:
        one = house.client(http, name)
        session = await one.open()
        for number in range(3):
            house.deploy(name)
            assert (await one.act("echo", session, text=str(number)))["text"] == str(number)
            assert (await one.legacy(session, "tools/list")).status_code == 200
        assert await one.end(session) == 204


@pytest.mark.requirement("quirk:03:processes")
@pytest.mark.parametrize("name", list(_SERVERS))
async def test_a_session_that_one_process_opened_is_another_ones_too(house: House, name: str) -> None:
    async with httpx2.AsyncClient(timeout=120.0) as http:
        session = await house.client(http, name).open()
    for number in range(2):
        house.platform.kill()
        house.platform.start()
        async with httpx2.AsyncClient(timeout=120.0) as http:
            one = house.client(http, name)
            # Whatever comes first: a call, or the stream that a client opens anew.
            if number == 0:
                assert (await one.act("echo", session, text="on"))["text"] == "on"
            else:
                async with one.listening(session) as stream:
                    assert (stream.status, stream.type.partition(";")[0]) == (200, "text/event-stream")
                assert (await one.act("echo", session, text="still"))["text"] == "still"
    async with httpx2.AsyncClient(timeout=120.0) as http:
        assert await house.client(http, name).end(session) == 204
    house.platform.kill()
    house.platform.start()
    async with httpx2.AsyncClient(timeout=120.0) as http:
        # What was ended is over for every process.
        assert (await house.client(http, name).legacy(session, "tools/list")).status_code == 404


@pytest.mark.requirement("quirk:01:stale-initialize")
@pytest.mark.parametrize("stale", ["ended", "invented", "foreign-form"])
async def test_a_client_that_shakes_hands_under_a_dead_session_gets_a_new_one(house: House, stale: str) -> None:
    async with httpx2.AsyncClient(timeout=120.0) as http:
        one = house.client(http, "own")
        old = await one.open()
        assert await one.end(old) == 204
        shown = {"ended": old, "invented": "A" * len(old), "foreign-form": "7e4e6f0e-1111-4222-8333-abcdefabcdef"}[
            stale
        ]
        answer = await one.legacy(None, "initialize", wire.hello(), mcp_session_id=shown)
        new = answer.headers["mcp-session-id"]
        assert (answer.status_code, new == shown) == (200, False)
        assert (await one.act("echo", new, text="new"))["text"] == "new"
        # The dead one stays dead, and says so in the one way that clients know.
        assert (await one.legacy(shown, "tools/list")).status_code == 404
        assert await one.end(new) == 204
