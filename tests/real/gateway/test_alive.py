"""Streams with nothing to say for a while: they say that they live, and end with the right to them.

On a platform of its own, whose heartbeats come often: with each of them the right to a stream is looked at again.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Generator
from typing import Any, Final

import httpx2
import pytest

from support import gates, oldwire, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_USE: Final = ["mcp:connect", "mcp:list", "mcp:read", "mcp:call"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """The platform, running."""
    with gates.running(tmp_path_factory, "alive", gates.BRISK) as made:
        yield made


@pytest.fixture(scope="module")
def both(gate: Gate) -> Endpoint:
    """Acme's server of both eras, with a tool that only reads."""
    manifest = f'[env]\nLOOK = "1"\n{gates.ALONE}'
    return Endpoint(gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "cut", gate.admin, manifest), gate.acme.key)


@pytest.mark.requirement("gateway:streams:heartbeat")
async def test_a_silent_stream_is_kept_alive_by_comments(acme: wire.Caller) -> None:
    session = await acme.open()
    for era in ("modern", "legacy"):
        lines: list[str] = []
        for seconds in (1.5, 6, 20):  # a machine that stands still for all of that time hears no silence
            asked = "tools/call", wire.call("sleep", seconds=seconds)
            request = wire.modern(*asked) if era == "modern" else wire.legacy(session, *asked)
            async with acme.streaming(*request) as stream:
                lines = await stream.end()
            if ": keep-alive" in lines:
                break
        assert ": keep-alive" in lines
        assert "awake" in lines[-2] + lines[-3]
    async with acme.streaming(*wire.modern("tools/call", wire.call("never"))) as stream:
        assert [await stream.line() for _ in range(4)] == [": keep-alive"] * 4
    async with acme.listening(session) as stream:
        assert await stream.event() != ("", {})
        assert [await stream.line() for _ in range(4)] == [": keep-alive"] * 4


@pytest.mark.requirement("gateway:streams:cancel")
async def test_a_modern_client_that_hangs_up_cancels_its_call_and_no_other(gate: Gate, caller: Make) -> None:
    # Its own server, so that what it has heard is this test's.
    one, two = caller(gate.second), caller(gate.second)
    await one.act("echo")
    before = len(await one.act("heard"))
    async with two.streaming(*wire.modern("tools/call", wire.call("never", token="t"), 1)) as other:
        assert (await other.message())["method"] == "notifications/progress"
        async with one.streaming(*wire.modern("tools/call", wire.call("never", token="t"), 1)) as stream:
            assert (await stream.message())["method"] == "notifications/progress"
        heard: list[dict[str, str]] = []
        for _ in range(1000):
            heard = await one.act("heard")
            if len(heard) > before:
                break
            await asyncio.sleep(0.05)  # a closed connection is told to nobody
        assert [note["method"] for note in heard[before:]] == ["notifications/cancelled"]
        assert await other.line() == ": keep-alive"


@pytest.mark.requirement("gateway:access:ends")
async def test_a_revoked_key_is_refused_from_the_next_request_on_and_its_streams_end(gate: Gate, caller: Make) -> None:
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "short"}, key=gate.admin)
    one = caller(gate.acme._replace(key=made["secret"]))
    session = await one.open()
    async with one.listening(session) as stream:
        await stream.line()
        gate.platform.api("DELETE", f"/tenants/acme/keys/{made['key']['id']}", key=gate.admin)
        assert (await one.legacy(session, "ping")).status_code == 401
        assert (await one.modern("tools/list")).status_code == 401
        await stream.end()


@pytest.mark.requirement("oauth:roles:streams-end")
async def test_an_open_stream_ends_with_the_role_that_allowed_it(gate: Gate, caller: Make, both: Endpoint) -> None:
    """Attack: who expects to lose a role opens a stream before, and has what comes for as long as it is open."""
    gates.role(gate, "leaving", _USE)
    mine = caller(both._replace(key=gates.key(gate, "leaving")))
    session = await mine.open()
    listen = wire.modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "mine")
    async with mine.listening(session) as quiet, mine.streaming(*listen) as told:
        await quiet.line()
        await told.message()
        # What these streams are for is still allowed: reading goes first, then everything.
        gates.role(gate, "leaving", ["mcp:connect", "mcp:list"])
        refused = [json.loads(line[6:]) for line in await told.end() if line.startswith("data: {")][-1]
        assert (refused["id"], refused["error"]["code"]) == ("mine", -32000)
        assert (await mine.legacy(session, "tools/list")).status_code == 200
        gate.platform.api("DELETE", "/tenants/acme/roles/leaving", key=gate.admin)
        await quiet.end()
    # The session went with it: the role, back again, does not bring it back.
    gates.role(gate, "leaving", _USE)
    assert (await mine.legacy(session, "tools/list")).status_code == 404


async def _during(gate: Gate, one: wire.Caller, tool: str, act: str, **role: Any) -> wire.Json:
    """The last message of a call of `tool` during which the role `shrinking` changes."""
    params = {"name": tool, "arguments": {"act": act, "count": 10}, "_meta": {"progressToken": 1}}
    async with one.streaming(*wire.modern("tools/call", params)) as stream:
        assert (await stream.message())["method"] == "notifications/progress"
        gates.role(gate, "shrinking", _USE, **role)
        return [json.loads(line[6:]) for line in await stream.end() if line.startswith("data: {")][-1]


@pytest.mark.requirement("oauth:roles:streams-end")
async def test_a_call_under_way_ends_with_its_tool_and_with_no_other(gate: Gate, caller: Make, both: Endpoint) -> None:
    """Attack: a call that was begun in time brings what its caller may not have any more."""
    gates.role(gate, "shrinking", _USE, tools=["do", "look"])
    mine = caller(both._replace(key=gates.key(gate, "shrinking")))
    assert wire.said(await _during(gate, mine, "look", "ticks", tools=["look"])) == "done"
    gates.role(gate, "shrinking", _USE)
    last = await _during(gate, mine, "do", "never", tools=["look"])
    assert (last["error"]["code"], last["error"]["message"]) == (-32602, "Unknown tool: do")


@pytest.mark.requirement("gateway:old-sse:life")
async def test_streams_are_bounded_in_number_and_a_silent_one_is_kept_alive(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(oldwire.streaming(http, gate.old))
        await first.begin()
        assert (await first.stream.line()).startswith(":")
        others = [await stack.enter_async_context(oldwire.streaming(http, gate.old)) for _ in range(6)]
        for one in others:
            await one.begin()
        await first.stream.end()
        assert (await first.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code == 404


@pytest.mark.requirement("gateway:old-sse:life")
async def test_a_revoked_key_ends_the_stream(gate: Gate, http: httpx2.AsyncClient) -> None:
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "soon"}, key=gate.admin)
    async with oldwire.streaming(http, gate.old._replace(key=made["secret"])) as old:
        await old.open()
        gate.platform.api("DELETE", f"/tenants/acme/keys/{made['key']['id']}", key=gate.admin)
        await old.stream.end()


@pytest.mark.requirement("gateway:malformed:connections")
async def test_what_comes_behind_a_request_does_not_cut_its_answer(gate: Gate, acme: wire.Caller) -> None:
    session = await acme.open()
    host, port = wire.address(gate.platform.base_url)
    fields = [("host", f"{host}:{port}"), *acme.bearer.items(), ("accept", "text/event-stream")]
    request = wire.request("GET", "/t/acme/tool/mcp", [*fields, ("mcp-session-id", session)])
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request.replace(b"\r\nconnection: close", b"", 1) + b"\x00 no HTTP\r\n\r\n")
        async with asyncio.timeout(120):
            # As many as are more than five seconds, the time that a refused connection has left.
            for _ in range(25):
                await reader.readuntil(b": keep-alive\n\n")
            await acme.end(session)
            # And nothing behind the answer.
            assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
    finally:
        writer.close()


@pytest.mark.requirement("quirk:04:silence")
async def test_every_kind_of_stream_that_has_nothing_to_say_sends_comments(acme: wire.Caller) -> None:
    session = await acme.open()
    listen = {"notifications": {"toolsListChanged": True}}
    silent = (
        acme.listening(session),
        acme.streaming(*wire.legacy(session, "tools/call", wire.call("never"))),
        acme.streaming(*wire.modern("tools/call", wire.call("never"))),
        acme.streaming(*wire.modern("subscriptions/listen", listen)),
    )
    for opening in silent:
        async with opening as stream:
            comments = 0
            while comments < 3:
                comments += (await stream.line()).startswith(":")


@pytest.mark.requirement("quirk:14:long")
async def test_a_call_longer_than_a_clients_patience_is_kept_alive_by_progress_and_between_by_comments(
    acme: wire.Caller,
) -> None:
    async with acme.streaming(*wire.modern("tools/call", wire.call("never", token="t"), 1)) as stream:
        assert (await stream.message())["params"]["progressToken"] == "t"
        async with asyncio.timeout(120):
            assert [(await stream.line())[:1] for _ in range(5)] == [":"] * 5
