"""Which addresses the platform dials for a tenant: public ones, and what the operator has opened. No name is looked at.

IPv4 has a list of what is refused (IANA "IPv4 Special-Purpose Address Registry"). IPv6 has a list of what is taken:
global unicast (2000::/3, RFC 4291, 2.4) without its special parts, so that every form that carries an IPv4 address
inside is refused before anybody has to know it; only NAT64's well-known prefix is read, because on a network with
IPv6 only every public IPv4 host looks like that (RFC 6052).
"""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from smcp.kernel import errors

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # AWS, Azure, Google, Oracle, DigitalOcean and more; also ECS and EKS credentials
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure's wire server, in a public range
        "192.0.0.192/32",  # Oracle
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google
        "fd00:42::42/128",  # Scaleway
        "fd00:c1::a9fe:a9fe/128",  # Oracle
        "fe80::a9fe:a9fe/128",  # OpenStack
    )
)
"""Where clouds hand out credentials. Only an entry for exactly that one address opens it."""

_NEVER: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")
)
_SPECIAL_4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "240.0.0.0/4"),
    )
)
_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL_6: Final = tuple(
    ipaddress.IPv6Network(text)
    # protocol assignments (Teredo, ORCHID), documentation, 6to4, documentation
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_TAIL_4: Final = tuple(
    ipaddress.IPv6Network(text)
    # compatible, mapped (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052), local NAT64 (RFC 8215) as most use it
    for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/96")
)


class Guard:
    """The verdict on addresses, under the operator's `egress.allowed_networks`."""

    def __init__(self, allowed_networks: Iterable[str]) -> None:
        """Raises `errors.BadSettings` for what is no network."""
        self._open: list[Network] = []
        for text in allowed_networks:
            try:
                self._open.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise errors.BadSettings(f"egress.allowed_networks: {error}.") from error

    def refusal(self, text: str, *, trusted: bool = False) -> str:
        """Why `text` must not be dialled, in a few words for the server's log; empty when it may.

        `trusted`: the operator named the host, so it may be on a private network or this machine.
        """
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return "not an address"
        forms = (address, *carried(address))
        # A network that was opened opens no form of what is never right, and metadata only by its exact address.
        if any(_within(one, _NEVER) for one in forms):
            return "not a host's address"
        if any(_within(one, METADATA) for one in forms) and not self._exactly(address):
            return "cloud metadata"
        if trusted or _within(address, self._open):
            return ""
        if not public(address):
            return "not a public address"
        return "this machine" if is_own(address) else ""

    def opened(self, text: str) -> bool:
        """Has the operator opened the network of `text`, an address?"""
        return _within(ipaddress.ip_address(text), self._open)

    def _exactly(self, address: Address) -> bool:
        return any(one.num_addresses == 1 and address in one for one in self._open)


def public(address: Address) -> bool:
    """Is it an address of the public internet?"""
    if isinstance(address, ipaddress.IPv4Address):
        return not _within(address, (*_SPECIAL_4, *_NEVER))
    if address in _NAT64:
        return public(carried(address)[0])
    if address.scope_id is not None or address not in _GLOBAL_6 or _within(address, _SPECIAL_6):
        return False
    return not _isatap(address)


def carried(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address carries inside, in any of the known forms."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[ipaddress.IPv4Address] = []
    # ::1 is itself, not 0.0.0.1 in disguise.
    if (_within(address, _TAIL_4) and int(address) > 0xFFFF) or _isatap(address):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return tuple(found)


def is_own(address: Address) -> bool:
    """Is it an address of this machine? Its own services would take a caller from there for a local one.

    For a local destination the kernel takes the destination as the source; connecting a UDP socket sends nothing.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(ipaddress.ip_address(probe.getsockname()[0]) == address)
    except OSError:
        return False


def _isatap(address: ipaddress.IPv6Address) -> bool:
    """RFC 5214, 6.1: the interface identifier says 5EFE and then an IPv4 address."""
    return (int(address) >> 32) & 0xFDFFFFFF == 0x00005EFE


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
