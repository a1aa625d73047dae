"""The stdio driver: an unmodified MCP server as a sandboxed child, one JSON-RPC message a line.

One protocol object per child, no task and no queue per message: a chunk from the pipe is split into lines and each
line goes to its call at once; messages to the child are gathered within one turn of the event loop and written
together. The child, and whatever it started, dies as a whole: bubblewrap's pid namespace ends with its first process.
"""

import asyncio
import functools
import os
import socket
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime import budgets, calls, checks, driver, spool
from smcp.sandbox import egress, launch, pipes, walls
from smcp.sandbox.launcher import messages
from smcp.sandbox.volumes import keeper

_WRITE_LIMIT: Final = 8 * 1024 * 1024
"""Bytes that may wait for a child that does not read; then calls are refused, so that our memory stays bounded."""
_STDERR_LINE: Final = 8192
_STDERR_LINES: Final = 500
"""Lines of stderr that are looked at in one chunk; the journal keeps no more a second anyway."""
_BROKEN_PER_S: Final = 500
"""Lines a second that are no messages, above which a child is killed: each costs more than a message, and all tenants
share this loop. A server that prints by mistake stays far below."""
_DRAIN_S: Final = 2.0
"""Seconds after its end in which a child's pipes are read to theirs."""
_ON_DISK: Final = 8
"""How many times as much of a tenant may wait on disk as in memory."""


class Checked(Protocol):
    """Makes the checks of a copy's messages."""

    def __call__(self, spec: driver.Spec, note: Callable[[str], None], /, *, modern: bool) -> checks.Checks:
        """`note` writes a line into the server's log."""
        ...


class StdioDriver(driver.Driver):
    """Starts children in the sandbox."""

    def __init__(
        self,
        cell: Callable[[driver.Spec], walls.Cell],
        launcher: launch.Launcher,
        limits: driver.Limits,
        spools: spool.Spools,
        volumes: keeper.Volumes | None = None,
        reach: egress.Egress | None = None,
        checked: Checked | None = None,
    ) -> None:
        """`cell` says what a child may see and take; it comes from `app/hosting.py`, which knows the settings.

        `spools` takes lines that are too large for memory; it is closed with the driver. `checked` says what of a
        copy's messages is valid; without it all of them are.
        """
        self._checked = checked
        self._volumes = volumes
        self._egress = reach
        self._cell = cell
        self._launcher = launcher
        self._limits = limits
        self._spools = spools
        self._children: set[StdioInstance] = set()
        self._budgets: weakref.WeakValueDictionary[ids.TenantId, budgets.Budget] = weakref.WeakValueDictionary()
        self._disks: weakref.WeakValueDictionary[ids.TenantId, budgets.Budget] = weakref.WeakValueDictionary()
        self._closed = False

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        budget = self._budgets.get(spec.tenant)
        if budget is None:
            budget = self._budgets[spec.tenant] = budgets.Budget(self._limits.tenant_buffer_bytes)
        child = StdioInstance(
            self._limits,
            lines,
            self._children.discard,
            modern=modern,
            budget=budget,
            spools=self._spool(spec.tenant),
            checked=None if self._checked is None else functools.partial(self._checked, spec, modern=modern),
        )
        if spec.volume is not None and self._volumes is not None:
            child.hold = await self._volumes.acquire(spec.tenant, spec.server, spec.volume, lines)
            spec = msgspec.structs.replace(spec, mount=child.hold.volume)
        try:
            await child.begin(self._launcher, self._cell(spec))
        except BaseException:
            if child.hold is not None:
                child.hold.release()
            raise
        if self._egress is not None and child.sockets:
            child.attachment = self._egress.attach(child.sockets, spec.egress, lines, tenant=spec.tenant)
        self._children.add(child)
        if self._closed:
            await child.stop("the platform stops")
            raise errors.Unavailable("The platform is stopping.")
        return child

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(child.stop("the platform stops") for child in list(self._children)))
        await asyncio.to_thread(self._spools.close)

    def _spool(self, tenant: ids.TenantId) -> Callable[[], spool.Spool]:
        """Makes spools that count against what the tenant may have on disk."""
        disk = self._disks.get(tenant)
        if disk is None:
            disk = self._disks[tenant] = budgets.Budget(self._limits.tenant_buffer_bytes * _ON_DISK)
        return functools.partial(self._spools.open, disk.take, disk.give)


class StdioInstance(driver.Instance):
    """One child."""

    def __init__(
        self,
        limits: driver.Limits,
        lines: driver.Lines,
        gone: "Callable[[StdioInstance], None]",
        *,
        modern: bool,
        budget: budgets.Budget,
        spools: Callable[[], spool.Spool],
        checked: Callable[[Callable[[str], None]], checks.Checks] | None = None,
    ) -> None:
        self._limits = limits
        self.budget = budget
        self.spools = spools
        self._lines = lines
        self._gone = gone
        self._stopping = ""
        self._by_itself = False
        self._broken = 0
        self._broken_since = 0.0
        self.hold: keeper.Hold | None = None
        """Its use of the server's volume."""
        self.sockets: list[socket.socket] = []
        """Those of its own network."""
        self.silenced = False
        """Killed for what it wrote: nothing more of it is looked at."""
        self._exited = asyncio.Event()
        self._stdin: asyncio.WriteTransport | None = None
        self._ends: _Pipes | None = None
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self.calls = calls.Calls(
            modern=modern,
            write=self._write,
            stray=self._stray,
            limit=limits.stream_buffer,
            limit_bytes=min(limits.max_message_bytes, spool.IN_MEMORY),
            budget=budget,
            checked=None if checked is None else checked(self.note),
        )

    async def begin(self, launcher: launch.Launcher, cell: walls.Cell) -> None:
        """Start the child. Raises `errors.SandboxMissing`; then, and when cancelled, nothing of it is left."""
        ends = _Pipes(self)
        theirs = await ends.open()
        try:
            self.process = await launcher.spawn(cell, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2])
        except BaseException:
            ends.abort()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._stdin = ends.stdin
        self._ends = ends
        self.sockets = self.process.sockets
        if self.hold is not None:
            self.hold.started(self.process)
        self._lines(f"[smcp] started, process {self.process.pid}")
        self.process.exited.add_done_callback(ends.exited)

    @property
    def alive(self) -> bool:
        # Its input breaks a moment before its end is told: a call that is given to it then would be lost for nothing.
        deaf = self._stdin is not None and self._stdin.is_closing()
        return not (deaf or self._stopping or self._exited.is_set())

    async def stop(self, reason: str) -> None:
        if not self._stopping:
            # Its input broke before it was asked: it is ending already, and its log is to say so.
            self._by_itself = self._stdin is not None and self._stdin.is_closing()
            self._stopping = reason
            if self._stdin is not None:
                self._flush()
                # The end of its input asks a stdio server to end (MCP, "Lifecycle: Shutdown").
                self._stdin.close()
        if not self._exited.is_set():
            try:
                async with asyncio.timeout(self._limits.stop_grace_s):
                    await self._exited.wait()
            except TimeoutError:
                self.kill()
                await self._exited.wait()

    def brake(self, on: bool) -> None:
        if self._ends is not None:
            self._ends.pause(on)

    def kill(self) -> None:
        """End it at once, and every process in its sandbox."""
        if self.process is not None:
            self.process.kill()

    def _write(self, message: bytes) -> None:
        stdin = self._stdin
        if stdin is None or stdin.is_closing():
            raise errors.ServerFailed("The hosted server has ended.")
        if stdin.get_write_buffer_size() > _WRITE_LIMIT:
            raise errors.ServerFailed("The hosted server does not read its input.")
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(message)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.hold is not None:
            self.hold.active = True
        if out and self._stdin is not None and not self._stdin.is_closing():
            out.append(b"")
            self._stdin.write(b"\n".join(out))
        elif out:
            self.calls.unsent(out)

    def _stray(self, data: bytes, method: str) -> None:
        if self.owner is not None:
            self.owner.stray(data, method)

    # --- from the pipes ---

    def line(self, data: bytes) -> None:
        if self.hold is not None:
            self.hold.active = True
        try:
            self.calls.received(data)
        except errors.ParseError as error:
            self._lines(f"[smcp] ignored a message: {error.public} {data[:200].decode('utf-8', 'replace')}")
            now = self._loop.time()
            if now - self._broken_since >= 1.0:
                self._broken_since, self._broken = now, 0
            self._broken += 1
            if self._broken > _BROKEN_PER_S:
                self._silence(f"it wrote more than {_BROKEN_PER_S} lines a second that are no messages")

    def kept(self, line: spool.Line) -> None:
        """A line that was too large for memory has come whole."""
        if self.hold is not None:
            self.hold.active = True
        if isinstance(line.found, tuple):
            self.calls.spooled(*line.found)
            return
        size = line.spool.size
        line.drop()
        if line.found is None:
            # Whose call it was cannot be told: all of them must hear that something is lost.
            self._silence(f"a message of {size} bytes was lost: {line.failure or 'it is no result, and too large'}")
        else:
            self.line(line.found)

    def stderr(self, text: str) -> None:
        # What begins so is the platform's word, and nobody else's.
        self._lines(f" {text}" if text.startswith("[smcp]") else text)

    def note(self, text: str) -> None:
        """A word of the platform's own about it."""
        self._lines(f"[smcp] {text}")

    def flooded(self) -> None:
        self._silence(
            "a single message was larger than runtime.max_message_bytes, or more waits than runtime.tenant_buffer_bytes"
        )

    def _silence(self, why: str) -> None:
        self._lines(f"[smcp] killed: {why}")
        self._stopping = self._stopping or why
        self.silenced = True
        self.kill()

    def exited(self, ended: messages.Exited) -> None:
        how = "it took more memory than sandbox.memory_bytes" if ended.out_of_memory else f"exit code {ended.code}"
        by_itself = self._by_itself or not self._stopping
        reason = f"it ended by itself ({how})" if by_itself else self._stopping
        self._lines(f"[smcp] ended after {time.monotonic() - self._started:.1f} s: {reason}")
        if self.hold is not None:
            # Before anybody hears of the end: who waits for it may delete or restore the volume next.
            self.hold.release()
        if self.attachment is not None:
            self.attachment.close()
        self._exited.set()
        self._gone(self)
        self.calls.close(errors.ServerFailed("The hosted server ended before it answered.", detail=reason))
        if self.owner is not None:
            self.owner.closed(reason)

    @property
    def max_message(self) -> int:
        """Bytes of one line that are taken."""
        return self._limits.max_message_bytes


class _Pipes:
    """Splits what the pipes bring into lines, without copying more than the unfinished rest."""

    def __init__(self, child: StdioInstance) -> None:
        self._child = child
        self._rest = b""
        self._parts: list[bytes] = []
        self._held = 0
        self._errors = b""
        self._open = 2
        self._ended: messages.Exited | None = None
        self._readers: list[asyncio.ReadTransport] = []
        self._large: spool.Line | None = None
        """The unfinished line, when it is too large for memory."""
        self._keeping: set[spool.Line] = set()
        """Finished ones that are on their way to disk."""
        self._full = 0
        """How many lines wait for the disk."""
        self.stdin: asyncio.WriteTransport | None = None

    async def open(self) -> tuple[int, int, int]:
        """Make the pipes; returns the child's ends, which the caller closes."""
        theirs: list[int] = []
        try:
            read, write = os.pipe2(os.O_CLOEXEC)
            theirs.append(read)
            self.stdin, _ = await pipes.writer(write, asyncio.BaseProtocol)
            for take in (self.stdout, self.stderr):
                read, write = os.pipe2(os.O_CLOEXEC)
                theirs.append(write)
                self._readers.append(await pipes.reader(read, functools.partial(_Reader, take, self._lost)))
        except BaseException:
            for descriptor in theirs:
                os.close(descriptor)
            self.abort()
            raise
        return theirs[0], theirs[1], theirs[2]

    def abort(self) -> None:
        """Close this side, when there is no child."""
        for transport in (self.stdin, *self._readers):
            if transport is not None:
                transport.close()

    def exited(self, ended: "asyncio.Future[messages.Exited]") -> None:
        """Every process is gone; the pipes may still hold data, and end behind it."""
        self._ended = ended.result()
        self._finish()
        if self._open > 0:
            asyncio.get_running_loop().call_later(_DRAIN_S, self._overdue)

    def _overdue(self) -> None:
        # Another cell holds an end, given away over a socket in their volume: nobody waits for what that one writes.
        if self._full:
            asyncio.get_running_loop().call_later(_DRAIN_S, self._overdue)
        elif self._open > 0:
            self._open = 0
            self._finish()

    def _lost(self) -> None:
        self._open -= 1
        self._finish()

    def _finish(self) -> None:
        if self._open or self._ended is None or self._keeping:
            return
        if self._errors:
            self.stderr(b"\n")
        self._drop()
        self.abort()
        self._child.exited(self._ended)

    def stdout(self, data: bytes) -> None:
        """What came from the child's standard output."""
        if self._child.silenced:
            return
        if b"\n" not in data:
            self._gather(data)
            return
        lines = data.split(b"\n")
        if self._large is not None:
            self._end_large(lines.pop(0))
        elif self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._drop()
        rest = lines.pop()
        if rest:
            self._gather(rest)
        for line in lines:
            if line and not line.isspace():
                self._child.line(line)
                if self._child.silenced:
                    return

    def _gather(self, data: bytes) -> None:
        """Keep a part of a long message, which comes in many chunks: in memory, where it is joined once, or on disk."""
        if self._held + len(data) > self._child.max_message:
            self._flooded()
        elif self._large is not None:
            self._held += len(data)
            if not self._large.feed(data):
                self._flooded()
        elif self._child.budget.take(len(data)):
            self._parts.append(data)
            self._held += len(data)
            if self._held > spool.LARGE:
                self._begin_large()
        else:
            self._flooded()

    def _begin_large(self) -> None:
        parts, size = list(self._parts), self._held
        self._drop()
        self._large, self._held = spool.Line(self._child.spools(), self.pause, self._kept), size
        if not self._large.feed(b"".join(parts)):
            self._flooded()

    def _end_large(self, rest: bytes) -> None:
        self._gather(rest)
        line, self._large, self._held = self._large, None, 0
        if line is not None:
            self._keeping.add(line)
            line.end()

    def _kept(self, line: spool.Line) -> None:
        self._keeping.discard(line)
        if self._child.silenced:
            line.drop()
        else:
            self._child.kept(line)
        self._finish()

    def pause(self, full: bool) -> None:
        """Its output waits for something more; or for one thing less."""
        before, self._full = self._full, self._full + (1 if full else -1)
        stdout = self._readers[0]
        if bool(before) != bool(self._full) and not stdout.is_closing():
            (stdout.pause_reading if full else stdout.resume_reading)()

    def _flooded(self) -> None:
        self._drop()
        self._child.flooded()

    def _drop(self) -> None:
        if self._large is not None:
            self._large.drop()
            self._large = None
        elif self._held:
            self._child.budget.give(self._held)
        self._parts.clear()
        self._held = 0

    def stderr(self, data: bytes) -> None:
        """What came from its standard error."""
        lines = (self._errors + data).split(b"\n")
        self._errors = lines.pop()
        if len(self._errors) > _STDERR_LINE:
            lines.append(self._errors)
            self._errors = b""
        for line in lines[:_STDERR_LINES]:
            if line:
                self._child.stderr(line[:_STDERR_LINE].decode("utf-8", "replace"))
        if len(lines) > _STDERR_LINES:
            self._child.note(f"{len(lines) - _STDERR_LINES} lines were dropped: too many at once")


class _Reader(asyncio.Protocol):
    """The end of one pipe."""

    def __init__(self, take: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._take = take
        self._lost = lost

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
