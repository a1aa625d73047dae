"""Real MCP clients, as their users run them, with an API key as bearer header."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import httpx2
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.context import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client

from support import node

Mode = Literal["legacy", "auto", "2026-07-28"]


class Endpoint(NamedTuple):
    """Where a server is, and the key that opens it."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, key=hidden)"


@dataclass(frozen=True)
class Seen:
    """What a client saw: the protocol version it came to, the tools, and the answer of the one it called."""

    version: str
    tools: tuple[str, ...]
    texts: tuple[str, ...]
    is_error: bool


@dataclass
class Person:
    """Who sits behind a client: answers what servers ask, and keeps what they tell."""

    asked: list[str] = field(default_factory=list[str])
    logged: list[str] = field(default_factory=list[str])
    notices: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])

    async def elicit(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        """Fill in the form: "Ada" wherever a text is wanted, yes wherever a yes or no is."""
        self.asked.append(params.message)
        assert isinstance(params, types.ElicitRequestFormParams)
        properties: dict[str, dict[str, str]] = params.requested_schema["properties"]
        content = {name: True if one["type"] == "boolean" else "Ada" for name, one in properties.items()}
        return types.ElicitResult(action="accept", content=dict(content))

    async def sample(
        self, context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        """Answer as a model that always says Paris."""
        self.asked.append("sampling")
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="Paris"), model="stub")

    async def roots(self, context: ClientRequestContext) -> types.ListRootsResult:
        """Show one folder."""
        self.asked.append("roots")
        return types.ListRootsResult.model_validate({"roots": [{"uri": "file:///project", "name": "project"}]})

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        """Keep a log message."""
        self.logged.append(str(params.data))

    async def notice(self, message: types.ServerNotification | Exception) -> None:
        """Keep the name of any other notification; a transport's exception fails the test that looks here."""
        self.notices.put_nowait(str(message) if isinstance(message, Exception) else message.method)


@contextlib.asynccontextmanager
async def connected(
    target: Endpoint | StdioServerParameters, mode: Mode, person: Person | None = None
) -> AsyncGenerator[Client]:
    """The official Python client (package mcp), connected to `target`, with `person` behind it."""
    who = person or Person()
    async with contextlib.AsyncExitStack() as stack:
        transport: Any = target
        if isinstance(target, Endpoint):
            headers = {"Authorization": f"Bearer {target.key}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=30.0))
            transport = streamable_http_client(target.url, http_client=http)
        yield await stack.enter_async_context(
            Client(
                transport,
                mode=mode,
                elicitation_callback=who.elicit,
                sampling_callback=who.sample,
                list_roots_callback=who.roots,
                logging_callback=who.log,
                message_handler=who.notice,
            )
        )


async def python(target: Endpoint, mode: Mode, tool: str, arguments: dict[str, Any]) -> Seen:
    """List the tools and call one with the official Python client."""
    async with connected(target, mode) as client:
        tools = await client.list_tools()
        called = await client.call_tool(tool, arguments)
        return Seen(client.protocol_version, tuple(tool.name for tool in tools.tools), texts(called), called.is_error)


def texts(called: types.CallToolResult) -> tuple[str, ...]:
    """The text blocks of a result."""
    return tuple(block.text for block in called.content if isinstance(block, types.TextContent))


def typescript(target: Endpoint, mode: Mode, tool: str, arguments: dict[str, Any]) -> Seen:
    """List the tools and call one with the official TypeScript client of 2.x (@modelcontextprotocol/client)."""
    return _script("modern.mjs", target, mode, tool, json.dumps(arguments))


def typescript_classic(target: Endpoint, tool: str, arguments: dict[str, Any]) -> Seen:
    """The same with the TypeScript SDK of 1.x (@modelcontextprotocol/sdk), which most clients still embed."""
    return _script("classic.mjs", target, tool, json.dumps(arguments))


def _script(name: str, target: Endpoint, *arguments: str) -> Seen:
    done = node.run(node.CLIENTS / name, target.url, *arguments, environ={"SMCP_TEST_BEARER": target.key})
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    said = json.loads(done.stdout)
    blocks = tuple(block["text"] for block in said["content"] if block["type"] == "text")
    return Seen(said["version"], tuple(said["tools"]), blocks, said["isError"])
