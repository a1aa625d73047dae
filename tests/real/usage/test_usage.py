"""SIGKILL at each step of counting, and amid calls of a real platform: nothing beyond the bound is lost or doubled."""

import csv
import io
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from typing import Final

import httpx2
import pytest

from smcp.tenancy import meter
from support import gates, metering, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

TESTS: Final = pathlib.Path(__file__).parents[2]
_STEPS: Final = ("before append", "after append", "before fold", "after fold")
_HERE: Final = "/tenants/acme/usage"


def _run(directory: pathlib.Path, calls: int, step: str, which: int) -> tuple[int, int]:
    """How a writer ended, and how many calls it said were committed."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "real/usage/writer.py"), str(directory), str(calls), step, str(which)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, max([0, *map(int, re.findall(r"(\d+) committed", done.stdout))])


@pytest.mark.requirement("usage:crash:acknowledged", "usage:crash:once")
@pytest.mark.parametrize("step", _STEPS)
async def test_killed_at_any_step_a_process_loses_no_committed_call_and_the_next_doubles_none(
    tmp_path: pathlib.Path, step: str
) -> None:
    least = most = kills = 0
    for calls, which, read in ((7, 1, False), (11, 1, True), (13, 2, False), (5, 0, True)):
        # Where nobody reads in between, the next one finds, and folds, what this one left.
        code, committed = _run(tmp_path, calls, step, which)
        kills += code != 0
        least, most = least + committed, most + calls
        if not read:
            continue
        async with metering.opened(tmp_path, metering.Faults()) as store:
            # Read twice, by a process each: the second one folds nothing, or nothing again.
            first, second = metering.made(store), metering.made(store)
            found = await metering.calls(first)
            assert await metering.calls(second) == found
        assert least <= found <= most
        least = most = found
    assert kills >= 2


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Platform, Endpoint]]:
    """A platform, and a server on it."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    environ = {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}
    with Platform(tmp_path_factory.mktemp("usage"), environ) as platform:
        yield platform, platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))["tool"]


def _now(platform: Platform, endpoint: Endpoint) -> Endpoint:
    """`endpoint`, wherever the platform listens since its last start."""
    return endpoint._replace(url=endpoint.url.replace(endpoint.url.partition("/t/")[0], platform.base_url))


class _Caller:
    """A client that calls until its connection breaks, and when each call was answered."""

    def __init__(self, url: str, key: str) -> None:
        self.answered: list[float] = []
        self.sent = 0
        self._url = url
        self._key = key
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        fields, body = wire.modern("tools/call", {"name": "do", "arguments": {"act": "echo"}})
        with httpx2.Client(
            timeout=60.0, verify=False, headers={"authorization": f"Bearer {self._key}", **fields}
        ) as http:
            try:
                while True:
                    self.sent += 1
                    answer = http.post(self._url, content=body)
                    # What a slow machine refuses may count or not; what it answers has to.
                    if answer.status_code == 200:
                        self.answered.append(time.monotonic())
            except httpx2.TransportError:
                return

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(120)
        assert not self._thread.is_alive()


def _waiting(platform: Platform) -> float:
    """How old the oldest usage is that a crash would lose, as the platform says."""
    bearer = {"authorization": f"Bearer {platform.operator_key}"}
    text = httpx2.get(f"{platform.base_url}/metrics", headers=bearer, timeout=60.0, verify=False).text
    found = re.search(r"^smcp_usage_waiting_seconds ([0-9.e+-]+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def _count(platform: Platform) -> int:
    items = platform.api("GET", f"{_HERE}?by=principal")["items"]
    return sum(int(item["calls"]) for item in items)


@pytest.mark.requirement("usage:crash:bound", "usage:crash:once")
def test_a_platform_killed_amid_calls_and_again_while_it_folds_counts_what_it_answered(
    hosting: tuple[Platform, Endpoint],
) -> None:
    chance = random.Random()
    platform, endpoint = hosting
    least = most = found = _count(platform)
    for _ in range(2):
        callers = [_Caller(_now(platform, endpoint).url, endpoint.key) for _ in range(4)]
        while not all(len(caller.answered) >= 10 for caller in callers):
            time.sleep(0.05)  # until the first copy runs
        time.sleep(2.5 + chance.random())  # the moment of the kill is what is tried
        # On a machine that is slow just now the last commit may be older than it should be; the platform knows.
        cut = time.monotonic()
        bound = max(meter.LOSS_S, _waiting(platform) + 1.0)
        platform.kill()
        for caller in callers:
            caller.join()
        least += sum(one < cut - bound for caller in callers for one in caller.answered)
        most += sum(caller.sent for caller in callers)
        platform.start()
        time.sleep(0.3 * chance.random())
        platform.kill()  # while it folds what the first one left
        platform.start()
        found = _count(platform)
        assert least <= found <= most, platform.story()
        assert _count(platform) == found
        least = most = found
    assert found > 50
    fields, body = wire.modern("tools/call", {"name": "do", "arguments": {"act": "echo"}})
    for _ in range(5):
        answer = httpx2.post(
            _now(platform, endpoint).url,
            headers={"authorization": f"Bearer {endpoint.key}", **fields},
            content=body,
            timeout=60.0,
            verify=False,
        )
        assert answer.status_code == 200
    platform.stop()
    platform.start()
    assert _count(platform) == found + 5  # an orderly end loses nothing, however soon it comes
    assert _waiting(platform) == 0.0


@pytest.mark.requirement("usage:copies:measured", "usage:meter:counted", "usage:cli:shown")
async def test_what_copies_took_is_there_when_they_have_ended_for_whom_they_ran(
    hosting: tuple[Platform, Endpoint],
) -> None:
    platform = hosting[0]
    at = _now(*hosting)
    async with httpx2.AsyncClient(timeout=60.0, verify=False) as http:
        caller = wire.Caller(http, at)
        session = await caller.open()
        for _ in range(3):
            await caller.act("echo")
            await caller.act("echo", session)
        await caller.close()
    platform.api("POST", "/tenants/acme/servers/tool/stop")
    platform.api("POST", "/tenants/acme/servers/tool/start")
    rows = platform.smcp("usage", "--tenant", "acme", "--by", "server,principal")["items"]
    (who,) = {row["principal"] for row in rows if row["principal"]}
    own, shared = ({row["principal"]: row for row in rows if row["server"] == "tool"}[name] for name in (who, ""))
    assert own["calls"] >= 7
    assert own["errors"] == 0 == shared["calls"]
    assert own["received_bytes"] > 100 < own["sent_bytes"]
    for copy in (own, shared):  # the session's copy, and the one that all share
        assert copy["copy_s"] > 0
        assert 0 < copy["cpu_s"] < 60
        assert copy["memory_byte_s"] > 0
        assert copy["cpu_unknown_s"] < copy["copy_s"]
    text = platform.smcp("usage", "--tenant", "acme", "--by", "server,principal", "--csv", text=True)
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(row["server"], row["principal"], int(row["calls"])) for row in table] == [
        (row["server"], row["principal"], row["calls"]) for row in rows
    ]
    assert "tool" in platform.smcp("usage", "--tenant", "acme", text=True)
    every = platform.smcp("usage", "--all")["items"]
    assert [(row["tenant"], row["calls"]) for row in every] == [("acme", sum(row["calls"] for row in rows))]
    (total,) = platform.smcp("usage", "--tenant", "acme", "--by", "", "--from", "1h")["items"]
    assert total["calls"] == every[0]["calls"]
    platform.smcp("usage", "--tenant", "acme", "--from", "yesterday", code=2)
