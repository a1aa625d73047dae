"""Versions of MCP, the two eras, and how a request tells which one it speaks.

*Legacy* (2024-11-05 … 2025-11-25) shakes hands and keeps sessions; *modern* (2026-07-28) is stateless and carries
its version and the client's capabilities in `params._meta` of every request. The words are the specification's own
(MCP 2026-07-28, "Versioning"). The ladder below is tested differentially against the reference SDK's.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from smcp.kernel import errors, jsonrpc
from smcp.protocol import headers

LEGACY: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN: Final = ("2026-07-28",)

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"

REMOVED: Final = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Legacy methods that the modern wire answers with 404 and -32601 (MCP 2026-07-28, changelog)."""

NAMED: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Method → the member of params that `Mcp-Name` mirrors."""

_STANDARD: Final = (b"mcp-protocol-version", b"mcp-method", b"mcp-name")

_STATUS: Final[Mapping[int, int]] = {
    -32700: 400,
    -32600: 400,
    -32602: 400,
    -32601: 404,
    -32020: 400,
    -32021: 400,
    -32022: 400,
}


class Era(enum.Enum):
    """Which half of MCP's history a peer speaks."""

    LEGACY = "legacy"
    MODERN = "modern"


def of_header(version: str | None) -> Era:
    """The wire that the `MCP-Protocol-Version` header chooses; unknown values go to the modern one.

    There the answer to an unknown version is structured (-32022) and clients know what to do with it.
    """
    return Era.LEGACY if version is None or version in LEGACY else Era.MODERN


def check_legacy(version: str | None, params: jsonrpc.Json) -> None:
    """Refuse a modern body on the legacy wire: two readers would disagree about it (-32020)."""
    meta = jsonrpc.obj(params.get("_meta"))
    if meta is not None and meta.get(META_VERSION) in MODERN:
        raise errors.HeaderMismatch(
            "The body is of a modern version, the MCP-Protocol-Version header is "
            + (f"'{version}'." if version else "missing.")
        )


class Standard(NamedTuple):
    """The header fields that mirror the body of a modern request. `name` is decoded; None where its form is wrong."""

    version: str | None
    method: str | None
    name: str | None


def standard(fields: headers.Fields) -> Standard:
    """Read them. Raises `errors.HeaderMismatch` for one that is sent twice."""
    if fields.repeated:
        for name in _STANDARD:
            if fields.count(name) > 1:
                raise errors.HeaderMismatch(f"The header {name.decode()} is sent twice.")
    version, method, named = map(fields.get, _STANDARD)
    return Standard(version, method, None if named is None else headers.decode(named))


def check_modern(told: Standard, method: str, params: jsonrpc.Json) -> str:
    """Walk the ladder of a modern request; returns its version.

    Raises, in this order: `errors.InvalidParams` for missing `_meta` keys, `errors.HeaderMismatch` where header and
    body differ, `errors.UnsupportedVersion`. (MCP 2026-07-28, "Streamable HTTP: Standard headers".)
    """
    version = envelope(params)
    if told.version != version:
        raise errors.HeaderMismatch("MCP-Protocol-Version differs from the version in _meta.")
    if told.method != method:
        raise errors.HeaderMismatch("Mcp-Method is missing or differs from the method in the body.")
    member = NAMED.get(method)
    if member is not None and params.get(member) is not None and (told.name is None or told.name != params[member]):
        raise errors.HeaderMismatch(f"Mcp-Name is missing or differs from params.{member} in the body.")
    check_version(version)
    return version


def check_version(version: str) -> None:
    """Raise `errors.UnsupportedVersion` with the structured data of -32022 unless `version` is modern."""
    if version not in MODERN:
        raise errors.UnsupportedVersion(data={"supported": list(MODERN), "requested": version[:64]})


def envelope(params: jsonrpc.Json) -> str:
    """The version in `params._meta`. Raises `errors.InvalidParams` where something that must be there is missing."""
    meta = jsonrpc.obj(params.get("_meta"))
    if meta is None:
        raise errors.InvalidParams(f"params._meta is missing; it carries '{META_VERSION}' and '{META_CAPABILITIES}'.")
    for key in (META_VERSION, META_CAPABILITIES):
        if key not in meta:
            raise errors.InvalidParams(f"params._meta lacks '{key}'.")
    version: object = meta[META_VERSION]
    if not isinstance(version, str):
        raise errors.InvalidParams(f"params._meta '{META_VERSION}' must be a string.")
    if jsonrpc.obj(meta[META_CAPABILITIES]) is None:
        raise errors.InvalidParams(f"params._meta '{META_CAPABILITIES}' must be an object.")
    return version


def http_status(era: Era, code: int | None) -> int:
    """The HTTP status of a response whose JSON-RPC error has `code` (None: a result)."""
    return 200 if code is None or era is Era.LEGACY else _STATUS.get(code, 200)
