"""Counters, gauges and histograms as plain numbers, and their lines in the Prometheus text format.

A call adds to a dozen of them, so they hold no lock and go through no other library: an increment is one addition.
That is right because only the thread of the event loop adds, and the page is rendered by the same thread without a
pause in between. What other threads count they keep for themselves, and `Metrics.follow` reads it at each scrape.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

Labels = Sequence[tuple[str, str]]


class Counter:
    """A number that only grows."""

    __slots__ = ("_line", "value")

    def __init__(self, name: str, labels: Labels) -> None:
        self._line = name + _braces(labels)
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add. Raises ValueError for less than nothing."""
        if amount < 0:
            raise ValueError("a counter only grows")
        self.value += amount

    def lines(self) -> Iterable[str]:
        """The samples, as they are scraped."""
        return (f"{self._line} {number(self.value)}\n",)


class Gauge:
    """A number that goes up and down; or somebody else's, asked for at each scrape."""

    __slots__ = ("_line", "_read", "value")

    def __init__(self, name: str, labels: Labels) -> None:
        self._line = name + _braces(labels)
        self._read: Callable[[], float] | None = None
        self.value = 0.0

    def set(self, value: float) -> None:
        """The number is `value` now."""
        self.value = value

    def inc(self, amount: float = 1) -> None:
        """Add, or take away what is negative."""
        self.value += amount

    def watch(self, read: Callable[[], float]) -> None:
        """From now on `read` answers, at each scrape."""
        self._read = read

    def lines(self) -> Iterable[str]:
        """The samples, as they are scraped."""
        return (f"{self._line} {number(self.value if self._read is None else self._read())}\n",)


class Histogram:
    """How often a quantity was at most so large, for a few boundaries; and the sum of all."""

    __slots__ = ("_bounds", "_count", "_counts", "_heads", "_sum", "_total")

    def __init__(self, name: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        """`bounds` go up; the last bucket, of everything, is added here."""
        ends = (*(number(bound) for bound in bounds), "+Inf")
        # `le` among the others by name, which is the order that the page always had.
        self._heads = tuple(name + "_bucket" + _braces((*labels, ("le", end))) for end in ends)
        self._count = name + "_count" + _braces(labels)
        self._total = name + "_sum" + _braces(labels)
        self._bounds = bounds
        self._counts = [0] * len(ends)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more, of this size, in the metric's unit."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> Iterable[str]:
        """The samples, as they are scraped: the buckets add up, so that the last is the count."""
        total = 0
        for head, count in zip(self._heads, self._counts, strict=True):
            total += count
            yield f"{head} {total}.0\n"
        yield f"{self._count} {total}.0\n"
        yield f"{self._total} {number(self._sum)}\n"


Series = Counter | Gauge | Histogram


def number(value: float) -> str:
    """A number as Prometheus reads it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def escaped(text: str) -> str:
    """Text as it may stand in a help line. Inside of a label's value a quotation mark is escaped too."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _braces(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_quoted(value)}"' for name, value in sorted(labels))
    return f"{{{inside}}}" if inside else ""


_QUOTE: Final = str.maketrans({'"': '\\"'})


def _quoted(value: str) -> str:
    return escaped(value).translate(_QUOTE)
