"""Where requests may come from: networks in CIDR notation (RFC 4632, RFC 4291 2.3)."""

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

from smcp.kernel import errors

MOST: Final = 32

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse(texts: Iterable[str]) -> tuple[str, ...]:
    """Networks in their one spelling, sorted. Raises `errors.InvalidParams`.

    A single address is a network of one. Bits behind the prefix are refused: who wrote them meant another network.
    """
    found: set[str] = set()
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            message = (
                f"{text[:64]!r} is no network like 203.0.113.0/24 or 2001:db8::/32 (or has bits behind its prefix)."
            )
            raise errors.InvalidParams(message) from None
        if network.version == 6 and network.network_address.ipv4_mapped is not None:
            raise errors.InvalidParams(f"Write the IPv4 network instead of {text[:64]!r}.")
        found.add(str(network))
    if len(found) > MOST:
        raise errors.InvalidParams(f"A key names up to {MOST} networks.")
    return tuple(sorted(found))


@functools.lru_cache(maxsize=4096)
def _networks(texts: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def inside(narrow: tuple[str, ...], wide: tuple[str, ...]) -> bool:
    """Do requests that may come from `narrow` all come from `wide`? Empty means everywhere."""
    if not wide or not narrow:
        return not wide
    return all(any(_holds(outer, inner) for outer in _networks(wide)) for inner in _networks(narrow))


def _holds(outer: _Network, inner: _Network) -> bool:
    if isinstance(outer, ipaddress.IPv4Network):
        return isinstance(inner, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, ipaddress.IPv6Network) and inner.subnet_of(outer)


def within(networks: tuple[str, ...], address: str) -> bool:
    """Does a request from `address` come from one of them? What is no address comes from nowhere.

    An IPv4 address that a socket for both shows as `::ffff:…` is that IPv4 address (RFC 4291, 2.5.5.2).
    """
    try:
        seen = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if seen.version == 6 and seen.ipv4_mapped is not None:
        seen = seen.ipv4_mapped
    return any(seen in network for network in _networks(networks))
