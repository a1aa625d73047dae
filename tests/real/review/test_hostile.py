"""Hosted servers that mean harm, and people who lose their rights while something of theirs runs."""

import asyncio
import pathlib
from collections.abc import Generator

import httpx2
import pytest

from support import rude
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

_ODD = '[env]\nRUDE_VERSION = "Some Version, Ltd"\n'


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """A platform that knows the rude server, with short patience."""
    wheels: pathlib.Path = tmp_path_factory.mktemp("wheels")
    rude.wheel(wheels)
    settings = {"SMCP_DEPLOY_WHEEL_DIRS": str(wheels), "SMCP_GATEWAY_HEARTBEAT_S": "0.5"}
    with Platform(tmp_path_factory.mktemp("rude"), settings) as running:
        running.create_tenant("acme")
        yield running


@pytest.mark.requirement("review:session:version")
async def test_a_server_that_answers_initialize_oddly_opens_a_session_all_the_same(platform: Platform) -> None:
    admin = platform.create_key("acme", "admin")
    url = platform.deploy("acme", f"pypi:{rude.NAME}", "odd", admin, _ODD)
    async with rude.client(platform.create_key("acme")) as http:
        session = await rude.opened(http, url)
        answer = await http.post(url, **rude.legacy("tools/call", session, name="ok"))
        assert answer.status_code == 200, answer.text
        assert "result" in answer.json()


async def _listening(http: httpx2.AsyncClient, url: str, heard: asyncio.Event, wire: str) -> str:
    """Listen to a server that chatters until the stream ends; all that came."""
    if wire == "modern":
        request = http.stream("POST", url, **rude.modern("subscriptions/listen", notifications={}))
    else:
        session = await rude.opened(http, url)
        await http.post(url, **rude.legacy("tools/call", session, name="chatter"))
        headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream"}
        request = http.stream("GET", url, headers=headers)
    text = ""
    async with request as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            text += line
            if "list_changed" in line:
                heard.set()
    return text


@pytest.mark.requirement("review:tenant:suspended")
@pytest.mark.parametrize("wire", ["modern", "legacy"])
async def test_suspending_a_tenant_ends_its_processes_and_open_streams(platform: Platform, wire: str) -> None:
    tenant = f"suspended-{wire}"
    platform.create_tenant(tenant)
    admin, user = platform.create_key(tenant, "admin"), platform.create_key(tenant)
    url = platform.deploy(tenant, f"pypi:{rude.NAME}", "rude", admin)
    heard = asyncio.Event()
    async with rude.client(user) as http:
        listening = asyncio.create_task(_listening(http, url, heard, wire))
        await asyncio.wait_for(heard.wait(), 120)
        await asyncio.to_thread(platform.api, "POST", f"/tenants/{tenant}/suspend")
        await asyncio.wait_for(listening, 120)
    platform.api("POST", f"/tenants/{tenant}/resume")
    assert platform.api("GET", f"/tenants/{tenant}/servers/rude", key=admin)["instances"] == 0


@pytest.mark.requirement("review:logs:deleted")
async def test_a_server_of_a_deleted_ones_name_begins_with_an_empty_log(platform: Platform) -> None:
    admin = platform.create_key("acme", "admin")
    url = platform.deploy("acme", f"pypi:{rude.NAME}", "again", admin)
    async with rude.client(platform.create_key("acme")) as http:
        assert (await http.post(url, **rude.modern("tools/call", name="write"))).status_code == 200
    logs = "/tenants/acme/servers/again/logs"
    platform.api("POST", "/tenants/acme/servers/again/stop", key=admin)
    assert "a line of the old one" in [line["text"] for line in platform.api("GET", logs, key=admin)["items"]]
    platform.api("DELETE", "/tenants/acme/servers/again", key=admin)
    platform.deploy("acme", f"pypi:{rude.NAME}", "again", admin)
    [line] = platform.api("GET", logs, key=admin)["items"]
    assert line["position"] == 1
    assert line["text"].startswith("[smcp] deployed ")
