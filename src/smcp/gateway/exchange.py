"""One request on its way through the pipeline, and the parts that the stages use.

The core knows an `Exchange`, not a connection: `front` is the one adapter.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Final, Protocol

from smcp.access import policy, tools
from smcp.audit import trail
from smcp.gateway import alarms, channel, feeds, lists, meters, parked, replay, sessions, targets
from smcp.gateway import head as heads
from smcp.identity import authenticator
from smcp.kernel import errors, hosts, ids, jsonrpc, observe, settings
from smcp.protocol import compress, eras, headers
from smcp.runtime import calls, driver, journal, pool
from smcp.tenancy import limits, meter

Header = tuple[bytes, bytes]


class Incoming(Protocol):
    """What came."""

    @property
    def method(self) -> str:
        """The HTTP method."""
        ...

    @property
    def path(self) -> bytes:
        """As sent, still percent-encoded: one form only is canonical, every other is another path."""
        ...

    @property
    def fields(self) -> headers.Fields:
        """The header fields."""
        ...

    @property
    def address(self) -> str:
        """The client's address as the connection shows it."""
        ...

    def arrived(self, limit: int) -> bytes | None:
        """The whole body, None while some of it is on its way. Raises `errors.TooLarge` above `limit` bytes."""
        ...

    @property
    def head(self) -> heads.Head:
        """What is known of the head: shared by requests of one connection whose heads are the same."""
        ...

    async def body(self, limit: int, seconds: float) -> bytes:
        """The whole body, waiting for it.

        Raises `errors.TooLarge` above `limit` bytes, `errors.RequestTimeout` when it has not come within `seconds`, and
        `ClientGone` when the client hangs up.
        """
        ...


class Outgoing(Protocol):
    """Where the answer goes. Nothing here raises when the client has gone: there is nobody to tell."""

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a whole answer; `lines` are its header lines."""
        ...

    def start(self, status: int, lines: bytes) -> None:
        """Send the status and the header lines of an answer whose length nobody knows."""
        ...

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client does not read."""
        ...

    def end(self) -> None:
        """The body is complete."""
        ...

    async def taken(self) -> None:
        """Return when the client has read most of what was sent, or has gone."""
        ...

    def finish(self) -> None:
        """Whoever answered is through. Without a complete answer, only the end of the connection can say so."""
        ...

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Call `tell` once, when the client has closed the connection or if it has already; None: nobody any more."""
        ...


class ClientGone(Exception):
    """The client hung up: there is nobody to answer."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the stages work with; put together once, in `app/wire.py`."""

    settings: settings.Settings
    hosts: hosts.Hosts
    authenticator: authenticator.Authenticator
    limiter: limits.Limiter
    targets: targets.Targets
    sessions: sessions.Sessions
    replays: replay.Replays
    channels: channel.Channels
    parked: parked.Parked
    feeds: feeds.Feeds
    lists: lists.Lists
    pool: pool.Pool
    trail: trail.Trail
    metrics: observe.Metrics
    meters: meters.Meters
    traces: observe.Traces
    alarms: alarms.Alarms
    meter: meter.Meter
    journal: journal.Journal
    log: observe.Logger


class Repetition:
    """A call's second try, since its first copy is gone: see `again`."""

    __slots__ = ("before", "lost", "ran", "task")

    def __init__(self, before: tuple[driver.Instance, int], *, ran: bool) -> None:
        """`before`: where the call was, and its number there. `ran`: it may have run there."""
        self.before = before
        self.ran = ran
        self.lost = False
        """The second copy is gone, too."""
        self.task: asyncio.Task[None] | None = None


class Exchange:
    """One HTTP request, filled in stage by stage."""

    __slots__ = (
        "action",
        "address",
        "again",
        "answered",
        "call",
        "choice",
        "era",
        "forwarded",
        "gone",
        "head",
        "incoming",
        "inner",
        "instance",
        "lease",
        "lines",
        "members",
        "message",
        "number",
        "out",
        "over",
        "own_instance",
        "parked",
        "principal",
        "received",
        "refused",
        "request_id",
        "sent",
        "server",
        "session",
        "started",
        "status",
        "streaming",
        "target",
        "task",
        "tenant",
        "ticket",
        "trace",
        "version",
    )

    def __init__(self, incoming: Incoming, out: Outgoing, request_id: str, over: "Callable[[Exchange], None]") -> None:
        """`over` hears of the end."""
        self.incoming = incoming
        self.out = out
        self.head = incoming.head
        self.request_id = request_id
        self.started = time.monotonic()
        self.address = incoming.address
        self.over = over
        self.task: asyncio.Task[None] | None = None
        """Who walks on, where something has to be waited for; kept here, since a loop holds its tasks weakly."""
        self.parked = False
        """Nobody walks: the call's end, or whatever else happens to it, goes on."""
        self.lines = b""
        """Header lines of whatever the answer will be."""
        self.tenant: ids.TenantId | None = None
        self.server: ids.ServerName | None = None
        self.principal: policy.Principal | None = None
        self.era = eras.Era.LEGACY
        self.version = ""
        self.message: jsonrpc.Message | None = None
        self.members: list[jsonrpc.Message | errors.SmcpError] | None = None
        """The messages of a batch, instead of `message`, or what is wrong with one."""
        self.inner = False
        """It is one message of another exchange's body, and no HTTP request: see `channel`."""
        self.forwarded: jsonrpc.Message | None = None
        """What the hosted server gets instead of `message`, where eras differ."""
        self.action = policy.Action.MCP_CONNECT
        self.target: targets.Target | None = None
        self.session: sessions.Session | None = None
        self.lease: limits.Lease | None = None
        self.instance: driver.Instance | None = None
        self.own_instance: driver.Instance | None = None
        """A copy that serves this request only and ends with it."""
        self.number = 0
        self.call: calls.Call | None = None
        self.choice: tools.Choice | None = None
        """Which tools of the server the principal has; None: all of them."""
        self.again: Repetition | None = None
        self.answered = False
        self.streaming = False
        self.gone = False
        """The client has closed the connection."""
        self.status = 0
        self.refused = ""
        """The wire code of the error that ended the exchange, empty when none did."""
        self.ticket: lists.Ticket | None = None
        """Takes the result, which may be kept for others."""
        self.trace: observe.Request | None = None
        """Its spans, when it is recorded."""
        self.received = 0
        self.sent = 0

    @property
    def method(self) -> str:
        """The JSON-RPC method, empty when there is none."""
        return "" if self.message is None else self.message.method

    def answer(self, status: int, body: bytes = b"", fields: tuple[Header, ...] = (), *, coded: bool = False) -> None:
        """Send a whole answer: JSON when there is a body, compressed where that pays (`coded`: it is already)."""
        self.answered = True
        self.status = status
        lines = self.lines + _JSON if body else self.lines
        if fields:
            lines += joined(fields)
        if coded or len(body) >= compress.LEAST:
            lines += joined((compress.VARY,))
            if not coded and self._takes_gzip():
                body, coded = compress.gzip(body), True
            if coded:
                lines += joined((compress.CODED,))
        self.out.whole(status, lines, body)
        self.sent += len(body)

    async def answer_large(self, status: int, body: bytes, fields: tuple[Header, ...] = ()) -> None:
        """As `answer`, without keeping everybody waiting while a large body is compressed."""
        coded = len(body) > compress.LARGE and self._takes_gzip()
        self.answer(status, await compress.gzip_beside(body) if coded else body, fields, coded=coded)
        if len(body) > _AT_ONCE:
            # What the client has not read counts as in flight: else slow readers could leave any amount of it behind.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNREAD_S):
                    await self.out.taken()

    def _takes_gzip(self) -> bool:
        return compress.wanted(self.incoming.fields.get(b"accept-encoding"))

    def open_stream(self, fields: tuple[Header, ...] = ()) -> None:
        """Begin an event stream. Proxies must neither buffer nor change it (MCP 2026-07-28, "Streamable HTTP")."""
        self.answered = self.streaming = True
        self.status = 200
        self.out.start(200, _STREAM + joined(fields) + self.lines)

    def open_large(self) -> None:
        """Begin an answer in JSON that is sent in pieces, by `stream`."""
        self.answered = True
        self.status = 200
        self.out.start(200, _JSON + self.lines)

    async def stream(self, data: bytes) -> None:
        """Send a piece of a stream or of a large answer.

        Raises `ClientGone` when the client reads nothing for `_UNREAD_S`.
        """
        self.sent += len(data)
        try:
            async with asyncio.timeout(_UNREAD_S):
                await self.out.send(data)
        except TimeoutError as error:
            raise ClientGone from error

    def end_stream(self) -> None:
        """End the event stream."""
        self.out.end()


_AT_ONCE: Final = 65_536
"""Bytes that a connection keeps for a client that does not read yet."""
_UNREAD_S: Final = 60.0
"""Seconds that a client may leave its side of a stream full, before it counts as gone."""

_JSON: Final = b"content-type: application/json\r\n"
_STREAM: Final = (
    b"content-type: text/event-stream\r\ncache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"
)


def joined(fields: tuple[Header, ...]) -> bytes:
    """Header fields as lines."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])
