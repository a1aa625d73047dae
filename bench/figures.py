"""Samples of one thing done in several ways, and what they come to beside the bare way of the same run."""

import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

BARE: Final = "bare"
"""The way that the others are compared with."""


class Figure(NamedTuple):
    """One way of doing one thing."""

    topic: str
    subject: str
    how: str
    unit: str
    median: float
    p95: float
    samples: int
    ratio: float | None
    """The median, as a multiple of the bare one; None where there is nothing to compare with."""


class Figures:
    """Collects samples, and keeps the order in which things and ways first came."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str, str, str], list[float]] = {}

    def add(self, topic: str, subject: str, how: str, unit: str, values: Sequence[float]) -> None:
        """More samples."""
        self._samples.setdefault((topic, subject, how, unit), []).extend(values)

    def found(self) -> list[Figure]:
        """All, grouped by topic and subject."""
        places: dict[tuple[str, str], int] = {}
        for topic, subject, _, _ in self._samples:
            places.setdefault((topic, subject), len(places))
        keys = sorted(self._samples, key=lambda key: places[key[0], key[1]])
        return [self._figure(*key) for key in keys]

    def _figure(self, topic: str, subject: str, how: str, unit: str) -> Figure:
        values = sorted(self._samples[topic, subject, how, unit])
        median = statistics.median(values)
        bare = self._samples.get((topic, subject, BARE, unit))
        return Figure(
            topic,
            subject,
            how,
            unit,
            median,
            values[min(len(values) - 1, len(values) * 95 // 100)],
            len(values),
            median / statistics.median(bare) if bare else None,
        )
