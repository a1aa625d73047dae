"""`pypi:NAME` and `pypi:NAME==VERSION`: a package of the configured package index.

The grammar is smaller than pip's on purpose: one name, one exact version. No URL, path, extra, marker, option or second
requirement can be written in it, so that what reaches pip is always an operand.
Names: PEP 508 "Names", normalised as in PEP 503. Versions: PEP 440, in the normal form.
"""

import re
from typing import Final

import msgspec

from smcp.kernel import errors

SCHEME: Final = "pypi"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?", re.ASCII)
_VERSION: Final = re.compile(
    r"(?:[0-9]{1,10}!)?[0-9]{1,20}(?:\.[0-9]{1,20}){0,10}(?:(?:a|b|rc)[0-9]{1,10})?(?:\.post[0-9]{1,10})?"
    r"(?:\.dev[0-9]{1,10})?(?:\+[a-z0-9]{1,40}(?:\.[a-z0-9]{1,40}){0,5})?",
    re.ASCII,
)
_LONGEST: Final = 200


class Pypi(msgspec.Struct, frozen=True):
    """A package, and its version where one was asked for."""

    name: str
    """Normalised (PEP 503)."""
    version: str = ""

    @property
    def requirement(self) -> str:
        """As pip takes it: a name, or `name==version`. It never begins with a hyphen and holds no separator."""
        return f"{self.name}=={self.version}" if self.version else self.name

    def __str__(self) -> str:
        return f"{SCHEME}:{self.requirement}"


def parse(text: str) -> Pypi:
    """The source in `text`. Raises `errors.InvalidParams`."""
    scheme, colon, rest = text.partition(":")
    name, equals, version = rest.partition("==")
    if (
        len(text) <= _LONGEST
        and scheme == SCHEME
        and colon
        and _NAME.fullmatch(name) is not None
        and (not equals or _VERSION.fullmatch(version) is not None)
    ):
        return Pypi(normalise(name), version)
    raise errors.InvalidParams(
        f"A source is written pypi:NAME or pypi:NAME==VERSION (one name, one exact version): '{text[:100]}' is not."
    )


def normalise(name: str) -> str:
    """PEP 503, "Normalized Names": runs of `-`, `_` and `.` are one hyphen, letters are small."""
    return re.sub(r"[-_.]+", "-", name).lower()
