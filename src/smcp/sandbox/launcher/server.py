"""The launcher's loop: one socket, the cells, their ends. No thread, no asyncio: nothing happens that is not below."""

import contextlib
import os
import select
import signal
import socket
import stat
import sys
import time
from typing import Final

import msgspec

from smcp.kernel import errors
from smcp.sandbox import cgroups, gvisor, walls
from smcp.sandbox.launcher import child, linux, messages, taken, tidy

_TENANTS: Final = 16
"""The first tenant's place in the range of uids; below it: the platform, the fetcher, room for more."""
_FETCHER: Final = 1
_RETRY_MS: Final = 5
_DEATH_S: Final = 10.0
_WEIGH_S: Final = 0.5
_HEAVY: Final = 0.2
"""Cores' worth of time, above which a cell is one that computes, and below which it is one that answers."""
_HEAVY_SHARE: Final = 1 / 64
_FORGIVEN: Final = 6
"""Times in a row that a cell is seen below that, until it is no longer taken for one that computes."""
_INODE: Final = 4096
_MOST_DESCRIPTORS: Final = 4 + walls.MOST_HANDED
_FORGIVEN_FIRST: Final = 2


class Cell:
    """A cell that was asked for, until every process of it is gone."""

    def __init__(
        self, number: int, pid: int, pidfd: int, group: cgroups.Group | None, info: int, status: socket.socket
    ) -> None:
        self.id = number
        self.pid = pid
        self.pidfd = pidfd
        """Of bubblewrap, the first process of a pid namespace: when it ends, the kernel has ended all others."""
        self.group = group
        self.info = info
        self.status: socket.socket | None = status
        self.sockets: list[int] = []
        self.begun = False
        self.failed = ""
        self.spent = 0.0
        self.heavy = _FORGIVEN_FIRST
        self.taken = taken.Taken(pid, group, time.monotonic())

    def kill(self) -> None:
        """End every process of it."""
        if self.group is not None:
            self.group.kill()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give back every descriptor."""
        for descriptor in (self.info, self.pidfd, *self.sockets):
            if descriptor >= 0:
                os.close(descriptor)
        if self.status is not None:
            self.status.close()


class Server:
    """Answers one platform until it is gone."""

    def __init__(
        self, house: messages.House, peer: socket.socket, groups: cgroups.Groups | None, seccomp: bytes
    ) -> None:
        self._house = house
        self._peer = peer
        self._groups = groups
        self._seccomp = seccomp
        self._uids: dict[str, int] = {}
        self._cells: dict[int, Cell] = {}
        self._volumes: dict[tuple[str, str], str] = {}
        self._volume_number = 0
        self._removals: list[cgroups.Group] = []
        self._weighs = groups is not None and cgroups.CPU in groups.layers
        self._questions = msgspec.json.Decoder(messages.Question)
        self._cell = msgspec.msgpack.Decoder(walls.Cell)
        self._poll = select.epoll()
        self._sources: dict[int, tuple[str, Cell | None]] = {}
        self._stopping = False
        self._weighed = 0.0
        self._self = os.pidfd_open(os.getpid())
        peer.settimeout(_DEATH_S)

    def serve(self) -> None:
        """Until the platform is gone, then until every cell is."""
        try:
            self._watch(self._peer.fileno(), "peer", None)
            while not self._stopping:
                self._turn()
        finally:
            self._end()

    def _end(self) -> None:
        self._unwatch(self._peer.fileno())
        self._peer.setblocking(False)  # who may still listen hears of the ends, and nobody is waited for
        for cell in list(self._cells.values()):
            cell.kill()
        deadline = time.monotonic() + _DEATH_S
        while (self._cells or self._removals) and time.monotonic() < deadline:
            self._turn()

    def _watch(self, descriptor: int, what: str, cell: Cell | None) -> None:
        self._sources[descriptor] = (what, cell)
        self._poll.register(descriptor, select.EPOLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self._sources.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _turn(self) -> None:
        for descriptor, _ in self._poll.poll(self._patience()):
            what, cell = self._sources.get(descriptor, ("", None))
            if what == "peer":
                self._read()
            elif cell is not None and what == "info":
                self._info(cell)
            elif cell is not None and what == "status":
                self._status(cell)
            elif cell is not None and what == "exit":
                self._exit(cell)
        self._removals = [group for group in self._removals if not group.remove()]
        if time.monotonic() - self._weighed >= _WEIGH_S:
            self._weigh()

    def _patience(self) -> float | None:
        """Seconds until there is something to do without being asked."""
        if self._removals:
            return _RETRY_MS / 1000
        return max(0.0, self._weighed + _WEIGH_S - time.monotonic()) if self._cells else None

    def _weigh(self) -> None:
        """Add up what each cell takes. And who computes gives way to who answers: else each of many spinning cells
        would have its turn, some milliseconds long, before one that has been asked something. On idle processors nobody
        is slower for it."""
        now = time.monotonic()
        took, self._weighed = now - self._weighed, now
        for cell in self._cells.values():
            cell.taken.look(now)
            if cell.group is None or not self._weighs:
                continue
            spent, before = cell.group.spent(), cell.spent
            cell.spent, was = spent, cell.heavy
            cell.heavy = _FORGIVEN if spent - before > _HEAVY * min(took, 2 * _WEIGH_S) else max(0, was - 1)
            if bool(cell.heavy) != bool(was):
                cell.group.weigh(_HEAVY_SHARE if cell.heavy else 1.0)

    def _send(self, answer: messages.Answer, descriptors: list[int] | None = None) -> None:
        # A platform that does not read is a platform that hangs; it has _DEATH_S, then everything ends.
        try:
            socket.send_fds(self._peer, [msgspec.json.encode(answer)], descriptors or [])
        except OSError:
            self._stopping = True

    # --- questions ---

    def _read(self) -> None:
        descriptors: list[int] = []
        try:
            data, descriptors, flags = linux.receive(self._peer, messages.LARGEST, _MOST_DESCRIPTORS)
            # Less than there is room for, and yet cut: this process has none left. One cell is missed, not all.
            cut = flags & socket.MSG_CTRUNC and len(descriptors) >= _MOST_DESCRIPTORS
            if not data or flags & socket.MSG_TRUNC or cut:
                self._stopping = True
                return
            self._answer(self._questions.decode(data), descriptors)
        except Exception as error:  # noqa: BLE001 - whatever a message leads to, it ends no worse than the connection
            sys.stderr.write(f"launcher: the platform broke off: {type(error).__name__}: {str(error)[:500]}\n")
            self._stopping = True
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _answer(self, question: messages.Question, descriptors: list[int]) -> None:
        match question:
            case messages.Start():
                try:
                    self._start(question.id, descriptors)
                except (OSError, errors.SmcpError, msgspec.DecodeError, ValueError) as error:
                    self._send(messages.Failed(question.id, _told(error)))
            case messages.Kill():
                if question.id in self._cells:
                    self._cells[question.id].kill()
            case messages.Freeze():
                cell = self._cells.get(question.id)
                held = cell is not None and cell.group is not None and cell.group.freeze(question.frozen)
                self._send(messages.Done(question.question, held, "" if held else "no freezer here"))
            case messages.Identify():
                self._identify(question)
            case messages.Measure():
                cells = [self._cells[number] for number in question.cells if number in self._cells]
                self._send(messages.Measured(question.question, tuple(cell.taken.reading(cell.id) for cell in cells)))
            case _:
                try:
                    self._do(question)
                except (OSError, errors.SmcpError) as error:
                    self._send(messages.Done(question.question, False, _told(error)))
                else:
                    self._send(messages.Done(question.question))

    def _do(self, question: messages.OpenVolume | messages.CloseVolume | messages.Own) -> None:
        match question:
            case messages.OpenVolume():
                self._open_volume(question)
            case messages.CloseVolume():
                place = self._volumes.pop((question.tenant, question.server), None)
                if place is not None:
                    linux.umount(place)
                    os.rmdir(place)
            case messages.Own():
                if self._house.uid_first and question.path not in self._house.caches:
                    owners = {self._house.uid, *self._uids.values(), self._house.uid_first + _FETCHER}
                    new = self._house.uid if question.tenant is None else self._uid(question.tenant)
                    tidy.own(self._house.work, question.path, owners, new)

    def _identify(self, question: messages.Identify) -> None:
        try:
            uid = self._uid(question.tenant) if self._house.uid_first else None
        except errors.SmcpError as error:
            self._send(messages.Done(question.question, False, _told(error)))
        else:
            self._send(messages.Done(question.question, uid=uid))

    def _open_volume(self, question: messages.OpenVolume) -> None:
        key = (question.tenant, question.server)
        if key in self._volumes:
            raise errors.Conflict("This volume is open already.")
        self._volume_number += 1
        place = str(self._volume_number)  # in the working directory, which is the launcher's own (`__main__`)
        uid = self._uid(question.tenant) if self._house.uid_first else os.geteuid()
        data = f"size={question.bytes},nr_inodes={question.bytes // _INODE + 64},mode=0700,uid={uid},gid={uid}"
        if not self._house.uid_first:
            data = data.rpartition(",gid=")[0] + f",gid={os.getegid()}"
        os.mkdir(place, 0o700)
        flags = linux.MS_NOSUID | linux.MS_NODEV
        try:
            # Pages that are never swapped out: no plain byte reaches a disk (tmpfs(5), Linux 6.4, init namespace only).
            linux.mount("volume", place, "tmpfs", flags, f"{data},noswap")
        except OSError:
            linux.mount("volume", place, "tmpfs", flags, data)
        self._volumes[key] = place

    def _uid(self, tenant: str) -> int:
        if not tenant:
            return self._house.uid_first + _FETCHER
        if tenant not in self._uids:
            place = _TENANTS + len(self._uids)
            if place >= self._house.uid_count:
                raise errors.SandboxMissing("There are more tenants than uids: raise sandbox.uid_count and restart.")
            self._uids[tenant] = self._house.uid_first + place
        return self._uids[tenant]

    # --- a cell's life ---

    def _start(self, number: int, descriptors: list[int]) -> None:
        if len(descriptors) < 4 or number in self._cells:
            raise ValueError("a start comes with four descriptors and a new number")
        cell = self._cell.decode(_read(descriptors[3]))
        walls.check(cell)
        if len(descriptors) != 4 + cell.handed:
            raise ValueError("a start comes with as many descriptors as its cell names")
        if cell.tier == walls.GVISOR:
            gvisor.check(cell, self._house.host)
        self._check(cell)
        volume = self._volumes.get((cell.tenant, cell.volume.server), "") if cell.volume else ""
        if cell.volume and not volume:
            raise ValueError("the volume is not open")
        group = None
        if self._groups is not None:
            limits = cgroups.Limits(cell.memory_bytes, cell.processes, cell.cpus)
            group = self._groups.make(f"cell-{number}", limits)
        try:
            if group is not None:
                group.weigh(_HEAVY_SHARE)  # until it has been seen to be quiet, it is not
            streams = (descriptors[0], descriptors[1], descriptors[2])
            self._fork(number, cell, group, streams, descriptors[4:], volume)
        except BaseException:
            if group is not None:
                self._removals.append(group)
            raise

    def _fork(
        self,
        number: int,
        cell: walls.Cell,
        group: cgroups.Group | None,
        streams: tuple[int, int, int],
        handed: list[int],
        volume: str,
    ) -> None:
        counted = self._groups is not None and cgroups.PIDS in self._groups.layers
        with contextlib.ExitStack() as lent, contextlib.ExitStack() as kept:
            place = group.place() if group is not None else None
            if place is not None:
                lent.callback(os.close, place)
            opened = group.opened(born=True) if group is not None else []
            for descriptor in opened:
                lent.callback(os.close, descriptor)
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            kept.callback(os.close, read)
            lent.callback(os.close, write)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept.callback(ours.close)
            lent.callback(theirs.close)
            role = child.Role(self._uid(cell.tenant) if self._house.uid_first else None, tuple(opened), not counted)
            pid, pidfd = linux.fork(linux.CLONE_NEWPID if walls.PID in self._house.host.layers else 0, place)
            if pid == 0:
                ends = child.Ends(streams, tuple(handed), write, theirs, self._self)
                child.run(cell, self._house, role, ends, volume, self._seccomp)
            kept.pop_all()
        made = self._cells[number] = Cell(number, pid, pidfd, group, read, ours)
        self._watch(ours.fileno(), "status", made)
        self._watch(read, "info", made)
        self._watch(made.pidfd, "exit", made)

    def _check(self, cell: walls.Cell) -> None:
        """Only what this house lets into a cell of that kind."""
        house = self._house
        for bind in cell.binds:
            if bind.source in house.fixed and not bind.writable:
                continue
            writable = bind.source.startswith(f"{house.work}/") or (not cell.tenant and bind.source in house.caches)
            below = (house.artefacts, *((house.doors,) if house.doors else ()))
            mine = cell.tenant and any(bind.source.startswith(f"{one}/{cell.tenant}/") for one in below)
            if not (mine and not bind.writable) and not writable:
                raise errors.SandboxMissing(f"No cell of this kind may see {bind.source}.")

    def _status(self, cell: Cell) -> None:
        if cell.status is None:
            return
        try:
            data, descriptors, _ = linux.receive(cell.status, 1024, 32, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        cell.sockets += descriptors
        if data.startswith(b"!"):
            cell.failed = data[1:].decode("utf-8", "replace")
        if not data:
            self._unwatch(cell.status.fileno())
            cell.status.close()
            cell.status = None

    def _info(self, cell: Cell) -> None:
        """bubblewrap tells of its child: it understood its options, and made the namespaces."""
        try:
            data = os.read(cell.info, 4096)
        except BlockingIOError:
            return
        if not data:
            self._unwatch(cell.info)
            os.close(cell.info)
            cell.info = -1
        elif not cell.begun:
            cell.begun = True
            self._begun(cell)

    def _begun(self, cell: Cell) -> None:
        self._status(cell)
        sockets, cell.sockets = cell.sockets, []
        self._send(messages.Started(cell.id, cell.pid), sockets)
        for descriptor in sockets:
            os.close(descriptor)

    def _exit(self, cell: Cell) -> None:
        """Tell that a cell is gone. Its namespace is empty now, and so is its cgroup."""
        # Nothing here waits: an event may be of a descriptor that has just been given back and taken anew.
        pid, status, used = os.wait4(cell.pid, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        if cell.info >= 0:
            self._info(cell)  # all that it told is there
        for _ in range(2):  # that it was about to become bubblewrap, and why it did not
            self._status(cell)
        for descriptor in (cell.pidfd, cell.info, -1 if cell.status is None else cell.status.fileno()):
            self._unwatch(descriptor)
        cell.taken.end(time.monotonic(), used)
        out_of_memory = cell.group is not None and cell.group.usage().oom_kills > 0
        if cell.group is not None:
            self._removals.append(cell.group)
        del self._cells[cell.id]
        cell.close()
        if cell.begun:
            took = cell.taken.reading(cell.id)
            self._send(messages.Exited(cell.id, code, out_of_memory, took.cpu_s, took.memory_byte_s))
        else:
            self._send(messages.Failed(cell.id, cell.failed or f"bubblewrap ended with {code}"))


def _read(descriptor: int) -> bytes:
    """A cell. Only from a file: a pipe that nobody writes to would hold the launcher up. Raises ValueError."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > messages.LARGEST_CELL:
        raise ValueError("a cell comes in a memory file")
    return os.pread(descriptor, messages.LARGEST_CELL, 0)


def _told(error: Exception) -> str:
    return error.public if isinstance(error, errors.SmcpError) else str(error)[:1000]
