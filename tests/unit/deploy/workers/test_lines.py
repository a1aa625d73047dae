"""Places of a bundle are found where the source map says that they came from, and a wrong map or table says nothing."""

import bisect
import json
import pathlib
import tempfile
from typing import Final

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.deploy.workers import code, lines
from smcp.runtime import places

_SOURCES: Final = ["src/a.ts", "src/b é.ts", "node_modules/x/y.js"]
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

Segment = tuple[int, tuple[int, int, int] | None]


def _number(value: int) -> str:
    rest, made = (-value << 1) | 1 if value < 0 else value << 1, ""
    while True:
        digit, rest = rest & 31, rest >> 5
        made += _LETTERS[digit | (32 if rest else 0)]
        if not rest:
            return made


def _mappings(rows: list[list[Segment]]) -> str:
    """As a bundler writes them: each number is the difference to the one before."""
    source = line = column = 0
    made: list[str] = []
    for row in rows:
        before, segments = 0, list[str]()
        for start, place in row:
            text = _number(start - before)
            before = start
            if place is not None:
                text += _number(place[0] - source) + _number(place[1] - line) + _number(place[2] - column)
                source, line, column = place
            segments.append(text)
        made.append(",".join(segments))
    return ";".join(made)


_SEGMENT: Final = st.tuples(
    st.integers(0, 3000), st.none() | st.tuples(st.integers(0, 2), st.integers(0, 100_000), st.integers(0, 500))
)
_ROWS: Final = st.lists(st.lists(_SEGMENT, max_size=6, unique_by=lambda one: one[0]).map(sorted), max_size=6)


def _looked_up(table: bytes, text: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        (pathlib.Path(directory) / places.FILE).write_bytes(table)
        return places.Places(directory).told(text)


@pytest.mark.requirement("workers:build:places")
@hypothesis.given(_ROWS, st.integers(0, 1), st.integers(1, 8), st.integers(1, 3100))
def test_a_place_is_found_as_the_map_says(rows: list[list[Segment]], shift: int, line: int, column: int) -> None:
    table = lines.table(_mappings(rows), _SOURCES, shift)
    expected = f"index.js:{line}:{column}"
    at = line - 1 - shift
    if 0 <= at < len(rows):
        found = bisect.bisect_right([one[0] for one in rows[at]], column - 1)
        place = rows[at][found - 1][1] if found else None
        if place is not None:
            expected = f"{_SOURCES[place[0]]}:{place[1] + 1}"
    assert _looked_up(table, f"at f (index.js:{line}:{column})") == f"at f ({expected})"


@pytest.mark.requirement("workers:build:places")
@hypothesis.given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda rest: lines.MAGIC + rest))
def test_any_table_finds_something_or_nothing(table: bytes) -> None:
    told = _looked_up(table, "index.js:1:1 and index.js:2:9 x")
    assert told.endswith(" x")


@pytest.mark.requirement("workers:build:places")
def test_only_places_of_the_bundle_are_looked_up_and_few_of_them() -> None:
    table = lines.table("AAAA", ["a.ts"], 0)
    for text in ("other-index.js:1:1", "x/index.js:1:1", "index.js:1", "nothing", "index.js:99999999999:1"):
        assert _looked_up(table, text) == text
    told = _looked_up(table, " ".join(["index.js:1:1"] * 60))
    assert told.count("a.ts:1") == 50
    assert places.Places("/nowhere").told("index.js:1:1") == "index.js:1:1"
    assert places.FILE == code.LINES


@pytest.mark.requirement("workers:build:places")
@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"sources": [], "mappings": "AAAA"}', '{"sources": ["a"], "mappings": "A!"}',
        '{"sources": ["a"], "mappings": "AA"}', '{"sources": ["a"], "mappings": "D"}',
        '{"sources": ["a"], "mappings": "ggggggggggggggB"}', '{"sources": [1], "mappings": ""}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_map_that_is_none_makes_an_empty_table(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "map").write_text(text)
    assert lines.main(str(tmp_path / "map"), str(tmp_path / "table"), "0") == 0
    assert (tmp_path / "table").read_bytes() == lines.table("", (), 0)


@pytest.mark.requirement("workers:build:places")
def test_sources_have_the_names_that_their_author_knows(tmp_path: pathlib.Path) -> None:
    sources = ["../../build/project/src/a.ts", "../../build/node_modules/x/y.js"]
    made = tmp_path / "out/made"
    made.mkdir(parents=True)
    (made / "map").write_text(json.dumps({"sources": sources, "mappings": "AAAA;ACAA"}))
    root = f"{tmp_path}/build/"
    assert lines.main(str(made / "map"), str(tmp_path / "table"), "0", root, "project/") == 0
    table = (tmp_path / "table").read_bytes()
    assert _looked_up(table, "index.js:1:1 index.js:2:1") == "src/a.ts:1 node_modules/x/y.js:1"
