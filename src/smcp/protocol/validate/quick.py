"""The shapes that nearly every message has, found right in a microsecond or two.

What is accepted here, the full validation (`messages`) accepts too: a property test holds that. What is not accepted is
not wrong, only not known here. So a shape lists every member that the full one looks at, with a type no wider, and
where it leaves one out, no other member may be there (`forbid_unknown_fields`).
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

_Any = dict[str, msgspec.Raw]
_Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


class _Meta(msgspec.Struct):
    token: str | int | UnsetType = msgspec.field(name="progressToken", default=UNSET)


class _Peer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    version: str
    title: str | UnsetType = UNSET


class _Elicitation(msgspec.Struct):
    form: _Any | UnsetType = UNSET
    url: _Any | UnsetType = UNSET


class _Sampling(msgspec.Struct):
    context: _Any | UnsetType = UNSET
    tools: _Any | UnsetType = UNSET


class _Capabilities(msgspec.Struct):
    elicitation: _Elicitation | UnsetType = UNSET
    experimental: dict[str, _Any] | UnsetType = UNSET
    extensions: dict[str, _Any] | UnsetType = UNSET
    roots: _Any | UnsetType = UNSET
    sampling: _Sampling | UnsetType = UNSET


class _Envelope(msgspec.Struct):
    version: str = msgspec.field(name="io.modelcontextprotocol/protocolVersion")
    capabilities: _Capabilities = msgspec.field(name="io.modelcontextprotocol/clientCapabilities")
    client: _Peer | UnsetType = msgspec.field(name="io.modelcontextprotocol/clientInfo", default=UNSET)
    level: _Level | UnsetType = msgspec.field(name="io.modelcontextprotocol/logLevel", default=UNSET)
    token: str | int | UnsetType = msgspec.field(name="progressToken", default=UNSET)


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: _Any | UnsetType = UNSET
    meta: _Meta | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _ModernCall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    meta: _Envelope = msgspec.field(name="_meta")
    arguments: _Any | UnsetType = UNSET


class _Page(msgspec.Struct, forbid_unknown_fields=True):
    cursor: str | UnsetType = UNSET
    meta: _Meta | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _ModernPage(msgspec.Struct, forbid_unknown_fields=True):
    meta: _Envelope = msgspec.field(name="_meta")
    cursor: str | UnsetType = UNSET


class _Read(msgspec.Struct, forbid_unknown_fields=True):
    uri: str
    meta: _Meta | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _ModernRead(msgspec.Struct, forbid_unknown_fields=True):
    uri: str
    meta: _Envelope = msgspec.field(name="_meta")


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class Result(msgspec.Struct, forbid_unknown_fields=True):
    """A tool's result that holds nothing but texts, and values for the tool's `outputSchema`."""

    content: list[_Text]
    failed: bool = msgspec.field(name="isError", default=False)
    structured: msgspec.Raw | UnsetType = msgspec.field(name="structuredContent", default=UNSET)


class _LegacyResult(Result, forbid_unknown_fields=True):
    # Modern servers' habits are no harm to legacy clients.
    kind: str | UnsetType = msgspec.field(name="resultType", default=UNSET)
    meta: _Any | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _ServerMeta(msgspec.Struct):
    server: _Peer | UnsetType = msgspec.field(name="io.modelcontextprotocol/serverInfo", default=UNSET)


class _ModernResult(Result, forbid_unknown_fields=True):
    kind: Literal["complete"] | UnsetType = msgspec.field(name="resultType", default=UNSET)
    meta: _ServerMeta | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _Progress(msgspec.Struct, forbid_unknown_fields=True):
    token: str | int = msgspec.field(name="progressToken")
    progress: float
    total: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    level: _Level
    data: msgspec.Raw
    logger: str | UnsetType = UNSET


class Failure(msgspec.Struct):
    """An error as JSON-RPC has it (2.0, 5.1)."""

    code: int
    message: str


_Decoders = Mapping[str, msgspec.json.Decoder[Any]]


def _requests(call: type, page: type, read: type) -> _Decoders:
    pages: msgspec.json.Decoder[Any] = msgspec.json.Decoder(page)
    lists = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
    return {
        "tools/call": msgspec.json.Decoder(call),
        "resources/read": msgspec.json.Decoder(read),
        **dict.fromkeys(lists, pages),
    }


_LEGACY: Final = _requests(_Call, _Page, _Read)
_MODERN: Final = _requests(_ModernCall, _ModernPage, _ModernRead)
_NOTICES: Final[_Decoders] = {
    "notifications/progress": msgspec.json.Decoder(_Progress),
    "notifications/message": msgspec.json.Decoder(_Message),
}
_RESULTS: Final = (msgspec.json.Decoder(_LegacyResult), msgspec.json.Decoder(_ModernResult))
_failures: Final = msgspec.json.Decoder(Failure)


def request(method: str, params: bytes, *, modern: bool) -> bool:
    """Is this one of the usual requests, and right?"""
    return _fits((_MODERN if modern else _LEGACY).get(method), params)


def notice(method: str, params: bytes | msgspec.Raw) -> bool:
    """Is this one of the usual notifications of a hosted server, and right?"""
    return _fits(_NOTICES.get(method), params)


def result(raw: bytes | msgspec.Raw, *, modern: bool) -> Result | None:
    """The result of a tool, if it is one of the usual ones, and right."""
    try:
        found = _RESULTS[modern].decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    if found.structured is not UNSET and not modern and bytes(found.structured).lstrip()[:1] != b"{":
        return None
    return found


def failure(raw: bytes | msgspec.Raw) -> Failure:
    """An error of a hosted server. Raises `msgspec.DecodeError`, whose text says what is wrong."""
    return _failures.decode(raw)


def _fits(decoder: msgspec.json.Decoder[Any] | None, params: bytes | msgspec.Raw) -> bool:
    if decoder is None or not params:
        return False
    try:
        decoder.decode(params)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
