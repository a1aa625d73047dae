"""Event streams of the legacy wire: each can be resumed after its connection (MCP 2025-11-25, "Resumability").

The request that opened a stream (a POST) is over when its call is, whether or not anybody is there to read: it keeps
its place among the requests in flight until then, and what the call brings is put on record (`replay`). A GET with
`Last-Event-ID` follows a stream from an event on, and ends with it.
"""

import functools
import time
from typing import Final

from smcp.access import policy
from smcp.gateway import again, bridge, exchange, large, narrow, recheck, replay, route, sending, sessions, tracks
from smcp.kernel import errors, jsonrpc
from smcp.protocol import sse
from smcp.runtime import calls

RETRY_MS: Final = 2000
"""How long a client waits before it comes back. Some try twice and no more: together that is to outlast a restart."""
_PRIMED: Final = frozenset({"2025-11-25"})
"""Versions whose clients expect an event without data; earlier ones try to parse it."""
_PARAMS: Final = 65_536
"""Bytes of params that are kept, so that a call can be repeated after a restart."""

LAST_EVENT: Final = b"last-event-id"


async def carry(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call, events: replay.Events) -> None:
    """Bring back what `call` brings on a stream that outlives its connection. Returns when the call is over."""
    track = events.open(_asked(x, call))
    follower = tracks.Follower(behind=False)
    x.open_stream()
    await _own(parts, x, call, events, track, follower, x.started)


def _asked(x: exchange.Exchange, call: calls.Call) -> tracks.Asked:
    message, seen = x.message, narrow.digest(x.choice)
    if message is None or x.target is None or len(message.params_raw) > _PARAMS:
        return tracks.Asked(call.id, call.method, seen=seen)
    if not x.target.repeatable(message.method, message.params):
        return tracks.Asked(call.id, call.method, seen=seen)
    return tracks.Asked(call.id, call.method, message.params_raw, repeatable=True, seen=seen)


class _Limit:
    """Ends a call that takes too long."""

    def __init__(self, x: exchange.Exchange) -> None:
        self._x = x

    def wake(self) -> None:
        if self._x.instance is not None:
            self._x.instance.calls.cancel(self._x.number, "timed out", errors.ServerTimeout())


async def _own(
    parts: exchange.Parts,
    x: exchange.Exchange,
    call: calls.Call,
    events: replay.Events,
    track: tracks.Track,
    follower: tracks.Follower,
    began: float,
) -> None:
    track.owner = follower
    track.follow(follower)
    x.out.when_gone(functools.partial(_left, x, follower))
    limit = _Limit(x)
    parts.alarms.set(limit, began + parts.settings.gateway.call_timeout_s)
    try:
        session, instance = x.session, x.instance
        own = session is not None and instance is not None and instance is session.instance
        brake = functools.partial(_hold, x) if own else None
        track.drive(call, brake, functools.partial(again.begin, parts, x, call))
        await _serve(parts, x, events, track, follower, owns=True)
    except errors.SmcpError as error:
        # Nobody waits for the call any more: who comes back to its stream must hear of an end.
        if x.instance is not None:
            x.instance.calls.cancel(x.number, "its stream has ended", error)
        raise
    finally:
        parts.alarms.clear(limit)
        track.owner = None
    if call.failure is not None:
        # The client has it on its stream, or will.
        x.refused = call.failure.code
        parts.metrics.error("gateway", x.refused)


def _hold(x: exchange.Exchange, on: bool) -> None:
    # Nothing is held back when a copy ends: what is told to its successor is told as a pair, too.
    if x.instance is not None:
        x.instance.brake(on)


async def listen(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """A GET: what the hosted server says outside of any call, or the rest of a stream."""
    session = x.session
    if session is None:
        raise errors.SessionNotFound
    events = await parts.replays.of(session)
    told = x.incoming.fields.only(LAST_EVENT)
    track, after = events.find(told) if told else (events.listening, events.listening.sent)
    try:
        if track is events.listening:
            await _listen(parts, x, session, events, after)
        else:
            await _again(parts, x, events, track, after)
    except errors.SmcpError as error:
        if not x.streaming:
            raise
        # The stream answers no request of this exchange: there is nothing that an error could be the answer to.
        x.refused = error.code
        x.end_stream()


async def _listen(
    parts: exchange.Parts, x: exchange.Exchange, session: sessions.Session, events: replay.Events, after: int
) -> None:
    follower = tracks.Follower(after, behind=after < events.last)
    session.attach(follower)
    events.listening.follow(follower)
    while session.waiting():
        events.stray(session.take())
    session.sink = events.stray
    parts.feeds.joined(session, x.target)
    x.out.when_gone(functools.partial(_left, x, follower))
    try:
        x.open_stream()
        await _prime(x, events, events.listening, after)
        await _serve(parts, x, events, events.listening, follower, owns=False)
    finally:
        events.listening.leave(follower)
        session.detach(follower)
        parts.feeds.left(session)


async def _again(
    parts: exchange.Parts, x: exchange.Exchange, events: replay.Events, track: tracks.Track, after: int
) -> None:
    if not track.kept:
        raise errors.StreamNotKept
    if track.asked is not None:
        _still(x, track.asked)
    follower = tracks.Follower(after, behind=True)
    if track.call is None and not (track.done or track.repeating):
        # Its call ended with an earlier process.
        if track.asked is None:
            raise errors.StreamNotKept
        if track.asked.repeatable:
            await _repeat(parts, x, events, track, track.asked, follower)
            return
        events.end(track, errors.CallInterrupted(data={"mayHaveRun": True}))
    track.follow(follower)
    x.out.when_gone(functools.partial(_left, x, follower))
    x.open_stream()
    await _prime(x, events, track, after)
    await _serve(parts, x, events, track, follower, owns=False)


def _still(x: exchange.Exchange, asked: tracks.Asked) -> None:
    """What came for a request is for who may still make it. Raises `errors.Forbidden`, `errors.StreamNotKept`."""
    if x.principal is None or x.tenant is None or x.server is None:
        raise errors.Unauthenticated
    x.action = route.action(asked.method)
    resource = policy.Resource(x.tenant, "server", x.server, x.server)
    if policy.decide(x.principal, x.action, resource) is not policy.Decision.ALLOW:
        raise errors.Forbidden
    if asked.seen != narrow.digest(x.choice):
        raise errors.StreamNotKept


async def _repeat(
    parts: exchange.Parts,
    x: exchange.Exchange,
    events: replay.Events,
    track: tracks.Track,
    asked: tracks.Asked,
    follower: tracks.Follower,
) -> None:
    """Send a request again, as if this exchange had brought it; its stream goes on."""
    params = jsonrpc.obj(jsonrpc.decode(asked.params)) if asked.params else {}
    message = jsonrpc.Message(jsonrpc.Kind.REQUEST, asked.method, params or {}, asked.id, asked.params, b"")
    track.repeating = True
    try:
        await _hand_over(parts, x, message)
        if x.call is None:
            raise errors.ServerFailed
        x.open_stream()
        await _prime(x, events, track, follower.after)
        await _own(parts, x, x.call, events, track, follower, time.monotonic())
    finally:
        track.repeating = False


async def _hand_over(parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message) -> None:
    """What a POST goes through between being read and being forwarded, for a request that a GET brings back."""
    if x.principal is None or x.tenant is None or x.server is None or x.session is None:
        raise errors.Unauthenticated
    x.message = message
    x.action = route.action(message.method)
    resource = policy.Resource(x.tenant, "server", x.server, x.server)
    if policy.decide(x.principal, x.action, resource) is not policy.Decision.ALLOW:
        raise errors.Forbidden
    x.choice = narrow.choose(x.principal, resource)
    if x.choice is not None and x.target is not None:
        narrow.permit(x.choice, x.target, message.method, message.params)
    x.lease = parts.limiter.admit(x.principal)
    if x.session.bridged:
        waiting = bridge.acquire(parts, x, x.session)
        if waiting is not None:
            await waiting
    if x.instance is None:
        raise errors.ServerFailed
    sending.send(parts, x, message, x.instance)


async def _prime(x: exchange.Exchange, events: replay.Events, track: tracks.Track, position: int) -> None:
    primed = x.version in _PRIMED
    await x.stream(sse.primed(events.id(track, position), RETRY_MS) if primed else sse.HEARTBEAT)


def _left(x: exchange.Exchange, follower: tracks.Follower) -> None:
    x.gone = True
    follower.wake()


async def _serve(
    parts: exchange.Parts,
    x: exchange.Exchange,
    events: replay.Events,
    track: tracks.Track,
    follower: tracks.Follower,
    *,
    owns: bool,
) -> None:
    """Send what comes until the stream has ended or nobody reads; with `owns`, until the stream has ended."""
    heartbeat = parts.settings.gateway.heartbeat_s
    checked, told = x.started, time.monotonic()
    until = told + x.target.poll_s if x.target is not None and x.target.poll_s else None
    try:
        while not events.closed:
            reads = not (x.gone or follower.closed)
            if reads and follower.waits():
                checked = await _send_some(parts, x, events, track, follower, checked)
                told = time.monotonic()
                continue
            if track.done or not (reads or owns):
                break
            checked = await recheck.check(parts, x, checked)
            now = time.monotonic()
            if reads and until is not None and now >= until and follower.after:
                await _part(x, follower)
                continue
            if now - told >= heartbeat - recheck.EARLY:
                told = now
                if reads:
                    await _try(x, follower, sse.HEARTBEAT)
                continue
            at = told + heartbeat
            parts.alarms.set(follower, at if until is None or not reads else min(at, until))
            await follower.wait()
    finally:
        parts.alarms.clear(follower)
        track.leave(follower)
    if events.ended:
        raise errors.SessionNotFound
    _close(x, follower)


async def _part(x: exchange.Exchange, follower: tracks.Follower) -> None:
    """Close the connection of a stream that goes on: its client comes back (MCP 2025-11-25, "Sending Messages")."""
    await _try(x, follower, sse.retry(RETRY_MS))
    _close(x, follower)


def _close(x: exchange.Exchange, follower: tracks.Follower) -> None:
    follower.close()
    if not x.gone:
        x.gone = True
        x.out.when_gone(None)
        x.end_stream()


async def _try(x: exchange.Exchange, follower: tracks.Follower, data: bytes) -> bool:
    """Send; who does not read is left to come back. False when nobody is there."""
    try:
        await x.stream(data)
    except exchange.ClientGone:
        x.gone = True
        follower.close()
        x.out.finish()
    return not (x.gone or follower.closed)


async def _send_some(
    parts: exchange.Parts,
    x: exchange.Exchange,
    events: replay.Events,
    track: tracks.Track,
    follower: tracks.Follower,
    checked: float,
) -> float:
    """Send what waits, or some of it; returns when the credential was last found to be good."""
    try:
        items = await events.more(track, follower)
    except errors.StreamNotKept as error:
        if track.asked is not None:
            await _try(x, follower, sse.event(jsonrpc.error(track.asked.id, error.rpc_code, error.public)))
        _close(x, follower)
        return checked
    for item in items:
        if item.kind == tracks.ENDED_LARGE:
            await _send_large(parts, x, events, track, item)
        elif not await _try(x, follower, _written(x, events, track, item)):
            break
        follower.after = max(follower.after, item.position)
        track.sent = max(track.sent, item.position)
        checked = await recheck.check(parts, x, checked)
    return checked


def _written(x: exchange.Exchange, events: replay.Events, track: tracks.Track, item: tracks.Item) -> bytes:
    if item.kind in (tracks.MESSAGE, tracks.ENDED):
        return sse.event(item.data, events.id(track, item.position) if item.position else b"")
    if item.kind == tracks.OPENED and item.position and x.version in _PRIMED:
        return sse.primed(events.id(track, item.position), RETRY_MS)
    return b""


async def _send_large(
    parts: exchange.Parts, x: exchange.Exchange, events: replay.Events, track: tracks.Track, item: tracks.Item
) -> None:
    asked = track.asked
    if asked is None:
        raise errors.StreamNotKept
    if track.large is None:
        await x.stream(sse.event(jsonrpc.error(asked.id, -32000, _TOO_LARGE)))
        x.end_stream()
        return
    checked = time.monotonic()

    async def check() -> None:
        nonlocal checked
        checked = await recheck.check(parts, x, checked)

    track.reading = True
    try:
        await large.send(x, asked.id, track.large, check, plain=False, event=events.id(track, item.position))
    except exchange.ClientGone:
        x.gone = True
        x.out.finish()
    else:
        track.drop_large()
        x.gone = True
    finally:
        track.reading = False


_TOO_LARGE: Final = (
    "The call has ended, and its answer was too large to be kept until now. It has been carried out: ask again only"
    " if that is safe."
)
