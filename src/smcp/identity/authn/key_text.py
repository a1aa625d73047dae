"""The text of an API key: `smcp_<tenant>_<id><secret><checksum>`.

- `smcp_` and the checksum let secret scanners find a leaked key, and let a typing error be told from a guess before
  anything is looked up.
- The tenant stands in the key, so that no global index of keys exists to leak.
- Id: 12 digits (60 random bits), public. Secret: 32 digits (160 random bits). Checksum: CRC-32 of everything before
  it, 7 digits. CRC-32 finds every error burst of up to 32 bits, so no change of one character (8 bits) passes. It is no
  authentication: anybody can compute it.

Digits are Crockford base 32 in lower case, without its optional look-alikes: a key has exactly one spelling.
"""

import re
import secrets
import zlib
from typing import Final, NamedTuple

from smcp.kernel import errors, ids

ID_DIGITS: Final = 12
SECRET_DIGITS: Final = 32
CHECKSUM_DIGITS: Final = 7
PREFIX: Final = "smcp_"

LONGEST: Final = len(PREFIX) + ids.MAX_TENANT + 1 + ID_DIGITS + SECRET_DIGITS + CHECKSUM_DIGITS
"""Characters of the longest key."""

_DIGIT: Final = "[0-9a-hjkmnp-tv-z]"
_FORM: Final = re.compile(
    rf"{PREFIX}([a-z0-9-]{{1,{ids.MAX_TENANT}}})_({_DIGIT}{{{ID_DIGITS}}})({_DIGIT}{{{SECRET_DIGITS}}})"
    rf"({_DIGIT}{{{CHECKSUM_DIGITS}}})",
    re.ASCII,
)

KEY_ID: Final = re.compile(rf"key-{_DIGIT}{{{ID_DIGITS}}}", re.ASCII)
"""What `public_id` makes."""


class Parsed(NamedTuple):
    """A key's parts. `secret` must not outlive the request."""

    tenant: ids.TenantId
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Parsed(tenant={self.tenant!r}, id={self.id!r}, secret=…)"


def new_id() -> str:
    """A new id: 60 random bits."""
    return ids.base32(secrets.randbits(5 * ID_DIGITS), ID_DIGITS)


def new_secret() -> str:
    """A new secret: 160 random bits."""
    return ids.base32(secrets.randbits(5 * SECRET_DIGITS), SECRET_DIGITS)


def public_id(key_id: str) -> str:
    """How a key is named where its text is not: the principal's id, and what `revoke` takes."""
    return f"key-{key_id}"


def compose(tenant: ids.TenantId, key_id: str, secret: str) -> str:
    """The key's text."""
    body = f"{PREFIX}{tenant}_{key_id}{secret}"
    return body + _checksum(body)


def parse(text: str) -> Parsed | None:
    """The parts of `text`, or None if it is not a key in its one spelling with a right checksum."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-CHECKSUM_DIGITS]) != text[-CHECKSUM_DIGITS:]:
        return None
    try:
        tenant = ids.any_tenant(match.group(1))
    except errors.BadName:
        return None
    return Parsed(tenant, match.group(2), match.group(3))


def _checksum(body: str) -> str:
    return ids.base32(zlib.crc32(body.encode("ascii")), CHECKSUM_DIGITS)
