"""What a probe makes of copies that end instead of answering."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from smcp.app import probing
from smcp.deploy import deployer, manifest, versions
from smcp.kernel import errors, ids, jsonrpc
from smcp.runtime import calls, driver
from support import inside

_ANSWERS: dict[str, dict[str, Any]] = {
    "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
    "tools/list": {
        "tools": [
            {"name": "far", "inputSchema": {"type": "object", "$ref": "http://127.0.0.1/"}, "outputSchema": None},
            {"name": "near", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}},
        ]
    },
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "both"}},
}


class _Both(driver.Driver):
    """Starts copies that speak both eras, the first `deaths` of which end when they are asked `initialize`.

    `page_s`: their list of tools has no end, and a page of it takes so long.
    """

    def __init__(self, deaths: int, page_s: float = 0.0) -> None:
        self.deaths = deaths
        self.page_s = page_s
        self.started = 0
        self.running: list[_Copy] = []
        """Those that were not stopped and have not ended."""
        self.beside: list[int] = []
        """How many ran already when each was started."""

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        self.started += 1
        self.beside.append(len(self.running))
        self.running.append(made := _Copy(self, modern=modern))
        return made

    async def close(self) -> None:
        pass


class _Copy(driver.Instance):
    def __init__(self, home: _Both, *, modern: bool) -> None:
        self.calls = calls.Calls(modern=modern, write=self._write, stray=lambda data, method: None, limit=4)
        self._home = home
        self._alive = True

    @property
    def alive(self) -> bool:
        return self._alive

    async def stop(self, reason: str) -> None:
        self._end()

    def _end(self) -> None:
        self._alive = False
        if self in self._home.running:
            self._home.running.remove(self)
        self.calls.close(errors.ServerFailed("The hosted server ended before it answered."))

    def _write(self, data: bytes) -> None:
        message = json.loads(data)
        loop = asyncio.get_running_loop()
        if message["method"] == "initialize" and self._home.deaths:
            self._home.deaths -= 1
            loop.call_soon(self._end)
        elif message["method"] == "tools/list" and self._home.page_s:
            page = jsonrpc.result(b"%d" % message["id"], b'{"tools": [], "nextCursor": "more"}')
            loop.call_later(self._home.page_s, self.calls.received, page)
        elif message["method"] in _ANSWERS:
            said = jsonrpc.result(b"%d" % message["id"], json.dumps(_ANSWERS[message["method"]]).encode())
            loop.call_soon(self.calls.received, said)


async def _eras(home: _Both) -> versions.Eras:
    return (await _probed(home)).eras


async def _probed(home: _Both, whole_s: float = 0.0, worker: driver.Worker | None = None) -> deployer.Probed:
    async def spec(tenant: ids.TenantId, server: ids.ServerName, draft: versions.Deployment) -> driver.Spec:
        return msgspec.structs.replace(inside.spec(), worker=worker)

    draft = versions.Deployment(
        id="dep-1",
        server="time",
        number=1,
        created=0.0,
        by="key-1",
        source="pypi:time==1",
        digest="sha256:0",
        manifest=manifest.Manifest(),
        lock=(),
        argv=("time",),
        interpreter="3.11",
    )
    prober = probing.Prober(home, spec, lambda spec: lambda line: None, timeout_s=30.0, whole_s=whole_s)
    return await prober(ids.TenantId("acme"), ids.ServerName("time"), draft)


@pytest.mark.requirement("deploy:probe:killed")
@pytest.mark.parametrize("deaths", [0, 1, 2])
async def test_a_copy_that_is_killed_while_it_is_asked_does_not_cost_the_server_an_era(deaths: int) -> None:
    home = _Both(deaths)
    spoken = await _eras(home)
    assert spoken.modern == ("2026-07-28",)
    assert "2025-11-25" in spoken.legacy
    assert home.started == 2 + deaths


@pytest.mark.requirement("deploy:probe:killed")
async def test_a_server_whose_every_copy_ends_at_a_question_does_not_speak_that_era() -> None:
    home = _Both(1000)
    spoken = await _eras(home)
    assert (spoken.modern, spoken.legacy) == (("2026-07-28",), ())
    assert home.started == 4


@pytest.mark.requirement("deploy:probe:once")
@pytest.mark.parametrize("deaths", [0, 1, 2])
async def test_a_workers_process_is_started_once_for_both_eras_and_nothing_of_it_is_left(deaths: int) -> None:
    worker = driver.Worker(modules=(driver.Module("index.js", "esm"),), compatibility_date="2026-11-01")
    home = _Both(deaths)
    spoken = (await _probed(home, worker=worker)).eras
    assert (spoken.modern, "2025-11-25" in spoken.legacy) == (("2026-07-28",), True)
    # The second conversation begins while the first one holds the process.
    assert home.beside == [0] + [1] * (deaths + 1)
    assert home.running == []
    # A command's copy speaks the era of its first message: it is alone.
    apart = _Both(deaths)
    await _probed(apart)
    assert set(apart.beside) == {0}
    assert apart.running == []


@pytest.mark.requirement("deploy:probe:once")
async def test_a_probe_that_fails_ends_the_conversation_that_it_kept() -> None:
    worker = driver.Worker(modules=(driver.Module("index.js", "esm"),), compatibility_date="2026-11-01")
    home = _Both(0, page_s=0.05)
    with pytest.raises(errors.DeployFailed, match="too long"):
        await _probed(home, whole_s=1.0, worker=worker)
    assert home.running == []


@pytest.mark.requirement("deploy:probe:whole")
async def test_a_server_that_gives_each_of_many_pages_just_in_time_is_not_waited_for_to_the_end() -> None:
    # A hundred pages of each era would be asked for.
    with pytest.raises(errors.DeployFailed, match="too long"):
        await _probed(_Both(0, page_s=0.05), whole_s=1.0)


@pytest.mark.requirement("validation:schema:size")
async def test_a_schema_that_will_not_be_applied_is_told_when_its_server_is_deployed() -> None:
    probed = await _probed(_Both(0))
    assert [one.name for one in probed.tools] == ["far", "near"]
    assert probed.remarks == ("the inputSchema of tool 'far' is not applied: it refers to something outside of it",)
