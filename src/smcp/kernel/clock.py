"""Time as a part that can be handed in: the system's, or one that tests move by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC. For what is written down."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards. For intervals and deadlines."""
        ...


class SystemClock:
    """The machine's clocks. Asked several times for each call, so without a function of Python's in between."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class FrozenClock:
    """A clock that stands still until `advance` is called."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._passed = 0.0

    def now(self) -> float:
        return self._now + self._passed

    def monotonic(self) -> float:
        return self._passed

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds` (≥ 0)."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._passed += seconds
