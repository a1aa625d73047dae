"""Streams whose platform is killed in the middle: kept, repeated where that is safe, ended clearly where it is not."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Final

import httpx2
import pytest
from mcp import MCPError

from support import clients, gates, relay, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_LOOK = '[env]\nLOOK = "1"\n'
_MODERN = '[env]\nLOOK = "1"\nERAS = "modern"\n'

Event = tuple[str, wire.Json]


class House:
    """A platform that can be killed and started again, with servers of one tenant."""

    def __init__(self, platform: Platform, front: socket.socket) -> None:
        """`front` listens where a load balancer of the platform would."""
        self.platform = platform
        self._front = front
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")
        self.key = platform.create_key("acme")
        for name, manifest in (("tool", _LOOK), ("bridged", _MODERN), ("polled", f"poll_s = 0.5\n{_LOOK}")):
            platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, self.admin, manifest)

    def cut(self) -> None:
        """A power cut, and a new start with the same data."""
        # The platform's own process first: else it may see its hosted servers end, and say so.
        # What it starts has its command line for a moment, between vfork(2) and execve(2).
        found = [one for one in self.platform.family() if "smcp.app.node" in one.command]
        node = min(found, key=lambda one: one.started)
        os.kill(node.pid, signal.SIGKILL)
        self.platform.kill()
        self.platform.start()

    @contextlib.asynccontextmanager
    async def balanced(self) -> AsyncGenerator[tuple[Endpoint, asyncio.Event]]:
        """A server at an address that stays, and whether connections are passed on now or have to wait."""
        up = asyncio.Event()
        up.set()
        async with relay.relayed(self._front, lambda: wire.address(self.platform.base_url), up):
            address = "{}:{}".format(*self._front.getsockname())
            yield Endpoint(f"http://{address}/t/acme/tool/mcp", self.key), up

    @contextlib.asynccontextmanager
    async def caller(self, name: str = "tool", key: str = "") -> AsyncGenerator[wire.Caller]:
        """A caller at a server; the address changes with each start."""
        async with httpx2.AsyncClient(timeout=120.0) as http:
            yield wire.Caller(http, self.at(name, key))

    def at(self, name: str = "tool", key: str = "") -> Endpoint:
        return Endpoint(f"{self.platform.base_url}/t/acme/{name}/mcp", key or self.key)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    """The platform, running."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    settings = {**gates.SETTINGS, **gates.BRISK, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}
    with socket.create_server(("127.0.0.1", 0)) as front:
        settings["SMCP_GATEWAY_HOSTS"] = "{}:{}".format(*front.getsockname())
        with Platform(tmp_path_factory.mktemp("house"), settings) as platform:
            yield House(platform, front)


async def rest(stream: wire.Stream) -> list[Event]:
    """The events with a message up to the end of a stream."""
    found: list[Event] = []
    try:
        while True:
            event = await stream.event()
            if event[1]:
                found.append(event)
    except StopAsyncIteration:
        return found


async def fetched(house: House, session: str, after: str, name: str = "tool") -> list[Event]:
    """The rest of a stream, from a new connection."""
    async with house.caller(name) as one, one.listening(session, after) as stream:
        return await rest(stream)


def ticks(tool: str, count: int) -> wire.Json:
    """The params of a call that says `count` things, slowly."""
    return {**wire.call("ticks", token="t", count=count, pause=0.1), "name": tool}


async def begun(house: House, session: str, params: wire.Json, name: str = "tool", count: int = 3) -> list[Event]:
    """The first events of a call with the id 5, whose connection then breaks."""
    async with (
        house.caller(name) as one,
        one.streaming(*wire.legacy(session, "tools/call", params, 5)) as stream,
    ):
        events: list[Event] = []
        while len(events) < count:
            event = await stream.event()
            if event[1]:
                events.append(event)
        return events


def numbers(events: list[Event]) -> list[int]:
    """The progress that `events` tell of."""
    return [event["params"]["progress"] for _, event in events if event.get("method") == "notifications/progress"]


async def _on_disk(one: wire.Caller, session: str) -> None:
    """Return when all that a session's server has said so far is on record: events are written in their order, a
    moment after they came, and go out once they are written."""
    answer = await one.legacy(session, "tools/call", wire.call("steps", token="last", count=1))
    assert wire.said(wire.messages(answer)[-1]) == "done"
    assert answer.headers["content-type"].startswith("text/event-stream")


async def opened(house: House, name: str = "tool") -> str:
    """A session."""
    async with house.caller(name) as one:
        return await one.open()


@pytest.mark.requirement("gateway:resume:restart")
async def test_what_may_have_been_done_is_not_done_again_and_its_client_is_told(house: House) -> None:
    session = await opened(house)
    seen = await begun(house, session, ticks("do", 10_000))
    house.cut()
    events = await fetched(house, session, seen[-1][0])
    told = numbers(seen) + numbers(events)
    assert told == list(range(len(told)))  # nothing twice, and nothing left out
    error = events[-1][1]
    assert (error["id"], error["error"]["code"], error["error"]["data"]) == (5, -32000, {"mayHaveRun": True})
    assert "may have been carried out" in error["error"]["message"]
    assert await fetched(house, session, seen[-1][0]) == events  # as often as one asks
    async with house.caller() as one:
        assert (await one.act("echo", session, text="fine"))["text"] == "fine"


@pytest.mark.requirement("gateway:resume:restart")
@pytest.mark.parametrize("name", ["tool", "bridged"])
async def test_what_only_reads_is_asked_again_on_the_same_stream(house: House, name: str) -> None:
    session = await opened(house, name)
    seen = await begun(house, session, ticks("look", 30), name)
    house.cut()
    first, second = await asyncio.gather(*(fetched(house, session, seen[-1][0], name) for _ in range(2)))
    events = max(first, second, key=len)  # each connection gets the stream from the one before
    told = numbers(seen) + numbers(events)
    before = told[:-30]
    assert before == list(range(len(before)))
    assert told[-30:] == list(range(30))
    assert (events[-1][1]["id"], wire.said(events[-1][1])) == (5, "done")
    assert [event for _, event in await fetched(house, session, events[-2][0], name)] == [events[-1][1]]


@pytest.mark.requirement("gateway:resume:restart")
async def test_an_answer_that_nobody_fetched_outlives_the_platform(house: House) -> None:
    session = await opened(house)
    seen = await begun(house, session, ticks("do", 5), count=2)
    async with house.caller() as one:
        await _on_disk(one, session)  # behind the other call: the server does one after the other
    house.cut()
    events = await fetched(house, session, seen[-1][0])
    assert numbers(events) == [2, 3, 4]
    assert wire.said(events[-1][1]) == "done"


@pytest.mark.requirement("gateway:resume:restart")
async def test_the_listening_stream_goes_on_after_a_restart(house: House) -> None:
    session = await opened(house)
    async with house.caller() as one:
        async with one.listening(session) as stream:
            await stream.event()
            await one.act("notice", session, n=0)
            zero = await stream.event()
        await one.act("notice", session, n=1)
        await one.act("notice", session, n=2)
        await _on_disk(one, session)
    house.cut()
    async with house.caller() as one, one.listening(session, zero[0]) as stream:
        assert [(await stream.message())["params"]["n"] for _ in range(2)] == [1, 2]
        await one.act("notice", session, n=3)
        assert (await stream.message())["params"] == {"n": 3}


_PIECES: Final = 60
"""Tenths of a second that a call takes whose stream is polled: far more than each connection has."""


@pytest.mark.requirement("gateway:resume:polled")
async def test_a_stream_that_is_polled_brings_everything_in_pieces(house: House) -> None:
    session = await opened(house, "polled")
    async with (
        house.caller("polled") as one,
        one.streaming(*wire.legacy(session, "tools/call", ticks("do", _PIECES), 5)) as stream,
    ):
        lines = await stream.end()
    assert lines[-2:] == ["retry: 2000", ""]
    after = [line[4:] for line in lines if line.startswith("id: ")][-1]
    told = [line for line in lines if line.startswith("data: {")]
    connections = 1
    while "result" not in told[-1]:
        async with house.caller("polled") as one, one.listening(session, after) as stream:
            lines = await stream.end()
        after = [line[4:] for line in lines if line.startswith("id: ")][-1]
        told += [line for line in lines if line.startswith("data: {")]
        connections += 1
    assert len(told) == _PIECES + 1
    assert connections >= 3


@pytest.mark.requirement("gateway:resume:polled")
async def test_a_real_client_polls(house: House) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with clients.connected(house.at("polled"), "legacy") as client:
        arguments = {"act": "ticks", "count": 12, "pause": 0.1}
        result = await client.call_tool("do", arguments, progress_callback=on_progress)
    assert [part.text for part in result.content if part.type == "text"] == ['"done"']
    assert steps == list(range(12))
    # The other SDK asks for no progress: its stream begins with the first heartbeat.
    seen = await asyncio.to_thread(clients.typescript_classic, house.at("polled"), "do", {**arguments, "pause": 0.2})
    assert seen.texts == ('"done"',)


@pytest.mark.requirement("gateway:resume:restart")
@pytest.mark.parametrize("tool", ["look", "do"])
async def test_a_real_client_gets_its_answer_across_a_power_cut(house: House, tool: str) -> None:
    steps: list[float] = []
    running = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)
        running.set()

    async def cut(up: asyncio.Event) -> None:
        await running.wait()
        up.clear()  # a client that can't connect gives up after its second try
        await asyncio.to_thread(house.cut)
        up.set()

    async with (
        house.balanced() as (endpoint, up),
        clients.connected(endpoint, "legacy") as client,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(cut(up))
        arguments = {"act": "ticks", "count": 20 if tool == "look" else 10_000, "pause": 0.1}
        if tool == "look":
            result = await client.call_tool(tool, arguments, progress_callback=on_progress)
            assert [part.text for part in result.content if part.type == "text"] == ['"done"']
            assert steps[-20:] == list(range(20))
        else:
            with pytest.raises(MCPError, match="may have been carried out"):
                await client.call_tool(tool, arguments, progress_callback=on_progress)
        # The same session, which has outlived both.
        again = await client.call_tool("do", {"act": "echo", "text": "fine"})
        assert '"fine"' in str(again.content)


@pytest.mark.requirement("gateway:resume:slow")
async def test_a_slow_reader_is_behind_and_no_more(house: House) -> None:
    session = await opened(house)
    host, port = wire.address(house.platform.base_url)
    pid = wire.vitals(house.platform).pid
    held = _memory(pid)
    params = {**wire.call("steps", token="t", count=1000, size=50_000), "name": "do"}
    fields, body = wire.legacy(session, "tools/call", params, 5)
    bearer = {"authorization": f"Bearer {house.key}", "host": f"{host}:{port}", "content-length": str(len(body))}
    reader, writer = await asyncio.open_connection(host, port, limit=4096)
    writer.write(wire.request("POST", "/t/acme/tool/mcp", [*{**bearer, **fields}.items()], body))
    await writer.drain()
    async with house.caller() as one:
        waiting = asyncio.create_task(one.act("echo", session, text="fine"))  # behind the other call
        most = 0
        while not waiting.done():
            await one.modern("tools/list")
            most = max(most, _memory(pid) - held)
        assert (await waiting)["text"] == "fine"  # 50 MB were said, and nobody read them
    data = b""
    while chunk := await reader.read(1 << 20):
        data += chunk
    writer.close()
    assert most < 64 << 20
    assert len(data) < 16 << 20
    # Told on the stream, and to who comes back for it: the oldest of it is gone.
    last = json.loads(data[data.rindex(b"data: {") + 6 :].split(b"\n")[0])
    assert (last["id"], last["error"]["code"]) == (5, -32000)
    ids = [line[4:].decode() for line in data.split(b"\n") if line.startswith(b"id: ")]
    [(_, error)] = await fetched(house, session, ids[0])
    assert error == last


def _memory(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * 4096


@pytest.mark.requirement("gateway:resume:large")
async def test_a_large_answer_waits_for_its_client_once(house: House) -> None:
    session = await opened(house)
    params = {**wire.call("late", token="t", bytes=600_000), "name": "do"}
    seen = await begun(house, session, params, count=1)
    [(id_, answer)] = await fetched(house, session, seen[0][0])
    assert (answer["id"], len(wire.said(answer))) == (5, 600_000)
    [(_, again)] = await fetched(house, session, seen[0][0])
    assert "carried out" in again["error"]["message"]
    assert await fetched(house, session, id_) == []


@pytest.mark.requirement("gateway:resume:revoked")
async def test_a_resumed_stream_ends_with_its_credential(house: House) -> None:
    made = house.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "x"}, key=house.admin)
    async with house.caller(key=made["secret"]) as one:
        session = await one.open()
        async with one.streaming(*wire.legacy(session, "tools/call", ticks("do", 10_000), 5)) as stream:
            first = await stream.event()
        async with one.listening(session, first[0]) as stream:
            await stream.message()
            house.platform.api("DELETE", f"/tenants/acme/keys/{made['key']['id']}", key=house.admin)
            await asyncio.wait_for(rest(stream), 120)
        answer = await one.http.get(one.url, headers={**one.bearer, "mcp-session-id": session})
        assert answer.status_code == 401


@pytest.mark.requirement("gateway:asking:restarted")
@pytest.mark.parametrize("tool", ["look", "do"])
async def test_a_call_whose_question_was_open_is_asked_again_or_ends_clearly(house: House, tool: str) -> None:
    session = await opened(house, "bridged")
    params = {**wire.call("input", wants={"inputRequests": {"r": {"method": "roots/list"}}}), "name": tool}
    async with house.caller("bridged") as one, one.streaming(*wire.legacy(session, "tools/call", params, 5)) as stream:
        await stream.event()
        place, question = await stream.event()
    house.cut()

    async def respond(one: wire.Caller, id_: str, uri: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": id_, "result": {"roots": [{"uri": uri}]}}).encode()
        assert (await one.send(wire.legacy(session, "x")[0], body)).status_code == 202

    async with house.caller("bridged") as one, one.listening(session, place) as stream:
        if tool == "do":
            ended = await stream.message()
            assert (ended["id"], ended["error"]["data"]) == (5, {"mayHaveRun": True})
            return
        again = await stream.message()
        assert again["method"] == "roots/list"
        assert again["id"] != question["id"]
        await respond(one, question["id"], "file:///old")  # nobody waits for it any more
        await respond(one, again["id"], "file:///new")
        ended = await stream.message()
        assert wire.said(ended)["inputResponses"] == {"r": {"roots": [{"uri": "file:///new"}]}}
