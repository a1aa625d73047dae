"""Workers: calls through the endpoint beside the same Worker called directly, starts from nothing, and memory at rest.

Here nobody has a core of their own: both cores are for the platform, the Worker and the load, in every way alike.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple

import uvloop

from bench import calls, cores, guest, resting, wire
from smcp.sandbox import tools
from support import handmade, workers
from support import platform as running

_LEAN: Final = "lean"
_SDK: Final = "sdk"
_LEAN_SOURCE: Final = """
import { serve } from "./mcp.js";
export default serve({ echo: ({ text }) => text });
"""
_FIXTURE: Final[workers.Name] = "sdk-v2"
_END_S: Final = 60.0


class _Kind(NamedTuple):
    """A Worker, and what it is asked."""

    label: str
    tool: str
    arguments: dict[str, str]
    said: bytes
    """What is in its answer."""
    asked_ms: float


_TRIVIAL: Final = _Kind("a trivial Worker", "echo", {"text": "to and fro"}, b"to and fro", 60.0)
_WITH_SDK: Final = _Kind("the TypeScript SDK (2.x)", "greet", {"name": "Ada"}, b"Hello, Ada!", 150.0)


class Plan(NamedTuple):
    """How much of everything."""

    calls: calls.Plan
    starts: int
    running: int
    """Tenants with a Worker that runs."""
    stopped: int
    """Tenants with a Worker that was stopped."""


class Start(NamedTuple):
    """From a server without any process to its first answer, through the endpoint. Milliseconds."""

    label: str
    p50_ms: float
    p99_ms: float
    samples: int
    asked_ms: float
    """What the median is to stay below."""


class Rest(NamedTuple):
    """What tenants take whose Worker does nothing."""

    label: str
    running: int
    each_mb: float
    """Private to the processes of one cell, the sandbox's included; the mean."""
    most_mb: float
    stopped: int
    most: int
    """Processes at once, while the Workers of `stopped` were started."""
    left: int
    """Their processes afterwards."""


class Found(NamedTuple):
    """What Workers cost."""

    rows: Sequence[calls.Row]
    starts: Sequence[Start]
    rests: Sequence[Rest]


def measure(
    platform: running.Platform,
    where: cores.Cores,
    plan: Plan,
    tell: Callable[[str], None],
    note: Callable[[str], None],
) -> Found:
    """Measure with `platform`, which does not run before and does not run afterwards.

    Raises RuntimeError when an answer was wrong.
    """
    os.sched_setaffinity(0, set(where))
    try:
        with tempfile.TemporaryDirectory(prefix="smcp-bench-") as name:
            directory = pathlib.Path(name)
            try:
                platform.start()
                rows, starts = _through(platform, directory, plan, tell, note)
            finally:
                platform.stop()
            return Found(rows, starts, _rests(plan, directory, tell, note))
    finally:
        os.sched_setaffinity(0, {where.load})


def _through(
    platform: running.Platform,
    directory: pathlib.Path,
    plan: Plan,
    tell: Callable[[str], None],
    note: Callable[[str], None],
) -> tuple[list[calls.Row], list[Start]]:
    """Everything that goes through the endpoint. Each Worker has a tenant, and so a process, of its own."""
    tell("deploying Workers")
    with workers.Site(platform, _LEAN) as lean, workers.Site(platform, _SDK) as sdk:
        at = _endpoint(lean, _project(directory))
        rows = _rates(platform, at, directory, plan.calls, tell)
        starts = [_started(lean, _LEAN, at, _TRIVIAL, plan.starts, tell)]
        try:
            with_sdk = _endpoint(sdk, workers.project(_FIXTURE, directory))
        except AssertionError as error:
            note(f"the start with the SDK was not measured: {str(error).splitlines()[0][:300]}")
        else:
            starts.append(_started(sdk, _FIXTURE, with_sdk, _WITH_SDK, plan.starts, tell))
    return rows, starts


def _project(directory: pathlib.Path) -> pathlib.Path:
    """The lean Worker, as its owner has it."""
    folder = directory / _LEAN
    _write(folder)
    wanted = {"name": _LEAN, "main": "main.js", "compatibility_date": handmade.DATE}
    (folder / "wrangler.json").write_text(json.dumps(wanted))
    return folder


def _write(folder: pathlib.Path) -> None:
    folder.mkdir()
    (folder / "main.js").write_text(_LEAN_SOURCE)
    (folder / "mcp.js").write_text(handmade.MCP.read_text())


def _endpoint(site: workers.Site, folder: pathlib.Path) -> wire.Endpoint:
    return wire.Endpoint(*site.deploy(folder))


# --- calls ---


def _rates(
    platform: running.Platform,
    at: wire.Endpoint,
    directory: pathlib.Path,
    plan: calls.Plan,
    tell: Callable[[str], None],
) -> list[calls.Row]:
    roles = guest.roles(platform)
    client = wire.Client(at)
    client.echo(1)
    client.close()
    # As who runs the platform, the very socket that it speaks to this Worker through.
    (path,) = (platform.data / "run" / "doors" / _LEAN).glob("*/socket-*")
    asked = wire.modern(at)
    with _alone(directory / "alone") as (port, pid):
        direct = wire.modern(wire.Endpoint(f"http://127.0.0.1:{port}/mcp", ""))
        subjects = [
            calls.Subject("workerd by itself, on the loopback", direct, lambda: {pid}, set),
            calls.Subject("the platform's, on its socket", asked._replace(path=str(path)), roles.hosted, set),
            calls.Subject("SMCP's endpoint", asked, lambda: {roles.platform}, roles.hosted, memory=lambda: set(roles)),
        ]
        tell(f"load: {', '.join(one.name for one in subjects)}")
        return calls.rows(subjects, plan, lambda _: None)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Generator[tuple[int, int]]:
    """The lean Worker in a workerd with nothing around it: its port, and its process."""
    _write(folder)
    (folder / "config.capnp").write_text(_CONFIG % json.dumps(handmade.DATE))
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        number = listener.fileno()
        argv = [workers.program(tools.WORKERD), "serve", f"--socket-fd=http={number}", str(folder / "config.capnp")]
        with subprocess.Popen(argv, pass_fds=(number,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as alone:
            try:
                yield listener.getsockname()[1], alone.pid
            finally:
                alone.kill()


_CONFIG: Final = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "main.js", esModule = embed "main.js"), (name = "mcp.js", esModule = embed "mcp.js")],
    compatibilityDate = %s,
  ))],
  sockets = [(name = "http", http = (), service = "main")],
);
"""


# --- starts ---


def _started(
    site: workers.Site, server: str, at: wire.Endpoint, kind: _Kind, number: int, tell: Callable[[str], None]
) -> Start:
    tell(f"starts from nothing: {kind.label}")
    roles = guest.roles(site.platform)
    client = wire.Client(at)
    taken: list[float] = []
    try:
        for _ in range(number):
            site.act(server, "stop")
            site.act(server, "start")
            _nothing(roles)
            before = time.perf_counter()
            answer = client.call(1, tool=kind.tool, arguments=kind.arguments)
            taken.append((time.perf_counter() - before) * 1000)
            if kind.said not in answer:
                raise RuntimeError(f"wrong answer: {answer[:400].decode('utf-8', 'replace')}")
    finally:
        client.close()
    site.act(server, "stop")  # who is measured next looks whether nothing runs
    taken.sort()
    return Start(kind.label, taken[len(taken) // 2], taken[len(taken) * 99 // 100], len(taken), kind.asked_ms)


def _nothing(roles: guest.Roles) -> None:
    """Return when no workerd of the platform's runs. Raises RuntimeError when one stays."""
    deadline = time.monotonic() + _END_S
    while any(cores.name(pid) == "workerd" for pid in roles.hosted()):
        if time.monotonic() > deadline:
            raise RuntimeError("a Worker was stopped, and its process runs")
        time.sleep(0.01)


# --- memory ---


def _rests(plan: Plan, directory: pathlib.Path, tell: Callable[[str], None], note: Callable[[str], None]) -> list[Rest]:
    found = [_rest(_TRIVIAL, _LEAN_SOURCE, plan, tell)]
    try:
        source = workers.bundled(_FIXTURE, directory / "sdk.js").read_text()
    except AssertionError as error:
        note(f"memory with the SDK was not measured: {str(error).splitlines()[0][:300]}")
        return found
    return [*found, _rest(_WITH_SDK, source, plan, tell)]


def _rest(kind: _Kind, source: str, plan: Plan, tell: Callable[[str], None]) -> Rest:
    tell(f"at rest, {plan.running} running and {plan.stopped} stopped: {kind.label}")
    each = uvloop.run(resting.running(plan.running, source, kind.tool, **kind.arguments))
    left = uvloop.run(resting.stopped(plan.stopped, source, kind.tool, **kind.arguments))
    return Rest(kind.label, len(each), sum(each) / len(each), max(each), plan.stopped, left.most, left.left)
