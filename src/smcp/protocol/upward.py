"""What a modern client says in the words of a legacy server, and what that server says in the modern ones.

Pure functions; the way up, where `translate` is the way down. A modern client declares what it can do with each request
and has no handshake; a legacy server wants that once, in `initialize`, and asks its client things in the middle of a
call. On the modern wire such a question is part of an answer (MCP 2026-07-28, "Multi Round-Trip Requests").

Tasks of 2025-11-25 are not translated: their capability is hidden in both directions.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from smcp.kernel import jsonrpc
from smcp.protocol import eras

VERSION: Final = eras.LEGACY[-1]
"""What a legacy server is asked for in `initialize`."""

META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
INPUT_KEY: Final = "io.smcp/inputKey"
"""In `params._meta` of a legacy server's question: the key that a modern client is to see it under."""

ASKABLE: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Requests that may be answered with questions (MCP 2026-07-28, "Multi Round-Trip Requests: Supported requests")."""
QUESTIONS: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a legacy server may ask, and the word that keys without a name of their own begin with."""
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From least to most severe (RFC 5424, 6.2.1)."""
URL_REQUIRED: Final = -32042
"""MCP 2025-11-25, "Elicitation: URL mode": the request can't be served before the user was at an address."""

_NOT_FOUND: Final = -32002
"""MCP 2025-11-25, "Resources: Error handling"; -32602 from 2026-07-28 on."""
_INVALID: Final = -32602
_RESERVED: Final = range(-32099, -32019)
"""Codes that 2026-07-28 gives a meaning to, or keeps for one ("Error codes")."""
_KNOWN: Final = frozenset({-32020, -32021, -32022})
_OTHER: Final = -32000
_CACHED: Final = frozenset(
    {"prompts/list", "resources/list", "resources/read", "resources/templates/list", "tools/list"}
)
"""Results that say how long they are good for, and for whom ("Caching")."""
_KEY: Final = 64
"""Characters of a key that a server chooses."""
_GONE_FROM_QUESTIONS: Final = ("_meta", "task", "elicitationId")
"""Members of a question's params that the modern wire does not have."""
_OURS: Final = (eras.META_VERSION, eras.META_CAPABILITIES, eras.META_LOG_LEVEL, META_CLIENT)
_NAME: Final = 256

_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members)
_sorted = msgspec.json.Encoder(order="sorted")


# --- down: what the client says ---------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """JSON that is the same for what is the same, whatever the order of its members."""
    return _sorted.encode(value)


def hello(capabilities: jsonrpc.Json, client: object) -> bytes:
    """The params of `initialize` for a client that declares `capabilities` and calls itself `client`."""
    told = jsonrpc.obj(client) or {}
    named = {"name": _text(told.get("name"), "client"), "version": _text(told.get("version"), "0")}
    lowered = {name: value for name, value in capabilities.items() if name != "tasks"}
    if "roots" in lowered:
        # Nobody tells of changes: the modern wire has no such notice.
        lowered["roots"] = {}
    return jsonrpc.encode(
        {"protocolVersion": VERSION, "capabilities": lowered, "clientInfo": {**_described(told), **named}}
    )


def _text(value: object, default: str) -> str:
    return value[:_NAME] if isinstance(value, str) and value else default


def _described(told: jsonrpc.Json) -> jsonrpc.Json:
    return {name: told[name][:_NAME] for name in ("title",) if isinstance(told.get(name), str)}


def capabilities(params: jsonrpc.Json) -> jsonrpc.Json:
    """What the client of a modern request declares."""
    meta = jsonrpc.obj(params.get("_meta")) or {}
    return jsonrpc.obj(meta.get(eras.META_CAPABILITIES)) or {}


def client(params: jsonrpc.Json) -> object:
    """What the client of a modern request calls itself."""
    return (jsonrpc.obj(params.get("_meta")) or {}).get(META_CLIENT)


def level(params: jsonrpc.Json) -> str:
    """From which severity on a modern request wants log messages; empty for none at all."""
    told = (jsonrpc.obj(params.get("_meta")) or {}).get(eras.META_LOG_LEVEL)
    return told if isinstance(told, str) and told in LEVELS else ""


def token(params: jsonrpc.Json) -> bytes:
    """The progress token of a request, JSON-encoded; empty without one."""
    meta = jsonrpc.obj(params.get("_meta")) or {}
    told = meta.get("progressToken")
    return jsonrpc.encode(told) if isinstance(told, str | int) and not isinstance(told, bool) else b""


def lowered(message: jsonrpc.Message, progress: int) -> jsonrpc.Message:
    """A modern request as a legacy server gets it.

    Without the modern wire's own members; the progress token is `progress`, if the client wants to hear of any.
    Everything else of params is passed on as the bytes that came.
    """
    members = _members.decode(message.params_raw) if message.params_raw else {}
    members.pop("inputResponses", None)
    members.pop("requestState", None)
    params = {name: value for name, value in message.params.items() if name in members}
    meta = _shallow(members.pop("_meta", None))
    for name in _OURS:
        meta.pop(name, None)
    own: jsonrpc.Json = {}
    if meta.pop("progressToken", None) is not None and token(message.params):
        own["progressToken"] = progress
        meta["progressToken"] = msgspec.Raw(b"%d" % progress)
    if meta:
        members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
    params["_meta"] = own
    return jsonrpc.Message(message.kind, message.method, params, message.id, jsonrpc.encode(members), b"")


def digest(message: jsonrpc.Message) -> bytes:
    """What tells one request from another: its method and params, without what differs between a request and its retry
    (MCP 2026-07-28, "Multi Round-Trip Requests")."""
    told = {
        name: value for name, value in message.params.items() if name not in ("_meta", "inputResponses", "requestState")
    }
    return hashlib.sha256(canonical([message.method, told])).digest()


def responses(message: jsonrpc.Message) -> Mapping[str, msgspec.Raw]:
    """`inputResponses` of a retry, each as the bytes that came."""
    return _shallow(_members.decode(message.params_raw).get("inputResponses"))


# --- up: what the server says -----------------------------------------------------------------------------


def offered(told: object) -> jsonrpc.Json:
    """The capabilities of `initialize` as `server/discover` tells them."""
    return {name: value for name, value in (jsonrpc.obj(told) or {}).items() if name != "tasks"}


def info(told: object) -> bytes:
    """`serverInfo` of `initialize` as every modern result carries it, JSON-encoded."""
    found = jsonrpc.obj(told) or {}
    return jsonrpc.encode(
        {**found, "name": _text(found.get("name"), "server"), "version": _text(found.get("version"), "0")}
    )


def described(answer: jsonrpc.Json) -> bytes:
    """The result of `server/discover`, from that of `initialize`."""
    result: jsonrpc.Json = {
        "supportedVersions": list(eras.MODERN),
        "capabilities": offered(answer.get("capabilities")),
        "ttlMs": 0,
        "cacheScope": "private",
        "resultType": "complete",
        "_meta": {META_SERVER: msgspec.Raw(info(answer.get("serverInfo")))},
    }
    if isinstance(answer.get("instructions"), str):
        result["instructions"] = answer["instructions"]
    return jsonrpc.encode(result)


def head(method: str) -> bytes:
    """The members that a complete result of `method` has and a legacy one lacks, with a comma behind each."""
    cached = b'"ttlMs":0,"cacheScope":"private",' if method in _CACHED else b""
    return b'"resultType":"complete",' + cached


def complete(method: str, result: bytes | msgspec.Raw, server: bytes) -> bytes:
    """A legacy result as a modern one. `server`: what `info` gave. Its members are passed on as the bytes that came."""
    members = _shallow(result)
    members["resultType"] = msgspec.Raw(b'"complete"')
    if method in _CACHED:
        members["ttlMs"], members["cacheScope"] = msgspec.Raw(b"0"), msgspec.Raw(b'"private"')
    meta = _shallow(members.get("_meta"))
    meta[META_SERVER] = msgspec.Raw(server)
    members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
    return jsonrpc.encode(members)


def failed(result: bytes | msgspec.Raw) -> bool:
    """Does the result say `isError`?"""
    return bytes(_shallow(result).get("isError", b"")) == b"true"


def failure(method: str, params: jsonrpc.Json, error: bytes | msgspec.Raw) -> tuple[int, bytes]:
    """A legacy error as a modern one: its code, and the whole."""
    told = jsonrpc.obj(jsonrpc.decode(error)) or {}
    code = told.get("code")
    if code == _NOT_FOUND:
        data = jsonrpc.obj(told.get("data")) or {}
        if method == "resources/read" and "uri" in params:
            data = {"uri": params["uri"], **data}
        return _INVALID, jsonrpc.encode({**told, "code": _INVALID, **({"data": data} if data else {})})
    if type(code) is not int or (code in _RESERVED and code not in _KNOWN):
        return _OTHER, jsonrpc.encode({**told, "code": _OTHER})
    return code, bytes(error)


def addresses(error: bytes | msgspec.Raw) -> list[bytes]:
    """The params of each address that an error -32042 wants its user to be at first, as a modern question has them."""
    told = jsonrpc.obj(jsonrpc.decode(error)) or {}
    found = [jsonrpc.obj(one) for one in jsonrpc.array((jsonrpc.obj(told.get("data")) or {}).get("elicitations"))]
    return [
        jsonrpc.encode({"mode": "url", "message": str(one.get("message", "")), "url": one["url"]})
        for one in found
        if one is not None and isinstance(one.get("url"), str)
    ]


def asked(params: bytes | msgspec.Raw) -> tuple[str, bytes]:
    """A legacy question's name for itself (`INPUT_KEY`; empty without one), and its params as a modern one has them."""
    members = _shallow(params)
    told = _shallow(members.get("_meta")).get(INPUT_KEY)
    name: object = None if told is None else jsonrpc.decode(told)
    for one in _GONE_FROM_QUESTIONS:
        members.pop(one, None)
    named = name if isinstance(name, str) and len(name) <= _KEY and name.isprintable() else ""
    return named, jsonrpc.encode(members) if members else b""


def needed(method: str, params: bytes | msgspec.Raw) -> jsonrpc.Json:
    """The client capability that a question takes, as `requiredCapabilities` of -32021 has it."""
    members = _shallow(params)
    if method == "elicitation/create":
        return {"elicitation": {"url": {}} if bytes(members.get("mode", b"")) == b'"url"' else {}}
    if method == "sampling/createMessage":
        return {"sampling": {"tools": {}} if "tools" in members or "toolChoice" in members else {}}
    return {"roots": {}}


def lacks(declared: object, wanted: jsonrpc.Json) -> bool:
    """Is anything of `wanted` not declared?

    Elicitation without a mode means forms ("Elicitation: Capabilities"); a client with `url` alone takes no forms.
    """
    told = jsonrpc.obj(declared)
    if told is None:
        return True
    form = wanted.get("elicitation") == {} and isinstance(told.get("elicitation"), dict)
    if form and told["elicitation"] and "form" not in told["elicitation"] and "url" in told["elicitation"]:
        return True
    return any(name not in told or lacks(told[name], jsonrpc.obj(inner) or {}) for name, inner in wanted.items())


def required(questions: Mapping[str, tuple[str, bytes]], state: str, server: bytes) -> bytes:
    """The result that asks: by key, method and params of each question."""
    requests = {
        key: {"method": method, **({"params": msgspec.Raw(params)} if params else {})}
        for key, (method, params) in questions.items()
    }
    return jsonrpc.encode(
        {
            "resultType": "input_required",
            "inputRequests": requests,
            "requestState": state,
            "_meta": {META_SERVER: msgspec.Raw(server)},
        }
    )


def progress(params: bytes | msgspec.Raw, told: bytes) -> bytes:
    """A progress notice under the token that the request of now has."""
    members = _shallow(params)
    members["progressToken"] = msgspec.Raw(told)
    return jsonrpc.notification("notifications/progress", jsonrpc.encode(members))


# --- subscriptions ----------------------------------------------------------------------------------------

_CHANGES: Final[Mapping[str, tuple[str, str]]] = {
    "toolsListChanged": ("tools", "notifications/tools/list_changed"),
    "promptsListChanged": ("prompts", "notifications/prompts/list_changed"),
    "resourcesListChanged": ("resources", "notifications/resources/list_changed"),
}
UPDATED: Final = "notifications/resources/updated"


def changes(wanted: object, offers: jsonrpc.Json) -> dict[str, str]:
    """Which changes of lists a listener asks for and the server tells: member of the filter → notification."""
    told = jsonrpc.obj(wanted) or {}
    return {
        member: notice
        for member, (capability, notice) in _CHANGES.items()
        if told.get(member) is True and (jsonrpc.obj(offers.get(capability)) or {}).get("listChanged") is True
    }


def watched(wanted: object, offers: jsonrpc.Json) -> list[str]:
    """Which resources a listener asks for, if the server has subscriptions; each once."""
    if (jsonrpc.obj(offers.get("resources")) or {}).get("subscribe") is not True:
        return []
    told = jsonrpc.array((jsonrpc.obj(wanted) or {}).get("resourceSubscriptions"))
    return list(dict.fromkeys(uri for uri in told if isinstance(uri, str)))


def acknowledged(id_raw: bytes, members: Mapping[str, Any]) -> bytes:
    """The first message of a listener's stream: what it will hear of."""
    meta = {eras.META_SUBSCRIPTION: msgspec.Raw(id_raw)}
    params = jsonrpc.encode({"notifications": members, "_meta": meta})
    return jsonrpc.notification("notifications/subscriptions/acknowledged", params)


def tagged(method: str, params: bytes | msgspec.Raw, id_raw: bytes) -> bytes:
    """A notice on the stream of the listener whose request has the id `id_raw`."""
    members = _shallow(params)
    meta = _shallow(members.get("_meta"))
    meta[eras.META_SUBSCRIPTION] = msgspec.Raw(id_raw)
    members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
    return jsonrpc.notification(method, jsonrpc.encode(members))


def ended(id_raw: bytes, server: bytes) -> bytes:
    """The result that ends a listener's stream."""
    meta = {eras.META_SUBSCRIPTION: msgspec.Raw(id_raw), META_SERVER: msgspec.Raw(server)}
    return jsonrpc.result(id_raw, jsonrpc.encode({"resultType": "complete", "_meta": meta}))


def concerns(uri: str, subscribed: str) -> bool:
    """Is a change of `uri` one of the resource `subscribed`, or below it ("Resources: Subscriptions")?"""
    return uri == subscribed or (
        uri.startswith(subscribed) and (subscribed[-1:] == "/" or uri[len(subscribed)] in "/?#")
    )


def member(params: bytes | msgspec.Raw, name: str) -> Any:
    """One member of a notice's params, decoded; None without it."""
    found = _shallow(params).get(name)
    return None if found is None else jsonrpc.decode(found)


def _shallow(raw: bytes | msgspec.Raw | None) -> _Members:
    """The members of a JSON object, each as it came; none for anything else."""
    if not raw:
        return {}
    try:
        return _members.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}
