"""A tool's schemas: what is applied, and the attacks that are not."""

import subprocess
import sys
from typing import Any

import pytest

from smcp.kernel import jsonrpc
from smcp.protocol.validate import schemas, weight


def _schema(tree: Any) -> schemas.Schema:
    return schemas.Schema(jsonrpc.encode(tree))


def _wrong(schema: Any, value: Any) -> str:
    return _schema(schema).wrong(value, jsonrpc.encode(value))


def _doubling(levels: int, key: str) -> jsonrpc.Json:
    definitions: jsonrpc.Json = {f"d{n}": {key: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**definitions, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def _unevaluated(levels: int) -> jsonrpc.Json:
    tree: jsonrpc.Json = {"properties": {"a": True}}
    for _ in range(levels):
        tree = {"anyOf": [tree, {"properties": {"b": True}}], "unevaluatedProperties": {"type": "integer"}}
    return tree


def _nested(levels: int) -> jsonrpc.Json:
    tree: jsonrpc.Json = {}
    for _ in range(levels):
        tree = {"properties": {"a": tree}}
    return tree


@pytest.mark.requirement("validation:messages:path")
def test_an_error_names_the_place_and_not_the_value() -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"properties": {"b/c": {"enum": [1, 2]}}}}}
    assert _wrong(schema, {}) == ': "a" is a required property'
    assert _wrong(schema, {"a": {"b/c": "hunter2"}}) == "/a/b~1c: the value is not one of 1 or 2"
    assert _wrong(schema, {"a": {"b/c": 2}}) == ""


@pytest.mark.requirement("validation:schema:drafts")
def test_draft_and_2020_12_differ_where_they_should() -> None:
    pair = {"items": [{"type": "string"}, {"type": "integer"}]}
    assert _wrong({"$schema": "http://json-schema.org/draft-07/schema#", **pair}, ["a", "b"]).startswith("/1")
    with pytest.raises(weight.UnfitError, match="does not compile"):
        _schema(pair)  # in 2020-12 `items` is one schema
    assert _wrong({"prefixItems": [{"type": "string"}, {"type": "integer"}]}, ["a", "b"]).startswith("/1")
    with pytest.raises(weight.UnfitError, match="does not compile"):
        _schema({"$schema": "https://example.com/mine", "type": "object"})


@pytest.mark.requirement("validation:schema:redos")
@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^([a-zA-Z]+)*$", "(.*a){20}b"])
def test_patterns_that_make_others_go_back_for_years_end(pattern: str) -> None:
    assert _wrong({"type": "string", "pattern": pattern}, "a" * 2_000 + "!")


@pytest.mark.requirement("validation:schema:redos")
@pytest.mark.parametrize("pattern", ["((a{100}){100}){100}", "(a{1,200}){1,200}", "(x{900}y{900}){900}"])
def test_patterns_that_grow_are_not_applied(pattern: str) -> None:
    with pytest.raises(weight.UnfitError, match="patterns are too large"):
        _schema({"pattern": pattern})


@pytest.mark.requirement("validation:schema:redos")
def test_a_usual_pattern_weighs_what_it_has_characters() -> None:
    assert weight.pattern_weight("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$") < 60
    assert weight.pattern_weight("^[a-z]{1,64}$") < 80


@pytest.mark.requirement("validation:schema:remote")
@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/x", "https://example.com/s.json#/a", "file:///etc/passwd", "other.json", "//a/b"]
)
def test_no_reference_leaves_the_schema(reference: str) -> None:
    with pytest.raises(weight.UnfitError, match="outside of it"):
        _schema({"properties": {"a": {"$ref": reference}}})
    with pytest.raises(weight.UnfitError):
        _schema({"$id": reference, "properties": {"a": {"$ref": "b"}}})


@pytest.mark.requirement("validation:schema:bombs")
@pytest.mark.parametrize(
    "tree",
    [
        *(_doubling(30, key) for key in ("allOf", "anyOf", "oneOf")),
        _unevaluated(14),
        _nested(70),
        {"$ref": "#"},
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$defs": {f"c{n}": {"$ref": f"#/$defs/c{n + 1}"} for n in range(3000)} | {"c3000": {}}, "$ref": "#/$defs/c0"},
        {"$defs": {"a": {"enum": ["x" * 1000] * 200}}},
        {"$dynamicRef": "#a"},
        {"$ref": "#/nowhere"},
        {"$ref": "#nobody"},
        {"$ref": "#/$defs/0/1/99999999999999999999"},
        {"properties": {"a": {"$id": "https://example.com/b", "$ref": "#/c"}}},
    ],
)
def test_bombs_and_circles_are_not_applied(tree: jsonrpc.Json) -> None:
    with pytest.raises(weight.UnfitError):
        _schema(tree)


@pytest.mark.requirement("validation:schema:bombs")
def test_a_schema_may_refer_to_itself_on_the_way_down() -> None:
    tree = {
        "$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}, "v": {"type": "integer"}}}},
        "$ref": "#/$defs/n",
    }
    assert _wrong(tree, {"next": {"next": {"v": 1}}}) == ""
    # Naming the place could take years there (nested anyOf are tried again and again), so only the fact is told.
    assert _wrong(tree, {"next": {"next": {"v": "x"}}}) == ": does not fit the schema"


@pytest.mark.requirement("validation:schema:size")
def test_what_would_cost_too_much_passes_and_is_counted() -> None:
    schema = _schema({"properties": {"a": {"type": "string", "pattern": "^[a-z]{1,64}$"}}})
    assert schema.wrong({"a": "A" * 100}, b"x" * 100)
    assert schema.wrong({"a": "A" * 100_000}, b"x" * 100_000) == ""
    assert schema.skipped == 1
    heavy = _schema({"items": {"anyOf": [{"const": n} for n in range(5000)]}})
    assert heavy.wrong([-1], b"[-1]")
    many = [-1] * 5000
    assert heavy.wrong(many, jsonrpc.encode(many)) == ""
    assert heavy.skipped == 1
    # Bytes alone are no cost: one long text is one value.
    assert heavy.wrong(["x" * 1_000_000], b'["' + b"x" * 1_000_000 + b'"]')


@pytest.mark.requirement("validation:schema:memory")
def test_a_large_value_and_many_alternatives_take_no_memory_of_the_platforms() -> None:
    text = """
import resource, sys
from smcp.protocol.validate import schemas
schema = schemas.Schema(b'{"items":{"anyOf":[%s]}}' % b",".join(b'{"const":%d}' % n for n in range(5000)))
value, raw = ["x" * 1_000_000], b'["' + b"x" * 1_000_000 + b'"]'
assert schema.wrong([-1], b"[-1]").startswith("/0: ")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert schema.wrong(value, raw) == ": does not fit the schema"
assert schema.wrong(["x" * 3000], b'["' + b"x" * 3000 + b'"]').startswith("/0: ")
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 200_000, grown
"""
    # In a process behind a fork, whose peak is its own: the peak of who starts one comes along (getrusage(2)).
    done = subprocess.run(
        ["/bin/sh", "-c", '"$1" -c "$2"; exit $?', "sh", sys.executable, text],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_is_no_schema_is_not_applied() -> None:
    for raw in (
        b"",
        b"{",
        b"[]",
        b"true",
        b'{"type":"nonsense"}',
        b'{"allOf":{}}',
        b'{"pattern":"(?=a)b"}',
        b"x" * 200_000,
    ):
        with pytest.raises(weight.UnfitError):
            schemas.Schema(raw)
