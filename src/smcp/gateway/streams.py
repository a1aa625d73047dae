"""Answers on their way back: plain JSON when the first thing that comes is the response, else an event stream.

No task and no timer is made for a call. The connection tells when the client hangs up: in the modern era that cancels
the call, in the legacy era it must not (MCP 2025-11-25, "Sending Messages"). `alarms` wakes who waits for too long.

A stream of the legacy wire can be resumed: from its first event on it is the business of `resume`.
"""

import time
from typing import Final

from smcp.gateway import again, exchange, large, read, recheck, resume, sessions
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, sse
from smcp.runtime import calls

_SMALL: Final = 65_536
"""Bytes of an answer that a connection takes whatever its client does."""


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
        checked = await recheck.check(parts, x, checked)

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
        if call.failure is not None:
            again.begin(parts, x, call)
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
    if takes_stream and x.session is not None and not x.inner and await _resumable(parts, x, call, x.session):
        return
    heartbeat = parts.settings.gateway.heartbeat_s
    deadline = None if call.listens else x.started + parts.settings.gateway.call_timeout_s
    checked = told = x.started
    while True:
        while call.frames:
            frame = call.take()
            if takes_stream:
                await _send(x, sse.event(frame))
                told = time.monotonic()
            elif x.session is not None and jsonrpc.frame(frame).id:
                # A question, which the call waits for (client-quirk 15). Notices of a call are for its own stream only.
                x.session.stray(frame, "")
            # Also between frames: a server that never pauses must not keep a revoked key's stream alive.
            checked = await recheck.check(parts, x, checked)
        if call.done:
            if call.failure is not None and again.begin(parts, x, call):
                continue
            await _answer(parts, x, call)
            return
        if x.gone:
            raise exchange.ClientGone
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise errors.ServerTimeout
        checked = await recheck.check(parts, x, checked)
        if now - told >= heartbeat - recheck.EARLY:
            told = now
            if takes_stream:
                await _send(x, sse.HEARTBEAT)
            continue
        parts.alarms.set(call, told + heartbeat if deadline is None else min(told + heartbeat, deadline))
        await call.wait()


async def _send(x: exchange.Exchange, data: bytes) -> None:
    if not x.streaming:
        x.open_stream()
    await x.stream(data)


async def _resumable(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call, session: sessions.Session) -> bool:
    """Wait until there is something to send, and send it as a stream that can be resumed, unless it is the response
    alone. False when no stream can be put on record now."""
    due = x.started + parts.settings.gateway.heartbeat_s
    deadline = x.started + parts.settings.gateway.call_timeout_s
    while not call.frames:
        if call.done:
            if call.failure is not None and again.begin(parts, x, call):
                continue
            await _answer(parts, x, call)
            return True
        if x.gone:
            raise exchange.ClientGone
        now = time.monotonic()
        if now >= deadline:
            raise errors.ServerTimeout
        if now >= due - recheck.EARLY:
            break
        parts.alarms.set(call, min(due, deadline))
        await call.wait()
    try:
        events = await parts.replays.of(session)
    except errors.Unavailable:
        return False
    await resume.carry(parts, x, call, events)
    return True
