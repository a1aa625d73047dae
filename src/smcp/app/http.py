"""HTTP/1.1 with the patience of a public edge: uvicorn's protocol, with caps on what comes before a request is one.

uvicorn waits for ever for the end of a request's header fields, and keeps whatever arrives meanwhile. Here both are
bounded, per connection: `HEADER_S` seconds and `HEADER_BYTES` bytes (slow loris; RFC 6585, 431).
"""

import asyncio
from typing import Final

from uvicorn.protocols.http import httptools_impl

HEADER_S: Final = 10.0
HEADER_BYTES: Final = 65_536

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Protocol(httptools_impl.HttpToolsProtocol):
    """One connection."""

    _waiting: asyncio.TimerHandle | None = None
    _before_headers = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn declares it
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True
        self._before_headers = 0

    def _wait_for_headers(self) -> None:
        self._waiting = self.loop.call_later(HEADER_S, self._refuse, _TOO_SLOW)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, answer: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
