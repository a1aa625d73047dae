"""Legacy sessions over a modern server: the gateway shakes hands, and many sessions share one copy.

Such a session is a record of a few hundred bytes: no process, no task, no instance of its own. Each request gets the
stamp that the modern wire wants (`protocol.translate`) and goes to whichever copy has least to do.

| the client says | what happens |
|---|---|
| initialize | answered from what the server said in `server/discover` |
| ping, logging/setLevel | answered here; the level goes into the stamp |
| resources/subscribe, resources/unsubscribe | `feeds` listens for the session; -32601 where nobody offers that |
| notifications/cancelled | cancels that call of that session |
| an answer to what it was asked (`asking`) | 202, and the call that it belongs to goes on |
| other notifications, other answers | 202, and go nowhere |
| everything else | stamped and forwarded |
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

import msgspec

from smcp.gateway import exchange, feeds, sessions, targets
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, translate
from smcp.runtime import calls, driver, peer

_LEVELS: Final = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
_WATCHING: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})
_EMPTY: Final = b"{}"


async def initialize(parts: exchange.Parts, x: exchange.Exchange) -> bytes:
    """The answer to `initialize`, and in `x.version` what was agreed on; the session is opened by `legacy`."""
    target, principal, message = x.target, x.principal, x.message
    if target is None or principal is None or message is None:
        raise errors.Unauthenticated
    told = target.described or await _describe(parts, x, target)
    x.version = translate.negotiated(message.params.get("protocolVersion"))
    offered = translate.offered(told.capabilities, notices=feeds.shares(target))
    return jsonrpc.result(message.id, translate.initialized(x.version, offered, told.info, told.instructions))


async def _describe(parts: exchange.Parts, x: exchange.Exchange, target: targets.Target) -> peer.Server:
    seconds = parts.settings.runtime.start_timeout_s
    try:
        async with asyncio.timeout(seconds):
            instance = await copy(parts, x)
            found = await peer.Peer(instance, modern=True, timeout_s=seconds).introduce()
    except TimeoutError as error:
        raise errors.ServerTimeout("The hosted MCP server did not describe itself in time.") from error
    target.described = found
    return found


def acquire(parts: exchange.Parts, x: exchange.Exchange, session: sessions.Session) -> Awaitable[None] | None:
    """Answer what needs no server; stamp the rest, and find a copy for it."""
    message = x.message
    if message is None:
        return None  # a GET stream
    if message.kind is not jsonrpc.Kind.REQUEST:
        _told(x, session, message)
        return None
    if message.method in eras.REMOVED and message.method not in _WATCHING:
        x.answer(200, jsonrpc.result(message.id, _answered(session, message)))
        return None
    if x.target is None or x.principal is None:
        raise errors.Unauthenticated
    if not x.target.modern:
        # Another version was deployed, which does not understand what the session's requests become.
        parts.sessions.end(session, "replaced")
        raise errors.SessionNotFound
    if message.method in _WATCHING:
        return _watch(parts, x, session, message)
    x.forwarded = translate.stamped(message, session.stamp)
    if x.target.share != "session":
        x.instance = parts.pool.warm(x.target.spec, x.target.share_key(x.principal))
    return None if x.instance is not None else _acquire(parts, x)


async def _watch(
    parts: exchange.Parts, x: exchange.Exchange, session: sessions.Session, message: jsonrpc.Message
) -> None:
    """Subscribe to a resource, or no more."""
    target, uri = x.target, message.params.get("uri")
    if target is None or not isinstance(uri, str):
        raise errors.InvalidParams("'uri' names the resource.")
    told = target.described or await _describe(parts, x, target)
    offered = jsonrpc.obj(translate.offered(told.capabilities, notices=feeds.shares(target)).get("resources")) or {}
    if not offered.get("subscribe"):
        raise errors.MethodNotFound(f"This server does not offer '{message.method}'.")
    if message.method == "resources/subscribe":
        await parts.feeds.subscribe(session, target, uri)
    else:
        parts.feeds.unsubscribe(session, uri)
    x.answer(200, jsonrpc.result(message.id, _EMPTY))


async def _acquire(parts: exchange.Parts, x: exchange.Exchange) -> None:
    x.instance = await copy(parts, x)


async def copy(parts: exchange.Parts, x: exchange.Exchange) -> driver.Instance:
    """A copy for a request; a shared one, where the manifest allows it. Raises as `pool.Pool.shared`."""
    target, principal = x.target, x.principal
    if target is None or principal is None:
        raise errors.Unauthenticated
    if target.share == "session":
        # Nobody may share it, and the modern wire keeps nothing between requests: a copy for this one.
        x.own_instance = await parts.pool.private(target.spec, modern=True)
        x.own_instance.principal = principal.id
        return x.own_instance
    share = target.share_key(principal)
    instance = await parts.pool.shared(target.spec, share)
    instance.principal = share
    return instance


def _answered(session: sessions.Session, message: jsonrpc.Message) -> bytes:
    if message.method == "logging/setLevel":
        level = message.params.get("level")
        if not isinstance(level, str) or level not in _LEVELS:
            raise errors.InvalidParams(f"'level' is one of {', '.join(sorted(_LEVELS))}.")
        told = jsonrpc.decode(session.stamp)
        session.stamp = translate.meta(told.get(translate.META_CLIENT), level, told.get(eras.META_CAPABILITIES))
        session.table.note(session)
    elif message.method != "ping":
        raise errors.MethodNotFound(f"This server does not offer '{message.method}'.")
    return _EMPTY


def _told(x: exchange.Exchange, session: sessions.Session, message: jsonrpc.Message) -> None:
    if message.kind is jsonrpc.Kind.RESPONSE:
        told: object = jsonrpc.decode(message.id)
        waiting = session.questions.get(told) if isinstance(told, str) else None
        # An answer that nobody waits for is dropped; telling so would tell which ids are in use.
        if waiting is not None and isinstance(told, str):
            waiting.answer(told, message)
    elif message.method == "notifications/cancelled":
        cancelled(session, message)
    x.answer(202)


def cancelled(session: sessions.Session, message: jsonrpc.Message) -> None:
    """The client does not want an answer any more to what is in `Session.running`."""
    wanted = message.params.get("requestId")
    if type(wanted) in (str, int):
        for (instance, number), id_raw in list(session.running.items()):
            if msgspec.json.decode(id_raw) == wanted:
                # Its answer would never come: the request must not keep its place among those in flight.
                instance.calls.cancel(number, "the client cancelled it", errors.BadRequest(calls.CANCELLED))
