"""Legacy sessions: does their number cost speed, and what does each cost in memory, at its start, and idle?"""

import asyncio
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

import httpx2
import uvloop

from bench import calls, cores, guest, load, wire
from support import platform as running

_STREAMS_SETTLE_S: Final = 2.0
_HEADROOM: Final = 512
_ROUNDS: Final = 3
"""In which a step and the yardstick take turns."""
_CALM_S: Final = 0.5
_CALM_US: Final = 15_000.0


class Plan(NamedTuple):
    """How much of everything."""

    steps: tuple[int, ...]
    """Live sessions at which throughput is measured; sessions are added from step to step and none ends between."""
    warm_s: float
    seconds: float
    openings: int
    starts: int
    """Samples of a spare's and of a cold start."""
    streams: int
    streams_s: float


class Step(NamedTuple):
    """Throughput at a number of live sessions."""

    sessions: int
    per_second: float
    p99_ms: float
    of_yardstick: float
    """Calls a second, as a share of the yardstick's of the same moment: between steps, machines change."""
    ratio: float
    """`of_yardstick`, as a share of the first step's."""
    cpu_us: float
    """CPU of the process that faces the network, for each call."""
    anon_kib: int
    """Pss_Anon of the process that faces the network, with that many sessions, before the load."""


class Streams(NamedTuple):
    """Idle event streams."""

    number: int
    kib: float
    """Of the process that faces the network, for each."""
    cpu_ms: float
    """What all of them together take of it in a second."""


class Found(NamedTuple):
    """What sessions cost."""

    steps: Sequence[Step]
    session_kib: float | None
    """Growth of Pss_Anon between the last two steps, for each session; every one has been called."""
    shared_ms: float
    """To open a session and have its first call answered: the server is shared, and runs."""
    spare_ms: float | None
    """The same with a Python server of the legacy era, when a spare copy stands ready."""
    cold_ms: float | None
    """The same without any copy."""
    streams: Streams | None


def flat(
    endpoint: wire.Endpoint, node: int, yardstick: guest.Yardstick, plan: Plan
) -> tuple[list[Step], float | None, list[str]]:
    """Throughput at each number of live sessions, KiB for each session, and the sessions, which stay open.

    Memory: the load at the smaller steps has made every buffer and arena that 64 connections need, so what grows after
    it is the sessions'. It is read when each new session has had one call, before the load of its step.
    """
    opened: list[str] = []
    steps: list[Step] = []
    client = wire.Client(endpoint)
    try:
        for number in plan.steps:
            while len(opened) < number:
                opened.append(client.open_session())
                client.echo(len(opened), opened[-1])
            anon = cores.memory_kib({node}, "Pss_Anon")
            sample, share = _in_turns(wire.legacy(endpoint, opened), node, yardstick, plan)
            first = steps[0].of_yardstick if steps else share
            steps.append(Step(number, sample.per_second, sample.p99_ms, share, share / first, sample.cpu_us, anon))
    finally:
        client.close()
    if len(steps) < 2:
        return steps, None, opened
    before, after = steps[-2:]
    return steps, (after.anon_kib - before.anon_kib) / (after.sessions - before.sessions), opened


def _in_turns(target: load.Target, node: int, yardstick: guest.Yardstick, plan: Plan) -> tuple[load.Sample, float]:
    """The platform and the yardstick, one after the other: the median round, and its share of the yardstick."""
    rounds: list[tuple[float, load.Sample]] = []
    for _ in range(_ROUNDS):
        pair = [
            uvloop.run(
                load.measure(
                    one, calls.CONNECTIONS, plan.warm_s, plan.seconds / _ROUNDS, lambda p=pid: cores.cpu_us({p})
                )
            )
            for one, pid in ((target, node), (yardstick.target, yardstick.pid))
        ]
        rounds.append((pair[0].per_second / pair[1].per_second, pair[0]))
    share, sample = sorted(rounds, key=lambda one: one[0])[_ROUNDS // 2]
    return sample, share


def end(endpoint: wire.Endpoint, sessions: Sequence[str]) -> None:
    """End them."""
    client = wire.Client(endpoint)
    try:
        for session in sessions:
            client.end_session(session)
    finally:
        client.close()


class _Stream(asyncio.Protocol):
    """One event stream that is held open; what comes is not read by anybody."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.began: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.began.done():
            self.began.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.began.done():
            self.began.set_result(b"")


async def _idle(endpoint: wire.Endpoint, sessions: Sequence[str], node: int, seconds: float) -> Streams:
    loop = asyncio.get_running_loop()
    before = cores.memory_kib({node}, "Pss_Anon")
    made: list[_Stream] = []
    for session in sessions:
        request = wire.listening(endpoint, session)
        _, stream = await loop.create_connection(lambda told=request: _Stream(told), "127.0.0.1", endpoint.port)
        made.append(stream)
        answer = await stream.began
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"no event stream: {answer[:400].decode('utf-8', 'replace')}")
    await asyncio.sleep(_STREAMS_SETTLE_S)
    after, used, began = cores.memory_kib({node}, "Pss_Anon"), cores.cpu_us({node}), time.perf_counter()
    await asyncio.sleep(seconds)
    used, passed = cores.cpu_us({node}) - used, time.perf_counter() - began
    lost = sum(stream.lost for stream in made)
    for stream in made:
        stream.transport.abort()
    if lost:
        raise RuntimeError(f"{lost} idle event streams were ended")
    return Streams(len(made), (after - before) / len(made), used / 1000 / passed)


def idle(endpoint: wire.Endpoint, sessions: Sequence[str], node: int, seconds: float) -> Streams:
    """Hold one event stream in each session, and nothing else, for `seconds`. Raises RuntimeError when one ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, len(sessions) + _HEADROOM), most))
    return uvloop.run(_idle(endpoint, sessions, node, seconds))


def starts(
    platform: running.Platform, keys: guest.Keys, server: str, samples: int, spare_ready: Callable[[], bool]
) -> tuple[float, float | None]:
    """Milliseconds to open a session of a Python server and have its first call answered: cold, and with a spare.

    `spare_ready` waits until the platform keeps a copy ready that nobody uses; without one there is no figure.
    Raises RuntimeError when an answer is wrong.
    """
    endpoint = guest.endpoint(platform, keys.caller, server)

    def once() -> float:
        client = wire.Client(endpoint)
        try:
            before = time.perf_counter()
            session = client.open_session()
            answer = client.call(1, session, tool="get_current_time")
            taken = (time.perf_counter() - before) * 1000
            client.end_session(session)
        finally:
            client.close()
        if b'"result"' not in answer or b"UTC" not in answer:
            raise RuntimeError(f"wrong answer: {answer[:400].decode('utf-8', 'replace')}")
        return taken

    cold: list[float] = []
    for _ in range(samples):
        # A stopped server has no copy at all, spares included.
        for what in ("stop", "start"):
            platform.api("POST", f"/tenants/{guest.TENANT}/servers/{server}/{what}", key=keys.admin.text)
        cold.append(once())
    # Spares are learned from demand: two more starts, should stopping have made it forgotten.
    once()
    once()
    spare: list[float] = []
    while len(spare) < samples and spare_ready():
        spare.append(once())
    return statistics.median(cold), statistics.median(spare) if len(spare) == samples else None


def waiting(platform: running.Platform, roles: guest.Roles, within_s: float = 60.0) -> bool:
    """Wait until the platform's only copies are spares, and have become calm; False when that does not come.

    Calm is who used next to no processor time, each process by itself: in a sum, the end of one hides that another one
    is still busy starting.
    """
    deadline = time.monotonic() + within_s
    before: dict[int, float] = {}
    while time.monotonic() < deadline:
        now = states(platform)
        used = {pid: cores.cpu_us({pid}) for pid in roles.hosted()}
        calm = used.keys() == before.keys() and all(us - before[pid] < _CALM_US for pid, us in used.items())
        if now.pop("spare", 0.0) and not any(now.values()) and calm:
            return True
        before = used
        time.sleep(_CALM_S)
    return False


def states(platform: running.Platform) -> dict[str, float]:
    """How many copies there are in each state, as the platform's metrics say."""
    bearer = {"authorization": f"Bearer {platform.operator_key}"}
    page = httpx2.get(f"{platform.base_url}/metrics", headers=bearer, timeout=30.0).raise_for_status().text
    found = re.findall(r'^smcp_instances_live\{.*state="(\w+)".*\} (\S+)$', page, re.MULTILINE)
    return {state: float(number) for state, number in found}
