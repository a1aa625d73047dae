"""What a client says, against its version of MCP and the tool's inputSchema, before a copy of the server is asked for.

| wrong | answer |
|---|---|
| params of a request | -32602 that names the place: 400 (modern), 200 (legacy, where clients read only then) |
| a notification | 400, -32602 |
| a method that the gateway doesn't know, from who has some of the tools only | -32601: 404 (modern), 200 (legacy) |
| arguments of a tool, from 2025-11-25 on | 200, a result with `isError`: the model can correct itself (SEP-1303) |
| arguments of a tool, before | 200, -32602: an invalid argument was a protocol error ("Tools: Error handling") |

Behind `session`, since only a session knows the version of a legacy request, and perhaps an older deployment's tools.
"""

from collections.abc import Awaitable
from typing import Any, Final

from smcp.gateway import exchange, narrow, read, streams, targets
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.protocol.validate import messages, quick

_PROTOCOL_ERRORS: Final = eras.LEGACY[:3]
"""Versions in which wrong arguments are an error of the protocol."""


def check(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Answer a message that is not valid. A client's answers to a server are looked at where its question is known."""
    message = x.message
    if message is None or message.kind is jsonrpc.Kind.RESPONSE:
        return None
    modern = x.era is eras.Era.MODERN
    if x.choice is not None and x.target is not None:
        try:
            narrow.permit(x.choice, x.target, message.method, message.params)
        except (errors.UnknownTool, errors.MethodNotFound) as error:
            if not modern and message.kind is jsonrpc.Kind.NOTIFICATION and isinstance(error, errors.MethodNotFound):
                # Not 404: with that, the client's session would be over.
                raise errors.BadRequest(error.public) from error
            if modern or message.kind is jsonrpc.Kind.NOTIFICATION:
                raise
            # As from a server: clients of the legacy wire read the body of a 200 only.
            return _answer(parts, x, jsonrpc.error(message.id, error.rpc_code, error.public), error.code)
    if message.kind is jsonrpc.Kind.REQUEST and quick.request(message.method, message.params_raw, modern=modern):
        wrong = ""
    else:
        wrong = _slowly(x, message)
    if wrong:
        parts.meters.invalid.inc()
        error = errors.InvalidParams(f"The params of {message.method[:128]} are not valid: {wrong}")
        if modern or message.kind is jsonrpc.Kind.NOTIFICATION:
            raise error
        return _answer(parts, x, jsonrpc.error(message.id, error.rpc_code, error.public))
    return _arguments(parts, x, message) if message.method == "tools/call" else None


def _slowly(x: exchange.Exchange, message: jsonrpc.Message) -> str:
    version = x.version if x.version in eras.MODERN else eras.LEGACY[-1]
    if message.kind is jsonrpc.Kind.NOTIFICATION:
        return messages.client_notification(version, message.method, message.body)
    return messages.client_request(version, message.method, message.body)


def call(parts: exchange.Parts, target: targets.Target, params: jsonrpc.Json) -> None:
    """Raise `errors.InvalidParams` for a call without a client's wire, whose arguments do not fit."""
    text = _unfit(parts, target, params, jsonrpc.encode(params))
    if text:
        raise errors.InvalidParams(text)


def _unfit(parts: exchange.Parts, target: targets.Target, params: jsonrpc.Json, raw: bytes) -> str:
    def note(line: str) -> None:
        parts.journal.note(target.spec.tenant, target.spec.server, line)

    told = jsonrpc.obj(params.get("arguments")) or {}
    wrong = target.book.arguments(str(params.get("name")), told, raw, note)
    if not wrong:
        return ""
    parts.meters.invalid.inc()
    return f"The arguments do not fit the tool's inputSchema: /arguments{wrong}"


def _arguments(parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message) -> Awaitable[None] | None:
    text = "" if x.target is None else _unfit(parts, x.target, message.params, message.params_raw)
    if not text:
        return None
    if x.era is eras.Era.LEGACY and x.version in _PROTOCOL_ERRORS:
        return _answer(parts, x, jsonrpc.error(message.id, errors.InvalidParams.rpc_code, text))
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if x.era is eras.Era.MODERN:
        result["resultType"] = "complete"
    return _answer(parts, x, jsonrpc.result(message.id, jsonrpc.encode(result)))


def _answer(
    parts: exchange.Parts, x: exchange.Exchange, body: bytes, code: str = errors.InvalidParams.code
) -> Awaitable[None] | None:
    x.refused = code
    parts.metrics.error("gateway", x.refused)
    if read.plain(x):
        x.answer(200, body)
        return None
    x.open_stream()
    return streams.end_with(x, body)
