"""A server at a unix socket whose every byte a test writes, and reads: nothing is taken that was not asked for."""

import asyncio
import contextlib
import pathlib
import re
import socket
import tempfile
from collections.abc import AsyncGenerator, Generator
from typing import Final, NamedTuple, Self

WAIT_S: Final = 60.0
_CHUNK: Final = 65_536


class Request(NamedTuple):
    """What came."""

    head: bytes
    body: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    async def head(self) -> None:
        """Read until the head of the next one is there."""
        while b"\r\n\r\n" not in self._rest:
            self._rest += await self._more()

    async def request(self) -> Request:
        """The next one, whole."""
        await self.head()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        length = int(found[1]) if found else 0
        while len(self._rest) < length:
            self._rest += await self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return Request(head + b"\r\n", body)

    async def send(self, data: bytes) -> None:
        """Write all of it."""
        async with asyncio.timeout(WAIT_S):
            await self._loop.sock_sendall(self._link, data)

    async def answer(self, data: bytes) -> Request:
        """Read a request, and write this."""
        found = await self.request()
        await self.send(data)
        return found

    async def fill(self, data: bytes = bytes(_CHUNK)) -> int:
        """Write this over and over, until nothing more is taken, however often the other side gets its turn.

        How many bytes that were."""
        sent = refused = 0
        while refused < 100:
            try:
                sent += self._link.send(data[sent % len(data) :])
                refused = 0
            except BlockingIOError:
                refused += 1
                await asyncio.sleep(0)
        return sent

    async def ended(self) -> bool:
        """Is nothing more to be read, and will there be nothing? Returns when that is so."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                while await self._loop.sock_recv(self._link, _CHUNK):
                    pass
        return True

    def fileno(self) -> int:
        """Of the socket."""
        return self._link.fileno()

    def close(self) -> None:
        """End it: at once, with what was not read in it."""
        self._link.close()

    async def _more(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            data = await self._loop.sock_recv(self._link, _CHUNK)
        if not data:
            raise EOFError
        return data


class ByHand:
    """A listening socket."""

    def __init__(self, path: str, backlog: int = 128) -> None:
        self.path = path
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.setblocking(False)
        self._link.bind(path)
        self._link.listen(backlog)
        self.peers: list[Peer] = []
        """Every connection that there was."""

    async def peer(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(WAIT_S):
            link, _ = await asyncio.get_running_loop().sock_accept(self._link)
        link.setblocking(False)
        self.peers.append(Peer(link))
        return self.peers[-1]

    def nobody(self) -> bool:
        """Does nobody want another connection?"""
        try:
            link, _ = self._link.accept()
        except BlockingIOError:
            return True
        link.close()
        return False

    def close(self) -> None:
        """End everything."""
        for one in self.peers:
            one.close()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


async def readable(peer: Peer) -> None:
    """Return when something has come, and read none of it."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(peer.fileno(), ready.set)
    try:
        async with asyncio.timeout(WAIT_S):
            await ready.wait()
    finally:
        loop.remove_reader(peer.fileno())


@contextlib.contextmanager
def socket_path() -> Generator[str]:
    """A path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="smcp-") as directory:
        yield str(pathlib.Path(directory) / "socket")


@contextlib.asynccontextmanager
async def served(backlog: int = 128) -> AsyncGenerator[ByHand]:
    """A server by hand."""
    with socket_path() as path, ByHand(path, backlog) as made:
        yield made
