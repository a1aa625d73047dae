"""The edge that MCP clients talk to: one pipeline, both eras, no web framework."""
