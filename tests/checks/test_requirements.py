"""Every promise has a test that shows it, and every test that shows a promise names one that was made."""

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from checks import tree

_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*(?::[a-z0-9]+(?:[-.][a-z0-9]+)*){2,3}")


def _entries() -> Iterator[tuple[str, dict[str, str]]]:
    for file in sorted((tree.ROOT / "tests/requirements").glob("*.toml")):
        listed = tomllib.loads(file.read_text("utf-8"))
        assert set(listed) == {"requirement"}, f"{file.name} holds [[requirement]] entries and nothing else"
        for entry in listed["requirement"]:
            yield file.name, entry


def _named(module: ast.Module) -> Iterator[str]:
    """The ids in every `pytest.mark.requirement(…)` of `module`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.requirement":
            assert node.args, f"line {node.lineno}: a requirement mark without an id"
            assert not node.keywords, f"line {node.lineno}: ids are given by position"
            for argument in node.args:
                assert isinstance(argument, ast.Constant), f"line {node.lineno}: an id is a plain string"
                assert isinstance(argument.value, str), f"line {node.lineno}: an id is a plain string"
                yield argument.value


def _tests() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in tree.files(".py"):
        if tree.name(file).startswith("tests/"):
            for one in _named(tree.parsed(file)):
                found.setdefault(one, set()).add(tree.name(file))
    return found


@pytest.mark.requirement("checks:requirements:both-ways")
def test_every_requirement_has_a_test_that_names_it() -> None:
    tested = _tests()
    assert [f"{file}: {entry['id']}" for file, entry in _entries() if entry["id"] not in tested] == []


@pytest.mark.requirement("checks:requirements:both-ways")
def test_every_id_that_a_test_names_is_a_requirement() -> None:
    made = {entry["id"] for _, entry in _entries()}
    assert {one: sorted(files) for one, files in _tests().items() if one not in made} == {}


@pytest.mark.requirement("checks:requirements:form")
def test_ids_are_unique_and_every_entry_says_where_it_comes_from() -> None:
    seen: dict[str, str] = {}
    for file, entry in _entries():
        assert set(entry) == {"id", "source", "text"}, f"{file}: {entry}"
        assert _ID.fullmatch(entry["id"]), f"{file}: '{entry['id']}' is not area:topic:claim"
        assert entry["id"] not in seen, f"{entry['id']} is in {file} and in {seen[entry['id']]}"
        seen[entry["id"]] = file
        assert entry["source"].strip(), f"{file}: {entry['id']} has no source"
        assert entry["text"].strip().endswith("."), f"{file}: {entry['id']}: a requirement is a sentence"


@pytest.mark.requirement("checks:requirements:both-ways")
def test_ids_are_found_wherever_a_mark_can_stand() -> None:
    source = """
pytestmark = [pytest.mark.requirement("a:b:module")]
class Suite:
    @pytest.mark.requirement("a:b:one", "a:b:two")
    async def test_x(self): ...
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.requirement("a:b:param"))])
def test_y(x): ...
"""
    assert set(_named(ast.parse(source))) == {"a:b:module", "a:b:one", "a:b:two", "a:b:param"}
