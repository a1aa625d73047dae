"""A copy of a server ends in the middle of a call: repeated once where that is safe, told clearly where it is not."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Final

import httpx2
import pytest

from support import clients, gates, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_COUNTER = "smcp_calls_repeated_total"
_INTERRUPTED = -32000

Make = Callable[[Endpoint], wire.Caller]


class House:
    """A platform whose servers all belong to one tenant, each to one test."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")
        self.key = platform.create_key("acme")

    @contextlib.contextmanager
    def server(self, name: str, manifest: str = "", **env: str) -> Generator["Hosted"]:
        """A server of its own, which runs for as long as the test does."""
        values = "".join(f'{key} = "{value}"\n' for key, value in {"LOOK": "1", **env}.items())
        url = self.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, self.admin, f"{manifest}[env]\n{values}")
        try:
            yield Hosted(self, name, Endpoint(url, self.key))
        finally:
            self.platform.api("POST", f"/tenants/acme/servers/{name}/stop", key=self.admin)

    def repeated(self) -> dict[str, float]:
        """The metric, by outcome."""
        bearer = {"authorization": f"Bearer {self.platform.operator_key}"}
        text = httpx2.get(f"{self.platform.base_url}/metrics", headers=bearer, timeout=120.0, verify=False).text
        lines = [line for line in text.splitlines() if line.startswith(_COUNTER)]
        return {line.split('outcome="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


class Hosted:
    """One server."""

    def __init__(self, house: House, name: str, at: Endpoint) -> None:
        self.house = house
        self.name = name
        self.at = at

    def log(self, after: int = 0, wait: int = 0) -> list[dict[str, Any]]:
        """Its lines behind `after`."""
        where = f"/tenants/acme/servers/{self.name}/logs?after={after}&limit=1000&wait={wait}"
        return self.house.platform.api("GET", where, key=self.house.admin)["items"]

    def ran(self, word: str) -> int:
        """How often its tool has begun with `word`."""
        return sum(f"ran {word}" in str(line) for line in self.log())

    async def running(self, word: str) -> None:
        """Return when its tool has begun with `word`: as soon as that line is there."""
        after = 0
        while True:
            lines = await asyncio.to_thread(self.log, after, 30)
            if any(f"ran {word}" in str(line) for line in lines):
                return
            after = max([after, *(line["position"] for line in lines)])

    def kill(self) -> None:
        """`kill -9` of its copies: no other test's server runs."""
        found = [one.pid for one in self.house.platform.family() if "smcp-fixture-scripted" in one.command]
        assert found
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def audited(self) -> list[tuple[str, str]]:
        """Outcome and code of the calls of its tools, as the trail tells them."""
        items = self.house.platform.audit("acme", key=self.house.admin)
        told = [one["event"] for one in items if one["event"]["event"] == "mcp_call"]
        mine = [one for one in told if one["server"] == self.name and one["method"] == "tools/call"]
        return [(one["outcome"], one["code"]) for one in mine]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    """The platform, running."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    settings = {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}
    with Platform(tmp_path_factory.mktemp("house"), settings) as platform:
        yield House(platform)


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client that waits for long."""
    async with httpx2.AsyncClient(timeout=120.0) as client:
        yield client


_STEPS: Final = 60
"""Tenths of a second that a call takes whose copy is killed in the middle: it has to be killed before its end."""


def work(tool: str, word: str, token: str | None = None, count: int = _STEPS) -> wire.Json:
    """The params of a call that takes a while."""
    return {**wire.call("work", token=token, word=word, count=count, pause=0.1), "name": tool}


def request(session: str | None, params: wire.Json) -> tuple[dict[str, str], bytes]:
    """A call with the id 5, of either era."""
    if session is None:
        return wire.modern("tools/call", params, 5)
    return wire.legacy(session, "tools/call", params, 5)


def numbers(found: list[wire.Json]) -> list[float]:
    """The progress that messages tell of."""
    return [one["params"]["progress"] for one in found if one.get("method") == "notifications/progress"]


async def opened(caller: wire.Caller, way: str) -> str | None:
    """A session, where the `way` has one."""
    return None if way == "modern" else await caller.open()


def era(way: str) -> dict[str, str]:
    """The environment of a server that is reached that way."""
    return {"ERAS": "modern"} if way in ("modern", "bridged") else {}


@pytest.mark.requirement("gateway:lost:repeated")
@pytest.mark.parametrize("way", ["modern", "legacy", "bridged"])
async def test_a_plain_answer_of_a_tool_that_only_reads_comes_from_another_copy(
    house: House, http: httpx2.AsyncClient, way: str
) -> None:
    before = house.repeated()
    with house.server(f"plain-{way}", **era(way)) as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await opened(caller, way)
        asked = asyncio.create_task(caller.send(*request(session, work("look", "one"))))
        await hosted.running("one")
        hosted.kill()
        answer = await asked
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json()["id"], wire.said(answer.json())) == (5, "done")
        assert hosted.ran("one") == 2
        assert hosted.audited() == [("ok", "")]
        if session is not None:  # it has outlived its copy
            assert wire.said((await caller.legacy(session, "tools/call", wire.call("echo"))).json())["text"] is None
    assert house.repeated() == {**before, "answered": before["answered"] + 1}


@pytest.mark.requirement("gateway:lost:progress")
@pytest.mark.parametrize("way", ["modern", "legacy", "bridged"])
async def test_a_stream_goes_on_with_the_second_copy_and_its_progress_only_rises(
    house: House, http: httpx2.AsyncClient, way: str
) -> None:
    with house.server(f"stream-{way}", **era(way)) as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await opened(caller, way)
        async with caller.streaming(*request(session, work("look", "one", "t"))) as stream:
            found = [await stream.message() for _ in range(5)]
            hosted.kill()
            while "result" not in found[-1]:
                found.append(await stream.message())
        assert numbers(found) == list(range(_STEPS))
        assert wire.said(found[-1]) == "done"
        assert hosted.ran("one") == 2


@pytest.mark.requirement("gateway:lost:told")
@pytest.mark.parametrize("token", [None, "t"])
@pytest.mark.parametrize("way", ["modern", "legacy", "bridged"])
async def test_a_tool_that_promises_nothing_is_not_run_again_and_its_caller_is_told(
    house: House, http: httpx2.AsyncClient, way: str, token: str | None
) -> None:
    before = house.repeated()
    with house.server(f"told-{way}{'-stream' if token else ''}", **era(way)) as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await opened(caller, way)
        asked = asyncio.create_task(caller.send(*request(session, work("do", "one", token, 10_000))))
        await hosted.running("one")
        hosted.kill()
        answer = await asked
        error = wire.messages(answer)[-1]
        assert (answer.status_code, error["id"]) == (200, 5)
        assert (error["error"]["code"], error["error"]["data"]) == (_INTERRUPTED, {"mayHaveRun": True})
        assert "may have been carried out" in error["error"]["message"]
        assert "neither readOnlyHint nor idempotentHint" in error["error"]["message"]
        again = await caller.send(*request(session, work("do", "two", count=1)))
        assert wire.said(wire.messages(again)[-1]) == "done"
        assert hosted.ran("one") == 1
        assert hosted.audited() == [("failed", "call_interrupted"), ("ok", "")]
    assert house.repeated() == before


@pytest.mark.requirement("gateway:lost:once")
@pytest.mark.parametrize("way", ["modern", "legacy", "bridged"])
async def test_a_call_that_loses_its_second_copy_too_ends_with_an_error(
    house: House, http: httpx2.AsyncClient, way: str
) -> None:
    before = house.repeated()
    with house.server(f"twice-{way}", **era(way)) as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await opened(caller, way)
        answer = await caller.send(*request(session, {**wire.call("exit"), "name": "look"}))
        error = wire.messages(answer)[-1]["error"]
        assert (error["code"], error["data"]) == (_INTERRUPTED, {"mayHaveRun": True})
        assert "second copy" in error["message"]
        assert sum("last words" in str(line) for line in hosted.log()) == 2
        assert hosted.audited() == [("failed", "call_interrupted")]
    assert house.repeated() == {**before, "lost": before["lost"] + 1}


@pytest.mark.requirement("gateway:lost:told")
async def test_a_session_that_must_not_go_on_ends_with_its_copy(house: House, http: httpx2.AsyncClient) -> None:
    with house.server("ends", 'resume = "end"\n') as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await caller.open()
        asked = asyncio.create_task(caller.send(*request(session, work("look", "one", count=10_000))))
        await hosted.running("one")
        hosted.kill()
        error = wire.messages(await asked)[-1]["error"]
        assert error["data"] == {"mayHaveRun": True}
        assert "session has ended" in error["message"]
        assert hosted.ran("one") == 1


@pytest.mark.requirement("gateway:lost:asked")
async def test_a_call_whose_server_has_asked_something_is_not_repeated(house: House, http: httpx2.AsyncClient) -> None:
    with house.server("asked") as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await caller.open()
        async with caller.streaming(*request(session, {**wire.call("ask"), "name": "look"})) as stream:
            assert (await stream.message())["method"] == "roots/list"
            hosted.kill()
            error = (await stream.message())["error"]
        assert error["data"] == {"mayHaveRun": True}
        assert "asked something" in error["message"]


@pytest.mark.requirement("gateway:lost:asked")
async def test_a_call_that_brings_answers_is_not_repeated(house: House, http: httpx2.AsyncClient) -> None:
    with house.server("answers", ERAS="modern") as hosted:
        caller = wire.Caller(http, hosted.at)
        asked = asyncio.create_task(
            caller.send(*request(None, {**work("look", "one", count=10_000), "requestState": ""}))
        )
        await hosted.running("one")
        hosted.kill()
        error = wire.messages(await asked)[-1]["error"]
        assert error["data"] == {"mayHaveRun": True}
        assert "asked something" in error["message"]
        assert hosted.ran("one") == 1


@pytest.mark.requirement("gateway:lost:asked")
async def test_a_call_of_a_session_whose_answers_were_handed_over_is_not_repeated(
    house: House, http: httpx2.AsyncClient
) -> None:
    with house.server("answered", ERAS="modern") as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await caller.open(capabilities={"roots": {}})
        wants = {"requestState": "s", "inputRequests": {"roots": {"method": "roots/list"}}}
        params = {**wire.call("input", wants=wants, ends=True), "name": "look"}
        async with caller.streaming(*request(session, params)) as stream:
            question = await stream.message()
            answer: wire.Json = {"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}
            told = await caller.send(wire.legacy(session, "x")[0], json.dumps(answer).encode())
            assert told.status_code == 202
            error = (await stream.message())["error"]
        assert error["data"] == {"mayHaveRun": True}
        assert "asked something" in error["message"]


@pytest.mark.requirement("gateway:lost:resumed")
@pytest.mark.parametrize("tool", ["look", "do"])
async def test_who_comes_back_to_a_stream_finds_what_became_of_its_call(
    house: House, http: httpx2.AsyncClient, tool: str
) -> None:
    with house.server(f"resumed-{tool}") as hosted:
        caller = wire.Caller(http, hosted.at)
        session = await caller.open()
        params = work(tool, "one", "t", _STEPS if tool == "look" else 10_000)
        async with caller.streaming(*request(session, params)) as stream:
            events = [await stream.event() for _ in range(5)]
        hosted.kill()  # nobody reads just now
        told = [event for _, event in events if event]
        async with caller.listening(session, events[-1][0]) as stream:
            while "method" in (message := await stream.message()):
                told.append(message)
        if tool == "look":
            assert numbers(told) == list(range(_STEPS))
            assert wire.said(message) == "done"
        else:
            assert message["error"]["data"] == {"mayHaveRun": True}
        assert hosted.ran("one") == (2 if tool == "look" else 1)


@pytest.mark.requirement("gateway:lost:allowed")
async def test_a_server_that_was_stopped_is_not_started_for_a_call(house: House, http: httpx2.AsyncClient) -> None:
    with house.server("stopped", ERAS="modern") as hosted:
        caller = wire.Caller(http, hosted.at)
        asked = asyncio.create_task(caller.send(*request(None, work("look", "one", count=10_000))))
        await hosted.running("one")
        house.platform.api("POST", "/tenants/acme/servers/stopped/stop", key=house.admin)
        error = wire.messages(await asked)[-1]["error"]
        assert error["data"] == {"mayHaveRun": True}
        assert "is stopped" in error["message"]
        assert hosted.ran("one") == 1


@pytest.mark.requirement("gateway:lost:repeated")
@pytest.mark.parametrize("way", ["auto", "legacy"])
async def test_a_real_client_notices_nothing(house: House, way: clients.Mode) -> None:
    steps: list[float] = []
    running = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)
        if progress >= 3:
            running.set()

    async def kill(hosted: Hosted) -> None:
        await running.wait()
        hosted.kill()

    with house.server(f"real-{way}") as hosted:
        async with clients.connected(hosted.at, way) as client, asyncio.TaskGroup() as group:
            group.create_task(kill(hosted))
            arguments = {"act": "work", "word": "one", "count": _STEPS, "pause": 0.1}
            result = await client.call_tool("look", arguments, progress_callback=on_progress)
        assert [part.text for part in result.content if part.type == "text"] == ['"done"']
        assert steps == list(range(_STEPS))
        assert hosted.ran("one") == 2
