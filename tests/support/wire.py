"""MCP on the wire, byte by byte: what no well-behaved client library would send or show."""

import asyncio
import contextlib
import json
import pathlib
import time
import urllib.parse
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, NamedTuple

import httpx2

from support import processes, wheels
from support.clients import Endpoint
from support.platform import Platform

SCRIPTED: Final = "smcp-fixture-scripted"
LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
_SOURCE: Final = pathlib.Path(__file__).parents[1] / "fixtures" / "scripted.py"
_META: Final[dict[str, Any]] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_PATIENCE_S: Final = 110.0
"""For whatever is sure to come; longer than any limit of the platforms that tests start."""
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

Json = dict[str, Any]


def wheel(directory: pathlib.Path) -> pathlib.Path:
    """The wheel of tests/fixtures/scripted.py."""
    module = "smcp_fixture_scripted"
    source = _SOURCE.read_text("utf-8")
    return wheels.build_wheel(directory, SCRIPTED, "1.0.0", {f"{module}.py": source}, {SCRIPTED: f"{module}:main"})


def modern(method: str, params: Json | None = None, id_: Any = 1) -> tuple[dict[str, str], bytes]:
    """A modern request: its header fields and its body."""
    given = params or {}
    full: Json = {**given, "_meta": {**_META, **given.get("_meta", {})}}
    fields = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    fields |= {"mcp-protocol-version": MODERN, "mcp-method": method}
    if method in _NAMED and _NAMED[method] in full:
        fields["mcp-name"] = str(full[_NAMED[method]])
    return fields, json.dumps({"jsonrpc": "2.0", "id": id_, "method": method, "params": full}).encode()


def legacy(session: str | None, method: str, params: Json | None = None, id_: Any = 1) -> tuple[dict[str, str], bytes]:
    """A legacy request (`id_` None: a notification): its header fields and its body."""
    fields = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    if session is not None:
        fields |= {"mcp-session-id": session, "mcp-protocol-version": LEGACY}
    body: Json = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    return fields, json.dumps(body if id_ is None else {**body, "id": id_}).encode()


def hello(version: str = LEGACY) -> Json:
    """The params of initialize."""
    return {"protocolVersion": version, "capabilities": {"roots": {}}, "clientInfo": {"name": "test", "version": "1"}}


def messages(answer: httpx2.Response) -> list[Json]:
    """The messages of an answer, plain or streamed."""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
    return [answer.json()] if answer.content else []


class Caller:
    """One key at one endpoint."""

    def __init__(self, http: httpx2.AsyncClient, at: Endpoint) -> None:
        self.http = http
        self.url = at.url
        self.bearer = {"authorization": f"Bearer {at.key}"}
        self.at = at
        self._opened: list[str] = []

    async def send(self, fields: Mapping[str, str], body: bytes, **more: str) -> httpx2.Response:
        """POST; `more` are header fields with underscores for hyphens, which win."""
        extra = {name.replace("_", "-"): value for name, value in more.items()}
        return await self.http.post(self.url, headers={**self.bearer, **fields, **extra}, content=body)

    async def modern(self, method: str, params: Json | None = None, id_: Any = 1, **more: str) -> httpx2.Response:
        """A modern request."""
        return await self.send(*modern(method, params, id_), **more)

    async def legacy(
        self, session: str | None, method: str, params: Json | None = None, id_: Any = 1, **more: str
    ) -> httpx2.Response:
        """A legacy request or notification."""
        return await self.send(*legacy(session, method, params, id_), **more)

    async def open(self, version: str = LEGACY, capabilities: Json | None = None) -> str:
        """A new legacy session, initialized."""
        params = hello(version) if capabilities is None else {**hello(version), "capabilities": capabilities}
        answer = await self.legacy(None, "initialize", params)
        assert answer.status_code == 200, answer.text
        session = str(answer.headers["mcp-session-id"])
        self._opened.append(session)
        told = await self.legacy(session, "notifications/initialized", id_=None, mcp_protocol_version=version)
        assert told.status_code == 202
        return session

    async def end(self, session: str) -> int:
        """DELETE the session; the status."""
        answer = await self.http.delete(self.url, headers={**self.bearer, "mcp-session-id": session})
        return answer.status_code

    async def close(self) -> None:
        """End every session that is left."""
        for session in self._opened:
            await self.end(session)

    async def act(self, act: str, session: str | None = None, **arguments: Any) -> Any:
        """What the scripted server's tool answers."""
        params = {"name": "do", "arguments": {"act": act, **arguments}}
        call = self.modern("tools/call", params) if session is None else self.legacy(session, "tools/call", params)
        answer = await call
        assert answer.status_code == 200, answer.text
        return said(messages(answer)[-1])

    @contextlib.asynccontextmanager
    async def streaming(self, fields: Mapping[str, str], body: bytes) -> AsyncGenerator["Stream"]:
        """POST, and read what comes piece by piece; hangs up in the end."""
        async with self.http.stream("POST", self.url, headers={**self.bearer, **fields}, content=body) as answer:
            yield Stream(answer)

    @contextlib.asynccontextmanager
    async def listening(self, session: str, after: str = "") -> AsyncGenerator["Stream"]:
        """The GET stream of a session; with `after`, the stream that an event of this id was on."""
        fields = {**self.bearer, "accept": "text/event-stream", "mcp-session-id": session}
        fields |= {"last-event-id": after} if after else {}
        async with self.http.stream("GET", self.url, headers=fields) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield Stream(answer)


class Stream:
    """An answer that is still coming."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.status = answer.status_code
        self.type = str(answer.headers.get("content-type", ""))
        self._lines = answer.aiter_lines()

    async def end(self) -> list[str]:
        """The lines up to the end of the stream."""
        async with asyncio.timeout(_PATIENCE_S):
            return [line async for line in self._lines]

    async def event(self) -> tuple[str, Json]:
        """Id and message of the next event, `{}` where it has none; raises StopAsyncIteration at the end."""
        id_ = ""
        while True:
            line = await self.line()
            if line.startswith("id: "):
                id_ = line[4:]
            elif line == "data:" or line.startswith("data: "):
                return id_, json.loads(line[5:]) if line[5:].strip() else {}

    async def line(self) -> str:
        """The next line that is not empty; raises StopAsyncIteration at the end."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                line = await anext(self._lines)
                if line:
                    return line

    async def message(self) -> Json:
        """The next message; raises StopAsyncIteration at the end."""
        while True:
            line = await self.line()
            if line.startswith("data: {"):  # an event that primes a stream has no data
                return json.loads(line[6:])


def said(message: Json) -> Any:
    """The scripted server's word in the result of a call."""
    assert "result" in message, message
    return json.loads(message["result"]["content"][0]["text"])


def call(act: str, token: Any = None, **arguments: Any) -> Json:
    """The params of a call of the scripted server."""
    params: Json = {"name": "do", "arguments": {"act": act, **arguments}}
    return params if token is None else {**params, "_meta": {"progressToken": token}}


class Answer(NamedTuple):
    """A raw HTTP answer; status 0: the connection ended without one."""

    status: int
    head: str
    body: bytes


async def raw(base_url: str, *pieces: bytes, pause_s: float = 0.0, eof: bool = False) -> Answer:
    """Send `pieces` as they are and read until the other side closes."""
    host, port = address(base_url)
    reader, writer = await asyncio.open_connection(host, port)
    # Read while writing: what comes before a reset is lost afterwards.
    reading = asyncio.create_task(_read(reader))
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                if reading.done():
                    break  # it has been answered, and the rest would only take time
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            if eof:
                writer.write_eof()
        data = await reading
    finally:
        reading.cancel()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = data.partition(b"\r\n\r\n")
    return Answer(int(head.split(b" ", 2)[1]) if head else 0, head.decode("latin-1"), body)


async def _read(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(_PATIENCE_S):
            while chunk := await reader.read(65536):
                data += chunk
    return data


def request(method: str, path: str, fields: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """An HTTP/1.1 request as it is sent, with `connection: close` and nothing else added."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "connection: close"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def miskeyed(key: str) -> str:
    """`key` with another last digit: of the same form, and never the key itself."""
    return key[:-1] + ("0" if key[-1] != "0" else "1")


def address(base_url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urllib.parse.urlsplit(base_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


OWN_PROCESSES: Final = 3
"""The foreground, the launcher, the platform."""


class Vitals(NamedTuple):
    """What a platform holds at a moment."""

    pid: int
    files: int
    sessions: float
    instances: float
    in_flight: float
    children: int

    def more(self, before: "Vitals") -> dict[str, float]:
        """What is held of all but files beyond what was held `before`.

        Less is no fault: sessions and copies that earlier tests have left end when their own time has come.
        """
        pairs = zip(self._fields[2:], self[2:], before[2:], strict=True)
        return {name: now - was for name, now, was in pairs if now > was}


def node(platform: Platform) -> processes.Process:
    """Of a platform's three processes the one that faces the network, and holds what callers can make it hold."""
    found = [one for one in platform.family() if "smcp.app.node" in one.command]
    # What it starts has its command line for a moment, between vfork(2) and execve(2).
    return min(found, key=lambda one: one.started)


def vitals(platform: Platform) -> Vitals:
    """What `platform` holds now."""
    metrics: dict[str, float] = {}
    answer = httpx2.get(
        f"{platform.base_url}/metrics",
        headers={"authorization": f"Bearer {platform.operator_key}"},
        timeout=60.0,
        verify=False,  # plain HTTP: see Platform.api
    )
    assert answer.status_code == 200, answer.text
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            metrics[name] = metrics.get(name, 0.0) + float(value)
    pid = node(platform).pid
    files = len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    return Vitals(
        pid,
        files,
        metrics["smcp_sessions_live"],
        metrics["smcp_instances_live"],
        metrics["smcp_requests_in_flight"],
        len(platform.family()) - OWN_PROCESSES,
    )


async def settled(platform: Platform, wanted: Vitals, *, files: int | None = None) -> Vitals:
    """What the platform holds once it holds no more than `wanted`, or after two minutes.

    Open files count only up to `files` more than before: a client's idle connections are open on both sides.
    """
    now = vitals(platform)
    most = [1 << 30 if files is None else wanted.files + files, *wanted[2:]]
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        if all(have <= want for have, want in zip(now[1:], most, strict=True)):
            break
        await asyncio.sleep(0.1)  # ends of connections and processes are told to nobody outside
        now = vitals(platform)
    return now


async def waited_for(platform: Platform) -> int:
    """As `zombies`, once there is none, or after a minute: between a child's end and its parent's look is a moment."""
    for _ in range(600):
        if not zombies(platform):
            break
        await asyncio.sleep(0.1)  # nobody outside is told
    return zombies(platform)


async def steady(platform: Platform) -> Vitals:
    """What the platform holds, once two looks a moment apart have found the same: what others have left is ending."""
    deadline = time.monotonic() + 60.0
    before = vitals(platform)
    while True:
        await asyncio.sleep(0.5)
        now = vitals(platform)
        if now[2:] == before[2:] or time.monotonic() > deadline:
            return now
        before = now


def zombies(platform: Platform) -> int:
    """How many ended children the platform's processes have not waited for."""
    family = {one.pid for one in platform.family()}
    found = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): the name in parentheses may hold anything, so fields are counted after the last one.
            state, parent = stat.read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            found += state == "Z" and int(parent) in family
    return found
