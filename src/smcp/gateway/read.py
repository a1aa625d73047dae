"""Reading: the body once, the era, and what the two wires demand of a message."""

from collections.abc import Awaitable
from typing import Final

from smcp.gateway import exchange, route
from smcp.kernel import errors, jsonrpc
from smcp.protocol import batches, eras

_JSON: Final = "application/json"


def read(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Era, body, message. Policy never sees a second reading of the bytes."""
    head = x.head
    x.era = head.era
    x.version = head.version
    if x.incoming.method != "POST":
        _refuse_verb(x)
        return None
    if not head.media:
        check_media(x)
        head.media = True
    body = x.incoming.arrived(parts.settings.gateway.max_body_bytes)
    if body is None:
        return _wait(parts, x)
    _take(parts, x, body)
    return None


def check_media(x: exchange.Exchange) -> None:
    """The body is declared as JSON, and an answer that we have is taken."""
    media = x.incoming.fields.only(b"content-type") or ""
    if media.partition(";")[0].strip().lower() != _JSON:
        raise errors.UnsupportedMedia
    if not (plain(x) or accepts(x, "text/event-stream")):
        raise errors.NotAcceptable


async def _wait(parts: exchange.Parts, x: exchange.Exchange) -> None:
    caps = parts.settings.gateway
    _take(parts, x, await x.incoming.body(caps.max_body_bytes, caps.body_timeout_s))


def _take(parts: exchange.Parts, x: exchange.Exchange, body: bytes) -> None:
    x.received = len(body)
    if body[:1] != b"{" and x.era is eras.Era.LEGACY and batches.is_one(body):
        x.members = batches.read(body, x.version, parts.settings.gateway.max_depth)
        return
    message = jsonrpc.parse(body, max_depth=parts.settings.gateway.max_depth)
    x.message = message
    x.action = route.action(message.method)
    if x.era is eras.Era.LEGACY:
        if message.kind is not jsonrpc.Kind.RESPONSE:
            eras.check_legacy(x.version or None, message.params)
    elif message.kind is jsonrpc.Kind.REQUEST:
        _check_modern(x, message)
    elif message.kind is jsonrpc.Kind.NOTIFICATION:
        eras.check_version(x.version)
    else:
        raise errors.BadRequest("On this wire a client sends no responses; answers travel in a retried request.")


def _check_modern(x: exchange.Exchange, message: jsonrpc.Message) -> None:
    # The envelope first, as the ladder wants it: a body without one is the client's first mistake.
    if x.head.standard is None:
        eras.envelope(message.params)
        x.head.standard = eras.standard(x.incoming.fields)
    x.version = eras.check_modern(x.head.standard, message.method, message.params)
    if message.method in eras.REMOVED:
        raise errors.MethodNotFound(f"'{message.method}' does not exist in MCP {x.version}.")


def _refuse_verb(x: exchange.Exchange) -> None:
    if x.era is eras.Era.MODERN:
        raise errors.MethodNotAllowed("MCP 2026-07-28 uses POST only.", headers=(("Allow", "POST"),))
    if x.incoming.method == "GET":
        if x.incoming.fields.get(b"mcp-session-id") is None:
            # No session, no stream: clients take 405 for "no stream here" and anything else for an error (quirk 5).
            raise errors.MethodNotAllowed(headers=(("Allow", "POST"),))
        if not accepts(x, "text/event-stream"):
            raise errors.NotAcceptable("Accept text/event-stream.")


def plain(x: exchange.Exchange) -> bool:
    """May the answer be JSON?"""
    if x.head.plain is None:
        x.head.plain = accepts(x, _JSON)
    return x.head.plain


def accepts(x: exchange.Exchange, kind: str) -> bool:
    """May the answer be of this media type? Clients are taken leniently: no Accept is any (client-quirk 12)."""
    told = x.incoming.fields.get(b"accept")
    if told is None or kind in told or "*/*" in told:
        return True
    lowered = told.lower()
    return kind in lowered or kind.partition("/")[0] + "/*" in lowered
