"""The same head once more: requests of a kept connection that need no second parsing.

Clients that keep a connection send the same request line and header fields with every call, byte for byte, but for the
digits of Content-Length. What the parser said of such a head once, it would say again: so a chunk that is the same
head, digits, and exactly as many bytes of body is taken as a request without it.

Nothing is read here that the parser has not read: a head is remembered only as it stood at the beginning of a chunk,
after the parser had accepted it as a POST with one Content-Length and without Transfer-Encoding, Expect or Upgrade, on
a connection that is kept. Anything else (a byte more or less, a body in two chunks, two requests in one) is the
parser's, which stands at the same place, before a message, whether or not it has seen the one before.
"""

from typing import Final, NamedTuple

from smcp.protocol import headers

_LENGTH: Final = b"\r\ncontent-length:"
_END: Final = b"\r\n\r\n"
_NEVER: Final = (b"\r\ntransfer-encoding", b"\r\nexpect", b"\r\nupgrade")
_DIGITS: Final = 9


class Head(NamedTuple):
    """A head that may come again."""

    before: bytes
    """Everything up to the digits of Content-Length."""
    after: bytes
    """Everything behind them, the empty line included."""
    target: bytes
    fields: headers.Fields


def learn(chunk: bytes, length: bytes, target: bytes, fields: headers.Fields) -> Head | None:
    """The head at the beginning of `chunk`, which the parser has just accepted; None when it is not of the usual kind.

    `length` is the Content-Length that the parser found.
    """
    end = chunk.find(_END)
    if not chunk.startswith(b"POST ") or end < 0 or not length.isdigit():
        return None
    head = chunk[: end + len(_END)]
    lowered = head.lower()
    if lowered.count(_LENGTH) != 1 or any(name in lowered for name in _NEVER):
        return None
    start = lowered.index(_LENGTH) + len(_LENGTH)
    if head[start : start + 1] == b" ":
        start += 1
    after = head[start + len(length) :]
    if head[start : start + len(length)] != length or not after.startswith(b"\r\n"):
        return None
    return Head(head[:start], after, target, fields)


def body(head: Head, chunk: bytes) -> tuple[bytes, bytes] | None:
    """Content-Length as sent, and the body, when `chunk` is one whole request with this head; else None."""
    start = len(head.before)
    end = chunk.find(b"\r\n", start, start + _DIGITS + 2)
    length = chunk[start:end]
    # `isdigit` of bytes knows the ten digits of ASCII and nothing else; an `end` of -1 leaves no digits only.
    if end < 0 or not length.isdigit() or not chunk.startswith(head.after, end):
        return None
    start = end + len(head.after)
    return (length, chunk[start:]) if len(chunk) - start == int(length) else None
