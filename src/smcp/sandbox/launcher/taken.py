"""What a cell takes of processor and memory, added up while it lives: by its cgroup, or by /proc where there is none.

For the launcher alone, which may look at every cell: blocking, some system calls each. Nothing here raises, and what
can't be read is None, never 0.

Of /proc counts: the processor time of every process below the cell's first one, with what their ended children took;
and of memory the pages that a process has for itself (RSS without shared and file pages, proc(5), statm), which is
less than what a cgroup would count.
"""

import contextlib
import os
import resource
from typing import Final

from smcp.sandbox import cgroups
from smcp.sandbox.launcher import messages

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SEEK_S: Final = 2.0
"""Time between two looks into /proc: a walk over a cell's processes costs more than reading two files of a group."""
_MOST: Final = 1024


class Taken:
    """One cell's account."""

    def __init__(self, pid: int, group: cgroups.Group | None, now: float) -> None:
        """`now` is when it began (monotonic)."""
        self._pid = pid
        self._group = group
        self._begun = self._looked = now
        self._cpu_s: float | None = None
        self._memory: int | None = None
        self._byte_s = 0.0

    def look(self, now: float) -> None:
        """Add what it has taken since the last look."""
        cpu_s, memory = self._by_group()
        if cpu_s is None and memory is None:
            if now - self._looked < _SEEK_S and self._looked != self._begun:
                return
            cpu_s, memory = below(self._pid)
        self._add(now, cpu_s, memory)

    def end(self, now: float, used: resource.struct_rusage) -> None:
        """It has ended; `used` is the kernel's account of its first process and all that was waited for below it."""
        cpu_s = self._group.spent() if self._group is not None else 0.0
        memory = self._memory
        if memory is None:
            # Gone before anybody looked: its peak stands for its short life. ru_maxrss is in KiB (getrusage(2)).
            peak = self._group.usage().memory_peak_bytes if self._group is not None else 0
            memory = peak or used.ru_maxrss * 1024 or None
        self._add(now, cpu_s or used.ru_utime + used.ru_stime, memory)

    def reading(self, number: int) -> messages.Reading:
        """What is known by now."""
        return messages.Reading(number, self._cpu_s, None if self._memory is None else self._byte_s)

    def _add(self, now: float, cpu_s: float | None, memory: int | None) -> None:
        if cpu_s is not None:
            # A process that nobody waited for takes its time with it; the sum never runs backwards for that.
            self._cpu_s = max(cpu_s, self._cpu_s or 0.0)
        if memory is not None:
            self._byte_s += memory * max(0.0, now - self._looked)
            self._memory = memory
        self._looked = now

    def _by_group(self) -> tuple[float | None, int | None]:
        if self._group is None:
            return None, None
        # Who runs has taken something of both: a meter that stands at 0 is one that the kernel does not have.
        return self._group.spent() or None, self._group.memory() or None


def below(pid: int) -> tuple[float | None, int | None]:
    """Seconds of processor and bytes of memory of `pid` and all below it; None where /proc doesn't say."""
    ticks = pages = 0
    seen: set[int] = set()
    waiting = [pid]
    while waiting and len(seen) < _MOST:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended in the meantime
            took, has = _one(one)
            ticks, pages = ticks + took, pages + has
        waiting += _children(one)
    return (ticks / _TICKS or None), (pages * _PAGE or None)


def _one(pid: int) -> tuple[int, int]:
    """Clock ticks and pages of one process. Raises OSError when it is gone."""
    # The name, in parentheses, may hold anything; behind the last one stand numbers (proc(5), stat).
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    resident, shared = (int(field) for field in _read(f"/proc/{pid}/statm").split()[1:3])
    return utime + stime + cutime + cstime, max(0, resident - shared)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError):
                found += [int(word) for word in _read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
