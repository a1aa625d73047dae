"""`Mcp-Param-*`: which arguments of which tool a modern server wants mirrored in header fields.

Known from the lists of tools that passed. A server that misses a field says so (-32020); then its list is read again.
"""

from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import headers

_MOST: Final = 10_000
"""Tools with mirrors that are remembered of one deployment."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tools = msgspec.json.Decoder(list[msgspec.Raw])


class Mirrors:
    """Those of one deployment."""

    __slots__ = ("__weakref__", "_by_tool")

    def __init__(self) -> None:
        self._by_tool: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {}

    def wanted(self, tool: str) -> bool:
        """Does a call of this tool have any?"""
        return tool in self._by_tool

    def fields(self, tool: str, arguments: object) -> list[tuple[str, str]]:
        """The header fields of a call."""
        known = self._by_tool.get(tool)
        return headers.params(known, jsonrpc.obj(arguments) or {}) if known else []

    def listed(self, result: bytes) -> tuple[bytes, list[str]]:
        """Learn from the result of `tools/list`; returns it without the tools that a client must refuse, and why.

        What needs no change is returned as it came. Raises `errors.ParseError`.
        """
        if b"x-mcp-header" not in result:
            return result, []
        try:
            members = _members.decode(result)
            tools = _tools.decode(members.get("tools", b"[]"))
        except (msgspec.DecodeError, RecursionError) as error:
            raise errors.ParseError("The remote server's list of tools is not one.") from error
        kept: list[msgspec.Raw] = []
        refused: list[str] = []
        for raw in tools:
            tool = jsonrpc.obj(jsonrpc.decode(raw)) or {}
            name, schema = str(tool.get("name", "")), tool.get("inputSchema")
            wrong = headers.wrong_mirror(schema)
            if wrong:
                refused.append(f"the tool {name[:128]!r} is left out: {wrong}")
                self._by_tool.pop(name, None)
                continue
            kept.append(raw)
            found = headers.mirrored(schema)
            if found and (name in self._by_tool or len(self._by_tool) < _MOST):
                self._by_tool[name] = found
            elif not found:
                self._by_tool.pop(name, None)
        if not refused:
            return result, []
        members["tools"] = msgspec.Raw(jsonrpc.encode(kept))
        return jsonrpc.encode(members), refused
