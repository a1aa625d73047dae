"""Messages against their version: what is wrong is named, what is usual is found quickly, what is lenient passes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smcp.protocol.validate import messages, quick

_MODERN = "2026-07-28"
_META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": _MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_TEXT = {"type": "text", "text": "x"}
_ASKS = {"resultType": "input_required", "inputRequests": {"a": {"method": "x"}}}
_COMPLETES: dict[str, Any] = {"_meta": _META, "ref": {"type": "ref/prompt"}, "argument": {"name": "a", "value": "b"}}
_SELF = {"$ref": "#/$defs/Node", "$defs": {"Node": {"type": "object"}}}
"""As pydantic writes the schema of a model that refers to itself."""

_WRONG_RESULTS: list[tuple[str, str, Any, str]] = [
    ("2025-11-25", "tools/call", {"content": [{"type": "text", "text": 3}]}, "/content/0/text: "),
    ("2025-11-25", "tools/call", {"content": [_TEXT, {"type": "image", "data": "x"}]}, "/content/1/mimeType: "),
    ("2025-06-18", "tools/call", {"content": [{"type": "foo"}]}, "/content/0/type: is none"),
    ("2025-11-25", "tools/list", {"tools": [{"name": 3, "inputSchema": {"type": "object"}}]}, "/tools/0/name: "),
    ("2025-11-25", "initialize", {"protocolVersion": "x", "capabilities": {}, "serverInfo": {}}, "/serverInfo/"),
    ("2025-06-18", "resources/read", {"contents": [{"uri": "a:b"}]}, "/contents/0/"),
    (_MODERN, "tools/call", {"resultType": "complete"}, "/content: "),
    (_MODERN, "tools/call", {"resultType": 1, "content": []}, "/resultType: "),
    (_MODERN, "tools/call", {"resultType": "input_required"}, ": has neither"),
    (_MODERN, "tools/call", _ASKS, "/inputRequests/a/method: "),
    (_MODERN, "tools/list", {"tools": [], "ttlMs": 0, "resultType": "complete"}, "/cacheScope: "),
    (_MODERN, "prompts/get", {"messages": [{"role": "x", "content": _TEXT}]}, "/messages/0/role: "),
]
_WRONG_REQUESTS: list[tuple[str, str, Any, str]] = [
    ("2025-11-25", "tools/call", {"name": 3}, "/name: "),
    ("2024-11-05", "tools/call", {"name": "x", "arguments": []}, "/arguments: "),
    ("2025-11-25", "initialize", {"protocolVersion": "x", "capabilities": {}, "clientInfo": {}}, "/clientInfo/"),
    ("2025-11-25", "prompts/get", {"name": "x", "arguments": {"a": 3}}, "/arguments/a: "),
    (_MODERN, "tools/call", {"name": "x"}, "/_meta: "),
    (_MODERN, "completion/complete", _COMPLETES, "/ref/name: "),
]
_LENIENT: list[tuple[str, str, Any]] = [
    ("2025-11-25", "tools/call", {"structuredContent": {}}),
    ("2024-11-05", "tools/call", {"content": [_TEXT], "structuredContent": {}, "resultType": "complete", "x": 1}),
    ("2025-06-18", "tools/list", {"tools": [{"name": "x", "inputSchema": {}}]}),
    ("2025-11-25", "tools/list", {"tools": [{"name": "x", "inputSchema": {"type": "object"}, "outputSchema": _SELF}]}),
    ("2025-11-25", "tools/list", {"tools": [], "nextCursor": None, "_meta": None}),
    ("2025-11-25", "tools/call", {"content": [_TEXT], "structuredContent": None, "isError": None, "_meta": None}),
    ("2025-06-18", "vendor/method", {"anything": 1}),
    ("2025-11-25", "tasks/get", 3),
    (_MODERN, "tools/call", {"resultType": "task", "taskId": "x"}),
    (_MODERN, "tools/call", {"content": [_TEXT]}),
]


def _request(version: str, method: str, params: Any) -> str:
    return messages.client_request(
        version, method, _raw({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    )


def _raw(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.requirement("validation:messages:path")
@pytest.mark.parametrize(
    ("version", "method", "result", "wrong"),
    _WRONG_RESULTS,
)
def test_a_wrong_result_is_named(version: str, method: str, result: Any, wrong: str) -> None:
    assert messages.server_result(version, method, _raw(result)).startswith(wrong)


@pytest.mark.requirement("validation:messages:path")
@pytest.mark.parametrize(
    ("version", "method", "params", "wrong"),
    _WRONG_REQUESTS,
)
def test_a_wrong_request_is_named(version: str, method: str, params: Any, wrong: str) -> None:
    assert _request(version, method, params).startswith(wrong)


@pytest.mark.requirement("validation:messages:path")
def test_a_place_is_one_of_the_message_and_not_of_its_shape() -> None:
    wrong = messages.client_result("2025-11-25", "elicitation/create", _raw({"action": "accept", "content": {"a": {}}}))
    assert wrong.startswith("/content/a: ")


@pytest.mark.requirement("validation:messages:lenient")
@pytest.mark.parametrize(
    ("version", "method", "result"),
    _LENIENT,
)
def test_what_real_servers_send_passes(version: str, method: str, result: Any) -> None:
    assert messages.server_result(version, method, _raw(result)) == ""


@pytest.mark.requirement("validation:messages:quick")
def test_a_number_beyond_the_range_in_a_part_that_nobody_reads_is_taken_by_both() -> None:
    result = b'{"content":[],"_meta":{"x":11e999}}'
    assert quick.result(result, modern=True) is not None
    assert messages.server_result(_MODERN, "tools/call", result) == ""
    told = messages.server_result(_MODERN, "tools/call", b'{"content":[3],"_meta":{"x":11e999}}')
    assert told.startswith("/content/0: ")


@pytest.mark.requirement("validation:messages:bounded")
@pytest.mark.parametrize("version", ["2025-11-25", _MODERN])
def test_a_hundred_thousand_wrong_entries_are_one_error(version: str) -> None:
    body = b'{"resultType":"complete","content":[' + b",".join([b"1"] * 100_000) + b"]}"
    assert messages.server_result(version, "tools/call", body).startswith("/content/0: ")
    capabilities = {"experimental": {f"k{n}": 1 for n in range(50_000)}}
    meta = {**_META, "io.modelcontextprotocol/clientCapabilities": capabilities}
    assert "/experimental/k0: " in _request(_MODERN, "tools/call", {"name": "x", "_meta": meta})


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=3,
)  # fmt: skip


def _some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these members, each right or of any kind."""
    return st.fixed_dictionaries({}, optional={name: one | _JSON for name, one in members.items()})


def _renamed(found: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in found.items()}


# Making a message of many members takes its time on a busy machine.
_PATIENT = settings(suppress_health_check=[HealthCheck.too_slow])

_LEVEL = st.sampled_from(["info", "error", "loud"])
_CAPABILITIES = _some(
    elicitation=_some(form=_some()),
    experimental=_some(a=_some()),
    extensions=_some(b=_some()),
    roots=_some(),
    sampling=_some(tools=_some()),
)
_META_OF = _some(
    v=st.just(_MODERN),
    c=_CAPABILITIES,
    i=_some(name=st.text(), version=st.text(), title=st.text(), icons=_JSON),
    l=_LEVEL,
    progressToken=st.integers() | st.text(),
    other=_JSON,
).map(
    lambda found: _renamed(
        found,
        v="io.modelcontextprotocol/protocolVersion",
        c="io.modelcontextprotocol/clientCapabilities",
        i="io.modelcontextprotocol/clientInfo",
        l="io.modelcontextprotocol/logLevel",
    )
)
_WHOLE_META = st.just(_META) | _META_OF.map(lambda found: {**_META, **found}) | _META_OF
_PARAMS = _some(
    name=st.text(),
    arguments=_some(a=_JSON),
    uri=st.text(),
    cursor=st.text(),
    task=_JSON,
    requestState=st.text(),
    m=_WHOLE_META,
).map(lambda found: _renamed(found, m="_meta"))
_USUAL = ["tools/call", "resources/read", "tools/list", "prompts/list", "resources/list", "resources/templates/list"]


@pytest.mark.requirement("validation:messages:quick")
@_PATIENT
@given(st.sampled_from(_USUAL), _PARAMS, st.booleans())
def test_what_is_quickly_a_right_request_is_one(method: str, params: Any, modern: bool) -> None:
    if quick.request(method, _raw(params), modern=modern):
        for version in [_MODERN] if modern else ["2024-11-05", "2025-11-25"]:
            assert _request(version, method, params) == ""


_CONTENT = st.lists(_some(type=st.sampled_from(["text", "image"]), text=st.text(), annotations=_JSON), max_size=3)
_RESULT = _some(
    content=_CONTENT,
    isError=st.booleans(),
    structuredContent=_JSON,
    resultType=st.sampled_from(["complete", "input_required", "task"]),
    m=st.dictionaries(st.just("io.modelcontextprotocol/serverInfo"), _some(name=st.text(), version=st.text())),
    more=_JSON,
).map(lambda found: _renamed({"content": [], **found}, m="_meta"))


@pytest.mark.requirement("validation:messages:quick")
@_PATIENT
@given(_RESULT, st.booleans())
def test_what_is_quickly_a_right_result_is_one(result: Any, modern: bool) -> None:
    found = quick.result(_raw(result), modern=modern)
    if found is not None:
        for version in [_MODERN] if modern else ["2024-11-05", "2025-11-25"]:
            assert messages.server_result(version, "tools/call", _raw(result)) == ""
        assert found.failed == result.get("isError", False)
        assert (found.structured is msgspec.UNSET) == ("structuredContent" not in result)


_NOTICE = _some(
    progressToken=st.integers() | st.text(), progress=st.floats(0, 9), total=st.floats(0, 9), message=st.text()
)
_LOG = _some(level=_LEVEL, data=_JSON, logger=st.text())


@pytest.mark.requirement("validation:messages:quick")
@_PATIENT
@given(st.sampled_from(["notifications/progress", "notifications/message"]), _NOTICE | _LOG)
def test_what_is_quickly_a_right_notification_is_one(method: str, params: Any) -> None:
    if quick.notice(method, _raw(params)):
        line = _raw({"jsonrpc": "2.0", "method": method, "params": params})
        for version in (_MODERN, "2024-11-05", "2025-11-25"):
            assert messages.server_notification(version, method, line) == ""


@pytest.mark.requirement("validation:messages:quick")
def test_the_usual_shapes_are_found_quickly() -> None:
    assert quick.request("tools/call", _raw({"name": "x", "arguments": {"a": [1]}, "_meta": _META}), modern=True)
    assert quick.request("tools/call", _raw({"name": "x", "_meta": {"progressToken": 1}}), modern=False)
    assert quick.request("tools/list", _raw({"_meta": _META}), modern=True)
    assert quick.result(_raw({"resultType": "complete", "content": [_TEXT]}), modern=True) is not None
    assert quick.result(_raw({"content": [_TEXT], "structuredContent": {"a": 1}, "isError": False}), modern=False)
    assert quick.notice("notifications/progress", _raw({"progressToken": "a", "progress": 1, "total": 2}))
    assert not quick.request("tools/call", _raw({"name": "x", "task": {}}), modern=False)
