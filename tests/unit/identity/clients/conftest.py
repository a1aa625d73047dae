"""What the tests of OAuth clients share."""

import pathlib
from collections.abc import AsyncIterator

import pytest

from smcp.app import documents
from smcp.stores import tenant as stores
from support import authorizing, signers


@pytest.fixture
async def room(store: stores.Store) -> AsyncIterator[authorizing.Room]:
    """Clients of two tenants, on a real store."""
    async with authorizing.opened(store) as made:
        yield made


@pytest.fixture
async def pair(
    store: stores.Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[authorizing.Pair]:
    """Clients, and a host that publishes documents. A test that wants it to be too slow says so."""
    monkeypatch.setattr(documents, "TIME_S", 60.0)
    async with authorizing.published(store, tmp_path) as made:
        yield made


@pytest.fixture
async def three(pair: authorizing.Pair) -> signers.Three:
    """A room, a host that shows the old key, and a known client whose keys are there."""
    room, host = pair
    said = signers.key_set((signers.OLD, "old"))
    return room, host, await signers.known(room, host.publish(signers.PATH, said))
