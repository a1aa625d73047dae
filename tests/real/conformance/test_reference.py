"""The yardstick itself: what the fixture reaches without SMCP in front, behind a key that every request needs.

What fails here can't be asked of SMCP; what passes here and fails through SMCP is SMCP's fault.
"""

import pathlib

import pytest

from support import conformance, suite, workers
from support.clients import Endpoint
from support.everything import Build

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.mark.requirement("mcp:suite:yardstick")
@pytest.mark.parametrize("run", suite.ALONE, ids=suite.name)
def test_each_build_alone_passes_the_suite_of_its_eras(alone: dict[Build, Endpoint], run: suite.Run) -> None:
    outcome = suite.outcome(run, alone[run.build])
    assert (outcome.passed, outcome.required, outcome.failures) == (run.required, run.required, {}), outcome.table()
    assert len(outcome.scenarios) == run.required + run.more, outcome.table()
    assert outcome.remarks == suite.remarks(run), outcome.table()


@pytest.mark.requirement("workers:suite:yardstick")
@pytest.mark.parametrize("run", suite.WORKER, ids=suite.name)
def test_the_fixture_that_is_a_worker_passes_in_workerd_itself(tmp_path: pathlib.Path, run: suite.Run) -> None:
    with workers.alone("everything", tmp_path) as url:
        outcome = suite.outcome(run, Endpoint(url, "needed by nobody"))
    assert (outcome.passed, outcome.required, outcome.failures) == (run.required, run.required, {}), outcome.table()
    assert outcome.remarks == suite.remarks(run), outcome.table()


@pytest.mark.requirement("mcp:suite:yardstick")
def test_the_suite_fails_where_the_key_is_refused(alone: dict[Build, Endpoint]) -> None:
    outcome = conformance.run(alone["dual"].url, "another-key", "2025-11-25")
    assert outcome.passed == 0, outcome.table()
