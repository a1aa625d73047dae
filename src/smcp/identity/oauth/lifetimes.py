"""How long everything of OAuth lives: one struct, made in `app.wire`; tests hand in shorter ones."""

import msgspec

_MINUTE = 60.0
_DAY = 86400.0


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds."""

    access_s: float = 60 * _MINUTE
    """An access token."""
    code_s: float = _MINUTE
    """An authorization code (RFC 6749, 4.1.2: at most ten minutes)."""
    used_s: float = 10 * _MINUTE
    """How long a used code, or device code, is remembered, so that its second use is seen."""
    refresh_s: float = 30 * _DAY
    """A refresh token that nobody uses."""
    grant_s: float = 365 * _DAY
    """What a person has let a client do, however often it is refreshed: then they are asked again."""
    grace_s: float = _MINUTE
    """How long a refresh token still works after it was used: clients race themselves."""
    device_s: float = 10 * _MINUTE
    """A device code (RFC 8628, 3.2)."""
    poll_s: float = 5.0
    """The least time between two questions of a device (RFC 8628, 3.2)."""
    proof_s: float = _MINUTE
    """How old, or how far ahead, a DPoP proof may be (RFC 9449, 11.1)."""
    signing_s: float = 90 * _DAY
    """A signing key signs for so long."""
    ahead_s: float = 60 * _MINUTE
    """A signing key is published so long before it signs, for whoever keeps the key set."""
