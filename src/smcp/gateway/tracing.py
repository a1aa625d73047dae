"""A request's spans: nothing here runs unless spans are recorded, and none begins before the caller is known.

The context goes on to the hosted server in `params._meta` (SEP-414; MCP 2026-07-28 reserves the keys `traceparent`,
`tracestate` and `baggage` there), only for a request that is recorded: of any other, what the client sent is passed
on as it came. A client's session id is told as a digest, because whoever reads traces must not be able to use it.
"""

import hashlib
import time
from typing import Final

import msgspec

from smcp.gateway import exchange
from smcp.kernel import jsonrpc

_TARGET: Final = {"tools/call": "name", "prompts/get": "name"}
_WORTH_NS: Final = 1_000_000
"""A wait for a copy of the hosted server that is shorter is no span."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Result(msgspec.Struct):
    isError: bool = False  # noqa: N815 - MCP's own name


class _Answer(msgspec.Struct):
    result: _Result | None = None


_answers = msgspec.json.Decoder(_Answer)


def begin(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The caller is known and the message read: its span begins, as of when the request came."""
    message, principal = x.message, x.principal
    if message is None or principal is None or message.kind is jsonrpc.Kind.RESPONSE:
        return
    fields = x.incoming.fields
    headers = {name: fields.get(name.encode()) for name in ("traceparent", "tracestate")}
    named = message.params.get(_TARGET.get(message.method, ""))
    x.trace = parts.traces.request(
        message.method,
        named if isinstance(named, str) else "",
        (jsonrpc.obj(message.params.get("_meta")) or {}, headers),
        time.time_ns() - int((time.monotonic() - x.started) * 1e9),
        {
            "mcp.protocol.version": x.version,
            "jsonrpc.request.id": _id(message.id),
            "smcp.tenant": principal.tenant,
            "smcp.request.id": x.request_id,
        },
    )


def waited(x: exchange.Exchange, began_ns: int) -> None:
    """There is a copy, or there will be none: what took time since `began_ns` (epoch) gets a span of its own."""
    now = time.time_ns()
    if x.trace is not None and now - began_ns >= _WORTH_NS:
        x.trace.waited(began_ns, now)


def handed(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """There is a copy of the hosted server: the request that it gets carries the context."""
    message = x.message
    if x.trace is None or message is None or message.kind is not jsonrpc.Kind.REQUEST:
        return
    if message.method == "tools/call" and x.target is not None:
        named = message.params.get("name")
        # Only what exists becomes part of a name: callers could invent names without end.
        if any(tool.name == named for tool in x.target.deployment.tools):
            x.trace.call(str(named))
    x.forwarded = with_context(x.forwarded or message, x.trace.forward())


def end(x: exchange.Exchange) -> None:
    """The exchange is over."""
    if x.trace is None:
        return
    told: dict[str, str | int] = {"http.response.status_code": x.status} if x.status else {}
    if x.server is not None and x.target is not None:
        told["smcp.server"] = x.server
    if x.session is not None:
        told["mcp.session.id"] = hashlib.sha256(x.session.id.encode()).hexdigest()[:16]
    error = x.refused
    if x.call is not None and x.call.code is not None:
        told["rpc.response.status_code"] = error = str(x.call.code)
    elif not error and x.call is not None and x.method == "tools/call" and _failed(x.call.response):
        error = "tool_error"
    x.trace.end(error, told)
    x.trace = None


def with_context(message: jsonrpc.Message, context: dict[str, str]) -> jsonrpc.Message:
    """`message` with the trace context in its `_meta`; everything else in it stays the bytes that it was."""
    old = jsonrpc.obj(message.params.get("_meta", {}))
    if not context or old is None:  # what is no object is not made one
        return message
    members = _members.decode(message.params_raw) if message.params_raw else {}
    meta = _members.decode(members["_meta"]) if old else {}
    for name in ("traceparent", "tracestate"):
        # The state belongs to the parent that it came with.
        meta.pop(name, None)
    meta |= {name: msgspec.Raw(jsonrpc.encode(value)) for name, value in context.items()}
    members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
    kept = {name: value for name, value in old.items() if name not in ("traceparent", "tracestate")}
    return msgspec.structs.replace(
        message, params={**message.params, "_meta": {**kept, **context}}, params_raw=jsonrpc.encode(members)
    )


def _failed(response: bytes) -> bool:
    try:
        answer = _answers.decode(response)
    except msgspec.DecodeError:
        return False
    return answer.result is not None and answer.result.isError


def _id(raw: bytes) -> str:
    value = jsonrpc.decode(raw) if raw else ""
    return str(value)
