"""The stronger tier: a cell in gVisor, which answers its system calls in a kernel of its own, in user space.

The launcher makes what bubblewrap would have made otherwise: the root of the cell, read-only, out of the staged binds.
`runsc` (an OCI runtime; gVisor's only program) then runs as the cell's uid, in the cell's cgroups, pid, mount and
network namespaces, without privilege: it needs no root, no daemon and no configuration of the host.

Flags: `runsc flags`, gVisor 2022-12 and later. Configuration: OCI runtime specification 1.0.2, config.md.
"""

import os
import posixpath
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from smcp.kernel import errors
from smcp.sandbox import walls
from smcp.sandbox.launcher import linux

NEEDS: Final = (walls.PID, walls.PROC, walls.MEMORY, walls.PIDS)
"""Layers without which this tier is none: runsc counts on a /proc of its pid namespace, and no rlimit of the host's
bounds what a kernel in user space takes for its programs."""
OPEN_FILES: Final = 16_384
"""Of runsc's own processes. What the cell may open is held by gVisor's kernel."""
MEMORY: Final = 67_108_864
"""Bytes that gVisor's kernel and its file server get on top of a cell's."""
THREADS: Final = 128
"""Threads that runsc's own processes get on top; each thread of the cell takes two of the host's."""

_ROOT: Final = "root"
_BUNDLE: Final = "bundle"
_STATE: Final = "state"
_ROOM: Final = 1_048_576
_SHM_MOST: Final = 16_777_216
_OWN: Final = ("/usr", "/dev", "/proc", "/sys", "/tmp")  # noqa: S108 - inside
_CAPABILITIES: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")


def wider(cell: walls.Cell) -> walls.Cell:
    """`cell` in this tier, with what gVisor itself takes."""
    return msgspec.structs.replace(
        cell,
        tier=walls.GVISOR,
        memory_bytes=cell.memory_bytes + MEMORY,
        processes=2 * cell.processes + THREADS,
    )


def check(cell: walls.Cell, host: walls.Host) -> None:
    """Raises `errors.SandboxMissing` for a cell of this tier that this host can't hold."""
    if not host.runsc or not host.layers.issuperset(NEEDS):
        raise errors.SandboxMissing("This machine has no gVisor for hosted servers. 'smcp doctor' says why.")
    if any(bind.writable for bind in cell.binds):
        raise errors.SandboxMissing("A cell in gVisor writes to its volume and its /tmp only.")
    if cell.handed:
        raise errors.SandboxMissing("A command in gVisor is handed no descriptors.")


def command(cell: walls.Cell, name: str, stage: str) -> list[str]:
    """runsc's argv, `name` first. Nothing of a tenant's is in it."""
    # With egress it shares the cell's own network namespace, in which nothing but the egress guard answers.
    network = "host" if cell.egress else "none"
    flags = ["--rootless", "--ignore-cgroups", f"--network={network}", "--overlay2=none"]
    return [name, *flags, f"--root={stage}/{_STATE}", "run", f"--bundle={stage}/{_BUNDLE}", "cell"]


def prepare(cell: walls.Cell, binds: Sequence[str], volume: str, stage: str, uid: int) -> None:
    """Below `stage`: the cell's root, made of the staged `binds` and read-only, and runsc's bundle and directory.

    Runs in the cell's own mount namespace, before its uid is taken on. Raises OSError.
    """
    # runsc names processes by the numbers of its own pid namespace.
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    root = f"{stage}/{_ROOT}"
    os.mkdir(root, 0o755)
    room = _ROOM + sum(len(file.content) + 4096 for file in cell.files)
    # No flags: runsc's file server binds it anew, and may not take away what this namespace has set.
    linux.mount("root", root, "tmpfs", 0, f"mode=0755,size={room}")
    places = [("/usr", "/usr"), *_links(root)]
    places += [(place, bind.target) for place, bind in zip(binds, cell.binds, strict=True)]
    # Every mount point and file first, while all that is below the root is the launcher's: behind a mount there may be
    # a tenant's links.
    for source, target in places:
        _point(root, target, directory=stat.S_ISDIR(os.stat(source).st_mode))
    for target in (*_OWN, cell.cwd, *([cell.volume.target] if cell.volume else [])):
        if not any(_below(target, other) for _, other in places):
            _point(root, target, directory=True)
    for file in cell.files:
        _point(root, file.path, directory=False, content=file.content, mode=file.mode, uid=uid)
    for source, target in places:
        place = linux.open_plain(root + target, os.O_PATH)
        linux.mount(source, f"/proc/self/fd/{place}", flags=linux.MS_BIND | linux.MS_REC)
        os.close(place)
    linux.read_only(root)
    os.mkdir(f"{stage}/{_STATE}", 0o700)
    os.chown(f"{stage}/{_STATE}", uid, uid)
    os.mkdir(f"{stage}/{_BUNDLE}", 0o755)
    text = msgspec.json.encode(config(cell, root, volume))
    # The environment is in it: nobody else's to read, and gone with this namespace.
    _written(f"{stage}/{_BUNDLE}/config.json", text, 0o400, uid)


def config(cell: walls.Cell, root: str, volume: str) -> dict[str, Any]:
    """The bundle's config.json."""
    mounts = [
        _mount("/proc", "proc"),
        _mount("/dev", "tmpfs", "mode=0755"),
        _mount("/dev/shm", "tmpfs", "mode=1777", f"size={min(cell.tmp_bytes, _SHM_MOST)}"),  # noqa: S108 - inside
        _mount("/tmp", "tmpfs", "mode=1777", f"size={cell.tmp_bytes}"),  # noqa: S108 - inside
        *(_mount(directory, "tmpfs", "mode=0755", "ro") for directory in cell.hidden),
    ]
    if cell.volume is not None:
        mounts.append({**_mount(cell.volume.target, "bind", "bind", _mode(cell.volume)), "source": volume})
    kinds = ["pid", "ipc", "uts", "mount", *([] if cell.egress else ["network"])]
    limits = (("CORE", 0), ("NOFILE", cell.open_files), ("FSIZE", cell.file_bytes or cell.tmp_bytes))
    return {
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": root, "readonly": True},
        "process": {
            "args": list(cell.argv),
            # Once each, the last one: bubblewrap sets a name anew, here programs would find the first.
            "env": [f"{name}={value}" for name, value in dict(cell.env).items()],
            "cwd": cell.cwd,
            # The one uid of the host that is mapped: its volume is its own. Without a capability 0 is a number.
            "user": {"uid": 0, "gid": 0},
            "capabilities": {name: [] for name in _CAPABILITIES},
            "noNewPrivileges": True,
            "rlimits": [{"type": f"RLIMIT_{name}", "hard": most, "soft": most} for name, most in limits],
        },
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }


def _mode(volume: walls.Volume) -> str:
    return "rw" if volume.writable else "ro"


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": ["nosuid", "nodev", *options]}


def _links(root: str) -> Iterable[tuple[str, str]]:
    """The root's links into /usr, made; and those that are directories on this distribution, to be mounted."""
    for name in walls.ROOT_LINKS:
        path = f"/{name}"
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            yield path, path


def _below(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")


def _point(root: str, target: str, *, directory: bool, content: bytes = b"", mode: int = 0o644, uid: int = 0) -> None:
    os.makedirs(root + (target if directory else posixpath.dirname(target)), 0o755, exist_ok=True)
    if not directory:
        _written(root + target, content, mode, uid)


def _written(path: str, content: bytes, mode: int, uid: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, uid, -1)
