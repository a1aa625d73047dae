"""Hostile Workers: each probe of tests/fixtures/workers/probes, through SMCP (table: docs/explanation/workers.md).

What a probe is allowed to find is written down exactly: a new version of the runtime that gives more is looked at.
"""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from real.workers.conftest import Hosted
from support import clients
from support.clients import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_MODERN: Final = "2026-07-28"
_ADA: Final = {"name": "Ada"}
_BACK_S: Final = 120.0
"""In which a server answers again: a start of its process, however busy the machine is."""


async def _probed(endpoint: Endpoint, name: str, what: str = "") -> Any:
    """What the probe says that it found. Raises `MCPError` when the call fails."""
    # Raised behind the connection's end, which would make a group of it.
    called: types.CallToolResult | MCPError
    async with clients.connected(endpoint, _MODERN) as client:
        try:
            called = await client.call_tool(name, {"what": what})
        except MCPError as error:
            called = error
    if isinstance(called, MCPError):
        raise called
    (text,) = clients.texts(called)
    assert not called.is_error, text
    return json.loads(text)


async def _greeted(endpoint: Endpoint) -> tuple[str, ...]:
    return (await clients.python(endpoint, _MODERN, "greet", _ADA)).texts


async def _back(endpoint: Endpoint) -> None:
    """Return when the server answers again: until then its calls fail, and none of them hangs."""
    async with asyncio.timeout(_BACK_S):
        while True:
            try:
                assert await _probed(endpoint, "hello", "again") == {"hello": "again"}
            except MCPError:
                await asyncio.sleep(0.2)  # a client that asks again: nobody tells it when
            else:
                return


@asynccontextmanager
async def _undisturbed(neighbours: Hosted) -> AsyncGenerator[None]:
    """Another tenant's calls, one after the other: all of them are answered while the block runs."""
    endpoint, done, count = neighbours["plain"], asyncio.Event(), 0

    async def calls() -> None:
        nonlocal count
        async with clients.connected(endpoint, _MODERN) as client:
            while not done.is_set() or count < 5:
                assert clients.texts(await client.call_tool("greet", _ADA)) == ("Hello, Ada!",)
                count += 1

    assert await _greeted(endpoint) == ("Hello, Ada!",)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(calls())
        try:
            yield
        finally:
            done.set()


# --- burdens ---


@pytest.mark.requirement("workers:probes:stuck")
@pytest.mark.parametrize("probe", ["loop", "regex", "native"])
async def test_attack_a_worker_that_does_not_come_back_is_ended_and_starts_again(
    hostile: Hosted, neighbours: Hosted, probe: str
) -> None:
    async with _undisturbed(neighbours):
        with pytest.raises(MCPError):
            await _probed(hostile["probes"], probe)
        await _back(hostile["probes"])
    assert await _greeted(hostile["plain"]) == ("Hello, Ada!",)


@pytest.mark.requirement("workers:probes:memory")
@pytest.mark.parametrize("probe", ["heap", "microtasks", "strings", "buffers", "pages"])
async def test_attack_a_worker_that_takes_memory_without_end_meets_its_limit_alone(
    hostile: Hosted, neighbours: Hosted, probe: str
) -> None:
    async with _undisturbed(neighbours):
        try:
            found = await _probed(hostile["probes"], probe)
        except MCPError:
            pass  # its process has ended
        else:
            assert found["error"].startswith("RangeError: "), found
        await _back(hostile["probes"])
    assert await _greeted(hostile["plain"]) == ("Hello, Ada!",)


@pytest.mark.requirement("workers:probes:end")
@pytest.mark.parametrize("probe", ["exit", "abort", "abort_isolate"])
async def test_attack_a_worker_that_ends_itself_starts_again(hostile: Hosted, neighbours: Hosted, probe: str) -> None:
    async with _undisturbed(neighbours):
        with pytest.raises(MCPError):
            await _probed(hostile["probes"], probe)
        await _back(hostile["probes"])
    assert await _greeted(hostile["plain"]) == ("Hello, Ada!",)


@pytest.mark.requirement("workers:probes:refused")
async def test_what_would_hold_up_its_thread_is_refused_by_the_runtime(hostile: Hosted) -> None:
    found = {name: (await _probed(hostile["probes"], name)) for name in ("sleep", "deep", "flood", "uncaught")}
    assert found["sleep"] == {"error": "TypeError: Atomics.wait cannot be called in this context"}
    assert found["deep"] == {"error": "RangeError: Maximum call stack size exceeded"}
    assert found["flood"]["error"].startswith("QuotaExceededError: ")
    assert found["uncaught"] == {}
    await _back(hostile["probes"])


@pytest.mark.requirement("workers:probes:answers")
@pytest.mark.parametrize("probe", ["huge", "length"])
async def test_attack_an_answer_that_is_none_fails_its_call_alone(
    hostile: Hosted, neighbours: Hosted, probe: str
) -> None:
    async with _undisturbed(neighbours):
        with pytest.raises(MCPError):
            await _probed(hostile["probes"], probe)
    await _back(hostile["probes"])


@pytest.mark.requirement("workers:probes:answers")
@pytest.mark.parametrize("probe", ["never", "chatter", "silent"])
async def test_attack_a_call_that_is_never_answered_ends_when_its_caller_has_enough(
    hostile: Hosted, neighbours: Hosted, probe: str
) -> None:
    async with _undisturbed(neighbours):
        call = asyncio.create_task(_probed(hostile["probes"], probe))
        await asyncio.wait([call], timeout=3.0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await _back(hostile["probes"])


# --- the log ---


@pytest.mark.requirement("workers:probes:log")
async def test_attack_lines_of_a_worker_are_bounded_and_are_nobody_elses(hostile: Hosted) -> None:
    site = hostile.site

    def log(server: str) -> str:
        return site.platform.smcp("server", "logs", f"{site.tenant}/{server}", key=site.admin, text=True)

    for probe in ("forged_lines", "forged_streams"):
        await _probed(hostile["probes"], probe)
        await _back(hostile["probes"])
    while "forged" not in (own := log("probes")):
        pass  # it comes by another way than the answer
    assert not any(sign in own for sign in ("\x00", "\x1b", "\r"))
    # What is behind these, in a log of bounded size, is for the slower of machines all that is kept.
    for probe in ("line", "lines"):
        await _probed(hostile["probes"], probe)
        await _back(hostile["probes"])
    await _greeted(hostile["plain"])
    own, other = log("probes"), log("plain")
    assert len(own) < 16_777_216
    assert not any(sign in own for sign in ("\x00", "\x1b", "\r"))
    assert "xxxxxxxx" in own
    assert "forged" not in other
    assert "xxxxxxxx" not in other


# --- ways ---

_NO_CODE: Final = "EvalError: Code generation from strings disallowed for this context"


def _refused(found: Mapping[str, str], *allowed: str) -> dict[str, str]:
    """What came of attempts that should have come to nothing."""
    return {name: came for name, came in found.items() if came.startswith("got ") and name not in allowed}


@pytest.mark.requirement("workers:probes:code")
async def test_attack_no_text_becomes_code(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "code")
    assert _refused(found) == {}
    assert {found[name] for name in ("eval", "indirect", "function", "constructor", "async")} == {_NO_CODE}
    assert found["wasm"].startswith("CompileError: ")


@pytest.mark.requirement("workers:probes:files")
async def test_attack_the_modules_of_node_reach_neither_files_nor_processes(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "node")
    # A file system in memory, a stub of the inspector, and a host's name that is nobody's.
    allowed = ("root", "write", "bundle", "inspector", "hostname", "main")
    assert _refused(found, *allowed) == {}
    assert found["root"] == 'got ["bundle","tmp","dev"]'
    assert found["hostname"] == 'got ["localhost",{},{},"/tmp/"]'
    assert found["inspector"] == 'got "[object Object]"'
    assert found["main"] == "got undefined"


@pytest.mark.requirement("workers:probes:values")
async def test_attack_nothing_of_the_platform_is_in_reach_as_a_value(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "values")
    assert found["env"] == []
    assert found["global"] == []
    process = found["process"]
    assert (process["env"], process["argv"], process["pid"]) == ({}, ["workerd"], 1)
    assert found["exports"] == ["default"]
    names = {each.lower() for each in (await _probed(hostile["probes"], "headers"))["headers"]}
    assert not any(name.startswith(("x-smcp", "authorization", "cookie", "x-forwarded")) for name in names), names


@pytest.mark.requirement("workers:probes:values")
async def test_attack_what_the_runtime_was_given_for_it_holds_no_secret_and_nothing_of_another_server(
    hostile: Hosted,
) -> None:
    assert await _greeted(hostile["plain"]) == ("Hello, Ada!",)
    found: dict[str, str] = await _probed(hostile["probes"], "bundle")
    (folder,) = {path.rpartition("/")[0] for path in found}
    assert set(found) == {f"{folder}/{name}" for name in ("index.js", "smcp-first.js", "smcp-console.js")}
    assert not [name for name, text in found.items() if re.search("capability|door", text)]


@pytest.mark.requirement("workers:probes:modules")
async def test_attack_no_module_is_there_but_its_own(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "modules")
    assert _refused(found, "node:sqlite", "node:test") == {}


@pytest.mark.requirement("workers:probes:network")
async def test_attack_nothing_leaves_without_egress_and_no_name_is_asked_for(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "network", secrets.token_hex(8))
    # What answers is the platform's own refusal.
    assert {name: came for name, came in found.items() if came.startswith("got ")} == {
        **{name: came for name, came in found.items() if came.startswith("got 403 ")},
        "udp": "got [object Object]",
    }


@pytest.mark.requirement("workers:probes:sockets")
@pytest.mark.parametrize("path", ["/run/smcp/door", "/proc/self/fd/3", "/var/run/docker.sock"])
async def test_attack_no_socket_is_reached_by_its_path(hostile: Hosted, path: str) -> None:
    found = await _probed(hostile["probes"], "unix", path)
    assert {name: came for name, came in _refused(found).items() if not came.startswith("got 403 ")} == {}


@pytest.mark.requirement("workers:probes:door")
async def test_attack_a_forged_capability_leads_nowhere(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "door", secrets.token_urlsafe(32))
    assert {name: came for name, came in _refused(found).items() if not came.startswith("got 403 ")} == {}
    assert found["line"] == "TypeError: Invalid header value."
    assert found["name"] == "TypeError: Invalid header name."
    assert found["connect"] == "TypeError: Invalid HTTP method string: CONNECT"


@pytest.mark.requirement("workers:probes:services")
@pytest.mark.parametrize("name", ["plain", "probes", "smcp", "worker-0", "worker-1", "neighbours"])
async def test_attack_no_other_server_is_reached_by_a_name(hostile: Hosted, neighbours: Hosted, name: str) -> None:
    assert await _greeted(hostile["plain"]) == await _greeted(neighbours["plain"])
    found = await _probed(hostile["probes"], "services", name)
    reached = {each: came for each, came in _refused(found).items() if not came.startswith("got 403 ")}
    assert set(reached.values()) <= {"got [object Undefined]"}


@pytest.mark.requirement("workers:probes:cache")
async def test_attack_the_cache_keeps_nothing_for_anybody(hostile: Hosted) -> None:
    canary = secrets.token_hex(8)
    found = await _probed(hostile["probes"], "cache", canary)
    assert canary not in json.dumps(found)
    assert found["match"] in ("got nothing", "Error: No Cache was configured")


@pytest.mark.requirement("workers:probes:poison")
async def test_attack_changed_builtins_change_nobody_elses_isolate(hostile: Hosted, neighbours: Hosted) -> None:
    assert await _greeted(hostile["plain"]) == ("Hello, Ada!",)
    async with _undisturbed(neighbours):
        # Its own answers are spoiled from that call on.
        for probe in ("poison", "hello"):
            with pytest.raises(MCPError):
                await _probed(hostile["probes"], probe)
        # The same process, another isolate.
        assert await _greeted(hostile["plain"]) == ("Hello, Ada!",)
    # Another deployment is another isolate.
    hostile.again("probes")
    await _back(hostile["probes"])


@pytest.mark.requirement("workers:probes:clock")
async def test_the_clock_of_an_isolate_is_coarse(hostile: Hosted) -> None:
    found = await _probed(hostile["probes"], "clock")
    assert found["finest_ms"] >= 1
