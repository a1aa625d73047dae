"""What the tests of OAuth's rooms share."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from support import tokens


@pytest.fixture
async def room(tmp_path: pathlib.Path) -> AsyncIterator[tokens.Room]:
    """Everything about tokens, with two tenants, a person and a client."""
    async with tokens.opened(tmp_path) as opened:
        yield opened
