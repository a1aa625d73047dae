"""A target for what a hosted server answers over HTTP, beside another library's reading of the same bytes.

However the bytes are cut, the answer is the same; it ends with its connection at the latest, and gives that back once.
What both readers take for a whole answer is the same one, and a connection is used again only when nothing is left.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

import h11

from fuzz import grammar
from fuzz.engine import Target
from smcp.kernel import errors
from smcp.upstream import connection, places

_PLACE: Final = places.Place("http", "localhost", 80, "/mcp")
_runner = asyncio.Runner()

_PIECES: Final = (
    *(b"\r\n", b"\n", b"\r", b"0\r\n\r\n", b";", b",", b" ", b"\t", b"\0", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n"),
    *(b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"+", b"-", b"0x", b"_"),
)
_FIRST: Final = (
    b"200 OK",
    b"200 OK",
    b"404 No",
    b"204 No",
    b"304 No",
    b"100 Continue",
    b"103 Hints",
    b"101 Up",
    b"999 ",
)
_FIELDS: Final = (
    *(b"Content-Type: application/json", b"content-type: text/event-stream", b"X: ", b"X:y\t", b"Upgrade: x"),
    *(b"Connection: close", b"Connection: keep-alive", b"Trailer: x"),
)
_FRAMES: Final = (
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked ", b"Transfer-Encoding: gzip, chunked"),
    *(b"Content-Length: 1", b"Content-Length: 03", b"Content-Length: 4, 4", b"Content-Length : 2"),
)


def _made(dice: random.Random) -> bytes:
    made: list[bytes] = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        body = dice.randbytes(dice.choice((0, 1, 5, 40, 2000)))
        lines = [b"HTTP/1.%d %b" % (dice.choice((1, 1, 1, 0)), dice.choice(_FIRST))]
        lines += dice.sample(_FIELDS, dice.randrange(3))
        match dice.randrange(4):
            case 0:
                lines.append(b"Content-Length: %d" % len(body))
            case 1:
                lines.append(b"Transfer-Encoding: chunked")
                parts = [part for part in grammar.pieces(dice, body) if part]
                end = dice.choice((b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"0;a\r\n\r\n", b""))
                body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end
            case 2:
                lines += dice.sample(_FRAMES, dice.randrange(1, 3))
            case _:
                pass
        made.append(b"\r\n".join([*lines, b"", b""]) + body)
    return grammar.mutated(dice, b"".join(made), _PIECES)


class _Link(asyncio.Transport):
    """The other end is a list of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True

    def write(self, data: object) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.open = False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Owner:
    def __init__(self) -> None:
        self.freed_ = 0

    def freed(self, one: connection.Connection, /) -> None:
        self.freed_ += 1

    def lost(self, one: connection.Connection, /) -> None:
        pass

    def arm(self, due: float, /) -> None:
        pass


class _Found(NamedTuple):
    """What an answer was read as."""

    status: int
    media: str
    body: bytes
    whole: bool


async def _read(method: str, pieces: Sequence[bytes]) -> tuple[_Found, bool]:
    """What it is, and whether its connection may be used again."""
    loop, owner, link = asyncio.get_running_loop(), _Owner(), _Link()
    one = connection.Connection(owner, 0)
    answer = connection.Answer(loop, _PLACE, 60.0, loop.time() + 60.0)
    one.connection_made(link)
    one.ask(answer, method, b"", b"")
    for piece in pieces:
        if link.open and piece:
            one.data_received(piece)
    usable = one.usable
    assert not (usable and not link.open)
    if link.open:
        one.eof_received()
        one.connection_lost(None)
    assert answer.ended, "who waits would wait for ever"
    assert owner.freed_ == 1
    assert not one.usable
    body = b""
    try:
        async for chunk in answer.chunks():
            body += chunk
    except errors.ServerFailed:
        pass
    return _Found(answer.status, answer.media, body, answer.failure is None), usable


def _reference(method: str, data: bytes) -> tuple[int, bytes, bytes] | None:
    """Status, body and what is left, where the other library finds a whole answer."""
    other = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    other.send(h11.Request(method=method, target="/", headers=[("host", "a"), ("content-length", "0")]))
    other.send(h11.EndOfMessage())
    status, body = 0, b""
    other.receive_data(data)
    other.receive_data(b"")
    try:
        while True:
            event = other.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body, other.trailing_data[0]
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


async def _same(data: bytes) -> None:
    dice = random.Random(data)
    for method in ("POST", "HEAD"):
        found, usable = await _read(method, [data])
        cut, _ = await _read(method, grammar.pieces(dice, data))
        assert cut == found, "it depends on where it is cut"
        assert (await _read(method, [data[at : at + 1] for at in range(len(data))]))[0] == found or len(data) > 4000
        other = _reference(method, data) if found.whole else None
        if other is not None:
            assert (found.status, found.body) == other[:2]
            assert not usable or not other[2].strip(b"\r\n"), "what is left would be the next answer"


def _check(data: bytes) -> None:
    _runner.run(_same(data))


TARGETS: Final = (Target("answers", _made, _check),)
