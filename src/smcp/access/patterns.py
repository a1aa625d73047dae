"""Patterns of tool names: literal text, and `*` for any text, none included. Nothing else is special.

Matched in one walk from left to right: no pattern, and no name, makes it slow.
"""

import re
from collections.abc import Iterable
from typing import Final

LONGEST: Final = 128
MOST_STARS: Final = 8

FORM: Final = re.compile(r"[A-Za-z0-9_./*-]{1,128}", re.ASCII)
"""What a tool's name may hold (MCP 2026-07-28, "Tool Names"), and `*`."""


def valid(pattern: str) -> bool:
    """May a role hold it?"""
    return FORM.fullmatch(pattern) is not None and pattern.count("*") <= MOST_STARS


def fits(pattern: str, name: str) -> bool:
    """Does the whole of `name` fit `pattern`? Case counts."""
    first, *others = pattern.split("*")
    if not others:
        return name == pattern
    *between, last = others
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in between:
        # The leftmost place leaves most room for what follows.
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def any_fits(patterns: Iterable[str], name: str) -> bool:
    """Does `name` fit one of them?"""
    return any(fits(pattern, name) for pattern in patterns)
