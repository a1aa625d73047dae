"""What a forked child of the launcher does until it is bubblewrap (or runsc): each step takes something away from it.

It runs between fork and execve(2), in a copy of the launcher, with the launcher's rights, and no code of a tenant's has
run yet. Whatever fails is said on the status socket, and the child ends.

It is the first process of a pid namespace, around the one that bubblewrap will make: when it dies, at whatever moment,
the kernel ends everything below it before it counts as gone (pid_namespaces(7)). And it dies with the launcher.
"""

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import stat
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from smcp.sandbox import gvisor, network, walls
from smcp.sandbox.launcher import linux, messages

STAGE: Final = "/tmp"  # noqa: S108 - covered by a file system of the child's own
"""Where binds are staged, in a view that only this cell has: a directory that every uid may pass through."""
ARGV0: Final = "smcp-cell:"
"""bubblewrap's argv[0] begins so, followed by the platform's id: a sweep knows whose cell it is."""
_FAILED: Final = 127
_HANDED: Final = 3
"""The first number of what a command is handed (as of sd_listen_fds(3))."""
_OOM_SCORE: Final = b"500"


class Role(NamedTuple):
    """Who a cell is on this host."""

    uid: int | None
    """None: the launcher's own user, where it may not change it."""
    groups: tuple[int, ...]
    """Open files of its cgroups; who writes 0 into one joins it (cgroups(7))."""
    limit_processes: bool
    """No cgroup counts its processes, so that an rlimit has to."""


class Ends(NamedTuple):
    """Descriptors: the cell's three streams, what its command is handed beside them, where bubblewrap tells that it has
    begun, and the status."""

    streams: tuple[int, int, int]
    handed: tuple[int, ...]
    info: int
    status: socket.socket
    launcher: int
    """A pidfd of the launcher, whose death ends this."""


def run(cell: walls.Cell, house: messages.House, role: Role, ends: Ends, volume: str, seccomp: bytes) -> NoReturn:
    """Become bubblewrap. `volume` is where the cell's volume is mounted (in the working directory), or empty.

    Never returns, never raises.
    """
    try:
        role, ends = _apart(role, ends)
        _begin(role)
        # A view of its own first: what is opened in another view can't be mounted in this one.
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        sources = [_opened(bind, house) for bind in cell.binds]
        if volume:
            sources.append(linux.open_plain(volume, os.O_PATH | os.O_DIRECTORY))
        os.chdir("/")
        staged = _stage(sources)
        sockets = _network(cell)
        tiered = cell.tier == walls.GVISOR
        if tiered:
            _gvisor(cell, role, staged)
        _drop(role, ends.launcher)
        argv = _runsc(cell, house) if tiered else _command(cell, house, role, ends, staged, seccomp)
        for number, stream in enumerate(ends.streams):
            os.dup2(stream, number)
        # The last step: the launcher may have more files open than this cell may, and numbers count, not files.
        _limits(cell)
        # The sockets of its network leave before anything else of the cell can touch them.
        socket.send_fds(ends.status, [b"."], [one.fileno() for one in sockets])
        if tiered:
            os.write(ends.info, b"{}")  # runsc has nothing like bubblewrap's --info-fd: it is begun when it runs
        # An empty environment: /proc/1/environ.
        os.execve(house.host.runsc if tiered else house.host.bwrap, argv, {})  # noqa: S606 - no shell is meant
    except BaseException as error:  # noqa: BLE001 - whatever it was, this copy of the launcher must not go on
        with contextlib.suppress(OSError):
            ends.status.send(f"!{error}".encode()[:1000])
    os._exit(_FAILED)


def _apart(role: Role, ends: Ends) -> tuple[Role, Ends]:
    """What the command is handed gets the numbers from 3 on; what is there, and is needed until then, gets others."""
    if not ends.handed:
        return role, ends
    # Twice: the numbers that they are to have may be those that they have now, in another order.
    handed = [_above(one) for one in ends.handed]
    first, second, third = (_above(one) for one in ends.streams)
    kept = Ends(
        (first, second, third),
        tuple(range(_HANDED, _HANDED + len(handed))),
        _above(ends.info),
        socket.socket(fileno=_above(ends.status.fileno())),
        _above(ends.launcher),
    )
    groups = tuple(_above(one) for one in role.groups)
    # Its number is given away: closed as an object, it would take what has that number then.
    ends.status.detach()
    for number, one in zip(kept.handed, handed, strict=True):
        os.dup2(one, number, inheritable=False)
    return role._replace(groups=groups), kept


def _above(descriptor: int) -> int:
    """The same under a number that no command is handed."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HANDED + walls.MOST_HANDED)


def _command(
    cell: walls.Cell, house: messages.House, role: Role, ends: Ends, staged: Sequence[str], seccomp: bytes
) -> list[str]:
    """bubblewrap's argv. Its options are in a memory file: neither `ps` nor /proc/1 inside shows them."""
    files = [_memory(file.content) for file in cell.files]
    places = staged[: len(cell.binds)]
    options = walls.options(cell, house.host, binds=places, files=files, volume=staged[-1] if cell.volume else "")
    options += ["--info-fd", str(ends.info)]
    passed = [ends.info, *files, *ends.handed]
    if seccomp:
        passed.append(_memory(seccomp))
        options += ["--seccomp", str(passed[-1])]
    passed.append(_memory(b"".join(os.fsencode(word) + b"\0" for word in options)))
    # Whatever else is open is the launcher's or another cell's, and the launcher's socket among it.
    linux.close_all_on_exec(3)
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    behind = walls.inside(cell, house.host, limit_processes=role.limit_processes)
    return [ARGV0 + house.platform, "--args", str(passed[-1]), "--", *behind]


def _gvisor(cell: walls.Cell, role: Role, staged: Sequence[str]) -> None:
    binds, volume = staged[: len(cell.binds)], staged[-1] if cell.volume else ""
    gvisor.prepare(cell, binds, volume, STAGE, os.geteuid() if role.uid is None else role.uid)


def _runsc(cell: walls.Cell, house: messages.House) -> list[str]:
    linux.close_all_on_exec(3)
    return gvisor.command(cell, ARGV0 + house.platform, STAGE)


def _begin(role: Role) -> None:
    os.setsid()
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    linux.die_with_parent()
    for group in role.groups:
        os.write(group, b"0")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        # When the machine is short of memory, hosted code goes before anything of the platform.
        file.write(_OOM_SCORE)


def _opened(bind: walls.Bind, house: messages.House) -> int:
    """The source of a bind, opened with the launcher's rights: the uid of the cell may not reach it by its path."""
    if bind.source in house.fixed and not bind.writable:
        return os.open(bind.source, os.O_PATH | os.O_CLOEXEC)
    # What lies below these is the platform's; so no component may be a link by the time it is opened.
    return linux.open_plain(bind.source, os.O_PATH)


def _stage(sources: Sequence[int]) -> list[str]:
    """Bind what is open to plain places in a small file system that covers STAGE, in this cell's view only."""
    linux.mount("stage", STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1m")
    places: list[str] = []
    for number, source in enumerate(sources):
        place = f"{STAGE}/{number}"
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.mkdir(place, 0o755)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        linux.mount(f"/proc/self/fd/{source}", place, flags=linux.MS_BIND | linux.MS_REC)
        places.append(place)
    return places


def _network(cell: walls.Cell) -> list[socket.socket]:
    if cell.egress or cell.tier == walls.GVISOR:
        linux.unshare(linux.CLONE_NEWNET)
    return network.enter(cell.egress) if cell.egress else []


def _limits(cell: walls.Cell) -> None:
    # RLIMIT_AS would stop runtimes that reserve address space they never touch (V8, Go, WebAssembly).
    amounts = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, 65536), (resource.RLIMIT_MSGQUEUE, 0)]
    if cell.tier == walls.GVISOR:
        # Its own processes'. All memory of the cell is one file of theirs; what the cell may do, its kernel holds.
        amounts.append((resource.RLIMIT_NOFILE, gvisor.OPEN_FILES))
    else:
        amounts.append((resource.RLIMIT_NOFILE, cell.open_files))
        amounts.append((resource.RLIMIT_FSIZE, cell.file_bytes or cell.tmp_bytes))
        amounts.append((resource.RLIMIT_DATA, cell.data_bytes or cell.memory_bytes))
    for what, amount in amounts:
        hard = resource.getrlimit(what)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(what, (amount, amount))


def _drop(role: Role, launcher: int) -> None:
    if role.uid is not None:
        os.setgroups([])
        os.setresgid(role.uid, role.uid, role.uid)
        os.setresuid(role.uid, role.uid, role.uid)
    linux.no_new_privileges()
    # Once more: a change of uid takes it away. If the launcher went in between, nobody would ever end this.
    linux.die_with_parent()
    watch = select.poll()
    watch.register(launcher, select.POLLIN)
    if watch.poll(0):
        raise ProcessLookupError("the launcher is gone")


def _memory(content: bytes) -> int:
    """A memory file, read from its beginning."""
    descriptor = os.memfd_create("smcp")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
