"""What the tests of OAuth clients share."""

from collections.abc import AsyncIterator

import pytest

from smcp.stores import tenant as stores
from support import authorizing


@pytest.fixture
async def room(store: stores.Store) -> AsyncIterator[authorizing.Room]:
    """Clients of two tenants, on a real store."""
    async with authorizing.opened(store) as made:
        yield made
