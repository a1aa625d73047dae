"""Every message against the shapes of its version of MCP, in both directions.

The shapes are `mcp-types`' (`mcp_types.methods`), which the reference SDK uses too. It has them for two eras:
what the older legacy versions lack is allowed there, as real servers send it. Members that no version knows pass, and
so do methods that it does not know: tasks, apps and other extensions are between a client and its server.

| | forgiven, because |
|---|---|
| legacy `tools/call` without `content` | the TypeScript SDK takes it for an empty list |
| legacy `tools/list`, a schema without `type` | the Python SDK reads it, and writes a model that refers to itself so |
| modern results whose `resultType` is an extension's | the extension says what they hold |
| a result without `resultType` | 2026-07-28 tells clients to take it as complete; it is checked as that |

All of this takes 5 to 20 µs a message, so `quick` comes first; what it does not know comes here.
"""

import contextlib
import functools
from typing import Any, Final, NamedTuple, cast, get_args

import pydantic
import pydantic_core
from mcp_types import methods

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.protocol.validate import schemas

_FORGIVEN: Final = frozenset(
    {
        ("tools/call", "missing", ("content",)),
        ("tools/list", "missing", ("tools", "inputSchema", "type")),
        ("tools/list", "missing", ("tools", "outputSchema", "type")),
    }
)
"""Method, kind of error, names on the way to it: for the legacy versions."""
_COMPLETE: Final = "complete"
_INPUT: Final = "input_required"
_TEXT: Final = 300
_LOOKED_AT: Final = 200
"""Errors of one message; a table of wrong entries may have any number of them."""


def client_request(version: str, method: str, body: bytes) -> str:
    """What is wrong with a client's request, with its place in the params as a JSON Pointer; empty when nothing is.

    `body` is the whole message, which was read before.
    """
    return _message(methods.CLIENT_REQUESTS.get((method, version)), body)


def client_notification(version: str, method: str, body: bytes) -> str:
    """As `client_request`."""
    return _message(methods.CLIENT_NOTIFICATIONS.get((method, version)), body)


def client_result(version: str, method: str, result: bytes) -> str:
    """What is wrong with a client's answer to the hosted server's request `method`."""
    return _result(methods.CLIENT_RESULTS.get((method, version)), method, result, ())


def server_request(version: str, method: str, line: bytes) -> str:
    """As `client_request`, for a legacy server that asks its client."""
    return _message(methods.SERVER_REQUESTS.get((method, version)), line)


def server_notification(version: str, method: str, line: bytes) -> str:
    """As `client_request`, for what a hosted server says."""
    return _message(methods.SERVER_NOTIFICATIONS.get((method, version)), line)


def server_result(version: str, method: str, result: bytes) -> str:
    """What is wrong with the result of a client's request `method`."""
    shape = methods.SERVER_RESULTS.get((method, version))
    if shape is None:
        return ""
    if version not in eras.MODERN:
        return _result(shape, method, result, ("legacy",))
    table = jsonrpc.obj(_decoded(result))
    kind = _COMPLETE if table is None else table.get("resultType", _COMPLETE)
    if not isinstance(kind, str):
        return "/resultType: Input should be a valid string"
    arms: list[Any] = list(get_args(shape)) or [shape]
    if kind == _INPUT and len(arms) > 1:
        # By hand: any of the two would take the other's members for extensions.
        if table is not None and not ("inputRequests" in table or "requestState" in table):
            return ": has neither inputRequests nor requestState"
        return _result(arms[1], method, result, ())
    return _result(arms[0], method, result, ("modern",)) if kind == _COMPLETE else ""


def _message(shape: Any, body: bytes) -> str:
    if shape is None:
        return ""
    try:
        _validator(shape).validate_json(body, by_name=False)
    except pydantic_core.ValidationError as error:
        table = jsonrpc.obj(_decoded(body)) or {}
        found = _worst(error, table)
        if found is None:
            return ""
        path, text = found
        return f"{schemas.pointer(path[1:] if path[:1] == ['params'] else path)}: {text}"
    return ""


def _result(shape: Any, method: str, result: bytes, forgiving: tuple[str, ...]) -> str:
    if shape is None:
        return ""
    try:
        _validator(shape).validate_json(result, by_name=False)
    except pydantic_core.ValidationError as error:
        found = _worst(error, _decoded(result), method if "legacy" in forgiving else "", "modern" in forgiving)
        return "" if found is None else f"{schemas.pointer(found[0])}: {found[1]}"
    return ""


@functools.cache
def _validator(shape: Any) -> pydantic_core.SchemaValidator:
    """One that stops at the first wrong entry of a list: a hundred thousand of them would take a second, and 300 MB.

    It makes no objects of the models either: only what is wrong is wanted.
    """
    schema = pydantic.TypeAdapter[Any](shape).core_schema
    return pydantic_core.SchemaValidator(cast("pydantic_core.CoreSchema", _hastened(schema)))


def _hastened(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return type(cast("list[Any]", node))(map(_hastened, cast("list[Any]", node)))
    if not isinstance(node, dict):
        return node
    table = {name: _hastened(one) for name, one in cast("dict[str, Any]", node).items() if name != "metadata"}
    if table.get("type") in ("list", "dict"):
        table["fail_fast"] = True
    elif table.get("type") == "union":
        # Told apart in errors, where all of them would have the name of their kind.
        table["choices"] = [(one, f"|{number}") for number, one in enumerate(table["choices"])]
    elif table.get("type") == "model":
        fields = {**table["schema"]}
        if "ref" in table:
            fields["ref"] = table["ref"]
        return fields
    return table


def _decoded(raw: bytes) -> Any:
    """What is wrong is looked up in it. Also with numbers beyond a float's range, which pass as they came."""
    try:
        return jsonrpc.decode(raw)
    except errors.ParseError:
        with contextlib.suppress(ValueError):
            return pydantic_core.from_json(raw)
    return None


def _worst(
    error: pydantic_core.ValidationError, value: Any, method: str = "", modern: bool = False
) -> tuple[list[str | int], str] | None:
    """The error that says most, and its place in `value`; None when all of it is forgiven."""
    found: list[tuple[_Place, str, str]] = []
    others: set[tuple[int | str, ...]] = set()
    for one in error.errors(include_url=False, include_context=False, include_input=False)[:_LOOKED_AT]:
        place = _place(one["loc"], value)
        names = tuple(part for part in place.path if isinstance(part, str))
        if (method, one["type"], names) in _FORGIVEN or (
            modern and (one["type"], names) == ("missing", ("resultType",))
        ):
            continue
        if one["type"] == "literal_error" and place.branches:
            others.add(place.branches[-1])
        found.append((place, one["type"], one["msg"][:_TEXT]))
    # Of a union, the branch whose name (`type`, `method`) the message bears says what is wrong with it.
    meant = [one for one in found if others.isdisjoint(one[0].branches)]
    if meant:
        place, _, text = max(meant, key=lambda one: len(one[0].path))
        return place.path, text
    literal = [one for one in found if one[1] == "literal_error"] or found
    return (literal[0][0].path, "is none that this version knows") if literal else None


class _Place(NamedTuple):
    path: list[str | int]
    branches: list[tuple[int | str, ...]]
    """Where the error's location goes into a branch of a union."""


def _place(location: tuple[int | str, ...], value: Any) -> _Place:
    """`location` without the names of models and branches that stand in it."""
    place = _Place([], [])
    for number, part in enumerate(location):
        table, entries = jsonrpc.obj(value), jsonrpc.array(value)
        if isinstance(part, int) and part < len(entries):
            value = entries[part]
        elif isinstance(part, str) and table is not None and part in table:
            value = table[part]
        elif not (isinstance(part, str) and table is not None and number == len(location) - 1) or part[:1] == "|":
            place.branches.append(location[: number + 1])
            continue
        place.path.append(part)
    return place
