"""Second readings, written for clarity: what the quick ones are compared with."""

import json
from typing import Any, NoReturn


class Refused(Exception):
    """The reference refuses it."""


def read(data: bytes, max_depth: int) -> Any:
    """The value of strict JSON (RFC 8259, RFC 7493). Raises `Refused`."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_refuse, parse_float=_float)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    if _depth(value) > max_depth:
        raise Refused("too deep")
    _look(value)
    return value


def same(one: Any, two: Any) -> bool:
    """Equal, and of the same types all the way down: 1, 1.0 and true are three things."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))  # pyright: ignore[reportUnknownArgumentType]
    return repr(one) == repr(two) if isinstance(one, float) else bool(one == two)


def events(data: bytes) -> list[tuple[str, bytes, str]]:
    """Type, data and last id of each event of a whole stream: WHATWG HTML, 9.2.6, line after line."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    found: list[tuple[str, bytes, str]] = []
    kind, buffer, last = b"", b"", b""
    for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        field, colon, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if not line:
            if buffer:
                found.append(
                    ((kind or b"message").decode("utf-8", "replace"), buffer[:-1], last.decode("utf-8", "replace"))
                )
            kind, buffer = b"", b""
        elif not field and colon:
            pass
        elif field == b"event":
            kind = value
        elif field == b"data":
            buffer += value + b"\n"
        elif field == b"id" and b"\0" not in value:
            last = value
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise Refused(f"{key!r} stands twice")
        seen.add(key)
    return dict(pairs)


def _refuse(name: str) -> NoReturn:
    raise Refused(name)


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Refused("out of range")
    return number


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)  # pyright: ignore[reportUnknownArgumentType]
    return 0


def _look(value: Any) -> None:
    if isinstance(value, str):
        if any(0xD800 <= ord(one) < 0xE000 for one in value):
            raise Refused("half of a surrogate pair")
    elif isinstance(value, dict):
        for key, sub in value.items():  # pyright: ignore[reportUnknownVariableType]
            _look(key)
            _look(sub)
    elif isinstance(value, list):
        for sub in value:  # pyright: ignore[reportUnknownVariableType]
            _look(sub)
