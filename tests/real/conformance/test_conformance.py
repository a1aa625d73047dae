"""The official conformance suite through SMCP: the fixture hosted over stdio, an API key on every request.

What is reached is written down exactly (`support.suite`): a change in either direction is looked at.
"""

import asyncio

import pytest

from support import clients, suite
from support.builds import Builds
from support.clients import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


async def _in_demand(endpoint: Endpoint) -> None:
    """Two sessions at once, so that copies are started ahead: the first scenario gives two starts 5 s each."""
    await asyncio.gather(*(clients.python(endpoint, "legacy", "test_simple_text", {}) for _ in range(2)))


def _holds(run: suite.Run, endpoint: Endpoint) -> None:
    if run.revision <= "2025-11-25":
        asyncio.run(_in_demand(endpoint))
    outcome = suite.outcome(run, endpoint, hosted=True)
    assert (outcome.passed, outcome.required) == (run.required, run.required), outcome.table()
    assert len(outcome.scenarios) == run.required + run.more, outcome.table()
    assert outcome.remarks == suite.remarks(run.revision, hosted=True), outcome.table()


@pytest.mark.requirement("mcp:suite:modern", "mcp:suite:not-scored")
@pytest.mark.parametrize("run", [one for one in suite.RUNS if one.revision == "2026-07-28"], ids=suite.name)
def test_a_hosted_server_passes_the_suite_of_the_modern_era(builds: Builds, run: suite.Run) -> None:
    _holds(run, builds[run.build])


@pytest.mark.requirement("mcp:suite:legacy", "mcp:suite:not-scored")
@pytest.mark.parametrize("run", [one for one in suite.RUNS if one.revision == "2025-11-25"], ids=suite.name)
def test_a_hosted_server_passes_the_suite_of_the_legacy_era(builds: Builds, run: suite.Run) -> None:
    _holds(run, builds[run.build])


@pytest.mark.requirement("mcp:suite:older")
@pytest.mark.parametrize("run", [one for one in suite.RUNS if one.revision < "2025-11-25"], ids=suite.name)
def test_a_hosted_server_passes_all_that_the_suite_has_for_older_wires(builds: Builds, run: suite.Run) -> None:
    _holds(run, builds[run.build])
