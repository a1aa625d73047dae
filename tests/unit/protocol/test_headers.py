"""The header rules of the modern wire, beside the reference implementation's (package mcp, `mcp.shared.inbound`)."""

import base64
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mcp.shared import inbound

from smcp.kernel import errors
from smcp.protocol import headers


def fields(*pairs: tuple[str, str]) -> headers.Fields:
    return headers.Fields([(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.requirement("protocol:headers:duplicates")
def test_a_field_that_stands_twice_stays_visible_and_is_refused_where_one_is_needed() -> None:
    sent = fields(("Host", "a"), ("Origin", "x"), ("Host", "b"))
    assert (sent.get(b"host"), sent.count(b"host"), sent.count(b"origin"), sent.count(b"none")) == ("a", 2, 1, 0)
    assert list(sent.names()) == ["host", "origin", "host"]
    assert sent.size() == len("HostaOriginxHostb")
    assert (sent.only(b"origin"), sent.only(b"none")) == ("x", None)
    with pytest.raises(errors.BadRequest, match="host is sent twice"):
        sent.only(b"host")
    with pytest.raises(errors.BadRequest):
        fields(("Host", "same"), ("host", "same")).only(b"host")


@pytest.mark.requirement("protocol:headers:codec")
@given(st.text(st.characters(codec="utf-8"), max_size=30))
@example("=?base64?YQ==?=")
@example(" edge ")
@hypothesis_settings(deadline=None)
def test_what_the_reference_encodes_is_decoded_to_what_it_was(text: str) -> None:
    assert headers.decode(inbound.encode_header_value(text)) == text


def comparable(value: str) -> bool:
    """Can it be part of a header field (no line ends: RFC 9110, 5.5), and does the reference not fall over it?"""
    return not {"\n", "\r"} & set(value) and (value.isascii() or not value.startswith("=?base64?"))


_wild = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(lambda text: f"=?base64?{text}?="),
    st.binary(max_size=12).map(lambda data: f"=?base64?{base64.b64encode(data).decode()}?="),
    st.sampled_from(["=?base64??=", "=?base64?YR==?=", "=?base64?YQ?=", "=?BASE64?YQ==?=", "=?base64?_-8=?="]),
)


@pytest.mark.requirement("protocol:headers:codec")
@given(_wild.filter(comparable))
@hypothesis_settings(deadline=None, max_examples=300)
def test_every_header_value_is_read_as_the_reference_reads_it(value: str) -> None:
    assert headers.decode(value) == inbound.decode_header_value(value)


@pytest.mark.requirement("protocol:headers:codec")
@pytest.mark.parametrize("payload", ["YR==", "YQ", "%%%", "/w==", "é"])
def test_a_malformed_sentinel_matches_nothing(payload: str) -> None:
    # On the last one the reference falls over (ValueError); it is malformed like the others.
    assert headers.decode(f"=?base64?{payload}?=") is None


_names = ["region", "count", "flag", "inner"]
_schema: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "flag": {"type": "boolean", "x-mcp-header": "Flag"},
        "inner": {"type": "object", "properties": {"deep": {"type": "integer", "x-mcp-header": "Deep"}}},
        "plain": {"type": "string"},
    },
}
_scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-100, 100),
    st.integers(),
    st.sampled_from([0.0, -0.0, 1.5, 42.0, 1e20, 1e300, 2.0**53]),
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.lists(st.integers(), max_size=1),
    st.dictionaries(st.sampled_from(["deep", "x"]), st.integers(-5, 5), max_size=2),
)
_arguments = st.dictionaries(st.sampled_from(_names), _scalar, max_size=4)
_values = st.one_of(
    st.sampled_from(["42", "42.0", "042", "-0", "0", "true", "false", "True", "1e+20", "100000000000000000000", "1.5"]),
    st.integers(-100, 100).map(str),
    _wild.filter(comparable),
)
_sent = st.dictionaries(st.sampled_from(["Region", "Count", "Flag", "Deep", "Other"]), _values, max_size=4)


def ours(schema: Any, arguments: dict[str, Any], sent: list[tuple[str, str]]) -> bool:
    """Whether the headers pass."""
    try:
        headers.check_params(schema, arguments, fields(*sent))
    except errors.HeaderMismatch:
        return False
    return True


@pytest.mark.requirement("protocol:headers:params")
@given(_arguments, _sent, st.sets(st.sampled_from(["Region", "Count", "Flag", "Deep"])))
@hypothesis_settings(deadline=None, max_examples=500)
def test_mirrored_arguments_are_judged_as_the_reference_judges_them(
    arguments: dict[str, Any], sent: dict[str, str], honest: set[str]
) -> None:
    # `honest` headers are what a conforming client sends, so that passing is not the rare case.
    told = {f"Mcp-Param-{name}": value for name, value in sent.items()}
    for name, value in inbound.mcp_param_headers(inbound.x_mcp_header_map(_schema), arguments).items():
        if name.removeprefix("Mcp-Param-") in honest:
            told[name] = value
    told = {name: value.strip(" \t") for name, value in told.items()}  # RFC 9110, 5.5: it is not part of the value
    wanted = inbound.validate_mcp_param_headers(_schema, arguments, told) is None
    assert ours(_schema, arguments, list(told.items())) is wanted


@pytest.mark.requirement("protocol:headers:params")
@given(_arguments)
@hypothesis_settings(deadline=None)
def test_a_conforming_client_always_passes_and_a_duplicate_never_does(arguments: dict[str, Any]) -> None:
    sent = list(inbound.mcp_param_headers(inbound.x_mcp_header_map(_schema), arguments).items())
    assert ours(_schema, arguments, sent)
    if sent:
        assert not ours(_schema, arguments, [*sent, sent[0]])


@pytest.mark.requirement("protocol:headers:params")
def test_on_purpose_a_schema_with_one_bad_annotation_still_binds_the_good_ones() -> None:
    # The reference checks nothing then: its client does not call such a tool. Others do, and what a proxy in between
    # routes by must be what the body says.
    schema = {
        "properties": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "number", "x-mcp-header": "B"}}
    }
    assert inbound.find_invalid_x_mcp_header(schema) is not None
    assert inbound.validate_mcp_param_headers(schema, {"a": "x"}, {"Mcp-Param-A": "y"}) is None
    assert not ours(schema, {"a": "x"}, [("Mcp-Param-A", "y")])
    assert ours(schema, {"a": "x", "b": 1}, [("Mcp-Param-A", "x"), ("Mcp-Param-B", "anything")])


@pytest.mark.requirement("protocol:headers:params")
def test_an_annotation_below_anything_but_properties_is_none() -> None:
    hidden = {"a": {"type": "string", "x-mcp-header": "A"}}
    schemas: list[Any] = [{"items": {"properties": hidden}}, {"anyOf": [{"properties": hidden}]}, {"$defs": hidden}]
    for schema in [*schemas, 5, None]:
        assert ours(schema, {"a": "x"}, [])
