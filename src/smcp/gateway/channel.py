"""One answer that several messages share: what a batch and the old SSE transport have in common.

Each message is an exchange of its own, which walks the same stages as a message that came alone, and is counted,
decided on and put on record like one. Only its ends differ: what it has to say goes to a `Channel`, from where the
exchange that has the connection takes it.

What waits here is bounded: who writes to a full channel waits, as with a connection that is not read.
"""

import asyncio
import collections
from collections.abc import Callable, Hashable
from typing import Final

from smcp.access import policy
from smcp.gateway import head as heads
from smcp.gateway import sessions
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import headers, sse

ROOM: Final = 1024 * 1024
"""Bytes that a channel holds before those who write to it wait."""
_COLLECTED: Final = 4 * 1024 * 1024
"""Bytes of answers that one JSON array may have."""
_JSON: Final = b"content-type: application/json"
_EVENT: Final = b"event: message\ndata: "
_EVENT_END: Final = b"\n\n"


class Channel(sessions.Stream):
    """Where the answers of several exchanges meet: events in the order of their coming, or the members of an array.

    Also the stream of a session, where that has no other: whoever waits here hears of both.
    """

    def __init__(self, *, events: bool, takes_events: bool) -> None:
        """`events`: everything is an event from the start; `takes_events`: it may become so."""
        super().__init__()
        self.events = events
        self.takes_events = takes_events
        self.answers: list[bytes] = []
        """What has come while everything still may be one array."""
        self.live: dict[Sink, Hashable] = {}
        """Who still writes; with the exchange, which a loop would hold weakly."""
        self.gone = False
        """The client has closed the connection."""
        self.broken = False
        """An event ended in its middle: nothing can follow it."""
        self._collected = 0
        self._queue: collections.deque[bytes] = collections.deque()
        self._held = 0
        self._writer: Sink | None = None
        self._later: list[bytes] = []
        self._parked: list[asyncio.Future[None]] = []

    # --- from the sinks ---

    def answer(self, id_raw: bytes, body: bytes) -> None:
        """A whole answer."""
        if self.closed:
            return
        if self.events:
            self._put(sse.event(body))
            return
        self._collected += len(body)
        if self._collected > ROOM and self.takes_events:
            self.become_events()
            self._put(sse.event(body))
        elif self._collected > _COLLECTED:
            self._collected -= len(body)
            self.answers.append(_too_large(id_raw))
        else:
            self.answers.append(body)
        self.wake()

    def become_events(self) -> None:
        """From now on every answer is an event, those that have come too. Idempotent."""
        if not self.events:
            self.events = True
            for body in self.answers:
                self._put(sse.event(body))
            self.answers.clear()

    async def send(self, sink: "Sink", data: bytes) -> None:
        """A piece of the stream: whole events, or a part of one, which nobody else's interrupt."""
        while self._writer not in (None, sink) and not self.closed:
            await self._change()
        if self.closed:
            return
        self._append(data)
        self._writer = None if data.endswith(_EVENT_END) else sink
        self._hand_on()
        await self.taken()

    def end_event(self, sink: "Sink") -> None:
        """The event that `sink` writes is complete."""
        if self._writer is sink:
            self._writer = None
            self._append(_EVENT_END)
            self._hand_on()

    async def taken(self) -> None:
        """Return when there is room again, or nobody to make any."""
        while self._held > ROOM and not self.closed:
            await self._change()

    def left(self, sink: "Sink") -> None:
        """`sink` will write no more."""
        self.live.pop(sink, None)
        if self._writer is sink:
            self.broken = True
            self.shut()
        self.wake()

    # --- from who has the connection ---

    @property
    def full(self) -> bool:
        """Does it hold all that it may?"""
        return self._held > ROOM

    def has(self) -> bool:
        """Is there anything to send?"""
        return bool(self._queue)

    def take(self) -> bytes:
        """The oldest piece. To be called when there is one."""
        data = self._queue.popleft()
        self._held -= len(data)
        if self._held <= ROOM:
            self._changed()
        return data

    def hung_up(self) -> None:
        """The client has closed the connection: everybody who writes hears of it."""
        self.gone = True
        for sink in list(self.live):
            sink.hung_up()
        self.shut()

    def shut(self) -> None:
        """Nobody reads any more. Idempotent."""
        self.closed = True
        self._queue.clear()
        self._later.clear()
        self._held = 0
        self._changed()
        self.wake()

    # --- inside ---

    def _put(self, data: bytes) -> None:
        if self._writer is None:
            self._append(data)
        else:
            self._held += len(data)
            self._later.append(data)

    def _append(self, data: bytes) -> None:
        self._held += len(data)
        self._queue.append(data)
        self.wake()

    def _hand_on(self) -> None:
        if self._writer is None:
            self._queue.extend(self._later)
            self._later.clear()
            self._changed()
            self.wake()

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._parked.append(waiter)
        await waiter

    def _changed(self) -> None:
        parked, self._parked = self._parked, []
        for waiter in parked:
            if not waiter.done():
                waiter.set_result(None)


class Sink:
    """`exchange.Outgoing` of one message among others."""

    def __init__(self, channel: Channel, id_raw: bytes) -> None:
        """`id_raw` is the request's id; empty for what gets no answer."""
        self.refusal = b""
        """The error that refused a message which gets no answer of its own."""
        self.status = 0
        self._channel = channel
        self._id = id_raw
        self._json = False
        self._began = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._tell: Callable[[], None] | None = None

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        self.status = status
        if not self._id:
            self.refusal = body
        elif body:
            self._channel.answer(self._id, body)

    def start(self, status: int, lines: bytes) -> None:
        self.status = status
        self._json = lines.startswith(_JSON)
        if self._channel.takes_events:
            self._channel.become_events()

    async def send(self, data: bytes) -> None:
        if not data:
            return
        if not self._json:
            await self._channel.send(self, data)
        elif self._channel.events:
            # As in `large`: a line end between two members would end the event.
            piece = data.replace(b"\r", b" ")
            await self._channel.send(self, piece if self._began else _EVENT + piece)
            self._began = True
        elif self._size <= _COLLECTED:
            self._size += len(data)
            self._pieces.append(data)

    def end(self) -> None:
        if self._json and self._channel.events:
            self._channel.end_event(self)
        elif self._json:
            whole = self._size <= _COLLECTED
            self._channel.answer(self._id, b"".join(self._pieces) if whole else _too_large(self._id))
            self._pieces.clear()

    async def taken(self) -> None:
        await self._channel.taken()

    def finish(self) -> None:
        self._tell = None
        self._pieces.clear()
        self._channel.left(self)

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        self._tell = tell
        if self._channel.gone:
            self.hung_up()

    def hung_up(self) -> None:
        """The client has closed the connection."""
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()


class Inner:
    """`exchange.Incoming` of one message among others: the head is that of all, the body was read."""

    def __init__(self, path: bytes, fields: headers.Fields, head: heads.Head, address: str) -> None:
        self.method = "POST"
        self.path = path
        self.fields = fields
        self.head = head
        self.address = address

    def arrived(self, limit: int) -> bytes | None:
        return b""

    async def body(self, limit: int, seconds: float) -> bytes:
        return b""


class Old(Channel):
    """One event stream of the transport of MCP 2024-11-05. It is its session's only stream, and ends with it."""

    def __init__(self, key: tuple[str, str], tenant: ids.TenantId, server: ids.ServerName) -> None:
        super().__init__(events=True, takes_events=True)
        self.id = ids.token(256)
        """Names it to its client, and is no credential. Nobody but it knows the id of its session."""
        self.key = key
        self.tenant = tenant
        self.server = server
        self.session: sessions.Session | None = None
        self.ending = False
        """It takes no more messages, and ends when those it has are answered."""
        self.opening: asyncio.Event | None = None
        """Set when `initialize` is over, None before there was any."""
        self.head: heads.Head | None = None
        """Of every message in the session."""

    @property
    def over(self) -> bool:
        """Is it ending, with nothing left to be sent?"""
        return self.ending and not (self.live or self.has())


class Channels:
    """The open streams of the old transport, by their ids."""

    def __init__(self, per_principal: Callable[[ids.TenantId], int]) -> None:
        """`per_principal`: how many a principal of a tenant may have."""
        self._per_principal = per_principal
        self._by_id: dict[str, Old] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, principal: policy.Principal, tenant: ids.TenantId, server: ids.ServerName) -> Old:
        """A new one; a principal's oldest makes room."""
        key = (principal.tenant, principal.id)
        mine = [one for one in self._by_id.values() if one.key == key]
        for one in mine[: max(0, 1 + len(mine) - self._per_principal(principal.tenant))]:
            self.end(one)
        made = Old(key, tenant, server)
        self._by_id[made.id] = made
        return made

    def find(self, told: str, principal: policy.Principal, tenant: ids.TenantId, server: ids.ServerName) -> Old:
        """The open one. Raises `errors.SessionNotFound` for everything else, always the same."""
        found = self._by_id.get(told)
        if (
            found is None
            or found.closed
            or found.ending
            or (found.key, found.tenant, found.server) != ((principal.tenant, principal.id), tenant, server)
        ):
            raise errors.SessionNotFound
        return found

    def end(self, one: Old) -> None:
        """It is closed, and not found any more. Idempotent."""
        self._by_id.pop(one.id, None)
        one.shut()

    def end_all(self) -> None:
        """Let every one end, as soon as what it was asked is answered."""
        for one in self._by_id.values():
            one.ending = True
            one.wake()


def _too_large(id_raw: bytes) -> bytes:
    error = errors.TooLarge("The answers are too large for one JSON array: send the request alone, or accept a stream.")
    return jsonrpc.error(id_raw, error.rpc_code, error.public)
