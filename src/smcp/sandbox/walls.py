"""The walls: what a `Cell` may see and take, and the options of bubblewrap that make it so.

The launcher (`sandbox.launcher`) has joined the cell's cgroups, set its limits, staged its binds and dropped to its
uid; then `bwrap` makes the namespaces and the view of the file system, puts the seccomp filter on, and runs, behind
`--`, the tenant's command. What a tenant chose (argv, environment) is only ever an operand, never a flag; a bind comes
from the platform and is checked all the same.

Kept by the walls: no network (or one that ends at the egress guard), no host files but `/usr` (read-only) and the
binds, no host processes, no capability, no way to a new user namespace, a read-only root, a private /tmp of a fixed
size, an empty environment.
"""

import os
import posixpath
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from smcp.kernel import errors

INSIDE_UID: Final = 65534
"""uid and gid as seen inside: nobody."""

USER: Final = "user"
PID: Final = "pid"
NET: Final = "net"
IPC: Final = "ipc"
UTS: Final = "uts"
CGROUP: Final = "cgroup"
NESTING: Final = "nesting"
TMP_SIZE: Final = "tmp_size"
PROC: Final = "proc"
LIMITS: Final = "limits"
SECCOMP: Final = "seccomp"
UID: Final = "uid"
MEMORY: Final = "cgroup_memory"
PIDS: Final = "cgroup_pids"
CPU: Final = "cgroup_cpu"
GVISOR: Final = "gvisor"

NAMESPACES: Final = (USER, PID, NET, IPC, UTS, CGROUP)
GROUPS: Final = (MEMORY, PIDS, CPU)
LAYERS: Final = (*NAMESPACES, NESTING, TMP_SIZE, PROC, LIMITS, SECCOMP, UID, *GROUPS, GVISOR)
"""Every layer: the namespaces; no user namespace inside; a /tmp of fixed size; a /proc of its own; rlimits; a filter of
system calls; a uid of the host for each tenant; cgroups for memory, processes and processor time; and gVisor, for those
servers that ask for it."""

MOST_HANDED: Final = 128
"""The kernel passes 253 at once (unix(7), SCM_MAX_FD)."""
_SHM_MOST: Final = 16_777_216
_TINY: Final = "65536"
# What a process with the host's uid 0 behind its map could write in /proc although it has no capability (a sysctl
# checks the uid: core_pattern would be a way out). bwrap covers what access(2) calls writable; /proc/sys isn't.
_KERNEL: Final = ("acpi", "bus", "driver", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger", "tty")
ROOT_LINKS: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
# Places that the walls make themselves; a bind over one of them would take a wall away.
_OWN: Final = ("/", "/dev", "/proc", "/sys", "/usr", *(f"/{name}" for name in ROOT_LINKS))


_Amount = Annotated[int, Meta(ge=1, le=2**50)]


class Bind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory or file of the host that is visible inside. Read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small read-only file that exists only inside."""

    path: str
    content: bytes
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o444

    def __repr__(self) -> str:
        # The content may be a secret; a repr ends up in logs.
        return f"File({self.path!r}, {len(self.content)} bytes)"


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server's open volume (a tmpfs that outlives the cell), seen at `target`."""

    server: str
    target: str
    writable: bool = True


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one sandboxed process may see and take. The launcher refuses one that is out of these bounds."""

    argv: tuple[str, ...]
    binds: tuple[Bind, ...]
    tenant: Annotated[str, Meta(pattern=r"\A(?:[a-z0-9][a-z0-9-]{0,62})?\Z")] = ""
    """Whose code runs in it, and so which uid of the host stands behind it; empty: the fetcher's, no tenant's code."""
    tier: Literal["", "gvisor"] = ""
    """What holds it: bubblewrap, or gVisor."""
    files: tuple[File, ...] = ()
    volume: Volume | None = None
    egress: tuple[int, ...] = ()
    """TCP ports on which the cell's own network leads to the platform's egress guard; none: no network at all."""
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/tmp"  # noqa: S108 - a path inside the sandbox
    hidden: tuple[str, ...] = ()
    """Directories inside a bind that appear empty (an interpreter's own site-packages)."""
    memory_bytes: _Amount
    """All that the cell holds, its /tmp included (cgroup)."""
    data_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 0
    """What each process maps to write to (RLIMIT_DATA); 0 for `memory_bytes`."""
    cpus: Annotated[float, Meta(gt=0, le=65536)] = 1.0
    """Cores' worth of processor time (cgroup)."""
    tmp_bytes: _Amount
    open_files: _Amount
    processes: _Amount
    handed: Annotated[int, Meta(ge=0, le=MOST_HANDED)] = 0
    """Open descriptors of the platform's, that the command finds as 3 and those behind it: sockets that listen."""
    file_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 0
    """Largest file that may be written; 0 for as much as /tmp holds."""

    def __repr__(self) -> str:
        # The environment may hold secrets; a repr ends up in logs.
        return f"Cell(argv={self.argv!r}, egress={self.egress})"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine offers, as found by `probe.host`."""

    bwrap: str = "/usr/bin/bwrap"
    prlimit: str = "/usr/bin/prlimit"
    runsc: str = ""
    """gVisor, if it is here and works."""
    layers: frozenset[str] = frozenset(LAYERS)


def command(cell: Cell, host: Host | None = None) -> list[str]:
    """The argv that runs `cell`, without what its files and its volume need: for people, and for tests of the walls.

    `host` says which layers exist (default: all of them, so that a missing one fails instead of being left out).
    Raises as `check`.
    """
    machine = host or Host()
    check(cell)
    bare = msgspec.structs.replace(cell, files=(), volume=None)
    words = options(bare, machine, binds=[bind.source for bind in cell.binds], files=(), volume="")
    return [machine.bwrap, *words, "--", *inside(cell, machine, limit_processes=False)]


def inside(cell: Cell, host: Host, *, limit_processes: bool) -> list[str]:
    """The command that runs behind the walls.

    Where no cgroup counts processes, an rlimit does, set inside: RLIMIT_NPROC counts per user namespace (Linux 5.14),
    and set outside it would count everything that the same user runs anywhere on the host.
    """
    if limit_processes and LIMITS in host.layers:
        return [host.prlimit, f"--nproc={cell.processes}", "--", *cell.argv]
    return list(cell.argv)


def options(cell: Cell, host: Host, *, binds: Sequence[str], files: Sequence[int], volume: str) -> list[str]:
    """The walls as options of bwrap: `binds` are the places that the binds' sources are staged at, `files` the open
    descriptors of the files' contents, `volume` where the volume is staged."""
    words = [*_namespaces(cell, host.layers)]
    words += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in cell.env:
        words += ["--setenv", name, value]
    words += [*_system(), *_private(cell, host.layers)]
    for bind, source in zip(cell.binds, binds, strict=True):
        words += ["--bind" if bind.writable else "--ro-bind", source, bind.target]
    if cell.volume is not None:
        words += ["--bind" if cell.volume.writable else "--ro-bind", volume, cell.volume.target]
    for directory in cell.hidden:
        words += [*_sized(_TINY, host.layers), "--tmpfs", directory, "--remount-ro", directory]
    for file, descriptor in zip(cell.files, files, strict=True):
        words += ["--perms", f"{file.mode:04o}", "--ro-bind-data", str(descriptor), file.path]
    return [*words, "--remount-ro", "/", "--chdir", cell.cwd]


def _namespaces(cell: Cell, layers: frozenset[str]) -> list[str]:
    # With egress it is in a network namespace of its own already, which the launcher made.
    words = [f"--unshare-{name}" for name in NAMESPACES if name in layers and not (name == NET and cell.egress)]
    if USER in layers:
        words += ["--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID)]
        if NESTING in layers:
            words.append("--disable-userns")
    if UTS in layers:
        words += ["--hostname", "sandbox"]
    return words


def _system() -> list[str]:
    """/usr as it is, and the root's links into it as this distribution has them."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ROOT_LINKS:
        path = f"/{name}"
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    return words


def _private(cell: Cell, layers: frozenset[str]) -> list[str]:
    # bwrap's /dev is a tmpfs that can be written without a limit, hence the second /dev/shm and the remount.
    words = ["--dev", "/dev", *_sized(str(min(cell.tmp_bytes, _SHM_MOST)), layers), "--tmpfs", "/dev/shm"]  # noqa: S108
    words += ["--remount-ro", "/dev"]
    if PROC in layers:
        words += ["--proc", "/proc"]
        for path in (f"/proc/{name}" for name in _KERNEL):
            if os.path.exists(path):
                words += ["--ro-bind", path, path]
    return [*words, *_sized(str(cell.tmp_bytes), layers), "--tmpfs", "/tmp"]  # noqa: S108 - inside


def _sized(amount: str, layers: frozenset[str]) -> list[str]:
    return ["--size", amount] if TMP_SIZE in layers else []


def check(cell: Cell) -> None:
    """Raises `errors.SandboxMissing` for a cell that no wall can hold: a bad bind, an empty argv, a NUL."""
    if not cell.argv or not cell.argv[0]:
        raise errors.SandboxMissing("A sandbox needs a command to run.")
    words = (*cell.argv, cell.cwd, *(part for pair in cell.env for part in pair))
    if any("\0" in word for word in words):
        raise errors.SandboxMissing("A command or environment with a NUL character can't be run.")
    for name, _ in cell.env:
        if not name or "=" in name:
            raise errors.SandboxMissing("A variable name is not empty and holds no '='.")
    places = [*(bind.target for bind in cell.binds), *(file.path for file in cell.files)]
    places += [cell.volume.target] if cell.volume else []
    for path in (cell.cwd, *cell.hidden, *places, *(bind.source for bind in cell.binds)):
        if not _plain(path):
            raise errors.SandboxMissing(f"A path in a sandbox is absolute and normal; {path!r} is not.")
    for place in places:
        if place in _OWN or any(place.startswith(f"{own}/") for own in _OWN if own != "/"):
            raise errors.SandboxMissing(f"Nothing may be mounted over {place!r}.")


def _plain(path: str) -> bool:
    return posixpath.isabs(path) and not path.startswith("//") and posixpath.normpath(path) == path and "\0" not in path
