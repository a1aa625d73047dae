"""The stdio driver: an unmodified MCP server as a sandboxed child, one JSON-RPC message a line.

One protocol object per child, no task and no queue per message: a chunk from the pipe is split into lines and each
line goes to its call at once; messages to the child are gathered within one turn of the event loop and written
together. The child, and whatever it started, dies as a whole: bubblewrap's pid namespace ends with its first process.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Final, cast

from smcp.kernel import errors, ids
from smcp.runtime import calls, driver
from smcp.sandbox import spawn, walls
from smcp.stores import decided

_WRITE_LIMIT: Final = 8 * 1024 * 1024
"""Bytes that may wait for a child that does not read; then calls are refused, so that our memory stays bounded."""
_STDERR_LINE: Final = 8192
_STDERR_LINES: Final = 500
"""Lines of stderr that are looked at in one chunk; the journal keeps no more a second anyway."""
_BROKEN_PER_S: Final = 500
"""Lines a second that are no messages, above which a child is killed: each costs more than a message, and all tenants
share this loop. A server that prints by mistake stays far below."""


class StdioDriver(driver.Driver):
    """Starts children in the sandbox."""

    def __init__(self, cell: Callable[[driver.Spec], walls.Cell], host: walls.Host, limits: driver.Limits) -> None:
        """`cell` says what a child may see and take; it comes from `app/wire.py`, which knows the settings."""
        self._cell = cell
        self._host = host
        self._limits = limits
        self._children: set[StdioInstance] = set()
        self._budgets: weakref.WeakValueDictionary[ids.TenantId, calls.Budget] = weakref.WeakValueDictionary()
        self._closed = False

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        budget = self._budgets.get(spec.tenant)
        if budget is None:
            budget = self._budgets[spec.tenant] = calls.Budget(self._limits.tenant_buffer_bytes)
        child = StdioInstance(self._limits, lines, self._children.discard, modern=modern, budget=budget)
        with spawn.prepared(self._cell(spec), self._host) as how:
            try:
                # Decided before a cancel is heard: asyncio loses a half-made process.
                await decided.decided(_exec(child, how))
            except OSError as error:
                raise errors.SandboxMissing(detail=f"{how.argv[0]}: {error.strerror}") from error
            except asyncio.CancelledError:
                child.kill()
                raise
        self._children.add(child)
        if self._closed:
            await child.stop("the platform stops")
            raise errors.Unavailable("The platform is stopping.")
        return child

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(child.stop("the platform stops") for child in list(self._children)))


async def _exec(child: "StdioInstance", how: spawn.Prepared) -> None:
    # An empty environment for bubblewrap itself: /proc/1/environ inside would show it.
    await asyncio.get_running_loop().subprocess_exec(
        lambda: _Pipes(child), *how.argv, env={}, pass_fds=how.fds, start_new_session=True
    )


class StdioInstance(driver.Instance):
    """One child."""

    def __init__(
        self,
        limits: driver.Limits,
        lines: driver.Lines,
        gone: "Callable[[StdioInstance], None]",
        *,
        modern: bool,
        budget: calls.Budget,
    ) -> None:
        self._limits = limits
        self.budget = budget
        self._lines = lines
        self._gone = gone
        self._stopping = ""
        self._broken = 0
        self._broken_since = 0.0
        self.silenced = False
        """Killed for what it wrote: nothing more of it is looked at."""
        self._exited = asyncio.Event()
        self._process: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self.calls = calls.Calls(
            modern=modern,
            write=self._write,
            stray=self._stray,
            limit=limits.stream_buffer,
            limit_bytes=limits.max_message_bytes,
            budget=budget,
        )

    @property
    def alive(self) -> bool:
        return not self._stopping and not self._exited.is_set()

    async def stop(self, reason: str) -> None:
        if not self._stopping:
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

    def kill(self) -> None:
        """End it at once, and every process in its sandbox."""
        process = self._process
        if process is not None and process.get_returncode() is None:
            spawn.kill(process.get_pid())

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
        if out and self._stdin is not None and not self._stdin.is_closing():
            out.append(b"")
            self._stdin.write(b"\n".join(out))

    def _stray(self, data: bytes, method: str) -> None:
        if self.owner is not None:
            self.owner.stray(data, method)

    # --- from the pipes ---

    def attached(self, process: asyncio.SubprocessTransport) -> None:
        self._process = process
        self._stdin = cast("asyncio.WriteTransport", process.get_pipe_transport(0))
        self._lines(f"[smcp] started, process {process.get_pid()}")

    def line(self, data: bytes) -> None:
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

    def stderr(self, text: str) -> None:
        self._lines(text)

    def flooded(self) -> None:
        self._silence(
            "a single message was larger than runtime.max_message_bytes, or more waits than runtime.tenant_buffer_bytes"
        )

    def _silence(self, why: str) -> None:
        self._lines(f"[smcp] killed: {why}")
        self._stopping = self._stopping or why
        self.silenced = True
        self.kill()

    def exited(self, code: int | None) -> None:
        reason = self._stopping or f"it ended by itself (exit code {code})"
        self._lines(f"[smcp] ended after {time.monotonic() - self._started:.1f} s: {reason}")
        self._exited.set()
        self._gone(self)
        self.calls.close(errors.ServerFailed("The hosted server ended before it answered.", detail=reason))
        if self.owner is not None:
            self.owner.closed(reason)

    @property
    def max_message(self) -> int:
        """Bytes of one line that are taken."""
        return self._limits.max_message_bytes


class _Pipes(asyncio.SubprocessProtocol):
    """Splits what the pipes bring into lines, without copying more than the unfinished rest."""

    def __init__(self, child: StdioInstance) -> None:
        self._child = child
        self._rest = b""
        self._parts: list[bytes] = []
        self._held = 0
        self._errors = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._child.attached(cast("asyncio.SubprocessTransport", transport))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._stdout(data)
        else:
            self._stderr(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 2 and self._errors:
            self._stderr(b"\n")

    def process_exited(self) -> None:
        """The pipes may still hold data; `connection_lost` comes after them."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop()
        process = self._child._process  # pyright: ignore[reportPrivateUsage] - one pair of classes, one file
        self._child.exited(process.get_returncode() if process else None)

    def _stdout(self, data: bytes) -> None:
        if self._child.silenced:
            return
        if b"\n" not in data:
            self._gather(data)
            return
        lines = data.split(b"\n")
        if self._parts:
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
        """Keep a part of a long message, which comes in many chunks; it is joined once."""
        if self._held + len(data) > self._child.max_message or not self._child.budget.take(len(data)):
            self._drop()
            self._child.flooded()
            return
        self._parts.append(data)
        self._held += len(data)

    def _drop(self) -> None:
        self._child.budget.give(self._held)
        self._parts.clear()
        self._held = 0

    def _stderr(self, data: bytes) -> None:
        lines = (self._errors + data).split(b"\n")
        self._errors = lines.pop()
        if len(self._errors) > _STDERR_LINE:
            lines.append(self._errors)
            self._errors = b""
        if len(lines) > _STDERR_LINES:
            left_out = len(lines) - _STDERR_LINES
            lines[_STDERR_LINES:] = [b"[smcp] %d lines were dropped: too many at once" % left_out]
        for line in lines:
            if line:
                self._child.stderr(line[:_STDERR_LINE].decode("utf-8", "replace"))
