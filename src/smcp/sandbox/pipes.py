"""Ends of pipes on the event loop: each descriptor is closed once, by its transport.

uvloop's transports close the descriptor themselves (libuv's `uv_close`) and then call `close` of the object that they
were given. With a file object that is a second `close(2)` of the same number, and between the two another thread may
have been given that number: its file was closed under its hands.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class _End:
    """What a transport is given in place of a file object."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._descriptor = descriptor
        # asyncio's own transports leave the closing to this object.
        self._ours = isinstance(loop, asyncio.BaseEventLoop)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._ours:
            self._ours = False
            os.close(self._descriptor)


async def reader(descriptor: int, protocol: Callable[[], asyncio.Protocol]) -> asyncio.ReadTransport:
    """Read from `descriptor`, which belongs to the transport from now on, also when this raises."""
    loop = asyncio.get_running_loop()
    end: Any = _End(loop, descriptor)
    try:
        transport, _ = await loop.connect_read_pipe(protocol, end)
    except BaseException:
        end.close()
        raise
    return transport


async def writer(descriptor: int, protocol: Callable[[], _P]) -> tuple[asyncio.WriteTransport, _P]:
    """Write to `descriptor`, which belongs to the transport from now on, also when this raises."""
    loop = asyncio.get_running_loop()
    end: Any = _End(loop, descriptor)
    try:
        return await loop.connect_write_pipe(protocol, end)
    except BaseException:
        end.close()
        raise
