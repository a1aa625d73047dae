"""Waking what has waited long enough: one timer for every call in flight, because a timer for each costs more than a
call's share of everything else.

Exact to `step_s`: good enough for heartbeats and for time limits of seconds.
"""

import asyncio
import time
from typing import Protocol


class Sleeper(Protocol):
    """Who is woken."""

    def wake(self) -> None:
        """It is time."""
        ...


class Alarms:
    """Sleepers by the time at which each is to be woken. For one event loop."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._at: dict[Sleeper, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._at)

    def set(self, sleeper: Sleeper, at: float) -> None:
        """Wake `sleeper` at `at` (`time.monotonic`) or up to `step_s` later, once; an earlier alarm of it is void."""
        self._at[sleeper] = at
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._step_s, self._ring)

    def clear(self, sleeper: Sleeper) -> None:
        """Nobody sleeps any more. Idempotent."""
        self._at.pop(sleeper, None)

    def close(self) -> None:
        """Wake nobody any more."""
        self._at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        # It runs on while there is anybody, and not for ever: an idle platform wakes up for nobody.
        self._timer = asyncio.get_running_loop().call_later(self._step_s, self._ring) if self._at else None
        now = time.monotonic()
        for sleeper in [one for one, at in self._at.items() if at <= now]:
            # Who was woken before may have cleared it.
            if self._at.pop(sleeper, None) is not None:
                sleeper.wake()
