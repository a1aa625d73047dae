"""SMCP hosts MCP servers for many tenants and lets nobody in where they do not belong."""
