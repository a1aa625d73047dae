"""The size budget: what is small can be read, reviewed and replaced."""

import ast

import pytest

from checks import tree

LONGEST_FILE = 500
LONGEST_FUNCTION = 60


@pytest.mark.requirement("checks:size:files")
def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {tree.name(file): len(file.read_text("utf-8").splitlines()) for file in tree.code()}
    assert lengths
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


@pytest.mark.requirement("checks:size:functions")
def test_no_function_is_longer_than_60_lines_decorators_included() -> None:
    too_long = {
        f"{tree.name(file)}:{function.name}": tree.length(function)
        for file in tree.code()
        for function in tree.functions(tree.parsed(file))
        if tree.length(function) > LONGEST_FUNCTION
    }
    assert too_long == {}


@pytest.mark.requirement("checks:size:functions")
def test_the_length_of_a_function_counts_its_decorators_and_nested_functions_are_seen() -> None:
    source = "@a\n@b(\n 1\n)\nasync def f():\n def g():\n  return 1\n return g\n"
    found = {function.name: tree.length(function) for function in tree.functions(ast.parse(source))}
    assert found == {"f": 8, "g": 2}
