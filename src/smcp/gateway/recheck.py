"""A stream may outlive the right to it: both are asked for again after each `gateway.heartbeat_s`.

The credential, and what it may do: a person who has lost a role still has a good token. What is decided is what was
decided when the stream began (`pipeline.decide`), with the principal as it is now.
"""

import time
from typing import Final

from smcp.access import policy
from smcp.gateway import exchange, narrow
from smcp.kernel import errors

EARLY: Final = 0.005
"""Seconds that a timer of the event loop may come too early: its clock counts milliseconds."""
_CHANGED: Final = "What your roles allow here has changed. Ask again."


async def check(parts: exchange.Parts, x: exchange.Exchange, checked: float) -> float:
    """When the right to the stream was last found to be there. Raises what a new request would meet when it is gone."""
    now = time.monotonic()
    if now - checked < parts.settings.gateway.heartbeat_s - EARLY:
        return checked
    try:
        principal = await parts.authenticator.again(x.incoming.fields.only(b"authorization"))
    except (errors.Unauthenticated, errors.TenantSuspended):
        _end_session(parts, x)
        raise
    if principal != x.principal:
        _decide(parts, x, principal)
    return now


def _decide(parts: exchange.Parts, x: exchange.Exchange, principal: policy.Principal) -> None:
    """Raises `errors.Forbidden` unless the answer is what it was."""
    if x.tenant is None or x.server is None:
        raise errors.NotFound
    resource = policy.Resource(x.tenant, "server", x.server, x.server)
    if policy.decide(principal, policy.Action.MCP_CONNECT, resource) is not policy.Decision.ALLOW:
        _end_session(parts, x)
    if policy.decide(principal, x.action, resource) is not policy.Decision.ALLOW:
        # Also where it would be concealed: who has a stream knows that there is a server.
        raise errors.Forbidden
    choice = narrow.choose(principal, resource)
    if x.message is not None and x.message.method == "tools/call":
        # Of other tools it says nothing, and is not interrupted for them.
        if choice is not None and x.target is not None:
            narrow.require(choice, x.target, x.message.params)
    elif narrow.digest(choice) != narrow.digest(x.choice):
        raise errors.Forbidden(_CHANGED)


def _end_session(parts: exchange.Parts, x: exchange.Exchange) -> None:
    if x.session is not None:
        parts.sessions.end(x.session, "revoked")
