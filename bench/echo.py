"""The hosted server that costs next to nothing: MCP over stdio, both eras or one, one tool, standard library only.

It is what the wheels of `bench.guest` consist of. It reads in large chunks and answers all complete lines of a chunk in
one write, as a good server would. A call of its tool in the usual form is answered without a JSON parser, so that what
is measured is whoever stands in front of it; any other form is parsed.
"""

import json
import os
import re
from typing import Any

_INFO = {"name": "smcp-bench-echo", "version": "1.0.0"}
_TOOL = {
    "name": "echo",
    "description": "Returns its text.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
_CACHE = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "private"}
# id and text of a call, up to where params end or go on with `_meta`; a text with an escape is not matched.
_CALL = re.compile(
    rb'\{"jsonrpc":"2\.0","id":([0-9]+),"method":"tools/call","params":\{"name":"echo","arguments":'
    rb'\{"text":("[^"\\]*")\}(?:\}\}$|,"_meta":\{)'
)
_ANSWER = b'{"jsonrpc":"2.0","id":%b,"result":{"content":[{"type":"text","text":%b}],"resultType":"complete"}}\n'
_LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")


def answer(message: dict[str, Any], *, legacy: bool = True, modern: bool = True) -> dict[str, Any] | None:
    """The response to one message; None for a notification. Without `legacy` there is no handshake, without `modern`
    no discovery."""
    if "id" not in message or "method" not in message:
        return None
    params: dict[str, Any] = message.get("params") or {}
    match message["method"]:
        case "tools/call" if params.get("name") == "echo":
            text = params.get("arguments", {}).get("text", "")
            result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
        case "tools/list":
            result = {"tools": [_TOOL], **_CACHE}
        case "server/discover" if modern:
            result = {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "_meta": {"io.modelcontextprotocol/serverInfo": _INFO},
                **_CACHE,
            }
        case "initialize" if legacy:
            asked = params.get("protocolVersion")
            version = asked if asked in _LEGACY else _LEGACY[-1]
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": _INFO}
        case "ping":
            result = {}
        case method:
            error = {"code": -32601, "message": f"There is no method {method} here."}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _line(line: bytes, *, legacy: bool, modern: bool) -> bytes:
    call = _CALL.match(line)
    if call is not None:
        return _ANSWER % call.groups()
    said = answer(json.loads(line), legacy=legacy, modern=modern) if line.strip() else None
    return b"" if said is None else json.dumps(said).encode() + b"\n"


def modern() -> None:
    """Answer until stdin ends, in the modern era only."""
    main(legacy=False)


def legacy() -> None:
    """Answer until stdin ends, in the legacy era only."""
    main(modern=False)


def main(*, legacy: bool = True, modern: bool = True) -> None:
    """Answer until stdin ends."""
    rest = b""
    while chunk := os.read(0, 1 << 18):
        *lines, rest = (rest + chunk).split(b"\n")
        out = b"".join([_line(line, legacy=legacy, modern=modern) for line in lines])
        while out:
            out = out[os.write(1, out) :]


if __name__ == "__main__":
    main()
