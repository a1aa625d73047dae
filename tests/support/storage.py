"""A real store in a directory of the test's."""

import contextlib
import pathlib
import time
from collections.abc import AsyncGenerator

from smcp.kernel import settings
from smcp.stores import local
from smcp.stores import tenant as stores


class _Prompt:
    """The system's time; but whoever asks how long ago the storage answered hears that it was just now.

    A machine that stands still for two seconds makes no answer late so. What a late one means is tested in
    unit/stores, with a clock that is moved.
    """

    now = staticmethod(time.time)

    def monotonic(self) -> float:
        return 0.0


@contextlib.asynccontextmanager
async def opened(directory: pathlib.Path) -> AsyncGenerator[stores.Store]:
    """The embedded store in `directory`, started; closed in the end."""
    store = local.open_local(directory, settings.Settings(), _Prompt())
    await store.start()
    try:
        yield store
    finally:
        await store.close()
