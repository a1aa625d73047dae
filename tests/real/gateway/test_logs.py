"""A hosted server's log as its owner reads it: bounded, followed line by line, and true about its copies' lives."""

import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any, Final

import httpx2
import pytest

from smcp.sandbox import cgroups
from support import gates, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_MOST: Final = 65536
_SMCP: Final = pathlib.Path(sys.executable).with_name("smcp")


class Owner:
    """A tenant's administrator, who reads logs, and a caller of its server."""

    def __init__(self, platform: Platform, tenant: str) -> None:
        self.platform = platform
        self.tenant = tenant
        platform.create_tenant(tenant)
        self.key = platform.create_key(tenant, "admin")
        self.tool = self._server("tool")
        self.quiet = self._server("quiet")

    def _server(self, name: str) -> Endpoint:
        url = self.platform.deploy(self.tenant, f"pypi:{wire.SCRIPTED}", name, self.key)
        return Endpoint(url, self.platform.create_key(self.tenant, "mcp_user"))

    def log(self, name: str = "tool", after: int = 0) -> list[dict[str, Any]]:
        """All lines behind `after`."""
        lines: list[dict[str, Any]] = []
        while True:
            where = f"/tenants/{self.tenant}/servers/{name}/logs?after={after}&limit=1000"
            page = self.platform.api("GET", where, key=self.key)
            lines += page["items"]
            if page["next"] is None:
                return lines
            after = page["next"]

    def steady(self, name: str = "tool") -> list[dict[str, Any]]:
        """The whole log, once two looks a moment apart have found the same: it is written in batches, and bounded."""
        deadline = time.monotonic() + 60
        before = self.log(name)
        while True:
            time.sleep(0.5)
            now = self.log(name)
            if now == before:
                return now
            assert time.monotonic() < deadline, "the log never comes to rest"
            before = now

    async def end(self, tool: wire.Caller, name: str = "tool") -> int:
        """Where a log ends, when nothing is on its way any more of what was before."""
        # What was dropped is told with the next line.
        await tool.act("say", text="all before this is over")
        lines = await asyncio.to_thread(self.steady, name)
        return int(lines[-1]["position"])

    async def following(
        self, http: httpx2.AsyncClient, after: int, key: str = "", name: str = "tool"
    ) -> httpx2.Response:
        """The answer to a question that waits."""
        where = f"{self.platform.base_url}/api/v1/tenants/{self.tenant}/servers/{name}/logs"
        bearer = {"authorization": f"Bearer {key or self.key}"}
        return await http.get(where, params={"after": after, "wait": _WAIT_S}, headers=bearer, timeout=120)

    async def waited_for(self, count: int) -> None:
        """Return when so many questions wait, of whoever."""
        deadline = time.monotonic() + 60
        while await asyncio.to_thread(self._waiting) < count:
            assert time.monotonic() < deadline, "nobody waits"

    def _waiting(self) -> int:
        bearer = {"authorization": f"Bearer {self.platform.operator_key}"}
        page = httpx2.get(f"{self.platform.base_url}/metrics", headers=bearer, timeout=120, verify=False).text
        found = re.search(r'^http_server_active_requests\{surface="control"\} (\S+)$', page, re.MULTILINE)
        assert found is not None, page
        return int(float(found[1])) - 1  # but for this one

    def command(self, *options: str) -> "subprocess.Popen[str]":
        """`smcp server logs … --follow`, started."""
        environ = {**os.environ, "SMCP_URL": self.platform.base_url, "SMCP_API_KEY": self.key, **_NOWHERE}
        argv = [_SMCP, "server", "logs", f"{self.tenant}/tool", "--follow", *options]
        return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_NOWHERE: Final = {"SMCP_CONFIG": "/nonexistent"}
_WAIT_S: Final = 30
"""How long a question may wait for a line at most."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    shelf = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    chosen = {"SMCP_DEPLOY_WHEEL_DIRS": str(shelf), "SMCP_STORES_LOG_BYTES": str(_MOST)}
    with Platform(tmp_path_factory.mktemp("logs"), {**gates.SETTINGS, **chosen}) as running:
        yield running


@pytest.fixture(scope="module")
def owner(platform: Platform) -> Owner:
    return Owner(platform, "acme")


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=120.0) as client:
        yield client


def _size(lines: list[dict[str, Any]]) -> int:
    return sum(len(line["text"].encode()) for line in lines)


@pytest.mark.requirement("runtime:logs:size")
async def test_a_server_that_floods_its_log_keeps_its_newest_lines_and_costs_others_none(
    owner: Owner, http: httpx2.AsyncClient
) -> None:
    quiet, loud = wire.Caller(http, owner.quiet), wire.Caller(http, owner.tool)
    await quiet.act("say", text="the quiet one's line")
    deadline = time.monotonic() + 240
    while (lines := await asyncio.to_thread(owner.steady))[0]["position"] == 1:
        assert time.monotonic() < deadline, "a flood never reaches the bound"
        assert _size(lines) <= _MOST
        assert await loud.act("err", thousands=2) == "flooded"
    assert _size(lines) <= _MOST
    positions = [line["position"] for line in lines]
    assert positions == list(range(positions[0], positions[0] + len(lines)))
    assert "the quiet one's line" in [line["text"] for line in owner.log("quiet")]


@pytest.mark.requirement("runtime:logs:life")
async def test_the_log_tells_deployments_starts_and_ends_and_nobody_else_can_tell_them(
    owner: Owner, http: httpx2.AsyncClient
) -> None:
    tool = wire.Caller(http, owner.quiet)
    after = await owner.end(tool, "quiet")
    await asyncio.to_thread(owner.platform.deploy, "acme", f"pypi:{wire.SCRIPTED}", "quiet", owner.key)
    await tool.act("say", text="[smcp] ended after 1.0 s: exit code 0")
    await tool.modern("tools/call", wire.call("exit"))
    shown: list[str] = []
    deadline = time.monotonic() + 120
    while not any("exit code 3" in text for text in shown):
        assert time.monotonic() < deadline, shown
        for line in (await owner.following(http, after, name="quiet")).json()["items"]:
            shown.append(line["text"])
            after = line["position"]
    ours = [text.partition(",")[0] for text in shown if text.startswith("[smcp]")]
    assert any(text.startswith("[smcp] deployed dep-") for text in ours), shown
    assert "[smcp] started" in ours
    # The copy of the deployment before ends in its own time, and with another word.
    assert ["exit code 3" in text for text in ours if "exit code" in text] == [True], shown
    assert " [smcp] ended after 1.0 s: exit code 0" in shown


@pytest.mark.requirement("runtime:logs:life")
async def test_a_copy_that_takes_more_memory_than_it_may_ends_and_the_log_says_so(
    owner: Owner, http: httpx2.AsyncClient
) -> None:
    found = cgroups.look(f"test{os.getpid()}")
    if found.groups is None or cgroups.MEMORY not in found.groups.layers:
        pytest.skip(f"no memory can be limited for a cell as a whole on this machine: {found.why}")
    found.groups.close()
    tool = wire.Caller(http, owner.tool)
    after = await owner.end(tool)
    answer = await tool.modern("tools/call", wire.call("swell"))
    assert "ended while this call ran" in answer.text
    # The line is there before its caller hears of the end.
    told = [line["text"] for line in owner.log(after=after)]
    assert any("it took more memory than sandbox.memory_bytes" in text for text in told), told


@pytest.mark.requirement("runtime:logs:follow")
async def test_who_waits_is_answered_when_the_line_comes(owner: Owner, http: httpx2.AsyncClient) -> None:
    tool = wire.Caller(http, owner.tool)
    after = await owner.end(tool)
    took: list[float] = []
    for number in range(5):
        waiting = asyncio.create_task(owner.following(http, after))
        # The question must be there before the line.
        await owner.waited_for(1)
        assert not waiting.done(), waiting.result().text
        began = time.monotonic()
        await tool.act("say", text=f"line {number}")
        [line] = (await waiting).json()["items"]
        took.append(time.monotonic() - began)
        assert line["text"] == f"line {number}"
        after = line["position"]
    # At once, and not when the wait was over.
    assert min(took) < _WAIT_S / 2, took


@pytest.mark.requirement("runtime:logs:follow")
async def test_a_key_that_is_revoked_while_it_waits_reads_no_line_more(owner: Owner, http: httpx2.AsyncClient) -> None:
    tool = wire.Caller(http, owner.tool)
    after = await owner.end(tool)
    made = owner.platform.api("POST", "/tenants/acme/keys", {"roles": ["admin"], "label": "to be revoked"})
    waiting = asyncio.create_task(owner.following(http, after, made["secret"]))
    await owner.waited_for(1)
    assert not waiting.done()
    await asyncio.to_thread(owner.platform.api, "DELETE", f"/tenants/acme/keys/{made['key']['id']}")
    await tool.act("say", text="not for revoked eyes")
    answer = await waiting
    assert answer.status_code == 401
    assert "not for revoked eyes" not in answer.text


@pytest.mark.requirement("runtime:logs:follow")
async def test_the_command_prints_lines_as_they_come_and_ends_silently_when_it_is_interrupted(
    owner: Owner, http: httpx2.AsyncClient
) -> None:
    tool = wire.Caller(http, owner.tool)
    last = await owner.end(tool)
    with owner.command("--json", "--after", str(last - 1)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = await asyncio.to_thread(process.stdout.readline)
        assert json.loads(first)["position"] == last
        for number in range(3):
            await tool.act("say", text=f"followed {number}")
            line = json.loads(await asyncio.to_thread(process.stdout.readline))
            assert line["text"] == f"followed {number}"
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert process.stderr.read() == ""


@pytest.mark.requirement("runtime:logs:follow")
async def test_a_platform_that_stops_lets_nobody_wait(
    tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, http: httpx2.AsyncClient
) -> None:
    shelf = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    with Platform(tmp_path, {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}) as running:
        mine = Owner(running, "acme")
        await wire.Caller(http, mine.tool).act("echo")
        after = mine.log()[-1]["position"]
        with mine.command("--after", str(after)) as process:
            began = time.monotonic()
            waiting = asyncio.create_task(mine.following(http, after + 1000))
            await mine.waited_for(2)
            assert not waiting.done()
            assert process.poll() is None
            stopping = asyncio.create_task(asyncio.to_thread(running.stop))
            answer = await waiting
            # It was let go: by itself it would have waited for longer.
            assert time.monotonic() - began < _WAIT_S
            await stopping
            assert (answer.status_code, answer.json()["items"]) == (200, [])
            assert process.wait(120) == 3
            assert process.stderr is not None
            said = process.stderr.read()
            assert "Traceback" not in said
            assert "Start the platform" in said or "is it still running" in said
