"""A real store in a directory of the test's."""

import contextlib
import pathlib
from collections.abc import AsyncGenerator

from smcp.kernel import clock, settings
from smcp.stores import local
from smcp.stores import tenant as stores


@contextlib.asynccontextmanager
async def opened(directory: pathlib.Path) -> AsyncGenerator[stores.Store]:
    """The embedded store in `directory`, started; closed in the end. Its own clock is the system's."""
    store = local.open_local(directory, settings.Settings(), clock.SystemClock())
    await store.start()
    try:
        yield store
    finally:
        await store.close()
