"""Batches: several JSON-RPC messages in one body, which exist on sessions of two versions only.

MCP 2025-03-26 ("Sending Messages to the Server") has servers accept them, 2024-11-05 has them from JSON-RPC, and
2025-06-18 removed them again. A batch is no way around anything: each message walks the same stages as if it had come
alone, beginning with its rate. They begin in the order of the array, a few at a time.

The answers are one JSON array, unless something comes before an answer or the client takes streams only: then each is
an event of one stream.
"""

from collections.abc import Callable
from typing import Final

from smcp.gateway import channel, exchange, read, route
from smcp.kernel import errors, jsonrpc
from smcp.protocol import batches

_TOGETHER: Final = 4
"""Requests of one batch that are in flight at once: it must not take every place that its sender has."""

Begin = Callable[[exchange.Parts, exchange.Exchange, bool], None]
"""Walks a message of a body that has several; True: its rate was counted with the body."""


def check(x: exchange.Exchange) -> None:
    """Raise `errors.BadRequest` unless the session's version has batches."""
    if x.version not in batches.VERSIONS:
        raise errors.BadRequest(
            f"MCP {x.version or 'of this session'} has no batches: send each message in a request of its own."
        )


def inner(
    x: exchange.Exchange,
    message: jsonrpc.Message,
    incoming: exchange.Incoming,
    to: channel.Channel,
    over: Callable[[exchange.Exchange], None],
) -> exchange.Exchange:
    """The exchange of one message in the body of `x`; what it answers goes `to` the channel."""
    sink = channel.Sink(to, message.id if message.kind is jsonrpc.Kind.REQUEST else b"")

    def ended(one: exchange.Exchange) -> None:
        over(one)
        one.task = None
        sink.finish()

    one = exchange.Exchange(incoming, sink, x.request_id, ended)
    one.inner = True
    one.address, one.principal, one.tenant, one.server = x.address, x.principal, x.tenant, x.server
    one.version, one.message, one.received = x.version, message, len(message.body)
    one.action = route.action(message.method)
    to.live[sink] = one
    return one


async def run(parts: exchange.Parts, x: exchange.Exchange, begin: Begin) -> None:
    """Answer the batch in `x.members`, whose session was found."""
    check(x)
    batch = _Batch(x, begin, takes_events=read.accepts(x, "text/event-stream"))
    x.out.when_gone(batch.channel.hung_up)
    if not read.plain(x):
        batch.channel.become_events()
    try:
        await batch.answer(parts)
    finally:
        batch.channel.shut()


class _Batch:
    def __init__(self, x: exchange.Exchange, begin: Begin, *, takes_events: bool) -> None:
        self.channel = channel.Channel(events=False, takes_events=takes_events)
        self._x = x
        self._begin = begin
        self._incoming = channel.Inner(x.incoming.path, x.incoming.fields, x.head, x.address)
        self._waiting = list(reversed(x.members or []))
        self._requests = 0
        self._refused: exchange.Exchange | None = None
        self._counted = True

    async def answer(self, parts: exchange.Parts) -> None:
        x, channel_ = self._x, self.channel
        while True:
            self._go_on(parts)
            while channel_.has():
                if not x.streaming:
                    x.open_stream()
                await x.stream(channel_.take())
            if channel_.gone:
                raise exchange.ClientGone
            if channel_.broken:
                raise errors.ServerFailed
            if not (self._waiting or channel_.live or channel_.has()):
                break
            if not (channel_.has() or (self._waiting and len(channel_.live) < _TOGETHER)):
                await channel_.wait()
        if x.streaming:
            x.end_stream()
        elif channel_.answers:
            valid = self._requests or any(isinstance(one, jsonrpc.Message) for one in x.members or ())
            await x.answer_large(200 if valid else 400, b"[%b]" % b",".join(channel_.answers))
        else:
            self._told()

    def _go_on(self, parts: exchange.Parts) -> None:
        """Begin what may begin now, in order."""
        while self._waiting and len(self.channel.live) < _TOGETHER and not self.channel.closed:
            message = self._waiting.pop()
            if isinstance(message, errors.SmcpError):
                # JSON-RPC 2.0, 6: what is no message gets an answer, too, without an id.
                self.channel.answer(b"null", jsonrpc.error(b"", message.rpc_code, message.public, message.data))
                continue
            self._requests += message.kind is jsonrpc.Kind.REQUEST
            one = inner(self._x, message, self._incoming, self.channel, self._over)
            counted, self._counted = self._counted, False
            self._begin(parts, one, counted)

    def _over(self, one: exchange.Exchange) -> None:
        if one.refused and self._refused is None:
            self._refused = one

    def _told(self) -> None:
        """Nothing asked for an answer: 202, or why not all of it was taken."""
        refused = self._refused
        if refused is None or not isinstance(refused.out, channel.Sink):
            self._x.answer(202)
        else:
            self._x.answer(refused.out.status, refused.out.refusal)
