"""Sessions on record: what a legacy session needs to go on after its platform, or its copy of the server, has ended.

One record per session in its tenant's storage, sealed, under `("session", principal, server, name)`. The name is a
keyed digest of the session id: the id itself is stored nowhere. A principal's sessions are read by its own id, so that
somebody else's are not refused to it but are not there (CVE-2026-52869).

Records have a time to live a little longer than their session's, so that one whose client never says DELETE leaves
nothing behind, also when the platform does not run meanwhile.

All writes go through one task, in their order, as many as wait in one transaction: an end can't be overtaken by a touch
that would bring the record back.
"""

import asyncio
import collections
import contextlib
from typing import Final, NamedTuple

import msgspec

from smcp.kernel import errors, ids, observe
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

PREFIX: Final = "session"
_PAGE: Final = 500
_BATCH: Final = 256
"""Writes of one tenant in one transaction."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a session. Times are seconds since the epoch. New fields come at the end, with a default."""

    deployment: str
    version: str
    created: float
    used: float
    """When it was last known to be at work; up to a minute old."""
    bridged: bool = False
    """It has no copy of its own (`bridge`)."""
    hello: bytes = b""
    """The params of `initialize` as the client sent them; empty where they are too large to be kept."""
    greeted: bool = False
    """`notifications/initialized` has come."""
    level: str = ""
    subscriptions: tuple[str, ...] = ()
    stamp: bytes = b""
    """What a modern server is told with each request."""
    until: float = 0.0
    """When it ends, since another deployment is live; 0 for no such end."""
    client: str = ""
    """The OAuth client that opened it for its principal; empty where none did."""


class Place(NamedTuple):
    """Where a session's record is, within its tenant."""

    principal: str
    server: str
    name: str


class _Write:
    """A record that is to be written (`value`) or removed (None); whoever waits for it waits for `done`."""

    __slots__ = ("done", "until", "value")

    def __init__(self, done: "asyncio.Future[None]") -> None:
        self.done = done
        self.value: bytes | None = None
        self.until = 0.0


_Writes = dict[Place, _Write]


class Kept:
    """The records of every tenant's sessions."""

    def __init__(self, store: stores.Store, log: observe.Logger) -> None:
        self._store = store
        self._log = log
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Record)
        self._waiting: collections.OrderedDict[ids.TenantId, _Writes] = collections.OrderedDict()
        self._writer: asyncio.Task[None] | None = None

    def name(self, tenant: ids.TenantId, session_id: str) -> str:
        """What stands for a session id outside of its client's requests."""
        return self._store.tenant(tenant).private(PREFIX, session_id)

    def now(self) -> float:
        """The store's time, seconds since the epoch: the one that times to live are measured with."""
        return self._store.now()

    # --- writing ---

    def put(self, tenant: ids.TenantId, place: Place, record: Record, until: float) -> "asyncio.Future[None]":
        """Write a record, to be removed at `until`; done when it is durable.

        The future fails with `errors.QuotaExceeded` where the tenant's storage is full, or `errors.Unavailable`.
        """
        return self._set(tenant, place, self._encoder.encode(record), until)

    def drop(self, tenant: ids.TenantId, place: Place) -> "asyncio.Future[None]":
        """Remove a record; as `put`."""
        return self._set(tenant, place, None, 0.0)

    def _set(self, tenant: ids.TenantId, place: Place, value: bytes | None, until: float) -> "asyncio.Future[None]":
        writes = self._waiting.setdefault(tenant, {})
        write = writes.get(place)
        if write is None:
            write = writes[place] = _Write(asyncio.get_running_loop().create_future())
            write.done.add_done_callback(self._heard)
        write.value, write.until = value, until
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="session-records")
        return write.done

    def _heard(self, done: "asyncio.Future[None]") -> None:
        # Most writes have nobody who waits for them; one that fails must not go unnoticed.
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._log.warning("a session's record could not be written", why=str(error))

    async def flush(self) -> None:
        """Return when everything that was to be written is written, or has failed."""
        while self._writer is not None:
            await asyncio.wait({self._writer})

    async def close(self) -> None:
        """As `flush`. Idempotent."""
        await self.flush()

    async def _write(self) -> None:
        try:
            while self._waiting:
                # All tenants at once: the storage makes one transaction of what comes together.
                taken = [(tenant, self._take(tenant)) for tenant in list(self._waiting)]
                await asyncio.gather(*(self._apply(tenant, writes) for tenant, writes in taken))
        finally:
            self._writer = None

    def _take(self, tenant: ids.TenantId) -> _Writes:
        writes = self._waiting.pop(tenant)
        if len(writes) <= _BATCH:
            return writes
        first = dict(list(writes.items())[:_BATCH])
        self._waiting[tenant] = {place: write for place, write in writes.items() if place not in first}
        return first

    async def _apply(self, tenant: ids.TenantId, writes: _Writes) -> None:
        try:
            await self._store.tenant(tenant).kv.apply([self._op(place, write) for place, write in writes.items()])
        except errors.NotFound:
            pass  # the tenant was erased, and its sessions with it
        except errors.QuotaExceeded as error:
            if len(writes) > 1:
                # One that does not fit must not keep the others from being written, nor removed.
                for place, write in writes.items():
                    await self._apply(tenant, {place: write})
                return
            _settle(writes, error)
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits, and the next write must still be tried
            _settle(writes, error)
        _settle(writes, None)

    def _op(self, place: Place, write: _Write) -> kv.Op:
        key = (PREFIX, *place)
        ttl = write.until - self._store.now()
        return kv.Delete(key) if write.value is None or ttl <= 0 else kv.Put(key, write.value, ttl)

    # --- reading ---

    async def of(self, tenant: ids.TenantId, principal: str = "") -> dict[Place, Record]:
        """The records of a tenant's sessions, or of one principal's. Raises `errors.Unavailable`.

        Those that the platform of now can't read are left out; they end by themselves.
        """
        found: dict[Place, Record] = {}
        if not self._store.knows(tenant):
            return found
        prefix = (PREFIX, principal) if principal else (PREFIX,)
        after: kv.Key | None = None
        while True:
            page = await self._store.tenant(tenant).kv.scan(prefix, after=after, limit=_PAGE)
            for entry in page:
                with contextlib.suppress(msgspec.DecodeError):
                    found[Place(*entry.key[1:])] = self._decoder.decode(entry.value)
            if len(page) < _PAGE:
                return found
            after = page[-1].key


def _settle(writes: _Writes, error: Exception | None) -> None:
    for write in writes.values():
        if write.done.done():
            continue
        if error is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(error)
