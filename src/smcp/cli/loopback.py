"""The one request that a browser makes to this machine at the end of a login (RFC 8252, 7.3)."""

import http.server
import queue
import secrets
import socket
import threading
import urllib.parse
from types import TracebackType
from typing import Final, Self

from smcp.cli import failures, oauth

WAIT_S: Final = 600.0
"""How long a person may take."""
_IDLE_S: Final = 10.0
_LONGEST: Final = 8192
_PAGE: Final = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>smcp login</title>
<p>That is all here. Close this window and go back to the terminal.</p></html>
"""
_FIELDS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Length", str(len(_PAGE))),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)


class Listener:
    """Listens on a free port of 127.0.0.1 until the answer of one login has come. Use as a context manager."""

    def __init__(self) -> None:
        self._came: queue.Queue[dict[str, str]] = queue.Queue(maxsize=1)
        self._state = ""
        self.waiting = threading.Event()
        """Set once an answer is awaited."""
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def redirect(self) -> str:
        """Where the browser is sent to."""
        return f"http://{self.host}{oauth.CALLBACK}"

    @property
    def host(self) -> str:
        """What a request's Host header must be: another name that leads here is somebody else's (DNS rebinding)."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self, state: str, seconds: float = WAIT_S) -> dict[str, str]:
        """The query that came back with `state`. Raises `Failure` when none does in `seconds`."""
        self._state = state
        self.waiting.set()
        try:
            return self._came.get(timeout=seconds)
        except queue.Empty:
            raise failures.Failure(
                "login_refused",
                "Nobody finished the login in time.",
                hint="Start again: smcp login. On a machine without a browser: smcp login --device",
                exit_code=failures.Exit.REFUSED,
            ) from None

    def take(self, target: str) -> bool:
        """Is the request for `target` the awaited answer? Other pages of the browser may ask here, too."""
        parts = urllib.parse.urlsplit(target)
        fields = urllib.parse.parse_qsl(parts.query, keep_blank_values=True, max_num_fields=20)
        came = dict(fields)
        mine = secrets.compare_digest(came.get("state", "").encode(), self._state.encode())
        if parts.path != oauth.CALLBACK or not self._state or not mine or len(came) != len(fields):
            return False
        try:
            self._came.put_nowait(came)
        except queue.Full:
            return False  # one answer a login
        return True


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # Two listeners on one port would be two programs that may get the code.
    allow_reuse_address = False

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no news for the terminal."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - narrower, as its only maker says
    timeout = _IDLE_S
    connection: socket.socket

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host") or []
        listener = self.server.listener
        if hosts != [listener.host] or len(self.path) > _LONGEST:
            self._end(400)
        elif not listener.take(self.path):
            self._end(404)
        else:
            self._end(200, _PAGE)

    def _end(self, status: int, page: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in _FIELDS if page else (("Content-Length", "0"), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Codes stay out of the terminal."""
