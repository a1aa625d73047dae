"""Where this process sees control groups: read from /proc, never assumed."""

import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

HOST: Final = "host"
"""The leaf into which the platform's own processes go where a group with children may hold none."""
_PREFIX: Final = "smcp-"
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_DEEPEST: Final = 8
_SERVICE: Final = re.compile(r"run-[^/]*|[^/]*smcp[^/]*")


class Mount(NamedTuple):
    """One mounted hierarchy of control groups."""

    version: int
    controllers: frozenset[str]
    """Of version 1 only; one of version 2 lists them in a file."""
    point: str
    root: str
    """Which group is seen at `point`, as a path from the top of the hierarchy (or of this cgroup namespace)."""
    writable: bool


class Seen(NamedTuple):
    """What /proc says about this process."""

    mounts: tuple[Mount, ...]
    own: dict[str, str]
    """The group this process is in, for each controller; under "" that of version 2."""


def seen() -> Seen:
    """What this process sees now. Raises OSError without /proc."""
    return Seen(tuple(mounts(_text("/proc/self/mountinfo"))), own(_text("/proc/self/cgroup")))


def mounts(mountinfo: str) -> Iterator[Mount]:
    """The hierarchies in the text of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        first, last = before.split(" "), after.split(" ")
        if len(first) < 6 or len(last) < 3 or last[0] not in ("cgroup", "cgroup2"):
            continue
        options = last[2].split(",")
        yield Mount(
            version=2 if last[0] == "cgroup2" else 1,
            controllers=frozenset(options if last[0] == "cgroup" else ()),
            point=_plain(first[4]),
            root=_plain(first[3]),
            writable="ro" not in first[5].split(",") and "ro" not in options,
        )


def own(cgroup: str) -> dict[str, str]:
    """Each controller's group in the text of /proc/self/cgroup (cgroups(7)); "" is version 2."""
    found: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            found[controller] = path
    return found


def directory(mount: Mount, path: str) -> str:
    """Where the group `path` is below `mount`; the top of what is seen there when the group is not."""
    inside = os.path.relpath(path, mount.root) if path.startswith("/") else ".."
    if inside == ".." or inside.startswith("../") or "/.." in path + mount.root:
        return mount.point
    return os.path.normpath(os.path.join(mount.point, inside))


def base(mount: Mount, path: str) -> str | None:
    """The directory below which groups may be made, by one who is in the group `path`; None when there is none.

    Its own group when that was handed over for this purpose ("delegated", which systemd marks with an attribute), else
    the top of what is seen: the top of the machine for root, or of a container. A group that was not handed over is
    somebody else's to arrange (systemd, "Control Group APIs and Delegation").
    """
    here = _above_host(directory(mount, path))
    if delegated(here) and os.access(here, os.W_OK, effective_ids=True):
        return here
    return mount.point if os.access(mount.point, os.W_OK, effective_ids=True) else None


def delegated(path: str) -> bool:
    """The group was handed over by systemd: marked so, or (systemd before 251) this user's own transient unit."""
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    try:
        mine = os.geteuid() != 0 and os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False
    return mine and _SERVICE.fullmatch(os.path.basename(path)) is not None


def left(top: str, name: str) -> Iterator[str]:
    """Directories called `name` below `top`, wherever an earlier run was started from."""
    folders = [(top, 0)]
    while folders:
        folder, depth = folders.pop()
        for entry in listed(folder):
            if entry == name:
                yield f"{folder}/{entry}"
            elif depth < _DEEPEST:
                folders.append((f"{folder}/{entry}", depth + 1))


def listed(folder: str) -> list[str]:
    """The groups in a group; none when it is gone."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def named(platform: str) -> str:
    """The name of a platform's directory."""
    return f"{_PREFIX}{platform}"


def _above_host(path: str) -> str:
    parent, name = os.path.split(path)
    above, owner = os.path.split(parent)
    return above if name == HOST and owner.startswith(_PREFIX) else path


def _plain(word: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), word)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
