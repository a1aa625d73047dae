"""How much work a JSON Schema can make, found before it is compiled.

A hosted server chooses its schemas, and all tenants share the thread that applies them. The engine
(jsonschema-rs) has no clock, so what it may be asked is bounded beforehand:

- size and depth of the schema (deep nesting);
- how many subschemas it holds once every reference is written out, and every `unevaluated…` counted twice (bombs of
  `$ref` or `allOf` that double at each level). What refers to itself is counted once: the engine remembers what
  it has found out about a place;
- no reference that leads back to itself without going down into the value: it would never end;
- how large its patterns become, repetitions multiplied. The engine's regular expressions never go back, but each
  character may cost as much as the pattern is large.
"""

from typing import Any, Final, NamedTuple

from smcp.kernel import jsonrpc

MAX_BYTES: Final = 128 * 1024
MAX_DEPTH: Final = 64
MAX_STEPS: Final = 50_000
MAX_PATTERN: Final = 20_000

_MANY: Final = ("allOf", "anyOf", "oneOf")
_ONE: Final = ("not", "if", "then", "else")
_MAPS: Final = ("dependentSchemas", "dependencies")
_DOWN_MAPS: Final = ("properties", "patternProperties")
_DOWN_ONE: Final = ("additionalProperties", "propertyNames", "additionalItems", "contains", "items")
_UNEVALUATED: Final = ("unevaluatedProperties", "unevaluatedItems")
_DYNAMIC: Final = ("$dynamicRef", "$recursiveRef")
_WIDE: Final = 4
"""How many states a class of all characters takes, where a letter takes one: UTF-8 has four lengths."""


class UnfitError(Exception):
    """The schema is not applied. The text says why."""


class Weight(NamedTuple):
    """What applying a schema may cost."""

    steps: int
    """Subschemas that may be applied at one place of a value."""
    pattern: int
    """States of its regular expressions."""
    recursive: bool
    """It refers to itself."""


def measure(schema: jsonrpc.Json) -> Weight:
    """The weight of a schema. Raises `UnfitError` when it is too heavy, or refers to something outside of it."""
    walk = _Walk(schema)
    try:
        steps, pattern = walk.weigh(schema)
        walk.refuse_circles()
    except RecursionError:
        raise UnfitError("its references are chained too deep") from None
    return Weight(steps, pattern, walk.recursive)


class _Walk:
    def __init__(self, root: jsonrpc.Json) -> None:
        self._root = root
        self._anchors: dict[str, jsonrpc.Json] = {}
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()
        self._beside: dict[int, list[jsonrpc.Json]] = {}
        """Schema → those that are applied to the same place."""
        self.recursive = False
        self._collect(root, 0)

    def _collect(self, value: Any, depth: int) -> None:
        """Anchors, and what makes a schema one that is not followed here."""
        if depth > MAX_DEPTH:
            raise UnfitError(f"it is nested deeper than {MAX_DEPTH} levels")
        table = jsonrpc.obj(value)
        if table is None:
            for one in jsonrpc.array(value):
                self._collect(one, depth + 1)
            return
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(table.get(key), str):
                self._anchors[table[key]] = table
        if isinstance(table.get("$id"), str) and table is not self._root:
            if not table["$id"].startswith("#"):
                raise UnfitError("a part of it has an $id of its own")
            self._anchors[table["$id"][1:]] = table
        for one in table.values():
            self._collect(one, depth + 1)

    def weigh(self, schema: Any) -> tuple[int, int]:
        """Subschemas in `schema`, references written out, and the states of the patterns in all of them."""
        table = jsonrpc.obj(schema)
        if table is None:
            return 1, 0
        key = id(table)
        if key in self._known:
            return self._known[key]
        if key in self._open:
            self.recursive = True
            return 1, 0
        self._open.add(key)
        beside = self._applied(table)
        self._beside[key] = [found for one in beside if (found := jsonrpc.obj(one)) is not None]
        steps, states = 1 + _listed(table), sum(map(pattern_weight, _patterns(table)))
        for one in (*beside, *_below(table)):
            more = self.weigh(one)
            steps, states = steps + more[0], states + more[1]
        if any(name in table for name in _UNEVALUATED):
            # What is left over is known only after everything else was looked at again.
            steps, states = 2 * steps, 2 * states
        if steps > MAX_STEPS:
            raise UnfitError(f"written out it has more than {MAX_STEPS} parts")
        if states > MAX_PATTERN:
            raise UnfitError("its patterns are too large")
        self._open.discard(key)
        self._known[key] = steps, states
        return steps, states

    def _applied(self, table: jsonrpc.Json) -> list[Any]:
        for name in _DYNAMIC:
            if name in table:
                raise UnfitError(f"it uses {name}")
        found: list[Any] = [table[name] for name in _ONE if name in table]
        for name in _MANY:
            found += jsonrpc.array(table.get(name))
        for name in _MAPS:
            found += (jsonrpc.obj(table.get(name)) or {}).values()
        if "$ref" in table:
            found.append(self._target(table["$ref"]))
        return found

    def _target(self, reference: Any) -> Any:
        """What a reference within the schema leads to (JSON Pointer, RFC 6901, or an anchor)."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            # Neither the network nor a file is ever asked for one.
            raise UnfitError("it refers to something outside of it")
        place = reference[1:]
        if place and not place.startswith("/"):
            if place not in self._anchors:
                raise UnfitError("it refers to an anchor that is not there")
            return self._anchors[place]
        found: Any = self._root
        for part in place.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            table = jsonrpc.obj(found)
            if table is not None and key in table:
                found = table[key]
            elif table is None and key.isdigit() and len(key) < 6 and int(key) < len(jsonrpc.array(found)):
                found = found[int(key)]
            else:
                raise UnfitError("it refers to a place that is not there")
        return found

    def refuse_circles(self) -> None:
        """Raise `UnfitError` where a schema applies itself to the same place."""
        done: set[int] = set()
        path: set[int] = set()

        def visit(table: jsonrpc.Json) -> None:
            key = id(table)
            if key in path:
                raise UnfitError("it refers to itself in a circle")
            if key in done:
                return
            path.add(key)
            for one in self._beside.get(key, ()):
                visit(one)
            path.discard(key)
            done.add(key)

        for key in list(self._beside):
            for one in self._beside[key]:
                visit(one)


def _below(table: jsonrpc.Json) -> list[Any]:
    """Schemas that are applied to what a value holds."""
    found: list[Any] = [table[name] for name in (*_DOWN_ONE, *_UNEVALUATED) if name in table]
    for name in _DOWN_MAPS:
        found += (jsonrpc.obj(table.get(name)) or {}).values()
    return found + jsonrpc.array(table.get("prefixItems")) + jsonrpc.array(table.get("items"))


def _patterns(table: jsonrpc.Json) -> list[str]:
    found = list(jsonrpc.obj(table.get("patternProperties")) or ())
    return [*found, table["pattern"]] if isinstance(table.get("pattern"), str) else found


def _listed(table: jsonrpc.Json) -> int:
    """Values that are compared one after the other."""
    return len(jsonrpc.array(table.get("enum"))) // 4 + len(jsonrpc.array(table.get("required"))) // 4


def pattern_weight(pattern: str) -> int:
    """How many states a regular expression has at most, about: letters and classes, repetitions multiplied."""
    groups: list[int] = []
    total, atom, at = 1, 0, 0
    while at < len(pattern):
        sign = pattern[at]
        step = 1
        if sign == "(":
            groups.append(total + atom)
            total, atom = 1, 0
        elif sign == ")":
            inner = total + atom
            total, atom = (groups.pop(), inner) if groups else (inner, 0)
        elif sign == "{" and (repeat := _repeat(pattern, at)) is not None:
            times, step = repeat
            atom *= times
        elif sign not in "*+?|^$":
            step, width = _atom(pattern, at)
            total, atom = total + atom, width
        at += step
        if total + atom > MAX_PATTERN:
            return MAX_PATTERN + 1
    return sum(groups) + total + atom


def _repeat(pattern: str, at: int) -> tuple[int, int] | None:
    """`{2,5}`: how often at most, and how long that is."""
    end = pattern.find("}", at)
    least, _, most = pattern[at + 1 : end].partition(",") if 0 < end < at + 16 else ("", "", "")
    if not least.isdigit() or (most and not most.isdigit()):
        return None
    return max(int(least), int(most or least)) + 1, end - at + 1


def _atom(pattern: str, at: int) -> tuple[int, int]:
    """One character or class: how long it is, and how many states it takes."""
    if pattern[at] == "\\":
        return 2, _WIDE if pattern[at + 1 : at + 2] in tuple("DWSpP") else 1
    if pattern[at] != "[":
        return 1, _WIDE if pattern[at] == "." else 1
    end = at + 1
    while end < len(pattern) and (pattern[end] != "]" or end == at + 1):
        end += 2 if pattern[end] == "\\" else 1
    return end + 1 - at, _WIDE if pattern[at + 1 : at + 2] == "^" or "\\" in pattern[at:end] else 1
