"""Where an answer may be sent: redirect URIs, checked once when a client becomes known and then compared.

| a URI | |
|---|---|
| `https://host/…` | taken; compared character by character (OAuth 2.1, 2.3.1; RFC 9700, 2.1) |
| `http://` to `127.0.0.1`, `[::1]`, `localhost` | taken; compared without the port (RFC 8252, 7.3; also by name) |
| `http://` to anything else | refused: the code could be read on the way |
| `com.example.app:/…` | taken: a name that is somebody's (RFC 8252, 7.1) |
| `cursor://…` and the few others of `_EDITORS` | taken: editors that are in use with MCP and never followed that rule |
| every other scheme, `javascript:`, `data:` and `file:` among them | refused |
| with a fragment, a user, white space, control or non-ASCII characters | refused (RFC 6749, 3.1.2) |

Nothing is normalised: what two readers could read differently is refused, what is left is compared as it stands.
"""

import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Final

from smcp.identity.oauth import refusals

LONGEST: Final = 1024
"""Characters of a redirect URI."""
MOST: Final = 32
"""Redirect URIs of a client."""

_VISIBLE: Final = re.compile(r"[!-~]+")
_UNSAFE: Final = re.compile(r'["<>\\^`{|}]')
# RFC 8252, 7.1: "a scheme based on a domain name that they control, expressed in reverse order".
_REVERSED: Final = re.compile(r"[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)+")
_EDITORS: Final = frozenset({"cursor", "vscode", "vscode-insiders", "vscodium", "windsurf", "zed", "kiro", "trae"})
_HOST: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?)+|\[[0-9a-f:.]+\]", re.IGNORECASE)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_LOOPBACK: Final = re.compile(r"http://(127\.0\.0\.1|\[::1\]|localhost)(?::([0-9]{1,5}))?(/[^?#]*)?(\?[^#]*)?")


def check(uri: str) -> None:
    """Raises `refusals.Refused` (`invalid_redirect_uri`, RFC 7591, 3.2.2) for what no client may have."""
    why = _wrong(uri)
    if why:
        raise refusals.Refused(refusals.INVALID_REDIRECT_URI, f"A redirect URI {why}.", detail="redirect")


def check_all(uris: Sequence[str]) -> tuple[str, ...]:
    """All of a client's, once each. Raises as `check`."""
    if not 0 < len(uris) <= MOST:
        told = f"A client has from 1 to {MOST} redirect URIs."
        raise refusals.Refused(refusals.INVALID_REDIRECT_URI, told, detail="redirect")
    for uri in uris:
        check(uri)
    return tuple(dict.fromkeys(uris))


def matches(registered: Iterable[str], asked: str) -> bool:
    """Is `asked` one of `registered`? Exactly; of loopback ones the port is whatever the client was given."""
    known = tuple(registered)
    if asked in known:
        return True
    loopback = _loopback(asked)
    return loopback is not None and any(_loopback(one) == loopback for one in known)


def is_loopback(uri: str) -> bool:
    """Does it lead to the person's own machine, where any program may listen?"""
    return _loopback(uri) is not None


def host(uri: str) -> str:
    """Where it leads, for people: a host, or the scheme of an application."""
    parts = urllib.parse.urlsplit(uri)
    return parts.hostname or "" if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def answer(uri: str, fields: Iterable[tuple[str, str]]) -> str:
    """`uri` with `fields` in its query, behind what is there already (RFC 6749, 3.1.2 and 4.1.2)."""
    added = urllib.parse.urlencode(list(fields), quote_via=urllib.parse.quote)
    if "?" not in uri:
        return f"{uri}?{added}"
    return f"{uri}{added}" if uri.endswith(("?", "&")) else f"{uri}&{added}"


def _loopback(uri: str) -> tuple[str, str, str] | None:
    """Host, path and query of a loopback URI: all of it but the port."""
    found = _LOOPBACK.fullmatch(uri)
    if found is None or not 0 <= int(found[2] or 80) <= 65535:
        return None
    return found[1], found[3] or "/", found[4] or ""


def _wrong(uri: str) -> str:
    if len(uri) > LONGEST:
        return f"has at most {LONGEST} characters"
    if not _VISIBLE.fullmatch(uri) or _UNSAFE.search(uri):
        return "has only characters that URLs have, others percent-encoded"
    if "#" in uri:
        return "has no fragment"
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme != scheme.lower():
        return "begins with a scheme in lower case"
    if scheme == "https":
        return _wrong_host(rest)
    if scheme == "http":
        return (
            "" if is_loopback(uri) else "with http:// leads to 127.0.0.1, [::1] or localhost; elsewhere write https://"
        )
    if not (_REVERSED.fullmatch(scheme) or scheme in _EDITORS):
        return "of an application has a scheme that is a reversed domain name, as com.example.app"
    return "" if rest.startswith("/") and not rest.startswith("///") else "of an application goes on with a slash"


def _wrong_host(rest: str) -> str:
    if not rest.startswith("//"):
        return "with https: names a host"
    authority = re.split(r"[/?]", rest[2:], maxsplit=1)[0]
    if "@" in authority:
        return "has no user and no password"
    name, port = authority, ""
    if not authority.endswith("]"):
        name, colon, port = authority.rpartition(":")
        name, port = (name, port) if colon else (authority, "443")
    if not _HOST.fullmatch(name) or (port and not (_PORT.fullmatch(port) and int(port) <= 65535)):
        return "names a host, and perhaps a port"
    return ""
