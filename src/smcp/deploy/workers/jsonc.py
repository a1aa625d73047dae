"""JSON with comments and trailing commas, and the line on which each member stands.

What wrangler.json and wrangler.jsonc are written in. One pass, no look back: the time is bounded by the length. A key
that comes twice is refused, because two readers would take two values.
"""

import json
import re
from typing import Any, Final

DEEPEST: Final = 32

_BETWEEN: Final = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\n]*|/\*(?:[^*]|\*(?!/))*+\*/)*+")
_TEXT: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*+"')
_WORD: Final = re.compile(r"-?[A-Za-z0-9+.-]{1,400}")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final = {"true": True, "false": False, "null": None}
_LONGEST_NUMBER: Final = 400

Place = tuple[str | int, ...]
"""Keys and indices from the top."""


def loads(text: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """The object in `text`, and the line (from 1) of each member. Raises `ValueError` with words for people."""
    reader = _Reader(text)
    found = reader.value((), 0)
    reader.space()
    if reader.at < len(text):
        raise reader.wrong("something stands behind its end")
    if isinstance(found, dict):
        return found, reader.lines  # pyright: ignore[reportUnknownVariableType] - JSON
    raise ValueError("it is no object: { … }")


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0
        self.lines: dict[Place, int] = {}
        self._line = 1
        self._counted = 0

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"line {self._here()}: {why}")

    def space(self) -> None:
        found = _BETWEEN.match(self._text, self.at)
        assert found is not None
        self.at = found.end()

    def value(self, place: Place, depth: int) -> Any:
        """The value that comes next."""
        if depth > DEEPEST:
            raise self.wrong("it is nested too deeply")
        self.space()
        self.lines.setdefault(place, self._here())
        letter = self._text[self.at : self.at + 1]
        if letter == "{":
            return self._object(place, depth)
        if letter == "[":
            return self._list(place, depth)
        if letter == '"':
            return self._string()
        return self._scalar()

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _object(self, place: Place, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self.at += 1
        while not self._closed("}"):
            if self._text[self.at : self.at + 1] != '"':
                raise self.wrong("a key in quotes is missing")
            # The key's line, also where its value begins on the next one.
            line, key = self._here(), self._string()
            if key in made:
                raise self.wrong(f"the key {json.dumps(key)[:100]} comes twice")
            self.lines[*place, key] = line
            self.space()
            if self._text[self.at : self.at + 1] != ":":
                raise self.wrong(f"a colon is missing behind {json.dumps(key)[:100]}")
            self.at += 1
            made[key] = self.value((*place, key), depth + 1)
            self._comma("}")
        return made

    def _list(self, place: Place, depth: int) -> list[Any]:
        made: list[Any] = []
        self.at += 1
        while not self._closed("]"):
            made.append(self.value((*place, len(made)), depth + 1))
            self._comma("]")
        return made

    def _closed(self, end: str) -> bool:
        self.space()
        if self._text[self.at : self.at + 1] != end:
            return False
        self.at += 1
        return True

    def _comma(self, end: str) -> None:
        self.space()
        letter = self._text[self.at : self.at + 1]
        if letter == ",":
            self.at += 1
        elif letter != end:
            raise self.wrong(f"a comma or {end} is missing")

    def _string(self) -> str:
        found = _TEXT.match(self._text, self.at)
        if found is None:
            raise self.wrong("a text has no end")
        try:
            made = json.loads(found[0])
        except ValueError as error:
            raise self.wrong("a text holds an escape that is none") from error
        self.at = found.end()
        assert isinstance(made, str)
        return made

    def _scalar(self) -> Any:
        found = _WORD.match(self._text, self.at)
        word = "" if found is None else found[0]
        if word in _WORDS:
            made: Any = _WORDS[word]
        elif len(word) < _LONGEST_NUMBER and _NUMBER.fullmatch(word) is not None:
            made = json.loads(word)
        else:
            raise self.wrong("something stands where a value belongs")
        self.at += len(word)
        return made
