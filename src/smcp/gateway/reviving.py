"""A session whose copy of the server is gone goes on in a new one, which is told what the old one was told.

The client notices nothing: `initialize` with its own params, `notifications/initialized`, its log level and its
subscriptions are said again by the platform. It happens at the next request or GET, where the manifest's `resume`
allows it, or at once for a call that may be repeated (`again`). What the old copy knew besides is lost: a server that
keeps such things says `resume = "end"` (docs/decisions/0031-sessions.md).
"""

import asyncio
from typing import Final

from smcp.audit import events
from smcp.gateway import exchange, sessions, targets
from smcp.kernel import errors, jsonrpc
from smcp.runtime import calls, driver

_FALLS: Final = 3
"""Copies in a row that were of no use, behind which a session is given up."""


async def bind(parts: exchange.Parts, session: sessions.Session, live: targets.Target) -> None:
    """Find the deployment of a session that comes from its record.

    Raises `errors.SessionNotFound` when it can't go on: then it has ended.
    """
    target = live
    if session.deployment != live.spec.deployment:
        try:
            target = await parts.targets.deployed(session.tenant, session.server, session.deployment)
        except (errors.NotFound, errors.ServerStopped):
            parts.sessions.end(session, "replaced")
            raise errors.SessionNotFound from None
    parts.sessions.drain(session, live.spec.deployment, live.drain_s)
    if session.over:
        raise errors.SessionNotFound
    session.target = target
    session.replays = target.resumes and bool(session.hello)
    if not session.replays:
        parts.sessions.end(session, "lost")
        raise errors.SessionNotFound


async def revive(parts: exchange.Parts, x: exchange.Exchange, session: sessions.Session) -> None:
    """Give a session a copy; once, however many requests wait for it.

    Raises `errors.SessionNotFound` when it can't go on, or what `Pool.private` raises: then it may be tried again.
    """
    if session.reviving is None:
        # Who asks for something has said that it is ready, whatever became of its notification.
        asks = x.message is not None and x.message.method != "ping"
        session.reviving = asyncio.create_task(_revive(parts, session, greet=session.greeted or asks))
        session.reviving.add_done_callback(lambda done: _over(session, done))
    await asyncio.shield(session.reviving)
    x.instance = session.instance
    if x.instance is None:
        raise errors.ServerFailed


def _over(session: sessions.Session, done: "asyncio.Task[None]") -> None:
    session.reviving = None
    if not done.cancelled():
        done.exception()  # heard by those who wait, if there still are any


async def _revive(parts: exchange.Parts, session: sessions.Session, *, greet: bool) -> None:
    target = session.target
    if target is None or not session.replays or session.falls >= _FALLS:
        parts.sessions.end(session, "died")
        raise errors.SessionNotFound
    instance = await parts.pool.private(target.spec)
    try:
        await _say_again(parts, session, instance, greet=greet)
        if session.over:
            raise errors.SessionNotFound
        if not instance.alive:
            raise errors.ServerFailed
        parts.trail.note(
            events.SessionResumed(
                tenant=session.tenant, actor=session.key[1], server=session.server, version=session.version
            )
        )
    except BaseException:
        instance.owner = None
        session.falls += 1
        parts.pool.release_soon(instance, "the session could not go on in it")
        raise
    session.instance, session.since = instance, parts.sessions.now()


async def _say_again(
    parts: exchange.Parts, session: sessions.Session, instance: driver.Instance, *, greet: bool
) -> None:
    instance.principal = session.key[1]
    call, _ = await answered(parts, instance, *instance.calls.ask("initialize", session.hello))
    answer = jsonrpc.obj((jsonrpc.obj(jsonrpc.decode(call.response)) or {}).get("result")) or {}
    version = answer.get("protocolVersion")
    session.promised(answer.get("capabilities"))
    if call.code is not None or (session.version and version != session.version):
        parts.sessions.end(session, "lost")
        raise errors.SessionNotFound
    instance.owner = session  # from here on it may have something to say
    if greet:
        instance.calls.tell("notifications/initialized")
        session.greet()
    again = [("resources/subscribe", {"uri": uri}) for uri in session.subscriptions]
    if session.level:
        again.append(("logging/setLevel", {"level": session.level}))
    for method, params in again:
        # Refused now, though it was granted before: the client can't be told, and everything else still works.
        _, before = await answered(parts, instance, *instance.calls.ask(method, jsonrpc.encode(params)))
        for frame in before:
            session.stray(frame, "")


async def answered(
    parts: exchange.Parts, instance: driver.Instance, number: int, call: calls.Call
) -> tuple[calls.Call, list[bytes]]:
    """Wait for a part of the handshake; with what the server said before. Raises what ended the call instead."""
    try:
        async with asyncio.timeout(parts.settings.runtime.start_timeout_s):
            before = await call.completed()
    except TimeoutError as error:
        raise errors.ServerTimeout(f"The hosted MCP server did not answer {call.method} in time.") from error
    finally:
        instance.calls.forget(number)
        # What it held counts against the tenant, and nobody else will give it back: the exchange has no number.
        call.release()
    if call.failure is not None:
        raise call.failure
    return call, before
