"""A legacy client's words in the modern wire's."""

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, translate


@pytest.mark.parametrize("params", [b"{}", b'{"a":1}', b'{"_meta":{"x":1}}'])
def test_who_asked_for_log_messages_is_known_to_have_asked_whatever_the_client_sends(params: bytes) -> None:
    message = jsonrpc.parse(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":%b}' % params, max_depth=9)
    for level in ("debug", ""):
        stamped = translate.stamped(message, translate.meta({"name": "logLevel", "version": "1"}, level))
        told = jsonrpc.decode(stamped.params_raw)["_meta"]
        assert (eras.META_LOG_LEVEL in told) == (eras.META_LOG_LEVEL in stamped.params["_meta"]) == bool(level)


_ABLE: jsonrpc.Json = {
    "sampling": {"tools": {}, "other": {}},
    "elicitation": {"url": {}},
    "roots": {"listChanged": True},
}


_DECLARED: list[tuple[str, object, jsonrpc.Json]] = [
    ("2025-11-25", _ABLE, {"sampling": {"tools": {}}, "elicitation": {"url": {}}, "roots": {}}),
    ("2025-06-18", _ABLE, {"sampling": {}, "elicitation": {}, "roots": {}}),
    ("2025-03-26", _ABLE, {"sampling": {}, "roots": {}}),
    ("2025-11-25", None, {}),
    ("2025-11-25", [1], {}),
    ("2025-11-25", {"sampling": True, "elicitation": [], "tasks": {"list": {}}, "mine": {}}, {}),
    (
        "2025-11-25",
        {"experimental": {"a": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}, "b": {"c": 1}}},
        {"experimental": {"a": {}}, "extensions": {"b": {"c": 1}}},
    ),
]


@pytest.mark.requirement("gateway:asking:capabilities")
@pytest.mark.parametrize(("version", "told", "passed"), _DECLARED)
def test_a_server_is_told_only_what_the_version_and_the_modern_wire_have(
    version: str, told: object, passed: jsonrpc.Json
) -> None:
    assert translate.capabilities(version, told) == passed


_RESULTS: list[tuple[bytes, tuple[dict[str, bytes], bytes] | None]] = [
    (b'{"resultType":"complete","content":[{"type":"text","text":"input_required"}]}', None),
    (b'{"content":[]}', None),
    (b'{"resultType":"input_required","requestState":"a\\u00e9"}', ({}, b'"a\\u00e9"')),
    (b'{"resultType":"input_required","requestState":null,"inputRequests":{}}', ({}, b"")),
    (
        b'{"inputRequests":{"k":{"method":"roots/list"}}, "resultType" : "input_required"}',
        ({"k": b'{"method":"roots/list"}'}, b""),
    ),
    (b'{"resultType":"input_required","inputRequests":[]}', None),
]


@pytest.mark.parametrize(("result", "wanted"), _RESULTS)
def test_an_answer_that_asks_is_told_from_one_that_speaks_of_it(result: bytes, wanted: object) -> None:
    assert translate.wanted(result) == wanted


def _asked(method: str, **params: object) -> bytes:
    return jsonrpc.encode({"method": method, "params": params})


_UNDECLARED: list[tuple[bytes, jsonrpc.Json]] = [
    (b'{"method":"roots/list"}', {}),
    (b'{"method":"tools/list"}', {"roots": {}}),
    (b"[]", {"roots": {}}),
    (_asked("elicitation/create", mode="url"), {"elicitation": {}}),
    (_asked("elicitation/create", mode="form"), {"elicitation": {"url": {}}}),
    (_asked("sampling/createMessage", tools=[]), {"sampling": {}}),
    (_asked("sampling/createMessage", toolChoice={}), {"sampling": {"context": {}}}),
]


@pytest.mark.parametrize(("request_", "able"), _UNDECLARED)
def test_what_was_not_declared_is_no_question(request_: bytes, able: jsonrpc.Json) -> None:
    with pytest.raises(errors.InvalidParams):
        translate.question(request_, able, "id")


def test_a_question_keeps_its_params_and_an_address_gets_the_id_that_older_clients_need() -> None:
    form = b'{"method":"elicitation/create","params":{ "message": "\\u00e9", "requestedSchema":{}}}'
    method, line = translate.question(form, {"elicitation": {}}, "q1")
    assert method == "elicitation/create"
    params = b'{ "message": "\\u00e9", "requestedSchema":{}}'
    assert line == b'{"jsonrpc":"2.0","id":"q1","method":"elicitation/create","params":%b}' % params
    _, line = translate.question(_asked("elicitation/create", mode="url", url="x"), {"elicitation": {"url": {}}}, "q2")
    assert jsonrpc.decode(line)["params"] == {"mode": "url", "url": "x", "elicitationId": "q2"}


def test_the_next_round_is_the_same_request_with_answers_and_state_as_they_came() -> None:
    params = b'{"name":"t","arguments":{"a": 1.0},"requestState":"mine"}'
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%b}' % params
    message = translate.stamped(jsonrpc.parse(body, max_depth=9), translate.meta(None))
    again = translate.again(message, {'k"': b'{"action": "decline"}'}, b'"s\\u00e9"').params_raw
    assert b'"arguments":{"a": 1.0}' in again
    assert b'"inputResponses":{"k\\"":{"action": "decline"}}' in again
    assert b'"requestState":"s\\u00e9"' in again
    assert b'"mine"' not in again
    first = jsonrpc.decode(translate.again(message, {}, b"").params_raw)
    assert not {"inputResponses", "requestState"} & first.keys()


_ERRORS: list[tuple[str, jsonrpc.Json, int]] = [
    ("resources/read", {"code": -32602, "message": "no", "data": {"uri": "x:1"}}, -32002),
    ("resources/read", {"code": -32602, "message": "no"}, -32602),
    ("tools/call", {"code": -32602, "message": "no", "data": {"uri": "x:1"}}, -32602),
    ("tools/call", {"code": -32021, "message": "no", "data": None}, -32021),
    ("tools/call", {"code": -32603, "message": "no"}, -32603),
]


@pytest.mark.parametrize(("method", "error", "code"), _ERRORS)
def test_errors_have_the_codes_of_the_legacy_wire(method: str, error: jsonrpc.Json, code: int) -> None:
    told = jsonrpc.decode(translate.failure(method, jsonrpc.encode(error)))
    assert told["code"] == code
    assert told.get("data") == error.get("data")
    assert ("initialize" in told["message"]) == (code == -32021)


def test_a_notice_loses_the_name_of_the_call_that_it_came_on() -> None:
    meta = '"_meta":{"io.modelcontextprotocol/subscriptionId":0}'
    line = '{"jsonrpc":"2.0","method":"notifications/%s","params":{%s}}'
    changed = translate.notice((line % ("tools/list_changed", meta)).encode())
    assert changed is not None
    assert jsonrpc.decode(changed.line) == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    updated = translate.notice((line % ("resources/updated", f'"uri":"x:1",{meta}')).encode())
    assert updated is not None
    assert (updated.uri, jsonrpc.decode(updated.line)["params"]) == ("x:1", {"uri": "x:1"})
    assert translate.notice((line % ("tasks", meta)).encode()) is None
