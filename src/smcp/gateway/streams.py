"""Answers on their way back: plain JSON when the first thing that comes is the response, else an event stream.

No task and no timer is made for a call. The connection tells when the client hangs up: in the modern era that cancels
the call, in the legacy era it must not (MCP 2025-11-25, "Sending Messages"). `alarms` wakes who waits for too long.

A stream may outlive the right to it: its credential is asked for again after each `gateway.heartbeat_s`.
"""

import functools
import time
from typing import Final

from smcp.gateway import exchange, large, read, sessions
from smcp.kernel import errors
from smcp.protocol import eras, sse
from smcp.runtime import calls

_SMALL: Final = 65_536
"""Bytes of an answer that a connection takes whatever its client does."""
_EARLY: Final = 0.005
"""Seconds that a timer of the event loop may come too early: its clock counts milliseconds."""


async def answer(x: exchange.Exchange, call: calls.Call, fields: tuple[exchange.Header, ...] = ()) -> None:
    """Send the response of a finished call, in the form that the client takes."""
    if call.failure is not None:
        raise call.failure
    if x.streaming:
        await end_with(x, call.response)
    elif read.accepts(x, "application/json"):
        await x.answer_large(eras.http_status(x.era, call.code), call.response, fields)
    else:
        x.open_stream(fields)
        await end_with(x, call.response)


async def _answer(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    if call.failure is not None or call.spooled is None:
        await answer(x, call)
        return
    checked = x.started

    async def check() -> None:
        nonlocal checked
        checked = await _check(parts, x, checked)

    plain = not x.streaming and read.accepts(x, "application/json")
    await large.send(x, call.id, call.spooled, check, plain=plain)


async def end_with(x: exchange.Exchange, message: bytes) -> None:
    """The last event of a stream."""
    await x.stream(sse.event(message))
    x.end_stream()


def at_once(x: exchange.Exchange, call: calls.Call) -> bool:
    """Is all there is a plain answer that needs no waiting to be sent?"""
    return (
        call.done
        and call.failure is None
        and call.spooled is None
        and not call.frames
        and not x.gone
        and len(call.response) <= _SMALL
        and read.plain(x)
    )


async def reply(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    """Stream interim messages, then the response. Raises what ended the call instead."""
    try:
        if call.done and not call.frames:
            await _answer(parts, x, call)
        else:
            await _stream(parts, x, call)
    finally:
        parts.alarms.clear(call)


def hung_up(x: exchange.Exchange, call: calls.Call) -> None:
    """The client has gone."""
    x.gone = True
    call.wake()


async def _stream(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    takes_stream = read.accepts(x, "text/event-stream")
    heartbeat = parts.settings.gateway.heartbeat_s
    deadline = None if call.listens else x.started + parts.settings.gateway.call_timeout_s
    checked = told = x.started
    while True:
        while call.frames:
            frame = call.take()
            if takes_stream:
                if not x.streaming:
                    x.open_stream()
                await x.stream(sse.event(frame))
                told = time.monotonic()
            # Also between frames: a server that never pauses must not keep a revoked key's stream alive.
            checked = await _check(parts, x, checked)
        if call.done:
            await _answer(parts, x, call)
            return
        if x.gone:
            raise exchange.ClientGone
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise errors.ServerTimeout
        checked = await _check(parts, x, checked)
        if now - told >= heartbeat - _EARLY:
            told = now
            if takes_stream:
                if not x.streaming:
                    x.open_stream()
                await x.stream(sse.HEARTBEAT)
            continue
        parts.alarms.set(call, told + heartbeat if deadline is None else min(told + heartbeat, deadline))
        await call.wait()


async def listen(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The GET stream of a session: what the hosted server says outside of any call."""
    session = x.session
    if session is None:
        raise errors.SessionNotFound
    stream = session.attach()
    x.out.when_gone(functools.partial(_left, x, stream))
    try:
        x.open_stream()
        await x.stream(sse.HEARTBEAT)
        await _tell(parts, x, session, stream)
        x.end_stream()
    except errors.SmcpError as error:
        # The stream answers no request: there is nothing that an error could be the answer to.
        x.refused = error.code
        x.end_stream()
    finally:
        parts.alarms.clear(stream)
        session.detach(stream)


def _left(x: exchange.Exchange, stream: sessions.Stream) -> None:
    x.gone = True
    stream.wake()


async def _tell(
    parts: exchange.Parts, x: exchange.Exchange, session: sessions.Session, stream: sessions.Stream
) -> None:
    """What comes for the stream, until it is closed or nobody listens."""
    heartbeat = parts.settings.gateway.heartbeat_s
    checked, told = x.started, time.monotonic()
    while not (stream.closed or x.gone):
        while session.waiting() and not (stream.closed or x.gone):
            await x.stream(sse.event(session.take()))
            told = time.monotonic()
            checked = await _check(parts, x, checked)
        if stream.closed or x.gone:
            break
        checked = await _check(parts, x, checked)
        if time.monotonic() - told >= heartbeat - _EARLY:
            await x.stream(sse.HEARTBEAT)
            told = time.monotonic()
            continue
        parts.alarms.set(stream, told + heartbeat)
        await stream.wait()


async def _check(parts: exchange.Parts, x: exchange.Exchange, checked: float) -> float:
    """When the credential was last found to be good. Raises what authentication raises when it no longer is."""
    now = time.monotonic()
    if now - checked < parts.settings.gateway.heartbeat_s - _EARLY:
        return checked
    try:
        await parts.authenticator.authenticate(x.incoming.fields.only(b"authorization"))
    except (errors.Unauthenticated, errors.TenantSuspended):
        if x.session is not None:
            parts.sessions.end(x.session, "revoked")
        raise
    return now
