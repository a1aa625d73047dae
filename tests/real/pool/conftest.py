"""A platform whose servers fall asleep soon, with tenants of their own for tests that load them."""

import asyncio
import pathlib
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Final

import httpx2
import pytest

from support import wheels, wire
from support.clients import Endpoint
from support.platform import Platform

_FIXTURES: Final = pathlib.Path(__file__).parents[2] / "fixtures"
IDLE_S: Final = 15.0
"""Longer than a start takes on a slow machine: demand is forgotten as soon as copies are."""
MOODY: Final = "smcp-fixture-moody"
_PATIENCE_S: Final = 240.0


class Hosting:
    """The platform, and what a test asks of it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.admins: dict[str, str] = {}
        self.callers: dict[str, str] = {}

    def host(self, tenant: str, name: str, source: str, manifest: str | None = None) -> Endpoint:
        """A server, for a key that may only call."""
        if tenant not in self.admins:
            self.platform.create_tenant(tenant)
            self.admins[tenant] = self.platform.create_key(tenant, "admin")
            self.callers[tenant] = self.platform.create_key(tenant, "mcp_user")
        url = self.platform.deploy(tenant, source, name, self.admins[tenant], manifest)
        return Endpoint(url, self.callers[tenant])

    def running(self, tenant: str, name: str) -> Any:
        """What runs of a server."""
        server = self.platform.api("GET", f"/tenants/{tenant}/servers/{name}", key=self.admins[tenant])
        return server["running"]

    def copies(self, tenant: str, name: str) -> list[Any]:
        """Its copies."""
        return list(self.running(tenant, name)["copies"])

    async def until(self, tenant: str, name: str, enough: Callable[[list[Any]], bool]) -> None:
        """Return when the server's copies are as they should be."""
        found: list[Any] = []
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(self.copies, tenant, name)
            if enough(found):
                return
            await asyncio.sleep(0.1)  # the API has no event for it: a client asks again
        raise AssertionError(f"{found}\n{self.platform.story()}")

    def metric(self, name: str) -> float:
        """A metric, or the sum over its labels where none is named."""
        answer = httpx2.get(
            f"{self.platform.base_url}/metrics",
            headers={"authorization": f"Bearer {self.platform.operator_key}"},
            timeout=60.0,
            verify=False,  # plain HTTP: see Platform.api
        )
        names = (line.rpartition(" ")[0] for line in answer.text.splitlines())
        assert any(one.startswith(name) for one in names), name
        lines = [line for line in answer.text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(scope="session")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Generator[Hosting]:
    """The platform, running; that nothing of it is left is shown when it stops."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    source = (_FIXTURES / "moody.py").read_text("utf-8")
    modules = {"smcp_fixture_moody.py": source}
    wheels.build_wheel(shelf, MOODY, "1.0.0", modules, {MOODY: "smcp_fixture_moody:main"})
    settings = {
        "SMCP_DEPLOY_WHEEL_DIRS": str(shelf),
        "SMCP_RUNTIME_IDLE_STOP_S": str(IDLE_S),
        "SMCP_RUNTIME_STOP_GRACE_S": "1",
        "SMCP_SANDBOX_MEMORY_BYTES": "200000000",
        "SMCP_LIMITS_PRINCIPAL_SESSIONS": "20",
    }
    with Platform(tmp_path_factory.mktemp("pool"), settings) as platform:
        yield Hosting(platform)


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client with as many connections as a test needs."""
    limits = httpx2.Limits(max_connections=400, max_keepalive_connections=100)
    async with httpx2.AsyncClient(timeout=120.0, limits=limits) as client:
        yield client
