"""The same tools as `bench.soak.lean`, in a server as most people write one: with the official SDK for Python."""

from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

_HOLD_S = 60.0
_TOOLS = ("echo", "count", "hold", "held")

Context = ServerRequestContext[Any, Any]


def _said(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)])


class _Tools:
    def __init__(self) -> None:
        self._held = 0

    async def listed(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in _TOOLS])

    async def call(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        match params.name:
            case "echo":
                return _said(str(arguments["text"]))
            case "held":
                return _said(str(self._held))
            case "count":
                for done in range(1, int(arguments["n"]) + 1):
                    await ctx.session.report_progress(done)
                    await anyio.sleep(float(arguments["pause"]))
            case _:
                self._held += 1
                try:
                    await ctx.session.report_progress(1)
                    await anyio.sleep(_HOLD_S)
                finally:
                    self._held -= 1
        return _said("over")


async def _serve() -> None:
    tools = _Tools()
    server = Server[dict[str, Any]]("smcp-soak", version="1.0.0", on_list_tools=tools.listed, on_call_tool=tools.call)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def main() -> None:
    """Answer until stdin ends."""
    anyio.run(_serve)


if __name__ == "__main__":
    main()
