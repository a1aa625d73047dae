"""The lean hosted server of the soak: both eras or the modern one, standard library only.

Its tools: `echo` returns its text; `count` reports progress `n` times, then answers; `hold` reports progress once and
answers when it is cancelled or after a minute; `held` says how many calls of `hold` are under way.
"""

import asyncio
import json
import os
import sys
from typing import Any

_LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_CACHE = {"resultType": "complete", "ttlMs": 1000, "cacheScope": "private"}
_INFO = {"name": "smcp-soak", "version": "1.0.0"}
_HOLD_S = 60.0
TOOLS = ("echo", "count", "hold", "held")


class Server:
    """One server on its two pipes."""

    def __init__(self, *, legacy: bool) -> None:
        self._legacy = legacy
        self._running: dict[Any, asyncio.Task[None]] = {}
        self._held = 0

    def take(self, message: dict[str, Any]) -> None:
        """Answer one message, at once or by a task."""
        params: dict[str, Any] = message.get("params") or {}
        method, number = message.get("method"), message.get("id")
        if method == "notifications/cancelled":
            task = self._running.get(params.get("requestId"))
            if task is not None:
                task.cancel()
        elif method is not None and number is not None:
            if method == "tools/call" and params.get("name") in ("count", "hold"):
                task = asyncio.ensure_future(self._slow(number, params))
                self._running[number] = task
                task.add_done_callback(lambda _: self._running.pop(number, None))
            else:
                self._say({"id": number, **self.answer(method, params)})

    def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result or the error of what is answered at once."""
        arguments: dict[str, Any] = params.get("arguments") or {}
        match method:
            case "tools/call" if params.get("name") == "echo":
                return _said(arguments.get("text", ""))
            case "tools/call" if params.get("name") == "held":
                return _said(str(self._held))
            case "tools/list":
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
                return {"result": {"tools": tools, **_CACHE}}
            case "server/discover":
                served: dict[str, Any] = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
                meta = {"io.modelcontextprotocol/serverInfo": _INFO}
                return {"result": {**served, "_meta": meta, **_CACHE}}
            case "initialize" if self._legacy:
                asked = params.get("protocolVersion")
                version = asked if asked in _LEGACY else _LEGACY[-1]
                return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": _INFO}}
            case "ping":
                return {"result": {}}
            case _:
                return {"error": {"code": -32601, "message": f"There is no method {method} here."}}

    async def _slow(self, number: Any, params: dict[str, Any]) -> None:
        arguments: dict[str, Any] = params.get("arguments") or {}
        meta: dict[str, Any] = params.get("_meta") or {}
        token = meta.get("progressToken")
        if params["name"] == "hold":
            self._held += 1
            try:
                self._progress(token, 1)
                await asyncio.sleep(_HOLD_S)
            finally:
                self._held -= 1
        else:
            for done in range(1, int(arguments["n"]) + 1):
                self._progress(token, done)
                await asyncio.sleep(float(arguments["pause"]))
        self._say({"id": number, **_said("over")})

    def _progress(self, token: Any, done: int) -> None:
        if token is not None:
            self._say({"method": "notifications/progress", "params": {"progressToken": token, "progress": done}})

    def _say(self, message: dict[str, Any]) -> None:
        out = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
        while out:
            out = out[os.write(1, out) :]


def _said(text: str) -> dict[str, Any]:
    return {"result": {"content": [{"type": "text", "text": text}], "resultType": "complete"}}


async def _serve(server: Server) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        server.take(json.loads(line))


def main() -> None:
    """Answer until stdin ends, in both eras."""
    asyncio.run(_serve(Server(legacy=True)))


def modern() -> None:
    """Answer until stdin ends, in the modern era only."""
    asyncio.run(_serve(Server(legacy=False)))


if __name__ == "__main__":
    main()
