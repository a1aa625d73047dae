"""HTTP/1.1 with the patience of a public edge: uvicorn's protocol, with caps on what comes before a request is one.

uvicorn waits for ever for the end of a request's header fields, and keeps whatever arrives meanwhile. Here both are
bounded, per connection: `HEADER_S` seconds and `HEADER_BYTES` bytes (slow loris; RFC 6585, 431). It also reads on for
as long as a client sends a body that was refused already: here for `LINGER_S` seconds.

A request's target is a path (RFC 9112, 3.2.1). The other forms, and a fragment, which no client sends, are refused:
they would be dropped on the way to the application, which then could not tell two addresses apart.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http import httptools_impl

HEADER_S: Final = 10.0
HEADER_BYTES: Final = 65_536
LINGER_S: Final = 5.0

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Protocol(httptools_impl.HttpToolsProtocol):
    """One connection."""

    _waiting: asyncio.TimerHandle | None = None
    _before_headers = 0
    _in_headers = True
    _lingering: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn declares it
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_headers:
            self._before_headers += len(data)
            if self._waiting is None:
                self._wait_for_headers()
        super().data_received(data)
        # Only what is left of an unfinished head counts: a body in the same chunk was taken by the parser already.
        if self._in_headers and self._before_headers > HEADER_BYTES:
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._before_headers = 0
        self._stop_waiting()
        if not self.url.startswith(b"/") or b"#" in self.url:
            # The parser turns it into its own error, and uvicorn that into 400 and the end of the connection.
            raise ValueError("the request's target is not a path")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True
        self._before_headers = 0
        self._stop_lingering()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self._in_headers and self._lingering is None:
            self._lingering = self.loop.call_later(LINGER_S, self.transport.close)

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _wait_for_headers(self) -> None:
        self._waiting = self.loop.call_later(HEADER_S, self._refuse, _TOO_SLOW)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, answer: bytes) -> None:
        """Answer, and close once the other side had time to read it: closing on unread input would reset the answer."""
        self._stop_waiting()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_lingering()
        self._lingering = self.loop.call_later(LINGER_S, self.transport.close)
