"""Starting what `walls` describes: the one place that spawns, and `run` for build steps.

bwrap's own arguments go through a memory file (`--args`), so that neither the host's process list nor pid 1 inside
shows the environment and the host's paths. bwrap itself starts with an empty environment (see `walls`).
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from smcp.kernel import errors
from smcp.sandbox import walls
from smcp.stores import decided

_CHUNK: Final = 65536
_LINE: Final = 2000
_TOTAL: Final = 2_097_152
_TAIL: Final = 40
_STOP_S: Final = 0.2
_DEATH_S: Final = 10.0


class Prepared(NamedTuple):
    """How to start a cell: `argv` with an empty environment, `fds` passed on, nothing else inherited."""

    argv: list[str]
    fds: tuple[int, ...]


class Outcome(NamedTuple):
    """How a build step ended."""

    code: int
    tail: tuple[str, ...]
    """The last lines that it wrote."""


@contextlib.contextmanager
def prepared(cell: walls.Cell, host: walls.Host) -> Generator[Prepared]:
    """The command for `cell`; spawn inside the `with`: `exec(*argv, env={}, pass_fds=fds, start_new_session=True)`."""
    parts = walls.parts(cell, host)
    descriptor = os.memfd_create("walls")
    try:
        data = b"".join(os.fsencode(word) + b"\0" for word in parts.options)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield Prepared([*parts.before, "--args", str(descriptor), "--", *cell.argv], (descriptor,))
    finally:
        os.close(descriptor)


def kill(pid: int) -> None:
    """End the sandbox whose command has the process id `pid` (a child of ours that was not waited for), at any moment.

    The first process of the pid namespace is killed itself, and the kernel then ends all others. To kill bwrap alone is
    not enough: in the first milliseconds its child has not asked yet to die with it, and would live on, an orphan.
    """
    with contextlib.suppress(ProcessLookupError):
        # Stopped first, so that it can't start that child just behind our look.
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + _STOP_S
        while _stat(str(pid))[0] not in "TZX" and time.monotonic() < deadline:
            os.sched_yield()
        for child in _children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)


def _stat(name: str) -> tuple[str, int]:
    """State and parent of a process (proc(5), /proc/pid/stat); `X` when it is gone."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b") ")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state.decode(), int(parent)


def _children(pid: int) -> list[int]:
    # /proc/pid/task/tid/children would be quicker, and many kernels lack it (CONFIG_PROC_CHILDREN).
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _stat(name)[1] == pid]


async def run(
    cell: walls.Cell, host: walls.Host, *, timeout_s: float, on_line: Callable[[str], None] | None = None
) -> Outcome:
    """Run a build step to its end and return how it ended; output is cut, `on_line` hears each line.

    Raises `TimeoutError` after `timeout_s`. In any case (timeout, cancel, an error of `on_line`) no process of it is
    left when this returns: the pipe's end, which the last of them holds, is waited for.
    """
    with prepared(cell, host) as how:
        process = await _start(how)
    assert process.stdout is not None
    output = _Output(on_line)
    try:
        async with asyncio.timeout(timeout_s):
            await output.read(process.stdout)
            code = await process.wait()
    finally:
        # Also when it has ended already: the pipe must have been read to its end.
        if process.returncode is None or not process.stdout.at_eof():
            await decided.decided(_end(process, process.stdout))
    return Outcome(code, output.tail)


async def _start(how: Prepared) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *how.argv,
            env={},
            pass_fds=how.fds,
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio loses a half-made process when it is cancelled just then; so it is made whole and ended.
        await asyncio.wait([starting])
        if starting.exception() is None:
            process = starting.result()
            assert process.stdout is not None
            await decided.decided(_end(process, process.stdout))
        raise
    except OSError as error:
        raise errors.SandboxMissing(detail=f"{how.argv[0]}: {error.strerror}") from error


async def _end(process: asyncio.subprocess.Process, stdout: asyncio.StreamReader) -> None:
    if process.returncode is None:
        kill(process.pid)
    await process.wait()
    # A process that the kernel can't end (a hung disk) must not hang the platform as well.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DEATH_S):
            while await stdout.read(_CHUNK):
                pass


class _Output:
    """Splits what comes into lines, keeps the last ones, and never grows."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._seen = 0
        self._rest = b""
        self._lines: list[str] = []

    @property
    def tail(self) -> tuple[str, ...]:
        return tuple(self._lines)

    async def read(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(_CHUNK):
            self._seen += len(chunk)
            if self._seen > _TOTAL:
                continue
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > _LINE:
                lines.append(self._rest)
                self._rest = b""
            for line in lines:
                self._take(line)
        if self._rest:
            self._take(self._rest)

    def _take(self, line: bytes) -> None:
        text = line[:_LINE].decode("utf-8", "replace").rstrip()
        if text:
            self._lines = [*self._lines[1 - _TAIL :], text]
            if self._on_line is not None:
                self._on_line(text)
