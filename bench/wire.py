"""One endpoint as an MCP client sees it: what is sent to it on either wire, and sessions of the legacy one.

For the platform and for its peers alike, so that all are asked the same.
"""

import http.client
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bench import bare, load

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
_META: Final = (
    '{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},'
    '"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}'
)
_MODERN_FIELDS: Final = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "echo"}


class Endpoint(NamedTuple):
    """Where it is, and the key that opens it; empty for a peer, which asks for none."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, key=hidden)"

    @property
    def port(self) -> int:
        """The TCP port."""
        port = urllib.parse.urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def path(self) -> str:
        """The path."""
        return urllib.parse.urlsplit(self.url).path

    def fields(self) -> dict[str, str]:
        """The header fields that every request has."""
        return {
            **({"authorization": f"Bearer {self.key}"} if self.key else {}),
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }


def modern(endpoint: Endpoint) -> load.Target:
    """tools/call of the echo tool, each request by itself."""
    return _target(endpoint, f',"_meta":{_META}', [_MODERN_FIELDS])


def legacy(endpoint: Endpoint, sessions: Sequence[str]) -> load.Target:
    """The same within `sessions`, in turns."""
    return _target(endpoint, "", [_within(session) for session in sessions])


def _target(endpoint: Endpoint, meta: str, each: Sequence[dict[str, str]]) -> load.Target:
    params = f'{{"name":"echo","arguments":{{"text":"text %d"}}{meta}}}'
    template = f'{{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{params}}}'.encode()

    def body(number: int) -> bytes:
        return template % (number, number)

    def expect(number: int) -> tuple[int, str]:
        return number, f"text {number}"

    heads = tuple(_head("POST", endpoint, fields) for fields in each)
    return load.Target("127.0.0.1", endpoint.port, heads, body, expect)


def listening(endpoint: Endpoint, session: str) -> bytes:
    """The whole request for a session's stream of what its server says unasked."""
    return _head("GET", endpoint, _within(session)) + b"\r\n"


def _head(method: str, endpoint: Endpoint, extra: dict[str, str]) -> bytes:
    fields = {**endpoint.fields(), "host": f"127.0.0.1:{endpoint.port}", **extra}
    lines = [f"{method} {endpoint.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), ""]
    return "\r\n".join(lines).encode("ascii")


class Client:
    """A blocking client on one connection that is kept: the least that a client can cost."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._http = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=120)

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def open_session(self) -> str:
        """A new legacy session, initialized; its id. Raises RuntimeError when the endpoint refuses."""
        session, answer = self._post(0, "initialize", bare.INITIALIZE, {})
        if session is None:
            raise RuntimeError(f"no session: {answer[:400].decode('utf-8', 'replace')}")
        self._post(None, "notifications/initialized", None, _within(session))
        return session

    def end_session(self, session: str) -> None:
        """End a legacy session. Raises RuntimeError when that is refused."""
        # The load may have taken longer than a server keeps an idle connection: this goes over a new one.
        self._http.close()
        self._send("DELETE", None, _within(session))

    def call(
        self,
        number: int,
        session: str = "",
        *,
        tool: str = "echo",
        text: str = "",
        arguments: Mapping[str, str] | None = None,
    ) -> bytes:
        """Call a tool, modern unless there is a `session`; the message that answers, unchecked.

        Without `arguments` it is the echo tool with `text`, or one that takes a time zone.
        """
        if arguments is None:
            arguments = {"text": text or f"text {number}"} if tool == "echo" else {"timezone": "UTC"}
        params: dict[str, object] = {"name": tool, "arguments": arguments}
        if session:
            return self._post(number, "tools/call", params, _within(session))[1]
        fields = {**_MODERN_FIELDS, "mcp-name": tool}
        return self._post(number, "tools/call", {**params, "_meta": json.loads(_META)}, fields)[1]

    def echo(self, number: int, session: str = "") -> None:
        """Call the echo tool. Raises RuntimeError unless it answers rightly."""
        bare.check(self.call(number, session), number)

    def _post(
        self, number: int | None, method: str, params: object, fields: dict[str, str]
    ) -> tuple[str | None, bytes]:
        message = {"jsonrpc": "2.0", "method": method}
        told = {
            **message,
            **({} if number is None else {"id": number}),
            **({} if params is None else {"params": params}),
        }
        return self._send("POST", json.dumps(told).encode(), fields)

    def _send(self, method: str, body: bytes | None, fields: dict[str, str]) -> tuple[str | None, bytes]:
        self._http.request(method, self._endpoint.path, body, {**self._endpoint.fields(), **fields})
        answer = self._http.getresponse()
        found = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"HTTP {answer.status}: {found[:400].decode('utf-8', 'replace')}")
        return answer.getheader("mcp-session-id"), load.event(found)


def _within(session: str) -> dict[str, str]:
    return {"mcp-protocol-version": LEGACY, "mcp-session-id": session}
