"""What it costs that any client may use any server: calls of every pairing of eras in turns, idle legacy sessions.

A call between two eras stands beside one of the same client to a server of its own era, in the same run. The servers
are the lean echo server in three builds, so what differs is what stands in front of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import uvloop

from bench import cores, guest, load, wire

CONNECTIONS: Final = 16
"""Each with a session of its own on the legacy wire: so many copies of the server where sessions are not shared."""


class Plan(NamedTuple):
    """How much of everything."""

    rounds: int
    warm_s: float
    seconds: float
    sessions: int
    """Idle legacy sessions over a shared child; half of them are there before memory is looked at."""
    copies: int
    """The same over a server that needs a copy for each."""


class Row(NamedTuple):
    """One pairing of a client's era and a server's: the median round by calls a second, every answer right."""

    client: str
    server: str
    per_second: float
    p50_ms: float
    cpu_us: float
    """CPU of the process that faces the network, for each call."""
    hosted_us: float
    """CPU of the server's copies, for each call."""
    ratio: float
    """Calls a second, as a share of the same client's at a server of its own era."""
    cpu_ratio: float
    """`cpu_us`, as a multiple of that."""


class Idle(NamedTuple):
    """What legacy sessions take that have been called once and do nothing."""

    how: str
    sessions: int
    platform_kib: float
    """Of the process that faces the network, for each (growth of Pss_Anon)."""
    copies: int
    """Of the server, in use for all of them."""
    copy_mib: float
    """One of these, and the walls around it (Pss)."""


class Found(NamedTuple):
    """What translation costs."""

    rows: Sequence[Row]
    idle: Sequence[Idle]


class Subject(NamedTuple):
    """A pairing that is measured."""

    client: str
    server: str
    target: load.Target
    elsewhere: frozenset[int] = frozenset()
    """Processes of a server that the platform does not run."""


class _Once(NamedTuple):
    sample: load.Sample
    hosted_us: float


def subjects(ends: Mapping[str, wire.Endpoint], sessions: Mapping[str, Sequence[str]]) -> list[Subject]:
    """Every pairing. `ends`: by the server's era, where it is; `sessions`: legacy ones, by the server's era."""
    return [
        Subject(wire.MODERN, wire.MODERN, wire.modern(ends[wire.MODERN])),
        Subject(wire.MODERN, wire.LEGACY, wire.modern(ends[wire.LEGACY])),
        Subject(wire.LEGACY, wire.LEGACY, wire.legacy(ends[wire.LEGACY], sessions[wire.LEGACY])),
        Subject(wire.LEGACY, wire.MODERN, wire.legacy(ends[wire.MODERN], sessions[wire.MODERN])),
    ]


def remote(endpoint: wire.Endpoint, pid: int) -> Subject:
    """A server of the newer era that is reached over HTTP."""
    return Subject(wire.MODERN, f"{wire.MODERN}, remote", wire.modern(endpoint), frozenset({pid}))


def rows(asked: Sequence[Subject], roles: guest.Roles, plan: Plan) -> list[Row]:
    """Every pairing, in turns. Raises RuntimeError when an answer was wrong."""
    taken: dict[tuple[str, str], list[_Once]] = {}
    for _ in range(plan.rounds):
        for one in asked:
            taken.setdefault((one.client, one.server), []).append(_once(one, roles, plan))
    middle = {key: sorted(each, key=lambda one: one.sample.per_second)[len(each) // 2] for key, each in taken.items()}
    return [_row(one, middle[one.client, one.server], middle[one.client, one.client].sample) for one in asked]


def _row(subject: Subject, found: _Once, own: load.Sample) -> Row:
    sample = found.sample
    return Row(
        subject.client,
        subject.server,
        sample.per_second,
        sample.p50_ms,
        sample.cpu_us,
        found.hosted_us,
        sample.per_second / own.per_second,
        sample.cpu_us / own.cpu_us,
    )


def _once(subject: Subject, roles: guest.Roles, plan: Plan) -> _Once:
    hosted, behind = roles.hosted() | subject.elsewhere, list[float]()

    def cpu() -> float:
        behind.append(cores.cpu_us(hosted))
        return cores.cpu_us({roles.platform})

    try:
        sample = uvloop.run(load.measure(subject.target, CONNECTIONS, plan.warm_s, plan.seconds, cpu))
    except RuntimeError as error:
        raise RuntimeError(f"{subject.client} client, {subject.server} server: {error}") from error
    return _Once(sample, (behind[-1] - behind[0]) / sample.calls)


def idle(
    how: str, endpoint: wire.Endpoint, number: int, roles: guest.Roles, states: Callable[[], Mapping[str, float]]
) -> Idle:
    """What each of `number` legacy sessions takes; all are ended again. `states` says how many copies are in each.

    The platform's growth is that of the second half: the first one has made what is made once, buffers and arenas.
    """
    client = wire.Client(endpoint)
    opened: list[str] = []
    grown: list[int] = []
    try:
        for half in (number // 2, number):
            while len(opened) < half:
                opened.append(client.open_session())
                client.echo(len(opened), opened[-1])
            grown.append(cores.memory_kib({roles.platform}, "Pss_Anon"))
        found = states()
        hosted = cores.memory_kib(roles.hosted())
    finally:
        for session in opened:
            client.end_session(session)
        client.close()
    copies, ready = sum(found.values()), found.get("spare", 0.0)
    each = (grown[1] - grown[0]) / (number - number // 2)
    return Idle(how, number, each, round(copies - ready), hosted / 1024 / copies)
