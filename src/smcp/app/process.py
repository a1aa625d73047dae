"""The foreground's two processes: the launcher, with the foreground's rights, and the platform, without them.

The foreground itself never listens to anybody: it starts the two, hands each its part, and is a client of the
platform's API like any other.
"""

import asyncio
import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
from typing import Final, TypeVar

import msgspec

from smcp.app import machine, node, serve, tls
from smcp.kernel import certificates, errors, settings
from smcp.sandbox import launch, tools

_READY_S: Final = 60.0
_STOP_S: Final = 60.0
_LAUNCHER_S: Final = 20.0
_WORDS: Final = 8
"""Messages of the platform that wait to be read; it says one when it is ready, and one to each question."""

# Nothing else of root's environment reaches the process that faces the network: object stores' credentials and places
# (obstore), certificates, proxies, OpenTelemetry, the language, the time zone.
_PASSED: Final = re.compile(
    r"(?:AWS|GOOGLE|AZURE|OTEL|LC)_[A-Z0-9_]+|LANG|TZ|PATH|SSL_CERT_(?:FILE|DIR)|(?:https?|all|no)_proxy", re.IGNORECASE
)

_Said = TypeVar("_Said", node.Ready, node.Key, node.Code)


class Process:
    """A running platform in a process of its own: `start`, then `stop`."""

    def __init__(
        self, running: "subprocess.Popen[bytes]", launcher: "subprocess.Popen[bytes]", control: socket.socket
    ) -> None:
        self._running = running
        self._launcher = launcher
        self._control = control
        self._said: asyncio.Queue[node.Said] = asyncio.Queue(_WORDS)
        self._reader = asyncio.create_task(self._read(), name="platform's words")
        self._follower: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        """Set when the platform has ended, asked or not."""
        self.base_url = ""

    @classmethod
    async def start(cls, config: settings.Settings, pinned: tools.Tools | None = None) -> "Process":
        """Start both, and return when the platform listens. `pinned` as for `machine.Machine.find`.

        Raises OSError for an address that can't be had, and what `wire.Platform.open` raises.
        """
        looked = certificates.look(config.tls)
        pair = await asyncio.to_thread(certificates.read, config.tls) if config.tls.on else None
        listener = serve.listen(config.gateway.host, config.gateway.port)
        with contextlib.closing(listener):
            found = await asyncio.to_thread(machine.Machine.find, config, os.environ, pinned, apart=True)
            await asyncio.to_thread(hand_over, config, found.uid)
            house = await asyncio.to_thread(found.house, config)
            launcher, peer = launch.process(house)
            try:
                with contextlib.closing(peer):
                    made = cls(*_node(node.Plan(settings=config, machine=found, pair=pair), listener, peer, launcher))
            except BaseException:
                launcher.kill()
                launcher.wait()
                raise
        try:
            ready = await made._next(node.Ready, _READY_S)
        except BaseException:
            await made.stop()
            raise
        made.base_url = ready.url
        if pair is not None:
            following = tls.follow(config.tls, looked, made._certify)
            made._follower = asyncio.create_task(following, name="certificate's files")
        return made

    async def ensure_operator(self, *, another: bool = False) -> str | None:
        """As `serve.Platform.ensure_operator`. The text goes over a socket between the two processes only."""
        await asyncio.get_running_loop().sock_sendall(self._control, msgspec.json.encode(node.Operator(another)))
        return (await self._next(node.Key, _READY_S)).text

    async def set_up(self) -> str | None:
        """As `serve.Platform.set_up`. The text goes over a socket between the two processes only."""
        await asyncio.get_running_loop().sock_sendall(self._control, msgspec.json.encode(node.SetUp()))
        return (await self._next(node.Code, _READY_S)).text

    async def _certify(self, pair: certificates.Pair | None, why: str) -> None:
        told = msgspec.json.encode(node.Certificate(pair, why))
        with contextlib.suppress(OSError):  # it has just ended, which others notice
            await asyncio.get_running_loop().sock_sendall(self._control, told)

    async def stop(self) -> None:
        """End the platform in order, then the launcher, which ends with it. Idempotent."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        await asyncio.to_thread(_ended, self._running, _STOP_S)
        await asyncio.to_thread(_ended, self._launcher, _LAUNCHER_S)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._control.close()

    async def _next(self, kind: type[_Said], timeout_s: float) -> _Said:
        waiting = asyncio.create_task(self._said.get())
        gone = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait((waiting, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            said = waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
            gone.cancel()
        if isinstance(said, kind):
            return said
        if isinstance(said, node.Refused):
            raise _error(said)
        raise errors.Unavailable("The platform's process ended, or did not answer. What it wrote says why.")

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        decoder = msgspec.json.Decoder(node.Said)
        try:
            while data := await loop.sock_recv(self._control, node.LARGEST):
                self._said.put_nowait(decoder.decode(data))
        except (OSError, msgspec.DecodeError, asyncio.QueueFull):
            pass  # as its end: who says what was not asked for is not the platform any more
        finally:
            self.ended.set()


def _node(
    plan: node.Plan, listener: socket.socket, peer: socket.socket, launcher: "subprocess.Popen[bytes]"
) -> "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], socket.socket]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    content = launch.memory("plan", msgspec.json.encode(plan))
    spoken = voice()
    try:
        handed = [one.fileno() for one in (theirs, peer, listener)]
        running = subprocess.Popen(
            [sys.executable, "-I", "-m", "smcp.app.node", *map(str, handed)],
            stdin=content,
            stdout=subprocess.DEVNULL,
            stderr=spoken,
            env={name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)},
            pass_fds=handed,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(content)
        if spoken is not None:
            os.close(spoken)
    ours.setblocking(False)
    return running, launcher, ours


def voice() -> int | None:
    """What the platform gets as its standard error, for the caller to close; None for this process's own.

    A terminal is opened for both ways, and what is typed into it is for this user's programs: the platform may only
    write to it, and under another uid it can't open it anew.
    """
    if not os.isatty(2):
        return None
    return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)


def hand_over(config: settings.Settings, uid: int) -> None:
    """Make the data directory the platform's, when that is not who made it. Blocking. Raises OSError."""
    directory = config.platform.directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0 or directory.stat().st_uid == uid:
        return
    # The directory itself last: whatever interrupts this, the next start does it again.
    for here, _, names, handle in os.fwalk(directory, topdown=False, follow_symlinks=False):
        for name in names:
            os.chown(name, uid, uid, dir_fd=handle, follow_symlinks=False)
        if pathlib.Path(here) != directory:
            os.fchown(handle, uid, uid)
    os.chown(directory, uid, uid)


def _ended(running: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    try:
        running.wait(timeout_s)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def _error(said: node.Refused) -> errors.SmcpError:
    kind = getattr(errors, said.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.SmcpError)):
        kind = errors.Unavailable
    return kind(said.public, detail=said.detail)
