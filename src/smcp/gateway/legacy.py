"""The legacy wire (2024-11-05 … 2025-11-25): handshake, sessions, a copy of the server for each."""

from collections.abc import Awaitable
from typing import Final

from smcp.access import policy
from smcp.audit import events
from smcp.gateway import bridge, exchange, living, reviving, streams, targets
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import eras, translate
from smcp.runtime import calls, driver

SESSION: Final = b"mcp-session-id"


def session(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Find the session a request belongs to; DELETE ends it here. `initialize` has none yet, whatever it sends."""
    if opens(x):
        return None
    told = x.incoming.fields.only(SESSION)
    if told is None:
        raise errors.BadRequest("The Mcp-Session-Id header is missing: send initialize first, its answer carries it.")
    if x.principal is None or x.tenant is None or x.server is None:
        raise errors.Unauthenticated
    found = parts.sessions.find(told, x.principal, x.tenant, x.server)
    if found is None or x.incoming.method == "DELETE":
        return _resume(parts, x, told, x.principal, x.tenant, x.server)
    _enter(x, found)
    return None


def _enter(x: exchange.Exchange, found: living.Session) -> None:
    check_version(x, found)
    x.session = found
    x.version = found.version
    if found.target is not None:
        # Another deployment may be live meanwhile: the session's requests are for its own.
        x.target = found.target


async def _resume(
    parts: exchange.Parts,
    x: exchange.Exchange,
    told: str,
    principal: policy.Principal,
    tenant: ids.TenantId,
    server: ids.ServerName,
) -> None:
    """A session that is to end, or that this process has not met: it may be on record."""
    try:
        found = await parts.sessions.resume(told, principal, tenant, server)
    except errors.SessionNotFound:
        _note_refused(parts, x, told, principal, server)
        raise
    if x.incoming.method == "DELETE":
        removed = parts.sessions.end(found, "deleted")
        if removed is not None:
            await removed
        x.session = found
        x.answer(204)
        return
    if not found.bridged and found.target is None:
        if x.target is None:
            raise errors.NotFound
        await reviving.bind(parts, found, x.target)
    _enter(x, found)


def _note_refused(
    parts: exchange.Parts, x: exchange.Exchange, told: str, principal: policy.Principal, server: ids.ServerName
) -> None:
    """The trail learns what the caller does not: whether there is such a session (CVE-2026-52869)."""
    parts.trail.note(
        events.SessionRefused(
            tenant=principal.tenant,
            actor=principal.id,
            request_id=x.request_id,
            outcome="refused",
            server=server,
            why="foreign" if parts.sessions.there_is(told, principal.tenant) else "unknown",
        )
    )


def check_version(x: exchange.Exchange, found: living.Session) -> None:
    """Raise `errors.BadRequest` for a header that names another version than was agreed on.

    MCP 2025-06-18 and 2025-11-25, "Protocol Version Header": what is not valid for the session is 400. Clients of the
    two versions before send none.
    """
    told = x.head.version
    if told and found.version and told != found.version:
        raise errors.BadRequest(f"MCP-Protocol-Version is {told}, but this session agreed on {found.version}.")


def opens(x: exchange.Exchange) -> bool:
    """Is this the request that opens a session?"""
    return x.message is not None and greets(x.message)


def greets(message: jsonrpc.Message) -> bool:
    """Is it the request `initialize`?"""
    return message.method == "initialize" and message.kind is jsonrpc.Kind.REQUEST


def acquire(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """The session's copy; for `initialize` a new one, with the session around it once it has answered."""
    if x.session is None:
        return _initialize(parts, x)
    instance = x.session.instance
    if instance is not None and instance.alive:
        x.instance = instance
        return None
    if x.session.bridged:
        return bridge.acquire(parts, x, x.session)
    if x.message is None or x.message.kind is jsonrpc.Kind.REQUEST:
        return reviving.revive(parts, x, x.session)
    # What is no request was for the copy that is gone: the next one will be told what it has to know.
    if x.message.method == "notifications/initialized":
        x.session.greet()
    elif x.message.method == "notifications/cancelled":
        bridge.cancelled(x.session, x.message)
    x.answer(202)
    return None


async def _initialize(parts: exchange.Parts, x: exchange.Exchange) -> None:
    if x.target is None or x.principal is None or x.message is None:
        raise errors.Unauthenticated
    if not x.target.legacy:
        await _bridge(parts, x, x.principal, x.target, x.message)
        return
    await parts.sessions.load((x.principal.tenant, x.principal.id))
    parts.sessions.make_room(x.principal)
    instance = await parts.pool.private(x.target.spec)
    try:
        call, before = await reviving.answered(parts, instance, *instance.calls.send(x.message))
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
    await parts.sessions.load((principal.tenant, principal.id))
    _record(parts, x, principal, target)
    parts.sessions.make_room(principal)
    spec = target.spec
    opened = parts.sessions.open(principal, spec.server, spec.deployment, None, x.version, bridged=True)
    opened.stamp = _stamp(x.version, message)
    await _keep(parts, x, opened)
    x.session = opened
    x.answer(200, answer, ((SESSION, opened.id.encode("ascii")),))


def _stamp(version: str, message: jsonrpc.Message) -> bytes:
    """What the server is told of the client with each request; without what makes it too long."""
    able = translate.capabilities(version, message.params.get("capabilities"))
    stamp = translate.meta(message.params.get("clientInfo"), able=able)
    if len(stamp) > living.HELLO_BYTES:
        stamp = translate.meta(None, able={name: one for name, one in able.items() if name in translate.ASKED})
    return stamp if len(stamp) <= living.HELLO_BYTES else translate.meta(None)


async def _keep(parts: exchange.Parts, x: exchange.Exchange, opened: living.Session) -> None:
    # One on the old transport ends with its stream, and that with this process.
    if not x.inner:
        await parts.sessions.keep(opened)


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


async def _open(
    parts: exchange.Parts,
    x: exchange.Exchange,
    principal: policy.Principal,
    target: targets.Target,
    instance: driver.Instance,
    call: calls.Call,
    before: list[bytes],
) -> None:
    answer = jsonrpc.obj((jsonrpc.obj(jsonrpc.decode(call.response)) or {}).get("result")) or {}
    version = answer.get("protocolVersion")
    # The hosted server's own word: the client gets it as it is, metrics and trail only what exists.
    x.version = str(version) if version in eras.LEGACY else ""
    if not instance.alive:
        # It has answered and died: nobody would ever end a session around it.
        raise errors.ServerFailed
    _record(parts, x, principal, target)
    # Again: others of the same principal may have come to the cap while this copy was starting.
    parts.sessions.make_room(principal)
    opened = parts.sessions.open(principal, target.spec.server, target.spec.deployment, instance, x.version)
    opened.target = target
    opened.promised(answer.get("capabilities"))
    hello = b"" if x.message is None else x.message.params_raw or b"{}"
    opened.hello = hello if len(hello) <= living.HELLO_BYTES else b""
    opened.replays = target.resumes and bool(opened.hello)
    instance.owner = opened
    instance.principal = principal.id
    await _keep(parts, x, opened)
    x.session = opened
    for frame in before:
        opened.stray(frame, "")
    x.call = call
    await streams.answer(x, call, ((SESSION, opened.id.encode("ascii")),))
