"""Event streams: one JSON-RPC message an event, read back as the format says (WHATWG HTML, 9.2.6)."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smcp.kernel import errors
from smcp.protocol import sse


def read(stream: bytes) -> list[tuple[str, str]]:
    """The events (type, data) that a reader of the format dispatches."""
    found: list[tuple[str, str]] = []
    kind, data = "", list[str]()
    for line in stream.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                found.append((kind or "message", "\n".join(data)))
            kind, data = "", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
    return found


@pytest.mark.requirement("protocol:sse:events")
@given(st.recursive(st.integers() | st.text(st.characters(codec="utf-8")), st.lists), st.sampled_from([None, 1]))
@hypothesis_settings(deadline=None)
def test_a_message_comes_back_as_one_event_however_it_is_laid_out(value: object, indent: int | None) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    for message in (body, body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r"), body + b"\r"):
        [(kind, data)] = read(sse.HEARTBEAT + sse.event(message) + sse.HEARTBEAT)
        assert (kind, json.loads(data)) == ("message", value)


@pytest.mark.requirement("protocol:sse:events")
def test_no_message_can_end_its_event_or_begin_another() -> None:
    forged = b'{"a":1}\n\nevent: message\ndata: {"forged":1}\r\rid: 7\r\n\r\n'
    assert len(read(sse.event(forged))) == 1
    assert read(sse.HEARTBEAT) == []


# --- reading ---


def parser(line_bytes: int = 10_000, event_bytes: int = 10_000) -> sse.Parser:
    return sse.Parser(line_bytes=line_bytes, event_bytes=event_bytes)


def read_all(reader: sse.Parser, pieces: list[bytes]) -> None:
    for piece in pieces:
        reader.feed(piece)


def parsed(stream: bytes) -> list[tuple[str, bytes, str]]:
    return [(event.type, event.data, event.id) for event in parser().feed(stream)]


@pytest.mark.requirement("protocol:sse:parser")
@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The examples of WHATWG HTML, 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", b"YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [("message", b"first event", "1"), ("message", b"second event", ""), ("message", b" third event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", b"", ""), ("message", b"\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", b"test", "")] * 2),
        # Ends of lines, mixed.
        (b"data: a\rdata: b\r\ndata: c\n\r", [("message", b"a\nb\nc", "")]),
        (b"data: a\r\n\r\ndata: b\r\r", [("message", b"a", ""), ("message", b"b", "")]),
        # One byte order mark is no part of the stream; a second one is part of a field's name.
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", b"a", "")]),
        # Fields: case counts, what is unknown is ignored, a comment too.
        (b"Data: a\ndata : b\nevent: x\n:data: c\ndata: d\n\n", [("x", b"d", "")]),
        (b"event: x\n\ndata: a\n\n", [("message", b"a", "")]),
        (b"event: x\nevent:\ndata: a\n\n", [("message", b"a", "")]),
        # An id stays until another comes; one with NULL in it is ignored.
        (
            b"id: 1\n\ndata: a\n\nid: 2\0\ndata: b\n\nid: 3\ndata: c\n\n",
            [("message", b"a", "1"), ("message", b"b", "1"), ("message", b"c", "3")],
        ),
        # What has no empty line behind it is no event.
        (b"data: a\n", []),
    ],
)
def test_streams_are_read_as_the_format_says(stream: bytes, events: list[tuple[str, bytes, str]]) -> None:
    assert parsed(stream) == events
    reader = parser()
    one_by_one = [(event.type, event.data, event.id) for byte in stream for event in reader.feed(bytes([byte]))]
    assert one_by_one == events


@pytest.mark.requirement("protocol:sse:parser")
def test_an_id_without_data_is_remembered_and_a_primed_stream_read_back() -> None:
    reader = parser()
    [(kind, data, id_)] = reader.feed(sse.primed(b"x-1", 1500))
    assert (kind, data, id_, reader.last_id, reader.retry_ms) == ("message", b"", "x-1", "x-1", 1500)
    assert reader.feed(b"id: y\n") == []
    assert reader.last_id == "x-1"  # not before the event is whole
    assert reader.feed(b"\n") == []
    assert reader.last_id == "y"
    assert reader.feed(sse.event(b"{}", b"z") + sse.HEARTBEAT + sse.retry(7)) == [("message", b"{}", "z")]
    assert (reader.last_id, reader.retry_ms) == ("z", 7)


@pytest.mark.requirement("protocol:sse:parser")
def test_only_ascii_digits_are_a_time_to_wait() -> None:
    for value, told in [
        (b"10", 10),
        (b"0", 0),
        (b"007", 7),
        (b"9" * 5000, 10**9),
        (b"0" * 5000 + b"1", 1),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b" 1", None),
        ("\N{ARABIC-INDIC DIGIT ONE}".encode(), None),
    ]:
        reader = parser()
        assert reader.feed(b"retry: " + value + b"\n\n") == []
        assert reader.retry_ms == told, value


@pytest.mark.requirement("protocol:sse:bounds")
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_neither_a_line_nor_an_event_grows_beyond_its_bound(size: int) -> None:
    for stream in (b":" + b"x" * 100, b"data: " + b"x" * 95 + b"\n", b"data: 1234567890\n" * 10, b"data\n" * 102):
        reader = parser(line_bytes=100, event_bytes=100)
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        with pytest.raises(errors.TooLarge):
            read_all(reader, pieces)
        with pytest.raises(errors.TooLarge):  # for good: what comes next belongs to the line that was too long
            reader.feed(b"\n\ndata: forged\n\n")
    fits = b":" + b"x" * 99 + b"\n" + b"data: 123456789\n" * 10 + b"\n" + b"data\n" * 101 + b"\n"
    assert len(parser(line_bytes=100, event_bytes=100).feed(fits)) == 2


_ID = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")).filter(lambda id_: not id_.startswith(" "))


@pytest.mark.requirement("protocol:sse:parser")
@given(st.lists(st.tuples(st.binary(max_size=50), _ID), max_size=8), st.randoms(use_true_random=False))
@hypothesis_settings(deadline=None)
def test_what_is_written_is_read_however_it_is_cut(events: list[tuple[bytes, str]], dice: random.Random) -> None:
    stream = b"".join(sse.event(message, id_.encode()) + sse.HEARTBEAT for message, id_ in events)
    reader = parser()
    found: list[sse.Event] = []
    while stream:
        size = dice.randint(1, 20)
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert [event.data for event in found] == [
        message.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for message, _ in events
    ]
    last = ""
    for event, (_, id_) in zip(found, events, strict=True):
        last = id_ or last
        assert event.id == last
