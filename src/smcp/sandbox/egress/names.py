"""The name system of one cell: an answerer that knows the allow-list and nobody to ask.

A name that a rule allows gets an address of `NETWORKS`, none of which is routed anywhere, and which stands for that
name in this cell only; a connection to it tells which name was meant. Every other name does not exist. Nothing is
forwarded or resolved here, so that a question carries nothing out (no tunnel in names). Packets are a stranger's
bytes: `answer` is total, it never raises.
"""

import ipaddress
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

NETWORKS: Final = (ipaddress.IPv4Network("192.52.193.0/24"), ipaddress.IPv4Network("198.18.0.0/15"))
"""The first is taken for public by programs that refuse private addresses, as careful ones do: it is globally
reachable by IANA's registry, and only ever for multicast tunnels over UDP (RFC 7450, AMT discovery). The second
(RFC 2544: for benchmarks) is for the names behind its 254."""
MOST_NAMES: Final = 4096
LARGEST: Final = 1232
"""Bytes of a question that is looked at (DNS flag day 2020)."""

_SIZE: Final = sum(network.num_addresses - 2 for network in NETWORKS)
_TTL_S: Final = 60
_HEADER: Final = struct.Struct(">HHHHHH")
_A: Final = 1
_AAAA: Final = 28
_IN: Final = 1
_NO_ERROR: Final = 0
_FORMAT_ERROR: Final = 1
_NO_NAME: Final = 3
_NOT_IMPLEMENTED: Final = 4


class Names:
    """One cell's addresses and what they stand for. An address gets a second meaning only after 131,324 others."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._next = 0
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def address(self, name: str) -> str:
        """The address of `name`; the name that was not used for the longest time may lose its own."""
        known = self._addresses.pop(name, None)
        if known is None:
            known = self._fresh()
            self._names[known] = name
        self._addresses[name] = known
        return known

    def name(self, address: str) -> str | None:
        """What `address` stands for; None for nothing (any more)."""
        name = self._names.get(address)
        if name is not None:
            self._addresses[name] = self._addresses.pop(name)
        return name

    def __len__(self) -> int:
        return len(self._names)

    def _fresh(self) -> str:
        if len(self._addresses) >= self._most:
            # Insertion order is order of use, because what is found is put back at the end.
            del self._names[self._addresses.pop(next(iter(self._addresses)))]
        while True:
            found = _nth(self._next)
            self._next = (self._next + 1) % _SIZE
            if found not in self._names:
                return found


def _nth(number: int) -> str:
    for network in NETWORKS:
        if number < network.num_addresses - 2:
            return str(network[number + 1])
        number -= network.num_addresses - 2
    raise IndexError(number)


class Question(NamedTuple):
    """What a packet asks: a name in lower case (of any characters), type, and the bytes to repeat in the answer."""

    name: str
    kind: int
    raw: bytes


def answer(packet: bytes, find: Callable[[str, bool], str | None]) -> bytes | None:
    """The answer to `packet`; None when it deserves none (RFC 1035, 4.1).

    `find(name, wanted)` gives an allowed name's address or None; `wanted` is False when no address was asked for.
    """
    if len(packet) < _HEADER.size:
        return None
    number, flags, *_ = _HEADER.unpack_from(packet)
    if flags & 0x8000:
        # An answer: replying to one could go on for ever.
        return None
    if flags & 0x7800:
        return _reply(number, flags, _NOT_IMPLEMENTED, b"")
    asked = question(packet)
    if asked is None:
        return _reply(number, flags, _FORMAT_ERROR, b"")
    address = find(asked.name, asked.kind in (_A, _AAAA))
    if address is None:
        return _reply(number, flags, _NO_NAME, asked.raw)
    if asked.kind != _A:
        return _reply(number, flags, _NO_ERROR, asked.raw)
    # 0xC00C: the name is the one at byte 12, that of the question.
    record = struct.pack(">HHHIH", 0xC00C, _A, _IN, _TTL_S, 4) + ipaddress.IPv4Address(address).packed
    return _reply(number, flags, _NO_ERROR, asked.raw, record)


def question(packet: bytes) -> Question | None:
    """The one question in `packet`, or None when there isn't exactly one that is well formed."""
    if len(packet) > LARGEST or _HEADER.unpack_from(packet)[2] != 1:
        return None
    labels: list[bytes] = []
    place = _HEADER.size
    while True:
        if place >= len(packet):
            return None
        size = packet[place]
        place += 1
        if size == 0:
            break
        # Above 63 stands a compression pointer, which a question has no use for.
        if size > 63 or place + size > len(packet) or place + size - _HEADER.size > 254:
            return None
        labels.append(packet[place : place + size])
        place += size
    if place + 4 > len(packet) or any(b"." in label for label in labels):
        return None
    kind, group = struct.unpack_from(">HH", packet, place)
    if group != _IN:
        return None
    # latin-1: every byte becomes one character; what is not a name's equals no rule's name.
    name = b".".join(labels).decode("latin-1")
    folded = name.translate(_LOWER)
    return Question(folded, kind, packet[_HEADER.size : place + 4])


# RFC 4343: case is folded for ASCII only.
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _reply(number: int, flags: int, code: int, asked: bytes, record: bytes = b"") -> bytes:
    # QR, AA, RA; opcode and RD as they came
    head = _HEADER.pack(number, 0x8480 | (flags & 0x7900) | code, 1 if asked else 0, 1 if record else 0, 0, 0)
    return head + asked + record
