"""Answers on their way back: plain JSON when the first thing that comes is the response, else an event stream.

No task is made for a call that answers at once. One that takes longer gets a watcher, which tells when the client hangs
up: in the modern era that cancels the call, in the legacy era it must not (MCP 2025-11-25, "Sending Messages").

A stream may outlive the right to it: its credential is asked for again after each `gateway.heartbeat_s`.
"""

import asyncio
import time
from typing import Final

from smcp.gateway import exchange, read
from smcp.kernel import errors
from smcp.protocol import eras, sse
from smcp.runtime import calls

_AT_ONCE: Final = 0.05
"""Seconds within which an answer needs no watcher."""
_EARLY: Final = 0.005
"""Seconds that a timer of the event loop may come too early: its clock counts milliseconds."""


async def answer(x: exchange.Exchange, call: calls.Call, fields: tuple[exchange.Header, ...] = ()) -> None:
    """Send the response of a finished call, in the form that the client takes."""
    if call.failure is not None:
        raise call.failure
    if x.streaming:
        await end_with(x, call.response)
    elif read.accepts(x, "application/json"):
        await x.answer(eras.http_status(x.era, call.code), call.response, fields)
    else:
        await x.open_stream(fields)
        await end_with(x, call.response)


async def end_with(x: exchange.Exchange, message: bytes) -> None:
    """The last event of a stream."""
    await x.stream(sse.event(message))
    await x.end_stream()


async def reply(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    """Stream interim messages, then the response. Raises what ended the call instead."""
    await _wake_after(call, _AT_ONCE)
    if call.done and not call.frames:
        await answer(x, call)
        return
    watcher = asyncio.create_task(_watch(x, call))
    try:
        await _stream(parts, x, call)
    finally:
        watcher.cancel()


async def _stream(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    takes_stream = read.accepts(x, "text/event-stream")
    heartbeat = parts.settings.gateway.heartbeat_s
    deadline = None if call.listens else x.started + parts.settings.gateway.call_timeout_s
    checked = x.started
    while True:
        while call.frames:
            frame = call.take()
            if takes_stream:
                if not x.streaming:
                    await x.open_stream()
                await x.stream(sse.event(frame))
            # Also between frames: a server that never pauses must not keep a revoked key's stream alive.
            checked = await _check(parts, x, checked)
        if call.done:
            await answer(x, call)
            return
        if x.gone:
            raise exchange.ClientGone
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise errors.ServerTimeout
        checked = await _check(parts, x, checked)
        before = now
        await _wake_after(call, heartbeat if deadline is None else min(heartbeat, deadline - now))
        if takes_stream and not call.frames and not call.done and time.monotonic() - before >= heartbeat - _EARLY:
            if not x.streaming:
                await x.open_stream()
            await x.stream(sse.HEARTBEAT)


async def listen(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The GET stream of a session: what the hosted server says outside of any call."""
    session = x.session
    if session is None:
        raise errors.SessionNotFound
    stream = session.attach()
    await x.open_stream()
    await x.stream(sse.HEARTBEAT)
    watcher = asyncio.create_task(x.out.gone())
    watcher.add_done_callback(lambda _: stream.wake())
    loop = asyncio.get_running_loop()
    heartbeat = parts.settings.gateway.heartbeat_s
    checked = x.started
    try:
        while not (stream.closed or watcher.done()):
            while session.waiting() and not stream.closed:
                await x.stream(sse.event(session.take()))
                checked = await _check(parts, x, checked)
            if stream.closed or watcher.done():
                break
            checked = await _check(parts, x, checked)
            before = time.monotonic()
            timer = loop.call_later(heartbeat, stream.wake)
            await stream.wait()
            timer.cancel()
            if not session.waiting() and time.monotonic() - before >= heartbeat - _EARLY:
                await x.stream(sse.HEARTBEAT)
        if not watcher.done():
            await x.end_stream()
    except errors.SmcpError as error:
        # The stream answers no request: there is nothing that an error could be the answer to.
        x.refused = error.code
        await x.end_stream()
    finally:
        watcher.cancel()
        session.detach(stream)


async def _check(parts: exchange.Parts, x: exchange.Exchange, checked: float) -> float:
    """When the credential was last found to be good. Raises what authentication raises when it no longer is."""
    now = time.monotonic()
    if now - checked < parts.settings.gateway.heartbeat_s - _EARLY:
        return checked
    try:
        await parts.authenticator.authenticate(x.incoming.fields.only("authorization"))
    except (errors.Unauthenticated, errors.TenantSuspended):
        if x.session is not None:
            parts.sessions.end(x.session, "revoked")
        raise
    return now


async def _wake_after(call: calls.Call, seconds: float) -> None:
    timer = asyncio.get_running_loop().call_later(seconds, call.wake)
    try:
        await call.wait()
    finally:
        timer.cancel()


async def _watch(x: exchange.Exchange, call: calls.Call) -> None:
    await x.out.gone()
    x.gone = True
    call.wake()
