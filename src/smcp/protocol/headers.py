"""Header rules of the modern wire: the field list, the value codec, and `Mcp-Param-*`.

Values that would not survive an HTTP field travel as `=?base64?…?=` (MCP 2026-07-28, "Streamable HTTP: Custom
headers"). A value is decoded once, strictly: what isn't canonical matches nothing.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Final

from smcp.kernel import errors, jsonrpc

PARAM_PREFIX: Final = "mcp-param-"
_SENTINEL = re.compile(r"=\?base64\?(?P<payload>.*)\?=", re.DOTALL)
_DECIMAL = re.compile(r"(?P<whole>-?[0-9]{1,400})(?:\.0{1,40})?", re.ASCII)
_SAFE = re.compile(r"[ -~]*", re.ASCII)
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords of JSON Schema whose members are schemas."""
_VALUES: Final = frozenset({"default", "const", "enum", "examples"})
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)


class Fields:
    """Header fields as they came, with lower-case names; duplicates stay visible.

    Space around a value is not part of it (RFC 9110, 5.5), whatever the HTTP parser left there.
    """

    __slots__ = ("_by_name", "_pairs", "memo", "repeated")

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs
        self._by_name = dict(pairs)
        self.repeated: Final = len(self._by_name) != len(pairs)
        """Does any name stand twice?"""
        self.memo: object = None
        """Whatever follows from these fields, for who is asked about them again."""

    @property
    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Names and values as they came."""
        return self._pairs

    def get(self, name: bytes) -> str | None:
        """The first value of `name` (lower case), or None."""
        found = self._by_name.get(name)
        if found is None:
            return None
        if self.repeated:
            found = next(value for key, value in self._pairs if key == name)
        return found.strip(b" \t").decode("latin-1")

    def count(self, name: bytes) -> int:
        """How often `name` was sent."""
        return sum(1 for key, _ in self._pairs if key == name)

    def only(self, name: bytes) -> str | None:
        """The value of a field that may stand once; raises `errors.BadRequest` when it stands twice."""
        found = self._by_name.get(name)
        if found is None:
            return None
        if self.repeated and self.count(name) > 1:
            raise errors.BadRequest(f"The header {name.decode('latin-1')} is sent twice.")
        return found.strip(b" \t").decode("latin-1")

    def names(self) -> Iterator[str]:
        """Every name, in order, duplicates too."""
        for key, _ in self._pairs:
            yield key.decode("latin-1")

    def size(self) -> int:
        """Bytes of all names and values."""
        return sum(map(len, itertools.chain.from_iterable(self._pairs)))


def decode(value: str) -> str | None:
    """The text that a header value stands for; None when its sentinel form is malformed."""
    match = _SENTINEL.fullmatch(value)
    if match is None:
        return value
    payload = match["payload"]
    try:
        raw = base64.b64decode(payload, validate=True)
        return raw.decode("utf-8") if base64.b64encode(raw).decode("ascii") == payload else None
    except (binascii.Error, ValueError):
        return None


def encode(text: str) -> str:
    """The header value that stands for `text`: itself where it survives an HTTP field, else its sentinel form."""
    if _SAFE.fullmatch(text) and text == text.strip() and _SENTINEL.fullmatch(text) is None:
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode('ascii')}?="


def mirrored(schema: object) -> tuple[tuple[tuple[str, ...], str], ...]:
    """What of a tool's arguments its schema tells to mirror: the path of each, and the end of the header's name."""
    return tuple((path, token) for path, token, _ in _annotated(schema))


def params(mirrors: Iterable[tuple[tuple[str, ...], str]], arguments: jsonrpc.Json) -> list[tuple[str, str]]:
    """The `Mcp-Param-*` headers of a call. An argument that is absent, or has no header form, has none."""
    found: list[tuple[str, str]] = []
    for path, token in mirrors:
        value = _at(arguments, path)
        rendered = str(int(value)) if isinstance(value, float) and _is_integral(value) else _render(value)
        if rendered is not None:
            found.append((f"Mcp-Param-{token}", encode(rendered)))
    return found


def wrong_mirror(schema: object) -> str:
    """Why a client must refuse a tool with this schema; empty when its `x-mcp-header` annotations are right.

    They belong on strings, integers and booleans that are reached through `properties` alone, name a token
    (RFC 9110, 5.6.2), and differ from each other in more than case (MCP 2026-07-28, "Tools: x-mcp-header").
    """
    right = [token for _, token, _ in _annotated(schema)]
    for token in right:
        if sum(1 for other in right if other.lower() == token.lower()) > 1:
            return f"two properties have the x-mcp-header {token!r}"
    if sum(1 for node in _schemas(schema) if "x-mcp-header" in node) != len(right):
        return "an x-mcp-header is no token, or where none belongs"
    return ""


def _schemas(schema: object) -> Iterator[jsonrpc.Json]:
    """Every object in `schema` that is a schema itself, and not a value."""
    stack: list[object] = [schema]
    while stack:
        value = stack.pop()
        node = jsonrpc.obj(value)
        if node is None:
            stack.extend(jsonrpc.array(value))
            continue
        yield node
        for key, below in node.items():
            if key in _NAMED:
                stack.extend((jsonrpc.obj(below) or {}).values())
            elif key not in _VALUES:
                stack.append(below)


def check_params(schema: object, arguments: jsonrpc.Json, fields: Fields) -> None:
    """Compare `Mcp-Param-*` headers with the arguments that the tool's schema tells to mirror.

    Raises `errors.HeaderMismatch` (-32020) for a header that is missing, sent twice, malformed or different, and for
    one that mirrors a value which the body does not have.
    """
    for path, token, kind in _annotated(schema):
        name = (PARAM_PREFIX + token.lower()).encode("ascii")
        if fields.count(name) > 1:
            raise errors.HeaderMismatch(f"The header Mcp-Param-{token} is sent twice.")
        told, value = fields.get(name), _at(arguments, path)
        rendered = _render(value)
        if told is None and rendered is None:
            continue  # an absent argument, or a list or object, which has no header form: the server will refuse it
        if told is None or rendered is None or not _same(kind, decode(told), value, rendered):
            raise errors.HeaderMismatch(f"Mcp-Param-{token} is missing or differs from '{'.'.join(path)}' in the body.")


def _annotated(schema: object) -> Iterator[tuple[tuple[str, ...], str, str]]:
    # Only properties reached through `properties` alone may be annotated.
    stack: list[tuple[tuple[str, ...], object]] = [((), schema)]
    while stack:
        path, value = stack.pop()
        node = jsonrpc.obj(value)
        if node is None:
            continue
        token, kind = node.get("x-mcp-header"), node.get("type")
        if path and isinstance(token, str) and _TOKEN.fullmatch(token) and kind in ("string", "integer", "boolean"):
            yield path, token, kind
        stack.extend(((*path, name), sub) for name, sub in (jsonrpc.obj(node.get("properties")) or {}).items())


def _at(arguments: jsonrpc.Json, path: tuple[str, ...]) -> object:
    node: object = arguments
    for key in path:
        members = jsonrpc.obj(node)
        if members is None:
            return None
        node = members.get(key)
    return node


def _render(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    return None


def _same(kind: str, told: str | None, value: object, rendered: str) -> bool:
    if told is None:
        return False
    if kind == "integer" and _is_integral(value):
        match = _DECIMAL.fullmatch(told)
        if match is not None:
            # 42 and 42.0 are the same integer (SHOULD, same page).
            return int(match["whole"]) == value
    return told == rendered


def _is_integral(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
