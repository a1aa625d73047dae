"""The reference npm servers, unmodified, from the configured registry: deployed on a real platform, and called."""

from collections.abc import Iterator
from typing import Any

import pytest

from support import clients
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_VERSION = "2026.8.31"
_FILES = 'args = ["/tmp"]\n'
_SERVERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "server-everything": ("", "echo", {"message": "hello"}, "Echo: hello"),
    "server-memory": (
        '[env]\nMEMORY_FILE_PATH = "/tmp/memory.jsonl"\n',
        "create_entities",
        {"entities": [{"name": "Ada", "entityType": "person", "observations": ["counts"]}]},
        "Ada",
    ),
    "server-filesystem": (_FILES, "list_allowed_directories", {}, "/tmp"),
    "server-sequential-thinking": (
        "",
        "sequentialthinking",
        {"thought": "first", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
        '"thoughtNumber": 1',
    ),
}


class _Hosted:
    """A platform that hosts the four servers."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        platform.create_tenant("acme")
        self.admin = platform.create_key("acme", "admin")
        self.caller = platform.create_key("acme", "mcp_user")

    def deploy(self, package: str, name: str) -> Endpoint:
        """The package's server, live."""
        source = f"npm:@modelcontextprotocol/{package}@{_VERSION}"
        url = self.platform.deploy("acme", source, name, self.admin, _SERVERS[package][0])
        return Endpoint(url, self.caller)

    def live(self, name: str) -> dict[str, Any]:
        """The deployment that answers."""
        listed = self.platform.api("GET", f"/tenants/acme/servers/{name}/deployments", key=self.admin)["items"]
        return next(one for one in listed if one["live"])


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Hosted]:
    """One platform for the module."""
    with Platform(tmp_path_factory.mktemp("npm")) as platform:
        yield _Hosted(platform)


@pytest.mark.requirement("deploy:npm:servers", "deploy:npm:deploy")
@pytest.mark.parametrize("package", list(_SERVERS))
async def test_a_reference_server_is_deployed_and_answers_a_call(package: str, hosted: _Hosted) -> None:
    target = hosted.deploy(package, package)
    _, tool, arguments, expected = _SERVERS[package]
    seen = await clients.python(target, "legacy", tool, arguments)
    assert not seen.is_error, seen
    assert expected in " ".join(seen.texts)
    made = hosted.live(package)
    assert made["source"] == f"npm:@modelcontextprotocol/{package}@{_VERSION}"
    assert made["argv"][1].startswith(f"/app/node_modules/@modelcontextprotocol/{package}/")
    assert len(made["lock"]) > 50


@pytest.mark.requirement("deploy:npm:servers", "deploy:npm:reproducible")
def test_deployed_again_it_is_the_same_artefact(hosted: _Hosted) -> None:
    hosted.deploy("server-memory", "first")
    hosted.deploy("server-memory", "second")
    assert hosted.live("first")["digest"] == hosted.live("second")["digest"]
