"""Header fields that a tenant may have sent to a remote server, and the values that they may have.

Whatever frames the message, chooses the server, or is a word of MCP's own belongs to the platform: a field of the
tenant's could make two readers see two requests, or speak for a session that is not its own.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}", re.ASCII)
_VALUE: Final = re.compile(r"[!-~]([\t -~]*[!-~])?", re.ASCII)
_OURS: Final = frozenset(
    (
        *("accept", "accept-charset", "accept-encoding", "connection", "content-encoding", "content-length"),
        *("content-type", "date", "expect", "host", "http2-settings", "keep-alive", "last-event-id", "max-forwards"),
        *("origin", "te", "trailer", "transfer-encoding", "upgrade", "via"),
    )
)
_OURS_BEGIN: Final = ("mcp-", "proxy-", "sec-")
LONGEST: Final = 8192
"""Characters of one value."""


def refusal(name: str) -> str:
    """Why a header of this name may not be set, in a few words; empty when it may."""
    if _TOKEN.fullmatch(name) is None:
        return "it is no name of a header field"
    low = name.lower()
    if low in _OURS or low.startswith(_OURS_BEGIN):
        return "the platform sets it itself"
    return ""


def value(name: str, secret: str) -> str | None:
    """What the field `name` says for this `secret`; None for what no field can say.

    Credentials have a scheme and a space (RFC 9110, 11.4): in `Authorization` a secret without a space is a token.
    """
    text = secret.strip(" \t\r\n")
    if len(text) > LONGEST or _VALUE.fullmatch(text) is None:
        return None
    return f"Bearer {text}" if name.lower() == "authorization" and " " not in text else text
