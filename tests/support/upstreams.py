"""A remote server whose answers a test writes, byte by byte."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from support import serving

SECRET: Final = "a-very-secret-value"
CREDENTIAL: Final = (("Authorization", "TOKEN", SECRET),)

INFO: Final = {"name": "rude", "version": "1"}
HELLO: Final[dict[str, Any]] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": INFO,
}


class Asked:
    """One request."""

    def __init__(self, head: str, body: bytes, say: Callable[[bytes], None]) -> None:
        """`say` writes something more to the connection that it came by."""
        self.say = say
        lines = head.split("\r\n")
        self.verb, self.target, _ = lines[0].split(" ")
        self.fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        self.message: Any = json.loads(body) if body else {}

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return str(self.message.get("method", ""))

    def result(self, result: object) -> bytes:
        """An answer in JSON."""
        return answer(200, {"jsonrpc": "2.0", "id": self.message.get("id"), "result": result})


def answer(status: int, body: object = None, *fields: str) -> bytes:
    """An HTTP answer."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *fields]
    if not any(one.lower().startswith("content-type") for one in fields):
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, "", ""]).encode() + data


def events(*lines: str) -> bytes:
    """An event stream that ends with its connection."""
    return "\r\n".join(["HTTP/1.1 200 X", "Content-Type: text/event-stream", "Connection: close", "", *lines]).encode()


def endpoint(path: str) -> bytes:
    """The beginning of an event stream of MCP 2024-11-05, which goes on for as long as its connection."""
    head = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunk(f"event: endpoint\ndata: {path}\n\n")


def chunk(text: str) -> bytes:
    """A piece of a stream that `endpoint` began."""
    return b"%x\r\n%b\r\n" % (len(text.encode()), text.encode())


Do = Callable[[Asked], "bytes | Awaitable[bytes]"]


class Rude:
    """A server whose answers a test writes."""

    def __init__(self, do: Do) -> None:
        self._do = do
        self.asked: list[Asked] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            sizes = [x.partition(":")[2] for x in head.split("\r\n") if x.lower().startswith("content-length")]
            one = Asked(head, await reader.readexactly(int(sizes[0]) if sizes else 0), writer.write)
            self.asked.append(one)
            said = self._do(one)
            data = said if isinstance(said, bytes) else await said
            writer.write(data)
            await writer.drain()
            if b"Connection: close" in data or not data:
                break

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator["Rude"]:
        """Listening on loopback."""
        async with serving.served(self._serve) as self.port:
            yield self

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/mcp"


def polite(one: Asked) -> bytes:
    """What a plain server of the legacy era says."""
    match one.method:
        case "initialize":
            return one.result(HELLO)
        case "tools/list":
            return one.result({"tools": []})
        case "tools/call":
            return one.result({"content": [{"type": "text", "text": "fine"}]})
        case _:
            return answer(202) if one.verb == "POST" else answer(405)
