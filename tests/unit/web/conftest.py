"""A world of pages that are served."""

import pathlib
from collections.abc import AsyncGenerator

import pytest

from support import pages


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncGenerator[pages.World]:
    """A tenant, a person, the pages."""
    async with pages.serving(tmp_path) as made:
        yield made


@pytest.fixture
async def person(world: pages.World) -> AsyncGenerator[pages.Browser]:
    """A browser without a screen."""
    async with pages.browser(world) as opened:
        yield opened
