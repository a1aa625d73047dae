"""The readers of wrangler's files: the same values as the usual parsers, and the line of each of them."""

import json
import tomllib
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.deploy.workers import jsonc, tomllines

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=15,
)


@pytest.mark.requirement("workers:wrangler:lines")
@hypothesis.given(st.dictionaries(st.text(max_size=5), _JSON, max_size=5), st.booleans())
def test_json_is_read_as_every_other_reader_does(tree: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(tree, indent=1, ensure_ascii=ascii_only)
    found, lines = jsonc.loads(text)
    assert json.dumps(found) == json.dumps(tree)
    rows = text.split("\n")
    for key in tree:
        assert json.dumps(key, ensure_ascii=ascii_only) in rows[lines[(key,)] - 1]


@pytest.mark.requirement("workers:wrangler:lines")
@hypothesis.given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4), st.data())
def test_comments_and_commas_change_nothing_but_lines(tree: dict[str, Any], data: st.DataObject) -> None:
    rows = json.dumps(tree, indent=1).split("\n")
    extra = st.sampled_from([' // one, " { [', " /* two \n // lines * / */", "\n\n", "\r", ""])
    text = "".join(f"{row}{data.draw(extra)}\n" for row in rows)
    assert json.dumps(jsonc.loads(text)[0]) == json.dumps(tree)


_TOML = '''a = 1 # = [x]
"b.c" = """
[no.table]
x = 1"""
'd' = '[['

[e]   # comment
f.g = [
  { h = 1 },
  # { not = 1 },
  { h = "}]" },
]

[[i.j]]
k = { l = "=", m = 2 }
[i.j.n]
o = 1979-05-27
[[i.j]]
k = 3
["e"."p q"]
r = """"two quotes"" """
s = 1'''


@pytest.mark.requirement("workers:wrangler:lines")
def test_each_key_of_toml_has_its_line() -> None:
    tomllib.loads(_TOML)
    lines = tomllines.find(_TOML)
    assert {
        ("a",): 1,
        ("b.c",): 2,
        ("d",): 5,
        ("e",): 7,
        ("e", "f", "g"): 8,
        ("e", "f", "g", 0): 9,
        ("e", "f", "g", 1): 11,
        ("i", "j", 0): 14,
        ("i", "j", 0, "k"): 15,
        ("i", "j", 0, "n"): 16,
        ("i", "j", 0, "n", "o"): 17,
        ("i", "j", 1): 18,
        ("i", "j", 1, "k"): 19,
        ("e", "p q"): 20,
        ("e", "p q", "r"): 21,
        ("e", "p q", "s"): 22,
    }.items() <= lines.items()
    assert tomllines.find(_TOML.replace("\n", "\r\n")) == lines
