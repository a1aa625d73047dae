"""Redaction: what logs, error reports and hosted servers' output lose before anybody reads them.

Two rules, both applied: a value under a name that says "secret" is dropped whole, and text that looks like a
credential loses it wherever it stands. Control characters are escaped, so that no caller can forge a second log
line or drive a terminal. Redaction is the last wall, not the first: nothing hands a secret to a logger on purpose.
"""

import re
from collections.abc import Mapping, Set
from typing import Any, Final, cast

import msgspec

GONE: Final = "[redacted]"
_LONGEST: Final = 8192
_DEEPEST: Final = 8
_MANY: Final = 200

_SECRET_NAME: Final = re.compile(
    r"secret|passw|passphrase|authorization|cookie|credential|bearer|api[-_]?key$|private[-_]?key|root[-_]?key$"
    r"|data[-_]?key$|(?:^|[-_.])token$|(?:access|refresh|id|session|bearer|auth)[-_]?token|session[-_]?id$",
    re.IGNORECASE,
)

_SECRET_TEXT: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # Our own keys (kernel.ids), refresh tokens and clients' secrets: the tenant stays, because it says where to look.
    (re.compile(r"(smc[a-z])_([a-z0-9-]{1,30})_[A-Za-z0-9]{12,}"), rf"\1_\2_{GONE}"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE), rf"\1 {GONE}"),
    # JSON Web Tokens (RFC 7519): three base64url parts, the first of which begins with '{"'.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"), GONE),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        GONE,
    ),
    # The password of a URL (RFC 3986, 3.2.1).
    (re.compile(r"(://[^\s/:@]{0,256}):[^\s/@]{1,1024}@"), rf"\1:{GONE}@"),
    (
        re.compile(
            r"\b((?:[A-Za-z0-9_]{0,64}[-_])?(?:secret|password|passwd|api[-_]?key|(?:access|refresh)[-_]?token|token))"
            r"(\"?'?\s{0,4}[=:]\s{0,4}\"?'?)(?!\[redacted\]|bearer|basic)[^\s\"',;&]{3,}",
            re.IGNORECASE,
        ),
        rf"\1\2{GONE}",
    ),
)

# C0 without tab, DEL, C1, the line separators that some readers honour, and the bidirectional overrides.
_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def is_secret_name(name: str) -> bool:
    """Does a field of this name hold a secret, whatever its value looks like?"""
    return _SECRET_NAME.search(name) is not None


def text(value: str, *, lines: bool = False) -> str:
    """`value` without credentials, cut to 8 KiB, control characters escaped (newlines kept when `lines`)."""
    cut = value[:_LONGEST] + "…" if len(value) > _LONGEST else value
    for pattern, replacement in _SECRET_TEXT:
        cut = pattern.sub(replacement, cut)
    if lines:
        return "\n".join(_CONTROL.sub(_escape, line) for line in cut.split("\n"))
    return _CONTROL.sub(_escape, cut)


def value(item: Any, depth: int = 0) -> Any:
    """`item` as plain data that is safe to write: mappings, sequences and Structs are walked, eight levels deep."""
    if item is None or isinstance(item, bool | int | float):
        return item
    if isinstance(item, str):
        return text(item)
    if isinstance(item, bytes | bytearray):
        return f"<{len(item)} bytes>"
    if depth >= _DEEPEST:
        return "…"
    if isinstance(item, Mapping):
        return mapping(cast("Mapping[Any, Any]", item), depth)
    if isinstance(item, list | tuple | Set):
        members = list(cast("list[Any]", item))[:_MANY]
        return [value(member, depth + 1) for member in members]
    if isinstance(item, msgspec.Struct):
        return mapping({name: getattr(item, name) for name in item.__struct_fields__}, depth)
    return text(str(item))


def mapping(item: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """`item` with the values of secret names dropped and all others passed through `value`."""
    safe: dict[str, Any] = {}
    for name, member in list(item.items())[:_MANY]:
        label = text(str(name))
        safe[label] = GONE if is_secret_name(label) and member is not None else value(member, depth + 1)
    return safe


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")
