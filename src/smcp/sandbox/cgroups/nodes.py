"""One group in one hierarchy: a directory whose files are switches and meters, in version 1 and in version 2."""

import abc
import contextlib
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from smcp.sandbox.cgroups import places

MEMORY: Final = "cgroup_memory"
PIDS: Final = "cgroup_pids"
CPU: Final = "cgroup_cpu"
LAYERS: Final = {MEMORY: "memory", PIDS: "pids", CPU: "cpu"}
"""Layers of the walls, and the controllers that they are made of."""

_PERIOD_US: Final = 100_000
_LEAST_QUOTA_US: Final = 1_000
"""The kernel takes no smaller one (kernel/sched/core.c, min_cfs_quota_period)."""
_WHOLE: Final = 65536


class Limits(NamedTuple):
    """What all processes of a cell together may take."""

    memory_bytes: int
    """Also pages of files that only they use, and what they put into /tmp; nothing of it is swapped out."""
    processes: int
    """Threads count (the kernel's pids.max counts tasks)."""
    cpus: float
    """In cores: 0.5 is half of one, over each tenth of a second."""


class Usage(NamedTuple):
    """What they take, and took. 0 where the kernel doesn't say."""

    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    cpu_s: float = 0.0
    oom_kills: int = 0
    processes: int = 0


class Setting(NamedTuple):
    """One file of a group to be written. One that is not `needed` may be absent or refuse."""

    controller: str
    file: str
    value: str
    needed: bool = True


class Node(abc.ABC):
    """A group's directory. Every method raises OSError where nothing else is said."""

    def __init__(self, path: str, controllers: frozenset[str]) -> None:
        self.path = path
        self.controllers = controllers
        """Those that limit here; never one that doesn't work."""

    @abc.abstractmethod
    def settings(self, limits: Limits) -> Iterator[Setting]:
        """What is to be written for `limits`, in this order."""

    def limit(self, limits: Limits) -> None:
        """Set them."""
        for setting in self.settings(limits):
            if setting.controller in self.controllers:
                try:
                    write(f"{self.path}/{setting.file}", setting.value)
                except OSError:
                    if setting.needed:
                        raise

    def make(self) -> None:
        """Make the directory. One that is there and empty is as good as new."""
        try:
            os.mkdir(self.path, 0o755)
        except FileExistsError:
            os.rmdir(self.path)
            os.mkdir(self.path, 0o755)

    def entry(self) -> int:
        """The file into which a process writes 0 to join."""
        return os.open(f"{self.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def processes(self) -> list[int]:
        """Who is in it; none when it is gone. Never raises."""
        return [int(word) for word in read(f"{self.path}/cgroup.procs").split()]

    def kill(self) -> bool:
        """End all of them at once; False where the kernel can't. Never raises."""
        return False

    @abc.abstractmethod
    def freeze(self, frozen: bool) -> bool:
        """Hold them all, or let them go on; False where this hierarchy can't. Never raises."""

    @abc.abstractmethod
    def usage(self) -> Usage:
        """What this hierarchy knows. Never raises."""

    @abc.abstractmethod
    def spent(self) -> float:
        """Processor time in seconds. Never raises."""

    @abc.abstractmethod
    def memory(self) -> int:
        """Bytes that it has now; 0 where this hierarchy doesn't know. Never raises."""

    @abc.abstractmethod
    def weigh(self, share: float) -> None:
        """Its weight where processors are short, as a part of what each group has at first. Never raises."""

    def remove(self) -> bool:
        """False as long as something is in it, or dying. Never raises."""
        for name in places.listed(self.path):
            type(self)(f"{self.path}/{name}", self.controllers).remove()
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _number(self, file: str, key: str = "") -> int:
        """A meter: the file's only number, or the one behind `key`. 0 when there is none."""
        words = read(f"{self.path}/{file}").split()
        if key:
            words = words[words.index(key) + 1 :] if key in words else []
        return int(words[0]) if words and words[0].isdigit() else 0


class V1(Node):
    """In a hierarchy of version 1."""

    def settings(self, limits: Limits) -> Iterator[Setting]:
        """cgroup-v1/memory.rst, pids.rst; scheduler/sched-bwc.rst."""
        yield Setting("memory", "memory.limit_in_bytes", str(limits.memory_bytes))
        # Memory and swap together, so no swap: absent without swap accounting (swapaccount=0).
        yield Setting("memory", "memory.memsw.limit_in_bytes", str(limits.memory_bytes), needed=False)
        yield Setting("memory", "memory.swappiness", "0", needed=False)
        yield Setting("pids", "pids.max", str(limits.processes))
        yield Setting("cpu", "cpu.cfs_period_us", str(_PERIOD_US))
        yield Setting("cpu", "cpu.cfs_quota_us", str(_quota(limits)))

    def entry(self) -> int:
        """`tasks` moves who writes, and not all its threads (it has one): unlike cgroup.procs it takes no lock of the
        whole system, for which it would wait some milliseconds (kernel/cgroup/cgroup.c, cgroup_procs_write_start)."""
        return os.open(f"{self.path}/tasks", os.O_WRONLY | os.O_CLOEXEC)

    def make(self) -> None:
        """As all are made; and where `cpuset` is mounted together with it, one that may be entered."""
        super().make()
        self.inherit()

    def inherit(self) -> None:
        """Give a group without processors and memory nodes those of the group above (cgroup-v1/cpusets.rst)."""
        for file in ("cpuset.cpus", "cpuset.mems"):
            if os.path.exists(f"{self.path}/{file}") and not read(f"{self.path}/{file}").strip():
                write(f"{self.path}/{file}", read(f"{os.path.dirname(self.path)}/{file}").strip())

    def freeze(self, frozen: bool) -> bool:
        """cgroup-v1/freezer-subsystem.rst."""
        return _can(f"{self.path}/freezer.state", "FROZEN" if frozen else "THAWED")

    def spent(self) -> float:
        """cgroup-v1/cpuacct.rst."""
        return self._number("cpuacct.usage") / 1e9

    def memory(self) -> int:
        """cgroup-v1/memory.rst."""
        return self._number("memory.usage_in_bytes") if "memory" in self.controllers else 0

    def weigh(self, share: float) -> None:
        """scheduler/sched-design-CFS.rst, "Group scheduler extensions"."""
        _can(f"{self.path}/cpu.shares", str(max(2, round(1024 * share))))

    def usage(self) -> Usage:
        """cgroup-v1/memory.rst, cpuacct.rst."""
        return Usage(
            self._number("memory.usage_in_bytes"),
            self._number("memory.max_usage_in_bytes"),
            self._number("cpuacct.usage") / 1e9,
            self._number("memory.oom_control", "oom_kill"),
            self._number("pids.current"),
        )


class V2(Node):
    """In the hierarchy of version 2. cgroup-v2.rst, "Core Interface Files" and "Controllers"."""

    def settings(self, limits: Limits) -> Iterator[Setting]:
        """cgroup-v2.rst, "Memory", "PID" and "CPU"."""
        yield Setting("memory", "memory.max", str(limits.memory_bytes))
        yield Setting("memory", "memory.swap.max", "0", needed=False)
        yield Setting("memory", "memory.zswap.max", "0", needed=False)
        # A cell without one of its processes answers nobody: it dies as a whole (Linux 4.19).
        yield Setting("memory", "memory.oom.group", "1", needed=False)
        yield Setting("pids", "pids.max", str(limits.processes))
        yield Setting("cpu", "cpu.max", f"{_quota(limits)} {_PERIOD_US}")

    def kill(self) -> bool:
        """cgroup.kill, Linux 5.14."""
        return _can(f"{self.path}/cgroup.kill", "1")

    def freeze(self, frozen: bool) -> bool:
        """cgroup.freeze, Linux 5.2. What is frozen can still be killed."""
        return _can(f"{self.path}/cgroup.freeze", str(int(frozen)))

    def spent(self) -> float:
        """cpu.stat is there without a controller."""
        return self._number("cpu.stat", "usage_usec") / 1e6

    def memory(self) -> int:
        """cgroup-v2.rst, "Memory Interface Files"."""
        return self._number("memory.current") if "memory" in self.controllers else 0

    def weigh(self, share: float) -> None:
        """cgroup-v2.rst, "CPU Interface Files"."""
        _can(f"{self.path}/cpu.weight", str(max(1, round(100 * share))))

    def usage(self) -> Usage:
        """cpu.stat is there without a controller; memory.peak since Linux 5.19."""
        now = self._number("memory.current")
        return Usage(
            now,
            self._number("memory.peak") or now,
            self._number("cpu.stat", "usage_usec") / 1e6,
            self._number("memory.events", "oom_kill"),
            self._number("pids.current"),
        )


def read(path: str) -> str:
    """A file of a group; empty when it, or its group, is not there. Never raises."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    parts: list[bytes] = []
    try:
        while part := os.read(descriptor, _WHOLE):
            parts.append(part)
    except OSError:
        pass  # the group went away in the meantime (ENODEV)
    finally:
        os.close(descriptor)
    return b"".join(parts).decode("ascii", "replace")


def write(path: str, value: str) -> None:
    """Write in one go, as these files want it. Makes no file. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _can(path: str, value: str) -> bool:
    with contextlib.suppress(OSError):
        write(path, value)
        return True
    return False


def _quota(limits: Limits) -> int:
    return max(_LEAST_QUOTA_US, round(limits.cpus * _PERIOD_US))
