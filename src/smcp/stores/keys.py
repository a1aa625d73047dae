"""Keys as byte strings whose order is the order of the keys: shared by every back end that stores bytes.

Each segment is its UTF-8 text with NUL written as 00 FF, and ends with 00. FF occurs in no UTF-8 text, so the end
of a segment sorts before any longer segment, and a key before all that extend it.
"""

from collections.abc import Sequence


def encode(key: Sequence[str]) -> bytes:
    """The byte string of `key`; `ValueError` when it is empty, has an empty segment or a lone surrogate."""
    if not key or "" in key:
        raise ValueError("a key is a non-empty tuple of non-empty strings")
    return b"".join([segment.encode().replace(b"\0", b"\0\xff") + b"\0" for segment in key])


def decode(data: bytes) -> tuple[str, ...]:
    """The key whose byte string is `data`."""
    segments: list[str] = []
    start = at = 0
    while at < len(data):
        at = data.index(b"\0", at)
        if data[at + 1 : at + 2] == b"\xff":
            at += 2
            continue
        segments.append(data[start:at].replace(b"\0\xff", b"\0").decode())
        at += 1
        start = at
    return tuple(segments)


def span(prefix: Sequence[str], starts_with: str = "") -> tuple[bytes, bytes]:
    """First byte string and end (exclusive) of all keys below `prefix`, itself included.

    `starts_with` narrows the segment after the prefix, which then must be there.
    """
    low = encode(prefix) if prefix else b""
    low += starts_with.encode().replace(b"\0", b"\0\xff")
    return low, low + b"\xff"


def below(key: Sequence[str], prefix: Sequence[str]) -> bool:
    """Whether `key` begins with the whole segments of `prefix`."""
    return tuple(key[: len(prefix)]) == tuple(prefix)
