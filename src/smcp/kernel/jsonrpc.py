"""The one canonical reading of JSON from outside, and the JSON-RPC 2.0 envelope.

Everything that policy looks at comes from this reading; there is no second one. It refuses what two parsers could
read differently (duplicate keys at any depth, a BOM, NaN and Infinity, lone surrogates) and what could
hurt (deep nesting). Ids and params are also kept as the bytes they came as, so that they are forwarded untouched
(a parser differential between us and a hosted server would need bytes that both refuse to call ambiguous).

MCP narrows JSON-RPC: ids are strings or integers, never null; params are objects (MCP, "Base protocol: Messages").
"""

import enum
import itertools
import json
import math
import re
from typing import Any, Final, NoReturn, cast

import msgspec

from smcp.kernel import errors

Json = dict[str, Any]

MAX_ID_BYTES: Final = 256
"""Longest request id that is taken; SDKs use a counter or a UUID."""

_TEXTS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_STEPS: Final = tuple(1 if byte in b"[{" else -1 for byte in range(256))


class Kind(enum.Enum):
    """What a JSON-RPC message is."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


class Message(msgspec.Struct, frozen=True):
    """A message from a client: decoded once, with the raw parts that are forwarded."""

    kind: Kind
    method: str
    """Empty for a response."""
    params: Json
    """Decoded params; empty when there are none. What policy reads."""
    id: bytes
    """The id as it came, JSON-encoded; empty for a notification."""
    params_raw: bytes
    """The params as they came; empty when there are none."""
    body: bytes
    """The whole message as it came."""


class Frame(msgspec.Struct):
    """A message from a hosted server: the envelope only, everything else raw."""

    jsonrpc: str = ""
    id: msgspec.Raw = msgspec.Raw()
    method: str = ""
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_frames = msgspec.json.Decoder(Frame)
_whole = msgspec.json.Decoder(msgspec.Raw)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def strict_json(data: bytes, *, max_depth: int) -> Any:
    """The value in `data`. Raises `errors.ParseError` or `errors.TooDeep`; never anything else."""
    _refuse_deep(data, max_depth)
    try:
        # Most messages are written the way they would be written again: what comes back byte for byte the same has
        # lost nothing, so no key stood twice, and needs no second, slower reading.
        value = _decode(data)
        again = _encode(value)
        if again == data or again == msgspec.json.format(data, indent=-1):
            return value
    except (ValueError, RecursionError):
        pass  # whether it is wrong, and how, the strict decoder says
    try:
        if b"\\u" in data:
            _whole.decode(data)  # refuses escaped lone surrogates, which the other decoder lets through
        return _strict.decode(data.decode("utf-8"))
    except errors.ParseError:
        raise
    except (ValueError, RecursionError) as error:  # all three decoders raise ValueErrors
        raise errors.ParseError(f"The body is not valid JSON: {_reason(error)}.") from error


def parse(data: bytes, *, max_depth: int) -> Message:
    """The client's message in `data`.

    Raises `errors.ParseError` (-32700), `errors.TooDeep` or `errors.BadRequest` (-32600), which name what is wrong. An
    array is refused here: batches exist on one wire only (2025-03-26) and are split before this.
    """
    tree = obj(strict_json(data, max_depth=max_depth))
    if tree is None:
        raise errors.BadRequest("A JSON-RPC message is a JSON object; batches are not accepted on this wire.")
    try:
        frame = _frames.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.BadRequest("The JSON-RPC envelope has a member of a wrong type.") from error
    return _message(tree, frame, data)


def split(data: bytes, *, max_depth: int, most: int) -> list[bytes]:
    """The members of the JSON array in `data`, each as it came, to be read by `parse` one by one.

    Raises `errors.ParseError` and `errors.TooDeep` for the array as a whole, `errors.BadRequest` when it is empty
    (JSON-RPC 2.0, 6) and `errors.TooLarge` when it has more than `most` members: not one more is read.
    """
    _refuse_deep(data, max_depth + 1)
    members: list[bytes] = []
    try:
        text = data.decode("utf-8")
        place = _after_blanks(text, 0)
        if text[place : place + 1] != "[":
            raise errors.ParseError("The body is not valid JSON: an array was expected.")
        place = _after_blanks(text, place + 1)
        if text[place : place + 1] == "]":
            raise errors.BadRequest("A batch has at least one message.")
        while True:
            if len(members) == most:
                raise errors.TooLarge(f"A batch has at most {most} messages: send more of them.")
            _, end = _strict.raw_decode(text, place)
            members.append(text[place:end].encode())
            place = _after_blanks(text, end)
            if text[place : place + 1] != ",":
                break
            place = _after_blanks(text, place + 1)
    except errors.SmcpError:
        raise
    except (ValueError, RecursionError) as error:
        raise errors.ParseError(f"The body is not valid JSON: {_reason(error)}.") from error
    if text[place : place + 1] != "]" or _after_blanks(text, place + 1) != len(text):
        raise errors.ParseError(f"The body is not valid JSON: character {place} does not go on or end the array.")
    return members


def _after_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return place if found is None else found.end()


def frame(line: bytes) -> Frame:
    """The envelope of a hosted server's message. Raises `errors.ParseError` when it isn't one."""
    try:
        if not line.isascii():
            line.decode("utf-8")  # what is passed on raw is not looked at again
        found = _frames.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.ParseError("The hosted server sent a line that is not a JSON-RPC message.") from error
    if found.jsonrpc != "2.0":
        raise errors.ParseError("The hosted server sent JSON that is not JSON-RPC 2.0.")
    return found


def decode(raw: bytes | msgspec.Raw) -> Any:
    """The value of raw JSON that came from a hosted server or from `Message`. Raises `errors.ParseError`."""
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 raise no DecodeError
        raise errors.ParseError("A part of the message is not valid JSON.") from error


def request(id_raw: bytes, method: str, params_raw: bytes = b"") -> bytes:
    """A request from raw parts."""
    head = b'{"jsonrpc":"2.0","id":%b,"method":%b' % (id_raw, _encode(method))
    return head + (b',"params":%b}' % params_raw if params_raw else b"}")


def notification(method: str, params_raw: bytes = b"") -> bytes:
    """A notification from raw parts."""
    head = b'{"jsonrpc":"2.0","method":%b' % _encode(method)
    return head + (b',"params":%b}' % params_raw if params_raw else b"}")


def result(id_raw: bytes, result_raw: bytes | msgspec.Raw) -> bytes:
    """A successful response from raw parts."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_raw, result_raw)


def failure(id_raw: bytes, error_raw: bytes | msgspec.Raw) -> bytes:
    """An error response from raw parts."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id_raw or b"null", error_raw)


def error(id_raw: bytes, code: int, message: str, data: Any = None) -> bytes:
    """An error response. `id_raw` empty: the id could not be read, null is sent (JSON-RPC 2.0, §5)."""
    body: Json = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return failure(id_raw, _encode(body))


def obj(value: object) -> Json | None:
    """`value` if it is a JSON object, else None."""
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType] - once a call, many calls


def array(value: object) -> list[Any]:
    """`value` if it is a JSON array, else an empty list."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def encode(value: Any) -> bytes:
    """Compact JSON of builtin values and structs."""
    return _encode(value)


def _message(tree: Json, frame: Frame, data: bytes) -> Message:
    if tree.get("jsonrpc") != "2.0":
        raise errors.BadRequest('The message lacks "jsonrpc": "2.0".')
    id_raw = _id(tree, frame)
    if "method" not in tree:
        if not id_raw or ("result" in tree) == ("error" in tree):
            raise errors.BadRequest("The message is neither a request nor a response.")
        return Message(Kind.RESPONSE, "", {}, id_raw, b"", data)
    if "result" in tree or "error" in tree:
        raise errors.BadRequest("A message has either a method or a result, not both.")
    params = obj(tree.get("params", {}))
    if params is None:
        raise errors.InvalidParams("MCP params are a JSON object.")
    kind = Kind.REQUEST if id_raw else Kind.NOTIFICATION
    raw = bytes(frame.params) if "params" in tree else b""
    return Message(kind, frame.method, params, id_raw, raw, data)


def _id(tree: Json, frame: Frame) -> bytes:
    if "id" not in tree:
        return b""
    if type(tree["id"]) not in (str, int):
        raise errors.BadRequest("A request id is a string or an integer.")
    raw = bytes(frame.id)
    if len(raw) > MAX_ID_BYTES:
        raise errors.BadRequest(f"A request id has at most {MAX_ID_BYTES} bytes.")
    return raw


def _refuse_deep(data: bytes, max_depth: int) -> None:
    # Fewer opening brackets than the cap, wherever they stand: most messages need no scan.
    if data.count(b"{") + data.count(b"[") <= max_depth:
        return
    brackets = _TEXTS.sub(b"", data).translate(None, _NOT_BRACKETS)
    # Without a loop of Python's own: a body of nothing but brackets must not hold everybody else up.
    if max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth:
        raise errors.TooDeep(f"The body is nested deeper than {max_depth} levels.")


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise errors.ParseError("The body has an object with the same key twice.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise errors.ParseError(f"The body is not valid JSON: {name} is not a JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise errors.ParseError("The body is not valid JSON: a number is out of range.")
    return number


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return "a number or a text is out of range"


# One decoder for all: json.loads builds a new one per call when it is given hooks.
_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)
