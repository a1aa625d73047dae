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
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from smcp.gateway import sessions, tracks
from smcp.kernel import crypto, errors, ids, jsonrpc, observe
from smcp.stores import tenant as stores
from smcp.stores.log import base as logs

PREFIX: Final = "event"
"""First segment of the log of a session."""

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
_QUEUED_BYTES: Final = 256 * 1024
"""Bytes that wait for the disk before calls keep theirs."""
_STRAYS_BYTES: Final = 4 * 1024 * 1024
_ENTRY: Final = 256
"""What an event that waits takes beside its data, about."""
_PAGE: Final = 64


class _Batch(NamedTuple):
    """Records that were written together, and will go together."""

    time: float
    stored: int
    """Bytes as they are stored: what `Log.shrink` counts."""
    counted: int
    ends: dict[tracks.Track, int]
    """The streams that have events there, and the position of each one's last."""
    position: int
    """Of the last of them."""


_Entry = tuple[tracks.Track, bytes, bytes]
"""What is to be written: stream, kind, data."""


class Events:
    """The log of one session."""

    def __init__(self, replays: "Replays", session: sessions.Session, handle: stores.Handle, key: bytes) -> None:
        self.listening = tracks.Track(self, None)
        """The session's GET stream."""
        self.tracks: dict[int, tracks.Track] = {}
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
        self._stream = (PREFIX, session.name)
        self._blocks = crypto.Blocks(key)
        self._queue: collections.deque[_Entry] = collections.deque()
        self._queued = 0
        self._stalled: set[tracks.Track] = set()
        self._writer: asyncio.Task[None] | None = None
        self._batches: collections.deque[_Batch] = collections.deque()
        self._counted = self._stored = 0
        self._loading = asyncio.Lock()
        self._loaded = False

    # --- ids ---

    def id(self, track: tracks.Track, position: int) -> bytes:
        """What a client calls the event of `track` at `position`."""
        return _text(self._blocks.seal(_PAIR.pack(track.number, position)))

    def find(self, told: str) -> tuple[tracks.Track, int]:
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

    def open(self, asked: tracks.Asked) -> tracks.Track:
        """A new stream, that answers a request."""
        track = tracks.Track(self, asked)
        self.put(track, tracks.OPENED, msgspec.msgpack.encode(asked))
        return track

    def stray(self, data: bytes) -> None:
        """A message for the GET stream; lost where the disk is far behind: nobody waits for it in particular."""
        if self._queued <= _STRAYS_BYTES:
            self.put(self.listening, tracks.MESSAGE, data)

    def end(self, track: tracks.Track, failure: errors.SmcpError) -> None:
        """A stream whose call nobody waits for any more ends with `failure`."""
        if track.asked is not None and not track.repeating:
            track.repeating = True
            error = jsonrpc.error(track.asked.id, failure.rpc_code, failure.public, failure.data)
            self.put(track, tracks.ENDED, error)

    def put(self, track: tracks.Track, kind: bytes, data: bytes) -> None:
        """Write, with whatever else is to be written, then hand it to who follows."""
        if self.closed:
            return
        self._queue.append((track, kind, data))
        self._queued += len(data) + _ENTRY
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="events")

    def doomed(self) -> bool:
        """Do all hosted servers end just now, and this process with them?"""
        return self._replays.doomed()

    async def settled(self) -> None:
        """Return when nothing is on its way to the disk."""
        while self._writer is not None:
            await asyncio.wait({self._writer})

    def has_room(self, track: tracks.Track) -> bool:
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
        self._queued -= size + len(batch) * _ENTRY
        position = self.last - len(fits)
        for number, (track, kind, data) in enumerate(batch):
            if kept and number in fits:
                position += 1
                self._arrived(track, tracks.Item(position, kind, data))
            else:
                track.kept = track is self.listening
                self._arrived(track, tracks.Item(0, kind, data))

    def _arrived(self, track: tracks.Track, item: tracks.Item) -> None:
        if item.kind != tracks.OPEN and not track.arrived(item):
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
            if kind != tracks.OPEN
        }
        self._account(_Batch(time.monotonic(), stored, counted, ends, self.last))
        return True

    async def _append(self, batch: list[_Entry]) -> None:
        for _ in range(2):
            records: list[bytes] = []
            for position, (track, kind, data) in enumerate(batch, self.last + 1):
                if kind == tracks.OPENED:
                    track.number = track.last = position
                if kind in (tracks.OPENED, tracks.OPEN):
                    track.opened = position
                records.append(_HEAD.pack(kind, track.number) + data)
            try:
                last = await self._handle.log.append(self._stream, records, ttl=self._replays.kept_s, expect=self.last)
            except errors.Conflict:
                await self._catch_up()
                continue
            self.last = last
            for track, kind, _ in batch:
                if kind == tracks.OPENED:
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
        if self.closed:
            self._handle.give_back(batch.stored)  # the session ended while this was written or read
            return
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
        if self.closed or self._counted <= self._replays.session_bytes:
            return
        while self._counted > self._replays.session_bytes * 3 // 4 and len(self._batches) > 1:
            self._pop()
        with contextlib.suppress(errors.SmcpError):
            await self._handle.log.shrink(self._stream, most=self._stored)
        if not self._batches:
            return  # the session ended meanwhile
        oldest = self._batches[0].position
        for track in self.tracks.values():
            # A stream that goes on needs to be known after a restart, however much it said.
            if track.asked is not None and track.opened < oldest and not track.done:
                self.put(track, tracks.OPEN, msgspec.msgpack.encode(track.asked))

    # --- reading ---

    async def more(self, track: tracks.Track, follower: tracks.Follower) -> list[tracks.Item]:
        """What `follower` has not got: one event that waits in memory, or several from the log.

        Raises `errors.StreamNotKept` when some of it is nowhere any more.
        """
        if follower.lost or track.lost:
            raise errors.StreamNotKept
        if not follower.behind:
            item = follower.take()
            return [] if item is None else [item]
        found_now = await self._handle.log.read(self._stream, after=follower.after, limit=_PAGE)
        # What is on disk, and not yet known to be: it is still to arrive, and must not come twice.
        records = [record for record in found_now if record.position <= self.last]
        if follower.after < track.gap:
            raise errors.StreamNotKept
        if not records or records[-1].position >= self.last:
            follower.behind = False
        found: list[tracks.Item] = []
        for record in records:
            kind, number = _HEAD.unpack_from(record.data)
            if number == track.number and kind != tracks.OPEN:
                found.append(tracks.Item(record.position, kind, record.data[_HEAD.size :]))
        if records and (not found or found[-1].position < records[-1].position):
            found.append(tracks.Item(records[-1].position, tracks.OPEN, b""))
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
        self._free()  # an attempt before this one may have stopped half way
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
            track = self.tracks[number] = tracks.Track(self, None, number)
            track.gap = first - 1 if number < first else 0
        if kind in (tracks.OPENED, tracks.OPEN):
            track.opened = record.position
            with contextlib.suppress(msgspec.DecodeError):
                track.asked = msgspec.msgpack.decode(record.data[_HEAD.size :], type=tracks.Asked)
        if kind != tracks.OPEN:
            track.last = record.position
        track.done = track.done or kind in (tracks.ENDED, tracks.ENDED_LARGE)
        stored = len(record.data) + 1 + crypto.OVERHEAD
        if await self._handle.reserve(stored):
            ends = {} if kind == tracks.OPEN else {track: record.position}
            self._account(_Batch(written, stored, max(_LEAST, stored), ends, record.position))

    # --- the end ---

    def close(self, *, ended: bool) -> None:
        """Nothing more is written or sent."""
        self.closed, self.ended = True, ended
        for track in (self.listening, *self.tracks.values()):
            track.drop_large()
            track.wake()
        for track in {one[0] for one in self._queue}:
            track.wake()
        self._queue.clear()
        self._free()

    def _free(self) -> None:
        """Nothing of this session counts against the tenant."""
        self._handle.give_back(self._stored)
        self._batches.clear()
        self._stored = self._counted = 0

    async def drop(self) -> None:
        """Remove what was kept."""
        await self.settled()
        with contextlib.suppress(errors.SmcpError):  # it has a time to live too
            await self._handle.log.drop(self._stream)


class Replays:
    """The logs of every session of this node."""

    def __init__(
        self,
        store: stores.Store,
        log: observe.Logger,
        *,
        session_bytes: int,
        kept_s: float,
        doomed: Callable[[], bool] = lambda: False,
    ) -> None:
        """`session_bytes` are kept of one session, each event for `kept_s` seconds.

        `doomed`: do all hosted servers end just now, and this process with them?
        """
        self.doomed = doomed
        self.session_bytes = session_bytes
        self.kept_s = kept_s
        self._store = store
        self._log = log
        self._events: dict[tuple[ids.TenantId, str], Events] = {}
        self._began = time.monotonic()
        self._dropping: set[asyncio.Task[None]] = set()

    def store_now(self) -> float:
        """The time that records carry."""
        return self._store.now()

    def failed(self, error: errors.SmcpError) -> None:
        """Events could not be written."""
        self._log.warning("events are not kept", detail=str(error))

    async def of(self, session: sessions.Session) -> Events:
        """The events of a session. Raises `errors.Unavailable`, `errors.SessionNotFound`."""
        events = self._events.get((session.tenant, session.name))
        if events is None:
            if session.over:
                raise errors.SessionNotFound
            events = self._events[session.tenant, session.name] = self._made(session)
        await events.ready()
        return events

    def _made(self, session: sessions.Session) -> Events:
        key = crypto.keyed_digest(self._store.ring.data_key(session.tenant, "gateway.events"), session.name)
        return Events(self, session, self._store.tenant(session.tenant), key)

    def forget(self, session: sessions.Session, reason: str) -> None:
        """A session has ended, for a reason in one word, and what was kept of it goes."""
        events = self._events.pop((session.tenant, session.name), None)
        if events is None and session.created < self._began and self._store.knows(session.tenant):
            events = self._made(session)  # an earlier process may have kept something
        if events is not None:
            events.close(ended=True)
            dropping = asyncio.get_running_loop().create_task(events.drop())
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)

    async def close(self) -> None:
        """The process ends. What is on record stays: streams that are open now are open for the next process."""
        left = list(self._events.values())
        for events in left:
            events.close(ended=False)
        await asyncio.gather(*(events.settled() for events in left), return_exceptions=True)

    async def settled(self) -> None:
        """Return when what was kept of sessions that have ended is gone."""
        await asyncio.gather(*self._dropping, return_exceptions=True)


def _text(sealed: bytes) -> bytes:
    return base64.urlsafe_b64encode(sealed)[:_ID]
