"""What a legacy client says, put into the modern wire's words, and what a modern server is, put into the legacy ones.

Pure functions. A legacy client shakes hands and declares what it can do once; a modern server wants that with each
request, in `params._meta` (MCP 2026-07-28, "Base protocol: _meta"), and knows no handshake.

Nothing is promised here that needs the server to ask the client something: no client capability is passed on, so no
server asks.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from smcp.kernel import jsonrpc
from smcp.protocol import eras

VERSION: Final = eras.MODERN[-1]
"""What a modern server is spoken to in."""

META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
_LISTS: Final = ("tools", "prompts", "resources")
_MODERN_ONLY: Final = ("extensions", "tasks")
_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members)


def negotiated(asked: object) -> str:
    """The version of a session: what was asked for, else the newest legacy one (MCP 2025-11-25, "Lifecycle")."""
    return asked if isinstance(asked, str) and asked in eras.LEGACY else eras.LEGACY[-1]


def initialized(version: str, capabilities: Mapping[str, Any], info: Mapping[str, Any], instructions: str) -> bytes:
    """The result of `initialize`, JSON-encoded, for a server that described itself in `server/discover`.

    Notices and subscriptions are left out: they would need a stream that nobody feeds.
    """
    offered: dict[str, Any] = {
        name: dict[str, Any]() if name in _LISTS else value
        for name, value in capabilities.items()
        if name not in _MODERN_ONLY
    }
    server = {"name": str(info.get("name") or "server"), "version": str(info.get("version") or "0"), **info}
    result: dict[str, Any] = {"protocolVersion": version, "capabilities": offered, "serverInfo": server}
    if instructions:
        result["instructions"] = instructions
    return jsonrpc.encode(result)


def meta(client: object, log_level: str = "") -> bytes:
    """What is stamped on each request of a session, JSON-encoded. `client` is the `clientInfo` of `initialize`."""
    told = jsonrpc.obj(client)
    stamp: dict[str, Any] = {eras.META_VERSION: VERSION, eras.META_CAPABILITIES: {}}
    if told is not None:
        stamp[META_CLIENT] = told
    if log_level:
        stamp[eras.META_LOG_LEVEL] = log_level
    return jsonrpc.encode(stamp)


def stamped(message: jsonrpc.Message, stamp: bytes) -> jsonrpc.Message:
    """`message` with `stamp` in `params._meta`. What the client put there itself stays, but for the stamp's own keys.

    Everything else of params is passed on as the bytes that came.
    """
    if "_meta" in message.params:
        own = jsonrpc.obj(message.params["_meta"]) or {}
        members = _members.decode(message.params_raw)
        members["_meta"] = msgspec.Raw(jsonrpc.encode({**_raw(members["_meta"]), **_members.decode(stamp)}))
        params: jsonrpc.Json = {**message.params, "_meta": {**own, **jsonrpc.decode(stamp)}}
        raw = jsonrpc.encode(members)
    else:
        # Whether it asks for log messages decides who gets them (`runtime.calls`).
        asked: jsonrpc.Json = jsonrpc.decode(stamp) if b"logLevel" in stamp else {}
        params = {**message.params, "_meta": asked}
        head = message.params_raw.rstrip()[:-1] + b"," if message.params else b"{"
        raw = b'%b"_meta":%b}' % (head, stamp)
    return jsonrpc.Message(message.kind, message.method, params, message.id, raw, message.body)


def _raw(members: msgspec.Raw) -> _Members:
    try:
        return _members.decode(members)
    except msgspec.DecodeError:
        return {}
