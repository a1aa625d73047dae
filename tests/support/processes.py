"""Which processes and mounts belong to a platform under test, so that a test can show that none is left."""

import os
import pathlib
import select
import time
from collections.abc import Iterator
from typing import NamedTuple

_PROC = pathlib.Path("/proc")


class Process(NamedTuple):
    """A process that can't be mistaken for a later one with the same id."""

    pid: int
    started: int
    command: str


def descendants(pid: int) -> set[Process]:
    """The process `pid` and everything below it."""
    table = {process.pid: (parent, process) for parent, process in _all()}
    found = {table[pid][1]} if pid in table else set[Process]()
    grown = True
    while grown:
        known = {process.pid for process in found}
        grown = False
        for parent, process in table.values():
            if parent in known and process not in found:
                found.add(process)
                grown = True
    return found


def alive(processes: set[Process]) -> set[Process]:
    """Those of `processes` that still run."""
    return processes & {process for _, process in _all()}


def left(processes: set[Process], within_s: float) -> set[Process]:
    """Those of `processes` that still run after `within_s` seconds; returns as soon as none does.

    For a family whose head was killed: the kernel ends the others in its own time.
    """
    deadline = time.monotonic() + within_s
    for process in alive(processes):
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            # Not select(2), which takes no descriptor above 1023.
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            ended.poll(1000.0 * max(0.0, deadline - time.monotonic()))
        finally:
            os.close(handle)
    return alive(processes)


def naming(text: str) -> set[Process]:
    """Every process whose command line holds `text`."""
    return {process for _, process in _all() if text in process.command}


def mounts(below: pathlib.Path) -> list[str]:
    """The mount points of this mount namespace that are in the folder `below`."""
    lines = (_PROC / "self" / "mountinfo").read_text("utf-8").splitlines()
    return [point for line in lines if (point := line.split()[4]).startswith(f"{below}/")]


def _all() -> Iterator[tuple[int, Process]]:
    """Each running process with its parent's id. Zombies run nothing any more and are left out."""
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text("utf-8", "replace")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the listing and the reading
        # proc(5): the name in parentheses may hold anything, so fields are counted after the last one.
        fields = stat.rpartition(")")[2].split()
        if fields[0] != "Z":
            yield int(fields[1]), Process(int(folder.name), int(fields[19]), command)
