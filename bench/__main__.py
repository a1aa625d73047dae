"""`python -m bench`: starts the real platform, measures it, prints a table, and leaves nothing behind.

Platform and hosted server stand on one core, the load on another. Every stage of the pipeline runs; limits of the plan
are raised by settings. Loopback only, but for the two packages that are fetched to be started.
"""

import argparse
import json
import os
import pathlib
import platform as host
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple

import httpx2
import uvloop

# The platform under test is started as the tests start it.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from bench import cores, figures, guest, load, profiled, report, sandbox, servers
from smcp.app import machine
from smcp.kernel import errors, settings


class Plan(NamedTuple):
    """How long everything takes."""

    connections: tuple[int, ...]
    rounds: int
    warm_s: float
    seconds: float
    sessions: int
    sandbox: sandbox.Sizes


FULL = Plan((1, 16, 64), 3, 0.3, 1.5, 100, sandbox.Sizes(starts=60, calls=10_000, colds=7, requests=60))
QUICK = Plan((1, 16), 1, 0.2, 0.8, 20, sandbox.Sizes(starts=15, calls=2_000, colds=3, requests=30))
PARTS = ("calls", "sandbox")


class _Subject(NamedTuple):
    """Something that is measured: its processes, and those of the server behind it."""

    name: str
    target: load.Target
    front: Callable[[], set[int]]
    hosted: Callable[[], set[int]]


class _Measured(NamedTuple):
    sample: load.Sample
    hosted_us: float


def _once(subject: _Subject, connections: int, plan: Plan) -> _Measured:
    front, hosted = subject.front(), subject.hosted()
    behind: list[float] = []

    def cpu() -> float:
        behind.append(cores.cpu_us(hosted))
        return cores.cpu_us(front)

    sample = uvloop.run(load.measure(subject.target, connections, plan.warm_s, plan.seconds, cpu))
    return _Measured(sample, (behind[-1] - behind[0]) / sample.calls)


def _rows(subjects: Sequence[_Subject], plan: Plan) -> list[report.Row]:
    """Every subject at every number of connections, in turns, so that a busy moment of the machine meets all."""
    found: dict[tuple[str, int], list[_Measured]] = {}
    for _ in range(plan.rounds):
        for connections in plan.connections:
            for subject in subjects:
                found.setdefault((subject.name, connections), []).append(_once(subject, connections, plan))
    middle = {key: _median(samples) for key, samples in found.items()}
    yardstick = subjects[0].name
    return [
        report.Row(
            subject.name,
            middle[subject.name, connections].sample,
            middle[subject.name, connections].hosted_us,
            middle[subject.name, connections].sample.per_second / middle[yardstick, connections].sample.per_second,
        )
        for subject in subjects
        for connections in plan.connections
    ]


def _median(samples: list[_Measured]) -> _Measured:
    """The middle one by calls a second: all of its figures belong together."""
    return sorted(samples, key=lambda one: one.sample.per_second)[len(samples) // 2]


def _timed(run: Callable[[], object]) -> float:
    """Milliseconds that `run` takes."""
    before = time.perf_counter()
    run()
    return (time.perf_counter() - before) * 1000


def _since(began: float) -> float:
    return time.monotonic() - began


class _Bench:
    def __init__(self, directory: pathlib.Path, plan: Plan, parts: Sequence[str], tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._parts = parts
        self._tell = tell
        self._where = cores.choose()
        self._platform = guest.prepare(directory)
        self._roles = guest.Roles(0, 0, 0)
        self._figures = figures.Figures()
        self._notes: list[str] = []

    def run(self) -> report.Report:
        began = time.monotonic()
        os.sched_setaffinity(0, {self._where.load})
        try:
            self._tell("first start")
            cold = _timed(self._start)
            self._tell("deploying the echo server")
            keys = guest.settle(self._platform)
            prepared = self._prepare(keys.admin) if "sandbox" in self._parts else None
            self._platform.stop()
            calls = self._calls(keys.caller, cold) if "calls" in self._parts else None
        finally:
            self._platform.stop()
        if prepared is not None:
            uvloop.run(prepared())
        name = f"{os.cpu_count()} cores, Linux {host.release()}, Python {host.python_version()}"
        return report.Report(name, os.getloadavg()[0], calls, self._figures.found(), self._notes, _since(began))

    def _start(self) -> None:
        self._roles = guest.started(self._platform, self._where)

    def _front(self) -> set[int]:
        return {self._roles.platform}

    def _hosted(self) -> set[int]:
        return self._roles.hosted()

    def _calls(self, key: guest.Key, cold: float) -> report.Calls:
        self._tell("second start")
        warm = _timed(self._start)
        self._idle()
        idle = cores.memory_kib(self._front()) / 1024
        with httpx2.Client(timeout=60.0) as client:
            first = _timed(lambda: guest.call(client, self._platform, key))
            later = statistics.median(_timed(lambda: guest.call(client, self._platform, key)) for _ in range(20))
        hosted = cores.memory_kib(self._hosted()) / 1024
        # Before the load, which leaves free memory behind in which sessions would seem to cost nothing.
        sessions, each_ms, front, behind = self._sessions(key)
        rows = self._load(key)
        return report.Calls(
            rows, report.Facts(cold, warm, first, later, idle, hosted, sessions, each_ms, front, behind)
        )

    def _idle(self) -> None:
        """The platform's processes, before the first call."""
        for how, pid in self._roles._asdict().items():
            self._figures.add(
                "memory of the platform, idle (Pss)", "its processes", how, "MiB", [cores.memory_kib({pid}) / 1024]
            )

    def _prepare(self, admin: guest.Key) -> Callable[[], Coroutine[None, None, None]]:
        """Deploy what is to be started with and without walls; the rest happens when the platform is gone."""
        data = self._platform.data
        config = settings.Settings(platform=settings.Platform(data_dir=str(data)))
        found = machine.Machine.find(config, os.environ, apart=True)
        started: list[servers.Deployed] = []
        for name, (label, source) in servers.SOURCES.items():
            self._tell(f"deploying {source}")
            try:
                servers.deploy(self._platform, name, admin)
                started.append(servers.find(self._platform, name, admin, found))
            except (AssertionError, errors.SmcpError) as error:
                self._notes.append(f"{label} was not measured: {str(error).splitlines()[0][:300]}")
        echo = servers.find(self._platform, guest.SERVER, admin, found)
        self._notes += [
            f"not there, so not measured: {one.name} ({one.why})" for one in found.layers if not one.present
        ]
        walls = sandbox.Sandbox(found, data, self._where, self._plan.sandbox, self._figures, self._tell)
        return lambda: walls.run(echo, started)

    def _load(self, key: guest.Key) -> list[report.Row]:
        self._tell("load: yardstick, modern wire, legacy wire")
        with httpx2.Client(timeout=60.0) as client:
            session = guest.open_session(client, self._platform, key)
        modern = guest.target(self._platform, key)
        with guest.yardstick_on(self._where, modern) as yardstick:
            subjects = [
                _Subject("bare uvicorn (yardstick)", yardstick.target, lambda: {yardstick.pid}, set),
                _Subject("SMCP, 2026-07-28", modern, self._front, self._hosted),
                _Subject("SMCP, 2025-11-25", guest.target(self._platform, key, session), self._front, self._hosted),
            ]
            return _rows(subjects, self._plan)

    def _sessions(self, key: guest.Key) -> tuple[int, float, float, float]:
        """Number of sessions, milliseconds to open one, KiB of the platform and of hosted processes for each."""
        number = self._plan.sessions
        self._tell(f"{number} legacy sessions")
        front, behind = cores.memory_kib(self._front(), "Pss_Anon"), cores.memory_kib(self._hosted())
        opened: list[str] = []
        with httpx2.Client(timeout=60.0) as client:
            taken = _timed(
                lambda: opened.extend(guest.open_session(client, self._platform, key) for _ in range(number))
            )
            front = cores.memory_kib(self._front(), "Pss_Anon") - front
            behind = cores.memory_kib(self._hosted()) - behind
            for session in opened:
                guest.end_session(client, self._platform, key, session)
        return number, taken / number, front / number, behind / number


def _profiles(directory: pathlib.Path, tell: Callable[[str], None], *, legacy: bool, native: bool) -> None:
    """Print where the platform's time goes under 64 connections, on one wire."""
    where = cores.choose()
    platform = guest.prepare(directory)
    os.sched_setaffinity(0, {where.load})
    tell("starting, and deploying the echo server")
    try:
        roles = guest.started(platform, where)
        key = guest.settle(platform).caller
        with httpx2.Client(timeout=60.0) as client:
            guest.call(client, platform, key)
            session = guest.open_session(client, platform, key) if legacy else ""
        target = guest.target(platform, key, session)
        tell("sampling under load")
        found = profiled.profile(roles.platform, target, 64, 8.0, native=native)
    finally:
        platform.stop()
    profiled.show(f"SMCP, {guest.LEGACY if legacy else guest.MODERN}, 64 connections", found)


def main() -> int:
    """Run, print, and return 0; 1 with the reason when an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a call through SMCP costs.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="fewer connections, one short round: a smoke test")
    parser.add_argument("--only", choices=PARTS, help="calls through the platform, or what the sandbox costs")
    parser.add_argument("--profile", action="store_true", help="only print where the platform's time goes under load")
    parser.add_argument("--legacy", action="store_true", help="profile the legacy wire instead of the modern one")
    parser.add_argument("--native", action="store_true", help="profile native frames too: slower, and more to see")
    options = parser.parse_args()

    def tell(text: str) -> None:
        print(f"  {text} …", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="smcp-bench-") as directory:
        try:
            if options.profile:
                _profiles(pathlib.Path(directory), tell, legacy=options.legacy, native=options.native)
                return 0
            parts = (options.only,) if options.only else PARTS
            found = _Bench(pathlib.Path(directory), QUICK if options.quick else FULL, parts, tell).run()
        except (RuntimeError, AssertionError, errors.SmcpError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(found.as_data(), indent=2))
    else:
        report.show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
