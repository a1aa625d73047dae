"""Real MCP clients, as their users run them: each lists the tools and calls one, with an API key as bearer header."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from support import node

Mode = Literal["legacy", "auto", "2026-07-28"]


@dataclass(frozen=True)
class Seen:
    """What a client saw: the protocol version it came to, the tools, and the answer of the one it called."""

    version: str
    tools: tuple[str, ...]
    texts: tuple[str, ...]
    is_error: bool


async def python(url: str, key: str, mode: Mode, tool: str, arguments: dict[str, Any]) -> Seen:
    """The official Python client (package mcp)."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30.0) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        tools = await client.list_tools()
        called = await client.call_tool(tool, arguments)
        return Seen(
            client.protocol_version,
            tuple(tool.name for tool in tools.tools),
            tuple(block.text for block in called.content if isinstance(block, types.TextContent)),
            called.is_error is True,
        )


def typescript(url: str, key: str, mode: Mode, tool: str, arguments: dict[str, Any]) -> Seen:
    """The official TypeScript client of 2.x (@modelcontextprotocol/client)."""
    return _script("modern.mjs", url, mode, tool, json.dumps(arguments), key=key)


def typescript_classic(url: str, key: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The official TypeScript SDK of 1.x (@modelcontextprotocol/sdk), which most clients still embed."""
    return _script("classic.mjs", url, tool, json.dumps(arguments), key=key)


def _script(name: str, *arguments: str, key: str) -> Seen:
    done = node.run(node.CLIENTS / name, *arguments, environ={"SMCP_TEST_BEARER": key})
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    said = json.loads(done.stdout)
    texts = tuple(block["text"] for block in said["content"] if block["type"] == "text")
    return Seen(said["version"], tuple(said["tools"]), texts, said["isError"])
