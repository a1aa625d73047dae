"""Where the platform's processor time goes while calls come in: py-spy's samples, by function and by room.

py-spy reads the process's memory from the load's core, so that nothing of what is measured has to change; while it
samples, calls are slower. Only the event loop's thread is looked at: whether another one works or waits can't be seen
everywhere from outside, so theirs is told as a sum, from /proc. Time of C code counts for the Python function that
called it, unless the samples are taken with native frames (`--native`), which costs much more and shows libraries too.
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

from bench import cores, load

_RATE: Final = 500
_MAIN: Final = "MainThread"
_FRAME: Final = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)$")
_ROOM: Final = re.compile(r"/smcp/(\w+)(?:/|\.py$)")
_PACKAGE: Final = re.compile(r"/(?:site|dist)-packages/(\w+)")


class Frame(NamedTuple):
    """One function of a stack."""

    name: str
    file: str

    @property
    def group(self) -> str:
        """Whose it is: `smcp.<room>`, a package's name, `stdlib`, or `native` for what is no Python file."""
        if found := _ROOM.search(self.file):
            return f"smcp.{found[1]}"
        if found := _PACKAGE.search(self.file):
            return found[1]
        return "stdlib" if self.file.endswith(".py") else "native"

    @property
    def place(self) -> str:
        """The file, short enough for a table."""
        return "/".join(pathlib.PurePath(self.file).parts[-2:])


class Line(NamedTuple):
    """A function or a group, as shares of all samples."""

    name: str
    own: float
    """Samples in which it was the innermost."""
    total: float
    """Samples in which it was anywhere on the stack."""


class Profile(NamedTuple):
    """What one profile found."""

    samples: int
    groups: Sequence[Line]
    functions: Sequence[Line]
    loop_us: float
    """Of the event loop's thread, a call."""
    others_us: float
    """Of all other threads together, a call."""
    per_second: float


def fold(stacks: Iterable[tuple[Sequence[Frame], int]]) -> tuple[int, list[Line], list[Line]]:
    """All samples, and the lines of groups and of functions, most own time first."""
    count = 0
    tables: tuple[_Counts, _Counts] = (_Counts(), _Counts())
    for frames, samples in stacks:
        count += samples
        for table, names in zip(tables, ([f.group for f in frames], [_function(f) for f in frames]), strict=True):
            table.own[names[-1]] += samples
            for name in set(names):
                table.total[name] += samples
    groups, functions = (table.lines(count) for table in tables)
    return count, groups, functions


class _Counts:
    def __init__(self) -> None:
        self.own: collections.Counter[str] = collections.Counter()
        self.total: collections.Counter[str] = collections.Counter()

    def lines(self, count: int) -> list[Line]:
        found = [Line(name, self.own[name] / count, total / count) for name, total in self.total.items()]
        return sorted(found, key=lambda line: (-line.own, -line.total))


def _function(frame: Frame) -> str:
    return f"{frame.name} ({frame.place})"


def read(folded: str) -> list[tuple[list[Frame], int]]:
    """The main thread's stacks in py-spy's raw format: frames from the outermost, `;` between them, and how often."""
    found: list[tuple[list[Frame], int]] = []
    for line in folded.splitlines():
        stack, _, samples = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if _MAIN in thread and frames:
            found.append(([_frame(text) for text in frames], int(samples)))
    return found


def _frame(text: str) -> Frame:
    found = _FRAME.match(text)
    return Frame(found["name"], found["file"]) if found else Frame(text, "")


def profile(pid: int, target: load.Target, connections: int, seconds: float, *, native: bool) -> Profile:
    """Sample the process `pid` while `target` is under load. Raises RuntimeError when an answer is wrong."""
    with tempfile.TemporaryDirectory(prefix="smcp-profile-") as directory:
        out = pathlib.Path(directory) / "folded"
        spy = pathlib.Path(sys.executable).with_name("py-spy")
        argv = [str(spy), "record", "--pid", str(pid), "--format", "raw", "--output", str(out), "--function"]
        argv += ["--full-filenames", "--threads", "--rate", str(_RATE), "--duration", str(max(1, round(seconds)))]
        loop: list[float] = []

        def cpu() -> float:
            loop.append(cores.thread_us(pid, pid))
            return cores.cpu_us({pid})

        process = subprocess.Popen(
            [*argv, *(["--native"] if native else [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            sample = uvloop.run(load.measure(target, connections, 0.5, seconds, cpu))
            said, _ = process.communicate(timeout=60 + seconds)
        finally:
            process.kill()
            process.wait()
        if not out.exists():
            raise RuntimeError(f"py-spy found nothing: {said[-1000:]}")
        count, groups, functions = fold(read(out.read_text("utf-8")))
    loop_us = (loop[-1] - loop[0]) / sample.calls
    return Profile(count, groups, functions, loop_us, sample.cpu_us - loop_us, sample.per_second)


def show(name: str, found: Profile, top: int = 45) -> None:
    """Print the groups and the functions with the most own time."""
    console = Console(width=max(110, os.get_terminal_size().columns if sys.stdout.isatty() else 110))
    console.print(
        f"[bold]{name}[/bold]: {found.per_second:,.0f} calls/s while being sampled; each takes {found.loop_us:.0f} µs"
        f" of the event loop's thread and {found.others_us:.0f} µs of the others; {found.samples:,} samples",
        highlight=False,
    )
    for title, lines in (("room or package", found.groups[:16]), ("function", found.functions[:top])):
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(title, overflow="fold")
        for column in ("own", "own µs a call", "with callees"):
            table.add_column(column, justify="right", no_wrap=True)
        for line in lines:
            table.add_row(line.name, f"{line.own:.1%}", f"{line.own * found.loop_us:.1f}", f"{line.total:.1%}")
        console.print(table, markup=False)
