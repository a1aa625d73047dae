"""Cells that carry a volume's content out and in, as one tar stream that the platform never looks into.

The distribution's tar runs in a cell of the volume's tenant, without a network, with nothing in view but /usr and the
volume: read-only to pack, writable to unpack. What a hostile server leaves in its volume, or makes of a stream, can
harm that cell only.

The stream is the same for the same content (GNU tar manual, "Making tar Archives More Reproducible"), so that its
digest tells whether anything changed. Kept are names, modes, times of change, links and holes; not kept are owners
(all files are the tenant's), extended attributes, sockets, and what the owner itself may not read.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Final, Protocol, cast

from smcp.kernel import errors, ids, settings
from smcp.sandbox import pipes, walls

INODE_BYTES: Final = 4096
"""A volume of n bytes has room for about n / INODE_BYTES files; the launcher mounts it so."""

_PLACE: Final = "/volume"
_TAR: Final = "/usr/bin/tar"
_PACK: Final = (
    _TAR,
    "--create",
    "--file=-",
    f"--directory={_PLACE}",
    "--format=posix",
    # Without these, names of headers hold a process id, and each reading changes the times of access.
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--sort=name",
    "--owner=0",
    "--group=0",
    "--numeric-owner",
    # A hole costs nothing in the volume, and must cost nothing in the stream.
    "--sparse",
    # Later versions write a process id into the names of such files.
    "--sparse-version=0.0",
    "--ignore-failed-read",
    ".",
)
_UNPACK: Final = (
    _TAR,
    "--extract",
    "--file=-",
    f"--directory={_PLACE}",
    "--preserve-permissions",
    "--no-same-owner",
)
_ENV: Final = (("PATH", "/usr/bin:/bin"), ("LC_ALL", "C"))
_CHANGED: Final = 1
"""tar's exit code when a file changed while it was read (manual, "Return Values")."""
_CHUNK: Final = 262_144
_ANY_FILE: Final = 2**40
"""The volume itself is the limit: a file may be mostly holes."""
_WINDOW: Final = 1_048_576
_SAID: Final = 16_384
_TIMEOUT_S: Final = 120.0
"""However large a volume is: a tar that takes longer hangs."""
_HEADERS: Final = 3072
"""Bytes of the stream for one file, beside its content: header, extended header, padding."""
_SLACK: Final = 1_048_576


class Child(Protocol):
    """A running cell, as `sandbox.launch` has it."""

    async def wait(self) -> int:
        """Its exit code when it is gone."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    async def freeze(self) -> bool:
        """Stop all its processes where they are; False when this machine can't."""
        ...

    async def thaw(self) -> None:
        """Let them go on."""
        ...


class Launcher(Protocol):
    """What of `sandbox.launch.Launcher` volumes need."""

    async def spawn(self, cell: walls.Cell, *, stdin: int, stdout: int, stderr: int) -> Child:
        """Start a cell with these descriptors, which stay the caller's."""
        ...

    async def open_volume(self, tenant: str, server: str, size: int) -> None:
        """Mount an empty volume."""
        ...

    async def close_volume(self, tenant: str, server: str) -> None:
        """Forget a volume and all that is in it."""
        ...


class Tar:
    """Starts the cells."""

    def __init__(self, launcher: Launcher, limits: settings.Sandbox) -> None:
        self._launcher = launcher
        self._limits = limits

    @contextlib.asynccontextmanager
    async def packing(self, tenant: ids.TenantId, volume: str, size_bytes: int) -> AsyncGenerator["Packing"]:
        """The content of an open volume, while the `with` lasts. Raises `errors.SandboxMissing`."""
        read, write = os.pipe2(os.O_CLOEXEC)
        cell = self._cell(_PACK, tenant, walls.Volume(volume, _PLACE, writable=False))
        async with self._running(cell, ours=read, theirs=write) as run:
            yield Packing(run, await _reader(run.stack, read), 2 * size_bytes + _most_headers(size_bytes))

    async def unpack(self, tenant: ids.TenantId, volume: str, size_bytes: int, data: AsyncIterable[bytes]) -> None:
        """Fill an open, empty volume with what `packing` brought out.

        Raises `errors.ServerFailed` when it does not fit, and what `data` raises; then the content is not whole.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        cell = self._cell(_UNPACK, tenant, walls.Volume(volume, _PLACE, writable=True), size_bytes)
        async with self._running(cell, ours=write, theirs=read) as run:
            feed = await _writer(run.stack, write)
            # The content is read to its end also when tar has ended: whether it is genuine shows there.
            async for chunk in data:
                await feed.write(chunk)
            feed.close()
            code = await run.code()
            if code != 0:
                told = (run.said() or (f"tar ended with {code}",))[0]
                raise errors.ServerFailed(
                    f"The server's volume can't be filled with its last state: {told}. Is it smaller than it was?"
                )

    def _cell(self, argv: tuple[str, ...], tenant: ids.TenantId, volume: walls.Volume, writes: int = 0) -> walls.Cell:
        limits = self._limits
        return walls.Cell(
            argv=argv,
            binds=(),
            tenant=tenant,
            volume=volume,
            env=_ENV,
            # What it writes into the volume counts as its memory.
            memory_bytes=max(limits.memory_bytes, 2 * writes),
            tmp_bytes=limits.tmp_bytes,
            open_files=limits.open_files,
            processes=limits.processes,
            file_bytes=_ANY_FILE,
        )

    @contextlib.asynccontextmanager
    async def _running(self, cell: walls.Cell, *, ours: int, theirs: int) -> AsyncGenerator["_Run"]:
        """`cell` with its end of the stream; it is gone when the `with` is left, however."""
        async with contextlib.AsyncExitStack() as stack:
            packing = cell.argv is _PACK
            read, write = os.pipe2(os.O_CLOEXEC)
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                stdin, stdout = (nothing, theirs) if packing else (theirs, nothing)
                child = await self._launcher.spawn(cell, stdin=stdin, stdout=stdout, stderr=write)
            except BaseException:
                os.close(ours)
                os.close(read)
                raise
            finally:
                for descriptor in (theirs, write, nothing):
                    os.close(descriptor)
            run = _Run(child, stack)
            stack.push_async_callback(run.end)
            run.listen(await _reader(stack, read))
            yield run


class Packing:
    """A volume's content on its way out."""

    def __init__(self, run: "_Run", stream: asyncio.StreamReader, most: int) -> None:
        self._run = run
        self._stream = stream
        self._most = most
        self.torn = False
        """Something changed while it was read. Known at the end of `chunks`."""
        self.unread: tuple[str, ...] = ()
        """What the owner itself may not read, and so is not in it; the first few. Known at the end of `chunks`."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream. Raises `errors.ServerFailed` when it is not whole, or larger than such a volume can be."""
        size = 0
        while chunk := await self._stream.read(_CHUNK):
            size += len(chunk)
            if size > self._most:
                raise errors.ServerFailed("The volume's content is larger than the volume: its files can't be read.")
            yield chunk
        code = await self._run.code()
        said = self._run.said()
        if code not in (0, _CHANGED):
            raise errors.ServerFailed("The volume's content can't be read.", detail=" / ".join(said) or f"code {code}")
        self.torn = code == _CHANGED
        self.unread = tuple(line for line in said if "Warning: Cannot" in line)


class _Run:
    """A running tar."""

    def __init__(self, child: Child, stack: contextlib.AsyncExitStack) -> None:
        self.stack = stack
        self._child = child
        self._ended = asyncio.ensure_future(child.wait())
        self._errors = bytearray()
        self._listening: asyncio.Task[None] | None = None
        self._alarm = asyncio.get_running_loop().call_later(_TIMEOUT_S, child.kill)

    def listen(self, errors_of_it: asyncio.StreamReader) -> None:
        self._listening = asyncio.create_task(self._listen(errors_of_it))

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(4096):
            self._errors += chunk[: max(0, _SAID - len(self._errors))]

    async def code(self) -> int:
        """How it ended."""
        code = await asyncio.shield(self._ended)
        if self._listening is not None:
            await asyncio.shield(self._listening)
        return code

    def said(self) -> tuple[str, ...]:
        """The first lines of its errors, without the common beginning."""
        lines = self._errors.decode("utf-8", "replace").splitlines()
        return tuple(line.removeprefix(f"{_TAR}: ").removeprefix("tar: ")[:300] for line in lines[:10])

    async def end(self) -> None:
        self._alarm.cancel()
        if not self._ended.done():
            self._child.kill()
        await asyncio.gather(self._ended, *([self._listening] if self._listening else []), return_exceptions=True)


class _Feed(asyncio.BaseProtocol):
    """Our end of tar's standard input: writes wait while the pipe is full."""

    def __init__(self) -> None:
        self._free = asyncio.Event()
        self._free.set()
        self._gone = False
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: another event loop's transports are of no class of asyncio's.
        self.transport = cast("asyncio.WriteTransport", transport)

    def pause_writing(self) -> None:
        self._free.clear()

    def resume_writing(self) -> None:
        self._free.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._free.set()

    async def write(self, data: bytes) -> None:
        """Hand on; nothing when tar has ended, whose exit code says why."""
        await self._free.wait()
        if not self._gone and self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """The end of the stream, behind all that was written."""
        if self.transport is not None and not self._gone:
            self.transport.close()

    def abort(self) -> None:
        """The end, whatever is still to be written."""
        if self.transport is not None and not self._gone:
            self.transport.abort()


def _most_headers(size_bytes: int) -> int:
    return (size_bytes // INODE_BYTES + 64) * _HEADERS + _SLACK


async def _reader(stack: contextlib.AsyncExitStack, descriptor: int) -> asyncio.StreamReader:
    stream = asyncio.StreamReader(limit=_WINDOW)
    transport = await pipes.reader(descriptor, lambda: asyncio.StreamReaderProtocol(stream))
    stack.callback(transport.close)
    return stream


async def _writer(stack: contextlib.AsyncExitStack, descriptor: int) -> _Feed:
    _, feed = await pipes.writer(descriptor, _Feed)
    stack.callback(feed.abort)
    return feed
