"""The modern wire (2026-07-28): stateless requests, one copy of the server for many of them."""

from collections.abc import Awaitable

from smcp.access import policy
from smcp.gateway import exchange, parkedwalk, targets
from smcp.kernel import errors, jsonrpc


def acquire(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """The shared copy; started if nobody has yet. Notifications need none: the core defines none here (202)."""
    target, principal = x.target, x.principal
    if target is None or principal is None or x.message is None:
        raise errors.Unauthenticated
    if x.message.kind is jsonrpc.Kind.NOTIFICATION:
        x.answer(202)
        return None
    if not target.modern:
        return parkedwalk.serve(parts, x, target, principal, x.message)
    if target.share == "session":
        # The manifest lets nobody share a copy; without sessions that is a copy for each request.
        return _private(parts, x, target, principal)
    share = target.share_key(principal)
    x.instance = parts.pool.warm(target.spec, share)
    return None if x.instance is not None else _shared(parts, x, target, share)


async def _private(
    parts: exchange.Parts, x: exchange.Exchange, target: targets.Target, principal: policy.Principal
) -> None:
    x.instance = x.own_instance = await parts.pool.private(target.spec, modern=True)
    x.instance.principal = principal.id


async def _shared(parts: exchange.Parts, x: exchange.Exchange, target: targets.Target, share: str) -> None:
    x.instance = await parts.pool.shared(target.spec, share)
    x.instance.principal = share
