"""The HTTP edge of a real platform, fed byte streams: pipelined requests in any framing, cut anywhere, broken anywhere.

A case is a number: it makes a stream of requests. Streams that are left whole must be answered in order, each answer
with the id of its own request; some repeat one head byte for byte, a request in each piece, which the platform takes
without its parser. Streams that are broken may be answered with anything of class 2xx or 4xx, or with the end of the
connection, in any case soon.

Both eras are spoken. Two legacy sessions are open: one that only whole streams know, and one that broken ones may end,
resume, send batches to and listen to.
"""

import asyncio
import contextlib
import json
import pathlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import httpx2

from fuzz import engine, grammar
from smcp.protocol import batches
from support import wire
from support.clients import Endpoint
from support.platform import Platform

NAME: Final = "http-edge"
FILES: Final = 8
"""Open files that may be more after a run: log files, connections of the platform to itself."""
_AT_ONCE: Final = 16
_BATCHING: Final = "2025-03-26"
_PATIENCE_S: Final = 90.0
"""Longer than the edge gives any connection, on a machine that is busy: a connection that lasts longer hangs."""
_HELD_UP_S: Final = 5.0
"""The edge gives a request 10 s to come whole, and they are over sooner where it is the machine that stands still."""
_TRIES: Final = 3
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [^\r\n]*\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: ([0-9]+)(?:\r\n|$)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: chunked(?:\r\n|$)", re.IGNORECASE)
_PIECES: Final = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b"\xff", b":", b"0\r\n\r\n", b"fffffffffffffffff\r\n",
    b"-1\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: +5\r\n",
    b"Content-Length: 18446744073709551617\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n", b"Expect: 200-ok\r\n", b"Host: a\r\nHost: b\r\n", b" folded\r\n", b"HTTP/1.0",
    b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET ", b"POST ", b"HEAD ", b"DELETE ", b"OPTIONS * ",
    b"CONNECT a:1 ", b"?", b"#", b"%", b"%00", b"%2f", b"//", b"/../", b"http://a/", b"Mcp-Session-Id: x\r\n",
    b"MCP-Protocol-Version: 2025-11-25\r\n", b"Mcp-Method: tools/list\r\n", b"Accept: */*\r\n",
    b"Content-Encoding: gzip\r\n", b"Origin: null\r\n", b"{", b"[", b'"',
)  # fmt: skip
_PATHS: Final = (
    "/healthz", "/", "/t/", "/t/x/", "/t/acme/nobody/mcp", "/api/v1/tenants", "/api/v1/x", "/metrics", "/static/x",
    "/t/%00", "/.well-known/oauth-protected-resource", "/console", "/t/acme/tool/mcp/x",
)  # fmt: skip


_METHODS: Final = (
    "tools/list", "ping", "tools/call", "logging/setLevel", "notifications/initialized", "notifications/cancelled",
    "resources/subscribe", "completion/complete", "x/y",
)  # fmt: skip


class Stream(NamedTuple):
    """What is sent over one connection."""

    pieces: list[bytes]
    ids: list[str] | None
    """Ids of the requests in it, in order, when it is left whole; None when it is broken."""


class Sessions(NamedTuple):
    """Legacy sessions of a run."""

    kept: str
    victim: str
    """Of a version that has batches."""


def made(dice: random.Random, at: Endpoint, sessions: Sessions) -> Stream:
    """A case."""
    host, port = wire.address(at.url)
    path = at.url.partition(f":{port}")[2]
    whole = dice.random() < 0.4
    count = dice.choice((1, 1, 2, 3, 8, 30))
    ids = [f"{dice.randrange(1 << 60):x}" for _ in range(count)]
    old, alike = dice.random() < 0.3, whole and dice.random() < 0.4
    requests: list[bytes] = []
    for number, id_ in enumerate(ids):
        last = [("connection", "close")] if number == count - 1 else []
        if whole or dice.random() < 0.5:
            if old:
                fields, body = wire.legacy(sessions.kept if whole else sessions.victim, "tools/list", id_=id_)
            else:
                fields, body = wire.modern("tools/list", id_=id_)
            if not whole:
                body = grammar.mutated(dice, body)
            target, method = path, "POST"
        elif dice.random() < 0.6:
            method, target, fields, body = _of_sessions(dice, path, sessions.victim)
        else:
            fields, body, target = {}, grammar.envelope(dice)[:2000], dice.choice(_PATHS)
            method = dice.choice(("GET", "POST", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE", "BREW"))
        sent = [("host", f"{host}:{port}"), ("authorization", f"Bearer {at.key}"), *fields.items(), *last]
        requests.append(_request(dice, method, target, sent, body, alike=alike))
    if alike:
        return Stream(requests, ids)
    data = b"".join(requests)
    if not whole:
        data = grammar.mutated(dice, data, _PIECES)
    return Stream(grammar.pieces(dice, data), ids if whole else None)


def _of_sessions(dice: random.Random, path: str, session: str) -> tuple[str, str, dict[str, str], bytes]:
    """What only the legacy transports have: method, target, fields and body."""
    other = session[:-1] + ("x" if session[-1] != "x" else "y")
    told = dice.choice((session, session, other, "", "x" * 43, grammar.text(dice)[:40]))
    fields, body = wire.legacy(None, dice.choice(_METHODS), grammar.value(dice, 2) if dice.random() < 0.3 else None)
    fields |= {"mcp-session-id": re.sub(r"[^!-~]", "_", told)}
    if dice.random() < 0.7:
        fields["mcp-protocol-version"] = dice.choice((*sorted(batches.VERSIONS), wire.LEGACY, "2024-11-04", "x"))
    kind = dice.randrange(5)
    if kind == 0:
        members = [grammar.mutated(dice, body) for _ in range(dice.choice((0, 1, 2, 5, 65)))]
        return "POST", path, fields, b"[" + b",".join(members) + b"]"
    if kind == 1:
        fields |= {"accept": "text/event-stream"}
        if dice.random() < 0.7:
            last = dice.choice(("0", "1-1", "-1", "1" * 400, f"{session}-1", "a:b", "%00", "{}", grammar.text(dice)))
            fields["last-event-id"] = re.sub(r"[^ -~]", "_", last)
        return "GET", path, fields, b""
    if kind == 2:
        return "DELETE", path, fields, b""
    if kind == 3:
        way = dice.choice(("/sse", "/messages", f"/messages?session_id={'x' * 43}", f"/messages?session_id={session}"))
        method, accept = dice.choice((("GET", "text/event-stream"), ("POST", "*/*")))
        return method, path.removesuffix("/mcp") + way, {**fields, "accept": accept}, body
    return "POST", path, fields, grammar.mutated(dice, body)


def _request(
    dice: random.Random, method: str, path: str, fields: list[tuple[str, str]], body: bytes, *, alike: bool
) -> bytes:
    if alike or dice.random() < 0.5:
        framing, sent = ("content-length", str(len(body))), body
    else:
        framing, sent = ("transfer-encoding", "chunked"), b""
        for piece in grammar.pieces(dice, body)[:3000]:
            sent += b"%x%b\r\n%b\r\n" % (len(piece), dice.choice((b"", b"", b";a=b")), piece) if piece else b""
        sent += b"0\r\n" + dice.choice((b"", b"x-trailer: y\r\n")) + b"\r\n"
    if not alike:
        dice.shuffle(fields)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in [*fields, framing])]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + sent


async def run(
    platform: Platform, at: Endpoint, *, seed: int, cases: int, seconds: float = float("inf"),
    tell: Callable[[int], None] | None = None,
) -> int:  # fmt: skip
    """Send `cases` streams, or as many as `seconds` allow; how many it were. Raises `engine.Finding`."""
    await asyncio.to_thread(well, platform)
    async with httpx2.AsyncClient(timeout=_PATIENCE_S, verify=False) as http:
        caller = wire.Caller(http, at)
        try:
            sessions = Sessions(await caller.open(), await caller.open(_BATCHING))
            done = await _run(platform, at, sessions, seed, cases, seconds, tell)
        finally:
            await caller.close()
    await asyncio.to_thread(well, platform)
    return done


async def _run(
    platform: Platform, at: Endpoint, sessions: Sessions, seed: int, cases: int, seconds: float,
    tell: Callable[[int], None] | None,
) -> int:  # fmt: skip
    loop = asyncio.get_running_loop()
    ends, numbers, done = loop.time() + seconds, iter(range(cases)), 0

    async def some() -> None:
        nonlocal done
        for number in numbers:
            if loop.time() > ends:
                return
            stream = made(engine.dice(seed, NAME, number), at, sessions)
            try:
                await _judged(at, stream)
            except (AssertionError, TimeoutError, ValueError) as error:
                told = engine.told(NAME, b"".join(stream.pieces), error)
                raise engine.Finding(f"{told} (seed {seed}, case {number})\n{platform.story()[-1500:]}") from error
            done += 1
            if tell is not None:
                tell(done)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(some())
    except ExceptionGroup as several:
        raise several.exceptions[0] from several
    return done


async def _judged(at: Endpoint, stream: Stream) -> None:
    """Send it and look at the answers; once more where that took so long that the machine may have stood still."""
    loop = asyncio.get_running_loop()
    for left in reversed(range(_TRIES)):
        began = loop.time()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                judge(stream, await _exchanged(at, stream))
            return
        except (AssertionError, TimeoutError, ValueError):
            if not left or loop.time() - began < _HELD_UP_S:
                raise


def judge(stream: Stream, data: bytes) -> None:
    """Whether `data` is an answer that `stream` may have. Raises AssertionError."""
    answers = list(_answers(data))
    statuses = [status for status, _ in answers]
    assert all(one < 500 for one in statuses), f"answered {statuses}: {data[-600:]!r}"
    if stream.ids is None:
        return
    assert statuses == [200] * len(stream.ids), f"answered {statuses} to {len(stream.ids)} requests: {data[-600:]!r}"
    heard = [json.loads(body)["id"] for _, body in answers]
    assert heard == stream.ids, f"answers to {heard} for requests {stream.ids}"


def _answers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Status and body of each answer; the last one may be cut short. Raises AssertionError for what is no HTTP."""
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        status = _STATUS.match(head + b"\r\n")
        assert status is not None, f"this is no answer: {head[:200]!r}"
        if not end:
            return
        code, length, body = int(status[1]), _LENGTH.search(head), b""
        if code < 200 or code in (204, 304) or data.startswith(b"HTTP/1.1 "):
            pass  # the last: an answer to HEAD
        elif length is not None:
            body, data = data[: int(length[1])], data[int(length[1]) :]
        elif _CHUNKED.search(head):
            _, _, data = data.partition(b"\r\n0\r\n\r\n")
        else:
            body, data = data, b""
        yield code, body


async def replay(at: Endpoint, data: bytes) -> None:
    """Send the stream of a finding to another platform: whole, and byte by byte. Raises AssertionError."""
    host, port = wire.address(at.url)
    data = re.sub(rb"smcp_acme_\w+", at.key.encode(), data)
    data = re.sub(rb"127\.0\.0\.1:[0-9]+", b"%b:%d" % (host.encode(), port), data)
    for pieces in ([data], [data[byte : byte + 1] for byte in range(len(data))]):
        stream = Stream(pieces, None)
        async with asyncio.timeout(_PATIENCE_S):
            judge(stream, await _exchanged(at, stream))


async def _exchanged(at: Endpoint, stream: Stream) -> bytes:
    reader, writer = await asyncio.open_connection(*wire.address(at.url))
    reading = asyncio.create_task(_all(reader))
    try:
        with contextlib.suppress(OSError):  # also the one of a socket that was reset before its end is sent
            for piece in stream.pieces:
                writer.write(piece)
                await writer.drain()
            if stream.ids is None:
                # It may wait for more, for as long as it is patient: after a moment for its answers, there is no more.
                await asyncio.wait([reading], timeout=0.05)
                if not reading.done():
                    writer.write_eof()
        return await reading
    finally:
        reading.cancel()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _all(reader: asyncio.StreamReader) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            data += piece
    return data


def well(platform: Platform) -> None:
    """Raises AssertionError unless the platform answers, and has nothing to say about itself."""
    assert httpx2.get(f"{platform.base_url}/healthz", timeout=60.0, verify=False).status_code == 200
    said = platform.log.read_text("utf-8")
    assert "Traceback" not in said, said[-6000:]
    assert "exception" not in said.lower(), said[-6000:]


def hosting(shelf: pathlib.Path, directory: pathlib.Path) -> Platform:
    """A platform, not started, that finds the scripted server."""
    wire.wheel(shelf)
    return Platform(directory, {"SMCP_DEPLOY_WHEEL_DIRS": str(shelf)})


def endpoint(platform: Platform) -> Endpoint:
    """The scripted server, hosted."""
    return platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))["tool"]
