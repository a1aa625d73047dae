"""One platform for all tests of the gateway, with two tenants whose servers do what a test tells them."""

import json
from collections.abc import AsyncGenerator, Callable, Generator

import httpx2
import pytest

from support import gates, upward, wire
from support.clients import Endpoint
from support.gates import Gate


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """The platform, running."""
    with gates.running(tmp_path_factory, "gate") as made:
        yield made


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client with as many connections as a test needs."""
    limits = httpx2.Limits(max_connections=400, max_keepalive_connections=100)
    async with httpx2.AsyncClient(timeout=120.0, limits=limits) as client:
        yield client


@pytest.fixture
def acme(gate: Gate, caller: Callable[[Endpoint], wire.Caller]) -> wire.Caller:
    """A caller at acme's server."""
    return caller(gate.acme)


@pytest.fixture
def umbra(gate: Gate, caller: Callable[[Endpoint], wire.Caller]) -> wire.Caller:
    """A caller at the other tenant's server."""
    return caller(gate.umbra)


@pytest.fixture(scope="session")
def legacy_server(gate: Gate) -> Endpoint:
    """Acme's server that is hosted in the legacy era."""
    manifest = f'era = "legacy"\n[env]\nCANARY = "acme-older"\nOFFERS = \'{json.dumps(upward.OFFERS)}\'\n'
    return Endpoint(gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "older", gate.admin, manifest), gate.acme.key)


@pytest.fixture
def older(gate: Gate, legacy_server: Endpoint) -> Generator[Endpoint]:
    """The same; no private session outlives the test, since others count sessions."""
    yield legacy_server
    for action in ("stop", "start"):
        gate.platform.api("POST", f"/tenants/acme/servers/older/{action}", key=gate.admin)


@pytest.fixture
def one(older: Endpoint, caller: Callable[[Endpoint], wire.Caller]) -> upward.Modern:
    """A client that can be asked anything."""
    return upward.Modern(caller(older))
