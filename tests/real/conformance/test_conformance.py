"""The official conformance suite through SMCP: the fixture hosted over stdio, an API key on every request.

Every build is asked in every version, its own era's or not. What is reached is written down exactly (`support.suite`):
a change in either direction is looked at.
"""

import pytest

from support import suite
from support.builds import Builds

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.mark.requirement("mcp:suite:modern", "mcp:suite:not-scored")
@pytest.mark.parametrize("run", [one for one in suite.RUNS if one.revision == "2026-07-28"], ids=suite.name)
def test_a_hosted_server_passes_the_suite_of_the_modern_era(builds: Builds, run: suite.Run) -> None:
    suite.holds(run, builds[run.build], "stdio")


@pytest.mark.requirement("mcp:suite:legacy", "mcp:suite:not-scored")
@pytest.mark.parametrize("run", [one for one in suite.RUNS if one.revision == "2025-11-25"], ids=suite.name)
def test_a_hosted_server_passes_the_suite_of_the_legacy_era(builds: Builds, run: suite.Run) -> None:
    suite.holds(run, builds[run.build], "stdio")


@pytest.mark.requirement("mcp:suite:older")
@pytest.mark.parametrize("run", [one for one in suite.RUNS if one.revision < "2025-11-25"], ids=suite.name)
def test_a_hosted_server_passes_all_that_the_suite_has_for_older_wires(builds: Builds, run: suite.Run) -> None:
    suite.holds(run, builds[run.build], "stdio")
