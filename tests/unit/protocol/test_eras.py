"""Which wire a request is on, and the ladder of the modern one, beside the reference implementation's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mcp.shared import inbound

from smcp.kernel import errors
from smcp.protocol import eras, headers

_VERSION = "2026-07-28"
_META: dict[str, Any] = {eras.META_VERSION: _VERSION, eras.META_CAPABILITIES: {}}


def fields(sent: dict[str, str]) -> headers.Fields:
    return headers.Fields([(name.encode(), value.encode("latin-1")) for name, value in sent.items()])


def ours(method: str, params: dict[str, Any], sent: dict[str, str]) -> int | None:
    """The code that the ladder ends with, None at the top."""
    try:
        eras.envelope(params)
        eras.check_modern(eras.standard(fields(sent)), method, params)
    except errors.SmcpError as error:
        return error.rpc_code
    return None


def reference(method: str, params: dict[str, Any], sent: dict[str, str]) -> int | None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    # Space around a field's value is not part of it (RFC 9110, 5.5); the reference is told what its web server leaves.
    left = {name: value.strip(" \t") for name, value in sent.items()}
    found = inbound.classify_inbound_request(body, headers=left)
    return found.code if isinstance(found, inbound.InboundLadderRejection) else None


def honest(method: str, params: dict[str, Any]) -> dict[str, str]:
    """The headers of a conforming client."""
    sent = {"mcp-protocol-version": str(params.get("_meta", {}).get(eras.META_VERSION, "")), "mcp-method": method}
    named = params.get(eras.NAMED.get(method, ""))
    return {**sent, "mcp-name": inbound.encode_header_value(named)} if isinstance(named, str) else sent


@pytest.mark.requirement("protocol:eras:routing")
def test_the_header_chooses_the_wire_and_what_is_unknown_goes_to_the_modern_one() -> None:
    for version in (None, *eras.LEGACY):
        assert eras.of_header(version) is eras.Era.LEGACY
    for version in (*eras.MODERN, "2099-01-01", "", "2025-11-25 ", "draft"):
        assert eras.of_header(version) is eras.Era.MODERN


@pytest.mark.requirement("protocol:eras:routing")
@pytest.mark.parametrize("version", [None, "2025-11-25"])
def test_a_modern_body_on_the_legacy_wire_is_a_mismatch(version: str | None) -> None:
    with pytest.raises(errors.HeaderMismatch):
        eras.check_legacy(version, {"_meta": _META})
    metas: list[Any] = [{}, 5, {eras.META_VERSION: "2025-11-25"}, None]
    for meta in metas:
        eras.check_legacy(version, {"_meta": meta})
    eras.check_legacy(version, {})


@pytest.mark.requirement("protocol:eras:ladder")
def test_the_ladder_names_the_first_rung_that_fails() -> None:
    params: dict[str, Any] = {"name": "echo", "_meta": {**_META, eras.META_VERSION: "2031-01-01"}}
    sent = {"mcp-protocol-version": _VERSION, "mcp-method": "tools/list"}
    steps: list[tuple[int, dict[str, Any], dict[str, str]]] = [
        (-32602, {"name": "echo"}, sent),
        (-32602, {"name": "echo", "_meta": {eras.META_VERSION: _VERSION}}, sent),
        (-32602, {"name": "echo", "_meta": {eras.META_CAPABILITIES: {}}}, sent),
        (-32020, params, sent),
        (-32020, params, {**sent, "mcp-protocol-version": "2031-01-01"}),
        (-32020, params, {"mcp-protocol-version": "2031-01-01", "mcp-method": "tools/call"}),
        (-32020, params, {"mcp-protocol-version": "2031-01-01", "mcp-method": "tools/call", "mcp-name": "Echo"}),
        (-32022, params, {"mcp-protocol-version": "2031-01-01", "mcp-method": "tools/call", "mcp-name": "echo"}),
    ]
    for code, body, told in steps:
        assert (ours("tools/call", body, told), reference("tools/call", body, told)) == (code, code)


@pytest.mark.requirement("protocol:eras:ladder")
def test_an_unsupported_version_is_answered_with_those_that_are() -> None:
    with pytest.raises(errors.UnsupportedVersion) as caught:
        eras.check_version("2031-01-01" * 50)
    assert caught.value.data == {"supported": [_VERSION], "requested": ("2031-01-01" * 50)[:64]}


@pytest.mark.requirement("protocol:eras:ladder")
def test_the_methods_that_were_removed_are_named() -> None:
    assert {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"} == eras.REMOVED


_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
_methods = st.sampled_from(["tools/call", "prompts/get", "resources/read", "tools/list", "server/discover", "x/y"])
_versions = st.sampled_from([_VERSION, "2025-11-25", "2031-01-01", "", "2026-07-28 "])
_Tree = dict[str, Any]
_some = st.dictionaries(st.sampled_from([eras.META_VERSION, "com.example/x"]), _versions, max_size=2) | st.dictionaries(
    st.just(eras.META_CAPABILITIES), st.dictionaries(_texts, _texts, max_size=1)
)


def _whole(version: str) -> _Tree:
    return {**_META, eras.META_VERSION: version}


def _joined(meta: _Tree | None, more: _Tree) -> _Tree:
    return more if meta is None else {**more, "_meta": meta}


_params = st.builds(
    _joined,
    st.none() | _some | st.builds(_whole, _versions) | st.builds(_whole, st.just(_VERSION)),
    st.dictionaries(st.sampled_from(["name", "uri", "arguments"]), _texts | st.none() | st.integers(), max_size=3),
)
_latin = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=8)
_lies = st.dictionaries(
    st.sampled_from(["mcp-protocol-version", "mcp-method", "mcp-name"]), _versions | _methods | _latin, max_size=2
)


@pytest.mark.requirement("protocol:eras:ladder")
@given(_methods, _params, st.booleans(), _lies, st.sets(st.sampled_from(["mcp-protocol-version", "mcp-method"])))
@hypothesis_settings(deadline=None, max_examples=600)
def test_every_request_ends_on_the_same_rung_as_in_the_reference(
    method: str, params: dict[str, Any], truth: bool, lies: dict[str, str], missing: set[str]
) -> None:
    sent = {**honest(method, params), **({} if truth else lies)}
    sent = {name: value for name, value in sent.items() if truth or name not in missing}
    assert ours(method, params, sent) == reference(method, params, sent)


@pytest.mark.requirement("protocol:eras:ladder")
@pytest.mark.parametrize("version", [5, None, ["2026-07-28"], {}])
def test_on_purpose_a_version_that_is_no_text_is_a_wrong_parameter(version: object) -> None:
    # The reference says -32020, as no header can equal it: that blames the header for a defect of the body.
    params: dict[str, Any] = {"_meta": {**_META, eras.META_VERSION: version}}
    sent = {"mcp-protocol-version": _VERSION, "mcp-method": "tools/list"}
    assert (ours("tools/list", params, sent), reference("tools/list", params, sent)) == (-32602, -32020)


@pytest.mark.requirement("protocol:eras:ladder")
@pytest.mark.parametrize("capabilities", [None, 5, [], "all"])
def test_on_purpose_capabilities_that_are_no_object_are_a_wrong_parameter(capabilities: object) -> None:
    # The reference looks at presence only; a hosted server must not meet a shape that its own library may not expect.
    params: dict[str, Any] = {"_meta": {**_META, eras.META_CAPABILITIES: capabilities}}
    sent = honest("tools/list", params)
    assert (ours("tools/list", params, sent), reference("tools/list", params, sent)) == (-32602, None)


@pytest.mark.requirement("protocol:eras:ladder", "protocol:headers:duplicates")
@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
def test_a_routing_header_that_stands_twice_is_a_mismatch_even_when_both_are_right(name: str) -> None:
    params: dict[str, Any] = {"name": "echo", "_meta": _META}
    sent = list(honest("tools/call", params).items())
    twice = [*sent, (name, dict(sent)[name])]
    assert inbound.find_duplicated_routing_header(twice) == name
    with pytest.raises(errors.HeaderMismatch):
        eras.check_modern(
            eras.standard(headers.Fields([(n.encode(), v.encode()) for n, v in twice])), "tools/call", params
        )


@pytest.mark.requirement("protocol:eras:status")
def test_errors_have_the_http_status_that_the_reference_gives_them() -> None:
    for code in (None, 0, 1, -32000, -32001, -32002, -32603, -32700, *inbound.ERROR_CODE_HTTP_STATUS):
        wanted = 200 if code is None else inbound.ERROR_CODE_HTTP_STATUS.get(code, 200)
        assert eras.http_status(eras.Era.MODERN, code) == wanted
        assert eras.http_status(eras.Era.LEGACY, code) == 200
