"""One tenant's part of the trail, as one writer keeps it: what waits, where the chain stands, how it goes on."""

import asyncio
import collections
from collections.abc import Callable
from typing import Final

import msgspec

from smcp.audit import chain, events
from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kvs

STREAM: Final = ("audit",)
"""The log stream that all writers of a tenant share."""
HEADS: Final = "audit-head"
"""First segment of the keys of the chains' head records."""
PLATFORM_ACTOR: Final = "platform"

CHECKPOINT_ENTRIES: Final = 1000
CHECKPOINT_S: Final = 30.0
_HEAD_MARGIN_S: Final = 86400.0
_PAGE: Final = 100


class Storage:
    """Where one tenant's trail lies: the entries in its own log, the head records in the platform's handle.

    There, no quota of the tenant can stop them. Their place is named by the tenant's data key too, so that an erased
    tenant's records, which end by themselves, are not taken for those of a later namesake.
    """

    def __init__(self, store: stores.Store, tenant: ids.TenantId) -> None:
        """Raises `errors.NotFound` when the tenant has no data key."""
        self._store = store
        self._handle = handle = store.tenant(tenant)
        self.tenant: Final = tenant
        self.log: Final = handle.log
        self._kv = store.platform().kv
        self._place = (HEADS, tenant, handle.private("audit", "heads"))

    def require(self) -> None:
        """Raises `errors.NotFound` when the tenant was erased, also when a namesake was made since."""
        if self._store.tenant(self.tenant) is not self._handle:
            raise errors.NotFound(detail="the tenant was erased")

    async def heads(self) -> list[chain.Head]:
        """The head records of all chains. Raises `errors.TamperedData`."""
        heads: list[chain.Head] = []
        after: kvs.Key | None = None
        while page := await self._kv.scan(self._place, after=after, limit=_PAGE):
            try:
                heads += [msgspec.msgpack.decode(entry.value, type=chain.Head) for entry in page]
            except msgspec.DecodeError as error:
                raise errors.TamperedData(detail="not a head record") from error
            after = page[-1].key
        return heads

    async def put_head(self, head: chain.Head, ttl: float) -> None:
        """Write a chain's head record."""
        await self._kv.put((*self._place, head.chain), msgspec.msgpack.encode(head), ttl=ttl)


class TenantWriter:
    """What of one tenant waits to be written, and its chain. Used by `Trail` only, from one event loop."""

    def __init__(
        self,
        storage: Storage,
        mac: chain.Mac,
        clock: clock.Clock,
        *,
        writer: str,
        ttl_s: float,
        left: Callable[[int], None],
    ) -> None:
        """`left` is told how many lines wait no more."""
        self.tenant = storage.tenant
        self.failed: Exception | None = None
        """Why writing fails at the moment."""
        self.lines: list[tuple[int, bytes]] = []
        self._storage = storage
        self._mac = mac
        self._clock = clock
        self._writer = writer
        self._ttl_s = ttl_s
        self._left = left
        self._state: chain.State | None = None
        self._attempt: tuple[chain.State, int] | None = None
        self._preface: list[tuple[int, bytes]] = []
        self._refs: tuple[chain.Ref, ...] = ()
        self._unvouched = 0
        self._vouched_at = clock.monotonic()
        self._noted = 0
        self._written = 0
        self._waiters: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    def add(self, event: bytes) -> None:
        """Queue an encoded event, dated now."""
        self.lines.append((int(self._clock.now() * 1e6), event))
        self._noted += 1

    def wait(self) -> asyncio.Future[None] | None:
        """Done when everything queued so far is durable, or failed; None when it is already."""
        if self._written == self._noted:
            return None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._noted, done))
        return done

    def due(self) -> bool:
        """Has the chain entries that no checkpoint has vouched for in time?"""
        if self._unvouched == 0:
            return False
        late = self._clock.monotonic() - self._vouched_at >= CHECKPOINT_S
        return late or self._unvouched >= CHECKPOINT_ENTRIES

    async def flush(self, *, last: bool = False) -> None:
        """Write what waits; `last`: and vouch for all of it. A failure is kept in `failed`; what waits stays."""
        try:
            self._storage.require()
            if self._state is None:
                self._state = await self._resume()
            while self.lines or self._preface or self.due() or (last and self._unvouched):
                self._state = await self._write(self._state, last=last)
        except (errors.SmcpError, OSError) as error:
            self._fail(error)
        else:
            self.failed = None

    def give_up(self, error: Exception) -> None:
        """Drop what waits, because it can never be written."""
        self._fail(error)
        self._left(len(self.lines))
        self.lines.clear()
        self._written = self._noted

    async def _write(self, state: chain.State, *, last: bool) -> chain.State:
        lines = self.lines[: chain.BATCH]
        everything = self._preface + lines
        now = self._clock.now()
        self._unvouched += len(everything)
        vouch = self.due() or (last and len(lines) == len(self.lines))
        self._unvouched -= len(everything)
        batch, after = chain.extend(
            state,
            everything,
            until=now + self._ttl_s,
            refs=self._refs,
            checkpoint=self._mac if vouch else None,
            time_us=int(now * 1e6),
        )
        self._attempt = (after, len(lines))
        position = await self._storage.log.append(STREAM, [chain.encode(batch)], ttl=after.until - now)
        after = msgspec.structs.replace(after, position=position)
        self._landed(after)
        if vouch:
            await self._put_head(after)
            self._unvouched, self._vouched_at = 0, self._clock.monotonic()
        return after

    def _landed(self, state: chain.State) -> None:
        """The attempt is durable."""
        if self._attempt is None:
            return
        count = self._attempt[1]
        del self.lines[:count]
        self._left(count)
        self._written += count
        self._unvouched += count + len(self._preface)
        self._preface, self._refs, self._attempt = [], (), None
        self._state = state
        while self._waiters and self._waiters[0][0] <= self._written:
            done = self._waiters.popleft()[1]
            if not done.done():
                done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.failed = error
        self._state = None
        while self._waiters:
            done = self._waiters.popleft()[1]
            if not done.done():
                done.set_exception(errors.Unavailable(detail=f"audit: {error}"))

    # --- going on ---

    async def _resume(self) -> chain.State:
        heads = await self._storage.heads()
        mine = [head for head in heads if head.writer == self._writer]
        if mine:
            state = await self._catch_up(max(mine, key=lambda head: head.chain))
            if state is not None:
                if self._attempt is not None and self._attempt[0].head == state.head:
                    self._landed(state)
                return state
        return await self._begin(heads, damaged=bool(mine))

    async def _catch_up(self, head: chain.Head) -> chain.State | None:
        """Where the chain of `head` really ends; None when it is damaged, and can't be continued."""
        if not self._mac.vouches_head(head) or await self._storage.log.last(STREAM) < head.position:
            return None
        state = chain.begin(self.tenant, head.writer, head.chain)
        if head.count:
            state = chain.State(head.writer, head.chain, head.count, head.head, head.until, head.position)
        after = head.position
        try:
            while page := await self._storage.log.read(STREAM, after=after, limit=_PAGE):
                for record in page:
                    batch = chain.decode(record.data)
                    if batch.chain == head.chain:
                        state = chain.follow(state, batch, record.position)
                after = page[-1].position
        except (errors.TamperedData, chain.Broken):
            return None
        self._unvouched = state.count - head.count
        return state

    async def _begin(self, heads: list[chain.Head], *, damaged: bool) -> chain.State:
        """A new chain, which refers to all others. Its head record comes first, so that every chain has one."""
        now = self._clock.now()
        state = chain.begin(self.tenant, self._writer, ids.new("chain"))
        await self._put_head(msgspec.structs.replace(state, until=now + self._ttl_s))
        self._refs = tuple(head.ref() for head in heads if head.count and head.until > now)
        started = events.ChainStarted(
            tenant=self.tenant,
            actor=PLATFORM_ACTOR,
            outcome="failed" if damaged else "ok",
            writer=self._writer,
            others=len(self._refs),
        )
        self._preface = [(int(now * 1e6), events.encode(started))]
        self._attempt, self._unvouched = None, 0
        return state

    async def _put_head(self, after: chain.State) -> None:
        ttl = after.until - self._clock.now() + _HEAD_MARGIN_S
        await self._storage.put_head(self._mac.sealed(after), ttl)
