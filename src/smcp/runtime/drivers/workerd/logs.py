"""Which server a line of a process belongs to, when several share it.

workerd writes a JSON object a line (`structuredLogging`) and does not say whose it is. So:

| a line | whose |
|---|---|
| of the console | it begins with the mark of its isolate (`config`), which nobody else's code knows |
| an exception with its stack | the directory in the stack's places is the isolate's, named by the same mark |
| `service worker-N: …`, why a Worker does not start | it says so |
| workerd's own warnings, its last words | nobody's: everybody in the process is told |
| anything else | nobody's: where there is more than one, they are told that it came, and not what it was |

Console lines have no `source`, workerd's own have one; so neither can be taken for the other.

All of it may be the tenant's own words, and the thread that reads them serves every tenant: each pattern takes what it
has looked at, so that a line costs what its length is.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Final, cast

import msgspec

from smcp.sandbox.egress import verdicts

LONGEST: Final = 65_536
"""Bytes of one line that are kept; of a longer one the beginning."""
_TEXT: Final = 8192
_LINES: Final = 200
"""Lines of one message."""
_STACK: Final = "; stack = "
_PLACE: Final = re.compile(r"(?:file:///bundle/)?smcp-([0-9a-f]{16})/([^\s:]{1,200}+)(:\d{1,9}:\d{1,9})?")
"""Not a place where it has no line and column."""
_MARK: Final = re.compile(r"\x01([0-9a-f]{16})\x02 ?")
_SERVICE: Final = re.compile(r"service worker-(\d{1,6})[,:] ?")
"""Where workerd says why a Worker does not start, this begins the message: anywhere else it is the code's own word."""
BYTES_PER_S: Final = 2_097_152
"""Of one process that are looked at: on the thread that all tenants share. What is more is read and forgotten; who did
not read it would stop the process, as it waits for its lines to go, and the watchdog would end it."""
BYTES_AT_ONCE: Final = 8_388_608
_LINES_PER_S: Final = 1000
_LINES_AT_ONCE: Final = 2000
"""Lines of one process that are told. What is behind them (places, secrets, the log) costs by the line."""
_UNKNOWN: Final = "(something was written of which it is not known whose it is)"
_LEVELS: Final = {"warn": "[warn] ", "error": "[error] ", "debug": "[debug] "}
_FAILED: Final = ": failed: "
"""Behind a place in workerd's own source."""

Told = Callable[[int | None, str], None]
"""Gets the isolate's number, None for all of them, and a line."""


class _Line(msgspec.Struct):
    level: str = ""
    message: str = ""
    source: str | None = None


class Lines:
    """Splits what a process writes into lines, and finds whose they are."""

    def __init__(self, marks: dict[str, int], told: Told) -> None:
        """`marks`: the isolates' numbers by their marks."""
        self._marks = marks
        self._told = told
        self._rest = b""
        self._skipping = False
        self._decoder = msgspec.json.Decoder(_Line)
        self._pace = verdicts.Bucket(_LINES_AT_ONCE, _LINES_PER_S)
        self._dropped: dict[int | None, int] = {}
        self._bytes = verdicts.Bucket(BYTES_AT_ONCE, BYTES_PER_S)
        self._forgotten = 0
        self.failed: dict[int, str] = {}
        """Why a Worker did not start, by its number."""

    def feed(self, data: bytes) -> None:
        """What came from its standard output or error. Never raises."""
        if not self._bytes.ready():
            self._forgotten += len(data)
            self._rest, self._skipping = b"", not data.endswith(b"\n")
            return
        self._bytes.take(len(data))
        if self._forgotten:
            self._say(None, f"({self._forgotten} bytes of lines were dropped: too many at once)")
            self._forgotten = 0
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False  # its beginning was read already
            elif line:
                self._line(line)
        if len(self._rest) > LONGEST:
            if not self._skipping:
                self._line(self._rest)
            self._skipping = True
            self._rest = b""

    def end(self) -> None:
        """Nothing more comes."""
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._rest = b""

    def _line(self, raw: bytes) -> None:
        found = self._decoded(raw[:LONGEST])
        if found is not None:
            (self._console if found.source is None else self._own)(found)
        elif raw.startswith(b"{"):
            self._unknown(raw[:_TEXT].decode("utf-8", "replace"))
        else:
            # Not structured: the last words of a process that dies, or of its loader.
            self._say(None, raw[:_TEXT].decode("utf-8", "replace"))

    def _decoded(self, raw: bytes) -> _Line | None:
        found = self._parsed(raw)
        if found is None and raw.startswith(b"{") and len(raw) >= LONGEST:
            # Cut in the middle of its message, perhaps of an escape.
            for cut in range(1, 8):
                found = self._parsed(raw[:-cut] + b'"}')
                if found is not None:
                    break
        return found

    def _parsed(self, raw: bytes) -> _Line | None:
        text = raw.decode("utf-8", "replace")
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            return self._decoder.decode(text)
        with contextlib.suppress(ValueError, RecursionError):
            # Half of a pair of surrogates: JavaScript has such texts, and this reader takes them.
            return msgspec.convert(_whole(json.loads(text)), _Line)
        return None

    def _console(self, line: _Line) -> None:
        mark = _MARK.match(line.message)
        number = self._marks.get(mark[1]) if mark is not None else None
        text = line.message[mark.end() :] if mark is not None else line.message
        shown = _LEVELS.get(line.level, "") + _places(text)
        if number is None:
            self._unknown(shown)
        else:
            self._say(number, shown)

    def _own(self, line: _Line) -> None:
        named = _SERVICE.match(line.message)
        if named is not None:
            why = _places(line.message[named.end() :])
            if line.level == "error":
                self.failed.setdefault(int(named[1]), why)
            self._say(int(named[1]), why)
        elif _STACK in line.message:
            stack = line.message.partition(_STACK)[2][:LONGEST]
            # Code can write any stack, but knows no mark of another.
            found = (self._marks.get(one[1]) for one in _PLACE.finditer(stack) if one[3])
            number = next((one for one in found if one is not None), None)
            if number is None:
                self._unknown(f"Uncaught {_places(stack)}")
            else:
                self._say(number, f"Uncaught {_places(stack)}")
        elif line.level not in ("info", "debug") and "Uncaught exception: " not in line.message:
            # An uncaught exception has been told already, with its stack.
            self._say(None, _plain(line.message))

    def _unknown(self, text: str) -> None:
        """Somebody's, with his secrets perhaps: only who is alone in the process sees it."""
        self._say(None, text if len(self._marks) == 1 else _UNKNOWN)

    def _say(self, number: int | None, text: str) -> None:
        lines = list(_split(text))
        for position, one in enumerate(lines):
            if not self._pace.ready():
                self._dropped[number] = self._dropped.get(number, 0) + len(lines) - position
                return
            for whose, many in self._dropped.items():
                self._told(whose, f"({many} lines were dropped: too many at once)")
            self._dropped.clear()
            self._pace.take()
            self._told(number, one)


def _whole(found: object) -> object:
    """What JSON says, without halves of pairs of surrogates."""
    if not isinstance(found, dict):
        return found
    items = cast("dict[str, object]", found).items()
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for name, value in items
    }


def _split(text: str) -> Iterator[str]:
    lines = text[:LONGEST].split("\n")
    for one in lines[:_LINES]:
        if one and not one.isspace():
            yield one.rstrip()[:_TEXT]
    if len(lines) > _LINES:
        yield f"({len(lines) - _LINES} more lines)"


def _places(text: str) -> str:
    """`text` with its places as the tenant knows them."""
    return _PLACE.sub(lambda one: one[2] + one[3] if one[3] else one[0], text).replace("\x01", "?")


def _plain(text: str) -> str:
    """`text` without the places in workerd's own source."""
    *parts, last = text.split(_FAILED)
    kept: list[str] = []
    for part in parts:
        start = max(map(part.rfind, " \n\t")) + 1
        kept.append(part[:start] if "workerd/" in part[start:] else part + _FAILED)
    return "".join([*kept, last]).replace("remote.", "").replace("jsg.", "")
