"""One run of the bench: the platform is started, what is asked for is measured, and nothing is left behind."""

import contextlib
import os
import pathlib
import platform as host
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, NamedTuple

import uvloop

from bench import (
    bindings,
    calls,
    cores,
    figures,
    guest,
    report,
    sandbox,
    servers,
    sessions,
    sockets,
    tokens,
    translation,
    wire,
    workers,
)
from smcp.app import machine
from smcp.kernel import errors, settings

PARTS: Final = ("calls", "sessions", "translation", "sandbox", "sockets", "bindings", "workers", "oauth")
_SPARED: Final = "time"
"""The Python server of `servers.SOURCES` that is started with a spare, and cold."""
_BUSY: Final = 0.9


class Plan(NamedTuple):
    """How long everything takes."""

    calls: calls.Plan
    sessions: sessions.Plan
    translation: translation.Plan
    sandbox: sandbox.Sizes
    sockets: sockets.Plan
    bindings: bindings.Plan
    workers: workers.Plan
    tokens: tokens.Plan


def _timed(run: Callable[[], object]) -> float:
    """Milliseconds that `run` takes."""
    before = time.perf_counter()
    run()
    return (time.perf_counter() - before) * 1000


class Bench:
    """What one run knows. `peers`: other gateways beside the platform."""

    def __init__(
        self,
        directory: pathlib.Path,
        plan: Plan,
        parts: Sequence[str],
        tell: Callable[[str], None],
        *,
        peers: bool,
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._tell = tell
        self._peers = peers
        self._where = cores.choose()
        self._platform = guest.prepare(directory)
        self._roles = guest.Roles(0, 0, 0)
        self._figures = figures.Figures()
        self._notes: list[str] = []

    def run(self) -> report.Report:
        """Measure. Raises RuntimeError when an answer was wrong."""
        began = time.monotonic()
        os.sched_setaffinity(0, {self._where.load})
        try:
            self._tell("first start")
            cold = _timed(self._start)
            self._tell("deploying the echo server")
            keys = guest.settle(self._platform)
            deployed = self._deploy(keys.admin) if {"sandbox", "sessions"} & set(self._parts) else ()
            if "translation" in self._parts:
                guest.settle_legacy(self._platform, keys.admin)
            prepared = self._prepare(keys.admin, deployed) if "sandbox" in self._parts else None
            self._platform.stop()
            called = self._calls(keys.caller, cold) if "calls" in self._parts else None
            held = self._sessions(keys, deployed) if "sessions" in self._parts else None
            between = self._translation(keys) if "translation" in self._parts else None
        finally:
            self._platform.stop()
        if prepared is not None:
            uvloop.run(prepared())
        if "sockets" in self._parts:
            self._tell("calls over a unix socket")
            sockets.measure(self._plan.sockets, self._figures, self._where)
        if "bindings" in self._parts:
            self._tell("reads of a Worker from KV")
            bindings.measure(self._plan.bindings, self._figures, self._where)
        if "oauth" in self._parts:
            self._tell("who a credential is of")
            tokens.measure(self._plan.tokens, self._figures)
        hosted = None
        if "workers" in self._parts:
            hosted = workers.measure(self._platform, self._where, self._plan.workers, self._tell, self._notes.append)
        name = f"{os.cpu_count()} cores, Linux {host.release()}, Python {host.python_version()}"
        took = time.monotonic() - began
        load, more = os.getloadavg()[0], self._figures.found()
        return report.Report(name, load, called, held, between, hosted, more, self._notes, took)

    def _start(self) -> None:
        self._roles = guest.started(self._platform, self._where)

    def _restart(self) -> float:
        """Each part begins with a platform that has done nothing yet; milliseconds of its start."""
        self._platform.stop()
        return _timed(self._start)

    def _calls(self, key: guest.Key, cold: float) -> report.Calls:
        self._tell("second start")
        warm = self._restart()
        self._idle()
        idle = cores.memory_kib({self._roles.platform}) / 1024
        modern = guest.endpoint(self._platform, key)
        client = wire.Client(modern)
        first = _timed(lambda: client.echo(1))
        later = statistics.median(_timed(lambda: client.echo(2)) for _ in range(20))
        client.close()
        hosted = cores.memory_kib(self._roles.hosted()) / 1024
        rows = self._load(modern, guest.endpoint(self._platform, key, guest.SHARED))
        return report.Calls(rows, report.Facts(cold, warm, first, later, idle, hosted))

    def _idle(self) -> None:
        """The platform's processes, before the first call."""
        for how, pid in self._roles._asdict().items():
            self._figures.add(
                "memory of the platform, idle (Pss)", "its processes", how, "MiB", [cores.memory_kib({pid}) / 1024]
            )

    def _load(self, modern: wire.Endpoint, shared: wire.Endpoint) -> list[calls.Row]:
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(calls.opened(shared, calls.CONNECTIONS))
            except RuntimeError as error:
                opened = []
                self._notes.append(f"the legacy wire over a shared child was not measured: {error}")
            ours = calls.platform_subjects(modern, shared, opened, self._roles)
            yardstick = stack.enter_context(guest.yardstick_on(self._where, wire.modern(modern)))
            theirs: list[calls.Subject] = []
            if self._peers:
                theirs = stack.enter_context(calls.peer_subjects(self._where, self._tell, self._notes.append))
            else:
                self._notes.append("peers were not measured (--peers does)")
            bare = calls.Subject(calls.YARDSTICK, yardstick.target, lambda: {yardstick.pid}, set)
            self._tell(f"load: {', '.join(one.name for one in (bare, *ours, *theirs))}")
            rows = calls.rows([bare, *ours, *theirs], self._plan.calls, self._notes.append)
        for row in rows:
            if row.sample.load_us * row.sample.per_second > _BUSY * 1e6:
                self._notes.append(f"{row.name}: the load itself kept its core busy, so it may do more than that")
        return rows

    def _sessions(self, keys: guest.Keys, deployed: Sequence[servers.Deployed]) -> sessions.Found | None:
        plan = self._plan.sessions
        self._tell(f"up to {plan.steps[-1]:,} live sessions")
        self._restart()
        node = self._roles.platform
        shared = guest.endpoint(self._platform, keys.caller, guest.SHARED)
        try:
            took = calls.opening_ms(shared, plan.openings)
        except RuntimeError as error:
            self._notes.append(f"sessions over a shared child were not measured: {error}")
            return None
        with guest.yardstick_on(self._where, wire.modern(guest.endpoint(self._platform, keys.caller))) as yardstick:
            steps, each_kib, opened = sessions.flat(shared, node, yardstick, plan)
        self._tell(f"{min(plan.streams, len(opened)):,} idle event streams")
        streams = sessions.idle(shared, opened[: plan.streams], node, plan.streams_s)
        sessions.end(shared, opened)
        cold = spare = None
        if any(one.label == servers.SOURCES[_SPARED][0] for one in deployed):
            self._tell("starts with a spare, and cold")
            # Nothing but this server's copies from here on.
            for name in (guest.SERVER, guest.SHARED):
                self._platform.api("POST", f"/tenants/{guest.TENANT}/servers/{name}/stop", key=keys.admin.text)
            cold, spare = sessions.starts(
                self._platform, keys, _SPARED, plan.starts, lambda: sessions.waiting(self._platform, self._roles)
            )
            if spare is None:
                self._notes.append("no spare copy came to stand ready, so there is no figure for it")
        return sessions.Found(steps, each_kib, took, spare, cold, streams)

    def _translation(self, keys: guest.Keys) -> translation.Found:
        key, plan = keys.caller, self._plan.translation
        self._tell("clients and servers of both eras")
        self._restart()
        ends = {
            era: guest.endpoint(self._platform, key, name)
            for era, name in ((wire.MODERN, guest.SHARED), (wire.LEGACY, guest.OWN))
        }
        with contextlib.ExitStack() as stack:
            opened = {era: stack.enter_context(calls.opened(end, translation.CONNECTIONS)) for era, end in ends.items()}
            asked = translation.subjects(ends, opened)
            site = stack.enter_context(guest.remote(self._platform, keys.admin, self._where))
            asked.append(translation.remote(guest.endpoint(self._platform, key, guest.REMOTE), site.pid))
            rows = translation.rows(asked, self._roles, plan)
        idle: list[translation.Idle] = []
        for how, era, number in (
            ("over one shared copy", wire.MODERN, plan.sessions),
            ("with a copy each", wire.LEGACY, plan.copies),
        ):
            self._tell(f"idle legacy sessions, {how}")
            self._restart()
            end = guest.endpoint(self._platform, key, guest.SHARED if era == wire.MODERN else guest.OWN)
            idle.append(translation.idle(how, end, number, self._roles, lambda: sessions.states(self._platform)))
        return translation.Found(rows, idle)

    def _machine(self) -> machine.Machine:
        config = settings.Settings(platform=settings.Platform(data_dir=str(self._platform.data)))
        return machine.Machine.find(config, os.environ, apart=True)

    def _deploy(self, admin: guest.Key) -> list[servers.Deployed]:
        """Real servers, as far as they can be fetched here."""
        found = self._machine()
        started: list[servers.Deployed] = []
        for name, (label, source) in servers.SOURCES.items():
            if name != _SPARED and "sandbox" not in self._parts:
                continue
            self._tell(f"deploying {source}")
            try:
                servers.deploy(self._platform, name, admin)
                started.append(servers.find(self._platform, name, admin, found))
            except (AssertionError, errors.SmcpError) as error:
                self._notes.append(f"{label} was not measured: {str(error).splitlines()[0][:300]}")
        return started

    def _prepare(
        self, admin: guest.Key, started: Sequence[servers.Deployed]
    ) -> Callable[[], Coroutine[None, None, None]]:
        """What is to be started with and without walls; that happens when the platform is gone."""
        found = self._machine()
        echo = servers.find(self._platform, guest.SERVER, admin, found)
        self._notes += [
            f"not there, so not measured: {one.name} ({one.why})" for one in found.layers if not one.present
        ]
        data = self._platform.data
        walls = sandbox.Sandbox(found, data, self._where, self._plan.sandbox, self._figures, self._tell)
        return lambda: walls.run(echo, list(started))
