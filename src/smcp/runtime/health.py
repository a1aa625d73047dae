"""Health: copies that have nothing to do are asked now and then whether they are still there.

Only those: one that computes may be silent for long and is as it should be. Servers with a volume are left alone, too:
a question would count as use, and have the volume stored each time.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from smcp.kernel import errors
from smcp.runtime import starts

CHECK_S: Final = 30.0
"""Seconds without a word, after which a copy is asked."""
ANSWER_S: Final = 5.0
_PATIENCE: Final = 2
"""Questions in a row without an answer, after which it is replaced."""


class Health:
    """Asks copies how they are."""

    def __init__(self, silent: Callable[[starts.Copy], None], *, check_s: float, answer_s: float) -> None:
        """`silent` hears of a copy that does not answer any more."""
        self._silent = silent
        self._check_s = check_s
        self._answer_s = answer_s
        self._asking: dict[starts.Copy, asyncio.Task[None]] = {}

    def tend(self, now: float, copies: Iterable[starts.Copy]) -> None:
        """Once a second: ask those of `copies` that are due."""
        for copy in copies:
            due = copy.silent or now - copy.instance.calls.heard >= self._check_s
            if due and copy.spec.volume is None and not len(copy.instance.calls):
                self._ask(copy, _PATIENCE)

    def suspect(self, copy: starts.Copy) -> None:
        """It was silent for a whole call: one more silence, and it is replaced."""
        self._ask(copy, 1)

    async def close(self) -> None:
        """Ask nobody any more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _ask(self, copy: starts.Copy, patience: int) -> None:
        if copy not in self._asking and copy.ending is None:
            task = asyncio.create_task(self._question(copy, patience))
            self._asking[copy] = task
            task.add_done_callback(lambda _: self._asking.pop(copy))

    async def _question(self, copy: starts.Copy, patience: int) -> None:
        before, useful = copy.instance.calls.heard, copy.useful
        try:
            call = copy.ask()
            async with asyncio.timeout(self._answer_s):
                await call.completed()
        except (TimeoutError, errors.SmcpError):
            pass  # told below
        finally:
            copy.settle()
        if copy.instance.calls.heard != before:
            copy.silent = 0
            if not useful:
                # An answer to us is not what it is there for.
                copy.heard = copy.instance.calls.heard
            return
        if patience > 1 and len(copy.instance.calls):
            return  # somebody called meanwhile: now it may compute
        copy.silent += 1
        if copy.silent >= patience and copy.ending is None and copy.instance.alive:
            self._silent(copy)
