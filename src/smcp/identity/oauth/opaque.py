"""Codes and tokens that only the platform reads: `<kind>_<tenant>_<id><more><secret><checksum>`.

| kind | what | `more` |
|---|---|---|
| `smca` | an authorization code | |
| `smcv` | a device code | |
| `smcr` | a refresh token | its generation, 8 digits |

They are made as API keys are (`authn.key_text` says why): one spelling, a tenant in the text, a public id of 60 random
bits, a secret of 160 bits, a checksum that tells a typing error from a guess. What is kept is a keyed digest.
"""

import base64
import hashlib
import re
import secrets
import zlib
from typing import Final, NamedTuple

from smcp.kernel import crypto, errors, ids
from smcp.stores import tenant as stores

CODE: Final = "smca"
DEVICE: Final = "smcv"
REFRESH: Final = "smcr"

ID_DIGITS: Final = 12
_SECRET_DIGITS: Final = 32
_CHECKSUM_DIGITS: Final = 7
_GENERATION_DIGITS: Final = 8
_MORE: Final = {CODE: 0, DEVICE: 0, REFRESH: _GENERATION_DIGITS}
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_DIGIT: Final = f"[{_DIGITS}]"
_FORM: Final = re.compile(rf"(smc[arv])_([a-z0-9-]{{1,{ids.MAX_TENANT}}})_({_DIGIT}{{51,59}})", re.ASCII)
LONGEST: Final = 5 + ids.MAX_TENANT + 1 + 59
"""Characters of the longest one."""


class Parsed(NamedTuple):
    """The parts of one. `secret` must not outlive the request."""

    tenant: ids.TenantId
    id: str
    number: int
    """A refresh token's generation; 0 for the others."""
    secret: str

    def __repr__(self) -> str:
        return f"Parsed(tenant={self.tenant!r}, id={self.id!r}, secret=…)"


def new_id() -> str:
    """A new id: 60 random bits."""
    return ids.base32(secrets.randbits(5 * ID_DIGITS), ID_DIGITS)


def new_secret() -> str:
    """A new secret: 160 random bits."""
    return ids.base32(secrets.randbits(5 * _SECRET_DIGITS), _SECRET_DIGITS)


def derived_secret(key: bytes, *parts: str) -> str:
    """A secret of 160 bits that whoever has `key` can make again."""
    return ids.base32(int.from_bytes(crypto.keyed_digest(key, *parts), "big"), _SECRET_DIGITS)


def compose(kind: str, tenant: ids.TenantId, id: str, secret: str, number: int = 0) -> str:
    """The text."""
    more = ids.base32(number, _MORE[kind])
    body = f"{kind}_{tenant}_{id}{more}{secret}"
    return body + _checksum(body)


def parse(kind: str, text: str) -> Parsed | None:
    """The parts of `text`, or None if it is no `kind` in its one spelling with a right checksum."""
    if len(text) > LONGEST:
        return None
    match = _FORM.fullmatch(text)
    if match is None or match[1] != kind or _checksum(text[:-_CHECKSUM_DIGITS]) != text[-_CHECKSUM_DIGITS:]:
        return None
    digits, more = match[3], _MORE[kind]
    if len(digits) != ID_DIGITS + more + _SECRET_DIGITS + _CHECKSUM_DIGITS:
        return None
    try:
        tenant = ids.any_tenant(match[2])
    except errors.BadName:
        return None
    number = 0
    for digit in digits[ID_DIGITS : ID_DIGITS + more]:
        number = number * 32 + _DIGITS.index(digit)
    start = ID_DIGITS + more
    return Parsed(tenant, digits[:ID_DIGITS], number, digits[start : start + _SECRET_DIGITS])


def digest(store: stores.Store, kind: str, tenant: ids.TenantId, id: str, secret: str) -> bytes:
    """What is kept of the secret. Raises `errors.NotFound` for a tenant without a key."""
    return crypto.keyed_digest(store.ring.data_key(tenant, f"identity.oauth {kind}"), tenant, id, secret)


def fingerprint(text: str) -> str:
    """43 characters that stand for `text` where it must not stand itself (RFC 7638's and RFC 9449's way)."""
    return b64(hashlib.sha256(text.encode()).digest())


def b64(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _checksum(body: str) -> str:
    return ids.base32(zlib.crc32(body.encode("ascii")), _CHECKSUM_DIGITS)
