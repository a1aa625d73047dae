"""Codes of authenticator apps: RFC 6238 over RFC 4226, with what such apps take for granted (SHA-1, 6 digits, 30 s).

SHA-1 is no weakness here: HMAC does not need collision resistance (RFC 6238, 1.2), and most apps know nothing else.
"""

import base64
import hmac
import re
import secrets
import urllib.parse
from typing import Final

from smcp.kernel import crypto, ids

STEP_S: Final = 30
"""RFC 6238, 5.2: the recommended time step."""
DIGITS: Final = 6
SECRET_BYTES: Final = 20
"""RFC 4226, 4, R6: 160 bits are recommended."""
DRIFT: Final = 1
"""Steps that a device's clock may be off in either direction (RFC 6238, 5.2 recommends at most one for the network)."""

RECOVERY_CODES: Final = 10
_RECOVERY_DIGITS: Final = 16
_CODE: Final = re.compile(r"[0-9]{6}", re.ASCII)
_RECOVERY: Final = re.compile(rf"[0-9a-hjkmnp-tv-z]{{{_RECOVERY_DIGITS}}}", re.ASCII)


def new_secret() -> bytes:
    """A new shared secret."""
    return secrets.token_bytes(SECRET_BYTES)


def hotp(secret: bytes, counter: int, *, digits: int = DIGITS, algorithm: str = "sha1") -> str:
    """RFC 4226, 5.3: the code of a counter; `digits` and `algorithm` other than the defaults are RFC 6238's vectors."""
    mac = hmac.digest(secret, counter.to_bytes(8, "big"), algorithm)
    offset = mac[-1] & 15
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def step(now: float) -> int:
    """RFC 6238, 4.2: the number of the time step at `now`, epoch seconds."""
    return int(now) // STEP_S


def matching(secret: bytes, code: str, now: float, last: int) -> int | None:
    """The time step that `code` is for, if it may be used; None otherwise.

    Only steps behind `last`, the last one that was used, count: a code passes once (RFC 6238, 5.2). All steps are
    computed and compared, so that the time does not tell which one matched.
    """
    typed = "".join(code.split())
    if _CODE.fullmatch(typed) is None:
        return None
    found: int | None = None
    for number in range(step(now) - DRIFT, step(now) + DRIFT + 1):
        if crypto.equal(hotp(secret, number), typed) and number > last:
            found = number
    return found


def text(secret: bytes) -> str:
    """The secret as people type it into an app: base 32, in groups of four."""
    digits = base64.b32encode(secret).decode().rstrip("=")
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def address(secret: bytes, issuer: str, account: str) -> str:
    """The `otpauth:` address that apps read from a picture. It holds the secret: not for any log."""
    label = urllib.parse.quote(f"{issuer}:{account}", safe="@:")
    query = urllib.parse.urlencode(
        {"secret": base64.b32encode(secret).decode().rstrip("="), "issuer": issuer}, quote_via=urllib.parse.quote
    )
    return f"otpauth://totp/{label}?{query}"


def recovery_codes() -> tuple[str, ...]:
    """New codes for a lost device, each good once: 80 random bits, in groups of four."""
    made = (ids.base32(secrets.randbits(5 * _RECOVERY_DIGITS), _RECOVERY_DIGITS) for _ in range(RECOVERY_CODES))
    return tuple("-".join(code[at : at + 4] for at in range(0, _RECOVERY_DIGITS, 4)) for code in made)


def recovery_digest(key: bytes, user: str, code: str) -> bytes | None:
    """What is kept of a recovery code; None for what can't be one. Forgiving: case, hyphens and spaces do not count."""
    plain = "".join(code.lower().replace("-", " ").split()).replace("o", "0").replace("i", "1").replace("l", "1")
    return crypto.keyed_digest(key, user, plain) if _RECOVERY.fullmatch(plain) else None
