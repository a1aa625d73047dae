"""Names and identifiers: the one grammar that every other room relies on.

Tenant and server names are lower-case letters, digits and single hyphens. An underscore or a double
hyphen can therefore separate them without escaping: `smcp_<tenant>_…` in an API key,
`{server}--{tenant}.<domain>` in a host name, `/t/{tenant}/{server}/mcp` in a path.
"""

import itertools
import re
import secrets
import time
from typing import Final, NewType

from smcp.kernel import errors

TenantId = NewType("TenantId", str)
ServerName = NewType("ServerName", str)

PLATFORM: Final = TenantId("platform")
"""The reserved tenant: operators, tenants, nodes. Nobody can create or deploy to it."""

# One DNS label (RFC 1035, 2.3.4) must hold "{server}--{tenant}": 31 + 2 + 30 = 63 characters.
MAX_TENANT: Final = 30
MAX_SERVER: Final = 31

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)
_RESERVED: Final = frozenset({"platform", "smcp", "api", "admin", "www", "t"})


def tenant(text: str) -> TenantId:
    """The tenant id in `text`; raises `errors.BadName` (also for the reserved names)."""
    name = _name(text, "tenant", MAX_TENANT)
    if name in _RESERVED:
        raise errors.BadName(f"The tenant name '{name}' is reserved; choose another one.")
    return TenantId(name)


def any_tenant(text: str) -> TenantId:
    """As `tenant`, and accepts the platform tenant: for credentials, never for creation."""
    return PLATFORM if text == PLATFORM else tenant(text)


def server(text: str) -> ServerName:
    """The server name in `text`; raises `errors.BadName`."""
    return ServerName(_name(text, "server", MAX_SERVER))


def _name(text: str, kind: str, longest: int) -> str:
    if len(text) > longest or _NAME.fullmatch(text) is None:
        raise errors.BadName(
            f"A {kind} name is 1 to {longest} lower-case letters, digits and single hyphens "
            f"(not at the ends): '{text[:80]}' is not."
        )
    return text


def new(prefix: str) -> str:
    """A new id `<prefix>-<26 characters>` that sorts by creation time (48 bits of milliseconds, 80 random bits)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}-{base32(number, 26)}"


_STARTED: Final = time.time_ns() // 1_000_000
_REQUESTS: Final = itertools.count(1)


def request() -> str:
    """A new id `req-<26 characters>` of one request, which nobody needs to guess and everybody needs often.

    The first 18 characters are this process's own (its start and 40 random bits), the rest counts: they sort by time
    too, and cost a tenth of `new`.
    """
    return f"{_PROCESS}{next(_REQUESTS):08x}"


def base32(number: int, length: int) -> str:
    """`number` as `length` lower-case Crockford base-32 digits, most significant first."""
    pairs: list[str] = []
    for _ in range(length >> 1):
        pairs.append(_PAIRS[number & 1023])
        number >>= 10
    if length & 1:
        pairs.append(_CROCKFORD[number & 31])
    pairs.reverse()
    return "".join(pairs)


def token(bits: int = 256) -> str:
    """An unguessable URL-safe token with `bits` of entropy (a multiple of 8)."""
    return secrets.token_urlsafe(bits // 8)


_PROCESS: Final = f"req-{base32(_STARTED << 40 | secrets.randbits(40), 18)}"
