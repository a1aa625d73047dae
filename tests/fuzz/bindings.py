"""A target for what hosted code makes its process send to its bindings: near misses of HTTP/1.1, split anywhere.

Whatever it is, no handler is asked without the capability, the connection comes to its end, and where a request is cut
into pieces changes nothing of what a handler sees first.
"""

import asyncio
import random
import socket
from typing import Final, NamedTuple

from fuzz import grammar
from fuzz.engine import Target
from smcp.runtime.bindings import connection, door, http

_PLACEHOLDER: Final = b"CAPABILITY"
_METHODS: Final = (b"GET", b"PUT", b"POST", b"DELETE", b"CONNECT", b"HEAD", b"OPTIONS", b"get")
_TARGETS: Final = (b"/k?urlencoded=true", b"/", b"/%2F", b"*", b"http://example.org/", b"example.org:80", b"/a#b", b"")
_FIELDS: Final = (
    b"X-SMCP-Capability: CAPABILITY",
    b"x-smcp-capability : CAPABILITY",
    b"X-SMCP-Capability: forged",
    b"Content-Length: 3",
    b"Content-Length: 3, 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b" folded",
)
_BODIES: Final = (b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nX-SMCP-Capability: CAPABILITY\r\n\r\n")
_runner = asyncio.Runner()


class _Seen(NamedTuple):
    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]


def _made(dice: random.Random) -> bytes:
    parts: list[bytes] = []
    for _ in range(dice.choice((1, 1, 1, 2))):
        end = dice.choice((b"\r\n", b"\r\n", b"\r\n", b"\n"))
        version = dice.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"))
        first = b" ".join((dice.choice(_METHODS), dice.choice(_TARGETS), version))
        fields = [_FIELDS[0]] * dice.choice((0, 1, 1, 1, 2)) + dice.sample(_FIELDS, dice.randrange(4))
        parts += [end.join([first, *fields, b"", b""]), dice.choice(_BODIES)]
    made = b"".join(parts)
    return grammar.mutated(dice, made) if dice.randrange(2) else made


def _asked(data: bytes) -> None:
    whole = _runner.run(_seen(data, cut=False))
    pieces = _runner.run(_seen(data, cut=True))
    # What comes behind the first request depends on whether that was answered by then; garbage there ends both.
    assert not (whole and pieces) or whole[0] == pieces[0], "a request reads otherwise in pieces"
    if _PLACEHOLDER not in data:
        assert whole == [], "a handler was asked without the capability"


async def _seen(data: bytes, *, cut: bool) -> list[_Seen]:
    """What a handler saw of a client that sends `data`, whole or in pieces, and then no more."""
    seen: list[_Seen] = []

    async def handler(request: http.Request) -> http.Response:
        # A near miss of the field's name carries it, too, and it is another one each time.
        headers = [(name, value.replace(capability, _PLACEHOLDER)) for name, value in request.headers.items()]
        target = request.target.replace(capability.decode(), _PLACEHOLDER.decode())
        seen.append(_Seen(request.method, target, tuple(sorted(headers))))
        return http.Response(200, body=await request.read(1000))

    house = door.Door("", None, lambda _line: None, http.Limits(head_s=60.0, stall_s=60.0, linger_s=60.0))
    capability = house.admit(handler).encode()
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    ours.setblocking(False)
    await loop.connect_accepted_socket(lambda: connection.Connection(house), theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    reading = loop.create_task(reader.read())
    try:
        sent = data.replace(_PLACEHOLDER, capability)
        for piece in grammar.pieces(random.Random(data), sent) if cut else [sent]:
            if reading.done():
                break
            writer.write(piece)
            await asyncio.sleep(0)  # read there before the next one comes
        for _ in range(20):
            await asyncio.sleep(0)
        if not reading.done():
            writer.write_eof()
        async with asyncio.timeout(90.0):
            said = await reading
    except ConnectionError:
        said = b""
    finally:
        reading.cancel()
        writer.close()
        await house.close()
    assert said == b"" or said.startswith(b"HTTP/1.1 "), said[:100]
    assert all(name != b"x-smcp-capability" for one in seen for name, _ in one.headers), "a handler sees a capability"
    return seen


TARGETS: Final = (Target("door", _made, _asked),)
