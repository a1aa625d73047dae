"""A lean MCP server over HTTP, for nginx to stand in front of: the echo tool of `bench.echo`, on uvloop and httptools.

No framework and no check that a server on a network would need: it costs as little as a server in Python can.
"""

import asyncio
import json
import sys
from typing import Any, cast

import httptools
import uvloop

from bench import echo

_HEAD = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        message: dict[str, Any] = json.loads(body) if body else {}
        answer = echo.answer(message)
        if answer is None:
            self._transport.write(_HEAD % (b"202 Accepted", b"", 0))
            return
        out = json.dumps(answer).encode()
        opened = b"mcp-session-id: one\r\n" if message["method"] == "initialize" else b""
        self._transport.write(_HEAD % (b"200 OK", opened, len(out)) + out)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve on a free port of the loopback, and say on stdout which one."""
    uvloop.run(_serve())


if __name__ == "__main__":
    sys.exit(main())
