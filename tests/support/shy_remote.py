"""Remote servers of MCP 2025-11-25 that take the question for their versions badly, each in the way that it is named.

Whatever they do, they are good servers once they are spoken to in their own era. And one that only sends elsewhere,
and one of MCP 2024-11-05: its answers come in the stream that a GET has opened.
"""

import contextlib
import http.server
import json
import queue
import threading
from collections.abc import Generator
from typing import Any, Final, cast

HOW: Final = ("drops", "silent", "unknown", "unknown-404", "params", "uninitialized", "text", "garbled")
OLD: Final = "old"
_INFO: Final = {"name": "shy", "version": "1.0.0"}
_TOOL: Final = {"name": "how", "description": "Says how it is shy.", "inputSchema": {"type": "object"}}

_Json = dict[str, Any]


class _Server(http.server.ThreadingHTTPServer):
    """One server; each of its connections is handled in a thread."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, how: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.how = how
        self.ended = threading.Event()
        self.sessions = 0
        self.asked: list[tuple[str, str]] = []
        """Method and session of each message, as it came."""
        self.streams: dict[str, queue.Queue[bytes]] = {}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _shy(self) -> _Server:
        return cast("_Server", self.server)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to the terminal."""

    def do_GET(self) -> None:
        if self._shy.how != OLD:
            self._send(405, b"")
            return
        name = str(len(self._shy.streams))
        waiting = self._shy.streams[name] = queue.Queue()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(f"event: endpoint\ndata: /messages?stream={name}\n\n".encode())
        with contextlib.suppress(OSError):
            while message := waiting.get():  # an empty one is the server's end
                self.wfile.write(b"event: message\ndata: %b\n\n" % message)
        self.close_connection = True

    def do_DELETE(self) -> None:
        self._send(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._shy.how.startswith("http://"):
            self._send(307, b"", location=self._shy.how)
            return
        if self._shy.how == OLD and not self.path.startswith("/messages"):
            self._send(405, b"")
            return
        message: _Json = json.loads(body)
        session = self.headers.get("Mcp-Session-Id", "")
        self._shy.asked.append((message["method"], session))
        if message["method"] == "server/discover":
            self._shrink(message["id"])
        elif "id" not in message:
            self._send(202, b"")
        elif message["method"] == "initialize":
            self._shy.sessions += 1
            version = message["params"]["protocolVersion"]
            result: _Json = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": _INFO}
            self._say(200, message["id"], session=f"s{self._shy.sessions}", result=result)
        elif not session and self._shy.how != OLD:
            self._say(400, message["id"], error={"code": -32000, "message": "Bad Request: no session"})
        elif message["method"] == "tools/list":
            self._say(200, message["id"], result={"tools": [_TOOL]})
        elif message["method"] == "tools/call":
            content = [{"type": "text", "text": json.dumps(self._shy.how)}]
            self._say(200, message["id"], result={"content": content})
        else:
            self._say(200, message["id"], result={})

    def _shrink(self, id_: object) -> None:
        """What becomes of a question of the other era."""
        match self._shy.how:
            case "drops":
                self.close_connection = True
            case "silent":
                self._shy.ended.wait()
                self.close_connection = True
            case "unknown" | "old":
                self._say(200, id_, error={"code": -32601, "message": "Method not found"})
            case "unknown-404":
                self._say(404, id_, error={"code": -32601, "message": "Method not found"})
            case "params":
                self._say(400, id_, error={"code": -32602, "message": "Invalid request parameters"})
            case "uninitialized":
                self._say(400, None, error={"code": -32000, "message": "Bad Request: Server not initialized"})
            case "text":
                self._send(400, b"Bad Request", kind="text/plain")
            case _:
                self._send(200, b"<html>Welcome!</html>", kind="text/html")

    def _say(self, status: int, id_: object, session: str = "", **members: object) -> None:
        said = json.dumps({"jsonrpc": "2.0", "id": id_, **members}).encode()
        if self._shy.how == OLD:
            self._shy.streams[self.path.rpartition("=")[2]].put(said)
            self._send(202, b"Accepted")
        else:
            self._send(status, said, session=session)

    def _send(
        self, status: int, body: bytes, *, kind: str = "application/json", session: str = "", location: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (("Mcp-Session-Id", session), ("Location", location)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Shy:
    """One that runs: its address, and what it was asked."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}/mcp"

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Method and session of each message, as it came."""
        return list(self._server.asked)


@contextlib.contextmanager
def running(how: str) -> Generator[Shy]:
    """A server that is shy in the way `how`, or redirects to the address `how`."""
    with _Server(how) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Shy(server)
        finally:
            server.ended.set()
            for one in server.streams.values():
                one.put(b"")
            server.shutdown()
