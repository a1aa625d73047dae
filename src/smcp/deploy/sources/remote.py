"""`https://HOST/PATH`: a server that runs elsewhere, reached over HTTP. Nothing of it is fetched or built.

One parse, one spelling: what is recorded, shown, checked and dialled is the canonical text that this module made, so
that no two readers can see two hosts in one address. It is smaller than a URL's grammar on purpose (RFC 3986): no user
and password, no fragment, visible ASCII only, one way to write a host. A name that is not ASCII is written in its
`xn--` form (RFC 5891), as everywhere on this platform: no table of characters decides whom the platform talks to.
Whether the address may be dialled is not decided here but where it is dialled, for each address and each time.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from smcp.kernel import errors, redact
from smcp.sandbox.egress import rules
from smcp.upstream import fields

SCHEMES: Final = ("https", "http")
LONGEST: Final = 300
"""Characters of an address: what an audit event holds of a source."""
MOST_HEADERS: Final = 16

Wire = Literal["auto", "streamable", "sse"]
"""How it speaks: Streamable HTTP, the HTTP+SSE of MCP 2024-11-05, or whichever of the two answers."""

AUTHORIZATION: Final = "Authorization"

_PORTS: Final = {"https": 443, "http": 80}
# RFC 3986, 3.3 and 3.4, with every percent sign followed by two digits.
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+", re.ASCII)
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_VISIBLE: Final = re.compile(r"[!-~]+", re.ASCII)
_DIGITS: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_SECRET: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Remote(msgspec.Struct, frozen=True):
    """An address, canonical."""

    url: str

    @property
    def host(self) -> str:
        """A name or an address, without brackets."""
        return urllib.parse.urlsplit(self.url).hostname or ""

    @property
    def plain(self) -> bool:
        """Without TLS."""
        return self.url.startswith("http:")

    def __str__(self) -> str:
        return self.url


def parse(text: str) -> Remote:
    """The address in `text`. Raises `errors.InvalidParams`, which says what is wrong and does not repeat a password."""
    if len(text) > LONGEST:
        raise _wrong(f"it has more than {LONGEST} characters")
    if _VISIBLE.fullmatch(text) is None:
        raise _wrong("write only visible ASCII: a name in its xn-- form, a path with %-escapes, no white space")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise _wrong("it begins with https:// (or http://, where the operator has opened that network)")
    if "#" in rest:
        raise _wrong("a fragment (#…) is never sent: leave it out")
    place = re.search(r"[/?\\]", rest)
    authority, tail = (rest[: place.start()], rest[place.start() :]) if place else (rest, "")
    if "@" in authority:
        raise _wrong("it holds a user or a password; give a credential with --header-secret")
    path, _, query = tail.partition("?")
    path = path or "/"
    if _PATH.fullmatch(path) is None or _QUERY.fullmatch(query) is None:
        raise _wrong("its path or query holds characters that have to be written with %-escapes")
    if any(urllib.parse.unquote(part) in (".", "..") for part in path.split("/")):
        raise _wrong("its path holds . or .. as a part; write where it leads")
    target = f"{path}?{query}" if query else path
    found = f"{scheme}://{_authority(authority, _PORTS[scheme])}{target}"
    if redact.text(found) != found:
        raise _wrong("it holds what looks like a credential; give that with --header-secret")
    return Remote(found)


def server_name(source: Remote) -> str:
    """What a server there is called when nobody says, by its host; empty for one that has no name."""
    host = source.host
    if ":" in host or host.replace(".", "").isdigit() or host.endswith("localhost"):
        return ""
    labels = host.split(".")
    if len(labels) > 2 and labels[0] in ("mcp", "api", "www"):
        del labels[0]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(labels)).strip("-")


def headers(asked: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers and the names of the secrets that are their values, by header, each spelt as it was.

    Raises `ValueError` with words for people for a name that the platform keeps for itself, or that is none.
    """
    if len(asked) > MOST_HEADERS:
        raise ValueError(f"at most {MOST_HEADERS} headers")
    seen: set[str] = set()
    for name, secret in asked.items():
        # Neither is repeated where it may be a value that somebody put into the wrong place.
        if not fields.named(name):
            raise ValueError("a header's name is made of letters, digits and hyphens, and its value stands in a secret")
        low = name.lower()
        if fields.ours(name):
            raise ValueError(f"the header {name} is the platform's own to write, or is never sent")
        if low in seen:
            raise ValueError(f"the header {name} stands twice")
        seen.add(low)
        if _SECRET.fullmatch(secret) is None or redact.text(secret) != secret:
            raise ValueError(
                f"behind the header {name} stands the name of a secret (letters, digits, underscores), never a value"
            )
    return tuple(sorted(asked.items(), key=lambda item: item[0].lower()))


def header_secret(text: str) -> tuple[str, str]:
    """Header and secret in `SECRET` (then the header is Authorization) or `HEADER=SECRET`. Raises `ValueError`."""
    name, equals, secret = text.partition("=")
    found = (name, secret) if equals else (AUTHORIZATION, text)
    headers(dict([found]))
    return found


def value(header: str, secret: bytes) -> str:
    """What is sent in `header` when `secret` is the value: without white space around it, and with `Bearer ` in front
    in Authorization when there is no scheme in it (RFC 9110, 11.4: credentials are a scheme, a space and more).

    Raises `ValueError`, which does not repeat it, for what can't be a header's value (RFC 9110, 5.5).
    """
    try:
        said = fields.value(header, secret.decode("ascii"))
    except UnicodeDecodeError:
        raise ValueError("it holds characters that are not ASCII") from None
    if said is None:
        raise ValueError(
            f"it is empty, has line breaks or other control characters in it, or more than {fields.LONGEST} characters"
        )
    return said


def _authority(text: str, usual: int) -> str:
    """Host and port, the port only where it is not the scheme's own."""
    bracket = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(.*))?", text)
    if bracket is None and text.startswith("["):
        raise _wrong("what stands in brackets is no IPv6 address")
    host, digits = (bracket[1], bracket[2]) if bracket else _split(text)
    if digits is not None and (_DIGITS.fullmatch(digits) is None or int(digits) > 65535):
        raise _wrong("a port is a number from 1 to 65535")
    port = usual if digits is None else int(digits)
    return _host(host, bracketed=bracket is not None) + ("" if port == usual else f":{port}")


def _split(text: str) -> tuple[str, str | None]:
    host, colon, digits = text.partition(":")
    return host, digits if colon else None


def _host(text: str, *, bracketed: bool) -> str:
    if bracketed:
        try:
            return f"[{ipaddress.IPv6Address(text)}]"
        except ValueError:
            raise _wrong("what stands in brackets is no IPv6 address") from None
    name = text.lower().removesuffix(".")
    if not name or not rules.canonical(name):
        raise _wrong("it names no host: letters, digits and hyphens between dots, or an address")
    # WHATWG URL, "ends in a number": what some resolvers take for an address although others see a name in it.
    if _NUMERIC.fullmatch(name.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise _wrong("its host looks like an address, but is not written as one (four decimal numbers)") from None
    return name


def _wrong(why: str) -> errors.InvalidParams:
    return errors.InvalidParams(
        f"The address of a remote server is written https://HOST/PATH, and this is wrong: {why}."
    )
