"""A tenant whose servers are Workers, on the platform that all tests share."""

import pathlib
from collections.abc import Generator

import pytest

from support import workers
from support.clients import Endpoint
from support.platform import Platform
from support.workers import Site


class Hosted:
    """The Workers of tests/fixtures/workers as one tenant has them, each deployed when it is first asked for."""

    def __init__(self, site: Site, directory: pathlib.Path) -> None:
        self.site = site
        self._directory = directory
        self._found: dict[str, Endpoint] = {}

    def __getitem__(self, name: workers.Name) -> Endpoint:
        if name not in self._found:
            self._found[name] = self.site.deploy(workers.project(name, self._directory))
        return self._found[name]

    def again(self, name: workers.Name) -> None:
        """Deploy it once more."""
        self.site.deploy(self._directory / name)


@pytest.fixture(scope="session")
def isolates(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Generator[Hosted]:
    """The Workers of a tenant."""
    with Site(platform, "isolates") as site:
        yield Hosted(site, tmp_path_factory.mktemp("isolates"))


@pytest.fixture(scope="session")
def neighbours(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Generator[Hosted]:
    """The Workers of another tenant."""
    with Site(platform, "neighbours") as site:
        yield Hosted(site, tmp_path_factory.mktemp("neighbours"))


@pytest.fixture(scope="session")
def hostile(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Generator[Hosted]:
    """The Workers of a tenant that means harm."""
    with Site(platform, "hostile") as site:
        yield Hosted(site, tmp_path_factory.mktemp("hostile"))
