"""Build steps: run a cell to its end and hear what it says."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Final, NamedTuple

from smcp.sandbox import egress, launch, pipes, walls
from smcp.stores import decided

_CHUNK: Final = 65536
_LINE: Final = 2000
_TOTAL: Final = 2_097_152
_TAIL: Final = 40


class Outcome(NamedTuple):
    """How a build step ended."""

    code: int
    tail: tuple[str, ...]
    """The last lines that it wrote."""
    out_of_memory: bool = False


async def run(
    cell: walls.Cell,
    launcher: launch.Launcher,
    *,
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
    answer: Callable[[list[socket.socket]], egress.Attachment] | None = None,
) -> Outcome:
    """Run a build step to its end and return how it ended; output is cut, `on_line` hears each line.

    `answer` serves the sockets of its network, if it has one. What it may write belongs to its uid meanwhile, and to
    the platform again afterwards.

    Raises `TimeoutError` after `timeout_s`, `errors.SandboxMissing` when it does not start. In any case (timeout,
    cancel, an error of `on_line`) no process of it is left when this returns.
    """
    output = _Output(on_line)
    own = [bind.source for bind in cell.binds if bind.writable]
    for path in own:
        await launcher.own(path, cell.tenant)
    try:
        return await _ran(cell, launcher, output, timeout_s, answer)
    finally:
        for path in own:
            await decided.decided(launcher.own(path, None))


async def _ran(
    cell: walls.Cell,
    launcher: launch.Launcher,
    output: "_Output",
    timeout_s: float,
    answer: Callable[[list[socket.socket]], egress.Attachment] | None,
) -> Outcome:
    attachment = None
    async with _pipe() as (reader, write):
        child = await _spawned(cell, launcher, write)
        try:
            if answer is not None and child.sockets:
                attachment = answer(child.sockets)
            async with asyncio.timeout(timeout_s):
                await output.read(reader)
                await child.wait()
        finally:
            child.kill()
            await decided.decided(child.wait())
            if attachment is not None:
                attachment.close()
            else:
                for one in child.sockets:
                    one.close()
    ended = child.exited.result()
    return Outcome(ended.code, output.tail, ended.out_of_memory)


async def _spawned(cell: walls.Cell, launcher: launch.Launcher, write: int) -> launch.Child:
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return await launcher.spawn(cell, stdin=nothing, stdout=write, stderr=write)
    finally:
        os.close(nothing)
        os.close(write)


@contextlib.asynccontextmanager
async def _pipe() -> AsyncGenerator[tuple[asyncio.StreamReader, int]]:
    """A reader, and the other end, which whoever gets it closes."""
    read, write = os.pipe2(os.O_CLOEXEC)
    reader = asyncio.StreamReader(limit=_CHUNK)
    transport = await pipes.reader(read, lambda: asyncio.StreamReaderProtocol(reader))
    try:
        yield reader, write
    finally:
        transport.close()


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
