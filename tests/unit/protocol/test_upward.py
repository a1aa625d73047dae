"""A modern client's words in the legacy wire's, and a legacy server's in the modern one's."""

import json
from typing import Any

import pytest

from smcp.kernel import jsonrpc
from smcp.protocol import upward


def _request(params: object, method: str = "tools/call") -> jsonrpc.Message:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return jsonrpc.parse(body, max_depth=20)


@pytest.mark.requirement("gateway:upward:session")
def test_capabilities_are_the_same_whatever_the_order_of_their_members() -> None:
    one: jsonrpc.Json = {"sampling": {"tools": {}, "context": {}}, "roots": {}}
    two: jsonrpc.Json = {"roots": {}, "sampling": {"context": {}, "tools": {}}}
    assert upward.canonical(one) == upward.canonical(two)
    assert upward.canonical(one) != upward.canonical({**one, "elicitation": {}})


@pytest.mark.requirement("gateway:upward:session")
@pytest.mark.parametrize("client", [None, 7, {"name": 1}, {"name": "", "version": ""}])
def test_initialize_is_whole_whatever_the_client_says_of_itself(client: object) -> None:
    declared: jsonrpc.Json = {"roots": {"listChanged": True}, "tasks": {}, "extensions": {"a/b": {}}}
    told = jsonrpc.decode(upward.hello(declared, client))
    assert told["clientInfo"] == {"name": "client", "version": "0"}
    assert told["capabilities"] == {"roots": {}, "extensions": {"a/b": {}}}


@pytest.mark.requirement("gateway:upward:session")
def test_a_request_goes_down_without_the_modern_wires_members_and_else_byte_for_byte() -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{ "x" : 1.50,"y":"\\u00e9" },'
        b'"inputResponses":{"a":{}},"requestState":"s","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        b'"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info",'
        b'"progressToken":"mine","traceparent":"00-1"}}}'
    )
    message = jsonrpc.parse(body, max_depth=20)
    sent = upward.lowered(message, 9)
    assert b'"arguments":{ "x" : 1.50,"y":"\\u00e9" }' in sent.params_raw
    assert jsonrpc.decode(sent.params_raw) == {
        "name": "t",
        "arguments": {"x": 1.5, "y": "é"},
        "_meta": {"progressToken": 9, "traceparent": "00-1"},
    }
    assert sent.params["_meta"] == {"progressToken": 9}


@pytest.mark.requirement("gateway:upward:session")
def test_a_request_that_has_nothing_but_the_envelope_goes_down_without_meta() -> None:
    assert upward.lowered(_request({"_meta": {upward.META_CLIENT: {}}}), 1).params_raw == b"{}"


@pytest.mark.requirement("attack:mrtr:request-state")
def test_a_digest_is_of_method_and_params_and_of_nothing_that_a_retry_changes() -> None:
    first = _request({"name": "t", "arguments": {"a": 1, "b": 2}, "_meta": {"progressToken": 1}})
    retried = _request({"requestState": "s", "inputResponses": {}, "arguments": {"b": 2, "a": 1}, "name": "t"})
    assert upward.digest(first) == upward.digest(retried)
    others: list[Any] = [
        _request({"name": "u", "arguments": {"a": 1, "b": 2}}),
        _request({"name": "t", "arguments": {"a": 1, "b": 3}}),
        _request({"name": "t", "arguments": {"a": 1, "b": "2"}}),
        _request({"name": "t"}),
        _request({"name": "t", "arguments": {"a": 1, "b": 2}, "more": None}),
        _request({"name": "t", "arguments": {"a": 1, "b": 2}}, "prompts/get"),
    ]
    assert len({upward.digest(one) for one in [first, *others]}) == len(others) + 1


@pytest.mark.requirement("gateway:upward:questions")
@pytest.mark.parametrize(
    ("params", "named", "left"),
    [
        ({"message": "m", "_meta": {"io.smcp/inputKey": "name", "x": 1}}, "name", {"message": "m"}),
        ({"mode": "url", "elicitationId": "e", "task": {}}, "", {"mode": "url"}),
        ({"_meta": {"io.smcp/inputKey": "x" * 65}}, "", {}),
        ({"_meta": {"io.smcp/inputKey": "a\nb"}}, "", {}),
        ({"_meta": {"io.smcp/inputKey": 7}}, "", {}),
        ({"_meta": 7}, "", {}),
    ],
)
def test_a_question_names_its_key_and_keeps_what_modern_ones_have(params: Any, named: str, left: Any) -> None:
    told, raw = upward.asked(jsonrpc.encode(params))
    assert (told, jsonrpc.decode(raw or b"{}")) == (named, left)


@pytest.mark.requirement("gateway:upward:capability")
@pytest.mark.parametrize(
    ("declared", "method", "params", "lacks"),
    [
        ({}, "roots/list", {}, {"roots": {}}),
        ({"roots": {}}, "roots/list", {}, None),
        ({"elicitation": {}}, "elicitation/create", {"message": "m"}, None),
        ({"elicitation": {"form": {}}}, "elicitation/create", {"mode": "form"}, None),
        ({"elicitation": {"url": {}}}, "elicitation/create", {"mode": "form"}, {"elicitation": {}}),
        ({"elicitation": {}}, "elicitation/create", {"mode": "url"}, {"elicitation": {"url": {}}}),
        ({"elicitation": {"url": {}, "form": {}}}, "elicitation/create", {"mode": "url"}, None),
        ({"sampling": {}}, "sampling/createMessage", {"messages": []}, None),
        ({"sampling": {}}, "sampling/createMessage", {"tools": []}, {"sampling": {"tools": {}}}),
        ({"sampling": {"tools": {}}}, "sampling/createMessage", {"tools": []}, None),
        ({"sampling": None}, "sampling/createMessage", {}, {"sampling": {}}),
    ],
)
def test_what_a_question_takes_and_whether_it_was_declared(
    declared: Any, method: str, params: Any, lacks: dict[str, Any] | None
) -> None:
    wanted = upward.needed(method, jsonrpc.encode(params))
    assert upward.lacks(declared, wanted) == (lacks is not None)
    assert lacks is None or wanted == lacks


@pytest.mark.requirement("gateway:upward:errors")
def test_a_resource_that_is_not_found_is_named() -> None:
    error = b'{"code":-32002,"message":"m"}'
    assert upward.failure("tools/call", {}, error) == (-32602, b'{"code":-32602,"message":"m"}')
    code, told = upward.failure("resources/read", {"uri": "a:b"}, error)
    assert (code, jsonrpc.decode(told)["data"]) == (-32602, {"uri": "a:b"})


@pytest.mark.requirement("gateway:upward:listen")
@pytest.mark.parametrize(
    ("uri", "subscribed", "is_one"),
    [
        ("a:b", "a:b", True),
        ("a:b/c", "a:b", True),
        ("a:b/c", "a:b/", True),
        ("a:b#c", "a:b", True),
        ("a:bc", "a:b", False),
        ("a:", "a:b", False),
    ],
)
def test_a_subscription_hears_of_the_resource_and_what_is_below(uri: str, subscribed: str, is_one: bool) -> None:
    assert upward.concerns(uri, subscribed) == is_one
