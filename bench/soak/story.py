"""What happened in a soak: every kill, every error, and which kill explains which error.

An error is explained by a kill of a copy of the same tenant's server, from shortly before the request began (the
platform may not have noticed yet, and nobody notices anything while the machine stands still) until it ended. A
session's error may come from a kill since its last good answer. A wrong answer and one that never comes are explained
by nothing.
"""

import bisect
import collections
from typing import Final, NamedTuple

from smcp.kernel import errors

_NOTICED_S: Final = 3.0
"""A copy that was killed this long before a request is known to be gone, if the machine has not stood still since."""
_LOOK_BACK_S: Final = 60.0
_CRASHING: Final = errors.ServerCrashing.text.partition(".")[0]
_BREAKER_S: Final = 240.0
_BREAKER_KILLS: Final = 3
"""A breaker opens after so many ends in a row, stays open for up to a minute, and until the next start has answered."""


class Place(NamedTuple):
    """A server of a tenant."""

    tenant: str
    server: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.server}"


class Failure(NamedTuple):
    """Something that went wrong for a client. Times are monotonic seconds."""

    place: Place
    what: str
    detail: str
    began: float
    """When the request began; for a session that is gone: when it last answered."""
    ended: float


class WrongError(Exception):
    """An answer that no kill explains."""


class Story:
    """Of one run."""

    def __init__(self) -> None:
        self._kills: dict[Place, list[float]] = collections.defaultdict(list)
        self.done: collections.Counter[str] = collections.Counter()
        self.explained: collections.Counter[str] = collections.Counter()
        self.unexplained: list[str] = []
        self._stood: list[tuple[float, float]] = []
        self.slowest: dict[str, float] = {}
        """Seconds that something took at most when it went well."""

    @property
    def kills(self) -> int:
        """So far."""
        return sum(len(times) for times in self._kills.values())

    def killed(self, place: Place, at: float) -> None:
        """A copy is being killed. Told before it is, in the order of time."""
        self._kills[place].append(at)

    def stood_still(self, until: float, seconds: float) -> None:
        """Nothing went on for so long. Told in the order of time."""
        self._stood.append((until, seconds))

    def well(self, what: str, seconds: float) -> None:
        """Something was done, and every answer was right."""
        self.done[what] += 1
        self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))

    def failed(self, failure: Failure) -> bool:
        """An error came; whether a kill explains it."""
        found = self._explains(failure)
        if found:
            self.explained[failure.what] += 1
        else:
            self.unexplained.append(f"{failure.place}, {failure.what}: {failure.detail} ({self._around(failure)})")
        return found

    def wrong(self, place: Place, what: str, detail: str) -> None:
        """Something came that no kill explains."""
        self.unexplained.append(f"{place}, {what}: {detail}")

    def _explains(self, failure: Failure) -> bool:
        if _CRASHING in failure.detail:
            return self._between(failure.place, failure.ended - _BREAKER_S, failure.ended) >= _BREAKER_KILLS
        since = failure.began - _LOOK_BACK_S
        still = sum(seconds for until, seconds in self._stood if since <= until <= failure.ended)
        return self._between(failure.place, failure.began - _NOTICED_S - still, failure.ended) > 0

    def _between(self, place: Place, after: float, before: float) -> int:
        times = self._kills.get(place, [])
        return bisect.bisect_right(times, before) - bisect.bisect_left(times, after)

    def _around(self, failure: Failure) -> str:
        times = self._kills.get(failure.place, [])
        number = bisect.bisect_right(times, failure.ended)
        took = f"it took {failure.ended - failure.began:.2f} s"
        if not number:
            return f"{took}; no copy of this server was killed before"
        return f"{took}; the last kill of this server was {failure.began - times[number - 1]:.2f} s before it began"
