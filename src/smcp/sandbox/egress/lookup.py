"""Asking the host's name system, in threads that hold up nothing."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a name and a port to addresses. Raises OSError or UnicodeError when there is none."""

_AT_ONCE: Final = 32
_EACH: Final = 4
_ADDRESSES: Final = 8


class Lookup:
    """getaddrinfo(3) for all cells, so many at once.

    Not the loop's own (uvloop has four threads for the whole platform), and no executor: a process that ends waits for
    an executor's threads, and a name server that never answers would hold it up.
    """

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._places = asyncio.Semaphore(at_once)

    async def addresses(self, name: str, port: int) -> Sequence[str]:
        """The addresses of `name`. Raises OSError (`socket.gaierror`) or UnicodeError when there are none."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()

        def finish(found: Sequence[str], error: Exception | None) -> None:
            self._places.release()
            if answer.done():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def ask() -> None:
            found: Sequence[str] = ()
            failed: Exception | None = None
            try:
                found = [str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
            except (OSError, UnicodeError) as error:
                failed = error
            # The loop may be closed when a late answer comes; then nobody waits for it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, found, failed)

        try:
            threading.Thread(target=ask, name="egress-lookup", daemon=True).start()
        except RuntimeError as error:
            finish((), OSError(f"no thread for a lookup: {error}"))
        return await answer


class Questions:
    """One asker's, a few at a time: names whose servers never answer must not take every other asker's places."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._places = asyncio.Semaphore(_EACH)
        self._asking: set[asyncio.Task[Sequence[str]]] = set()

    async def addresses(self, name: str, port: int) -> list[str]:
        """As `Resolve`: each once, the first few."""
        # A question can't be taken back: it keeps its place until it is answered, also when nobody waits any more.
        await self._places.acquire()
        task = asyncio.get_running_loop().create_task(self._ask(name, port))
        self._asking.add(task)
        task.add_done_callback(self._answered)
        return list(dict.fromkeys(await asyncio.shield(task)))[:_ADDRESSES]

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        for task in self._asking:
            task.cancel()

    async def _ask(self, name: str, port: int) -> Sequence[str]:
        return await self._resolve(name, port)

    def _answered(self, task: asyncio.Task[Sequence[str]]) -> None:
        self._asking.discard(task)
        self._places.release()
        if not task.cancelled():
            # Looked at, because nobody may be waiting for it.
            task.exception()
