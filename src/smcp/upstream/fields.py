"""Header fields that a tenant may have sent to a remote server, and the values that they may have.

Whatever frames the message, chooses the server, or is a word of MCP's own belongs to the platform: a field of the
tenant's could make two readers see two requests, or speak for a session that is not its own.
"""

import re
from typing import Final

# RFC 9110, 5.6.2 (token), without what nobody has in a name of a field.
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?", re.ASCII)
_VALUE: Final = re.compile(r"[!-~]([\t -~]*[!-~])?", re.ASCII)
# RFC 9110, 7.6.1, 7.2 and 10.1.1; RFC 9112, 6: what says where a message goes, and where it ends.
_FRAMING: Final = frozenset(
    {
        *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"),
        *("expect", "proxy-connection"),
    }
)
_OURS: Final = frozenset(
    {
        *_FRAMING,
        *("via", "max-forwards", "forwarded", "date"),
        # What the platform writes itself, and what it reads from.
        *("accept", "accept-charset", "accept-encoding", "last-event-id", "origin", "referer", "http2-settings"),
        *("user-agent", "range", "traceparent", "tracestate", "baggage"),
        # State that whoever is first would share with everybody else.
        *("cookie", "cookie2", "set-cookie"),
    }
)
_OURS_BEGIN: Final = ("mcp-", "proxy-", "sec-", "x-forwarded-", "access-control-", "content-", "if-")
LONGEST: Final = 8192
"""Characters of one value."""


def named(name: str) -> bool:
    """Is this a name that a field may have?"""
    return _NAME.fullmatch(name) is not None


def ours(name: str) -> bool:
    """Is the field of this name the platform's own to write, or never sent?"""
    low = name.lower()
    return low in _OURS or low.startswith(_OURS_BEGIN)


def framing(name: str) -> bool:
    """Does the field of this name say where a message goes or where it ends? Only who writes the message sets it."""
    return name.lower() in _FRAMING


def refusal(name: str) -> str:
    """Why a header of this name may not be set, in a few words; empty when it may."""
    if not named(name):
        return "it is no name of a header field"
    return "the platform sets it itself, or it is never sent" if ours(name) else ""


def value(name: str, secret: str) -> str | None:
    """What the field `name` says for this `secret`; None for what no field can say.

    Credentials have a scheme and a space (RFC 9110, 11.4): in `Authorization` a secret without a space is a token.
    """
    text = secret.strip(" \t\r\n")
    if len(text) > LONGEST or _VALUE.fullmatch(text) is None:
        return None
    return f"Bearer {text}" if name.lower() == "authorization" and " " not in text else text
