"""Which core runs what, and what a process took of it: affinity and /proc."""

import os
import pathlib
from typing import NamedTuple

_TICK = 1_000_000 / os.sysconf("SC_CLK_TCK")


class Cores(NamedTuple):
    """The core of what is measured and the core of who measures; the same one on a machine that has one."""

    measured: int
    load: int


def choose() -> Cores:
    """Two cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1])


def family(pid: int) -> set[int]:
    """`pid` and every process below it."""
    children: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        found.add(one)
        waiting += children.get(one, [])
    return found


def name(pid: int) -> str:
    """What the kernel calls the process (proc(5), comm); empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command(pid: int) -> str:
    """The command line of the process; empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_us(pids: set[int]) -> float:
    """Microseconds of CPU that `pids` have used, user and system (proc(5), fields 14 and 15 of stat)."""
    return sum(_used_us(f"/proc/{pid}/stat") for pid in pids)


def thread_us(pid: int, thread: int) -> float:
    """The same for one thread of a process; the first one's id is the process's."""
    return _used_us(f"/proc/{pid}/task/{thread}/stat")


def _used_us(stat: str) -> float:
    try:
        fields = pathlib.Path(stat).read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK


def memory_kib(pids: set[int], kind: str = "Pss") -> int:
    """KiB that `pids` hold: pages that several share counted once (`Pss`), or only what they wrote (`Pss_Anon`).

    For growth only `Pss_Anon` tells the truth: a new process that shares the interpreter makes `Pss` of the others
    smaller.
    """
    total = 0
    for pid in pids:
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{kind}:"))
    return total


def private_kib(pids: set[int]) -> int:
    """KiB that only one process each has mapped, of all `pids`: what would be free again if they were gone.

    Raises PermissionError for a process that may not be looked at.
    """
    total = 0
    for pid in pids:
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))
    return total
