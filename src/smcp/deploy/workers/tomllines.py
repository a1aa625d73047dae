"""On which line each key of a TOML text stands, which the standard library's parser does not tell."""

import re
import tomllib
from typing import Any, Final

Place = tuple[str | int, ...]
"""Keys and indices from the top."""

# TOML 1.0: what may hold brackets, equal signs and ends of lines that mean nothing.
_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")|\'\'\'.*?\'{3,5}(?!\')|"(?:[^"\\\n]|\\[^\n])*+"|\'[^\'\n]*+\'|#[^\n]*+|[\[\]{}=\n]',
    re.DOTALL,
)


def find(text: str) -> dict[Place, int]:
    """The line (from 1) of each table, key, and table in a list. `text` is valid TOML (`deploy.toml.loads` took it)."""
    text = text.replace("\r\n", "\n")
    scan = _Scan()
    start, line, first, depth, equals = 0, 1, 1, 0, -1
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in "[{":
            depth += 1
            if word == "{" and depth == 2 and equals >= 0:
                scan.element(line)
        elif word in "]}":
            depth -= 1
        elif word == "=" and depth == 0 and equals < 0:
            equals = token.start()
            scan.key(text[start:equals], first)
        elif word == "\n" and depth == 0:
            if equals < 0:
                scan.header(text[start : token.start()], first)
            start, equals, first = token.end(), -1, line + 1
        line += word.count("\n")
    if equals < 0:
        scan.header(text[start:], first)
    return scan.lines


class _Scan:
    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self._table: Place = ()
        self._listed: dict[Place, int] = {}
        self._key: Place = ()
        self._elements = 0

    def header(self, words: str, line: int) -> None:
        words = words.strip()
        if not words.startswith("["):
            return
        parts = _path(words)
        listed = words.startswith("[[")
        place: Place = ()
        for number, part in enumerate(parts):
            place = (*place, part)
            if listed and number == len(parts) - 1:
                self._listed[place] = self._listed.get(place, -1) + 1
                self.lines.setdefault(place, line)
            if place in self._listed:
                place = (*place, self._listed[place])
            self.lines.setdefault(place, line)
        self._table = place

    def key(self, words: str, line: int) -> None:
        place = self._table
        for part in _path(f"{words.strip()} = 0"):
            place = (*place, part)
            self.lines.setdefault(place, line)
        self._key, self._elements = place, 0

    def element(self, line: int) -> None:
        """A table in the list that is the last key's value."""
        self.lines.setdefault((*self._key, self._elements), line)
        self._elements += 1


def _path(statement: str) -> list[str]:
    """The keys of a header or an assignment."""
    tree: Any = tomllib.loads(statement)
    found: list[str] = []
    while tree and isinstance(tree, dict | list):
        if isinstance(tree, list):
            tree = tree[0]  # pyright: ignore[reportUnknownVariableType] - TOML
            continue
        [(key, tree)] = tree.items()  # pyright: ignore[reportUnknownVariableType] - TOML
        found.append(str(key))  # pyright: ignore[reportUnknownArgumentType] - TOML
    return found
