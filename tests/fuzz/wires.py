"""Targets that are pure functions: JSON, the envelope, event streams, header fields, the ladder of the eras."""

import contextlib
import json
import random
import re
from typing import Any, Final

import pytest
from mcp.shared import inbound

from fuzz import grammar, reference
from fuzz.engine import Target
from smcp.deploy.workers import jsonc, wrangler
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, headers, sse

DEPTH: Final = 64
_LONG: Final = re.compile(r"[0-9.eE+-]{400}")


def _json(data: bytes) -> None:
    try:
        expected = reference.read(data, DEPTH)
    except reference.Refused:
        with pytest.raises((errors.ParseError, errors.TooDeep)):
            jsonrpc.strict_json(data, max_depth=DEPTH)
        return
    found = jsonrpc.strict_json(data, max_depth=DEPTH)
    assert reference.same(found, expected), f"{found!r:.200} is not {expected!r:.200}"


def _wrangler(data: bytes) -> None:
    """JSON with comments: what plain JSON is, and a Worker or a refusal of all else."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(errors.DeployFailed):
        wrangler.translate("wrangler.jsonc", text)
    try:
        expected = reference.read(text.encode(), jsonc.DEEPEST)
    except reference.Refused:
        return
    if isinstance(expected, dict) and not _LONG.search(text):
        assert reference.same(jsonc.loads(text)[0], expected)


def _envelope(data: bytes) -> None:
    try:
        message = jsonrpc.parse(data, max_depth=DEPTH)
    except (errors.ParseError, errors.TooDeep, errors.BadRequest, errors.InvalidParams):
        return
    tree = reference.read(data, DEPTH)
    assert message.body == data
    assert tree["jsonrpc"] == "2.0"
    assert message.method == tree.get("method", "")
    assert reference.same(message.params, tree.get("params", {}) if "method" in tree else {})
    assert (message.id == b"") == ("id" not in tree)
    if message.id:
        assert reference.same(json.loads(message.id), tree["id"])
    if message.params_raw:
        assert reference.same(reference.read(message.params_raw, DEPTH), tree["params"])
    if message.kind is jsonrpc.Kind.RESPONSE:
        assert "method" not in tree
        return
    assert (message.kind is jsonrpc.Kind.REQUEST) == ("id" in tree)
    if message.id:
        again = jsonrpc.request(message.id, message.method, message.params_raw)
    else:
        again = jsonrpc.notification(message.method, message.params_raw)
    twice = jsonrpc.parse(again, max_depth=DEPTH)
    assert (twice.kind, twice.method, twice.id) == (message.kind, message.method, message.id)
    assert reference.same(twice.params, message.params)


def _frame(data: bytes) -> None:
    try:
        frame = jsonrpc.frame(data)
    except errors.ParseError:
        return
    data.decode("utf-8")
    tree = jsonrpc.obj(json.loads(data))
    assert tree is not None
    assert tree["jsonrpc"] == "2.0"
    assert frame.method == tree.get("method", "")
    for name in ("id", "params", "result", "error"):
        raw = bytes(getattr(frame, name))
        assert (raw == b"") == (name not in tree), f"{name} is {raw[:80]!r}"
        if raw:
            assert reference.same(json.loads(raw), tree[name])
            with contextlib.suppress(errors.ParseError):
                jsonrpc.decode(raw)


def _decode(data: bytes) -> None:
    with contextlib.suppress(errors.ParseError):
        jsonrpc.decode(data)


def _sse(data: bytes) -> None:
    written = sse.event(data)
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert reference.events(written) == [("message", lines, "")]
    expected = reference.events(data)
    dice = random.Random(data)
    for pieces in ([data], [data[at : at + 1] for at in range(min(len(data), 3000))], grammar.pieces(dice, data)):
        if sum(map(len, pieces)) == len(data):
            reader = sse.Parser(line_bytes=len(data) + 1, event_bytes=len(data) + 1)
            assert [tuple(event) for piece in pieces for event in reader.feed(piece)] == expected
    narrow = sse.Parser(line_bytes=16, event_bytes=40)
    with contextlib.suppress(errors.TooLarge):
        for piece in grammar.pieces(dice, data):
            assert all(len(event.data) <= 40 for event in narrow.feed(piece))


def _codec(data: bytes) -> None:
    value = data.decode("latin-1")
    found = headers.decode(value)
    if found is not None:
        assert found == value or headers.decode(inbound.encode_header_value(found)) == found
    with contextlib.suppress(UnicodeDecodeError):
        meant = data.decode("utf-8")
        assert headers.decode(inbound.encode_header_value(meant)) == meant
    try:
        theirs = inbound.decode_header_value(value)
    except ValueError:
        theirs = None  # the reference does not expect a payload beyond ASCII
    # Ours is the stricter reading: where it takes a value, the reference reads the same.
    assert found is None or found == theirs, f"{found!r} is not {theirs!r}"


def _made_params(dice: random.Random) -> bytes:
    kind = dice.choice(("string", "integer", "boolean", "number", 1))
    schema: Any = {"type": kind, "x-mcp-header": dice.choice(("A", "a-b", "Region", "", "é", 1))}
    path: list[str] = []
    arguments = grammar.value(dice, 2)
    told = json.dumps(arguments) if not isinstance(arguments, str) else arguments
    for _ in range(dice.randrange(1, 4)):
        path.append(grammar.text(dice))
        schema = {
            "type": "object",
            "properties": {path[-1]: schema, **({"b": grammar.value(dice)} if dice.random() < 0.2 else {})},
        }
        arguments = {path[-1]: arguments}
    pairs = [["mcp-param-a", told], ["mcp-param-region", told], [grammar.text(dice), grammar.text(dice)]]
    tree = {"schema": schema, "arguments": arguments, "fields": dice.choices(pairs, k=dice.randrange(3))}
    return grammar.mutated(dice, grammar.spelled(dice, tree))


def _params(data: bytes) -> None:
    try:
        tree = jsonrpc.obj(jsonrpc.strict_json(data, max_depth=DEPTH))
    except (errors.ParseError, errors.TooDeep):
        return
    arguments = jsonrpc.obj((tree or {}).get("arguments"))
    if tree is None or arguments is None:
        return
    fields = _fields(tree.get("fields"))
    with contextlib.suppress(errors.HeaderMismatch):
        headers.check_params(tree.get("schema"), arguments, fields)
    with contextlib.suppress(errors.BadRequest):
        for name in fields.names():
            fields.only(name.encode("latin-1"))


def _fields(given: object) -> headers.Fields:
    pairs: list[tuple[bytes, bytes]] = []
    for pair in jsonrpc.array(given):
        match pair:
            case [str(name), str(said)]:
                pairs.append((name.lower().encode("latin-1", "replace"), said.encode("latin-1", "replace")))
            case _:
                pass
    return headers.Fields(pairs)


_CAPABILITIES: Final[tuple[Any, ...]] = ({}, {}, {"roots": {}}, None, [], "")


def _made_era(dice: random.Random) -> bytes:
    version = dice.choice(("2026-07-28", "2026-07-28", "2025-11-25", "2099-01-01", grammar.value(dice, 1)))
    meta: Any = {
        eras.META_VERSION: version,
        eras.META_CAPABILITIES: dice.choice(_CAPABILITIES),
    }
    method = dice.choice(("tools/call", "prompts/get", "resources/read", "ping", grammar.text(dice)))
    name: Any = dice.choice((grammar.text(dice), grammar.value(dice, 2)))
    params: Any = {"_meta": meta, "name": name, "uri": name}
    fields = [["mcp-protocol-version", str(version)], ["mcp-method", method], ["mcp-name", str(name)]]
    if dice.random() < 0.3:
        fields.append([dice.choice(("mcp-protocol-version", "mcp-method", "mcp-name", "host")), grammar.text(dice)])
    return grammar.mutated(dice, grammar.spelled(dice, {"method": method, "params": params, "fields": fields}))


def _eras(data: bytes) -> None:
    try:
        tree = jsonrpc.obj(jsonrpc.strict_json(data, max_depth=DEPTH)) or {}
    except (errors.ParseError, errors.TooDeep):
        return
    params, method = jsonrpc.obj(tree.get("params")), tree.get("method")
    if params is None or not isinstance(method, str):
        return
    fields = _fields(tree.get("fields"))
    version = fields.get(b"mcp-protocol-version")
    assert (eras.of_header(version) is eras.Era.LEGACY) == (version is None or version in eras.LEGACY)
    with contextlib.suppress(errors.HeaderMismatch):
        eras.check_legacy(version, params)
        assert (jsonrpc.obj(params.get("_meta")) or {}).get(eras.META_VERSION) not in eras.MODERN
    with contextlib.suppress(errors.HeaderMismatch, errors.InvalidParams, errors.UnsupportedVersion):
        told = eras.standard(fields)
        found = eras.check_modern(told, method, params)
        assert found == version == params["_meta"][eras.META_VERSION]
        assert found in eras.MODERN
        assert told.method == method
        member = eras.NAMED.get(method)
        assert member is None or params.get(member) in (None, told.name)


TARGETS: Final = (
    Target("json", grammar.json_like, _json),
    Target("wrangler", grammar.json_like, _wrangler),
    Target("envelope", grammar.envelope, _envelope),
    Target("frame", grammar.envelope, _frame),
    Target("decode", grammar.json_like, _decode),
    Target("sse", grammar.stream, _sse),
    Target("header-codec", grammar.coded, _codec),
    Target("header-params", _made_params, _params),
    Target("eras", _made_era, _eras),
)
