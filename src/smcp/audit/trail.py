"""The audit trail: append-only, chained per tenant and writer, durable in batches, failing closed.

`note` costs a caller microseconds: it puts an encoded event into a bounded queue that a background task writes within
0.2 s, one record a tenant and round. `write` returns when the event is durable. When the queue is full, or writing
fails, both raise `errors.Unavailable` until writing works again: what can't be recorded is not done.

An event that was accepted is written once: after a failure whose outcome is unknown, the writer looks in the log before
it writes again. Only the death of the process loses what `note` accepted in the last 0.2 s. `chain` has the format and
the verification, `writer` one tenant's queue.
"""

import asyncio
import contextlib
from typing import Final

import msgspec

from smcp.audit import chain, events
from smcp.audit import writer as writers
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import tenant as stores
from smcp.stores.log import base as logs

QUEUE: Final = 20_000
"""Events that wait to be written, over all tenants; one tenant may hold a quarter."""

_LINGER_S: Final = 0.1
_RETRY_S: Final = 0.5
_IDLE_S: Final = 5.0
_TOGETHER: Final = 16
_PAGE: Final = 50

Report = chain.Report


class Entry(msgspec.Struct, frozen=True):
    """One entry: where it stands, when it was noted (epoch seconds), by which writer, and what happened.

    Positions grow over all writers of a tenant and have gaps: record 12 of the log, entry 3, is 12003.
    """

    position: int
    time: float
    writer: str
    event: events.Event


class Trail:
    """The trails of all tenants, as one writer (a node) keeps them."""

    def __init__(
        self, store: stores.Store, clock: clock.Clock, *, writer: str, ttl_days: int, queue: int = QUEUE
    ) -> None:
        """`writer` is unique among the nodes and stays the same over restarts (letters, digits, hyphens)."""
        self._store = store
        self._clock = clock
        self._writer = writer
        self._ttl_s = ttl_days * 86400.0
        self._queue = queue
        self._tenants: dict[str, writers.TenantWriter] = {}
        self._verifying: set[ids.TenantId] = set()
        self._waiting = 0
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closing = False
        self._awake = False
        """Does the task know that there is work? (Cheaper to ask than the event.)"""
        self._writing = False
        """Is there a task that writes? (Asked for every call.)"""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write."""
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="audit")
        self._writing = True

    async def close(self) -> None:
        """Write what was accepted, vouch for it, and stop. Idempotent."""
        self._closing = True
        self._work.set()
        self._urgent.set()
        if self._task is not None:
            await self._task

    @property
    def waiting(self) -> int:
        """Events that wait to be written, over all tenants."""
        return self._waiting

    @property
    def failing(self) -> int:
        """Tenants whose trail can't be written at the moment."""
        return sum(queue.failed is not None for queue in self._tenants.values())

    @property
    def capacity(self) -> int:
        """Events that may wait."""
        return self._queue

    # --- writing ---

    def note(self, event: events.Event) -> None:
        """Accept `event`; it is durable within 0.2 s.

        Raises `errors.Unavailable` when it can't be accepted, `errors.NotFound` when its tenant has no data key,
        `ValueError` when it holds what no event may.
        """
        self._accept(event)

    def check(self, tenant: str) -> None:
        """Raises `errors.Unavailable` when an event of `tenant` would not be accepted now.

        For work that can be noted only when it is done: asked before it begins.
        """
        self._ready(tenant)

    async def write(self, event: events.Event) -> None:
        """Accept `event` and return when it is durable. Raises as `note`, and `Unavailable` when writing fails."""
        await self._durable(self._accept(event))

    async def flush(self, tenant: ids.TenantId) -> None:
        """Return when everything accepted for `tenant` so far is durable. Raises `errors.Unavailable`."""
        known = self._tenants.get(tenant)
        if known is not None:
            await self._durable(known)

    def digest(self, tenant: ids.TenantId, text: str) -> events.Digest:
        """`text` (an address, a label) as it may stand in the trail: a digest that is salted for the tenant."""
        return events.digest(self._salted(tenant, "digest", text))

    def target(self, tenant: ids.TenantId, text: str) -> events.Target:
        """`text` (a tool, prompt or resource that a call names) as it may stand in the trail."""
        return events.public_name(text) or events.private_target(self._salted(tenant, "target", text))

    def _salted(self, tenant: ids.TenantId, kind: str, text: str) -> bytes:
        salt = self._store.ring.data_key(tenant, "audit.salt")
        return crypto.keyed_digest(salt, kind, text.encode("utf-8", "surrogatepass"))

    def _accept(self, event: events.Event) -> writers.TenantWriter:
        data = events.encode(event)
        queue = self._ready(event.tenant)
        queue.add(data)
        self._waiting += 1
        if not self._awake:
            self._awake = True
            self._work.set()
        return queue

    def _ready(self, tenant: str) -> writers.TenantWriter:
        if self._closing or not self._writing:
            raise errors.Unavailable(detail="the audit trail is not being written")
        queue = self._tenants.get(tenant) or self._open(ids.TenantId(tenant))
        if queue.failed is not None:
            if isinstance(queue.failed, errors.NotFound):
                self._forget(queue, queue.failed)
                queue = self._open(ids.TenantId(tenant))
            if queue.failed is not None:
                raise errors.Unavailable(detail=f"the audit trail of {tenant} can't be written: {queue.failed}")
        if self._waiting >= self._queue or len(queue.lines) >= self._queue // 4:
            raise errors.Unavailable(detail="the audit queue is full")
        return queue

    def _open(self, tenant: ids.TenantId) -> writers.TenantWriter:
        mac = chain.Mac(tenant, self._store.ring.data_key(tenant, "audit.mac"))
        queue = self._tenants[tenant] = writers.TenantWriter(
            writers.Storage(self._store, tenant),
            mac,
            self._clock,
            writer=self._writer,
            ttl_s=self._ttl_s,
            left=self._leave,
        )
        return queue

    async def _durable(self, queue: writers.TenantWriter) -> None:
        done = queue.wait()
        if done is not None:
            self._work.set()
            self._urgent.set()
            await done

    async def _run(self) -> None:
        try:
            while not self._closing:
                failing = any(queue.failed is not None for queue in self._tenants.values())
                await _set_within(self._work, _RETRY_S if failing else _IDLE_S)
                if self._waiting:
                    await _set_within(self._urgent, _LINGER_S)
                self._work.clear()
                self._awake = False
                self._urgent.clear()
                await self._round(last=False)
            await self._round(last=True)
        finally:  # however it ended: nobody waits for what will not be written
            self._writing = False
            for queue in self._tenants.values():
                queue.give_up(errors.Unavailable(detail="the audit trail was closed"))

    async def _round(self, *, last: bool) -> None:
        busy = [queue for queue in self._tenants.values() if last or queue.lines or queue.failed or queue.due()]
        for start in range(0, len(busy), _TOGETHER):
            await asyncio.gather(*(queue.flush(last=last) for queue in busy[start : start + _TOGETHER]))
        for queue in busy:
            if isinstance(queue.failed, errors.NotFound):
                self._forget(queue, queue.failed)

    def _forget(self, queue: writers.TenantWriter, erased: errors.NotFound) -> None:
        """The tenant's data key is gone, and with it everything that could be read of its trail."""
        queue.give_up(erased)
        if self._tenants.get(queue.tenant) is queue:
            del self._tenants[queue.tenant]

    def _leave(self, count: int) -> None:
        self._waiting -= count

    # --- reading ---

    async def query(self, tenant: ids.TenantId, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Up to `limit` entries behind position `after`, of all writers, in order; with all that this node noted.

        Raises `errors.TamperedData` when a record does not open: `verify` says which.
        """
        await self.flush(tenant)
        log = self._store.tenant(tenant).log
        entries: list[Entry] = []
        record_after = max(0, after // chain.STEP - 1)
        while len(entries) < limit:
            page = await log.read(writers.STREAM, after=record_after, limit=_PAGE)
            if not page:
                break
            record_after = page[-1].position
            for record in page:
                batch = chain.decode(record.data)
                for place, line in enumerate(batch.lines, 1):
                    position = record.position * chain.STEP + place
                    if position > after and len(entries) < limit:
                        entries.append(Entry(position, line.time_us / 1e6, batch.writer, events.decode(line.event)))
        return entries

    async def verify(self, tenant: ids.TenantId) -> Report:
        """Check everything that was durable when this was called: chains, checkpoints, head records, the end.

        Never raises for damage: the report names the first. It is long work, so each tenant has one at a time: raises
        `errors.RateLimited`.
        """
        if tenant in self._verifying:
            raise errors.RateLimited("This audit trail is being verified already.", retry_after=5)
        self._verifying.add(tenant)
        try:
            return await self._verify(tenant)
        finally:
            self._verifying.discard(tenant)

    async def _verify(self, tenant: ids.TenantId) -> Report:
        await self.flush(tenant)
        storage = writers.Storage(self._store, tenant)
        mac = chain.Mac(tenant, self._store.ring.data_key(tenant, "audit.mac"))
        try:
            heads = await storage.heads()
        except errors.TamperedData:
            return Report(False, 0, 0, "a head record does not open: it was changed or moved", None)
        last = await storage.log.last(writers.STREAM)
        verifier = chain.Verifier(tenant, mac, heads, now=self._clock.now())
        try:
            verifier.trust_heads()
            await _walk(storage.log, verifier, last)
            return verifier.finish(last)
        except chain.Broken as broken:
            return Report(False, verifier.entries, verifier.checkpoints, broken.problem, broken.position)


async def _walk(log: logs.Log, verifier: chain.Verifier, last: int) -> None:
    """Every record up to `last`. A page that does not open is read again one by one, to name the record."""
    after, limit = 0, _PAGE
    while after < last:
        try:
            page = await log.read(writers.STREAM, after=after, limit=limit)
            for record in page:
                if record.position > last:
                    return
                verifier.next(record.position, chain.decode(record.data))
                after = record.position
                await asyncio.sleep(0)  # a record may hold hundreds of entries: others' requests come in between
        except errors.TamperedData:
            if limit == 1:
                problem = "a record does not open: it was changed or moved"
                raise chain.Broken(problem, (after + 1) * chain.STEP + 1) from None
            limit = 1
            continue
        if not page:
            return


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
