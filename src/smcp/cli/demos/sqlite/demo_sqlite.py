"""mcp-server-sqlite with its database in the server's volume."""

import importlib
import sys


def main() -> None:
    """Serve."""
    sys.argv[1:] = ["--db-path", "/data/demo.db"]
    importlib.import_module("mcp_server_sqlite").main()
