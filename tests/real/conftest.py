"""One platform for all tests that need a running one, with two hosted servers: the fixture, and one from PyPI."""

import pathlib
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final

import httpx2
import pytest

from support import everything, wire
from support.builds import Builds
from support.clients import Endpoint
from support.platform import Platform

_HERE: Final = pathlib.Path(__file__).parent
_LIMIT_S: Final = 300.0
"""What is real takes its time: packages are installed and platforms started while a test, or what it needs, is made."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """More time for tests with real parts than for others; one that says how much it wants has that."""
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_LIMIT_S))


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """A running platform with the settings it comes with, that finds the fixture's wheel."""
    wheels: pathlib.Path = tmp_path_factory.mktemp("wheels")
    everything.wheel(wheels)
    with Platform(tmp_path_factory.mktemp("platform"), {"SMCP_DEPLOY_WHEEL_DIRS": str(wheels)}) as running:
        yield running


@pytest.fixture(scope="session")
def hosted(platform: Platform) -> dict[str, Endpoint]:
    """The servers `everything` and `time` of one tenant."""
    sources = (f"pypi:{everything.NAME}", "everything"), ("pypi:mcp-server-time", "time")
    return platform.host("hosting", *sources)


@pytest.fixture
def fixture_endpoint(hosted: dict[str, Endpoint]) -> Endpoint:
    """The fixture server, hosted."""
    return hosted["everything"]


@pytest.fixture
def time_endpoint(hosted: dict[str, Endpoint]) -> Endpoint:
    """PyPI's mcp-server-time, hosted unmodified."""
    return hosted["time"]


@pytest.fixture(scope="session")
def all_builds(platform: Platform) -> Builds:
    """The three builds of the fixture, hosted."""
    return Builds(platform)


@pytest.fixture
def builds(all_builds: Builds) -> Generator[Builds]:
    """The three builds of the fixture, hosted; no session outlives the test."""
    yield all_builds
    all_builds.rest()


@pytest.fixture
async def caller(http: httpx2.AsyncClient) -> AsyncGenerator[Callable[[Endpoint], wire.Caller]]:
    """Makes callers, by the client `http` of their directory; their sessions are ended in the end."""
    made: list[wire.Caller] = []

    def make(at: Endpoint) -> wire.Caller:
        made.append(wire.Caller(http, at))
        return made[-1]

    yield make
    for one in made:
        await one.close()
