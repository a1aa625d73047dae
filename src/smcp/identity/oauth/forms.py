"""The parameters of OAuth requests (`application/x-www-form-urlencoded`), read in one strict way.

A parameter that comes twice is refused (OAuth 2.1, 3.1 and 3.2.2): two readers could take different ones. An empty one
counts as left out. What nobody knows is ignored (RFC 6749, 3.1).
"""

import urllib.parse
from collections.abc import Mapping
from typing import Final

from smcp.identity.oauth import refusals

MAX_BYTES: Final = 32_768
"""Of a query or a body."""
_FIELDS: Final = 64
_LIST: Final = frozenset({"resource"})
"""May come more than once (RFC 8707, 2); who reads them says how many are too many."""


def parse(data: bytes) -> Mapping[str, str]:
    """The parameters. Several `resource` are joined by spaces, which none can have.

    Raises `refusals.Refused` (`invalid_request`).
    """
    if len(data) > MAX_BYTES:
        raise _malformed(f"The parameters have more than {MAX_BYTES} bytes.")
    try:
        pairs = urllib.parse.parse_qsl(
            data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS
        )
    except ValueError:
        raise _malformed("The parameters are not form-urlencoded UTF-8.") from None
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen and name not in _LIST:
            raise _malformed("A parameter comes more than once.")
        seen.add(name)
        if value:
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def _malformed(description: str) -> refusals.Refused:
    return refusals.Refused(refusals.INVALID_REQUEST, description, detail="form")
