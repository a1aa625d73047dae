"""MCP as pure functions: versions and eras, headers, event streams. No I/O, no clock, no state."""
