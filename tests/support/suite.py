"""What the official suite is expected to say: how many scenarios there are, and which of them do not simply pass.

The tests of tests/real/conformance hold runs against it, exactly; docs/reference/conformance.md shows it (`make docs`).
"""

from typing import Final, NamedTuple

from support.conformance import Result, Revision
from support.everything import Build


class Run(NamedTuple):
    """One run of the suite against one build of the fixture: how many scenarios it has, scored and not scored."""

    build: Build
    revision: Revision
    required: int
    more: int


RUNS: Final = (
    Run("dual", "2026-07-28", 37, 13),
    Run("modern", "2026-07-28", 37, 13),
    Run("dual", "2025-11-25", 30, 3),
    Run("legacy", "2025-11-25", 30, 3),
    Run("dual", "2025-06-18", 27, 0),
    Run("legacy", "2025-06-18", 27, 0),
    Run("dual", "2025-03-26", 1, 0),
    Run("legacy", "2025-03-26", 1, 0),
)
"""Of the two older revisions no list is frozen: there, all that the suite has is asked for."""


class Remark(NamedTuple):
    """A scenario that needs a word: what it comes to without SMCP (the fixture over HTTP), through it, and why."""

    revision: Revision
    scenario: str
    alone: Result
    hosted: Result
    why: str


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


def remarks(revision: Revision, *, hosted: bool) -> dict[str, Result]:
    """What is expected of the scenarios of `revision` that do not simply pass."""
    return {
        one.scenario: result
        for one in REMARKS
        if one.revision == revision and (result := one.hosted if hosted else one.alone) != "passes"
    }


def name(run: Run) -> str:
    """A run as tests name it."""
    return f"{run.build}-{run.revision}"
