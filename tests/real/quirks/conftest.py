"""One platform for what real clients and servers get wrong, with the scripted server of two tenants."""

import pathlib
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent import futures
from typing import Final

import httpx2
import pytest

from support import gates, wheels, wire
from support.clients import Endpoint
from support.gates import Gate
from support.platform import Platform

_SHY: Final = "smcp-fixture-shy"
_SOURCE: Final = pathlib.Path(__file__).parents[2] / "fixtures" / "shy.py"
SHY: Final = ("exits", "silent", "hangs", "no-id", "params", "garbled", "unknown", "eager", "locks", "exits-modern")
_SETTINGS: Final = {
    **gates.SETTINGS,
    # Some servers say nothing at all when they are asked who they are: each of them costs a deployment this long.
    "SMCP_RUNTIME_START_TIMEOUT_S": "20",
}


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """The platform, running."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    modules = {"smcp_fixture_shy.py": _SOURCE.read_text("utf-8")}
    wheels.build_wheel(shelf, _SHY, "1.0.0", modules, {_SHY: "smcp_fixture_shy:main"})
    with Platform(tmp_path_factory.mktemp("quirks"), {**_SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}) as platform:
        yield gates.opened(platform)


@pytest.fixture(scope="session")
def shy(gate: Gate) -> dict[str, Endpoint]:
    """Servers that take a question for their versions badly, by how they do; deployed all at once."""

    def deploy(how: str) -> Endpoint:
        manifest = f'[env]\nSHY = "{how}"\n'
        return Endpoint(gate.platform.deploy("acme", f"pypi:{_SHY}", f"shy-{how}", gate.admin, manifest), gate.acme.key)

    with futures.ThreadPoolExecutor(4) as pool:  # a tenant has no more than 8 deployments under way
        return dict(zip(SHY, pool.map(deploy, SHY), strict=True))


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client."""
    async with httpx2.AsyncClient(timeout=120.0) as client:
        yield client


@pytest.fixture
def acme(gate: Gate, caller: Callable[[Endpoint], wire.Caller]) -> wire.Caller:
    """A caller at acme's server."""
    return caller(gate.acme)
