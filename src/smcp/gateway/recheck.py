"""A stream may outlive the right to it: its credential is asked for again after each `gateway.heartbeat_s`."""

import time
from typing import Final

from smcp.gateway import exchange
from smcp.kernel import errors

EARLY: Final = 0.005
"""Seconds that a timer of the event loop may come too early: its clock counts milliseconds."""


async def check(parts: exchange.Parts, x: exchange.Exchange, checked: float) -> float:
    """When the credential was last found to be good. Raises what authentication raises when it no longer is."""
    now = time.monotonic()
    if now - checked < parts.settings.gateway.heartbeat_s - EARLY:
        return checked
    try:
        await parts.authenticator.authenticate(x.incoming.fields.only(b"authorization"))
    except (errors.Unauthenticated, errors.TenantSuspended):
        if x.session is not None:
            parts.sessions.end(x.session, "revoked")
        raise
    return now
