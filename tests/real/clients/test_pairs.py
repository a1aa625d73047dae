"""Clients of one era at servers of the other: what they see is what a server of their own era would show them.

The servers are unmodified packages and the fixture's builds of one era; between them and the clients stands only SMCP.
"""

import asyncio
import json
from typing import Any, Final

import mcp_types as types
import pytest
from mcp.server.subscriptions import ResourceUpdated

from support import clients
from support.clients import Endpoint, Person
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_MODERN: Final = "2026-07-28"
_REFERENCE: Final = "npm:@modelcontextprotocol/server-everything@2026.8.31"
_WATCHED: Final = "demo://resource/static/document/features.md"
_LATE_S: Final = 120.0


@pytest.fixture(scope="module")
def reference(platform: Platform) -> Endpoint:
    """The reference server for npm, made with the TypeScript SDK of 1.x: it knows the handshake only."""
    return platform.host("pairs-npm", (_REFERENCE, "everything"))["everything"]


@pytest.fixture(scope="module")
def modern_time(platform: Platform) -> Endpoint:
    """PyPI's mcp-server-time, of which SMCP uses the newer era only."""
    platform.create_tenant("pairs-pypi")
    admin, caller = platform.create_key("pairs-pypi", "admin"), platform.create_key("pairs-pypi")
    url = platform.deploy("pairs-pypi", "pypi:mcp-server-time", "time", admin, 'era = "modern"\n')
    [live] = platform.api("GET", "/tenants/pairs-pypi/servers/time/deployments", key=admin)["items"]
    assert live["legacy_versions"] == []
    return Endpoint(url, caller)


@pytest.mark.requirement("mcp:pairs:modern-client")
async def test_a_modern_client_answers_what_a_legacy_server_asks(reference: Endpoint) -> None:
    who = Person()
    async with clients.connected(reference, _MODERN, who) as client:
        sampled = await client.call_tool("trigger-sampling-request", {"prompt": "Capital of France?", "maxTokens": 50})
        asked = await client.call_tool("trigger-elicitation-request", {})
        rooted = await client.call_tool("get-roots-list", {})
    assert who.kinds == ["sampling", "form", "roots"]
    assert '"text": "Paris"' in clients.texts(sampled)[0]
    assert "- Name: Ada\n" in clients.texts(asked)[1]
    assert "URI: file:///project" in clients.texts(rooted)[0]


@pytest.mark.requirement("mcp:pairs:modern-client")
async def test_a_modern_client_hears_what_a_legacy_server_logs_while_it_calls(reference: Endpoint) -> None:
    who = Person()
    meta: Any = {types.LOG_LEVEL_META_KEY: "debug"}
    async with clients.connected(reference, _MODERN, who) as client, asyncio.timeout(_LATE_S):
        await client.call_tool("toggle-simulated-logging", {}, meta=meta)
        # It logs now and every five seconds; in the newer era a message belongs to a request that asks for it.
        while not who.logged:
            await client.call_tool("trigger-long-running-operation", {"duration": 1, "steps": 1}, meta=meta)
        heard = len(who.logged)
        await client.call_tool("toggle-simulated-logging", {})
    assert all("message" in text for text in who.logged)
    assert len(who.logged) == heard


@pytest.mark.requirement("mcp:pairs:modern-client")
async def test_a_modern_client_hears_of_a_resource_of_a_legacy_server(reference: Endpoint) -> None:
    async with (
        clients.connected(reference, _MODERN) as client,
        client.listen(resource_subscriptions=[_WATCHED]) as stream,
        asyncio.timeout(_LATE_S),
    ):
        await client.call_tool("toggle-subscriber-updates", {})
        assert [await anext(stream), await anext(stream)] == [ResourceUpdated(uri=_WATCHED)] * 2
        await client.call_tool("toggle-subscriber-updates", {})


@pytest.mark.requirement("mcp:pairs:modern-client")
def test_the_modern_typescript_client_uses_a_legacy_server(reference: Endpoint) -> None:
    seen = clients.typescript(reference, _MODERN, "trigger-sampling-request", {"prompt": "Capital of France?"})
    assert seen.version == _MODERN
    assert {"echo", "get-sum", "trigger-sampling-request", "get-roots-list"} <= set(seen.tools)
    assert '"text": "Paris"' in seen.texts[0]


@pytest.mark.requirement("mcp:pairs:legacy-client")
def test_the_python_sdk_1_uses_a_modern_server(modern_time: Endpoint) -> None:
    seen = clients.python_classic(modern_time, "get_current_time", {"timezone": "Europe/Berlin"})
    assert (seen.version, set(seen.tools), seen.is_error) == (
        "2025-11-25",
        {"get_current_time", "convert_time"},
        False,
    )
    assert json.loads(seen.texts[0])["timezone"] == "Europe/Berlin"


@pytest.mark.requirement("mcp:pairs:legacy-client")
def test_the_typescript_sdk_1_uses_a_modern_server(modern_time: Endpoint) -> None:
    seen = clients.typescript_classic(modern_time, "get_current_time", {"timezone": "Europe/Berlin"})
    assert (seen.version, seen.is_error) == ("2025-11-25", False)
    assert json.loads(seen.texts[0])["timezone"] == "Europe/Berlin"
