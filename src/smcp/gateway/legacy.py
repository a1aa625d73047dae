"""The legacy wire (2024-11-05 … 2025-11-25): handshake, sessions, a copy of the server for each."""

import asyncio
from collections.abc import Awaitable
from typing import Final

from smcp.access import policy
from smcp.audit import events
from smcp.gateway import bridge, exchange, streams, targets
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, translate
from smcp.runtime import calls, driver

SESSION: Final = b"mcp-session-id"


def session(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """Find the session a request belongs to; DELETE ends it here. `initialize` has none yet, whatever it sends."""
    if opens(x):
        return
    told = x.incoming.fields.only(SESSION)
    if told is None:
        raise errors.BadRequest("The Mcp-Session-Id header is missing: send initialize first, its answer carries it.")
    if x.principal is None or x.tenant is None or x.server is None:
        raise errors.Unauthenticated
    x.session = parts.sessions.find(told, x.principal, x.tenant, x.server)
    x.version = x.session.version
    if x.incoming.method == "DELETE":
        parts.sessions.end(x.session, "deleted")
        x.answer(204)


def opens(x: exchange.Exchange) -> bool:
    """Is this the request that opens a session?"""
    message = x.message
    return message is not None and message.method == "initialize" and message.kind is jsonrpc.Kind.REQUEST


def acquire(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """The session's copy; for `initialize` a new one, with the session around it once it has answered."""
    if x.session is None:
        return _initialize(parts, x)
    instance = x.session.instance
    if instance is None:
        return bridge.acquire(parts, x, x.session)
    if not instance.alive:
        raise errors.SessionNotFound
    x.instance = instance
    return None


async def _initialize(parts: exchange.Parts, x: exchange.Exchange) -> None:
    if x.target is None or x.principal is None or x.message is None:
        raise errors.Unauthenticated
    if not x.target.legacy:
        await _bridge(parts, x, x.principal, x.target, x.message)
        return
    parts.sessions.make_room(x.principal)
    instance = await parts.pool.private(x.target.spec)
    try:
        call, before = await _handshake(parts, x.message, instance)
        if call.code is None:
            await _open(parts, x, x.principal, x.target, instance, call, before)
        else:
            x.call = call
            x.answer(200, call.response)
    finally:
        if x.session is None:
            # A refused opening leaves nothing behind: no copy, no session id.
            parts.pool.release_soon(instance, "initialize was refused")


async def _bridge(
    parts: exchange.Parts,
    x: exchange.Exchange,
    principal: policy.Principal,
    target: targets.Target,
    message: jsonrpc.Message,
) -> None:
    """A session over a modern server, which knows of none."""
    answer = await bridge.initialize(parts, x)
    _record(parts, x, principal, target)
    parts.sessions.make_room(principal)
    spec = target.spec
    x.session = parts.sessions.open(principal, spec.server, spec.deployment, None, x.version)
    x.session.stamp = translate.meta(message.params.get("clientInfo"))
    x.answer(200, answer, ((SESSION, x.session.id.encode("ascii")),))


def _record(parts: exchange.Parts, x: exchange.Exchange, principal: policy.Principal, target: targets.Target) -> None:
    # First: a session that can't be recorded is not opened.
    parts.trail.note(
        events.SessionOpened(
            tenant=principal.tenant,
            actor=principal.id,
            request_id=x.request_id,
            server=target.spec.server,
            version=x.version,
        )
    )


async def _handshake(
    parts: exchange.Parts, message: jsonrpc.Message, instance: driver.Instance
) -> tuple[calls.Call, list[bytes]]:
    number, call = instance.calls.send(message)
    try:
        async with asyncio.timeout(parts.settings.runtime.start_timeout_s):
            before = await call.completed()
    except TimeoutError as error:
        raise errors.ServerTimeout("The hosted MCP server did not answer initialize in time.") from error
    finally:
        instance.calls.forget(number)
        # What it held counts against the tenant, and nobody else will give it back: the exchange has no number.
        call.release()
    if call.failure is not None:
        raise call.failure
    return call, before


async def _open(
    parts: exchange.Parts,
    x: exchange.Exchange,
    principal: policy.Principal,
    target: targets.Target,
    instance: driver.Instance,
    call: calls.Call,
    before: list[bytes],
) -> None:
    answer = jsonrpc.obj(jsonrpc.decode(call.response)) or {}
    version = (jsonrpc.obj(answer.get("result")) or {}).get("protocolVersion")
    # The hosted server's own word: the client gets it as it is, metrics and trail only what exists.
    x.version = str(version) if version in eras.LEGACY else ""
    if not instance.alive:
        # It has answered and died: nobody would ever end a session around it.
        raise errors.ServerFailed
    _record(parts, x, principal, target)
    # Again: others of the same principal may have come to the cap while this copy was starting.
    parts.sessions.make_room(principal)
    x.session = parts.sessions.open(principal, target.spec.server, target.spec.deployment, instance, x.version)
    instance.owner = x.session
    instance.principal = principal.id
    for frame in before:
        x.session.stray(frame, "")
    x.call = call
    await streams.answer(x, call, ((SESSION, x.session.id.encode("ascii")),))
