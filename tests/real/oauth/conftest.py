"""One platform with people for all tests of the authorization server over the wire."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import httpx2
import pytest

from support import idp, visitors
from support.idp import House


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    """The platform, running."""
    with idp.opened(tmp_path_factory.mktemp("oauth")) as (gate, documents):
        yield asyncio.run(idp.peopled(gate, documents))


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """An HTTP client without credentials, from an address of its own."""
    own = {"X-Forwarded-For": visitors.address()}
    async with httpx2.AsyncClient(headers=own, timeout=60.0, follow_redirects=False, trust_env=False) as client:
        yield client
