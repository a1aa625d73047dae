"""Waiting for what must not be left half known: a write that goes on when its caller is cancelled."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def decided(work: "asyncio.Future[T] | Coroutine[Any, Any, T]") -> T:
    """The outcome of `work`; a cancellation is passed on only after `work` has ended, well or badly."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # heard: what the caller gets is the cancellation
        raise
