"""Makes inputs: well formed ones from small grammars, and broken ones from those.

Random bytes alone hardly get past the first byte of a parser. What two parsers disagree about is one step away from
what they agree about.
"""

import base64
import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

TEXTS: Final = (
    "", "a", "id", "method", "2.0", "jsonrpc", "params", "_meta", "ping", "tools/call", "tools/list", "do", "é", "名",
    "\U0001f600", "\0", '"', "\\", "\u2028", "\x7f", " ", "\t", "a b", "=?base64?YQ==?=", "null", "1", "2026-07-28",
    "2025-11-25", "__proto__", "constructor", "../..", "%2e%2e", "{{7*7}}", "notifications/cancelled",
)  # fmt: skip
NUMBERS: Final = (
    "0", "-0", "1", "-1", "1.0", "1e2", "1E+2", "0.1", "-0.0", "1e308", "1e309", "-1e400", "9007199254740993",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "123456789012345678901234567890",
    "1" * 400, "1" * 4301, "01", "+1", ".5", "1.", "1e", "NaN", "Infinity", "-Infinity", "0x1", "1_0", "5e-324",
    "1e-400",
)  # fmt: skip
PIECES: Final = (
    b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\u0000",
    b"\0",
    b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xe2\x80\xa8", b"\r", b"\n", b"\r\n", b" ", b"\t",
    b"\x0b",
    b"\xc2\xa0", b"null", b"true", b"NaN", b"-", b"1e999", b"/**/", b"//", b"[" * 70, b'{"a":' * 70, b"]" * 70,
    b'"id":1,', b'"\\u0069d":2,', b'"jsonrpc":"2.0",', b'"method":"ping",', b'"params":{},', b'"result":{},',
    b'"error":{"code":1,"message":""},', b"data:", b"data: ", b"event: ", b"id: ", b"retry: 1", b": ", b"\n\n",
)  # fmt: skip


def text(dice: random.Random) -> str:
    """A text, sometimes of many characters."""
    kind = dice.random()
    if kind < 0.7:
        return dice.choice(TEXTS)
    if kind < 0.95:
        return "".join(
            chr(dice.choice((dice.randrange(128), dice.randrange(0x2100)))) for _ in range(dice.randrange(12))
        )
    return dice.choice(TEXTS) * dice.randrange(300)


def value(dice: random.Random, depth: int = 4) -> Any:
    """A JSON value as Python has it."""
    kind = dice.randrange(9 if depth else 6)
    if kind < 2:
        return text(dice)
    if kind < 4:
        return dice.choice((0, 1, -1, 1.0, 0.5, 1 << 53, 1 << 64, 10**30, dice.randrange(1000)))
    if kind < 6:
        return dice.choice((None, True, False))
    if kind < 7:
        return [value(dice, depth - 1) for _ in range(dice.randrange(4))]
    return {text(dice): value(dice, depth - 1) for _ in range(dice.randrange(4))}


def spelled(dice: random.Random, given: Any) -> bytes:
    """`given` as JSON, in one of the many ways to write it."""
    kind = dice.random()
    if kind < 0.4:
        return json.dumps(given, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    if kind < 0.8:
        return json.dumps(given, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    return json.dumps(given, indent=dice.choice((1, 2, "\t"))).encode()


def message(dice: random.Random) -> Any:
    """A JSON-RPC message, or nearly one."""
    made: dict[str, Any] = {"jsonrpc": "2.0"}
    kind = dice.randrange(5)
    if kind != 1:
        made["id"] = dice.choice((1, "a", 0, -1, text(dice), value(dice, 1), dice.randrange(1 << 70)))
    if kind < 3:
        made["method"] = dice.choice(("ping", "tools/call", "initialize", "notifications/progress", text(dice)))
        if dice.random() < 0.8:
            made["params"] = {text(dice): value(dice) for _ in range(dice.randrange(4))}
    elif kind == 3:
        made["result"] = value(dice)
    else:
        made["error"] = {"code": dice.choice((-32600, 1, "1", None)), "message": text(dice)}
    if dice.random() < 0.1:
        made[dice.choice(("id", "method", "params", "result", "error", "jsonrpc"))] = value(dice, 2)
    return made


def json_like(dice: random.Random) -> bytes:
    """JSON, or nearly."""
    data = spelled(dice, message(dice) if dice.random() < 0.5 else value(dice, 5))
    if dice.random() < 0.2:
        data = data.replace(dice.choice((b"1", b"0", b"null", b"true", b'""')), dice.choice(NUMBERS).encode())
    return mutated(dice, data)


def envelope(dice: random.Random) -> bytes:
    """A JSON-RPC message, or nearly."""
    return mutated(dice, spelled(dice, message(dice)))


def stream(dice: random.Random) -> bytes:
    """An event stream."""
    ends = dice.choice(((b"\n",), (b"\r\n",), (b"\r",), (b"\n", b"\r\n", b"\r")))
    lines: list[bytes] = []
    for _ in range(dice.randrange(12)):
        field = dice.choice((b"data", b"data", b"event", b"id", b"retry", b"", b"dat", b"Data", b"data\0"))
        said = dice.choice((text(dice).encode("utf-8", "replace"), spelled(dice, message(dice)), b"1000", b"00", b"-1"))
        lines.append(dice.choice((field, field + b":" + said, field + b": " + said, b"", b"")) + dice.choice(ends))
    head = b"\xef\xbb\xbf" if dice.random() < 0.1 else b""
    return mutated(dice, head + b"".join(lines))


def coded(dice: random.Random) -> bytes:
    """The value of a header field."""
    payload = base64.b64encode(text(dice).encode("utf-8", "surrogatepass"))
    form = dice.choice((b"=?base64?%b?=", b"=?BASE64?%b?=", b"%b", b" =?base64?%b?=", b"=?base64?%b", b"=?base64??=%b"))
    return mutated(dice, form % payload)


def mutated(dice: random.Random, data: bytes, pieces: Sequence[bytes] = PIECES) -> bytes:
    """`data` as it is (every third time), or broken in one to three places."""
    if dice.random() < 0.34:
        return data
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        data = dice.choice(_STEPS)(dice, data, pieces)
    return data


def _flip(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def _cut(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + data[at + dice.randrange(1, 9) :]


def _end(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _insert(dice: random.Random, data: bytes, pieces: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(pieces) + data[at:]


def _replace(dice: random.Random, data: bytes, pieces: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    piece = dice.choice(pieces)
    return data[:at] + piece + data[at + len(piece) :]


def _twice(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    some = data[at : at + dice.randrange(1, 40)]
    return data[:at] + some * dice.choice((2, 2, 3, 50)) + data[at + len(some) :]


_Step = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
_STEPS: Final[tuple[_Step, ...]] = (_flip, _cut, _end, _insert, _replace, _twice)


def pieces(dice: random.Random, data: bytes) -> list[bytes]:
    """`data` in pieces: whole, byte by byte, or cut anywhere."""
    kind = dice.randrange(3)
    if kind == 0 or not data:
        return [data]
    if kind == 1 and len(data) < 2000:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted({0, len(data), *(dice.randrange(len(data)) for _ in range(dice.randrange(1, 8)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]
