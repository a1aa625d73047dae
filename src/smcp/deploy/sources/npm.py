"""`npm:NAME` and `npm:NAME@VERSION`: a package of the configured npm registry, scoped (`@scope/name`) or not.

The grammar is smaller than npm's on purpose: one name, one exact version. No range, tag, alias, path, URL, repository
or option can be written in it, so that what reaches npm is always a name and a version.
Names: validate-npm-package-name (the rules for new packages; and of older ones those with capital letters).
Versions: Semantic Versioning 2.0.0, without build metadata, which a registry does not tell apart (item 10).
"""

import re
from typing import Final

import msgspec

from smcp.kernel import errors

SCHEME: Final = "npm"
# No dot, underscore or hyphen in front: `.npmrc` is no package, and an operand never looks like an option.
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,213}"
_NAME: Final = re.compile(rf"(?:@{_PART}/)?{_PART}", re.ASCII)
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,15})"
_LABEL: Final = r"(?:0|[1-9][0-9]{0,15}|[0-9]{0,20}[A-Za-z-][0-9A-Za-z-]{0,60})"
_VERSION: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_LABEL}(?:\.{_LABEL}){{0,10}})?",
    re.ASCII,
)
_LONGEST_NAME: Final = 214
_LONGEST: Final = 300
# validate-npm-package-name refuses them: they are directories of npm's own.
_RESERVED: Final = frozenset({"node_modules", "favicon.ico"})


class Npm(msgspec.Struct, frozen=True):
    """A package, and its version where one was asked for."""

    name: str
    """With its scope: `@scope/name`. Case counts."""
    version: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}:{self.name}@{self.version}" if self.version else f"{SCHEME}:{self.name}"


def parse(text: str) -> Npm:
    """The source in `text`. Raises `errors.InvalidParams`."""
    scheme, _, rest = text.partition(":")
    # The first character may be the @ of a scope.
    name, at, version = rest[:1] + rest[1:].partition("@")[0], "@" in rest[1:], rest[1:].partition("@")[2]
    if len(text) <= _LONGEST and scheme == SCHEME and is_name(name) and (not at or is_version(version)):
        return Npm(name, version)
    raise errors.InvalidParams(
        "A source is written npm:NAME or npm:NAME@VERSION, also with a scope, npm:@SCOPE/NAME (one name, one exact"
        f" version such as 1.2.3): '{text[:100]}' is not."
    )


def is_name(text: str) -> bool:
    """Whether `text` is a package's name as registries have them."""
    return (
        len(text) <= _LONGEST_NAME
        and _NAME.fullmatch(text) is not None
        and text.rpartition("/")[2].lower() not in _RESERVED
    )


def is_version(text: str) -> bool:
    """Whether `text` is one exact version."""
    return _VERSION.fullmatch(text) is not None
