"""Event streams: one JSON-RPC message an event, read back as the format says (WHATWG HTML, 9.2.6)."""

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

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
