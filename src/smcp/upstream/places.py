"""Where a remote server is: an address in the one spelling that is compared, dialled and shown.

Refused is whatever two readers could understand differently: a user before the host, a host that is no plain ASCII
name or address, a number that only some take for an address (`127.1`, `0x7f.1`, `2130706433`; WHATWG URL, "ends in a
number"), white space and control characters anywhere.
"""

import ipaddress
import re
import urllib.parse
from typing import Final

import msgspec

from smcp.kernel import errors
from smcp.sandbox.egress import rules

LONGEST: Final = 2048
"""Characters of an address."""

_PORTS: Final = {"https": 443, "http": 80}
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_VISIBLE: Final = re.compile(r"[!-~]+")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


class Place(msgspec.Struct, frozen=True):
    """An `http` or `https` address."""

    scheme: str
    host: str
    """Lower-case name, or an address; IPv6 without brackets."""
    port: int
    target: str
    """Path and query, as they are sent."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def authority(self) -> str:
        """What the Host field says (RFC 9110, 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454, 4)."""
        return self.scheme, self.host, self.port


def parse(url: str, longest: int = LONGEST) -> Place:
    """The place that `url` names, without its fragment. Raises `errors.InvalidParams`, which says what is wrong."""
    if len(url) > longest:
        raise errors.InvalidParams(f"The address has more than {longest} characters.")
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise errors.InvalidParams("The address has characters that no URL has: percent-encode them.")
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise errors.InvalidParams("The address is no URL.") from None
    if parts.scheme not in _PORTS or not parts.netloc:
        raise errors.InvalidParams("The address does not begin with https:// and a host.")
    if "@" in parts.netloc:
        raise errors.InvalidParams("A user or password does not belong into the address: name a secret in a header.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, _host(host), _port(parts), target)


def follow(place: Place, location: str) -> Place:
    """Where a reference found at `place` leads (RFC 3986, 5). Raises `errors.InvalidParams`."""
    try:
        return parse(urllib.parse.urljoin(str(place), location.strip(" \t")))
    except ValueError:
        raise errors.InvalidParams("The reference is no URL.") from None


def is_address(host: str) -> bool:
    """Is a place's host an address and no name?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _port(parts: urllib.parse.SplitResult) -> int:
    digits = parts.netloc.rpartition("]")[2].rpartition(":")
    if not digits[1]:
        return _PORTS[parts.scheme]
    if not _PORT.fullmatch(digits[2]) or int(digits[2]) > 65535:
        raise errors.InvalidParams("A port is a number from 1 to 65535.")
    return int(digits[2])


def _host(host: str) -> str:
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise errors.InvalidParams("The host is no IPv6 address.") from None
        if address.scope_id is not None:
            raise errors.InvalidParams("An address with a zone is this machine's own business.")
        return str(address)
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    name = host.lower().removesuffix(".")
    if not rules.canonical(name):
        raise errors.InvalidParams("The host is no name: write one that is not ASCII in its xn-- form.")
    if _NUMERIC.fullmatch(name.rpartition(".")[2]):
        raise errors.InvalidParams("The host looks like an address, but is not written as one (four decimal numbers).")
    return name
