"""Many clients at once: keep-alive HTTP/1.1 connections, one request in flight on each, as cheap as Python allows."""

import asyncio
import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import httptools

from support import wire
from support.clients import Endpoint
from support.platform import Platform

_PATIENCE_S: Final = 180.0


class Answer(NamedTuple):
    """An answer."""

    status: int
    fields: dict[str, str]
    """Header fields, by lower-case name."""
    body: bytes


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []
        self._waiting: asyncio.Future[Answer] | None = None
        self.transport = cast("asyncio.Transport", None)

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer. Raises ConnectionError when the connection ends before it."""
        if self.transport.is_closing():
            raise ConnectionError("closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(_PATIENCE_S):
            return await self._waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, as what follows."""
        self._fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), self._fields, b"".join(self._body))
        self._fields, self._body = {}, []
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the connection ended before the answer"))


async def connected(base_url: str, source: str = "") -> Connection:
    """A connection to `base_url`, from the address `source` of this machine's, if one is given."""
    host, port = wire.address(base_url)
    loop = asyncio.get_running_loop()
    local = (source, 0) if source else None
    _, connection = await loop.create_connection(Connection, host, port, local_addr=local)
    return connection


def request(verb: str, base_url: str, path: str, fields: Mapping[str, str], body: bytes = b"") -> bytes:
    """A request as it is sent, on a connection that stays."""
    host, port = wire.address(base_url)
    lines = [f"{verb} {path} HTTP/1.1", f"host: {host}:{port}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def called(at: Endpoint, method: str = "tools/list", params: wire.Json | None = None, id_: Any = 1) -> bytes:
    """A modern request for an endpoint, as it is sent."""
    fields, body = wire.modern(method, params, id_)
    base, slash, path = at.url.partition("/t/")
    return request("POST", base, slash + path, {"authorization": f"Bearer {at.key}", **fields}, body)


def memory(platform: Platform) -> int:
    """Bytes of memory that this node has written (proc(5), Pss_Anon).

    Not its part of what it shares, as of the interpreter: that grows whenever another platform on the machine ends.
    """
    text = pathlib.Path(f"/proc/{wire.node(platform).pid}/smaps_rollup").read_text("ascii")
    [line] = [line for line in text.splitlines() if line.startswith("Pss_Anon:")]
    return int(line.split()[1]) * 1024


def spools(platform: Platform) -> int:
    """How many open files of the node have no name: results that wait for their readers."""
    count = 0
    spooled = platform.data / "work"
    for one in pathlib.Path(f"/proc/{wire.node(platform).pid}/fd").iterdir():
        try:
            count += str(one.readlink()).startswith(f"{spooled}/")
        except FileNotFoundError:
            continue  # closed meanwhile
    return count


def cpu_s(platform: Platform) -> float:
    """Seconds of processor time that the node has used."""
    fields = pathlib.Path(f"/proc/{wire.node(platform).pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0  # proc(5): utime and stime, in ticks of 10 ms on Linux


def records(platform: Platform, *without: bytes) -> dict[bytes, int]:
    """Every key that the platform stores now, with the length of its value; none of those whose key holds `without`."""
    path = platform.data / "store" / "kv.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT key, length(value) FROM kv").fetchall()
    return {key: size for key, size in rows if not any(one in key for one in without)}


def stored(directory: pathlib.Path) -> int:
    """Bytes of all files below a directory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            # What is there for a moment only may be gone by now.
            with contextlib.suppress(FileNotFoundError):
                total += pathlib.Path(folder, name).stat().st_size
    return total
