"""HTTP/1.1 with the patience of a public edge: httptools' parser, the gateway in front, ASGI for everything else.

A request for `/t/…` becomes a `gateway.front.Request`, unless it is for an issuer's metadata
(`/t/{tenant}/.well-known/…`); any other one goes to the ASGI application through uvicorn's own cycle, whose server also
accepts connections and ends them in order. What is kept of a connection is bounded: `HEADER_S`
seconds and `HEADER_BYTES` bytes for what comes before a request is one (slow loris; RFC 6585, 431), `LINGER_S` seconds
for the rest of a body that was refused already, `IDLE_S` seconds between requests.

All of these share one timer of the connection, which is set anew only when it fires too early: a request that comes
whole touches no timer at all.

A request's target is a path (RFC 9112, 3.2.1). The other forms, and a fragment, which no client sends, are refused:
they would be dropped on the way to the application, which then could not tell two addresses apart.
"""

import asyncio
import collections
import logging
import urllib.parse
from typing import Any, Final, cast

import httptools
import uvicorn
from uvicorn import server as uvicorn_server
from uvicorn.protocols import utils
from uvicorn.protocols.http import flow_control, httptools_impl

from smcp.app import repeats
from smcp.gateway import front
from smcp.protocol import headers

HEADER_S: Final = 10.0
HEADER_BYTES: Final = 65_536
LINGER_S: Final = 5.0
IDLE_S: Final = 75.0
CONNECTIONS: Final = 10_000
"""Connections at once; more are answered 503."""

_NEVER: Final = float("inf")
_PIPELINED: Final = 64
"""Requests of one connection that may wait for the answers before them."""
_GATEWAY: Final = b"/t/"
_WELL_KNOWN: Final = b"/.well-known/"
"""Right behind the tenant: the issuer's documents, which are no server's (RFC 8414, 3; OpenID Connect Discovery, 4)."""


def _plain(status: int) -> bytes:
    return front.STATUS_LINES[status] + b"content-length: 0\r\nconnection: close\r\n\r\n"


class Protocol(asyncio.Protocol):
    """One connection. Made by uvicorn's server; `gateway` gets what is below `/t/`."""

    def __init__(
        self,
        gateway: front.App,
        heads: repeats.Room,
        config: uvicorn.Config,
        server_state: uvicorn_server.ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._gateway = gateway
        self._app: Any = cast("Any", config).loaded_app
        self._state = server_state
        # Declared for uvicorn's own protocols; what the server asks of its members is `shutdown`.
        self._open = cast("set[Any]", server_state.connections)
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._flow: flow_control.FlowControl = cast("flow_control.FlowControl", None)
        self.address = ""
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._length = b""
        self._heads = repeats.Known(heads)
        self._between = True
        """Does the parser stand before a message, behind one that keeps the connection? Then a known head may come."""
        self._chunk = b""
        """What is being parsed, while nothing before the first head in it has come earlier."""
        self._kept = False
        self._common: tuple[list[tuple[bytes, bytes]], bytes] = [], b""
        self._in_head = True
        self._head_bytes = 0
        self._trailing = False
        """Behind a chunk's size: perhaps in the trailer section, which nobody reads and which has the head's cap."""
        self._wrong = _plain(400)
        self._turn: front.Request | _AsgiTurn | None = None
        """The request that is being read, or was read last."""
        self._answering: front.Request | _AsgiTurn | None = None
        self._waiting: collections.deque[front.Request | _AsgiTurn] = collections.deque()
        self._starting = False
        self._refused = False
        self._last = False
        self._deadline = _NEVER
        self._late: bytes = b""
        """What is answered at the deadline; nothing for a connection that is idle or lingers."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses of asyncio's
        self._flow = flow_control.FlowControl(self._transport)
        peer = utils.get_remote_addr(self._transport)
        self.address = peer[0] if peer else ""
        self._open.add(self)
        self._expect_by(HEADER_S, _plain(408))

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._deadline = _NEVER
        if self._timer is not None:
            self._timer.cancel()
        self._flow.resume_writing()
        for turn in {self._turn, self._answering, *self._waiting}:
            if turn is not None:
                turn.lost()
        self._waiting.clear()
        self._heads.clear()
        self._parser = self._turn = self._answering = None

    def eof_received(self) -> None:
        """The other side sends no more: nothing can follow, so the transport closes."""

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    def shutdown(self) -> None:
        """The server stops: close now, or after the answer that is under way."""
        if self._answering is None:
            self._transport.close()
        else:
            self._last = True
            self._answering.close_after()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._between:
            if self._again(data):
                return
            self._chunk = data
        if self._in_head or self._trailing:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # there is no other protocol here: it is answered as what it is, a request, and is the last one
        except httptools.HttpParserError:
            self._start()
            self._refuse(self._wrong)
            return
        finally:
            self._chunk = b""
        if self._waiting:
            self._start()
        # Only what is left of an unfinished head counts: a body in the same chunk was taken by the parser already.
        if self._in_head and self._head_bytes:
            if self._head_bytes > HEADER_BYTES:
                self._refuse(_plain(431))
            elif not self._late and self._answering is None:
                self._expect_by(HEADER_S, _plain(408))
        elif self._trailing and self._head_bytes > HEADER_BYTES:
            self._refuse(_plain(431))

    def _again(self, data: bytes) -> bool:
        """Is `data` one request whose head is known? Then it is answered, and the parser has not seen it."""
        if self._answering is not None or self._waiting or self._last or len(self._open) > CONNECTIONS:
            return False
        found = self._heads.find(data)
        if found is None:
            return False
        self._late = b""
        self._deadline = _NEVER
        head, length, body = found
        turn = self._turn = self._answering = front.Request(
            self, "POST", head.target, head.fields, length, newer=True, keep_alive=True, body=body
        )
        self._gateway.begin(turn)
        return True

    # --- one deadline, one timer ---

    def _expect_by(self, seconds: float, late: bytes = b"") -> None:
        self._late = late
        self._deadline = self._loop.time() + seconds
        if self._timer_at > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(self._deadline)

    def _arm(self, at: float) -> None:
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        if self._deadline == _NEVER or self._transport.is_closing():
            return
        if self._loop.time() + 0.001 < self._deadline:
            self._arm(self._deadline)
        elif self._late and not self._refused:
            self._refuse(self._late)
        elif self._transport.get_write_buffer_size():
            # `close` would wait, for ever, until the other side has read what it has not read so far.
            self._transport.abort()
        else:
            self._transport.close()

    def _refuse(self, answer: bytes) -> None:
        """Answer, and close once the other side had time to read it: closing on unread input would reset the answer."""
        if self._refused or self._transport.is_closing():
            return
        self._refused = True
        if self._answering is None:
            turn = self._turn
            if self._in_head or turn is None or not turn.done:
                # Else its answer has gone out already, and this one would be taken for the next request's.
                self._transport.write(answer)
            if self._transport.can_write_eof():
                self._transport.write_eof()
        else:
            answering = self._answering
            answering.close_after()
            if isinstance(answering, front.Request):
                if answering is self._turn and not self._in_head:
                    answering.broken()
                # It takes as long as it takes: what came behind it is no reason to cut it. Then `over` lingers.
                self._deadline = _NEVER
                return
        self._expect_by(LINGER_S)

    # --- the parser ---

    def on_message_begin(self) -> None:
        self._url = b""
        self._fields = []
        self._length = b""
        self._in_head = True
        self._between = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field: merging it into the head would let it pass for what was checked there
        name = name.lower()
        if name == b"content-length":  # apart: it is all that changes between calls of most clients
            self._length = value
        else:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._late = b""
        self._deadline = _NEVER
        self._turn = None
        chunk, self._chunk, self._kept = self._chunk, b"", False
        if not self._url.startswith(b"/") or b"#" in self._url:
            # The parser turns it into its own error, which is answered with 400 and ends the connection.
            raise ValueError("the request's target is not a path")
        newer = self._parser.get_http_version() == "1.1"
        keep_alive = newer and self._parser.should_keep_alive() and not self._parser.should_upgrade() and not self._last
        if len(self._open) > CONNECTIONS or len(self._waiting) >= _PIPELINED:
            # As an error of the parser: nothing behind it is read, and who asked before is answered before.
            self._wrong = _plain(503)
            raise ValueError("too many at once")
        self._kept = keep_alive
        self._turn = turn = self._made(chunk if keep_alive else b"", newer=newer, keep_alive=keep_alive)
        if self._answering is not None or self._waiting:
            self.pause()
        self._waiting.append(turn)

    def _made(self, chunk: bytes, *, newer: bool, keep_alive: bool) -> "front.Request | _AsgiTurn":
        method: str = self._parser.get_method().decode("ascii")
        url = self._url
        if url.startswith(_GATEWAY) and not url.startswith(_WELL_KNOWN, url.find(b"/", len(_GATEWAY))):
            head = self._heads.last
            if head is None or head.fields.pairs != self._fields or head.target != self._url or head.method != method:
                key = repeats.learn(chunk, self._length)
                made = repeats.Head(key, method, self._url, headers.Fields(self._fields))
                # What nobody could be told by is not worth the room, whoever sends it.
                self._heads.remember(made, good=head is not None and front.known(head.fields))
                head = made
            elif chunk and not head.key:
                head.key = repeats.learn(chunk, self._length)  # it came in pieces before
            return front.Request(self, method, self._url, head.fields, self._length, newer=newer, keep_alive=keep_alive)
        expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._fields)
        return _AsgiTurn(self, self._scope(method), keep_alive=keep_alive, expects=expects)

    def _start(self) -> None:
        """Answer what waits, one after the other; who is answered at once makes room in this same loop."""
        if self._starting:
            return
        self._starting = True
        try:
            while self._waiting and self._answering is None and not (self._refused or self._transport.is_closing()):
                self._answering = turn = self._waiting.popleft()
                if isinstance(turn, front.Request):
                    self._gateway.begin(turn)
                else:
                    turn.start(self._app)
        finally:
            self._starting = False

    def on_chunk_header(self) -> None:
        self._trailing = True

    def on_body(self, body: bytes) -> None:
        if self._trailing:
            self._trailing = False
            self._head_bytes = 0
        if self._turn is not None:
            self._turn.feed(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._between = self._kept
        self._trailing = False
        self._head_bytes = 0
        turn = self._turn
        if turn is not None:
            turn.complete()
            if turn.done and self._answering is None:
                self._expect_by(IDLE_S)

    # --- front.Connection, and what an ASGI cycle uses ---

    @property
    def common(self) -> bytes:
        """Header lines of every answer (uvicorn keeps the date)."""
        fields = self._state.default_headers
        if fields is not self._common[0]:  # another list each second, with another date
            self._common = fields, b"".join([b"%b: %b\r\n" % one for one in fields])
        return self._common[1]

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def drain(self) -> None:
        if self._flow.write_paused:
            await self._flow.drain()

    def pause(self) -> None:
        self._flow.pause_reading()

    def resume(self) -> None:
        self._flow.resume_reading()

    def over(self, *, close: bool) -> None:
        """The answer of `_answering` is complete: the next request's turn."""
        turn, self._answering = self._answering, None
        self._state.total_requests += 1
        if self._transport.is_closing():
            return
        self._flow.resume_reading()
        unread = turn is self._turn and not self._in_head
        if close or self._last or self._refused:
            if unread or self._refused:
                # For a while, in which the other side may read it: closing on unread input would reset the answer.
                self._refused = True
                if self._transport.can_write_eof():
                    self._transport.write_eof()
                self._expect_by(LINGER_S)
            else:
                if self._transport.get_write_buffer_size():
                    self._loop.call_later(IDLE_S, self._transport.abort)
                self._transport.close()
        elif unread:
            self._expect_by(LINGER_S)
        elif self._waiting:
            self._start()
        elif self._head_bytes:
            self._expect_by(HEADER_S, _plain(408))
        else:
            self._expect_by(IDLE_S)

    def _scope(self, method: str) -> dict[str, Any]:
        parsed: Any = httptools.parse_url(self._url)
        raw: bytes = parsed.path
        secure = self._transport.get_extra_info("sslcontext") is not None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._parser.get_http_version(),
            "server": utils.get_local_addr(self._transport),
            "client": utils.get_remote_addr(self._transport),
            "scheme": "https" if secure else "http",
            "method": method,
            "root_path": "",
            "path": urllib.parse.unquote(raw.decode("ascii")),
            "raw_path": raw,
            "query_string": parsed.query or b"",
            "headers": [*self._fields, (b"content-length", self._length)] if self._length else self._fields,
            "state": {},
        }

    def asgi_cycle(
        self, scope: dict[str, Any], *, keep_alive: bool, expects: bool
    ) -> httptools_impl.RequestResponseCycle:
        """uvicorn's cycle for one request of this connection."""
        return httptools_impl.RequestResponseCycle(
            scope=cast("Any", scope),
            transport=self._transport,
            flow=self._flow,
            logger=_LOGGER,
            access_logger=_LOGGER,
            access_log=False,
            default_headers=self._state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self._asgi_over,
        )

    def _asgi_over(self) -> None:
        self.over(close=self._transport.is_closing())


_LOGGER: Final = logging.getLogger("uvicorn.error")


class _AsgiTurn:
    """A request for the ASGI application."""

    def __init__(self, connection: Protocol, scope: dict[str, Any], *, keep_alive: bool, expects: bool) -> None:
        self._connection = connection
        self._cycle = connection.asgi_cycle(scope, keep_alive=keep_alive, expects=expects)
        self._task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Has it been answered?"""
        return self._cycle.response_complete

    def start(self, app: Any) -> None:
        """Answer it."""
        self._task = asyncio.get_running_loop().create_task(self._cycle.run_asgi(app))

    def feed(self, data: bytes) -> None:
        """A piece of the body. What comes after the answer is dropped."""
        if self._cycle.response_complete:
            return
        self._cycle.body += data
        if len(self._cycle.body) > flow_control.HIGH_WATER_LIMIT:
            self._connection.pause()
        self._cycle.message_event.set()

    def complete(self) -> None:
        """The body is whole."""
        self._cycle.more_body = False
        self._cycle.message_event.set()

    def lost(self) -> None:
        """The client has closed the connection."""
        self._cycle.disconnected = not self._cycle.response_complete
        self._cycle.message_event.set()

    def close_after(self) -> None:
        """The connection ends with this answer."""
        self._cycle.keep_alive = False
