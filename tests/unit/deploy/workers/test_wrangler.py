"""wrangler's files: what is taken, what is left out and said, and what is refused with its line."""

import json
from typing import Any, Final

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.deploy.workers import section, wrangler
from smcp.kernel import errors

_TOML: Final = """# A Worker as somebody has it.
name = "my_notes"
main = "./src/index.ts"
compatibility_date = "2026-11-01"
compatibility_flags = ["nodejs_compat"]
workers_dev = true
kv_namespaces = [
  { binding = "NOTES", id = "0f2ac74b498b48028cb68387c421e279", preview_id = "x" },
  { binding = "CACHE_2" },
]

[vars]
GREETING = "Hello # no comment"
LIMITS = { most = 3, words = ["a", "b"] }

[[r2_buckets]]
binding = "FILES"
bucket_name = "files"

[[durable_objects.bindings]]
name = "ROOM"
class_name = "Room"

[[durable_objects.bindings]]
name = "OLD"
class_name = "Old"

[[migrations]]
tag = "v1"
new_sqlite_classes = ["Room"]

[[migrations]]
tag = "v2"
new_classes = ["Old"]

[[services]]
binding = "SEARCH"
service = "search"
entrypoint = "Find"

[observability]
enabled = true

[env.staging]
name = "notes-staging"
"""
_JSONC: Final = """{
  // A Worker as somebody has it.
  "$schema": "node_modules/wrangler/config-schema.json",
  "name": "my_notes", /* with
  two lines */
  "main": "./src/index.ts",
  "compatibility_date": "2026-11-01",
  "compatibility_flags": ["nodejs_compat"],
  "vars": {"GREETING": "Hello # no comment", "LIMITS": {"most": 3, "words": ["a", "b",],},},
  "kv_namespaces": [{"binding": "NOTES", "id": "0f2ac74b498b48028cb68387c421e279"}, {"binding": "CACHE_2"}],
  "r2_buckets": [{"binding": "FILES", "bucket_name": "files"}],
  "durable_objects": {"bindings": [{"name": "ROOM", "class_name": "Room"}, {"name": "OLD", "class_name": "Old"}]},
  "migrations": [{"tag": "v1", "new_sqlite_classes": ["Room"]}, {"tag": "v2", "new_classes": ["Old"]}],
  "services": [{"binding": "SEARCH", "service": "search", "entrypoint": "Find"}],
  "d1_databases": [],
  "triggers": {"crons": []},
}
"""
_EXPECTED: Final = section.Worker(
    main="./src/index.ts",
    compatibility_date="2026-11-01",
    compatibility_flags=("nodejs_compat",),
    vars={"GREETING": "Hello # no comment", "LIMITS": {"most": 3, "words": ["a", "b"]}},
    kv={"NOTES": "0f2ac74b498b48028cb68387c421e279", "CACHE_2": "my-notes-cache-2"},
    buckets={"FILES": "files"},
    durable_objects=(section.Durable("ROOM", "Room"), section.Durable("OLD", "Old", sqlite=False)),
    services={"SEARCH": section.Service("search", "Find")},
)


@pytest.mark.requirement("workers:wrangler:translated")
@pytest.mark.parametrize(
    ("file", "text"), [("wrangler.toml", _TOML), ("wrangler.jsonc", _JSONC), ("wrangler.json", _JSONC)]
)
def test_a_file_says_the_same_in_each_of_its_forms(file: str, text: str) -> None:
    found = wrangler.translate(file, text)
    assert found.name == "my_notes"
    assert found.worker == _EXPECTED
    assert any("CACHE_2 is named my-notes-cache-2" in note for note in found.notes)


@pytest.mark.requirement("workers:wrangler:named")
def test_what_concerns_cloudflare_alone_is_left_out_and_said() -> None:
    told = " ".join(wrangler.translate("wrangler.toml", _TOML).notes)
    assert "observability, workers_dev" in told
    assert "'env' are not deployed" in told


def _refused(file: str, text: str) -> str:
    with pytest.raises(errors.DeployFailed) as caught:
        wrangler.translate(file, text)
    return caught.value.public


_MANY: Final = """main = "src/index.py"
compatibility_date = "2026-11-01"
[[d1_databases]]
binding = "DB"

[[kv_namespaces]]
binding = "NOTES"
id = "<your id>"

[triggers]
crons = ["* * * * *"]

[durable_objects]
bindings = [
  { name = "ROOM", class_name = "Room" },
  { name = "FAR", class_name = "Far", script_name = "other" },
]

[[migrations]]
tag = "v1"
new_sqlite_classes = ["Room", "Far"]

[[migrations]]
tag = "v2"
renamed_classes = [{ from = "A", to = "B" }]

[[services]]
binding = "a-b"
service = "Search_1"

[whatever]
x = 1
"""


@pytest.mark.requirement("workers:wrangler:named")
def test_everything_that_is_not_supported_is_named_at_once_with_its_line() -> None:
    told = _refused("wrangler.toml", _MANY)
    assert all(
        f"Line {line}: {words}" in told
        for line, words in (
            (1, "main is no file"),
            (3, "d1_databases: D1"),
            (8, "kv_namespaces: id '<your id>'"),
            (10, "triggers: Cron Triggers"),
            (16, "durable_objects: 'script_name' is not supported"),
            (25, "migrations: 'renamed_classes' is not supported"),
            (28, "services: 'a-b' is no name"),
            (29, "services: 'Search_1' is no name of a server"),
            (31, "whatever is not known here"),
        )
    ), told


@pytest.mark.requirement("workers:wrangler:named")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{\n"main": "x.js",\n"compatibility_date": "2026-11-01",\n\n"queues": {"producers": [1]}}',
            "Line 5: queues: Queues",
        ),
        ('{\n"main": "../x.js",\n"compatibility_date": "2026-11-01"}', "Line 2: main is no file"),
        ('{\n"compatibility_date": "2026-11-01"}', "Line 1: 'main' is missing"),
        ('{"main": "x.js"}', "Line 1: compatibility_date is missing"),
        ('{"main": "x.js",\n"compatibility_date": "2026-02-31"}', "Line 2: compatibility_date"),
        ('{"main": "x.js", "compatibility_date": "2026-11-01",\n"vars": []}', "Line 2: vars"),
        (
            '{"main": "x.js", "compatibility_date": "2026-11-01",\n"kv_namespaces": {}}',
            "Line 2: kv_namespaces is no list",
        ),
        (
            '{"main": "x.js", "compatibility_date": "2026-11-01",\n"vars": {"A": 1},\n"services":'
            ' [{"binding": "A", "service": "b"}]}',
            "stands for two",
        ),
        (
            '{"main": "x.js", "compatibility_date": "2026-11-01",\n"durable_objects": {"bindings":\n'
            ' [{"name": "A", "class_name": "B"}]}}',
            "Line 3: durable_objects: no migration makes the class B",
        ),
        (
            '{"main": "x.js", "compatibility_date": "2026-11-01",\n\n"compatibility_flags": ["experimental"]}',
            "Line 3: compatibility_flags: experimental is an experiment",
        ),
    ],
)
def test_what_is_wrong_has_its_line(text: str, told: str) -> None:
    assert told in _refused("wrangler.jsonc", text)


@pytest.mark.requirement("workers:wrangler:bounded")
@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("wrangler.jsonc", "[" * 5000, "nested"),
        ("wrangler.jsonc", '{"a": ' * 5000, "nested"),
        ("wrangler.jsonc", '{"a": 1, "a": 2}', "comes twice"),
        ("wrangler.jsonc", '{"a": 1} x', "behind its end"),
        ("wrangler.jsonc", '{"a": 1', "missing"),
        ("wrangler.jsonc", '{"a": NaN}', "where a value belongs"),
        ("wrangler.jsonc", '{"a": 01}', "where a value belongs"),
        ("wrangler.jsonc", '{"a": 1 /* }', "missing"),
        ("wrangler.jsonc", "{,}", "quotes"),
        ("wrangler.jsonc", "[]", "no object"),
        ("wrangler.jsonc", '{"a": "\\ud8"}', "escape"),
        ("wrangler.jsonc", " " * 300_000, "larger"),
        ("wrangler.toml", "a = ", "can't be read"),
        ("wrangler.toml", "a = " + "[" * 5000, "can't be read"),
        ("wrangler.toml", "a" + ".a" * 30_000 + " = 1", "dots"),
    ],
)
def test_what_no_reader_should_take_is_refused(file: str, text: str, told: str) -> None:
    assert told in _refused(file, text)


_NAMES: Final = st.sampled_from([*sorted(wrangler.TAKEN), "d1_databases", "x", "observability", "__proto__", "a.b", ""])
_VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["A", "b", "x.js"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["binding", "id", "name", "class_name", "bindings", "service", "new_classes", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.requirement("workers:wrangler:bounded")
@hypothesis.given(st.dictionaries(_NAMES, _VALUES, max_size=6))
def test_whatever_a_file_says_is_a_worker_or_refused_in_words(tree: dict[str, Any]) -> None:
    tree = {"main": "x.js", "compatibility_date": "2026-11-01", **tree}
    told = ""
    try:
        wrangler.translate("wrangler.jsonc", json.dumps(tree, indent=1))
    except errors.DeployFailed as error:
        told = error.public
    assert not told or "Line " in told or "can't be read" in told
    assert told.isprintable()


@pytest.mark.requirement("workers:wrangler:bounded")
@hypothesis.given(st.text("{}[]\",:/*\\ \nab1-.eu#='", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for file in wrangler.FILES:
        with pytest.raises(errors.DeployFailed):
            wrangler.translate(file, text)
