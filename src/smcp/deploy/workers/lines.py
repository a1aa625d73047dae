"""Makes of esbuild's source map what the platform can look a place up in, inside a build's cell.

A source map (ECMA-426) is one long text of differences: to find a place means to read all before it. That is done here
once, where a stranger's project may take as long as a build may, and not in the process that faces the network. What is
written is a table to seek in:

    b"SMCPMAP1", lines, records, sources                       three 32-bit numbers, little endian as all here
    (lines + 1) x first record of the line
    records x (column, source, line of the source)             columns from 0, lines from 1; source 0xFFFFFFFF: none
    (sources + 1) x first byte of the source's name
    the names, UTF-8

Records that lead to the same line as the one before them are left out: a stack trace is told by lines. A map that is
too large, or no map, makes an empty table: a Worker without it runs all the same.

Usage: python -I lines.py MAP TARGET SHIFT BASE…: SHIFT lines are put in front of the code afterwards, each BASE is cut
off sources' names. Standard library only: it also runs where nothing else is.
"""

import json
import posixpath
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final

MAGIC: Final = b"SMCPMAP1"
NOWHERE: Final = 0xFFFFFFFF
_MOST: Final = 33_554_432
_DIGITS: Final = {
    letter: value for value, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}


def table(mappings: str, sources: Sequence[str], shift: int) -> bytes:
    """The table of a map. Raises `ValueError` or `KeyError` for what is none."""
    firsts, records = array("I", [0] * shift), array("I")
    source = row = 0
    # A bundle has a hundred thousand segments and a few thousand different ones.
    known: dict[str, list[int]] = {}
    for line in mappings.split(";"):
        firsts.append(len(records) // 3)
        column, last = 0, (-1, -1)
        for segment in line.split(","):
            if not segment:
                continue
            fields = known.get(segment)
            if fields is None:
                fields = known[segment] = _fields(segment)
            column += fields[0]
            here = (NOWHERE, 0)
            if len(fields) > 1:
                source += fields[1]
                row += fields[2]
                here = (source, row + 1)
                if not 0 <= source < len(sources):
                    raise ValueError("a source that is none")
            if here != last:
                records.extend((column, *here))
                last = here
    firsts.append(len(records) // 3)
    names = [one.encode("utf-8", "replace") for one in sources]
    places = array("I", [0])
    for one in names:
        places.append(places[-1] + len(one))
    for numbers in (firsts, records, places):
        if sys.byteorder == "big":
            numbers.byteswap()
    head = struct.pack("<3I", len(firsts) - 1, len(records) // 3, len(names))
    return b"".join((MAGIC, head, firsts.tobytes(), records.tobytes(), places.tobytes(), *names))


def _fields(segment: str) -> list[int]:
    """Numbers in base 64, the lowest five bits first, the sign in the lowest one (ECMA-426, "VLQ")."""
    made: list[int] = []
    value = shift = 0
    for letter in segment:
        digit = _DIGITS[letter]
        value |= (digit & 31) << shift
        if digit & 32:
            shift += 5
            if shift > 60:
                raise ValueError("an endless number")
        else:
            made.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    if shift or len(made) not in (1, 4, 5):
        raise ValueError("a segment that is none")
    return made


def _named(source: str, directory: str, bases: Sequence[str]) -> str:
    """A source as its author knows it; esbuild tells it from the map's directory on."""
    path = posixpath.normpath(posixpath.join(directory, source))
    for base in bases:
        path = path.removeprefix(base)
    return path


def main(source: str, target: str, shift: str, *bases: str) -> int:
    """Write the table; the exit code."""
    with open(source, "rb") as file:
        data = file.read(_MOST + 1)
    made = table("", (), 0)
    if len(data) <= _MOST:
        try:
            found: dict[str, Any] = json.loads(data)
            names = [_named(one, posixpath.dirname(source), bases) for one in found["sources"]]
            made = table(found["mappings"], names, int(shift))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            sys.stderr.write(f"no lines: {type(error).__name__}\n")
    with open(target, "xb") as file:
        file.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
