"""What the official suite is expected to say: how many scenarios there are, and which of them do not simply pass.

The tests of tests/real/conformance hold runs against it, exactly; docs/reference/conformance.md shows it (`make docs`).
"""

import asyncio
from typing import Final, Literal, NamedTuple

from support import clients, conformance
from support.clients import Endpoint
from support.conformance import Outcome, Result, Revision
from support.everything import Build

Hosting = Literal["stdio", "remote", "worker"]
"""How a build is reached by SMCP: as a package that it runs, elsewhere, over HTTP, or as a Worker that it runs."""


class Run(NamedTuple):
    """One run of the suite against one build of the fixture: how many scenarios it has, scored and not scored."""

    build: Build
    revision: Revision
    required: int
    more: int

    @property
    def translated(self) -> bool:
        """Whether the suite's client and the build are of two eras, with SMCP between them."""
        return self.build == ("legacy" if self.revision >= _MODERN else "modern")


_MODERN: Final[Literal["2026-07-28"]] = "2026-07-28"
BUILDS: Final[tuple[Build, ...]] = ("dual", "legacy", "modern")

RUNS: Final = (
    Run("dual", "2026-07-28", 37, 13),
    Run("modern", "2026-07-28", 37, 13),
    Run("legacy", "2026-07-28", 37, 13),
    Run("dual", "2025-11-25", 30, 3),
    Run("legacy", "2025-11-25", 30, 3),
    Run("modern", "2025-11-25", 30, 3),
    Run("dual", "2025-06-18", 27, 0),
    Run("legacy", "2025-06-18", 27, 0),
    Run("modern", "2025-06-18", 27, 0),
    Run("dual", "2025-03-26", 1, 0),
    Run("legacy", "2025-03-26", 1, 0),
    Run("modern", "2025-03-26", 1, 0),
)
"""Of the two older revisions no list is frozen: there, all that the suite has is asked for."""

REMOTE: Final = tuple(one for one in RUNS if one.revision >= "2025-11-25")
"""What is asked of builds that run elsewhere."""

WORKER: Final = tuple(one for one in RUNS if one.build == "dual" and one.revision >= "2025-06-18")
"""What is asked of the fixture that is a Worker, which speaks both eras."""

ALONE: Final = tuple(one for one in RUNS if not one.translated)
"""What the builds themselves are asked, without SMCP."""


class Remark(NamedTuple):
    """A scenario that needs a word: what it comes to without SMCP (the fixture over HTTP), through it, and why."""

    revision: Revision
    scenario: str
    alone: Result | None
    """None where the builds do not speak it by themselves."""
    hosted: Result
    why: str
    builds: tuple[Build, ...] = BUILDS
    hosting: tuple[Hosting, ...] = ("stdio", "remote", "worker")


_TASKS: Final = (
    "Not scored: an extension (`io.modelcontextprotocol/tasks`, SEP-2663), which is optional. The fixture is made with"
    " an SDK that does not have it, so there is nothing to pass on."
)

REMARKS: Final = (
    Remark(
        "2025-11-25",
        "server-sse-polling",
        "passes",
        "passes",
        "Not scored. Through SMCP two of its three checks count: the priming event and `retry`. The third wants the"
        " server to close its own event stream in the middle of a call; a server over stdio has no stream to close, so"
        " the answer comes on the first one and the suite notes that as information. That a client whose stream breaks"
        " gets the rest of it is shown by SMCP's own tests.",
        builds=("dual", "legacy"),
        hosting=("stdio",),
    ),
    Remark(
        "2025-11-25",
        "server-sse-polling",
        "passes",
        "checks nothing",
        "Not scored. A server over HTTP closes the stream that SMCP reads, in the middle of the call; SMCP comes back"
        " for the rest by itself, and answers its own client as JSON, so there is no stream for the suite to look at.",
        builds=("dual", "legacy"),
        hosting=("remote", "worker"),
    ),
    Remark(
        "2025-11-25",
        "server-sse-polling",
        None,
        "checks nothing",
        "Not scored. The suite looks at the stream of a call, and this call is answered as JSON, as it may be. SMCP"
        " opens a stream when a call says something before its answer; the fixture's would log, but of 2026-07-28 “the"
        " server MUST NOT emit `notifications/message` for a request that does not include” a level (Logging,"
        " Per-request log level); this client names none. That the stream of a legacy client's call to a modern server"
        " begins with an id and `retry`, and is resumed, is shown by SMCP's own tests.",
        builds=("modern",),
    ),
    *(
        Remark("2026-07-28", f"tasks-{name}", "fails", "fails", _TASKS)
        for name in (
            "lifecycle",
            "capability-negotiation",
            "wire-fields",
            "request-state-removal",
            "mrtr-input",
            "request-headers",
            "dispatch-and-envelope",
            "required-task-error",
            "mrtr-composition",
        )
    ),
    Remark(
        "2026-07-28",
        "tasks-status-notifications",
        "checks nothing",
        "checks nothing",
        "Not scored, of the same extension: the suite itself skips it, until its harness reads these notifications from"
        " the `subscriptions/listen` stream.",
    ),
)


class Window(NamedTuple):
    """A scenario that judges by the clock: what it gives a server how long for."""

    scenario: str
    what: str


WINDOWS: Final = (
    Window(
        "server-stateless",
        "It reads the stream of a call for 0.5 s and each stream of `subscriptions/listen` for 0.8 to 1.5 s, opening"
        " them included; what comes later is taken for missing.",
    ),
    Window(
        "tools-call-with-logging",
        "It counts the log messages 200 ms after the call's result; in the older era they may come on another"
        " connection than the result, and so after it.",
    ),
    Window(
        "server-initialize",
        "It gives the second of two handshakes 5 s, in which a server over stdio may have to be started.",
    ),
    Window("server-session-lifecycle", "It gives the answer to a handshake 5 s, and goes on without it."),
    Window("server-sse-polling", "It reads a call's stream for 10 s, and the stream that resumes it for 5 s."),
)
"""What may come out worse on a busy machine without anybody's fault. Each is run again, alone, when it does not come
out as expected, `_AGAIN` times at most, and then counts as it comes out. So is a scenario in which the suite has hung
up by itself; no other one gets a second chance."""
_AGAIN: Final = 3
_HUNG_UP: Final = "This operation was aborted"
"""In what a check says: of 2026-07-28 the suite gives every request 10 s, the start of a server included."""


def outcome(run: Run, endpoint: Endpoint, hosting: Hosting | None = None) -> Outcome:
    """The suite's word on `endpoint`, where `run` is served: by SMCP, or alone."""
    found, expected = conformance.run(endpoint.url, endpoint.key, run.revision), remarks(run, hosting)
    cut_off = {one.name for one in found.scenarios if any(_HUNG_UP in text for text in one.failures)}
    for scenario in sorted(cut_off | found.names.intersection(one.scenario for one in WINDOWS)):
        for _ in range(_AGAIN):
            if found.remarks.get(scenario) == expected.get(scenario):
                break
            print(f"{scenario} did not come out as expected:\n{found.table()}")
            found = conformance.again(found, scenario, endpoint.url, endpoint.key)
    print(found.table())
    return found


def holds(run: Run, endpoint: Endpoint, hosting: Hosting) -> None:
    """Fail unless the suite says of `endpoint` exactly what is expected."""
    asyncio.run(_in_demand(endpoint, _MODERN if run.revision >= _MODERN else "legacy"))
    found = outcome(run, endpoint, hosting)
    assert (found.passed, found.required) == (run.required, run.required), found.table()
    assert len(found.scenarios) == run.required + run.more, found.table()
    assert found.remarks == remarks(run, hosting), found.table()


async def _in_demand(endpoint: Endpoint, mode: clients.Mode) -> None:
    """Two clients at once, so that copies run, or are started ahead: the suite gives two starts 5 s each, or one 10."""
    await asyncio.gather(*(clients.python(endpoint, mode, "test_simple_text", {}) for _ in range(2)))


def remarks(run: Run, hosting: Hosting | None = None) -> dict[str, Result]:
    """What is expected of the scenarios of `run` that do not simply pass: through SMCP, or alone."""
    return {
        one.scenario: result
        for one in REMARKS
        if one.revision == run.revision
        and run.build in one.builds
        and (hosting is None or hosting in one.hosting)
        and (result := one.alone if hosting is None else one.hosted) not in ("passes", None)
    }


def name(run: Run) -> str:
    """A run as tests name it."""
    return f"{run.build}-{run.revision}"
