"""Where a place of a bundled Worker's code is in its author's files: for the server's log.

The table was made when the Worker was built (`deploy.workers.lines` says how it looks), and lies in the artefact. It is
looked up where it lies: nothing of it is kept in memory, and its size costs nothing. One that is wrong finds nothing.
"""

import bisect
import contextlib
import mmap
import os
import re
import struct
from typing import Final

FILE: Final = "index.js.lines"
"""Beside the module whose places these are."""
_MAGIC: Final = b"SMCPMAP1"
_HEAD: Final = struct.Struct("<8s3I")
_NOWHERE: Final = 0xFFFFFFFF
_MOST: Final = 50
"""Places of one text that are looked up: more are no stack that anybody reads."""
_PLACE: Final = re.compile(r"(?<![\w./-])index\.js:([0-9]{1,9}):([0-9]{1,9})")
_LONGEST: Final = 4096


class Places:
    """The table in a Worker's directory."""

    def __init__(self, directory: str) -> None:
        """`directory` is the artefact's with the modules. Nothing is read yet."""
        self._path = os.path.join(directory, FILE)

    def told(self, text: str) -> str:
        """`text` with the author's files and lines where it names places of the bundle. Reads a file, quickly."""
        if "index.js:" not in text:
            return text
        with (
            contextlib.suppress(OSError, ValueError, struct.error),
            open(self._path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _PLACE.sub(lambda one: _find(data, int(one[1]), int(one[2])) or one[0], text, _MOST)
        return text


def _find(data: mmap.mmap, line: int, column: int) -> str:
    """`src/index.ts:12` for a place of the bundle (from 1, as a stack says it); empty where none is known."""
    magic, lines, records, sources = _HEAD.unpack_from(data)
    if magic != _MAGIC or not 1 <= line <= lines:
        return ""
    rows = _HEAD.size + 4 * (lines + 1)
    names = rows + 12 * records
    first, end = struct.unpack_from("<2I", data, _HEAD.size + 4 * (line - 1))
    if not first <= end <= records:
        return ""
    # The last record that begins at this column, or before it.
    found = bisect.bisect_right(
        range(first, end), column - 1, key=lambda one: struct.unpack_from("<I", data, rows + 12 * one)[0]
    )
    if found == 0:
        return ""
    _, source, row = struct.unpack_from("<3I", data, rows + 12 * (first + found - 1))
    if source == _NOWHERE or source >= sources:
        return ""
    begin, until = struct.unpack_from("<2I", data, names + 4 * source)
    if not 0 <= until - begin <= _LONGEST:
        return ""
    start = names + 4 * (sources + 1)
    name = data[start + begin : start + until].decode("utf-8", "replace")
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"{shown}:{row}"
