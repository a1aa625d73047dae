"""Connections: dialling an address that was checked, and moving bytes both ways without keeping them."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

_CHUNK: Final = 65_536
_STAGGER_S: Final = 0.25
_RESET: Final = struct.pack("ii", 1, 0)


async def dial(addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
    """A connection to the first of `addresses` that answers, and which one it is; each gets a head start (RFC 8305).

    They are addresses, never names: nothing is resolved here. Raises OSError when none can be reached.
    """
    waiting = _interleaved(addresses)
    under_way: dict[asyncio.Task[socket.socket], str] = {}
    failure = OSError("no address")
    try:
        while waiting or under_way:
            if waiting:
                address = waiting.pop(0)
                under_way[asyncio.create_task(_connect(address, port))] = address
            done, _ = await asyncio.wait(
                under_way, timeout=_STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                address = under_way.pop(task)
                error = task.exception()
                if error is None:
                    return task.result(), address
                if not isinstance(error, OSError):
                    raise error
                failure = error
        raise failure
    finally:
        for task in under_way:
            task.add_done_callback(_drop)
            task.cancel()


async def relay(
    client: socket.socket,
    upstream: socket.socket,
    idle_s: float,
    sent: Callable[[int], float],
    received: Callable[[int], float],
) -> bool:
    """Move bytes until both sides have ended, one fails, or nothing moved for `idle_s`; True for an orderly end.

    `sent` and `received` are told of each chunk's bytes before it is passed on, and say how many seconds to wait before
    the next one; if they raise, that is the end.
    A side that has ended can still be written to (half-close). Each direction holds one chunk at most: a slow
    reader stops the reading. Both sockets stay open, for the caller to close or reset.
    """
    loop = asyncio.get_running_loop()
    moved = loop.time()

    async def pump(source: socket.socket, sink: socket.socket, count: Callable[[int], float]) -> None:
        nonlocal moved
        while data := await loop.sock_recv(source, _CHUNK):
            moved = loop.time()
            wait = count(len(data))
            await loop.sock_sendall(sink, data)
            moved = loop.time()
            if wait:
                await asyncio.sleep(wait)
        sink.shutdown(socket.SHUT_WR)

    both = {asyncio.create_task(pump(client, upstream, sent)), asyncio.create_task(pump(upstream, client, received))}
    try:
        left = both
        while left:
            rest = moved + idle_s - loop.time()
            if rest <= 0:
                return False
            done, left = await asyncio.wait(left, timeout=rest, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() is not None for task in done):
                return False
        return True
    finally:
        for task in both:
            task.cancel()
        # Waited for, so that nobody reads from a descriptor's number after it is closed.
        await asyncio.gather(*both, return_exceptions=True)


def reset(one: socket.socket) -> None:
    """Close `one` so that the other side sees an error, and not a regular end (SO_LINGER of zero: RST)."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    one.close()


async def _connect(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """What was still under way when another address had won."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _interleaved(addresses: Sequence[str]) -> list[str]:
    """The families in turn, IPv6 first where both are there (RFC 8305, 4)."""
    six = [one for one in addresses if ":" in one]
    four = [one for one in addresses if ":" not in one]
    turns = max(len(six), len(four))
    return [one for turn in range(turns) for one in (*six[turn : turn + 1], *four[turn : turn + 1])]
