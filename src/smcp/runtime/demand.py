"""Demand: how often copies of a server are asked for, and how many spares that is worth.

One start is chance, two are a habit: the count of starts, which halves in a while, must reach `_HABIT`. How many came
within the time that one start takes says how many spares would have helped; that number fades, too. Decisions only:
who asks brings the time (monotonic seconds).
"""

import collections
from typing import Final

_HABIT: Final = 1.5
_MOST: Final = 64
"""Arrivals that are looked at together; nobody has more spares."""


class Demand:
    """What is known of one server."""

    __slots__ = ("_burst", "_burst_at", "_level", "_memory_s", "_recent", "lead_s", "taken")

    def __init__(self, memory_s: float) -> None:
        """`memory_s`: seconds in which the count halves, and after which silence forgets everything."""
        self._memory_s = memory_s
        self._level = 0.0
        self._recent: collections.deque[float] = collections.deque(maxlen=_MOST)
        self._burst = 0.0
        self._burst_at = 0.0
        self.lead_s = 1.0
        """Seconds from the wish for a copy to one that answers, learned."""
        self.taken = float("-inf")
        """When a copy was last asked for."""

    def take(self, now: float) -> None:
        """A copy is asked for."""
        self._level = self._faded(self._level, self.taken, now) + 1.0
        self.taken = now
        self._recent.append(now)
        # Those that came before a spare could have been replaced.
        since = now - max(self.lead_s, 1.0)
        together = sum(1 for one in self._recent if one >= since)
        faded = self._faded(self._burst, self._burst_at, now)
        if together >= faded:
            self._burst, self._burst_at = float(together), now

    def learn(self, seconds: float) -> None:
        """A copy took so long to answer for the first time."""
        self.lead_s += 0.3 * (min(max(seconds, 0.0), 60.0) - self.lead_s)

    def wanted(self, now: float, most: int) -> int:
        """How many spares are worth having, at most `most`."""
        if self.over(now) or self._faded(self._level, self.taken, now) < _HABIT:
            return 0
        return min(most, max(1, round(self._faded(self._burst, self._burst_at, now))))

    def over(self, now: float) -> bool:
        """Nobody has asked for so long that nothing is known any more."""
        return now - self.taken >= self._memory_s

    def _faded(self, value: float, since: float, now: float) -> float:
        return value * 0.5 ** ((now - since) / self._memory_s) if value else 0.0
