"""A head that came before, taken without the parser: only what the parser would have said of it, byte for byte."""

import contextlib
from typing import Any

import httptools
import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.app import repeats
from smcp.protocol import headers


class _Parsed:
    """What httptools says of one chunk."""

    def __init__(self, chunk: bytes) -> None:
        self.target, self.fields, self.body = b"", list[tuple[bytes, bytes]](), b""
        self.heads = self.messages = 0
        self.kept = False
        self.parser: Any = httptools.HttpRequestParser(self)
        with contextlib.suppress(httptools.HttpParserUpgrade):  # no error: the connection takes it for a request
            self.parser.feed_data(chunk)
        self.method: bytes = self.parser.get_method() if self.heads else b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.heads += 1
        self.kept = self.parser.should_keep_alive() and not self.parser.should_upgrade()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1

    def length(self) -> bytes:
        """The last Content-Length, as the connection keeps it."""
        return dict(self.fields).get(b"content-length", b"")


def _learned(chunk: bytes) -> repeats.Known | None:
    """As the connection does it, after the parser has accepted the chunk's head."""
    try:
        found = _Parsed(chunk)
    except httptools.HttpParserError:
        return None
    key = repeats.learn(chunk, found.length()) if found.heads == 1 and found.kept else b""
    if not key:
        return None
    known = repeats.Known(repeats.Room())
    known.remember(repeats.Head(key, "POST", found.target, headers.Fields(found.fields)), good=True)
    return known


def _request(*fields: str, body: bytes = b"{}", method: str = "POST", target: str = "/t/a/b/mcp") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode() + body


_LINES = st.sampled_from(
    [
        "host: a.example",
        "Content-Length: 2",
        "content-length:2",
        "content-length:  2",
        "content-length: 2 ",
        "content-length: 02",
        "content-length: +2",
        "content-length: 2, 2",
        "x-content-length: 2",
        "x: content-length: 2",
        "x: 1\n content-length: 2",
        "x: 1\ncontent-length: 2",
        "transfer-encoding: chunked",
        "Transfer-Encoding : chunked",
        "expect: 100-continue",
        "upgrade: h2c",
        "connection: close",
        "connection: upgrade",
        "connection: keep-alive",
        "accept: */*",
    ]
)
_BODIES = st.sampled_from([b"", b"{}", b"{}{}", b"0\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b'{"id":1}'])


@pytest.mark.requirement("gateway:hot:repeat")
@hypothesis.given(st.lists(_LINES, max_size=5), st.data())
def test_what_is_taken_without_the_parser_is_what_the_parser_would_have_found(
    lines: list[str], data: st.DataObject
) -> None:
    known = _learned(_request(*lines, body=b"{}"))
    if known is None or known.last is None:
        return
    cut = known.last.key.lower().index(b"content-length: ") + len("content-length: ")
    told = data.draw(st.sampled_from([b"2", b"02", b"0", b"8", b"+2", b"2 ", b"a", b""]))
    chunk = known.last.key[:cut] + told + known.last.key[cut:] + data.draw(_BODIES)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(chunk) - 1))
        chunk = chunk[:place] + data.draw(st.binary(max_size=2)) + chunk[place + data.draw(st.integers(0, 2)) :]
    found = known.find(chunk)
    if found is None:
        return
    head, length, body = found
    parsed = _Parsed(chunk)
    assert (parsed.heads, parsed.messages, parsed.method, parsed.kept) == (1, 1, b"POST", True)
    assert (parsed.length(), parsed.body, parsed.target) == (length, body, head.target)
    assert [pair for pair in parsed.fields if pair[0] != b"content-length"] == [
        pair for pair in head.fields.pairs if pair[0] != b"content-length"
    ]


@pytest.mark.requirement("gateway:hot:repeat")
def test_a_usual_head_is_known_again_with_another_length() -> None:
    known = _learned(_request("host: a.example", "content-length: 2", "accept: */*"))
    assert known is not None
    for body in (b"", b"{}", b'{"id":1}' * 40):
        again = _request("host: a.example", f"content-length: {len(body)}", "accept: */*", body=body)
        assert known.find(again) == (known.last, b"%d" % len(body), body)


def _head(name: str) -> tuple[bytes, repeats.Head]:
    chunk = _request(f"x: {name}", "content-length: 2")
    parsed = _Parsed(chunk)
    return chunk, repeats.Head(repeats.learn(chunk, b"2"), "POST", parsed.target, headers.Fields(parsed.fields))


@pytest.mark.requirement("gateway:hot:repeat")
def test_heads_in_turns_are_kept_when_they_were_good_and_there_is_room() -> None:
    room = repeats.Room(2)
    one, other = repeats.Known(room), repeats.Known(room)
    chunks: list[bytes] = []
    for number in range(4):
        chunk, head = _head(str(number))
        # `good` is told of the head before.
        one.remember(head, good=number != 2)
        chunks.append(chunk)
    assert [one.find(chunk) is not None for chunk in chunks] == [True, False, True, True]
    assert room.left == 0
    for number in range(2):
        other.remember(_head(str(number))[1], good=True)
    assert [other.find(chunk) is not None for chunk in chunks[:2]] == [False, True]
    one.clear()
    assert room.left == 2
    assert one.find(chunks[3]) is None


@pytest.mark.requirement("gateway:hot:repeat")
def test_one_connection_keeps_a_bounded_number_of_heads() -> None:
    room = repeats.Room()
    known = repeats.Known(room)
    before = room.left
    for number in range(300):
        known.remember(_head(str(number))[1], good=True)
    assert before - room.left == 64
    assert known.find(_head("290")[0]) is not None
    assert known.find(_head("1")[0]) is None


@pytest.mark.requirement("gateway:hot:repeat")
@pytest.mark.parametrize(
    "chunk",
    [
        _request("host: a", "content-length: 2", method="GET"),
        _request("host: a", "content-length: 2", "expect: 100-continue"),
        _request("host: a", "content-length: 2", "Upgrade: h2c", "connection: upgrade"),
        _request("host: a", "content-length: 2", "connection: close"),
        _request("host: a", "transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        _request("host: a", "content-length: 2", "content-length: 2"),
        _request("host: a", "content-length: 2 "),
        b"\r\n" + _request("host: a", "content-length: 2"),
        _request("host: a", body=b""),
    ],
)
def test_any_other_head_is_left_to_the_parser(chunk: bytes) -> None:
    assert _learned(chunk) is None
