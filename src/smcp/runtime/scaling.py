"""Scaling: how many shared copies a server should have, from its queue and its speed.

More when on every copy several calls wait and an answer takes long, both for two looks in a row: a server that answers
thousands a second has calls in flight, too, and needs no second copy. No more while the last one added brought nothing
(many servers wait for something that another copy does not make faster). Fewer, one by one, when for a while fewer
would do. Decisions only: who asks brings the time (monotonic seconds) and the figures.
"""

from typing import Final

import msgspec

QUEUE: Final = 4.0
"""Calls without an answer, on each copy, from which on another may help."""
SLOW_S: Final = 0.25
"""Seconds for an answer, likewise."""
_LOOKS: Final = 2
_QUIET_S: Final = 30.0
"""Seconds for which fewer copies would have done, before one goes."""
_USELESS_S: Final = 60.0
"""Seconds for which nothing is added behind a copy that brought nothing."""
_TRIAL: Final = 3
"""Looks behind an addition until it is judged."""
_BETTER: Final = 0.85
"""An answer has to take this part of what it took, or less, for an addition to have helped."""


class Bounds(msgspec.Struct, frozen=True):
    """How many copies there may be."""

    least: int = 0
    most: int = 1


class Look(msgspec.Struct, frozen=True):
    """What is seen of a server's shared copies at one moment."""

    copies: int
    """Those that serve."""
    starting: int
    outstanding: int
    """Calls without an answer, on all of them."""
    answered: int
    """Calls that were answered since the look before."""
    seconds: float
    """Time since the look before."""

    @property
    def latency_s(self) -> float:
        """Seconds for an answer, by Little's law: what is in flight, divided by what leaves."""
        if not self.outstanding:
            return 0.0
        return self.outstanding * self.seconds / self.answered if self.answered else max(self.seconds, SLOW_S)


class Scaler:
    """What is remembered about one server's shared copies."""

    __slots__ = ("_before_s", "_busy", "_held_until", "_quiet_since", "_trial")

    def __init__(self) -> None:
        self._busy = 0
        self._quiet_since: float | None = None
        self._held_until = 0.0
        self._trial = 0
        self._before_s = 0.0

    def wanted(self, now: float, look: Look, bounds: Bounds) -> int:
        """How many copies there should be, those that are starting included."""
        have = look.copies + look.starting
        if not look.copies:
            return max(have, bounds.least)
        self._judge(now, look)
        crowded = look.outstanding >= QUEUE * look.copies and look.latency_s >= SLOW_S
        self._busy = self._busy + 1 if crowded else 0
        if crowded:
            self._quiet_since = None
            return max(self._more(now, look, bounds), bounds.least)
        return max(self._fewer(now, look, have), min(bounds.least, bounds.most))

    def _more(self, now: float, look: Look, bounds: Bounds) -> int:
        have = look.copies + look.starting
        if self._trial or self._busy < _LOOKS or look.starting or now < self._held_until or have >= bounds.most:
            return have
        self._busy = 0
        self._trial, self._before_s = _TRIAL, look.latency_s
        return min(bounds.most, have + (have + 1) // 2)

    def _judge(self, now: float, look: Look) -> None:
        if not self._trial or look.starting:
            return
        self._trial -= 1
        if not self._trial and look.latency_s > self._before_s * _BETTER:
            self._held_until = now + _USELESS_S

    def _fewer(self, now: float, look: Look, have: int) -> int:
        # With one copy less each would still have half of what is many.
        if have < 2 or look.outstanding > (have - 1) * QUEUE / 2:
            self._quiet_since = None
            return have
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < _QUIET_S:
            return have
        self._quiet_since = now
        return have - 1
