"""The entries of an allow-list: `api.github.com`, `*.example.com:443`, `10.1.2.3:5432`. Pure functions.

One spelling of a name has one meaning here: ASCII only (a non-ASCII name is written in its `xn--` form, RFC 5891),
lower case, no dot at the end. What some resolvers would read as an address although it looks like a name (`127.1`,
`0x7f.1`, `2130706433`) is no name: WHATWG URL, "ends in a number".
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from smcp.kernel import errors

DEFAULT_PORT: Final = 443
WATCHED: Final = (80, 443)
"""Ports that every cell with egress listens on, so that a refused attempt there is seen and told."""
MOST_PORTS: Final = 16
MOST_RULES: Final = 64
LONGEST: Final = 253
"""Characters of a name (RFC 1035, 2.3.4)."""

# Underscores are no host name's by RFC 952, but the name system takes them and services use them.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_NEVER: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "192.52.193.0/24", "198.18.0.0/15", "224.0.0.0/3")
)


class Rule(msgspec.Struct, frozen=True):
    """One entry: a name, every name below one, or an IPv4 address; and a TCP port."""

    host: str
    port: int = DEFAULT_PORT
    wildcard: bool = False
    literal: bool = False

    def __str__(self) -> str:
        return f"{'*.' if self.wildcard else ''}{self.host}:{self.port}"

    def names(self, name: str) -> bool:
        """Is this canonical `name` meant, whatever the port? A wildcard means what is below, never its own apex."""
        if self.literal:
            return False
        return name.endswith(f".{self.host}") if self.wildcard else name == self.host

    def means(self, host: str, port: int) -> bool:
        """Is it about this canonical name or address, and this port?"""
        return self.port == port and (self.host == host if self.literal else self.names(host))


def canonical(name: str) -> bool:
    """Is `name` one that could be a host's, in the one spelling that rules use?"""
    return len(name) <= LONGEST and all(_LABEL.fullmatch(label) for label in name.split("."))


def parse(text: str, *, trusted: bool = False) -> Rule:
    """The rule in `text`. `trusted`: the operator wrote it, and loopback means the host's.

    Raises `errors.InvalidParams`, which quotes the entry, for what is no rule.
    """
    host, port = _split(text)
    if host.startswith("*"):
        below = host.removeprefix("*.")
        if "*" in below or "." not in below:
            raise _wrong(text, "a wildcard stands for whole labels in front of at least two, as in *.example.com")
        return Rule(_name(text, below), port, wildcard=True)
    if trusted and host == "localhost":
        host = "127.0.0.1"
    if host.replace(".", "").isdigit():
        return Rule(_address(text, host, trusted=trusted), port, literal=True)
    return Rule(_name(text, host), port)


def parsed(texts: Iterable[str], *, trusted: bool = False) -> tuple[Rule, ...]:
    """All of `texts`, once each. Raises `errors.InvalidParams` as `parse` and `ports` do."""
    found = tuple(dict.fromkeys(parse(text, trusted=trusted) for text in texts))
    if len(found) > MOST_RULES:
        raise errors.InvalidParams(f"At most {MOST_RULES} entries in egress; there are {len(found)}.")
    ports(found)
    return found


def ports(rules: Iterable[Rule]) -> tuple[int, ...]:
    """The ports that the cell listens on: those of `rules` and `WATCHED`; none at all without a rule.

    Raises `errors.InvalidParams` for more than `MOST_PORTS` different ones in `rules`.
    """
    wanted = {rule.port for rule in rules}
    if len(wanted) > MOST_PORTS:
        raise errors.InvalidParams(f"At most {MOST_PORTS} different ports in egress; there are {len(wanted)}.")
    return tuple(sorted(wanted.union(WATCHED))) if wanted else ()


def _split(text: str) -> tuple[str, int]:
    """Host in lower case, and port."""
    if not text.isascii():
        raise _wrong(text, "write a name that is not ASCII in its xn-- form")
    if any(one in text for one in "/@?#"):
        raise _wrong(text, "write only a host, without scheme, path or user")
    if text.startswith("[") or text.count(":") > 1:
        raise _wrong(text, "a cell has no IPv6; name the host instead (the platform may reach it by IPv6)")
    host, colon, digits = text.lower().partition(":")
    if not colon:
        return host, DEFAULT_PORT
    if not _PORT.fullmatch(digits) or int(digits) > 65535:
        raise _wrong(text, "a port is a number from 1 to 65535")
    return host, int(digits)


def _name(entry: str, host: str) -> str:
    name = host.removesuffix(".")
    last = name.rpartition(".")[2]
    if not canonical(name):
        raise _wrong(entry, "write a host name, name:port or *.name")
    if _NUMERIC.fullmatch(last):
        raise _wrong(entry, "it looks like an address, but is not written as one (four decimal numbers)")
    if last == "localhost":
        raise _wrong(entry, "localhost is the cell itself")
    return name


def _address(entry: str, host: str, *, trusted: bool) -> str:
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        raise _wrong(entry, "it looks like an address, but is not written as one (four decimal numbers)") from None
    if any(address in network for network in _NEVER) and not (trusted and address.is_loopback):
        raise _wrong(entry, "this address can't be reached from a cell (loopback is the cell itself)")
    return str(address)


def _wrong(entry: str, why: str) -> errors.InvalidParams:
    return errors.InvalidParams(f"The egress entry {entry[:300]!a} is wrong: {why}.")
