"""The transport of MCP 2024-11-05 ("HTTP with SSE"), for servers whose manifest turns it on.

| request | what happens |
|---|---|
| GET `…/sse` | an event stream; its first event, `endpoint`, says where messages are to be posted |
| POST `…/messages?session_id=…` | 202; whatever the message brings comes as a `message` event on that stream |

Nothing else is new. Both addresses ask for the same credential, a stream belongs to one principal and one server, and
each message walks the stages that it would walk at `…/mcp` (ToolHive GHSA-h4mf-84xq-q2fc: there an address that ended
in `/sse` went around authorization). The session behind a stream is an ordinary one, which ends with the stream.

Where the manifest does not say so, both addresses are not found, like those of a server that does not exist.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from smcp.access import policy
from smcp.gateway import batch, channel, exchange, legacy, read, recheck
from smcp.gateway import head as heads
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import batches, eras, headers, sse

STREAM: Final = "sse"
MESSAGES: Final = "messages"

_LEFT_OUT: Final = frozenset({b"accept", b"accept-encoding", b"mcp-session-id", b"mcp-protocol-version"})
"""Header fields that say something about this one POST, and nothing about the messages in it."""


class Stages(NamedTuple):
    """What this room needs of the pipeline."""

    decide: Callable[[exchange.Exchange], Awaitable[None] | None]
    begin: Callable[[exchange.Exchange, bool], None]
    """As `batch.Begin`."""


async def serve(parts: exchange.Parts, x: exchange.Exchange, stages: Stages) -> None:
    """Answer a request at one of the two addresses, whose caller is known and whose rate was counted."""
    if x.principal is None or x.tenant is None or x.server is None:
        raise errors.Unauthenticated
    waiting = stages.decide(x)
    if waiting is not None:
        await waiting
    # Before anything that would tell this address from one that does not exist.
    if x.target is None or not x.target.deployment.manifest.sse:
        raise errors.NotFound
    way = x.head.way
    x.era = eras.Era.LEGACY
    verb = "GET" if way == STREAM else "POST"
    if x.incoming.method != verb:
        raise errors.MethodNotAllowed(headers=(("Allow", verb),))
    if x.head.era is not eras.Era.LEGACY:
        raise errors.BadRequest("This is the transport of MCP 2024-11-05; other versions are spoken at …/mcp.")
    if way == STREAM:
        await _stream(parts, x, x.principal, x.tenant, x.server)
    else:
        await _post(parts, x, parts.channels.find(x.head.session or "", x.principal, x.tenant, x.server), stages)


async def _stream(
    parts: exchange.Parts,
    x: exchange.Exchange,
    principal: policy.Principal,
    tenant: ids.TenantId,
    server: ids.ServerName,
) -> None:
    if not read.accepts(x, "text/event-stream"):
        raise errors.NotAcceptable("Accept text/event-stream.")
    old = parts.channels.open(principal, tenant, server)
    x.out.when_gone(old.hung_up)
    try:
        x.open_stream()
        await x.stream(b"event: endpoint\ndata: /t/%b/%b/%b?session_id=%b\n\n" % _names(tenant, server, old.id))
        await _tell(parts, x, old)
        x.end_stream()
    except errors.SmcpError as error:
        # Its credential is worth nothing any more: there is nothing that an error could be the answer to.
        x.refused = error.code
        x.end_stream()
    finally:
        parts.alarms.clear(old)
        parts.channels.end(old)
        _end(parts, old)


def _names(tenant: str, server: str, told: str) -> tuple[bytes, bytes, bytes, bytes]:
    return tenant.encode(), server.encode(), MESSAGES.encode(), told.encode()


def _end(parts: exchange.Parts, old: channel.Old) -> None:
    session, old.session = old.session, None
    if session is not None:
        parts.sessions.end(session, "closed")


async def _tell(parts: exchange.Parts, x: exchange.Exchange, old: channel.Old) -> None:
    """What comes for the stream, until it is closed or nobody listens."""
    heartbeat = parts.settings.gateway.heartbeat_s
    checked = told = time.monotonic()
    while not (old.closed or old.over):
        session = old.session
        data = b""
        if old.has():
            data = old.take()
        elif session is not None and session.waiting():
            data = sse.event(session.take())
        now = time.monotonic()
        if not data and now - told >= heartbeat - recheck.EARLY:
            data = sse.HEARTBEAT
        if data:
            await x.stream(data)
            told = time.monotonic()
        checked = await recheck.check(parts, x, checked)
        if not (data or old.closed):
            parts.alarms.set(old, told + heartbeat)
            await old.wait()
    if old.gone:
        raise exchange.ClientGone


async def _post(parts: exchange.Parts, x: exchange.Exchange, old: channel.Old, stages: Stages) -> None:
    read.check_media(x)
    caps = parts.settings.gateway
    body = await x.incoming.body(caps.max_body_bytes, caps.body_timeout_s)
    x.received = len(body)
    if batches.is_one(body):
        members = batches.read(body, x.head.version, caps.max_depth)
    else:
        alone = jsonrpc.parse(body, max_depth=caps.max_depth)
        eras.check_legacy(x.head.version or None, alone.params)
        members = [alone]
    if old.full:
        raise errors.RateLimited("The event stream is not read: read it, then send more.", retry_after=1)
    opens = [one for one in members if isinstance(one, jsonrpc.Message) and legacy.greets(one)]
    if opens:
        _open(parts, x, old, opens[0], stages)
        x.answer(202)
        return
    if old.opening is None:
        raise errors.BadRequest("Send initialize first.")
    await _opened(old, parts.settings.runtime.start_timeout_s)
    # What belongs to its session, and no more, since others of its messages may be at work.
    if old.head is None or old.session is None:
        raise errors.SessionNotFound
    x.version = old.session.version
    if len(members) > 1 or batches.is_one(body):
        batch.check(x)
    x.answer(202)
    fields = headers.Fields([*_kept(x.incoming.fields), (legacy.SESSION, old.session.id.encode("ascii"))])
    incoming = channel.Inner(x.incoming.path, fields, old.head, x.address)
    counted = True
    for one in members:
        if isinstance(one, errors.SmcpError):
            old.answer(b"null", jsonrpc.error(b"", one.rpc_code, one.public, one.data))
        else:
            stages.begin(batch.inner(x, one, incoming, old, _over), counted)
            counted = False


def _open(
    parts: exchange.Parts, x: exchange.Exchange, old: channel.Old, message: jsonrpc.Message, stages: Stages
) -> None:
    if old.opening is not None:
        raise errors.BadRequest("This stream has its session: open another stream for another.")
    opening = old.opening = asyncio.Event()

    def over(one: exchange.Exchange) -> None:
        opening.set()
        if one.session is None:
            old.opening = None  # refused: it may be tried again
        elif old.closed:
            parts.sessions.end(one.session, "closed")
        else:
            old.session = one.session
            # What belongs to no request comes on this stream, too, and its end is the session's.
            one.session.stream = old
            parts.feeds.joined(one.session, one.target)
            old.wake()

    old.head = _head(x)
    incoming = channel.Inner(x.incoming.path, headers.Fields(_kept(x.incoming.fields)), old.head, x.address)
    stages.begin(batch.inner(x, message, incoming, old, over), True)


async def _opened(old: channel.Old, seconds: float) -> None:
    opening = old.opening
    if opening is not None:
        try:
            async with asyncio.timeout(seconds):
                await opening.wait()
        except TimeoutError as error:
            raise errors.ServerTimeout("The hosted MCP server did not answer initialize in time.") from error


def _over(one: exchange.Exchange) -> None:
    """Nothing depends on the end of a message."""


def _kept(fields: headers.Fields) -> list[tuple[bytes, bytes]]:
    return [pair for pair in fields.pairs if pair[0] not in _LEFT_OUT]


def _head(x: exchange.Exchange) -> heads.Head:
    """What the pipeline reads of a head, for messages whose answers are events here, in whatever form they come."""
    head = heads.Head()
    head.good = head.media = head.plain = True
    head.address, head.tenant, head.server = x.address, x.tenant, x.server
    head.session = x.head.session
    return head
