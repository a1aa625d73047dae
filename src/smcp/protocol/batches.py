"""Batches: JSON-RPC messages in an array, which two versions of MCP have (2024-11-05 from JSON-RPC, 2025-03-26)."""

from typing import Final

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras

MOST: Final = 64
"""Messages of one batch."""
VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26"})


def is_one(body: bytes) -> bool:
    """Is this the body of a batch, if it is JSON?"""
    return body[:1] != b"{" and body.lstrip(b" \t\r\n")[:1] == b"["


def read(body: bytes, version: str, max_depth: int) -> list[jsonrpc.Message | errors.SmcpError]:
    """The messages of a batch, and what is wrong with each that is none.

    Raises what refuses all of them: the body is no JSON, there are none or too many, one is `initialize` (MCP
    2025-03-26, "Initialization"), or two requests have the same id, so that nobody could tell their answers apart.
    """
    members: list[jsonrpc.Message | errors.SmcpError] = []
    seen: set[str | int] = set()
    for raw in jsonrpc.split(body, max_depth=max_depth, most=MOST):
        try:
            message = jsonrpc.parse(raw, max_depth=max_depth)
            if message.kind is not jsonrpc.Kind.RESPONSE:
                eras.check_legacy(version or None, message.params)
        except errors.SmcpError as error:
            members.append(error)
            continue
        if message.method == "initialize":
            raise errors.BadRequest("initialize can't be part of a batch: send it alone.")
        if message.kind is jsonrpc.Kind.REQUEST:
            id_: str | int = jsonrpc.decode(message.id)
            if id_ in seen:
                raise errors.BadRequest("Two requests of the batch have the same id.")
            seen.add(id_)
        members.append(message)
    return members
