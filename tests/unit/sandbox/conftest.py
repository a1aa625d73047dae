"""What the tests of this room share."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from support import kept


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[kept.World]:
    """Volumes with the settings they come with."""
    async with kept.opened(tmp_path) as made:
        yield made
