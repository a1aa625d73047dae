"""Breakers: a deployment whose copies end before they have answered anything is left alone for a while.

Closed: starts are let through. After `THRESHOLD` such ends in a row it is open for a pause that doubles each time, with
jitter, so that many servers that broke together do not come back together. Behind the pause it is half open: one start
is let through, and what becomes of it decides. Decisions only: who asks brings the time.
"""

import enum
import random
from typing import Final

from smcp.kernel import errors, redact

THRESHOLD: Final = 3
"""Bad ends in a row that open it: two may be bad luck, or somebody who kills processes."""
PAUSE_S: Final = 1.0
MOST_S: Final = 60.0
FORGET_S: Final = 600.0
"""Seconds behind the last bad end, after which it says nothing about the next start."""
_SAID: Final = 300


class State(enum.StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The breaker of one deployment."""

    __slots__ = ("_dice", "_failures", "_last", "_probing", "_until", "ended", "said")

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()  # noqa: S311 - jitter, nothing secret
        self._failures = 0
        self._last = self._until = 0.0
        self._probing = False
        self.said = ""
        """The last line that one of its copies wrote to stderr."""
        self.ended = ""
        """How the last one ended that was counted."""

    def state(self, now: float) -> State:
        """Where it stands at `now` (monotonic seconds, as everywhere here)."""
        if self._failures < THRESHOLD:
            return State.CLOSED
        return State.HALF_OPEN if self._probing or now >= self._until else State.OPEN

    def idle(self, now: float) -> bool:
        """Nothing would be lost with it."""
        return not self._probing and (not self._failures or now - self._last >= FORGET_S)

    def wait(self, now: float) -> float:
        """Seconds until a start is let through; 0 when one is now."""
        return max(0.0, self._until - now) if self._failures >= THRESHOLD else 0.0

    def admit(self, now: float) -> bool:
        """Let a start through; True when it is the one that decides. Every start that is let through is told with
        `good`, `bad` or `void`.

        Raises `errors.ServerCrashing` while it is open, and while the one start behind the pause has not decided.
        """
        if self._failures < THRESHOLD:
            return False
        if self._probing or now < self._until:
            raise self.refusal(now)
        self._probing = True
        return True

    def good(self) -> None:
        """A copy has answered."""
        self._failures, self._probing, self.ended = 0, False, ""

    def bad(self, now: float, why: str) -> None:
        """A copy has ended before it answered anything, or did not start."""
        self.ended, self._last = why, now
        if not self._probing and self.wait(now) > 0:
            return  # It was let through before the others opened it, and says no more than they: no longer pause.
        self._failures += 1
        self._probing = False
        if self._failures >= THRESHOLD:
            # The exponent is bounded, or it would grow into a number that takes memory.
            pause = min(PAUSE_S * 2.0 ** min(self._failures - THRESHOLD, 16), MOST_S)
            self._until = now + pause * self._dice.uniform(0.75, 1.25)

    def void(self, *, probe: bool) -> None:
        """A start that was let through did not come to it; `probe`: it was the one that decides."""
        if probe:
            self._probing = False

    def refusal(self, now: float) -> errors.SmcpError:
        """What a caller is told while it is open."""
        why = redact.text(self.said or self.ended)[:_SAID]
        return errors.ServerCrashing(
            f"The hosted MCP server keeps ending right after its start. It last said: {why or 'nothing'}",
            retry_after=max(self.wait(now), PAUSE_S),
            detail=self.ended,
        )
