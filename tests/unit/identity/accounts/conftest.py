"""What the tests of people share."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from support import humans


@pytest.fixture
async def room(tmp_path: pathlib.Path) -> AsyncIterator[humans.Room]:
    """Two tenants without people."""
    async with humans.opened(tmp_path) as opened:
        yield opened
