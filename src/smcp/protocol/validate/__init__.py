"""Is a message what its version of MCP says it is, and do a tool's values fit its schemas? Pure functions."""
