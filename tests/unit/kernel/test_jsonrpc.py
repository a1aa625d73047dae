"""The one reading of JSON from outside: what parsers could read differently is refused, the rest is kept as it came."""

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smcp.kernel import errors, jsonrpc

_DEPTH = 64
_HEAD = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":'


def parse(data: bytes) -> jsonrpc.Message:
    return jsonrpc.parse(data, max_depth=_DEPTH)


def within(params: bytes) -> bytes:
    return _HEAD + params + b"}"


def complaint(read: Callable[[bytes], object], data: bytes) -> int:
    """The HTTP status that `read` refuses `data` with; 400 too when it takes them. Anything else it raises goes on."""
    try:
        read(data)
    except errors.SmcpError as error:
        return error.http_status
    return 400


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_texts = st.text(st.characters(codec="utf-8"), max_size=12)
_values = st.recursive(
    _scalars | _texts, lambda one: st.lists(one, max_size=4) | st.dictionaries(_texts, one, max_size=4), max_leaves=12
)


@pytest.mark.requirement("protocol:json:duplicates")
@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}',
        b'{"jsonrpc":"2.0","\\u0069d":1,"id":2,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","\\u006dethod":"b"}',
        within(b'{"name":"a","name":"a"}'),
        within(b'{"name":"a","n\\u0061me":"b"}'),
        within(b'{"\\/":1,"/":2}'),
        within(b'{"_meta":{"x":{"progressToken":1,"progressToke\\u006e":2}}}'),
        within(b'{"arguments":[[{"a":[{"b":1,"b":2}]}]]}'),
        within(b'{"\\ud83d\\ude00":1,"\xf0\x9f\x98\x80":2}'),
        within(b'{"":1,"":2}'),
    ],
)
def test_a_key_that_stands_twice_is_refused_at_any_depth_and_in_any_spelling(body: bytes) -> None:
    with pytest.raises(errors.ParseError, match="same key twice"):
        parse(body)


@pytest.mark.requirement("protocol:json:duplicates")
@given(_texts, st.integers(0, 5), st.data())
@hypothesis_settings(deadline=None, max_examples=60)
def test_any_key_in_any_mix_of_escapes_is_found_to_be_the_same(key: str, depth: int, data: st.DataObject) -> None:
    def spelled() -> str:
        return "".join(
            one if one not in '"\\' and ord(one) > 31 and data.draw(st.booleans()) else json.dumps(one)[1:-1]
            if ord(one) > 127 or one in '"\\' or ord(one) < 32
            else f"\\u{ord(one):04x}"
            for one in key
        )  # fmt: skip

    inner = f'{{"{spelled()}":1,"other":2,"{spelled()}":3}}'
    if key == "other":
        return
    for _ in range(depth):
        inner = f'{{"x":[{inner}]}}'
    with pytest.raises(errors.ParseError, match="same key twice"):
        parse(within(inner.encode()))


@pytest.mark.requirement("protocol:json:ambiguous")
@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + within(b"{}"),
        within(b"{}").decode().encode("utf-16"),
        within(b"{}").decode().encode("utf-16-be"),
        within(b'{"a":NaN}'),
        within(b'{"a":Infinity}'),
        within(b'{"a":-Infinity}'),
        within(b'{"a":"\\ud800"}'),
        within(b'{"a":"\\udc00\\ud800"}'),
        within(b'{"\\udfff":1}'),
        within(b'{"a":"\xed\xa0\x80"}'),
        within(b'{"a":"\xc0\xaf"}'),
        within(b'{"a":"\xff"}'),
        within(b'{"a":"\x00"}'),
        within(b'{"a":"tab\there"}'),
        within(b"{'a':1}"),
        within(b'{"a":01}'),
        within(b'{"a":+1}'),
        within(b'{"a":1.}'),
        within(b'{"a":0x1}'),
        within(b'{"a":1,}'),
        within(b'{"a":[1,]}'),
        within(b'{"a":1}/* comment */'),
        within(b"{}") + b"{}",
        within(b"{}") + b"\x00",
        b"\x0c" + within(b"{}"),
        "\N{NO-BREAK SPACE}".encode() + within(b"{}"),
        b"",
        b" ",
        b'"',
        b"{",
        within(b'{"a":' + b"9" * 5000 + b"}"),
    ],
)
def test_what_parsers_disagree_about_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(errors.ParseError):
        parse(body)
    with pytest.raises(errors.ParseError):
        jsonrpc.strict_json(body, max_depth=_DEPTH)


@pytest.mark.requirement("protocol:json:depth")
def test_nesting_is_counted_outside_of_texts_only_and_up_to_the_cap() -> None:
    def nested(levels: int) -> bytes:  # the message itself is one level
        return within(b'{"a":' + b"[" * (levels - 2) + b"]" * (levels - 2) + b"}")

    assert parse(nested(_DEPTH)).kind is jsonrpc.Kind.REQUEST
    with pytest.raises(errors.TooDeep):
        parse(nested(_DEPTH + 1))
    with pytest.raises(errors.TooDeep):
        parse(b"[" * 1_000_000)
    with pytest.raises(errors.TooDeep):
        parse(within(b'{"a":' * 100 + b"1" + b"}" * 100))
    for text in (b"[" * 1000, b'\\"' + b"{" * 1000, b"\\\\", b'\\\\\\"' + b"[{" * 500):
        assert parse(within(b'{"a":"' + text + b'"}')).method == "tools/call"
    # A text that hides closing brackets must not make room for more levels.
    with pytest.raises(errors.TooDeep):
        parse(within(b'{"a":["' + b"]" * 200 + b'",' + b"[" * 100 + b"]" * 100 + b"]}"))


@pytest.mark.requirement("protocol:json:depth")
def test_many_brackets_side_by_side_are_no_depth() -> None:
    assert parse(within(b'{"a":[' + b"[]," * 20_000 + b"[]]}")).params["a"][-1] == []


@pytest.mark.requirement("protocol:envelope:ids")
@pytest.mark.parametrize("raw", [b"1", b"0", b"-7", b'"a"', b'""', b'"\\u00e9"', b"9" * 256, b'"' + b"x" * 254 + b'"'])
def test_an_id_is_a_text_or_an_integer_and_is_kept_as_it_came(raw: bytes) -> None:
    message = parse(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % raw)
    assert (message.id, message.kind) == (raw, jsonrpc.Kind.REQUEST)


@pytest.mark.requirement("protocol:envelope:ids")
@pytest.mark.parametrize(
    "raw", [b"null", b"true", b"1.0", b"1e2", b"[1]", b'{"a":1}', b"9" * 257, b'"' + b"x" * 255 + b'"']
)
def test_any_other_id_is_refused(raw: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        parse(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % raw)


@pytest.mark.requirement("protocol:envelope:shape")
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"[]", errors.BadRequest),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', errors.BadRequest),
        (b'"ping"', errors.BadRequest),
        (b"1", errors.BadRequest),
        (b"null", errors.BadRequest),
        (b"{}", errors.BadRequest),
        (b'{"id":1,"method":"ping"}', errors.BadRequest),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', errors.BadRequest),
        (b'{"jsonrpc":2.0,"id":1,"method":"ping"}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","id":1,"method":null}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","id":1}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","result":{}}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","result":{}}', errors.BadRequest),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","error":{}}', errors.BadRequest),
        (within(b"[]"), errors.InvalidParams),
        (within(b"null"), errors.InvalidParams),
        (within(b'"x"'), errors.InvalidParams),
    ],
)
def test_what_is_no_single_message_of_mcp_is_refused(body: bytes, wanted: type[errors.SmcpError]) -> None:
    with pytest.raises(wanted) as caught:
        parse(body)
    assert type(caught.value) is wanted


@pytest.mark.requirement("protocol:envelope:shape")
def test_requests_notifications_and_responses_are_told_apart() -> None:
    kinds = {
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}': jsonrpc.Kind.REQUEST,
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}': jsonrpc.Kind.NOTIFICATION,
        b'{"jsonrpc":"2.0","id":"a","result":{}}': jsonrpc.Kind.RESPONSE,
        b'{"jsonrpc":"2.0","id":"a","error":{"code":1,"message":""}}': jsonrpc.Kind.RESPONSE,
    }
    assert {body: parse(body).kind for body in kinds} == kinds


@pytest.mark.requirement("protocol:envelope:untouched")
def test_params_keep_their_bytes_and_numbers_their_digits() -> None:
    raw = b'{ "arguments" :{"big":12345678901234567890123456789,"tiny":1.10,"n":-0,"t":"\\u00e9\\/"} }'
    message = parse(within(raw))
    assert message.params_raw == raw
    assert message.params["arguments"]["big"] == 12345678901234567890123456789
    assert raw in jsonrpc.request(b"7", message.method, message.params_raw)


@pytest.mark.requirement("protocol:json:total")
@given(st.binary(max_size=200))
@example(b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}')
@hypothesis_settings(deadline=None, max_examples=400)
def test_whatever_bytes_come_the_only_complaint_is_a_4xx(data: bytes) -> None:
    assert complaint(parse, data) in range(400, 500)


_pieces = st.sampled_from(
    [b'"jsonrpc"', b'"2.0"', b'"id"', b'"method"', b'"params"', b'"result"', b'"error"', b":", b",", b"{", b"}", b"[",
     b"]", b"1", b"null", b'"ping"', b'"\\u0069d"', b'"\\ud800"', b"1e999", b"NaN", b" ", b"\xef\xbb\xbf", b'"', b"\\"]
)  # fmt: skip


@pytest.mark.requirement("protocol:json:total")
@given(st.lists(_pieces, max_size=30).map(b"".join))
@hypothesis_settings(deadline=None, max_examples=400)
def test_near_misses_of_json_rpc_are_answered_in_the_same_way(data: bytes) -> None:
    for read in (parse, jsonrpc.frame):
        assert complaint(read, data) in range(400, 500)


@pytest.mark.requirement("protocol:envelope:untouched")
@given(
    st.integers() | _texts.filter(lambda text: len(text) < 20),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    st.none() | st.dictionaries(_texts, _values, max_size=5),
    st.booleans(),
    st.sampled_from([None, 1]),
)
@hypothesis_settings(deadline=None, max_examples=200)
def test_what_is_accepted_reads_the_same_again(
    number: int | str, method: str, params: dict[str, object] | None, ascii_only: bool, indent: int | None
) -> None:
    tree: dict[str, object] = {"jsonrpc": "2.0", "id": number, "method": method}
    if params is not None:
        tree["params"] = params
    body = json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode()
    if len(json.dumps(number, ensure_ascii=ascii_only).encode()) > jsonrpc.MAX_ID_BYTES:
        return
    message = parse(body)
    again = parse(jsonrpc.request(message.id, message.method, message.params_raw))
    assert (again.id, again.method, again.params) == (message.id, message.method, message.params)
    assert (json.loads(message.id), message.method, message.params) == (number, method, params or {})


@pytest.mark.requirement("protocol:json:hosted")
@pytest.mark.parametrize(
    "line",
    [
        b"Listening on stdio",
        b"[1]",
        b"{}",
        b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff\xfe"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"jsonrpc":"2.0","id":007,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"a":nul}}',
        b'{"jsonrpc":"2.0","id":1,"method":5}',
    ],
)
def test_a_hosted_servers_line_that_clients_could_not_read_is_not_passed_on(line: bytes) -> None:
    with pytest.raises(errors.ParseError):
        jsonrpc.frame(line)


def _members_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _strictly(data: bytes) -> str | None:
    """What the slow reading makes of `data`, types and all; None when it refuses."""

    def refuse(_: str) -> None:
        raise ValueError

    def number(text: str) -> float:
        if float(text) in (float("inf"), float("-inf")):
            raise ValueError
        return float(text)

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_members_once, parse_float=number, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates
    except (ValueError, AssertionError, RecursionError):
        return None
    return repr(value)


@pytest.mark.requirement("gateway:hot:strict-reading")
@given(st.lists(_pieces, max_size=30).map(b"".join) | _values.map(lambda value: json.dumps(value).encode()))
@example(b'{"a":1,"a":1}')
@example(b'{"a":{"b":1,"b":2}}')
@example(b'{"a":1,"\\u0061":1}')
@example(b'{"a":1e5,"b":1.0,"c":-0,"d":-0.0,"e":123456789012345678901234567890}')
@example(b'"\x00"')
@example(b'"\xed\xa0\x80"')
@example(b"1.0E+2")
@example(b"[1,]")
@example(b" {} ")
@hypothesis_settings(deadline=None, max_examples=600)
def test_the_quick_reading_is_the_strict_one(data: bytes) -> None:
    try:
        found: str | None = repr(jsonrpc.strict_json(data, max_depth=_DEPTH))
    except errors.TooDeep:
        return
    except errors.ParseError:
        found = None
    assert found == _strictly(data)


@pytest.mark.requirement("protocol:json:total")
@pytest.mark.parametrize("raw", [b'"\xff"', b'{"\xc3(":1}', b'["\xed\xa0\x80"]', b"[" * 100_000, b"1e999", b""])
def test_a_part_that_cannot_be_read_is_a_parse_error_whatever_the_reason(raw: bytes) -> None:
    with pytest.raises(errors.ParseError):
        jsonrpc.decode(raw)
