"""The transport of MCP 2024-11-05 on the wire: a client by hand."""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx2

from support import wire
from support.clients import Endpoint

VERSION: Final = "2024-11-05"


class Old:
    """A client of the old transport, by hand."""

    def __init__(self, http: httpx2.AsyncClient, at: Endpoint, answer: httpx2.Response) -> None:
        self.http = http
        self.at = at
        self.answer = answer
        self.stream = wire.Stream(answer)
        self.address = ""

    async def begin(self) -> None:
        """Read where messages go."""
        assert await self.stream.line() == "event: endpoint"
        line = await self.stream.line()
        self.address = line.removeprefix("data: ")

    def url(self, address: str = "") -> str:
        """The address for messages, whole."""
        base = self.at.url.partition("/t/")[0]
        return base + (address or self.address)

    async def post(self, body: Any, key: str = "", address: str = "", **more: str) -> httpx2.Response:
        """Send a message."""
        extra = {name.replace("_", "-"): value for name, value in more.items()}
        fields = {"authorization": f"Bearer {key or self.at.key}", "content-type": "application/json", **extra}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(self.url(address), headers=fields, content=content)

    async def ask(self, id_: Any, method: str, params: wire.Json | None = None) -> wire.Json:
        """A request's answer; what comes before it is skipped."""
        answer = await self.post({"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}})
        assert (answer.status_code, answer.content) == (202, b""), answer.text
        while True:
            message = await self.stream.message()
            if message.get("id") == id_ and "method" not in message:
                return message

    async def open(self, version: str = VERSION) -> "Old":
        """Shake hands."""
        await self.begin()
        answer = await self.ask(0, "initialize", wire.hello(version))
        assert answer["result"]["protocolVersion"] == version
        told = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert told.status_code == 202
        return self


@contextlib.asynccontextmanager
async def streaming(http: httpx2.AsyncClient, at: Endpoint) -> AsyncGenerator[Old]:
    """A stream of the server `at`; its client hangs up in the end."""
    url = at.url.removesuffix("/mcp") + "/sse"
    fields = {"authorization": f"Bearer {at.key}", "accept": "text/event-stream"}
    async with http.stream("GET", url, headers=fields) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Old(http, at, answer)
