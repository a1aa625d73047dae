"""An MCP server over stdio."""

import os

from mcp.server.mcpserver import MCPServer

server = MCPServer("server-name")


@server.tool()
def greet(name: str) -> str:
    """Greets somebody."""
    return f"{os.environ.get('GREETING', 'Hello')}, {name}!"


def main() -> None:
    """Serve until the client goes."""
    server.run()
