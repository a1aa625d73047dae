"""An address that stays the same while the platform's changes: what a load balancer does."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Final

_TURNS: Final = 10
"""Of the loop, in which a connection that was taken gets its handler, and one that was called off is closed."""


@contextlib.asynccontextmanager
async def relayed(
    front: socket.socket, where: Callable[[], tuple[str, int]], up: asyncio.Event | None = None
) -> AsyncGenerator[None]:
    """Pass on what comes at `front`, which listens, to `where`; connections have to wait while `up` is not set.

    Nothing is open afterwards: what a loop leaves open when it ends fails whichever test runs when it is collected.
    """
    handlers: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if up is not None:
                    await up.wait()
                inner, outer = await asyncio.open_connection(*where())
                writers.append(outer)
                await asyncio.gather(_copy(reader, outer), _copy(inner, writer))
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(take, sock=front.dup())
    try:
        yield
    finally:
        server.close()
        await _turns()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await _turns()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends, which ends the other."""
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
