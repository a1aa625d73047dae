"""Sliding windows: how much passed in the last minute (or second), exactly, in little memory.

Time is cut into slots of a hundredth of the window. What is taken in a slot counts until the whole slot has left the
window, so in any window's length of time at most the limit passes: there is no moment at which twice of it does, as
there is with token buckets and fixed windows. Under a flood at least 100 of 101 parts of the limit pass, because the
last of a slot comes back up to one slot late.
"""

import array
from typing import Final

SLOTS: Final = 100
"""Slots in a window."""

MINUTE_NS: Final = 60_000_000_000
SECOND_NS: Final = 1_000_000_000

_NEVER: Final = 1 << 62


class Window:
    """One limit's recent use. For one thread. Fields are public for the hot path in `limits`."""

    __slots__ = ("entries", "expires", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.expires = _NEVER
        """The last slot in which everything that is counted still counts."""
        self.entries: array.array[int] = array.array("q")
        """Slot, how many in it, next slot, how many …; in order. An array, since every session has one: in a list the
        numbers would take five times as much."""

    def expire(self, slot: int) -> None:
        """Forget what has left the window by `slot`. To be called when `slot > expires`."""
        entries = self.entries
        gone, end = 0, len(entries)
        while gone < end and entries[gone] + SLOTS < slot:
            self.used -= entries[gone + 1]
            gone += 2
        del entries[:gone]
        self.expires = entries[0] + SLOTS if entries else _NEVER

    def add(self, slot: int) -> None:
        """Count one in `slot`, whether or not there is room."""
        entries = self.entries
        self.used += 1
        if not entries:
            entries.append(slot)
            entries.append(1)
            self.expires = slot + SLOTS
        elif entries[-2] == slot:
            entries[-1] += 1
        else:
            entries.append(slot)
            entries.append(1)

    def begin_as(self, other: "Window") -> None:
        """Count everything that `other` counts."""
        self.entries = other.entries[:]
        self.used, self.expires = other.used, other.expires

    def full(self, slot: int) -> bool:
        """Is there no room in `slot`?"""
        if slot > self.expires:
            self.expire(slot)
        return self.used >= self.limit

    def back(self) -> int:
        """The slot in which the first of what is counted comes back; 0 when nothing is counted."""
        return self.entries[0] + SLOTS + 1 if self.entries else 0

    def room(self, kept: int = 0) -> int:
        """The slot in which there is room again, if nobody else takes it; 0 when there is room now.

        `kept`: so much of the limit is for others.
        """
        left = self.used - self.limit + kept
        if left < 0:
            return 0
        for place in range(0, len(self.entries), 2):
            left -= self.entries[place + 1]
            if left < 0:
                return self.entries[place] + SLOTS + 1
        return self.entries[-2] + SLOTS + 1 if self.entries else 0
