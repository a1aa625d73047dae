"""TOML that strangers wrote, parsed in a time that its length bounds.

The standard library's parser walks a dotted key once for each of its parts: a key of 32,000 parts in a manifest of the
allowed size holds its thread for seconds, one in a lock for hours. Nothing that is read here has keys so deep.
"""

import re
import tomllib
from typing import Any, Final

_DEEPEST: Final = 16
"""Dots in one key."""
# TOML 1.0, "String" and "Comment": what may hold dots that are no key's. An end may be missing, so that no beginning
# is looked at twice; the parser says what is wrong with it.
_TEXT: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"(?:[^"\\\n]|\\[^\n])*+"?|\'[^\'\n]*+\'?|#[^\n]*+',
    re.DOTALL,
)
_BETWEEN: Final = re.compile(r"[=,{}\[\]\n]")
"""What stands around keys."""


def loads(text: str) -> dict[str, Any]:
    """The table in `text`. Raises `ValueError` with words for people for what is none, or nested too deeply."""
    if any(one.count(".") > _DEEPEST for one in _BETWEEN.split(_TEXT.sub("", text))):
        raise ValueError(f"a key has more than {_DEEPEST} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        # int() takes no more digits than sys.get_int_max_str_digits().
        raise ValueError("a number is too long") from None
