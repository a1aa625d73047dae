"""What the tests of this room share."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from unit.control import world as worlds


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[worlds.World]:
    """A whole admin API."""
    async with worlds.opened(tmp_path) as opened:
        yield opened
