"""The modern wire (2026-07-28): stateless requests, one copy of the server for many of them."""

from smcp.gateway import exchange
from smcp.kernel import errors, jsonrpc


async def acquire(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The shared copy; started if nobody has yet. Notifications need none: the core defines none here (202)."""
    target, principal = x.target, x.principal
    if target is None or principal is None or x.message is None:
        raise errors.Unauthenticated
    if x.message.kind is jsonrpc.Kind.NOTIFICATION:
        x.answer(202)
        return
    if not target.modern:
        # Without a modern error body on purpose: that is how a client of both eras knows to fall back.
        spoken = ", ".join(target.deployment.eras.legacy)
        raise errors.BadRequest(f"This server speaks only MCP {spoken}; begin with initialize.")
    if target.share == "session":
        # The manifest lets nobody share a copy; without sessions that is a copy for each request.
        x.instance = x.own_instance = await parts.pool.private(target.spec, modern=True)
        x.instance.principal = principal.id
        return
    share = target.share_key(principal)
    x.instance = parts.pool.warm(target.spec, share)
    if x.instance is None:
        x.instance = await parts.pool.shared(target.spec, share)
        x.instance.principal = share
