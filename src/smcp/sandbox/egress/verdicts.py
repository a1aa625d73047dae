"""What is told about a cell's attempts: each counted in the metrics, and a bounded number of lines in its journal."""

import enum
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from smcp.kernel import observe

_AGAIN_S: Final = 60.0
_LINES: Final = 30
_REMEMBERED: Final = 256
_LONGEST: Final = 300


class Reason(enum.Enum):
    """Every verdict: (verdict, reason) as the metric has them."""

    ALLOWED = ("allowed", "")
    NAME = ("refused", "name")
    ADDRESS = ("refused", "address")
    PORT = ("refused", "port")
    NETWORK = ("refused", "network")
    BUSY = ("refused", "busy")
    QUOTA = ("refused", "quota")
    UNKNOWN = ("failed", "resolve")
    UNREACHABLE = ("failed", "connect")


Counters = Mapping[Reason, observe.Counter]


def counters(metrics: observe.Metrics) -> Counters:
    """The metric's children, taken once."""
    return {
        reason: metrics.counter(observe.Metric.EGRESS, verdict=reason.value[0], reason=reason.value[1])
        for reason in Reason
    }


class Bucket:
    """So many at once, and so many a second."""

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._left = burst
        self._at = clock()

    def ready(self) -> bool:
        """Is there one to take?"""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left >= 1

    def take(self, amount: float = 1.0) -> float:
        """Take `amount`, also more than there is; how long, in seconds, until that is made up for."""
        self.ready()
        self._left -= amount
        return max(0.0, -self._left / self._rate)


class Verdicts:
    """One cell's. A line about the same thing comes once a minute, and all lines together `_LINES` a minute."""

    def __init__(
        self, count: Counters, told: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._told = told
        self._clock = clock
        self._bucket = Bucket(_LINES, _LINES / 60, clock)
        self._recent: dict[tuple[Reason, str], float] = {}
        self._silent = 0

    def tell(self, reason: Reason, target: str, detail: str = "", why: str = "") -> None:
        """`target` is a name or address with its port, of any characters; `detail` is the address that was meant."""
        self._count[reason].inc()
        now = self._clock()
        last = self._recent.get((reason, target))
        if last is not None and now - last < _AGAIN_S:
            return
        if not self._bucket.ready():
            self._silent += 1
            return
        self._bucket.take()
        if self._silent:
            self._told(f"[smcp] egress: {self._silent} more verdicts were not told")
            self._silent = 0
        if len(self._recent) >= _REMEMBERED:
            del self._recent[next(iter(self._recent))]
        self._recent.pop((reason, target), None)
        self._recent[(reason, target)] = now
        words = f"[smcp] egress {reason.value[0]}: {plain(target)}"
        self._told(words + (f" → {detail}" if detail else "") + (f" ({why})" if why else ""))


def plain(text: str) -> str:
    """`text` on one line of visible ASCII, whatever the tenant's code put into it."""
    return "".join(one if "!" <= one <= "~" else f"\\x{ord(one):02x}" for one in text[:_LONGEST])


def why(reason: Reason, error: OSError | UnicodeError) -> str:
    """Why there is no connection, in words without an address."""
    told = "the name was not found" if reason is Reason.UNKNOWN else "no connection"
    if isinstance(error, TimeoutError):
        return f"{told}: no answer in time"
    if isinstance(error, socket.gaierror):
        return f"{told}: {error.strerror}"
    # Not `strerror`: event loops write the address there.
    return f"{told}: {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else told
