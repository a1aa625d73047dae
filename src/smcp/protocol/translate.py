"""What a legacy client says, put into the modern wire's words, and what a modern server is, put into the legacy ones.

Pure functions. A legacy client shakes hands and declares what it can do once; a modern server wants that with each
request, in `params._meta` (MCP 2026-07-28, "Base protocol: _meta"), and knows no handshake.

A modern server asks nothing by itself either: it answers `input_required` with what it wants to know, and is asked
again with the answers (MCP 2026-07-28, "Multi round-trip requests"). A legacy client gets each of these as a request
of its own.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras

VERSION: Final = eras.MODERN[-1]
"""What a modern server is spoken to in."""

META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
_LISTS: Final = ("tools", "prompts", "resources")
_MODERN_ONLY: Final = ("extensions", "tasks")
_TASKS: Final = "io.modelcontextprotocol/tasks"
_NO_ELICITATION: Final = eras.LEGACY[:2]
"""Versions before `elicitation/create` (2025-06-18)."""
_DETAILED: Final = eras.LEGACY[3:]
"""Versions in which a capability says more than that it is there: forms and addresses, tools in sampling."""
QUESTIONS: Final[Mapping[str, str]] = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a server may ask a client, and the client's capability for it."""
ASKED: Final = frozenset(QUESTIONS.values())
_RESOURCE_NOT_FOUND: Final = -32002
_INVALID_PARAMS: Final = -32602
_LACKS_CAPABILITY: Final = -32021
_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members)


def negotiated(asked: object) -> str:
    """The version of a session: what was asked for, else the newest legacy one (MCP 2025-11-25, "Lifecycle")."""
    return asked if isinstance(asked, str) and asked in eras.LEGACY else eras.LEGACY[-1]


def offered(capabilities: Mapping[str, Any], *, notices: bool) -> jsonrpc.Json:
    """What a legacy session may count on, of what a server said in `server/discover`.

    Without `notices` nobody can tell it of changes.
    """
    found: jsonrpc.Json = {name: value for name, value in capabilities.items() if name not in _MODERN_ONLY}
    for name in _LISTS:
        if name in found:
            told = jsonrpc.obj(found[name]) or {}
            found[name] = {flag: True for flag in ("listChanged", "subscribe") if notices and told.get(flag) is True}
    return found


def changes(capabilities: Mapping[str, Any]) -> bool:
    """Has a server that said this anything to tell to who listens?"""
    told = offered(capabilities, notices=True)
    return any(told.get(name) for name in _LISTS)


def initialized(version: str, offered: Mapping[str, Any], info: Mapping[str, Any], instructions: str) -> bytes:
    """The result of `initialize`, JSON-encoded, for a server that described itself."""
    server = {"name": str(info.get("name") or "server"), "version": str(info.get("version") or "0"), **info}
    result: dict[str, Any] = {"protocolVersion": version, "capabilities": dict(offered), "serverInfo": server}
    if instructions:
        result["instructions"] = instructions
    return jsonrpc.encode(result)


def capabilities(version: str, declared: object) -> jsonrpc.Json:
    """What a modern server may count on, of what a legacy client declared in `initialize`.

    Left out is what the session's version does not have, what the modern wire has no way to use (notices about roots,
    tasks of the legacy kind), and members that are no objects.
    """
    told = {
        name: one for name, value in (jsonrpc.obj(declared) or {}).items() if (one := jsonrpc.obj(value)) is not None
    }
    found: jsonrpc.Json = {name: told[name] for name in ("experimental", "extensions") if name in told}
    if _TASKS in found.get("extensions", {}):
        found["extensions"] = {name: one for name, one in found["extensions"].items() if name != _TASKS}
    if "roots" in told:
        found["roots"] = {}
    if "sampling" in told:
        found["sampling"] = _details(version, told["sampling"], ("context", "tools"))
    if "elicitation" in told and version not in _NO_ELICITATION:
        found["elicitation"] = _details(version, told["elicitation"], ("form", "url"))
    return found


def _details(version: str, told: jsonrpc.Json, names: tuple[str, ...]) -> jsonrpc.Json:
    return {name: told[name] for name in names if jsonrpc.obj(told.get(name)) is not None and version in _DETAILED}


def meta(client: object, log_level: str = "", able: object = None) -> bytes:
    """What is stamped on each request of a session, JSON-encoded.

    `client` is the `clientInfo` of `initialize`, `able` what `capabilities` made of what came with it.
    """
    told = jsonrpc.obj(client)
    stamp: dict[str, Any] = {eras.META_VERSION: VERSION, eras.META_CAPABILITIES: jsonrpc.obj(able) or {}}
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


class Wanted(NamedTuple):
    """What an answer asks for."""

    requests: dict[str, bytes]
    """By the server's own keys, each JSON-encoded."""
    state: bytes
    """`requestState` as it came, JSON-encoded; empty without one."""


class _InputRequired(msgspec.Struct):
    kind: str = msgspec.field(name="resultType", default="complete")
    requests: dict[str, msgspec.Raw] | None = msgspec.field(name="inputRequests", default=None)
    state: msgspec.Raw = msgspec.field(name="requestState", default=msgspec.Raw())


class _Request(msgspec.Struct):
    method: str
    params: msgspec.Raw = msgspec.Raw()


# Through the buffer: results are looked at without a copy of them.
_INPUT_REQUIRED: Final = re.compile(rb'"input_required"')
_inputs: Final = msgspec.json.Decoder(_InputRequired)
_requests: Final = msgspec.json.Decoder(_Request)


def wanted(result: bytes | msgspec.Raw) -> Wanted | None:
    """What the result of a modern server asks for; None when it is an answer."""
    if _INPUT_REQUIRED.search(result) is None:
        return None
    try:
        found = _inputs.decode(result)
    except (msgspec.DecodeError, RecursionError):
        return None
    if found.kind != "input_required":
        return None
    requests = {key: bytes(raw) for key, raw in (found.requests or {}).items()}
    return Wanted(requests, b"" if bytes(found.state) == b"null" else bytes(found.state))


def question(request: bytes, able: jsonrpc.Json, id_: str) -> tuple[str, bytes]:
    """One of `Wanted.requests` as a request to a client that is `able`, and its method. Its params are as they came.

    Raises `errors.InvalidParams` for what a server must not ask this client.
    """
    try:
        found = _requests.decode(request)
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.InvalidParams("an input request is not a request") from error
    needed = QUESTIONS.get(found.method)
    if needed is None:
        raise errors.InvalidParams(f"{found.method[:128]} is no input request")
    params = bytes(found.params)
    told = (jsonrpc.obj(jsonrpc.decode(params)) if params else None) or {}
    lacks = _lacks(found.method, told, able)
    if lacks:
        raise errors.InvalidParams(f"{found.method} needs the client capability {lacks}, which was not declared")
    if told.get("mode") == "url" and "elicitationId" not in told:
        # Required up to 2025-11-25 and gone from 2026-07-28.
        params = jsonrpc.encode({**_members.decode(params), "elicitationId": msgspec.Raw(jsonrpc.encode(id_))})
    return found.method, jsonrpc.request(jsonrpc.encode(id_), found.method, params)


def _lacks(method: str, params: jsonrpc.Json, able: jsonrpc.Json) -> str:
    name = QUESTIONS[method]
    has = jsonrpc.obj(able.get(name))
    if has is None:
        return name
    if method == "elicitation/create" and params.get("mode") == "url":
        return "" if "url" in has else "elicitation.url"
    if method == "elicitation/create":
        # An empty object means forms (MCP 2025-11-25 and 2026-07-28, "Elicitation: Capabilities").
        return "elicitation.form" if "url" in has and "form" not in has else ""
    if method == "sampling/createMessage" and ("tools" in params or "toolChoice" in params):
        return "" if "tools" in has else "sampling.tools"
    return ""


def again(message: jsonrpc.Message, responses: Mapping[str, bytes], state: bytes) -> jsonrpc.Message:
    """The request `message`, which was `stamped`, with answers to what the server wanted to know and its own `state`.

    All of them are the bytes that came.
    """
    members = _members.decode(message.params_raw)
    for name in ("inputResponses", "requestState"):
        members.pop(name, None)
    if responses:
        answers = b",".join(b"%b:%b" % (jsonrpc.encode(key), raw) for key, raw in responses.items())
        members["inputResponses"] = msgspec.Raw(b"{%b}" % answers)
    if state:
        members["requestState"] = msgspec.Raw(state)
    return jsonrpc.Message(message.kind, message.method, message.params, message.id, jsonrpc.encode(members), b"")


def failure(method: str, error: bytes | msgspec.Raw) -> bytes:
    """A modern server's error as a legacy client knows it, JSON-encoded; most are the bytes that came.

    | modern | legacy |
    |---|---|
    | -32602 for a resource that does not exist (`data.uri`) | -32002 (MCP 2025-11-25, "Resources: Error Handling") |
    | -32021 | the same, with a text that says what to do: no legacy version knows the code |
    """
    raw = bytes(error)
    told = jsonrpc.obj(jsonrpc.decode(raw)) or {}
    code, data = told.get("code"), jsonrpc.obj(told.get("data")) or {}
    if code == _INVALID_PARAMS and method == "resources/read" and "uri" in data:
        return jsonrpc.encode({**_members.decode(raw), "code": _RESOURCE_NOT_FOUND})
    if code == _LACKS_CAPABILITY:
        names = ", ".join(sorted(map(str, jsonrpc.obj(data.get("requiredCapabilities")) or {})))[:200]
        text = (
            f"This request needs a client capability that initialize did not declare{': ' if names else ''}{names}."
            " Use a client that has it, and open a new session."
        )
        return jsonrpc.encode({**_members.decode(raw), "message": text})
    return raw


LISTEN: Final = "subscriptions/listen"
_LIST_NOTICES: Final[Mapping[str, str]] = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_UPDATED: Final = "notifications/resources/updated"


class Listened(NamedTuple):
    """What a server has agreed to tell of."""

    lists: tuple[bytes, ...] = ()
    """The legacy notices that lists have changed."""
    uris: frozenset[str] = frozenset()


class Notice(NamedTuple):
    """A change, as a legacy client hears of it."""

    method: str
    uri: str
    """Of the resource that changed; empty for a list."""
    line: bytes


def listen(uris: Collection[str]) -> bytes:
    """The params of a call that listens for many sessions: to every list, and to these resources. JSON-encoded."""
    wanted: jsonrpc.Json = dict.fromkeys(_LIST_NOTICES, True)
    if uris:
        wanted["resourceSubscriptions"] = sorted(uris)
    return jsonrpc.encode({"notifications": wanted, "_meta": jsonrpc.decode(meta({"name": "smcp", "version": "1"}))})


def listened(line: bytes) -> Listened | None:
    """What `notifications/subscriptions/acknowledged` says, which comes first; None for anything else."""
    frame = jsonrpc.frame(line)
    if frame.method != _ACKNOWLEDGED:
        return None
    params = jsonrpc.obj(jsonrpc.decode(frame.params or b"{}")) or {}
    told = jsonrpc.obj(params.get("notifications")) or {}
    lists = tuple(jsonrpc.notification(method) for flag, method in _LIST_NOTICES.items() if told.get(flag) is True)
    uris = jsonrpc.array(told.get("resourceSubscriptions"))
    return Listened(lists, frozenset(uri for uri in uris if isinstance(uri, str)))


def notice(line: bytes) -> Notice | None:
    """What came of a call that listens, without the name of that; None for what no legacy client knows."""
    frame = jsonrpc.frame(line)
    if frame.method in _LIST_NOTICES.values():
        return Notice(frame.method, "", jsonrpc.notification(frame.method))
    if frame.method != _UPDATED:
        return None
    params = jsonrpc.obj(jsonrpc.decode(frame.params or b"{}")) or {}
    uri = params.get("uri")
    return Notice(frame.method, uri, updated(uri)) if isinstance(uri, str) else None


def updated(uri: str) -> bytes:
    """The notice that a resource has changed."""
    return jsonrpc.notification(_UPDATED, jsonrpc.encode({"uri": uri}))
