"""Server-sent events (WHATWG HTML, 9.2) as MCP uses them: one JSON-RPC message an event.

Writing: `event`, `primed`, `retry`, `HEARTBEAT`. Reading, for streams that others write: `Parser`.
"""

from typing import Final, NamedTuple

from smcp.kernel import errors

HEARTBEAT: Final = b": keep-alive\n\n"
"""A comment: clients ignore it, proxies and idle timers see traffic (client-quirk: streams die silently)."""

_BOM: Final = b"\xef\xbb\xbf"
_LONGEST_RETRY: Final = 10**9
"""Milliseconds: eleven days, and few enough digits for any reader."""
_RETRY_DIGITS: Final = 9


def event(message: bytes, id_: bytes = b"") -> bytes:
    """One `message` event, with an id if there is one.

    `message` is JSON on one line, or with line ends that are split as the format asks. `id_` has no line end in it.
    """
    head = b"id: %b\nevent: message\n" % id_ if id_ else b"event: message\n"
    if b"\n" in message or b"\r" in message:
        lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return head + b"".join(b"data: %b\n" % line for line in lines) + b"\n"
    return b"%bdata: %b\n\n" % (head, message)


def primed(id_: bytes, retry_ms: int) -> bytes:
    """The event that a resumable stream begins with: an id, and no data (MCP 2025-11-25, "Sending Messages")."""
    return b"id: %b\nretry: %d\ndata: \n\n" % (id_, retry_ms)


def retry(retry_ms: int) -> bytes:
    """How long a client waits before it comes back, once this connection is closed."""
    return b"retry: %d\n\n" % retry_ms


class Event(NamedTuple):
    """One event that was read."""

    type: str
    """`message` where the stream does not say."""
    data: bytes
    """As it came: whether it is UTF-8 is seen by whoever parses it."""
    id: str
    """The last event id of the stream at this event; empty before there is one."""


class Parser:
    """Reads an event stream piece by piece (WHATWG HTML, 9.2.5 and 9.2.6). For one stream."""

    def __init__(self, *, line_bytes: int, event_bytes: int) -> None:
        """`line_bytes` bounds a line, of whatever field, and `event_bytes` all data of an event."""
        self.last_id = ""
        """What a client would send as `Last-Event-ID`."""
        self.retry_ms: int | None = None
        """How long the stream asks its readers to wait before they come back."""
        self._line_bytes = line_bytes
        self._event_bytes = event_bytes
        self._rest = bytearray()  # and no list: pieces may be smaller than what a list needs for them
        self._first = True
        self._skip = False
        self._type = ""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._id = ""
        self._broken = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. What has no empty line behind it is no event, also at the stream's end.

        Raises `errors.TooLarge` when a bound is passed, and for all that comes later: the stream can't be read on.
        """
        if self._broken:
            raise errors.TooLarge("The event stream is over its bounds.")
        if not data:
            return []
        if self._skip and data.startswith(b"\n"):  # the second half of a CRLF whose first half ended the last piece
            data = data[1:]
        self._skip = data.endswith(b"\r") if data else False
        pieces = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        found: list[Event] = []
        for piece in pieces[:-1]:
            self._hold(piece)
            line = bytes(self._rest)
            self._rest.clear()
            if self._first:
                line, self._first = line.removeprefix(_BOM), False
            self._take(line, found)
        if pieces[-1]:
            self._hold(pieces[-1])
        return found

    def _hold(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > self._line_bytes:
            self._broken = True
            raise errors.TooLarge(f"A line of the event stream is longer than {self._line_bytes} bytes.")
        self._rest += piece

    def _take(self, line: bytes, found: list[Event]) -> None:
        if not line:
            self._dispatch(found)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes - 1 > self._event_bytes:
                self._broken = True
                raise errors.TooLarge(f"An event of the stream has more than {self._event_bytes} bytes of data.")
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            digits = value.lstrip(b"0") or b"0"
            self.retry_ms = int(digits) if len(digits) <= _RETRY_DIGITS else _LONGEST_RETRY

    def _dispatch(self, found: list[Event]) -> None:
        self.last_id = self._id
        if self._data:
            found.append(Event(self._type or "message", b"\n".join(self._data), self._id))
        self._type, self._data, self._data_bytes = "", [], 0
