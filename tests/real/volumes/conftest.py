"""A platform whose hosted servers keep something."""

import json
import pathlib
import textwrap
from collections.abc import Generator, Mapping
from typing import Any, Final

import httpx2
import pytest

from support import wheels
from support.platform import Platform

_SOURCE: Final = pathlib.Path(__file__).parents[2] / "fixtures" / "runner.py"
RUNNER: Final = "pypi:smcp-fixture-runner"
MANIFEST: Final = 'era = "modern"\n[volume]\nsize = "8MiB"\n'


class Keeping:
    """A platform with two tenants that both have a server `notes` with a volume."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.admin: dict[str, str] = {}

    def host(self, tenant: str) -> None:
        """Make a tenant with its server."""
        self.platform.create_tenant(tenant)
        self.admin[tenant] = self.platform.create_key(tenant, "admin")
        self.platform.deploy(tenant, RUNNER, "notes", self.admin[tenant], MANIFEST)

    def api(self, method: str, path: str, body: Any = None, *, tenant: str = "acme") -> httpx2.Response:
        """A request of a tenant's administrator about its server."""
        return httpx2.request(
            method,
            f"{self.platform.base_url}/api/v1/tenants/{tenant}/servers/notes{path}",
            headers={"Authorization": f"Bearer {self.admin[tenant]}"},
            json=body,
            timeout=120.0,
        )

    def run(self, code: str, *, tenant: str = "acme") -> Any:
        """What `code` leaves in `out`, run inside the server."""
        body = {"tool": "run", "arguments": {"code": textwrap.dedent(code)}}
        answer = self.api("POST", "/call", body, tenant=tenant)
        assert answer.is_success, answer.text
        return json.loads(answer.json()["content"][0]["text"])

    def write(self, text: str, *, name: str = "memo", tenant: str = "acme") -> None:
        """Write a file in the volume."""
        self.run(f"open('/data/{name}', 'w').write({text!r})", tenant=tenant)

    def read(self, name: str = "memo", *, tenant: str = "acme") -> Any:
        """A file in the volume; None when it is not there."""
        return self.run(
            f"import os\nout = open('/data/{name}').read() if os.path.exists('/data/{name}') else None", tenant=tenant
        )

    def volume(self, *, tenant: str = "acme") -> dict[str, Any]:
        """The volume as the API shows it."""
        answer = self.api("GET", "/volume", tenant=tenant)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def stop(self, *, tenant: str = "acme") -> None:
        """Stop the server and let it be started again."""
        assert self.api("POST", "/stop", tenant=tenant).is_success
        assert self.api("POST", "/start", tenant=tenant).is_success

    def log(self) -> str:
        """Everything in the server's log."""
        return "\n".join(line["text"] for line in self.api("GET", "/logs?limit=1000").json()["items"])


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with the wheel of tests/fixtures/runner.py."""
    directory = tmp_path_factory.mktemp("wheels")
    code = {"smcp_fixture_runner.py": _SOURCE.read_text("utf-8")}
    wheels.build_wheel(
        directory, "smcp-fixture-runner", "1.0.0", code, {"smcp-fixture-runner": "smcp_fixture_runner:main"}
    )
    return directory


def platform_settings(shelf: pathlib.Path) -> Mapping[str, str]:
    """Settings of a platform that finds the wheel and saves volumes every second."""
    return {"SMCP_DEPLOY_WHEEL_DIRS": str(shelf), "SMCP_VOLUMES_SNAPSHOT_S": "1"}


@pytest.fixture(scope="module")
def keeping(shelf: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Keeping]:
    """A running platform with the tenants acme and globex."""
    with Platform(tmp_path_factory.mktemp("volumes"), platform_settings(shelf)) as platform:
        made = Keeping(platform)
        for tenant in ("acme", "globex"):
            made.host(tenant)
        yield made
