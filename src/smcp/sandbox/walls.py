"""The walls: one function that turns a `Cell` into the command line that builds them.

Order of the command: `prlimit` sets the limits that every process inside inherits, then `bwrap` makes the namespaces
and the view of the file system, then, behind `--`, the tenant's command. What a tenant chose (argv, environment) is
only ever an operand, never a flag; a bind comes from the platform and is checked all the same.

Who starts the command must give it an empty environment: `--clearenv` does not reach pid 1 of the sandbox, whose
`/proc/1/environ` shows what bwrap itself was started with. `sandbox.spawn` does so; start nothing without it.

Kept by the walls: no network, no host files but `/usr` (read-only) and the binds, no host processes, no capability, no
way to a new user namespace, a read-only root, a private /tmp of a fixed size, an empty environment.
Not yet (part 2 of the work): a cgroup (memory and processes are limited per process, not per server), seccomp,
a uid of its own per tenant. bwrap runs as the platform's user.
"""

import os
import posixpath
from typing import Final, NamedTuple

import msgspec

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

NAMESPACES: Final = (USER, PID, NET, IPC, UTS, CGROUP)
LAYERS: Final = (*NAMESPACES, NESTING, TMP_SIZE, PROC, LIMITS)
"""Every layer that `command` can take: the namespaces; no user namespace inside; a /tmp of fixed size; a /proc of its
own; rlimits."""

_SHM_MOST: Final = 16_777_216
_TINY: Final = "65536"
# What a process with the host's uid 0 behind its map could write in /proc although it has no capability (a sysctl
# checks the uid: core_pattern would be a way out). bwrap covers what access(2) calls writable; /proc/sys isn't.
_KERNEL: Final = ("acpi", "bus", "driver", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger", "tty")
_ROOT_LINKS: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
# Places that the walls make themselves; a bind over one of them would take a wall away.
_OWN: Final = ("/", "/dev", "/proc", "/sys", "/usr", *(f"/{name}" for name in _ROOT_LINKS))


class Bind(msgspec.Struct, frozen=True):
    """A directory or file of the host that is visible inside. Read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


class File(msgspec.Struct, frozen=True):
    """A small read-only file that exists only inside."""

    path: str
    content: bytes
    mode: int = 0o444

    def __repr__(self) -> str:
        # The content may be a secret; a repr ends up in logs.
        return f"File({self.path!r}, {len(self.content)} bytes)"


class Volume(msgspec.Struct, frozen=True):
    """A server's open volume (a tmpfs that outlives the cell), seen at `target`."""

    server: str
    target: str
    writable: bool = True


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What one sandboxed process may see and take."""

    argv: tuple[str, ...]
    binds: tuple[Bind, ...]
    tenant: str = ""
    """Whose code runs in it, and so which uid of the host stands behind it; empty: the fetcher's, no tenant's code."""
    files: tuple[File, ...] = ()
    volume: Volume | None = None
    egress: tuple[int, ...] = ()
    """TCP ports on which the cell's own network leads to the platform's egress guard; none: no network at all."""
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/tmp"  # noqa: S108 - a path inside the sandbox
    network: bool = False
    """True only for fetching packages: the host's network, without which no package source is reached."""
    hidden: tuple[str, ...] = ()
    """Directories inside a bind that appear empty (an interpreter's own site-packages)."""
    memory_bytes: int
    """Data segment of each process (RLIMIT_DATA), not their sum."""
    tmp_bytes: int
    open_files: int
    processes: int
    file_bytes: int = 0
    """Largest file that may be written; 0 for as much as /tmp holds."""

    def __repr__(self) -> str:
        # The environment may hold secrets; a repr ends up in logs.
        return f"Cell(argv={self.argv!r}, network={self.network})"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine offers, as found by `probe.host`."""

    bwrap: str = "/usr/bin/bwrap"
    prlimit: str = "/usr/bin/prlimit"
    layers: frozenset[str] = frozenset(LAYERS)


class Parts(NamedTuple):
    """A command in two: what runs before the walls, and the walls as options of bwrap."""

    before: list[str]
    options: list[str]


def command(cell: Cell, host: Host | None = None) -> list[str]:
    """The argv that runs `cell`. Start it with an empty environment; `spawn.prepared` also hides it from `ps`.

    `host` says which layers exist (default: all of them, so that a missing one fails instead of being left out).
    Raises `errors.SandboxMissing` for a cell that no wall can hold: a bad bind, an empty argv, a NUL.
    """
    made = parts(cell, host or Host())
    return [*made.before, *made.options, "--", *cell.argv]


def parts(cell: Cell, host: Host) -> Parts:
    """As `command`, for who hands the options to bwrap in another way."""
    _check(cell)
    options = [*_namespaces(cell, host.layers)]
    options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in cell.env:
        options += ["--setenv", name, value]
    options += [*_system(), *_private(cell, host.layers)]
    for bind in cell.binds:
        options += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
    for directory in cell.hidden:
        options += [*_sized(_TINY, host.layers), "--tmpfs", directory, "--remount-ro", directory]
    options += ["--remount-ro", "/", "--chdir", cell.cwd]
    return Parts([*_limits(cell, host), host.bwrap], options)


def _limits(cell: Cell, host: Host) -> list[str]:
    if LIMITS not in host.layers:
        return []
    return [
        host.prlimit,
        "--core=0",
        f"--nofile={cell.open_files}",
        f"--fsize={cell.file_bytes or cell.tmp_bytes}",
        # RLIMIT_AS would stop runtimes that reserve address space they never touch (V8, Go, WebAssembly).
        f"--data={cell.memory_bytes}",
        f"--nproc={cell.processes}",
        "--memlock=65536",
        "--msgqueue=0",
        "--",
    ]


def _namespaces(cell: Cell, layers: frozenset[str]) -> list[str]:
    words = [f"--unshare-{name}" for name in NAMESPACES if name in layers and not (name == NET and cell.network)]
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
    for name in _ROOT_LINKS:
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


def _check(cell: Cell) -> None:
    if not cell.argv or not cell.argv[0]:
        raise errors.SandboxMissing("A sandbox needs a command to run.")
    words = (*cell.argv, cell.cwd, *(part for pair in cell.env for part in pair))
    if any("\0" in word for word in words):
        raise errors.SandboxMissing("A command or environment with a NUL character can't be run.")
    for name, _ in cell.env:
        if not name or "=" in name:
            raise errors.SandboxMissing("A variable name is not empty and holds no '='.")
    for path in (cell.cwd, *cell.hidden, *(path for bind in cell.binds for path in (bind.source, bind.target))):
        if not _plain(path):
            raise errors.SandboxMissing(f"A path in a sandbox is absolute and normal; {path!r} is not.")
    for bind in cell.binds:
        if bind.target in _OWN or any(bind.target.startswith(f"{own}/") for own in _OWN if own != "/"):
            raise errors.SandboxMissing(f"Nothing may be mounted over {bind.target!r}.")


def _plain(path: str) -> bool:
    return posixpath.isabs(path) and not path.startswith("//") and posixpath.normpath(path) == path and "\0" not in path
