"""Calls under load: the platform on both wires and its peers, beside a bare uvicorn app, in turns."""

import contextlib
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple

import uvloop

from bench import cores, guest, load, peers, wire

YARDSTICK: Final = "bare uvicorn (yardstick)"
CONNECTIONS: Final = 64
"""Of the table that holds the peers; each connection has a session of its own where there are sessions."""
_OPENINGS: Final = 21


class Plan(NamedTuple):
    """How long everything takes."""

    connections: tuple[int, ...]
    """Numbers of connections, for the platform and the yardstick; peers are measured at `CONNECTIONS` only."""
    rounds: int
    warm_s: float
    seconds: float


class Row(NamedTuple):
    """One line: what was asked, at how many connections."""

    name: str
    sample: load.Sample
    """The median round by calls a second; every answer of every round was right."""
    hosted_us: float
    """CPU of the hosted server (and its walls) per call; 0 where there is none."""
    ratio: float
    """Calls a second, as a share of the yardstick's at as many connections."""
    memory_mib: float
    """Pss of the gateway's processes after the load, without the hosted server's."""
    open_ms: float | None
    """Median to open a session and have its first call answered; None where there are no sessions."""


class Subject(NamedTuple):
    """Something that is measured: its processes, and those of the server behind it."""

    name: str
    target: load.Target
    front: Callable[[], set[int]]
    hosted: Callable[[], set[int]]
    everywhere: bool = True
    """At every number of connections, or at `CONNECTIONS` only."""
    memory: Callable[[], set[int]] | None = None
    """The processes whose memory counts, where they are more than those that a call costs time."""
    open_ms: float | None = None


class _Measured(NamedTuple):
    sample: load.Sample
    hosted_us: float


def _once(subject: Subject, connections: int, plan: Plan) -> _Measured:
    front, hosted = subject.front(), subject.hosted()
    behind: list[float] = []

    def cpu() -> float:
        behind.append(cores.cpu_us(hosted))
        return cores.cpu_us(front)

    try:
        sample = uvloop.run(load.measure(subject.target, connections, plan.warm_s, plan.seconds, cpu))
    except RuntimeError as error:
        raise RuntimeError(f"{subject.name}, {connections} connections: {error}") from error
    return _Measured(sample, (behind[-1] - behind[0]) / sample.calls)


def rows(subjects: Sequence[Subject], plan: Plan, fails: Callable[[str], None]) -> list[Row]:
    """Every subject at every number of connections, in turns, so that a busy moment of the machine meets all.

    The first is the yardstick. A peer that answers wrongly is told to `fails` and has no figure; anything else that
    does raises RuntimeError.
    """
    found: dict[tuple[str, int], list[_Measured]] = {}
    lost: set[str] = set()
    for _ in range(plan.rounds):
        for connections in plan.connections:
            for subject in subjects:
                if subject.name in lost or not (subject.everywhere or connections == CONNECTIONS):
                    continue
                try:
                    measured = _once(subject, connections, plan)
                except RuntimeError as error:
                    if subject.everywhere:
                        raise
                    lost.add(subject.name)
                    fails(f"no figure for {error}")
                else:
                    found.setdefault((subject.name, connections), []).append(measured)
    middle = {key: _median(samples) for key, samples in found.items()}
    first = subjects[0].name
    return [
        Row(
            subject.name,
            middle[subject.name, connections].sample,
            middle[subject.name, connections].hosted_us,
            middle[subject.name, connections].sample.per_second / middle[first, connections].sample.per_second,
            cores.memory_kib((subject.memory or subject.front)()) / 1024,
            subject.open_ms,
        )
        for connections in plan.connections
        for subject in subjects
        if (subject.name, connections) in middle and subject.name not in lost
    ]


def _median(samples: list[_Measured]) -> _Measured:
    """The middle one by calls a second: all of its figures belong together."""
    return sorted(samples, key=lambda one: one.sample.per_second)[len(samples) // 2]


def opening_ms(endpoint: wire.Endpoint, samples: int = _OPENINGS) -> float:
    """Median milliseconds to open a legacy session and have its first call answered, on a connection that is kept."""
    client = wire.Client(endpoint)
    try:
        taken: list[float] = []
        for number in range(samples):
            before = time.perf_counter()
            session = client.open_session()
            client.echo(number, session)
            taken.append((time.perf_counter() - before) * 1000)
            client.end_session(session)
        return statistics.median(taken)
    finally:
        client.close()


@contextlib.contextmanager
def opened(endpoint: wire.Endpoint, number: int) -> Generator[list[str]]:
    """That many legacy sessions, ended in the end."""
    client = wire.Client(endpoint)
    try:
        sessions = [client.open_session() for _ in range(number)]
        yield sessions
        for session in sessions:
            client.end_session(session)
    finally:
        client.close()


@contextlib.contextmanager
def peer_subjects(
    where: cores.Cores, tell: Callable[[str], None], note: Callable[[str], None]
) -> Generator[list[Subject]]:
    """All peers that can be started here, each with its sessions; what can't is told to `note`."""
    with contextlib.ExitStack() as stack:
        found: list[Subject] = []
        for name, make in peers.ALL:
            tell(f"starting {name}")
            try:
                peer = stack.enter_context(make(where))
                open_ms = opening_ms(peer.endpoint)
                client = wire.Client(peer.endpoint)
                sessions = [client.open_session() for _ in range(CONNECTIONS)]
                client.close()
            except (peers.MissingError, RuntimeError, OSError) as error:
                note(f"{name} was not measured: {str(error).splitlines()[0][:300]}")
                continue
            target = wire.legacy(peer.endpoint, sessions)
            found.append(Subject(peer.name, target, peer.front, peer.hosted, everywhere=False, open_ms=open_ms))
        yield found


def platform_subjects(
    modern: wire.Endpoint, shared: wire.Endpoint, sessions: Sequence[str], roles: guest.Roles
) -> list[Subject]:
    """The platform on both wires; `sessions` are of the server that legacy clients share."""

    def front() -> set[int]:
        return {roles.platform}

    def memory() -> set[int]:
        return set(roles)

    found = [Subject("SMCP, 2026-07-28", wire.modern(modern), front, roles.hosted, memory=memory)]
    if sessions:
        name, target = "SMCP, 2025-11-25, shared child", wire.legacy(shared, sessions)
        found.append(Subject(name, target, front, roles.hosted, memory=memory, open_ms=opening_ms(shared)))
    return found
