"""The official conformance suite through SMCP, at builds of the fixture that run elsewhere and are reached by HTTP."""

from collections.abc import Generator

import pytest

from support import elsewhere, suite
from support.elsewhere import Elsewhere
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def every_build(tmp_path_factory: pytest.TempPathFactory) -> Generator[Elsewhere]:
    with (
        Platform(tmp_path_factory.mktemp("remote"), elsewhere.SETTINGS) as platform,
        Elsewhere(platform) as remotes,
    ):
        yield remotes


@pytest.fixture
def remotes(every_build: Elsewhere) -> Generator[Elsewhere]:
    """The builds; no session outlives the test."""
    yield every_build
    every_build.rest()


@pytest.mark.requirement("mcp:suite:remote")
@pytest.mark.parametrize("run", suite.REMOTE, ids=suite.name)
def test_a_remote_server_passes_the_suite(remotes: Elsewhere, run: suite.Run) -> None:
    suite.holds(run, remotes[run.build], "remote")
