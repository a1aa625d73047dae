"""No test fails by chance: the commonest two forms of it are found here, the others by who reads the test.

Ids, keys, digests and tokens are made of letters and digits, so that some of them hold any short word. A wrong value
that is made by putting a fixed character in the place of another one is now and then the right value.
"""

import ast
import re
from collections.abc import Iterator
from typing import Final

import pytest

from checks import tree

_SHORT: Final = 4
"""Three characters stand in one of a thousand keyed digests, five in one of a million."""
_ENCODED: Final = re.compile(r"[0-9A-Za-z_-]+")
_TEXTS: Final = {"text", "content", "body", "html", "public", "detail", "description", "stdout", "stderr", "out", "err"}
_NAMES: Final = (_TEXTS - {"body"}) | {
    "page",
    "shown",
    "told",
    "written",
    "raw",
    "log",
    "output",
    "again",
    "stored",
    "cursor",
    "token",
}
_CALLS: Final = {
    "str",
    "repr",
    "dumps",
    "decode",
    "encode",
    "lower",
    "getvalue",
    "read_text",
    "read_bytes",
    "text",
    "join",
}


def _is_text(node: ast.expr) -> bool:
    """Whether `node` is, by how it is written, a text and not a collection of names."""
    match node:
        case ast.Name(id=name):
            return name in _NAMES
        case ast.Attribute(attr=name):
            return name in _TEXTS
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name in _CALLS
        case ast.BinOp(op=ast.Add(), left=left):
            return _is_text(left)
        case _:
            return isinstance(node, ast.JoinedStr)


def _short(node: ast.expr) -> bool:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str | bytes):
        return False
    word = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    return len(word) <= _SHORT and _ENCODED.fullmatch(word) is not None


def words(module: ast.AST) -> Iterator[int]:
    """The lines of assertions that a short word is not in a text."""
    for node in ast.walk(module):
        if isinstance(node, ast.Assert):
            absent = [
                one for one in ast.walk(node.test) if isinstance(one, ast.UnaryOp) and isinstance(one.op, ast.Not)
            ]
            for one in ast.walk(node.test):
                if not isinstance(one, ast.Compare) or not _short(one.left):
                    continue
                denied = any(inner is one for whole in absent for inner in ast.walk(whole))
                if isinstance(one.ops[0], ast.In if denied else ast.NotIn) and _is_text(one.comparators[0]):
                    yield node.lineno


def _cut(node: ast.AST) -> bool:
    """Whether `node` is all of something but its last characters: `key[:-1]`."""
    if isinstance(node, ast.FormattedValue):
        node = node.value
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Slice)
        and isinstance(node.slice.upper, ast.UnaryOp)
        and node.slice.lower is None
    )


def changed(module: ast.AST) -> Iterator[int]:
    """The lines where the end of something is replaced by letters or digits that it may have had."""
    for node in ast.walk(module):
        pairs: list[tuple[ast.AST, ast.AST]]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            pairs = [(node.left, node.right)]
        elif isinstance(node, ast.JoinedStr):
            pairs = list(zip(node.values, node.values[1:], strict=False))
        else:
            continue
        if any(_cut(left) and isinstance(right, ast.Constant) and _short(right) for left, right in pairs):
            yield node.lineno


@pytest.mark.requirement("checks:chance:words")
def test_no_short_word_is_looked_for_in_what_holds_ids() -> None:
    """`support.words.stands` looks for a word of its own; a longer text, or one with a sign in it, does as well."""
    found = [f"{tree.name(file)}:{line}" for file in tree.code() for line in words(tree.parsed(file))]
    assert found == []


@pytest.mark.requirement("checks:chance:changed")
def test_no_end_is_replaced_by_one_that_it_may_have_had() -> None:
    """Make it from the right one: `key[:-1] + ("0" if key[-1] != "0" else "1")`, in a place whose bits all count."""
    found = [f"{tree.name(file)}:{line}" for file in tree.code() for line in changed(tree.parsed(file))]
    assert found == []


@pytest.mark.requirement("checks:chance:words", "checks:chance:changed")
@pytest.mark.parametrize(
    ("line", "fails"),
    [
        ('assert "ada" not in repr(trail)', True),
        ('assert b"abc" not in file.read_bytes()', True),
        ('assert not any("ada" in str(key) for key in keys)', True),
        ('assert "ada" in repr(trail)', False),
        ('assert "id" not in fields', False),
        ('assert "://" not in answer.text', False),
        ('assert "lovelace" not in answer.text', False),
        ('wrong = key[:-1] + "x"', True),
        ('wrong = f"{key[:-2]}AA"', True),
        ('wrong = key[:-1] + ("0" if key[-1] != "0" else "1")', False),
        ('wrong = key + "x"', False),
        ('wrong = key[:-1] + "*"', False),
    ],
)
def test_what_fails_by_chance_is_seen(line: str, fails: bool) -> None:
    module = ast.parse(line)
    assert [*words(module), *changed(module)] == ([1] if fails else [])
