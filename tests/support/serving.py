"""Servers of tests, whose connections end with them.

What a loop leaves open when it ends is told when it is collected (ResourceWarning), and that fails whichever test runs
then: often not on the machine of who wrote it, where the last word of a client is read in time.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_TURNS: Final = 10
"""Of the loop, in which a connection that was taken gets its handler, and one that was called off is closed."""


@contextlib.asynccontextmanager
async def served(handle: Handler, secure: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Serve on loopback: the port. A connection that breaks, or ends early, ends its handler."""
    handlers: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            handlers.discard(task)
            writer.close()

    async with await asyncio.start_server(one, "127.0.0.1", 0, ssl=secure) as server:
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            await _turns()
            for task in handlers:
                task.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()
            await _turns()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
