"""A trail on a real store, and what somebody with the database files can do to it."""

import contextlib
import pathlib
import sqlite3
from collections.abc import AsyncGenerator, Callable

from smcp.audit import events, trail
from smcp.kernel import clock, ids
from smcp.stores import tenant as stores
from support import storage

ACME = ids.tenant("acme")
DAYS = 400


def call(number: int = 0, tenant: str = "acme") -> events.McpCall:
    """An ordinary event, told apart by its size."""
    return events.McpCall(tenant=tenant, actor="key-1", server="time", method="tools/call", bytes_in=number)


@contextlib.asynccontextmanager
async def writing(
    store: stores.Store, time: clock.Clock | None = None, *, writer: str = "node-1", queue: int = trail.QUEUE
) -> AsyncGenerator[trail.Trail]:
    """A started trail of one writer, closed in the end."""
    made = trail.Trail(store, time or clock.FrozenClock(), writer=writer, ttl_days=DAYS, queue=queue)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def fill(directory: pathlib.Path, batches: int = 5, each: int = 3, *, writer: str = "node-1") -> None:
    """A trail of `batches` records of acme with `each` entries, closed in order."""
    async with storage.opened(directory) as store:
        await store.provision(ACME)
        async with writing(store, writer=writer) as made:
            for batch in range(batches):
                for number in range(each):
                    made.note(call(batch * each + number))
                await made.flush(ACME)


async def verify(directory: pathlib.Path, time: clock.Clock | None = None) -> trail.Report:
    """What a verification says, by a writer that has written nothing."""
    async with storage.opened(directory) as store, writing(store, time, writer="reader") as made:
        return await made.verify(ACME)


def edit(directory: pathlib.Path, change: Callable[[sqlite3.Connection], object], file: str = "log.db") -> None:
    """Change a closed store's file as its owner can."""
    connection = sqlite3.connect(directory / "store" / file)
    try:
        with connection:
            change(connection)
    finally:
        connection.close()
