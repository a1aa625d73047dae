"""Change notices of a modern server for legacy sessions: one call listens for all who share the server's copies."""

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import pytest

from support import gates, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_OFFERS = json.dumps(
    {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}, "prompts": {}}
)
_TELLS = f"[env]\nERAS = 'modern'\nOFFERS = '{_OFFERS}'\n"
_TOOLS = "notifications/tools/list_changed"
_RESOURCES = "notifications/resources/list_changed"
_UPDATED = "notifications/resources/updated"


class House:
    """A platform that stops idle copies soon, and can be started again, with a tenant of its own."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")
        self.key, self.other = platform.create_key("acme"), platform.create_key("acme")

    def deploy(self, name: str, manifest: str = _TELLS) -> None:
        self.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, self.admin, manifest)

    @contextlib.asynccontextmanager
    async def caller(self, name: str, key: str = "") -> AsyncGenerator[wire.Caller]:
        """A caller at a server; the address changes with each start."""
        async with httpx2.AsyncClient(timeout=120.0) as http:
            yield wire.Caller(http, Endpoint(f"{self.platform.base_url}/t/acme/{name}/mcp", key or self.key))

    def copies(self, name: str) -> int:
        return self.platform.api("GET", f"/tenants/acme/servers/{name}", key=self.admin)["instances"]

    async def asleep(self, name: str) -> None:
        """Return when no copy of a server runs."""
        for _ in range(600):
            if not self.copies(name):
                return
            await asyncio.sleep(0.2)  # nobody outside is told of a copy's end
        raise AssertionError(f"{name} still runs")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    # Not sooner: on a machine that stands still for a while a copy that a test is about to use would be gone.
    settings = {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf), "SMCP_RUNTIME_IDLE_STOP_S": "6"}
    with Platform(tmp_path_factory.mktemp("house"), settings) as platform:
        yield House(platform)


async def watch(client: wire.Caller, session: str, uri: str, method: str = "subscribe") -> wire.Json:
    answer = await client.legacy(session, f"resources/{method}", {"uri": uri})
    return wire.messages(answer)[-1]


async def told(stream: wire.Stream, count: int = 1) -> list[tuple[str, Any]]:
    """The next notices on a stream: what changed, and which resource."""
    found = [await stream.message() for _ in range(count)]
    assert not [one for one in found if "_meta" in one.get("params", {})], found
    return [(one["method"], one.get("params", {}).get("uri")) for one in found]


async def changed(stream: wire.Stream) -> None:
    """Everything that may have changed is told."""
    lists = {(_TOOLS, None), (_RESOURCES, None), ("notifications/prompts/list_changed", None)}
    assert set(await told(stream, 3)) == lists


async def listens(client: wire.Caller, session: str) -> list[wire.Json]:
    """What the server was asked to tell of, call by call."""
    asked = await client.act("asked", session)
    return [one["params"]["notifications"] for one in asked if one["method"] == "subscriptions/listen"]


@pytest.mark.requirement("gateway:feeds:offered")
async def test_a_session_is_promised_what_it_gets(house: House) -> None:
    house.deploy("promised")
    house.deploy("alone", f'share = "session"\n{_TELLS}')
    for name, tools, resources in (
        ("promised", {"listChanged": True}, {"subscribe": True, "listChanged": True}),
        ("alone", {}, {}),
    ):
        async with house.caller(name) as client:
            answer = await client.legacy(None, "initialize", wire.hello())
            offered = answer.json()["result"]["capabilities"]
            assert (offered["tools"], offered["resources"], offered["prompts"]) == (tools, resources, {})
            session = answer.headers["mcp-session-id"]
            refused = await watch(client, session, "x:1")
            assert refused.get("error", {}).get("code") == (None if resources else -32601)
            if resources:
                assert refused["result"] == {}
                assert (await watch(client, session, "x:1", "unsubscribe"))["result"] == {}


@pytest.mark.requirement("gateway:feeds:shared")
async def test_one_call_listens_for_all_sessions_and_each_hears_what_is_for_it(house: House) -> None:
    house.deploy("shared")
    async with house.caller("shared") as client, house.caller("shared", house.other) as other:
        callers = [client, client, other, other]
        sessions = [await one.open() for one in callers]
        async with contextlib.AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(one.listening(session))
                for one, session in zip(callers, sessions, strict=True)
            ]
            for number, uri in ((0, "x:1"), (2, "x:2"), (3, "x:2")):
                assert (await watch(callers[number], sessions[number], uri))["result"] == {}
            await client.act("publish", sessions[1], uri="x:1")
            await client.act("publish", sessions[1], uri="x:2/part")
            await client.act("publish", sessions[1], list="tools")
            assert await told(streams[0], 2) == [(_UPDATED, "x:1"), (_TOOLS, None)]
            assert await told(streams[1]) == [(_TOOLS, None)]
            for number in (2, 3):
                assert await told(streams[number], 2) == [(_UPDATED, "x:2/part"), (_TOOLS, None)]
            assert (await watch(other, sessions[3], "x:2", "unsubscribe"))["result"] == {}
            await client.act("publish", sessions[1], uri="x:2")
            await client.act("publish", sessions[1], list="resources")
            assert await told(streams[3]) == [(_RESOURCES, None)]
            assert await told(streams[2], 2) == [(_UPDATED, "x:2"), (_RESOURCES, None)]
            calls = await listens(client, sessions[0])
            # One for the first stream, and one for each resource that nobody had watched before.
            assert len(calls) <= 3
            assert calls[-1]["resourceSubscriptions"] == ["x:1", "x:2"]
        for one, session in zip(callers, sessions, strict=True):
            await one.end(session)


@pytest.mark.requirement("gateway:feeds:missed")
async def test_what_a_session_missed_without_a_stream_it_is_told_once(house: House) -> None:
    house.deploy("missed")
    async with house.caller("missed") as client:
        session, other = await client.open(), await client.open()
        async with client.listening(other) as there:
            async with client.listening(session):
                assert (await watch(client, session, "x:1"))["result"] == {}
                assert (await watch(client, other, "x:1"))["result"] == {}
            for _ in range(3):
                await client.act("publish", other, uri="x:1")
                await client.act("publish", other, list="tools")
            assert await told(there, 6) == [(_UPDATED, "x:1"), (_TOOLS, None)] * 3
            async with client.listening(session) as stream:
                first = sorted(await told(stream, 2), key=str)
                assert first == [(_UPDATED, "x:1"), (_TOOLS, None)]
                await client.act("publish", other, list="resources")
                assert await told(stream) == [(_RESOURCES, None)]


@pytest.mark.requirement("gateway:feeds:replaced")
async def test_when_the_copy_is_gone_another_one_is_listened_to_and_everybody_is_told(house: House) -> None:
    house.deploy("dies")
    async with house.caller("dies") as client:
        session = await client.open()
        async with client.listening(session) as stream:
            assert (await watch(client, session, "x:1"))["result"] == {}
            await client.legacy(session, "tools/call", wire.call("exit"))
            # Nobody calls it: it is started since somebody watches.
            everything = {
                (_TOOLS, None),
                (_RESOURCES, None),
                (_UPDATED, "x:1"),
                ("notifications/prompts/list_changed", None),
            }
            assert set(await told(stream, 4)) == everything
            await client.act("publish", session, uri="x:1")
            assert await told(stream) == [(_UPDATED, "x:1")]
            # So is a new deployment.
            house.deploy("dies", _TELLS + "NEW = '1'\n")
            assert set(await told(stream, 4)) == everything
            await client.act("publish", session, uri="x:1")
            assert await told(stream) == [(_UPDATED, "x:1")]


@pytest.mark.requirement("gateway:feeds:idle")
async def test_a_stream_keeps_a_copy_running_only_for_a_resource_that_is_watched(house: House) -> None:
    for name in ("lists", "watched"):
        house.deploy(name)
    async with house.caller("lists") as lists, house.caller("watched") as watched:
        session, watching = await lists.open(), await watched.open()
        async with lists.listening(session) as stream, watched.listening(watching) as other:
            assert (await watch(watched, watching, "x:1"))["result"] == {}
            born = (await watched.act("echo", watching, text="x"))["born"]
            await lists.act("publish", session, list="tools")
            assert await told(stream) == [(_TOOLS, None)]
            await house.asleep("lists")
            assert house.copies("watched") == 1
            # Whoever wakes it, everybody who listens is told that it may have changed.
            assert (await lists.act("echo", session, text="x"))["text"] == "x"
            await changed(stream)
            # A deployment that nobody runs yet is a change too.
            await house.asleep("lists")
            house.deploy("lists", _TELLS + "NEW = '1'\n")
            await changed(stream)
            assert house.copies("lists") == 0
            await watched.act("publish", watching, uri="x:1")
            assert await told(other) == [(_UPDATED, "x:1")]
            assert (await watched.act("echo", watching, text="x"))["born"] == born
        # A while after the last stream nobody listens any more.
        await house.asleep("watched")


@pytest.mark.requirement("gateway:feeds:restarted")
async def test_subscriptions_go_on_after_a_restart_of_the_platform(house: House) -> None:
    house.deploy("restarted")
    async with house.caller("restarted") as client:
        session = await client.open()
        async with client.listening(session):
            assert (await watch(client, session, "x:1"))["result"] == {}
    house.platform.stop()
    house.platform.start()
    async with house.caller("restarted") as client, client.listening(session) as stream:
        assert {(_TOOLS, None), (_RESOURCES, None), (_UPDATED, "x:1")} < set(await told(stream, 4))
        await client.act("publish", session, uri="x:1")
        assert await told(stream) == [(_UPDATED, "x:1")]


@pytest.mark.requirement("gateway:feeds:bounds")
async def test_a_session_watches_a_bounded_number_of_resources(house: House) -> None:
    house.deploy("many")
    async with house.caller("many") as client:
        session = await client.open()
        for number in range(64):
            assert (await watch(client, session, f"x:{number}"))["result"] == {}
        refused = await watch(client, session, "x:64")
        assert refused["error"]["code"] == -32602
        assert "64" in refused["error"]["message"]
        assert (await watch(client, session, "x:0", "unsubscribe"))["result"] == {}
        assert (await watch(client, session, "x:64"))["result"] == {}
        assert (await watch(client, session, "x:" + "y" * 9000))["error"]["code"] == -32602
