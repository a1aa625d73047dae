"""A reference npm server, unmodified, from the configured registry, deployed twice. tests/real/hosted has them all."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_VERSION = "2026.8.31"


class _Hosted:
    """A platform that hosts it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")

    def deploy(self, package: str, name: str) -> None:
        """Have the package's server live."""
        self.platform.deploy("acme", f"npm:@modelcontextprotocol/{package}@{_VERSION}", name, self.admin)

    def live(self, name: str) -> dict[str, Any]:
        """The deployment that answers."""
        listed = self.platform.api("GET", f"/tenants/acme/servers/{name}/deployments", key=self.admin)["items"]
        return next(one for one in listed if one["live"])


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Hosted]:
    """One platform for the module."""
    with Platform(tmp_path_factory.mktemp("npm")) as platform:
        yield _Hosted(platform)


@pytest.mark.requirement("deploy:npm:servers", "deploy:npm:reproducible")
def test_deployed_again_it_is_the_same_artefact(hosted: _Hosted) -> None:
    hosted.deploy("server-memory", "first")
    hosted.deploy("server-memory", "second")
    first, second = hosted.live("first"), hosted.live("second")
    assert first["digest"] == second["digest"]
    assert first["source"] == f"npm:@modelcontextprotocol/server-memory@{_VERSION}"
    assert first["argv"][1].startswith("/app/node_modules/@modelcontextprotocol/server-memory/")
    assert len(first["lock"]) > 50
