"""Targets for what is validated: batches, messages against their version, a hosted server's schemas and values.

A secret stands in values all over the cases, and in no error: values are the caller's, and errors go to logs.
"""

import contextlib
import functools
import json
import random
import socket
import time
from typing import Any, Final

import msgspec
import pytest

from fuzz import grammar, reference
from fuzz.engine import TRIES, Target
from smcp.kernel import errors, jsonrpc
from smcp.protocol import batches, eras
from smcp.protocol.validate import messages, quick, schemas, tools, weight

DEPTH: Final = 16
SECRET: Final = "hunter2-hunter2"
ERROR_CHARACTERS: Final = 8192
"""Longest text about a wrong value: 32 names of 64 characters, in a JSON Pointer, and what is wrong there."""
SCHEMA_CPU_S: Final = 2.0
"""Seconds of the processor that one schema and one value may take: some 0.1 s, on a slow machine."""
_VERSIONS: Final = (*eras.LEGACY, *eras.MODERN)


# --- batches ---


def _made_batch(dice: random.Random) -> bytes:
    count = dice.choice((0, 1, 2, 3, 5, batches.MOST, batches.MOST + 1))
    members = [grammar.mutated(dice, grammar.spelled(dice, grammar.message(dice))) for _ in range(min(count, 5))]
    members += [b'{"jsonrpc":"2.0","method":"ping","id":%d}' % number for number in range(count - len(members))]
    comma = dice.choice((b",", b", ", b"\n,\t"))
    data = dice.choice((b"[", b" [", b"\r\n[ ", b"\xef\xbb\xbf[")) + comma.join(members) + dice.choice((b"]", b" ]\n"))
    return grammar.mutated(dice, data)


def _batches(data: bytes) -> None:
    expected = _members(data)
    try:
        raws = jsonrpc.split(data, max_depth=DEPTH, most=batches.MOST)
    except (errors.ParseError, errors.TooDeep, errors.BadRequest, errors.TooLarge):
        assert expected is None or not 0 < len(expected) <= batches.MOST, "a good array is refused"
    else:
        assert reference.same(json.loads(b"[%b]" % b",".join(raws)), json.loads(data)), "it is split at other places"
        if expected is None:
            # What is wrong with one member is found when that is read: here it is refused alone.
            assert any(map(_bad, raws)), "this is no array, or a bad one"
        else:
            assert len(raws) == len(expected)
    for version in sorted(batches.VERSIONS):
        try:
            found = batches.read(data, version, DEPTH)
        except (errors.ParseError, errors.TooDeep, errors.BadRequest, errors.TooLarge):
            continue
        assert batches.is_one(data)
        assert len(found) == len(json.loads(data))
        asked = [one for one in found if isinstance(one, jsonrpc.Message) and one.kind is jsonrpc.Kind.REQUEST]
        ids = {repr(json.loads(one.id)) for one in asked}
        assert len(ids) == len(asked), "two answers would have one id"
        for one, meant in zip(found, json.loads(data), strict=True):
            if isinstance(one, jsonrpc.Message):
                assert one.method == meant.get("method", "") != "initialize"


def _bad(raw: bytes) -> bool:
    try:
        reference.read(raw, DEPTH)
    except reference.Refused:
        return True
    return False


def _members(data: bytes) -> list[Any] | None:
    try:
        value = reference.read(data, DEPTH + 1)
    except reference.Refused:
        return None
    return value if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType]


# --- messages against their version ---

_META: Final[Any] = {eras.META_VERSION: eras.MODERN[-1], eras.META_CAPABILITIES: {}}
_INFO: Final[Any] = {"name": "a", "version": "1"}
_TEXT: Final[Any] = {"type": "text", "text": "a"}
_METHODS: Final = sorted(
    {
        "initialize", "ping", "tools/call", "tools/list", "prompts/get", "prompts/list", "resources/read",
        "resources/list", "resources/templates/list", "resources/subscribe", "completion/complete",
        "logging/setLevel", "server/discover", "subscriptions/listen", "sampling/createMessage", "roots/list",
        "elicitation/create", "notifications/progress", "notifications/message", "notifications/cancelled",
        "notifications/resources/updated", "notifications/initialized", "x/y",
    }
)  # fmt: skip
_GOOD: Final[tuple[tuple[str, Any], ...]] = (
    (
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}, "sampling": {}}, "clientInfo": _INFO},
    ),
    ("initialize", {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": _INFO}),
    ("tools/call", {"name": "a", "arguments": {"a": 1}}),
    ("tools/call", {"name": "a", "arguments": {"a": "b"}, "_meta": {"progressToken": 1}}),
    ("resources/read", {"uri": "a:b"}),
    ("tools/list", {"cursor": "a"}),
    ("notifications/progress", {"progressToken": 1, "progress": 0.5, "total": 1, "message": "a"}),
    ("notifications/message", {"level": "info", "data": {"a": 1}, "logger": "a"}),
    ("notifications/cancelled", {"requestId": 1, "reason": "a"}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "a"}, "argument": {"name": "a", "value": "b"}}),
    ("sampling/createMessage", {"messages": [{"role": "user", "content": _TEXT}], "maxTokens": 1}),
    (
        "elicitation/create",
        {"message": "a", "requestedSchema": {"type": "object", "properties": {"a": {"type": "string"}}}},
    ),
    ("sampling/createMessage", {"role": "user", "content": _TEXT, "model": "a"}),
    ("elicitation/create", {"action": "accept", "content": {"a": "b"}}),
    ("roots/list", {"roots": [{"uri": "file:///a"}]}),
    ("tools/call", {"content": [_TEXT], "isError": False}),
    ("tools/call", {"content": [_TEXT, _TEXT], "structuredContent": {"a": 1}, "resultType": "complete"}),
    (
        "tools/call",
        {"content": [{"type": "image", "data": "YQ==", "mimeType": "a/b"}, {"type": "resource_link", "uri": "a:b"}]},
    ),
    (
        "tools/call",
        {"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}, "requestState": "a"},
    ),
    ("tools/list", {"tools": [{"name": "a", "inputSchema": {"type": "object"}}], "ttlMs": 0, "cacheScope": "private"}),
    ("resources/list", {"resources": [{"uri": "a:b", "name": "a"}], "nextCursor": "a"}),
    ("resources/read", {"contents": [{"uri": "a:b", "text": "a"}, {"uri": "a:b", "blob": "YQ=="}]}),
    ("server/discover", {"supportedVersions": ["2026-07-28"], "capabilities": {}}),
    ("completion/complete", {"completion": {"values": ["a"], "total": 1, "hasMore": False}}),
)
_KEYS: Final = sorted(
    {key for _, one in _GOOD for key in one} | {"_meta", "type", "text", "annotations", "task", "icons"}
)


def _made_shape(dice: random.Random) -> bytes:
    method, value = dice.choice(_GOOD)
    if dice.random() < 0.3:
        method = dice.choice(_METHODS)
    if dice.random() < 0.5:
        value = {**value, "_meta": {**_META, "progressToken": 1, eras.META_LOG_LEVEL: "info"}}
    value = _bent(dice, value, dice.choice((0.0, 0.03, 0.15)))
    tree = {"version": dice.choice(_VERSIONS), "method": method, "value": value}
    return grammar.mutated(dice, grammar.spelled(dice, tree))


def _bent(dice: random.Random, value: Any, often: float) -> Any:
    if dice.random() < often:
        return dice.choice((SECRET, SECRET, [SECRET], {"a": SECRET}, None, grammar.value(dice, 2)))
    given = jsonrpc.obj(value)
    if given is not None:
        table = {key: _bent(dice, one, often) for key, one in given.items() if dice.random() >= often}
        return {**table, dice.choice(_KEYS): _bent(dice, SECRET, 0.5)} if dice.random() < often else table
    entries = [_bent(dice, one, often) for one in jsonrpc.array(value)]
    return entries * dice.choice((1, 1, 1, 0, 3)) if entries else value


class _Shape(msgspec.Struct):
    version: str
    method: str
    value: msgspec.Raw


_shapes = msgspec.json.Decoder(_Shape)


def _validate(data: bytes) -> None:
    try:
        data.decode("utf-8")  # `jsonrpc.parse` and `jsonrpc.frame` let nothing else through
        case = _shapes.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    value, method = bytes(case.value), case.method
    version = case.version if case.version in _VERSIONS else eras.MODERN[-1]
    asked = jsonrpc.request(b"1", method, value)
    told = jsonrpc.notification(method, value)
    wrong = {
        "client_request": messages.client_request(version, method, asked),
        "server_request": messages.server_request(version, method, asked),
        "client_notification": messages.client_notification(version, method, told),
        "server_notification": messages.server_notification(version, method, told),
        "client_result": messages.client_result(version, method, value),
        "server_result": messages.server_result(version, method, value),
    }
    for text in wrong.values():
        _no_secret(text, case.value)
    modern = version in eras.MODERN
    try:
        strict = jsonrpc.strict_json(value, max_depth=64)
    except (errors.ParseError, errors.TooDeep):
        strict = None  # of a client: refused before
    if strict is not None and quick.request(method, value, modern=modern):
        assert wrong["client_request"] == "", "the quick shape takes what the full one refuses"
    if quick.notice(method, value):
        assert wrong["server_notification"] == "", "the quick shape takes what the full one refuses"
    found = quick.result(value, modern=modern)
    if found is not None:
        refused = messages.server_result(version, "tools/call", value)
        assert refused == "", f"the quick shape takes what the full one refuses: {refused}"
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        quick.failure(value)


def _no_secret(text: str, raw: bytes | msgspec.Raw) -> None:
    assert len(text) <= ERROR_CHARACTERS, f"an error of {len(text)} characters"
    # As a name it may stand in the place of an error, and a broken case may have made it one.
    if SECRET in text:
        assert _named(raw), f"the value is in the error: {text[:300]}"


def _named(raw: bytes | msgspec.Raw) -> bool:
    tree = jsonrpc.decode(raw)
    left = [tree]
    while left:
        one = left.pop()
        left += jsonrpc.array(one)
        table = jsonrpc.obj(one) or {}
        if any(SECRET in name for name in table):
            return True
        left += table.values()
    return False


# --- schemas ---

_HERE: Final = "HERE"
"""In a case: the address of a server that listens, and is never asked anything."""
_TYPES: Final = ("string", "integer", "number", "boolean", "null", "array", "object", ["string", "null"], "x")
_REFERENCES: Final = (
    "#", "#/", "#/$defs/a", "#/$defs/b", "#/$defs/c", "#/properties/a", "#/allOf/0", "#a", "#b", "#/~01", "#/$defs/9",
    "#/items/99999999", f"http://{_HERE}/x", f"http://{_HERE}/x#/a", f"//{_HERE}/x", "file:///etc/hostname", "x.json",
    "urn:a", "", "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema", 1, None,
)  # fmt: skip
_DRAFTS: Final = (
    "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema", f"http://{_HERE}/meta", "x", 1,
)  # fmt: skip
_PATTERNS: Final = (
    "a", "^a$", "(a+)+$", "^(a|a)*$", "(.*a){20}b", "[a-z]{1,50}", "(x{50}){50}", "((a{9}){9}){9}", "\\p{L}{200}",
    "(?=a)", "(a)\\1", "[", "(", "*", "\\", "a{,5}", "a{5", "\\d{1000}", "[^\\W\\d]{99}", "(?i)é{99}", "(?:", "[[:x:]]",
    "\0", "\ud800", "{3}", "a{99999999999}", "(?<n>a)(?P<n>b)", "(" * 300, "(a?){64}a{64}", ".{0,255}" * 9, 1,
)  # fmt: skip
_LIMITS: Final = (0, 1, 2, -1, 0.5, 1.0, 1e308, 1 << 63, 1 << 64, 10**40, "1", None, -0.0, 1e-320)
_NAMES: Final = ("a", "b", "c", "é", "", "a/b", "~", "$ref", "__proto__", "%25")


def _made_schema(dice: random.Random) -> bytes:
    schema: Any = _schema(dice, dice.choice((1, 2, 3, 4)))
    table = jsonrpc.obj(schema)
    if table is not None and dice.random() < 0.8:
        schema = {**table, "$defs": {name: _schema(dice, 2) for name in dice.sample("abc", dice.randrange(4))}}
        if dice.random() < 0.3:
            schema["$schema"] = dice.choice(_DRAFTS)
    for level in range(dice.choice((0, 0, 0, 0, 0, 0, 0, 5, 20, 70))):
        key = dice.choice(("allOf", "anyOf", "not", "properties", "items", "unevaluatedProperties"))
        if key.endswith("Of"):
            schema = {key: [schema] * (2 if level < 4 else 1)}
        else:
            schema = {key: {"a": schema} if key == "properties" else schema}
    value = _fitting(dice, schema, 4) if dice.random() < 0.7 else grammar.value(dice)
    if dice.random() < 0.1:
        value = dice.choice((["a"] * 9000, {str(n): n for n in range(2000)}, "a" * 30_000, [[value] * 30] * 30))
    data = grammar.spelled(dice, {"schema": schema, "value": value})
    return grammar.mutated(dice, data) if dice.random() < 0.3 else data


def _schema(dice: random.Random, depth: int) -> Any:
    if dice.random() < 0.06:
        others: tuple[Any, ...] = (True, True, False, False, {}, None, [], grammar.value(dice, 2))
        return dice.choice(others)
    made: dict[str, Any] = {}
    for _ in range(dice.randrange(1, 4)):
        key = dice.choice(_KEYWORDS if depth else _LEAVES)
        made[key] = _argument(dice, key, depth - 1) if dice.random() < 0.99 else grammar.value(dice, 2)
    return made


_SCHEMA_KEYS: Final = (
    "not", "if", "then", "else", "additionalProperties", "propertyNames", "additionalItems", "contains", "items",
    "unevaluatedProperties", "unevaluatedItems", "contentSchema",
)  # fmt: skip
_LIST_KEYS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAP_KEYS: Final = ("properties", "properties", "patternProperties", "dependentSchemas", "dependencies", "$defs")
_LIMIT_KEYS: Final = (
    "minimum", "maximum", "exclusiveMinimum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
_LEAVES: Final = (
    "type", "type", "type", "type", "required", "pattern", "enum", "const", "enum",
    "pattern", "required", "$ref", "$ref", "uniqueItems", "format", "$id", "$anchor",
    "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary", "dependentRequired",
    "contentEncoding", "contentMediaType", *_LIMIT_KEYS,
)  # fmt: skip
_KEYWORDS: Final = (*_LEAVES, *_SCHEMA_KEYS, *_LIST_KEYS, *_LIST_KEYS, *_MAP_KEYS, *_MAP_KEYS)


def _argument(dice: random.Random, key: str, depth: int) -> Any:
    if key in _SCHEMA_KEYS:
        return _schema(dice, max(depth, 0))
    if key in _LIST_KEYS:
        return [_schema(dice, max(depth, 0)) for _ in range(dice.randrange(1, 3))]
    if key in _MAP_KEYS:
        names = _PATTERNS if key == "patternProperties" else _NAMES
        return {str(dice.choice(names)): _schema(dice, max(depth, 0)) for _ in range(dice.randrange(3))}
    if key in _LIMIT_KEYS:
        return dice.choice(_LIMITS)
    made: dict[str, Any] = {
        "type": dice.choice(_TYPES),
        "const": grammar.value(dice, 2),
        "enum": [grammar.value(dice, 1) for _ in range(dice.choice((0, 1, 3, 40)))],
        "pattern": dice.choice(_PATTERNS),
        "required": dice.choices(_NAMES, k=dice.randrange(3)),
        "uniqueItems": dice.choice((True, False, 1)),
        "dependentRequired": {dice.choice(_NAMES): [dice.choice(_NAMES)]},
        "$vocabulary": {f"http://{_HERE}/v": True},
        "contentEncoding": dice.choice(("base64", "x")),
        "contentMediaType": dice.choice(("application/json", "x")),
        "format": dice.choice(("date", "email", "regex", "uri", "uuid", "x")),
    }
    return made.get(key, dice.choice(_REFERENCES))


def _fitting(dice: random.Random, schema: Any, depth: int) -> Any:
    """A value that has something to do with the schema."""
    table = jsonrpc.obj(schema) or {}
    if depth and (names := jsonrpc.obj(table.get("properties"))) and dice.random() < 0.9:
        return {name: _fitting(dice, one, depth - 1) for name, one in names.items()}
    if depth and "items" in table:
        return [_fitting(dice, table["items"], depth - 1) for _ in range(dice.randrange(4))]
    for key in ("allOf", "anyOf", "oneOf"):
        if depth and (several := jsonrpc.array(table.get(key))):
            return _fitting(dice, dice.choice(several), depth - 1)
    if "const" in table:
        return table["const"]
    return dice.choice(
        (SECRET, SECRET, {"a": SECRET}, [SECRET], {"a": {"a": [1]}}, 1, 0.5, None, grammar.value(dice, 2))
    )


class _Case(msgspec.Struct):
    schema: msgspec.Raw
    value: msgspec.Raw


_cases = msgspec.json.Decoder(_Case)


def _schemas(data: bytes) -> None:
    listening, address = _listening()
    try:
        data.decode("utf-8")
        case = _cases.decode(data.replace(_HERE.encode(), address))
        value = jsonrpc.decode(case.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, errors.ParseError):
        return
    for left in reversed(range(TRIES)):
        began = time.process_time()
        _validated(case, value)
        took = time.process_time() - began
        if took < SCHEMA_CPU_S:
            break
        assert left, f"{took:.2f} s of the processor, every time"
    with pytest.raises(BlockingIOError):
        listening.accept()


def _validated(case: _Case, value: Any) -> None:
    raw = bytes(case.value)
    schema: schemas.Schema | None = None
    with contextlib.suppress(weight.UnfitError):
        schema = schemas.Schema(bytes(case.schema))
    if schema is not None:
        wrong = schema.wrong(value, raw)
        # What the schema says may be in an error: it is the server's own.
        if SECRET.encode() not in bytes(case.schema):
            _no_secret(wrong, case.value)
        assert schema.wrong(value, raw) == wrong
    _book(case, value, raw)


def _book(case: _Case, value: Any, raw: bytes) -> None:
    notes: list[str] = []
    book = tools.Book()
    table = jsonrpc.obj(value)
    for _ in range(2):
        book.listed(b'{"tools":[{"name":"a","inputSchema":%b,"outputSchema":%b}]}' % (case.schema, case.schema))
        first = book.structured("a", value, raw, notes.append)
        if table is not None:
            assert (book.arguments("a", table, raw, notes.append) == "") == (first == "")
    assert all(len(one) <= ERROR_CHARACTERS for one in notes)
    assert book.arguments("b", {}, b"{}", notes.append) == ""


@functools.cache
def _listening() -> tuple[socket.socket, bytes]:
    """Whoever asks for what a schema refers to would ask here."""
    made = socket.create_server(("127.0.0.1", 0))
    made.setblocking(False)
    return made, b"127.0.0.1:%d" % made.getsockname()[1]


TARGETS: Final = (
    Target("batches", _made_batch, _batches),
    Target("validate", _made_shape, _validate),
    Target("schemas", _made_schema, _schemas),
)
