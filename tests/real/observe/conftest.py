"""One platform for all tests of what it tells about itself, with a collector that it sends its spans to."""

import pathlib
from collections.abc import AsyncGenerator, Generator

import httpx2
import pytest

from support import collector, gates, wire
from support.clients import Endpoint
from support.collector import Collector
from support.platform import Platform


@pytest.fixture(scope="session")
def seen() -> Generator[Collector]:
    """The collector."""
    with collector.Collector() as running:
        yield running


@pytest.fixture(scope="session")
def platform(seen: Collector, tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """A platform that is told of the collector."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    environ = {**gates.SETTINGS, **seen.environ, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}
    with Platform(tmp_path_factory.mktemp("observed"), environ) as running:
        yield running


@pytest.fixture(scope="session")
def at(platform: Platform) -> Endpoint:
    """Acme's server there."""
    platform.create_tenant("acme")
    admin = platform.create_key("acme", "admin")
    url = platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "tool", admin)
    return Endpoint(url, platform.create_key("acme", "mcp_user"))


@pytest.fixture
async def caller(at: Endpoint) -> AsyncGenerator[wire.Caller]:
    """Acme's user."""
    async with httpx2.AsyncClient(timeout=60.0, verify=False) as client:  # plain HTTP: see Platform.api
        made = wire.Caller(client, at)
        yield made
        await made.close()
