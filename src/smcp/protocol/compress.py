"""Content coding of answers: gzip, where the client asks for it (RFC 9110, 8.4.1.3 and 12.5.3).

Which answers may be compressed, and why not more (BREACH), stands in docs/decisions/0025-tls-proxies-compression.md.
"""

import asyncio
import functools
import re
import zlib
from typing import Final

LEAST: Final = 1024
"""Bytes below which compressing costs more than it saves."""

LARGE: Final = 65_536
"""Bytes above which compressing would hold the event loop for a good part of a millisecond."""

VARY: Final = (b"vary", b"accept-encoding")
"""Goes with every answer that could have had another coding (RFC 9110, 12.5.5)."""

CODED: Final = (b"content-encoding", b"gzip")

_LEVEL: Final = 1
_SMALL: Final = 16_384
_GZIP: Final = 16
"""Added to the bits of a window, it asks zlib for gzip's format (RFC 1952)."""
_LONGEST: Final = 512
"""Characters of a field that is looked at; a longer one asks for nothing."""
_ELEMENT = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")


def wanted(accepts: str | None) -> bool:
    """Does `accepts`, the value of Accept-Encoding, ask for gzip rather than for the answer as it is?

    Never raises: what is not well-formed asks for nothing.
    """
    return accepts is not None and len(accepts) <= _LONGEST and _wanted(accepts)


@functools.lru_cache(maxsize=128)
def _wanted(accepts: str) -> bool:
    weights: dict[str, float] = {}
    for element in accepts.split(","):
        text = element.strip(" \t")
        match = _ELEMENT.fullmatch(text)
        if match is not None:
            coding = match[1].lower().removeprefix("x-")  # RFC 9110, 8.4.1.3: x-gzip is gzip
            weight = 1.0 if match[2] is None else float(match[2])
            weights[coding] = min(weight, weights.get(coding, 1.0))
        elif text:  # RFC 9110, 5.6.1.2: empty elements mean nothing
            return False
    gzip = weights.get("gzip", weights.get("*", 0.0))
    # Not named, identity may be sent, but is not what was asked for.
    return gzip > 0.0 and gzip >= weights.get("identity", 0.0)


def gzip(body: bytes) -> bytes:
    """`body` in gzip's format."""
    # For a small body, zlib's usual 256 KiB of tables would cost eight times what compressing does.
    window, memory = (12, 6) if len(body) <= _SMALL else (15, 8)
    coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP + window, memory)
    return coder.compress(body) + coder.flush()


async def gzip_beside(body: bytes) -> bytes:
    """As `gzip`; a large body is compressed in a thread, so that nobody else waits for it."""
    return await asyncio.to_thread(gzip, body) if len(body) > LARGE else gzip(body)
