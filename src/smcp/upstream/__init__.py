"""The platform as an HTTP client: one guarded way out, and the wires that remote MCP servers speak over it.

`places` reads addresses, `fields` the header fields that may be set, `dial` connects to addresses that were checked,
`client` makes requests over it and follows redirects, `passage` passes on those of hosted code (docs/decisions/0048),
`wire` and its two kinds speak MCP (docs/decisions/0038).
"""
