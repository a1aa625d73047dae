"""One workerd in one cell: started, asked from time to time whether it is there, ended.

Its isolates answer on sockets that the platform made and listens on for it: what is sent before it is up waits in the
kernel. A loop in one isolate stops them all, and nothing inside ends it: so an isolate of the platform's own is asked a
question that takes no time, and a process that does not answer it in time is killed as a whole.
"""

import asyncio
import functools
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from smcp.kernel import errors
from smcp.runtime.drivers.workerd import logs
from smcp.sandbox import launch, pipes, walls
from smcp.sandbox.launcher import messages

_ASK_S: Final = 2.0
"""Time between two questions."""
_STEPS: Final = 10
"""In which the answer is waited for, and looked for before each: a machine that stood still loses one of them, however
long that was, and not all of its tenants' processes."""
_DRAIN_S: Final = 2.0
"""Seconds after its end in which its pipes are read to theirs."""
_CONTROL: Final = 65_536
_QUESTION: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_FIRST: Final = 3
"""The number of the first descriptor that it is handed: where it says that it listens."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    start_s: float
    """For it to be up."""
    answer_s: float
    """For it to answer the question whether it is there, before it is killed."""
    gone_s: float = 1.0
    """From the break of a connection until the word that it is gone, which says why; where none comes, it is there."""


class Process:
    """One workerd."""

    def __init__(
        self,
        patience: Patience,
        marks: Mapping[str, int],
        told: logs.Told,
        note: Callable[[str], None],
        gone: "Callable[[Process, str], None]",
    ) -> None:
        """`marks`: its isolates' numbers by what their lines begin with. `told` gets their lines, `note` the
        platform's own. `gone` hears why it has ended, once."""
        self._patience = patience
        self._note = note
        self._gone = gone
        self.lines = logs.Lines(dict(marks), told)
        self.child: launch.Child | None = None
        self.ended = asyncio.Event()
        self.reason = ""
        self._ready = asyncio.Event()
        self._stopping = ""
        self._watch: asyncio.Task[None] | None = None
        self._readers: list[asyncio.ReadTransport] = []
        self._open = 0
        self._exit: messages.Exited | None = None
        self._started = time.monotonic()
        self._health = ""
        self._poll = select.poll()
        """Of the sockets that it answers on, which are the platform's too."""

    async def begin(
        self,
        launcher: launch.Launcher,
        cell: walls.Cell,
        text: bytes,
        sockets: Mapping[str, socket.socket],
        health: str,
    ) -> None:
        """Start it; returns when it has a process. `cell` lacks its arguments for sockets: they are added here, by
        name. `health` is where its health is asked. The sockets stay the caller's.

        Raises `errors.SandboxMissing`; then, and when cancelled, nothing is left.
        """
        self._health = health
        for one in sockets.values():
            self._poll.register(one, select.POLLRDHUP)
        plan = launch.memory("workerd", text)
        control, write = os.pipe2(os.O_CLOEXEC)
        theirs = [plan, write]
        try:
            self._readers.append(await pipes.reader(control, functools.partial(_Pipe, self._control, None)))
            for _ in range(2):
                read, end = os.pipe2(os.O_CLOEXEC)
                theirs.append(end)
                self._open += 1
                self._readers.append(await pipes.reader(read, functools.partial(_Pipe, self.lines.feed, self._lost)))
            handed = [write, *(one.fileno() for one in sockets.values())]
            self.child = await launcher.spawn(
                msgspec.structs.replace(cell, argv=_argv(cell.argv[0], sockets), handed=len(handed)),
                stdin=plan,
                stdout=theirs[2],
                stderr=theirs[3],
                handed=handed,
            )
        except BaseException:
            for transport in self._readers:
                transport.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.child.exited.add_done_callback(self._exited)
        self._watch = asyncio.create_task(self._watch_on(), name="workerd health")

    async def ready(self) -> None:
        """Return when it answers. Raises `errors.ServerFailed` when it ends before, or does not come."""
        waiting = [asyncio.create_task(one.wait()) for one in (self._ready, self.ended)]
        try:
            await asyncio.wait(waiting, timeout=self._patience.start_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self.ended.is_set():
            raise errors.ServerFailed("The hosted server ended before it answered.", detail=self.reason)
        if not self._ready.is_set():
            raise errors.ServerTimeout("The hosted server did not start in time.")

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    @property
    def alive(self) -> bool:
        """It runs, and has not been told to end."""
        return not self._stopping and not self.ended.is_set()

    async def stop(self, reason: str) -> None:
        """Kill it, and return when nothing of it is left: who calls this has seen to it that it has nothing to do.
        Idempotent."""
        self.kill(reason)
        await self.ended.wait()

    def kill(self, reason: str) -> None:
        """End it at once, and every process in its cell."""
        self._stopping = self._stopping or reason
        if self.child is not None:
            self.child.kill()

    # --- is it there? ---

    async def _watch_on(self) -> None:
        # Before it is up, `ready` has the patience.
        await self._ready.wait()
        while self.alive:
            if self._poll.poll(0):
                # Who shuts a socket down does so for all who have it (shutdown(2)): it refuses from then on, for ever.
                self._note("killed: it has closed a socket that it is to answer on")
                self.kill("it does not listen any more")
                return
            try:
                answered = await self._answers()
            except OSError:
                answered = True  # it is ending, and its end is told by who waits for it
            if not answered and self.alive:
                self._note(f"killed: it did not answer for {self._patience.answer_s:g} s")
                self.kill("it did not answer any more")
            await asyncio.sleep(_ASK_S)

    async def _answers(self) -> bool:
        """Does it answer in time? Raises OSError as `_ask`."""
        asking = asyncio.create_task(self._ask(), name="workerd question")
        try:
            for _ in range(_STEPS):
                done, _ = await asyncio.wait((asking,), timeout=self._patience.answer_s / _STEPS)
                if done:
                    asking.result()
                    return True
            return False
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self) -> None:
        """Raises OSError where nobody answers."""
        reader, writer = await asyncio.open_unix_connection(self._health, limit=_CONTROL)
        try:
            writer.write(_QUESTION)
            await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionResetError from error
        finally:
            writer.close()

    # --- its end ---

    def _control(self, data: bytes) -> None:
        # The events of all sockets come together, when all isolates stand.
        if b'"listen"' in data:
            self._ready.set()

    def _lost(self) -> None:
        self._open -= 1
        self._finish()

    def _exited(self, ended: "asyncio.Future[messages.Exited]") -> None:
        self._exit = ended.result()
        self._finish()
        if self._open > 0:
            asyncio.get_running_loop().call_later(_DRAIN_S, self._overdue)

    def _overdue(self) -> None:
        self._open = 0
        self._finish()

    def _finish(self) -> None:
        if self._open or self._exit is None or self.ended.is_set():
            return
        self.lines.end()
        for transport in self._readers:
            transport.close()
        if self._watch is not None:
            self._watch.cancel()
        exit_ = self._exit
        how = (
            "it took more memory than sandbox.memory_bytes, or its plan, allows"
            if exit_.out_of_memory
            else f"exit code {exit_.code}"
        )
        self.reason = self._stopping or f"it ended by itself ({how})"
        self.ended.set()
        self._gone(self, self.reason)


def _argv(program: str, sockets: Mapping[str, socket.socket]) -> tuple[str, ...]:
    """Its command. What it is told comes on its standard input: no argument, and no file that is still there later.

    `--verbose` for the stacks of exceptions, which are told at the level `info`."""
    numbered = (f"--socket-fd={name}={number}" for number, name in enumerate(sockets, _FIRST + 1))
    where = (f"--control-fd={_FIRST}", *numbered)
    return (program, "serve", "--verbose", "--import-path=/", *where, "/dev/stdin", "config")


class _Pipe(asyncio.Protocol):
    """The end of one pipe."""

    def __init__(self, take: Callable[[bytes], None], lost: Callable[[], None] | None) -> None:
        self._take = take
        self._lost = lost

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is not None:
            self._lost()
