"""What the tests of this room share."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from smcp.stores import tenant as stores
from support import storage


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[stores.Store]:
    """A started store of its own."""
    async with storage.opened(tmp_path) as opened:
        yield opened
