"""A meter on a real store, whose answers a test can spoil, and what it says afterwards."""

import contextlib
import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from smcp.kernel import clock as clocks
from smcp.kernel import crypto, ids, observe, settings
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv_base
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import base as log_base
from smcp.stores.log import sqlite as log_sqlite
from smcp.stores.objects import obstore
from smcp.tenancy import meter, tenants, usage

ACME = ids.tenant("acme")
LATER = 2**40
"""An hour behind every other."""


def nothing(step: str) -> None:
    """Spoils nothing."""


async def _at_once() -> None:
    """No pause."""


class Faults:
    """Asked before and after each write of the store: may raise, or end the process."""

    def __init__(self) -> None:
        self.ask: Callable[[str], None] = nothing
        self.pause: Callable[[], Awaitable[object]] = _at_once
        """Awaited after `ask`, before a fold is written."""


class FaultyKV(kv_sqlite.SqliteKV):
    """SQLite, and what a test does around its writes."""

    faults: Faults

    async def apply(self, ops: Sequence[kv_base.Op]) -> int:
        usages = any(op.key[:2] == (ids.PLATFORM, usage.CURSORS) for op in ops)
        if usages:
            self.faults.ask("before fold")
            if self.faults.pause is not _at_once:
                pause, self.faults.pause = self.faults.pause, _at_once
                await pause()
        revision = await super().apply(ops)
        if usages:
            self.faults.ask("after fold")
        return revision


class FaultyLog(log_sqlite.SqliteLog):
    """SQLite, and what a test does around its writes."""

    faults: Faults

    async def append(self, stream: log_base.Stream, records: Sequence[bytes], **rest: Any) -> int:
        if stream[1:] != usage.STREAM:
            return await super().append(stream, records, **rest)
        self.faults.ask("before append")
        last = await super().append(stream, records, **rest)
        self.faults.ask("after append")
        return last

    async def shrink(self, stream: log_base.Stream, *, most: int) -> int:
        self.faults.ask("before shrink")
        left = await super().shrink(stream, most=most)
        self.faults.ask("after shrink")
        return left


@contextlib.asynccontextmanager
async def opened(
    directory: pathlib.Path, faults: Faults, time: clocks.Clock | None = None
) -> AsyncGenerator[stores.Store]:
    """The store in `directory`, started; closed in the end."""
    now = time or clocks.SystemClock()
    ring = crypto.KeyRing.open(directory / "keys", directory / "keys" / "root.key")
    kv, log = FaultyKV(directory / "store/kv.db", now), FaultyLog(directory / "store/log.db", now)
    kv.faults = log.faults = faults
    objects = obstore.ObstoreObjects.in_directory(directory / "store/objects")
    store = stores.Store(kv, log, objects, ring, now, quota_bytes=1_000_000, quota_keys=1000)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def made(store: stores.Store, time: clocks.Clock | None = None, *, node: str = "node-1") -> meter.Meter:
    """A meter that only does what it is asked: nothing in the background."""
    now = time or clocks.SystemClock()
    logger = observe.logger(settings.Settings().log)
    return meter.Meter(store, tenants.Tenants(store, now), now, observe.Metrics("0"), logger, node=node, days=400)


async def lines(counting: meter.Meter, tenant: ids.TenantId = ACME) -> dict[usage.Where, usage.Sums]:
    """Everything that was ever counted of a tenant."""
    found: dict[usage.Where, usage.Sums] = {}
    async for line in counting.lines(tenant, 0, LATER):
        where = (line.hour, line.server, line.principal)
        assert where not in found, "two records of one server, principal and hour"
        found[where] = line.sums
    return found


async def calls(counting: meter.Meter, tenant: ids.TenantId = ACME) -> int:
    """How many calls of a tenant were counted."""
    return sum(sums.calls for sums in (await lines(counting, tenant)).values())
