"""What the walls cost: the same things done bare and in cells of the real launcher, in turns, in one run.

The launchers, the cells and the bare processes stand on the measured core, their client on the other one.
"""

import asyncio
import contextlib
import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final, NamedTuple

import msgspec

from bench import bare, cores, figures, guest, servers
from bench.figures import BARE
from smcp.app import machine
from smcp.kernel import ids, observe, settings
from smcp.runtime import driver, peer, spool
from smcp.runtime.drivers import stdio
from smcp.sandbox import cells, cgroups, egress, launch, spawn, walls
from smcp.sandbox.egress import rules

_LIMITS: Final = settings.Sandbox()
_SITE: Final = "bench.example"
_TRUE: Final = "/usr/bin/true"
_OPEN: Final = "/usr/share"
_WHOLE: Final = "in a cell, every layer"
_AT_ONCE: Final = (1, 16)
_CHUNKS: Final = 5
_FETCH: Final = """
import http.client, json, sys, time
host, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def asked(connection):
    connection.request("POST", "/", b"{}")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
fresh, kept = [], []
for _ in range(number):
    before = time.perf_counter()
    connection = http.client.HTTPConnection(host, port)
    asked(connection)
    connection.close()
    fresh.append(round((time.perf_counter() - before) * 1000, 3))
connection = http.client.HTTPConnection(host, port)
asked(connection)
for _ in range(number):
    before = time.perf_counter()
    asked(connection)
    kept.append(round((time.perf_counter() - before) * 1000, 3))
print(json.dumps(fresh))
print(json.dumps(kept))
"""


class Sizes(NamedTuple):
    """How often everything is done."""

    starts: int
    calls: int
    colds: int
    requests: int


class _Standing(NamedTuple):
    """A launcher of the bench's own."""

    launcher: launch.Launcher
    pid: int

    def processes(self) -> set[int]:
        """Of every cell."""
        return cores.family(self.pid) - {self.pid}


class Sandbox:
    """Measures on a machine, with the artefacts of a platform that has been stopped."""

    def __init__(
        self,
        found: machine.Machine,
        data: pathlib.Path,
        where: cores.Cores,
        sizes: Sizes,
        into: figures.Figures,
        tell: Callable[[str], None],
    ) -> None:
        self._found = found
        self._config = settings.Settings(platform=settings.Platform(data_dir=str(data)))
        self._where = where
        self._sizes = sizes
        self._figures = into
        self._tell = tell

    async def run(self, echo: servers.Deployed, started: list[servers.Deployed]) -> None:
        """Measure everything. Raises RuntimeError when something answers wrongly."""
        self._tell("sandbox: start of a process, layer by layer")
        await self._starts(echo)
        async with self._standing("bench") as whole:
            self._tell("sandbox: calls")
            await self._calls(whole, echo)
            for one in started:
                self._tell(f"sandbox: cold start, {one.label}")
                for _ in range(self._sizes.colds):
                    self._cold_bare(one)
                    await self._cold_in_cell(whole, one)
            self._tell("sandbox: egress")
            await self._egress(whole, echo)

    @contextlib.asynccontextmanager
    async def _standing(self, name: str, *without: str) -> AsyncGenerator[_Standing]:
        house = self._found.house(self._config)
        host = msgspec.structs.replace(house.host, layers=house.host.layers - set(without))
        # A name of its own, or the second one would sweep the first one's cells.
        house = msgspec.structs.replace(house, platform=name, host=host)
        if walls.UID in without:
            house = msgspec.structs.replace(house, uid_first=0, uid_count=0)
        with guest.on(self._where.measured, self._where.load):
            running, socket = launch.process(house)
            launcher = await launch.Launcher(socket, running).opened()
        try:
            yield _Standing(launcher, running.pid)
        finally:
            await launcher.close()

    def _cell(self, one: servers.Deployed, argv: tuple[str, ...] = (), ports: tuple[int, ...] = ()) -> walls.Cell:
        return cells.hosted(
            _LIMITS, one.runs, guest.TENANT, one.artefact, argv or one.argv, files=_files(ports), egress=ports
        )

    # --- start ---

    async def _starts(self, echo: servers.Deployed) -> None:
        cell = self._cell(echo, (_TRUE,))
        layers = self._found.host.layers
        async with contextlib.AsyncExitStack() as stack:
            whole = await stack.enter_async_context(self._standing("bench"))
            ways = {_WHOLE: (whole.launcher, cell)}
            for layer in (walls.SECCOMP, walls.UID, walls.PROC, walls.USER):
                if layer in layers:
                    # What is nested needs the namespace around it.
                    without = (layer, walls.NESTING, walls.UID) if layer == walls.USER else (layer,)
                    made = await stack.enter_async_context(self._standing(f"bench{len(ways)}", *without))
                    ways[f"… without {' and '.join(without)}"] = (made.launcher, cell)
            groups = cgroups.find("benchgroups")
            if groups is not None:
                stack.callback(groups.close)
            ways["… with egress"] = (whole.launcher, self._cell(echo, (_TRUE,), (80,)))
            # Who is not the launcher can't bind from the platform's closed directory; any other costs the same.
            alone = walls.command(self._cell(echo._replace(artefact=_OPEN), (_TRUE,)), self._found.host)
            for _ in range(self._sizes.starts):
                with guest.on(self._where.measured, self._where.load):
                    self._started(BARE, bare.run([_TRUE]))
                    self._started("bubblewrap alone", bare.run(alone))
                for how, (launcher, asked) in ways.items():
                    began, ended = await _ran(launcher, asked)
                    self._started(how, ended)
                    if how == _WHOLE:
                        self._started("… of that, until it runs", began)
                        if groups is not None:
                            self._started("… of that, cgroups made and removed", _grouped(groups, cell))

    def _started(self, how: str, taken_ms: float) -> None:
        self._figures.add("start, to the end of `true`", "true", how, "ms", [taken_ms])

    # --- calls ---

    async def _calls(self, whole: _Standing, echo: servers.Deployed) -> None:
        with guest.on(self._where.measured, self._where.load):
            server = bare.Server(echo.bare(), echo.bare_env())
        with server:
            server.initialize()
            async with _piped(whole.launcher, self._cell(echo)) as piped, self._instance(whole, echo) as instance:
                piped.initialize()
                calls = self._sizes.calls // _CHUNKS
                for turn in range(_CHUNKS + 1):
                    for at_once in _AT_ONCE:
                        for how, taken in (
                            (BARE, server.per_call(calls, at_once)),
                            ("in a cell, same client", piped.per_call(calls, at_once)),
                            ("in a cell, the platform's driver", await _through(instance, calls, at_once)),
                        ):
                            if turn:  # the first one warms up
                                self._figures.add("a call, over stdio", f"{at_once} in flight", how, "µs", [taken])

    @contextlib.asynccontextmanager
    async def _instance(self, whole: _Standing, one: servers.Deployed) -> AsyncGenerator[driver.Instance]:
        """A copy as the platform runs it, initialized."""
        limits = driver.Limits(
            stop_grace_s=self._config.runtime.stop_grace_s,
            max_message_bytes=self._config.runtime.max_message_bytes,
            stream_buffer=self._config.runtime.stream_buffer,
            tenant_buffer_bytes=self._config.runtime.tenant_buffer_bytes,
        )
        spools = spool.Spools(tempfile.gettempdir())
        made = stdio.StdioDriver(lambda _: self._cell(one), whole.launcher, limits, spools)
        tenant, server = ids.TenantId(guest.TENANT), ids.ServerName("bench")
        spec = driver.Spec(tenant=tenant, server=server, deployment="bench", artefact=one.artefact, argv=one.argv)
        instance = await made.start(spec, modern=False, lines=_ignored)
        try:
            await peer.Peer(instance, modern=False, timeout_s=60.0).introduce()
            yield instance
        finally:
            await made.close()

    # --- cold start, memory ---

    def _cold_bare(self, one: servers.Deployed) -> None:
        with guest.on(self._where.measured, self._where.load):
            before = time.perf_counter()
            server = bare.Server(one.bare(), one.bare_env())
        with server:
            server.initialize()
            self._cold(one, BARE, before)
            self._memory(one, BARE, cores.family(server.pid))

    async def _cold_in_cell(self, whole: _Standing, one: servers.Deployed) -> None:
        before = time.perf_counter()
        async with self._instance(whole, one):
            self._cold(one, _WHOLE, before)
            made = whole.processes()
            wrapping = {pid for pid in made if cores.name(pid) == "bwrap"}
            self._memory(one, _WHOLE, made - wrapping)
            self._memory(one, "… bubblewrap around it", wrapping)

    def _cold(self, one: servers.Deployed, how: str, before: float) -> None:
        taken = (time.perf_counter() - before) * 1000
        self._figures.add("cold start, to the answer of initialize", one.label, how, "ms", [taken])

    def _memory(self, one: servers.Deployed, how: str, pids: set[int]) -> None:
        self._figures.add("memory of a copy (Pss)", one.label, how, "MiB", [cores.memory_kib(pids) / 1024])

    # --- egress ---

    async def _egress(self, whole: _Standing, echo: servers.Deployed) -> None:
        with guest.site_on(self._where) as site:
            config = settings.Egress(hosts=(f"{_SITE}=127.0.0.1",), allowed_networks=("127.0.0.0/8",))
            reach = egress.Egress(config, observe.Metrics("bench"))
            allowed = rules.parsed((f"{_SITE}:{site.port}",))
            number = self._sizes.requests

            def argv(host: str) -> tuple[str, ...]:
                return (echo.runs.executable, "-c", _FETCH, host, str(site.port), str(number))

            cell = self._cell(echo, argv(_SITE), rules.ports(allowed))
            outside = echo._replace(argv=argv("127.0.0.1"))
            with guest.on(self._where.measured, self._where.load):
                done = await asyncio.to_thread(_said, outside)
            self._requests(BARE, done)
            attached = functools.partial(reach.attach, allowed=allowed, told=_ignored)
            outcome = await spawn.run(cell, whole.launcher, timeout_s=60.0, answer=attached)
            if outcome.code != 0:
                raise RuntimeError(f"egress: {outcome}")
            self._requests("in a cell, through the guard", list(outcome.tail))

    def _requests(self, how: str, lines: list[str]) -> None:
        for subject, line in zip(("a connection each", "one connection kept"), lines[-2:], strict=True):
            self._figures.add("an HTTP request to loopback", subject, how, "ms", json.loads(line))


def _ignored(_line: str) -> None:
    """Nobody reads the copy's log here."""


def _files(ports: tuple[int, ...]) -> tuple[walls.File, ...]:
    return egress.files() if ports else ()


@contextlib.contextmanager
def _nothing() -> Generator[int]:
    """/dev/null, open."""
    number = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield number
    finally:
        os.close(number)


def _said(one: servers.Deployed) -> list[str]:
    done = subprocess.run(one.bare(), env=one.bare_env(), capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


async def _ran(launcher: launch.Launcher, cell: walls.Cell) -> tuple[float, float]:
    """Milliseconds until the cell runs, and until it is gone. Raises RuntimeError when it fails."""
    with _nothing() as number:
        before = time.perf_counter()
        child = await launcher.spawn(cell, stdin=number, stdout=number, stderr=number)
        began = time.perf_counter()
        code = await child.wait()
        ended = time.perf_counter()
    for one in child.sockets:
        one.close()
    if code != 0:
        raise RuntimeError(f"{cell.argv} ended with {code} in a cell")
    return (began - before) * 1000, (ended - before) * 1000


def _grouped(groups: cgroups.Groups, cell: walls.Cell) -> float:
    """Milliseconds that the cgroups of `cell` take: the launcher has no switch that leaves them out."""
    before = time.perf_counter()
    made = groups.make("cell", cgroups.Limits(cell.memory_bytes, cell.processes, cell.cpus))
    while not made.remove():
        pass
    return (time.perf_counter() - before) * 1000


@contextlib.asynccontextmanager
async def _piped(launcher: launch.Launcher, cell: walls.Cell) -> AsyncGenerator[bare.Pipes]:
    """A server in a cell, asked by the same blocking client as the bare one."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with _nothing() as nothing:
        child = await launcher.spawn(cell, stdin=theirs_in, stdout=theirs_out, stderr=nothing)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield bare.Pipes(ours_out, ours_in)
    finally:
        child.kill()
        await child.wait()
        os.close(ours_out)
        os.close(ours_in)


async def _through(instance: driver.Instance, calls: int, at_once: int) -> float:
    """Microseconds for each call by the platform's driver, `at_once` of them in flight."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            _, call = instance.calls.ask("tools/call", bare.params(number))
            await call.completed()
            bare.check(call.response, number)
            call.release()

    before = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return (time.perf_counter() - before) / calls * 1e6
