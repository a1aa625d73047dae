"""What was sent on event streams, kept for clients that come back (MCP 2025-11-25, "Resumability and Redelivery").

Only the legacy wire has this, and only streams are kept: an answer in plain JSON never comes here.

One log for each session holds the events of all its streams, sealed under its tenant's key. A record's position in
that log is the position of the event; a stream's number is the position of the record that opened it, and 0 for the
session's GET stream. An event's id is both numbers, sealed under a key of the session's own: it shows nothing, and is
one of another session to nobody.

**An event goes out once it is on disk.** What comes meanwhile is written together, so that a stream with many events
costs few writes. A client has therefore never seen an event that is not kept, and no crash leaves a gap: lost is what
a hosted server said in the last few milliseconds before it, with the hosted server.

Who follows a stream (`Follower`) gets events from memory while it keeps up, and from the log once it does not.

Kept are a bounded number of bytes and of events of a session, for a bounded time; the oldest go first. Bytes count
against the tenant's quota. Where there is no room, or the storage does not answer, a stream goes on without being
kept, and says so to who comes back to it.
"""

import asyncio
import base64
import binascii
import collections
import contextlib
import struct
import time
from typing import Final, NamedTuple

import msgspec

from smcp.gateway import sessions
from smcp.kernel import crypto, errors, jsonrpc, observe
from smcp.runtime import calls, spool
from smcp.stores import tenant as stores
from smcp.stores.log import base as logs

PREFIX: Final = "event"
"""First segment of the log of a session."""

OPENED: Final = b"o"
"""A stream was opened; its data is `Asked`."""
OPEN: Final = b"p"
"""The same again, for a stream whose first record had to go."""
MESSAGE: Final = b"m"
ENDED: Final = b"e"
"""The response, which ends the stream."""
ENDED_LARGE: Final = b"l"
"""The response, which was too large to be kept here."""

_HEAD: Final = struct.Struct(">cI")
_PAIR: Final = struct.Struct(">II")
_ID: Final = 22
"""Characters of an event's id: 16 bytes in base64 without padding."""

_STORED: Final = _HEAD.size + 1 + crypto.OVERHEAD
"""Bytes that are stored with each event beside its data."""
_LEAST: Final = 1024
"""What the smallest event counts as, so that bytes bound their number too."""
_BATCH: Final = 64
_BATCH_BYTES: Final = 256 * 1024
_QUEUED_BYTES: Final = 1024 * 1024
"""Bytes that wait for the disk before calls keep theirs."""
_INBOX: Final = 64
_INBOX_BYTES: Final = 1024 * 1024
_PAGE: Final = 64
_LARGE_S: Final = 120.0
"""How long an answer that is too large for the log waits on disk for its client to come back."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """The request that a stream answers. New fields come at the end, with a default."""

    id: bytes
    method: str
    params: bytes = b""
    repeatable: bool = False
    """It may be asked again: `params` are kept."""


class Item(NamedTuple):
    """An event on its way to a client."""

    position: int
    """0: it is not kept."""
    kind: bytes
    data: bytes


class Follower(sessions.Stream):
    """A connection that follows a stream."""

    def __init__(self, after: int = 0, *, behind: bool) -> None:
        """`after`: what the client has. `behind`: there is more on record."""
        super().__init__()
        self.after = after
        self.behind = behind
        self.lost = False
        """Something was neither sent nor kept."""
        self._inbox: collections.deque[Item] = collections.deque()
        self._held = 0
        self._woken = False

    def offer(self, item: Item) -> None:
        """A new event. Without room for it, it and those before are read from the log again."""
        if self.behind:
            self.lost = self.lost or not item.position
        else:
            self._inbox.append(item)
            self._held += len(item.data)
            if len(self._inbox) > _INBOX or (self._held > _INBOX_BYTES and len(self._inbox) > 1):
                self.lost = self.lost or not all(one.position for one in self._inbox)
                self._inbox.clear()
                self._held = 0
                self.behind = True
        self.wake()

    def waits(self) -> bool:
        """Is there anything to send?"""
        return self.behind or self.lost or bool(self._inbox)

    def take(self) -> Item | None:
        """The next event that is in memory."""
        if not self._inbox:
            return None
        item = self._inbox.popleft()
        self._held -= len(item.data)
        return item

    def close(self) -> None:
        """Another connection follows, or nobody does."""
        self.closed = True
        self._inbox.clear()
        self.wake()

    async def wait(self) -> None:
        if not self._woken:
            await super().wait()
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        super().wake()


class Track:
    """One stream: of one request, or the session's GET stream."""

    def __init__(self, events: "Events", asked: Asked | None, number: int = 0) -> None:
        self.number = number
        """0 until it is on record."""
        self.opened = number
        """Position of the record that tells what it is."""
        self.asked = asked
        self.done = False
        """Its last event is on record, or was sent."""
        self.last = number
        """Position of its last event on record."""
        self.gap = 0
        """Position of its newest event that is not kept any more."""
        self.lost = False
        """It had an event that was never kept, and nobody followed."""
        self.kept = True
        self.sent = 0
        """Position of the last event that was sent to anybody."""
        self.call: calls.Call | None = None
        self.large: spool.Result | None = None
        self.reading = False
        """`large` is being sent."""
        self.owner: Follower | None = None
        """Who hears of the end, even when it does not follow any more."""
        self._events = events
        self._follower: Follower | None = None
        self._ending = False

    def follow(self, follower: Follower) -> None:
        """From now on `follower` gets what comes, and who did so far does not: no message goes to two connections."""
        if self._follower is not None:
            self._follower.close()
        self._follower = follower

    def leave(self, follower: Follower) -> None:
        """Nobody follows, if `follower` did."""
        if self._follower is follower:
            self._follower = None

    def drive(self, call: calls.Call) -> None:
        """Put on record what `call` brings, until it is over."""
        self.call = call
        self.pump()

    def pump(self) -> None:
        """Take what there is. Called by whoever makes it come: it must not wait."""
        call = self.call
        if call is None or self._ending:
            return
        while call.frames:
            if not self._events.has_room(self):
                return  # asked again once there is
            self._events.put(self, MESSAGE, call.take())
        if not call.done:
            call.watch(self.pump)
            return
        self._ending = True
        if call.failure is not None:
            failure = call.failure
            self._events.put(self, ENDED, jsonrpc.error(call.id, failure.rpc_code, failure.public, failure.data))
        elif call.spooled is not None:
            self.large, call.spooled = call.spooled, None
            asyncio.get_running_loop().call_later(_LARGE_S, self._give_up)
            self._events.put(self, ENDED_LARGE, b"")
        else:
            self._events.put(self, ENDED, call.response)

    def arrived(self, item: Item) -> bool:
        """An event is on record, or can't be: to whoever follows. False when nobody got what is not kept."""
        self.done = self.done or item.kind in (ENDED, ENDED_LARGE)
        if item.position:
            self.last = item.position
        follower = self._follower
        if follower is not None and not follower.closed:
            follower.offer(item)
        if self.owner is not None and self.done:
            self.owner.wake()
        return bool(item.position) or (follower is not None and not follower.closed)

    def wake(self) -> None:
        """Something that concerns everybody happened."""
        for one in (self._follower, self.owner):
            if one is not None:
                one.wake()

    def _give_up(self) -> None:
        if self.reading:
            asyncio.get_running_loop().call_later(_LARGE_S, self._give_up)
        else:
            self.drop_large()

    def drop_large(self) -> None:
        """What waits on disk is not needed any more. Idempotent."""
        if self.large is not None:
            self.large.close()
            self.large = None


class _Batch(NamedTuple):
    """Records that were written together, and will go together."""

    time: float
    stored: int
    """Bytes as they are stored: what `Log.shrink` counts."""
    counted: int
    ends: dict[Track, int]
    """The streams that have events there, and the position of each one's last."""
    position: int
    """Of the last of them."""


_Entry = tuple[Track, bytes, bytes]
"""What is to be written: stream, kind, data."""


class Events:
    """The log of one session."""

    def __init__(self, replays: "Replays", session: sessions.Session, handle: stores.Handle, key: bytes) -> None:
        self.listening = Track(self, None)
        """The session's GET stream."""
        self.tracks: dict[int, Track] = {}
        """The others, as long as any event of theirs is kept."""
        self.last = 0
        """Position of the last record."""
        self.closed = False
        """Nothing is written or sent any more."""
        self.ended = False
        """Since the session has ended, and not the process."""
        self._replays = replays
        self._session = session
        self._handle = handle
        self._stream = (PREFIX, handle.private("session", session.id))
        self._blocks = crypto.Blocks(key)
        self._queue: collections.deque[_Entry] = collections.deque()
        self._queued = 0
        self._stalled: set[Track] = set()
        self._writer: asyncio.Task[None] | None = None
        self._batches: collections.deque[_Batch] = collections.deque()
        self._counted = self._stored = 0
        self._loading = asyncio.Lock()
        self._loaded = False

    # --- ids ---

    def id(self, track: Track, position: int) -> bytes:
        """What a client calls the event of `track` at `position`."""
        return _text(self._blocks.seal(_PAIR.pack(track.number, position)))

    def find(self, told: str) -> tuple[Track, int]:
        """The stream and the position that an event's id names. Raises `errors.StreamNotKept` for any other text."""
        opened: bytes | None = None
        if len(told) == _ID and told.isascii():
            with contextlib.suppress(binascii.Error):
                sealed = base64.b64decode(told + "==", b"-_", validate=True)
                # The last character holds bits that mean nothing: one event has one id.
                opened = self._blocks.open(sealed) if _text(sealed) == told.encode() else None
        if opened is None:
            raise errors.StreamNotKept("Last-Event-ID names no event of this session.")
        number, position = _PAIR.unpack(opened)
        self._expire()
        track = self.listening if number == 0 else self.tracks.get(number)
        if track is None:
            raise errors.StreamNotKept
        return track, position

    # --- writing ---

    def open(self, asked: Asked) -> Track:
        """A new stream, that answers a request."""
        track = Track(self, asked)
        self.put(track, OPENED, msgspec.msgpack.encode(asked))
        return track

    def stray(self, data: bytes) -> None:
        """A message for the GET stream."""
        self.put(self.listening, MESSAGE, data)

    def put(self, track: Track, kind: bytes, data: bytes) -> None:
        """Write, with whatever else is to be written, then hand it to who follows."""
        if self.closed:
            return
        self._queue.append((track, kind, data))
        self._queued += len(data)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="events")

    def has_room(self, track: Track) -> bool:
        """May `track` put more now? If not, its `pump` is called once it may."""
        if self._queued <= _QUEUED_BYTES:
            return True
        self._stalled.add(track)
        return False

    async def _write(self) -> None:
        try:
            while self._queue and not self.closed:
                await self._write_some()
                await self._bound()
                if self._queued <= _QUEUED_BYTES:
                    stalled, self._stalled = self._stalled, set()
                    for track in stalled:
                        track.pump()
        finally:
            self._writer = None

    async def _write_some(self) -> None:
        batch: list[_Entry] = []
        size = 0
        while self._queue and len(batch) < _BATCH and (not batch or size + len(self._queue[0][2]) <= _BATCH_BYTES):
            batch.append(self._queue.popleft())
            size += len(batch[-1][2])
        fits: dict[int, _Entry] = {}
        for number, (track, _, data) in enumerate(batch):
            if track.kept and len(data) <= self._replays.session_bytes:
                fits[number] = batch[number]
            elif track is not self.listening:
                track.kept = False  # also for what comes behind it: a stream is kept without gaps or not at all
        kept = bool(fits) and await self._keep(list(fits.values()))
        self._queued -= size
        position = self.last - len(fits)
        for number, (track, kind, data) in enumerate(batch):
            if kept and number in fits:
                position += 1
                self._arrived(track, Item(position, kind, data))
            else:
                track.kept = track is self.listening
                self._arrived(track, Item(0, kind, data))

    def _arrived(self, track: Track, item: Item) -> None:
        if item.kind != OPEN and not track.arrived(item):
            if track is self.listening:
                # As before anybody listened: it waits in memory.
                self._session.sink = None
                self._session.stray(item.data, "")
            else:
                track.lost = True

    async def _keep(self, batch: list[_Entry]) -> bool:
        """Is all of `batch` on record now? If not, none of it is."""
        stored = sum(len(data) + _STORED for _, _, data in batch)
        counted = sum(max(_LEAST, len(data) + _STORED) for _, _, data in batch)
        self._expire()
        try:
            if not await self._handle.reserve(stored):
                return False
        except errors.SmcpError:
            return False
        try:
            await self._append(batch)
        except errors.SmcpError as error:
            self._handle.give_back(stored)
            self._replays.failed(error)
            return False
        ends = {
            track: position
            for position, (track, kind, _) in enumerate(batch, self.last - len(batch) + 1)
            if kind != OPEN
        }
        self._account(_Batch(time.monotonic(), stored, counted, ends, self.last))
        return True

    async def _append(self, batch: list[_Entry]) -> None:
        for _ in range(2):
            records: list[bytes] = []
            for position, (track, kind, data) in enumerate(batch, self.last + 1):
                if kind == OPENED:
                    track.number = track.last = position
                if kind in (OPENED, OPEN):
                    track.opened = position
                records.append(_HEAD.pack(kind, track.number) + data)
            try:
                last = await self._handle.log.append(self._stream, records, ttl=self._replays.kept_s, expect=self.last)
            except errors.Conflict:
                await self._catch_up()
                continue
            self.last = last
            for track, kind, _ in batch:
                if kind == OPENED:
                    self.tracks[track.number] = track
            return
        raise errors.Unavailable(detail="two writers of one session's events")

    async def _catch_up(self) -> None:
        """There are records that nobody knew to be there: an append was given up and done all the same."""
        while records := await self._handle.log.read(self._stream, after=self.last, limit=_PAGE):
            stored = sum(len(record.data) + 1 + crypto.OVERHEAD for record in records)
            self.last = records[-1].position
            if await self._handle.reserve(stored):
                self._account(_Batch(time.monotonic(), stored, max(_LEAST, stored), {}, self.last))

    # --- bounds ---

    def _account(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._stored += batch.stored
        self._counted += batch.counted

    def _pop(self) -> None:
        """The oldest batch is gone, or goes now."""
        batch = self._batches.popleft()
        self._stored -= batch.stored
        self._counted -= batch.counted
        self._handle.give_back(batch.stored)
        for track, last in batch.ends.items():
            if track is self.listening:
                continue
            track.gap = max(track.gap, last)
            if track.done and track.gap >= track.last:
                track.drop_large()
                self.tracks.pop(track.number, None)

    def _expire(self) -> None:
        """What is too old is not read any more, whether or not the store has removed it yet."""
        oldest = time.monotonic() - self._replays.kept_s
        while self._batches and self._batches[0].time < oldest:
            self._pop()

    async def _bound(self) -> None:
        if self._counted <= self._replays.session_bytes:
            return
        while self._counted > self._replays.session_bytes * 3 // 4 and len(self._batches) > 1:
            self._pop()
        with contextlib.suppress(errors.SmcpError):
            await self._handle.log.shrink(self._stream, most=self._stored)
        oldest = self._batches[0].position
        for track in self.tracks.values():
            # A stream that goes on needs to be known after a restart, however much it said.
            if track.asked is not None and track.opened < oldest and not track.done:
                self.put(track, OPEN, msgspec.msgpack.encode(track.asked))

    # --- reading ---

    async def more(self, track: Track, follower: Follower) -> list[Item]:
        """What `follower` has not got: one event that waits in memory, or several from the log.

        Raises `errors.StreamNotKept` when some of it is nowhere any more.
        """
        if follower.lost or track.lost:
            raise errors.StreamNotKept
        if not follower.behind:
            item = follower.take()
            return [] if item is None else [item]
        records = await self._handle.log.read(self._stream, after=follower.after, limit=_PAGE)
        if follower.after < track.gap:
            raise errors.StreamNotKept
        if not records or records[-1].position >= self.last:
            follower.behind = False
        found: list[Item] = []
        for record in records:
            kind, number = _HEAD.unpack_from(record.data)
            if number == track.number and kind != OPEN:
                found.append(Item(record.position, kind, record.data[_HEAD.size :]))
        if records and (not found or found[-1].position < records[-1].position):
            found.append(Item(records[-1].position, OPEN, b""))
        return found

    async def ready(self) -> None:
        """Read what was kept by an earlier process. Raises `errors.Unavailable`, `errors.SessionNotFound`."""
        if not self._loaded:
            async with self._loading:
                if not self._loaded:
                    await self._load()
                    self._loaded = True
        if self.closed:
            raise errors.SessionNotFound

    async def _load(self) -> None:
        last = await self._handle.log.last(self._stream)
        position, first = 0, 0
        now, store_now = time.monotonic(), self._replays.store_now()
        while position < last:
            records = await self._handle.log.read(self._stream, after=position, limit=_PAGE)
            if not records:
                break
            first = first or records[0].position
            for record in records:
                await self._restore(record, first, now - (store_now - record.time))
            position = records[-1].position
        self.last = self.listening.sent = last
        self._expire()

    async def _restore(self, record: logs.Record, first: int, written: float) -> None:
        kind, number = _HEAD.unpack_from(record.data)
        track = self.listening if number == 0 else self.tracks.get(number)
        if track is None:
            track = self.tracks[number] = Track(self, None, number)
            track.gap = first - 1 if number < first else 0
        if kind in (OPENED, OPEN):
            track.opened = record.position
            with contextlib.suppress(msgspec.DecodeError):
                track.asked = msgspec.msgpack.decode(record.data[_HEAD.size :], type=Asked)
        if kind != OPEN:
            track.last = record.position
        track.done = track.done or kind in (ENDED, ENDED_LARGE)
        stored = len(record.data) + 1 + crypto.OVERHEAD
        if await self._handle.reserve(stored):
            ends = {} if kind == OPEN else {track: record.position}
            self._account(_Batch(written, stored, max(_LEAST, stored), ends, record.position))

    # --- the end ---

    def close(self, *, ended: bool) -> "asyncio.Task[None] | None":
        """Nothing is written or sent any more; returns what is still being written."""
        self.closed, self.ended = True, ended
        for track in (self.listening, *self.tracks.values()):
            track.drop_large()
            track.wake()
        for track in {one[0] for one in self._queue}:
            track.wake()
        self._queue.clear()
        for batch in self._batches:
            self._handle.give_back(batch.stored)
        self._batches.clear()
        return self._writer

    async def drop(self, writing: "asyncio.Task[None] | None") -> None:
        """Remove what was kept, once `writing` is over."""
        if writing is not None:
            await asyncio.wait({writing})
        with contextlib.suppress(errors.SmcpError):  # it has a time to live too
            await self._handle.log.drop(self._stream)


class Replays:
    """The logs of every session of this node."""

    def __init__(self, store: stores.Store, log: observe.Logger, *, session_bytes: int, kept_s: float) -> None:
        """`session_bytes` are kept of one session, each event for `kept_s` seconds."""
        self.session_bytes = session_bytes
        self.kept_s = kept_s
        self._store = store
        self._log = log
        self._events: dict[str, Events] = {}
        self._dropping: set[asyncio.Task[None]] = set()

    def store_now(self) -> float:
        """The time that records carry."""
        return self._store.now()

    def failed(self, error: errors.SmcpError) -> None:
        """Events could not be written."""
        self._log.warning("events are not kept", detail=str(error))

    async def of(self, session: sessions.Session) -> Events:
        """The events of a session. Raises `errors.Unavailable`, `errors.SessionNotFound`."""
        events = self._events.get(session.id)
        if events is None:
            if session.over:
                raise errors.SessionNotFound
            handle = self._store.tenant(session.tenant)
            key = crypto.keyed_digest(self._store.ring.data_key(session.tenant, "gateway.events"), session.id)
            events = self._events[session.id] = Events(self, session, handle, key)
        await events.ready()
        return events

    def forget(self, session: sessions.Session) -> None:
        """A session has ended, and what was kept of it goes."""
        events = self._events.pop(session.id, None)
        if events is not None:
            dropping = asyncio.get_running_loop().create_task(events.drop(events.close(ended=True)))
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)

    async def close(self) -> None:
        """The process ends. What is on record stays: streams that are open now are open for the next process."""
        writing = [task for events in self._events.values() if (task := events.close(ended=False)) is not None]
        self._events.clear()
        await asyncio.gather(*writing, *self._dropping, return_exceptions=True)


def _text(sealed: bytes) -> bytes:
    return base64.urlsafe_b64encode(sealed)[:_ID]
