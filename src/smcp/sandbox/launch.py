"""The platform's end of the launcher: cells as awaitable children, over one socket.

One launcher serves one platform. When its socket ends, every cell has ended too (the kernel sees to it), and so does
everything here: each child is told as killed, and nothing new starts.
"""

import asyncio
import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final, Self

import msgspec

from smcp.kernel import errors
from smcp.sandbox import walls
from smcp.sandbox.launcher import linux, messages
from smcp.stores import decided

_READY_S: Final = 60.0
_END_S: Final = 30.0
_SOCKETS: Final = 64


def process(house: messages.House) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start the launcher of `house`: the process, and the socket to talk to it (inheritable by whoever is given it)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    plan = memory("house", msgspec.json.encode(house))
    try:
        started = subprocess.Popen(
            # -I: no variable and no directory of the caller's decides which code runs with these rights.
            [sys.executable, "-I", "-m", "smcp.sandbox.launcher", str(theirs.fileno())],
            env={"LC_ALL": "C.UTF-8"},
            stdin=plan,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            cwd="/",
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(plan)
    return started, ours


def memory(name: str, content: bytes) -> int:
    """A memory file with `content`, at its beginning, close-on-exec. The caller closes it."""
    descriptor = os.memfd_create(name)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class Child:
    """A running cell."""

    def __init__(self, launcher: "Launcher", number: int) -> None:
        self._launcher = launcher
        self._number = number
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[messages.Started] = loop.create_future()
        self.exited: asyncio.Future[messages.Exited] = loop.create_future()
        self.sockets: list[socket.socket] = []
        """Sockets of its network, for the egress guard; whoever takes them closes them."""

    @property
    def number(self) -> int:
        """What `Launcher.measure` knows it by."""
        return self._number

    @property
    def pid(self) -> int:
        """Process id of bubblewrap, for people and tests."""
        return self.started.result().pid

    async def wait(self) -> int:
        """The exit code, as of `subprocess`, when every process of the cell is gone."""
        return (await asyncio.shield(self.exited)).code

    def kill(self) -> None:
        """End every process of it. Idempotent; `wait` tells when it has happened."""
        if not self.exited.done():
            self._launcher.post(messages.Kill(self._number))

    async def freeze(self) -> bool:
        """Stop all its processes where they stand; false when this machine can't."""
        return await self._launcher.freeze(self._number, frozen=True)

    async def thaw(self) -> None:
        """Let them go on."""
        await self._launcher.freeze(self._number, frozen=False)


class Launcher:
    """A connection to a launcher."""

    def __init__(self, peer: socket.socket, running: "subprocess.Popen[bytes] | None" = None) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._numbers = 0
        self._children: dict[int, Child] = {}
        self._questions: dict[int, asyncio.Future[messages.Done]] = {}
        self._measuring: dict[int, asyncio.Future[messages.Measured]] = {}
        self._waiting: collections.deque[tuple[bytes, list[int]]] = collections.deque()
        self._answers = msgspec.json.Decoder(messages.Answer)
        self._ready: asyncio.Future[messages.Ready] = self._loop.create_future()
        self.ended = asyncio.Event()
        """Set when the launcher is gone, and with it every cell."""
        self._loop.add_reader(peer, self._readable)

    @classmethod
    async def start(cls, house: messages.House) -> Self:
        """A launcher of one's own, that ends with `close`. Raises `errors.SandboxMissing`."""
        running, peer = process(house)
        return await cls(peer, running).opened()

    @classmethod
    async def adopt(cls, peer: socket.socket) -> Self:
        """A launcher that somebody else started. Raises `errors.SandboxMissing`."""
        return await cls(peer).opened()

    async def opened(self) -> Self:
        """Itself, when it is ready."""
        try:
            async with asyncio.timeout(_READY_S):
                await asyncio.shield(self._ready)
        except (TimeoutError, errors.SmcpError) as error:
            await self.close()
            raise errors.SandboxMissing("The launcher does not start; what it wrote says why.") from error
        return self

    @property
    def pid(self) -> int:
        """Process id of a launcher of one's own; 0 for one that somebody else started."""
        return 0 if self._running is None else self._running.pid

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of cgroups that it found."""
        return self._ready.result().layers

    @property
    def swept(self) -> int:
        """Processes of an earlier run that it ended first."""
        return self._ready.result().swept

    async def spawn(
        self, cell: walls.Cell, *, stdin: int, stdout: int, stderr: int, handed: Sequence[int] = ()
    ) -> Child:
        """Start `cell` on the three descriptors and with `handed` ones as 3 and so on; all stay the caller's.

        Raises `errors.SandboxMissing` with the reason when it does not start. A cancellation ends it, and is passed on
        when nothing of it is left.
        """
        self._alive()
        body = memory("cell", msgspec.msgpack.encode(cell))
        self._numbers += 1
        number = self._numbers
        made = self._children[number] = Child(self, number)
        try:
            self.post(messages.Start(number), [stdin, stdout, stderr, body, *handed])
        finally:
            os.close(body)
        try:
            await asyncio.shield(made.started)
        except asyncio.CancelledError:
            made.kill()
            made.started.add_done_callback(lambda _: _forgotten(made))
            # Who gave up a start may remove what the cell was to see next: nothing of it may be left then.
            await decided.decided(made.wait())
            raise
        return made

    async def freeze(self, number: int, *, frozen: bool) -> bool:
        """As `Child.freeze` and `Child.thaw`."""
        return (await self._ask(lambda question: messages.Freeze(number, question, frozen))).ok

    async def identify(self, tenant: str) -> int | None:
        """The host's uid of a tenant's cells; None where they have the platform's. Raises `errors.SandboxMissing`."""
        answer = await self._ask(lambda question: messages.Identify(question, tenant))
        self._good(answer)
        return answer.uid

    async def measure(self, numbers: Sequence[int]) -> dict[int, messages.Reading]:
        """What cells have taken so far, by number; those that have ended are left out. Raises `errors.Unavailable`."""
        found: dict[int, messages.Reading] = {}
        for start in range(0, len(numbers), messages.MOST_MEASURED):
            self._alive()
            self._numbers += 1
            answer = self._measuring[self._numbers] = self._loop.create_future()
            self.post(messages.Measure(self._numbers, tuple(numbers[start : start + messages.MOST_MEASURED])))
            found |= {one.id: one for one in (await asyncio.shield(answer)).cells}
        return found

    async def open_volume(self, tenant: str, server: str, size: int) -> None:
        """Mount an empty volume of `size` bytes, in the launcher's view only. Raises `errors.SandboxMissing`."""
        self._good(await self._ask(lambda question: messages.OpenVolume(question, tenant, server, size)))

    async def close_volume(self, tenant: str, server: str) -> None:
        """Forget a volume and what is in it; no cell may use it any more. Nothing there is fine."""
        self._good(await self._ask(lambda question: messages.CloseVolume(question, tenant, server)))

    async def own(self, path: str, tenant: str | None) -> None:
        """Hand a build's directory to the uid of a tenant ('': the fetcher's; None: back to the platform)."""
        self._good(await self._ask(lambda question: messages.Own(question, path, tenant)))

    async def close(self) -> None:
        """End the connection; a launcher of one's own is waited for, and no cell is left."""
        if self._peer.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._peer.shutdown(socket.SHUT_WR)
            if self._running is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_END_S):
                        await self.ended.wait()
        # Also when it has ended by itself: a process that nobody waited for is left otherwise.
        if self._running is not None:
            await asyncio.to_thread(_end, self._running)
        self._lost()

    # --- the wire ---

    def post(self, question: messages.Question, descriptors: list[int] | None = None) -> None:
        """Send a question. Never waits; what the socket does not take is sent later."""
        if self._peer.fileno() < 0:
            return
        data = msgspec.json.encode(question)
        if not self._waiting and self._sent(data, descriptors or []):
            return
        self._waiting.append((data, [os.dup(one) for one in descriptors or []]))
        self._loop.add_writer(self._peer, self._writable)

    def _sent(self, data: bytes, descriptors: list[int]) -> bool:
        try:
            socket.send_fds(self._peer, [data], descriptors)
        except BlockingIOError:
            return False
        except OSError:
            self._lost()
        return True

    def _writable(self) -> None:
        while self._waiting and self._sent(*self._waiting[0]):
            for descriptor in self._waiting.popleft()[1] if self._waiting else []:
                os.close(descriptor)
        if not self._waiting and self._peer.fileno() >= 0:
            self._loop.remove_writer(self._peer)

    async def _ask(self, made: Callable[[int], messages.Question]) -> messages.Done:
        self._alive()
        self._numbers += 1
        answer = self._questions[self._numbers] = self._loop.create_future()
        self.post(made(self._numbers))
        return await asyncio.shield(answer)

    @staticmethod
    def _good(answer: messages.Done) -> None:
        if not answer.ok:
            raise errors.SandboxMissing(answer.why or "The launcher refused.")

    def _alive(self) -> None:
        if self.ended.is_set():
            raise errors.Unavailable("The launcher has ended; the platform has to be restarted.")

    def _readable(self) -> None:
        try:
            data, descriptors, _ = linux.receive(self._peer, messages.LARGEST, _SOCKETS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._lost()
            return
        self._take(self._answers.decode(data), [socket.socket(fileno=one) for one in descriptors])

    def _take(self, answer: messages.Answer, sockets: list[socket.socket]) -> None:
        match answer:
            case messages.Ready():
                self._ready.set_result(answer)
            case messages.Done():
                waiting = self._questions.pop(answer.question, None)
                if waiting is not None:
                    waiting.set_result(answer)
            case messages.Measured():
                measuring = self._measuring.pop(answer.question, None)
                if measuring is not None:
                    measuring.set_result(answer)
            case messages.Started():
                child = self._children[answer.id]
                child.sockets = sockets
                child.started.set_result(answer)
            case messages.Failed():
                child = self._children.pop(answer.id)
                child.started.set_exception(errors.SandboxMissing(f"The sandbox could not be made: {answer.why}"))
                child.exited.set_result(messages.Exited(answer.id, -signal.SIGKILL))
            case messages.Exited():
                self._children.pop(answer.id).exited.set_result(answer)

    def _lost(self) -> None:
        if self._peer.fileno() < 0:
            return
        self._loop.remove_reader(self._peer)
        self._loop.remove_writer(self._peer)
        self._peer.close()
        self.ended.set()
        gone = errors.SandboxMissing("The launcher has ended.")
        if not self._ready.done():
            self._ready.set_exception(gone)
            _forget(self._ready)
        for _, descriptors in self._waiting:
            for descriptor in descriptors:
                os.close(descriptor)
        self._waiting.clear()
        for number, child in self._children.items():
            if not child.started.done():
                child.started.set_exception(gone)
                _forget(child.started)
            child.exited.set_result(messages.Exited(number, -signal.SIGKILL))
        self._children.clear()
        for question, waiting in self._questions.items():
            waiting.set_result(messages.Done(question, False, "The launcher has ended."))
        self._questions.clear()
        for question, measuring in self._measuring.items():
            measuring.set_result(messages.Measured(question, ()))
        self._measuring.clear()


def _forgotten(child: Child) -> None:
    """A start that nobody waits for any more."""
    _forget(child.started)
    for one in child.sockets:
        one.close()


def _forget(
    future: "asyncio.Future[messages.Started] | asyncio.Future[messages.Exited] | asyncio.Future[messages.Ready]",
) -> None:
    """Nobody asks for its error any more."""
    if not future.cancelled():
        future.exception()


def _end(running: "subprocess.Popen[bytes]") -> None:
    try:
        running.wait(_END_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
