"""Who is really asking, when a reverse proxy stands in front: forwarding headers, believed from named networks only.

Each entry of a forwarding header was written by the hop that stands right of it. So the list is read from the right,
for as long as the hop that wrote is trusted; the first address that is not ours is the client. What stands left of that
is the client's own words, and is never looked at.

A proxy writes `X-Forwarded-For` or `Forwarded` (RFC 7239) and usually passes the other one through as it came. When
both are there and say different things, one of them may be the client's invention, and neither is believed.
"""

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from smcp.kernel import errors

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_HOPS: Final = 16
_LONGEST_NODE: Final = 64
_LEAST_PREFIX: Final = {4: 8, 6: 7}
"""Bits of a network that may be trusted: 10.0.0.0/8 and fc00::/7 are the largest that belong to one owner."""
_PLAIN: Final = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
_FORWARDING: Final = frozenset((*_PLAIN, b"forwarded"))
_CHARS: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = re.compile(rf'[ \t]*({_CHARS})=(?:({_CHARS})|"([^"\\]*)")[ \t]*', re.ASCII)
_NODE = re.compile(r"([0-9.]{7,15})(?::[0-9]{1,5})?|\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([0-9A-Fa-f:.]{2,45})")


class Seen(NamedTuple):
    """What a request looked like where it came into our hands."""

    address: str
    """The client's."""
    scheme: str
    host: str = ""
    """The name that the client used, as a trusted proxy tells it; empty when none does. To be checked beside Host,
    never instead of it: a page behind DNS rebinding can set this header too."""


class Proxies:
    """The networks whose word on where a request came from is taken."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises `errors.BadSettings` for what is no network, and for one that is as good as everybody."""
        self._networks = [_network(text) for text in networks]
        self._trusts = functools.lru_cache(maxsize=1024)(self._look)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def seen(self, peer: str, scheme: str, fields: Sequence[tuple[bytes, bytes]]) -> Seen:
        """The request whose connection comes from `peer` over `scheme`, with header `fields` (lower-case names).

        Never raises: what can't be read is not believed.
        """
        if not self._networks or not self._trusts(peer):
            return Seen(peer, scheme)
        lines = [line for line in fields if line[0] in _FORWARDING]
        if not lines:
            return Seen(peer, scheme)
        told = self._plain(peer, scheme, lines), self._standard(peer, scheme, lines)
        said = {one for one in told if one is not None}
        return said.pop() if len(said) == 1 else Seen(peer, scheme)

    def _plain(self, peer: str, scheme: str, fields: Sequence[tuple[bytes, bytes]]) -> Seen | None:
        hops, schemes, names = (_values(fields, name) for name in _PLAIN)
        if not (hops or schemes or names):
            return None
        client, _ = self._walk(peer, hops)
        # Of these two, the hop next to us has written the last, or the only one.
        return Seen(client, _scheme(schemes[-1] if schemes else "", scheme), names[-1] if names else "")

    def _standard(self, peer: str, scheme: str, fields: Sequence[tuple[bytes, bytes]]) -> Seen | None:
        hops = [_pairs(element) for element in _values(fields, b"forwarded")]
        if not hops:
            return None
        client, believed = self._walk(peer, [hop.get("for", "") for hop in hops])
        # The outermost of our own hops is the one that the client spoke to.
        outermost = hops[-believed] if believed else {}
        return Seen(client, _scheme(outermost.get("proto", ""), scheme), outermost.get("host", ""))

    def _walk(self, peer: str, hops: Sequence[str]) -> tuple[str, int]:
        """The client's address, and how many entries (from the right) were believed on the way."""
        client, believed = peer, 0
        for hop in reversed(hops[-_MOST_HOPS:]):
            address = _node(hop)
            if not address:
                break
            client, believed = address, believed + 1
            if not self._trusts(address):
                break
        return client, believed

    def _look(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise errors.BadSettings(f"gateway.trusted_proxies: '{text[:60]}' is no network: {error}.") from error
    if network.prefixlen < _LEAST_PREFIX[network.version]:
        raise errors.BadSettings(
            f"gateway.trusted_proxies: {network} is as good as everybody. Name the proxy's own address or network."
        )
    return network


def _values(fields: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The members of a list field, over all its lines (RFC 9110, 5.3), each without the space around it."""
    lines = [value.decode("latin-1") for key, value in fields if key == name]
    return [member.strip(" \t") for line in lines for member in line.split(",")]


def _pairs(element: str) -> dict[str, str]:
    """One forwarded-element (RFC 7239, 4), names in lower case; empty when it is malformed."""
    found: dict[str, str] = {}
    for part in element.split(";"):
        match = _PAIR.fullmatch(part)
        if match is None or match[1].lower() in found:
            return {}
        found[match[1].lower()] = match[2] if match[2] is not None else match[3]
    return found


def _node(text: str) -> str:
    """The address in `text` in its one spelling, without a port; empty for anything else (`unknown`, `_hidden`)."""
    return _parsed(text) if len(text) <= _LONGEST_NODE else ""


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> str:
    match = _NODE.fullmatch(text)
    address = _address(match[1] or match[2] or match[3]) if match else None
    return "" if address is None else str(address)


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _scheme(told: str, otherwise: str) -> str:
    told = told.lower()
    return told if told in ("http", "https") else otherwise
