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


def _learned(chunk: bytes) -> repeats.Head | None:
    """As the connection does it, after the parser has accepted the chunk's head."""
    try:
        found = _Parsed(chunk)
    except httptools.HttpParserError:
        return None
    if found.heads != 1 or not found.kept:
        return None
    return repeats.learn(chunk, found.length(), found.target, headers.Fields(found.fields))


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
@hypothesis.given(
    st.lists(_LINES, max_size=5), _BODIES, st.sampled_from(["2", "02", "0", "8", "+2", "2 ", "a", ""]), st.data()
)
def test_what_is_taken_without_the_parser_is_what_the_parser_would_have_found(
    lines: list[str], body: bytes, told: str, data: st.DataObject
) -> None:
    head = _learned(_request(*lines, body=b"{}"))
    if head is None:
        return
    chunk = head.before + told.encode() + head.after + body
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(chunk) - 1))
        chunk = chunk[:place] + data.draw(st.binary(max_size=2)) + chunk[place + data.draw(st.integers(0, 2)) :]
    if not chunk.startswith(head.before):
        return
    found = repeats.body(head, chunk)
    if found is None:
        return
    parsed = _Parsed(chunk)
    assert (parsed.heads, parsed.messages, parsed.method) == (1, 1, b"POST")
    assert parsed.kept
    assert (parsed.length(), parsed.body) == found
    assert parsed.target == head.target
    assert [pair for pair in parsed.fields if pair[0] != b"content-length"] == [
        pair for pair in head.fields.pairs if pair[0] != b"content-length"
    ]


@pytest.mark.requirement("gateway:hot:repeat")
def test_a_usual_head_is_known_again_with_another_length() -> None:
    head = _learned(_request("host: a.example", "content-length: 2", "accept: */*"))
    assert head is not None
    for body in (b"", b"{}", b'{"id":1}' * 40):
        again = _request("host: a.example", f"content-length: {len(body)}", "accept: */*", body=body)
        assert again.startswith(head.before)
        assert repeats.body(head, again) == (b"%d" % len(body), body)


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
