"""Holding a server's copies still while its volume is read."""

import asyncio
from collections.abc import Sequence

from smcp.kernel import errors
from smcp.sandbox.volumes import tar


class Frost:
    """Holds a volume's copies still, for a bounded time."""

    def __init__(self, children: Sequence[tar.Child | None], limit_s: float) -> None:
        """None stands for a copy that is just starting, which nothing can hold."""
        self._children = [child for child in children if child is not None]
        self._limit_s = limit_s
        self._held: list[tar.Child] = []
        self._thawing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self.failed = len(self._children) < len(children)
        """Something could change the content while it was read. Known when the content has been read."""

    async def __aenter__(self) -> "Frost":
        if self._children:
            self._watch = asyncio.create_task(self._patience())
            await asyncio.gather(*map(self._freeze, self._children))
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.thaw()
        if self._watch is not None:
            self._watch.cancel()

    async def thaw(self) -> None:
        """Let them go on. Idempotent."""
        async with self._thawing:
            held, self._held = self._held, []
            await asyncio.gather(*(child.thaw() for child in held), return_exceptions=True)

    async def _freeze(self, child: tar.Child) -> None:
        try:
            # Noted first: what may be frozen will be thawed, whatever comes back.
            self._held.append(child)
            held = await child.freeze()
        except (errors.SmcpError, OSError):
            held = False
        self.failed = self.failed or not held

    async def _patience(self) -> None:
        await asyncio.sleep(self._limit_s)
        if self._held:
            self.failed = True
            await self.thaw()
