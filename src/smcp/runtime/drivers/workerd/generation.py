"""A generation: one process with a set of Workers in it, the sockets that they answer on, and who is being answered.

A process is never changed. Another set of Workers is another generation: it is brought up beside the one that answers,
what comes from then on goes to it, and the older one ends when it has answered what it was asked before.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.runtime import places as sources
from smcp.runtime.bindings import door
from smcp.runtime.drivers.workerd import bindings, config, process
from smcp.sandbox import launch, walls
from smcp.sandbox.launcher import linux
from smcp.sandbox.volumes import keeper
from smcp.upstream import lean

MOST: Final = walls.MOST_HANDED - 2
"""Workers in one process: each has a socket, and so has the process's health; and it says when it is ready."""
_BACKLOG: Final = 1024


class Cells(Protocol):
    """Makes the cell of a process."""

    def __call__(
        self, tenant: ids.TenantId, binds: tuple[walls.Bind, ...], volume: walls.Volume | None, /
    ) -> walls.Cell:
        """Its first and only argument is workerd. Raises `errors.SandboxMissing`."""
        ...


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What generations are made with, the same for all."""

    launcher: launch.Launcher
    cell: Cells
    doors: str
    """The launcher's `House.doors`."""
    makers: bindings.Makers
    patience: process.Patience
    heap_mb: int
    """The largest heap of one isolate."""


Shared = Callable[[launch.Child, Callable[[], list[tuple[driver.Spec, float]]]], None]
"""Hears of each process, and whose it is."""


class Occupant(Protocol):
    """A Worker that is to be in it."""

    number: int
    spec: driver.Spec

    def say(self, text: str) -> None:
        """A line for its server's log."""
        ...


class Seat:
    """One Worker's place in a generation."""

    def __init__(self, path: str, ended: asyncio.Event, idle: Callable[[], None], gone_s: float) -> None:
        """`ended` is set when its process is gone; `gone_s` as in `process.Patience`."""
        self.ended = ended
        self.gone_s = gone_s
        self.client = lean.Client(path)
        self.streams = lean.Client(path)
        """Carries streams without an end of their own: they break off when another generation takes over."""
        self.asked = 0
        """Requests since it was counted last."""
        self.busy = 0
        """Requests that are not answered yet."""
        self._idle = idle

    def entered(self) -> None:
        """One request more."""
        self.busy += 1
        self.asked += 1

    def left(self) -> None:
        """One request less."""
        self.busy -= 1
        if not self.busy:
            self._idle()


class Generation:
    """One process, its sockets, and its door."""

    def __init__(
        self, means: Means, tenant: ids.TenantId, occupants: Sequence[Occupant], gone: "Callable[[Generation], None]"
    ) -> None:
        """`gone` hears of its end, once, when it had begun."""
        self._means = means
        self._tenant = tenant
        self._gone = gone
        self.occupants = {one.number: one for one in occupants}
        self._sources = {one.number: sources.Places(os.path.join(one.spec.artefact, "worker")) for one in occupants}
        self._marks = {secrets.token_hex(8): one.number for one in occupants}
        self.process = process.Process(means.patience, self._marks, self._told, self._note, self._process_gone)
        self.seats: dict[int, Seat] = {}
        self.hold: keeper.Hold | None = None
        """Its use of a volume."""
        self._idle = asyncio.Event()
        self._door: door.Door | None = None
        self._bindings: list[bindings.Opened] = []
        self._folder = -1
        self._path = ""
        self._sockets: dict[str, socket.socket] = {}

    async def begin(
        self, services: Mapping[int, Mapping[str, int]], uid: int | None, sampled: Shared | None = None
    ) -> None:
        """Bring it up, and return when it answers. `services`: whom each Worker's services are, by binding.

        Raises `errors.ServerFailed`, `errors.ServerTimeout`, `errors.SandboxMissing`, `errors.SecretMissing`. Then,
        and when cancelled, the caller ends it with `stop`.
        """
        for one in self.occupants.values():
            check(one.spec)
        self._open()
        self._door = await door.Door.open(os.path.join(self._path, "door"), uid, self._note)
        binds = [walls.Bind(os.path.join(self._path, "door"), config.DOOR)]
        isolates: list[config.Isolate] = []
        for token, number in self._marks.items():
            one = self.occupants[number]
            root = f"/app/{number}"
            binds.append(walls.Bind(one.spec.artefact, root))
            isolates.append(self._isolate(number, token, root, services.get(number, {})))
        volume = self.hold.volume if self.hold is not None else None
        cell = self._means.cell(self._tenant, tuple(binds), volume)
        text = config.text(isolates, heap_mb=self._means.heap_mb)
        await self.process.begin(self._means.launcher, cell, text, self._sockets, self._place(config.HEALTH))
        assert self.process.child is not None
        if sampled is not None:
            sampled(self.process.child, self.shares)
        if self.hold is not None:
            self.hold.started(self.process.child)
        self._note(f"started, process {self.process.child.pid}")
        await self.process.ready()

    def _open(self) -> None:
        """Its directory, and its sockets in there."""
        self._path = os.path.join(self._means.doors, self._tenant, secrets.token_hex(8))
        os.makedirs(self._path, mode=0o700)
        self._folder = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in (config.HEALTH, *(f"socket-{number}" for number in self.occupants)):
            made = self._sockets[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.bind(self._place(name))
            made.listen(_BACKLOG)
        for number in self.occupants:
            place, gone_s = self._place(f"socket-{number}"), self._means.patience.gone_s
            self.seats[number] = Seat(place, self.process.ended, self._looked, gone_s)

    def _place(self, name: str) -> str:
        """An address for a socket: of any length (unix(7) takes 107 bytes)."""
        return f"/proc/self/fd/{self._folder}/{name}"

    def _isolate(self, number: int, token: str, root: str, near: Mapping[str, int]) -> config.Isolate:
        one = self.occupants[number]
        assert one.spec.worker is not None
        assert self._door is not None
        made = bindings.opened(self._door, self._means.makers, one.spec, one.say)
        self._bindings.append(made)
        return config.Isolate(
            number=number,
            worker=one.spec.worker,
            variables=tuple(made.env.items()),
            root=root,
            keys=made.keys,
            neighbours=tuple(near.items()),
            token=token,
        )

    @property
    def alive(self) -> bool:
        """It answers, or will."""
        return self.process.alive

    @property
    def failed(self) -> dict[int, str]:
        """Which Workers did not start, and why."""
        return self.process.lines.failed

    def shares(self) -> list[tuple[driver.Spec, float]]:
        """Whose the process was since this was asked last: by what each Worker was asked. Nothing can measure more of
        isolates in one process."""
        counts = {number: seat.asked for number, seat in self.seats.items()}
        for seat in self.seats.values():
            seat.asked = 0
        total = sum(counts.values())
        return [
            (one.spec, counts[number] / total if total else 1 / len(self.occupants))
            for number, one in self.occupants.items()
        ]

    async def drain(self, seconds: float) -> None:
        """Return when every request was answered, at most after `seconds`. No new one is sent to it."""
        for seat in self.seats.values():
            await seat.streams.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.alive and any(seat.busy for seat in self.seats.values()):
                    self._idle.clear()
                    await self._idle.wait()

    async def stop(self, reason: str) -> None:
        """End it, and all that was made for it. Idempotent."""
        if self.process.child is not None:
            await self.process.stop(reason)
        elif self.hold is not None:
            self.hold.release()
        for seat in self.seats.values():
            await seat.client.close()
            await seat.streams.close()
        if self._door is not None:
            await self._door.close()
        for one in self._bindings:
            await one.close()
        self._bindings.clear()
        for one in self._sockets.values():
            one.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
            shutil.rmtree(self._path, ignore_errors=True)

    # --- from the process ---

    def _told(self, number: int | None, text: str) -> None:
        if number is not None and number in self.occupants:
            self.occupants[number].say(_tame(self._sources[number].told(text)))
        elif number is None:
            for one in self.occupants.values():
                one.say(_tame(text))

    def _note(self, text: str) -> None:
        """The platform's own word about it, for every server in it."""
        for one in self.occupants.values():
            one.say(f"[smcp] {text}")

    def _looked(self) -> None:
        self._idle.set()

    def _process_gone(self, ended: process.Process, reason: str) -> None:
        self._note(f"ended after {ended.age:.1f} s: {reason}")
        if self.hold is not None:
            # Before anybody hears of the end: who waits for it may delete or restore the volume next.
            self.hold.release()
        self._idle.set()
        self._gone(self)


def check(spec: driver.Spec) -> None:
    """Raises `errors.ServerFailed` for a Worker that can't be told to workerd as it is."""
    worker = spec.worker
    if worker is None or not worker.modules:
        raise errors.ServerFailed("The deployment names no module of a Worker.")
    for module in worker.modules:
        name = module.name
        if os.path.normpath(name) != name or name.startswith(("/", "..", "smcp-")) or "\0" in name:
            raise errors.ServerFailed(f"A module can't be called {name[:128]!a}.")
        # Read inside of the cell, where a link may lead elsewhere than here.
        try:
            found = linux.open_plain(os.path.join(os.path.realpath(spec.artefact), "worker", name), os.O_PATH)
        except OSError as error:
            raise errors.ServerFailed(f"The deployment has no module {name[:128]!a}.") from error
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise errors.ServerFailed(f"The module {name[:128]!a} is no file.")
        finally:
            os.close(found)


def _tame(text: str) -> str:
    # What begins so is the platform's word, and nobody else's.
    return f" {text}" if text.startswith("[smcp]") else text
