"""The same head once more: requests of a kept connection that need no second parsing.

Clients that keep a connection send the same request line and header fields with every call, byte for byte, but for the
digits of Content-Length; a proxy in front of many clients sends those of all in turns. What the parser said of such a
head once, it would say again: so a chunk that is a known head, digits, and exactly as many bytes of body is taken as a
request without it.

Nothing is read here that the parser has not read: a head is remembered only as it stood at the beginning of a chunk,
after the parser had accepted it as a POST with one Content-Length and without Transfer-Encoding, Expect or Upgrade, on
a connection that is kept. Anything else (a byte more or less, a body in two chunks, two requests in one) is the
parser's, which stands at the same place, before a message, whether or not it has seen the one before.
"""

from typing import Final

from smcp.protocol import headers

_LENGTH: Final = b"\r\ncontent-length:"
_SPELLED: Final = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
_END: Final = b"\r\n\r\n"
_NEVER: Final = (b"\r\ntransfer-encoding", b"\r\nexpect", b"\r\nupgrade")
_LONGEST: Final = 4096
"""Bytes of a head that is worth remembering."""
_DIGITS: Final = 9
_EACH: Final = 64
"""Heads that one connection keeps, besides the last one."""


class Head:
    """Target, method and fields of a request, and what its bytes were but for the digits of Content-Length."""

    __slots__ = ("fields", "key", "method", "target")

    def __init__(self, key: bytes, method: str, target: bytes, fields: headers.Fields) -> None:
        """`key` from `learn`."""
        self.key = key
        self.method = method
        self.target = target
        self.fields = fields


class Room:
    """How many heads all connections of a platform may keep together, besides the last one of each."""

    def __init__(self, left: int = 4096) -> None:
        self.left = left


class Known:
    """The heads that one connection keeps: the last one, and those that were good before it."""

    __slots__ = ("_earlier", "_room", "last")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._earlier: dict[bytes, Head] = {}
        self.last: Head | None = None

    def find(self, chunk: bytes) -> tuple[Head, bytes, bytes] | None:
        """The head, Content-Length as sent and the body, when `chunk` is one whole request with a head that is known.

        No head has two places for the length: what is equal to a key is cut where that was cut.
        """
        start = chunk.find(_SPELLED[0], 0, _LONGEST)
        if start < 0:
            start = chunk.find(_SPELLED[1], 0, _LONGEST)
            if start < 0:
                return None
        start += len(_SPELLED[0])
        stop = chunk.find(b"\r\n", start, start + _DIGITS + 2)
        end = chunk.find(_END, stop, _LONGEST) + len(_END) if stop > 0 else 0
        if end < stop or not stop:
            return None
        key, length = chunk[:start] + chunk[stop:end], chunk[start:stop]
        last = self.last
        head = last if last is not None and last.key == key else self._earlier.get(key)
        # `isdigit` of bytes knows the ten digits of ASCII and nothing else, and is false of nothing at all.
        if head is None or not length.isdigit() or len(chunk) - end != int(length):
            return None
        return head, length, chunk[end:]

    def remember(self, head: Head, *, good: bool) -> None:
        """`head` is the last one now; the one before it is kept too, if it was `good` and there is room."""
        before, self.last = self.last, head
        if not good or before is None or not before.key or before.key in self._earlier:
            return
        if len(self._earlier) >= _EACH:
            del self._earlier[next(iter(self._earlier))]
        elif self._room.left > 0:
            self._room.left -= 1
        else:
            return
        self._earlier[before.key] = before

    def clear(self) -> None:
        """The connection has ended."""
        self._room.left += len(self._earlier)
        self._earlier.clear()
        self.last = None


def learn(chunk: bytes, length: bytes) -> bytes:
    """What to know the head at the beginning of `chunk` by, which the parser has just accepted for one that is kept.

    Nothing, when it is not of the usual kind. `length` is the Content-Length that the parser found.
    """
    end = chunk.find(_END, 0, _LONGEST)
    if end < 0 or not chunk.startswith(b"POST ") or not length.isdigit() or len(length) > _DIGITS:
        return b""
    head = chunk[: end + len(_END)]
    lowered = head.lower()
    if lowered.count(_LENGTH) != 1 or any(name in lowered for name in _NEVER):
        return b""
    start = lowered.index(_LENGTH)
    value = start + len(_SPELLED[0])
    if head[start:value] not in _SPELLED or not head.startswith(length + b"\r\n", value):
        return b""
    return head[:value] + head[value + len(length) :]
