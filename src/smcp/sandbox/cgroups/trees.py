"""The platform's directory in one hierarchy, and why there may be none."""

import contextlib
import errno
import os
from typing import Final, NamedTuple

from smcp.sandbox.cgroups import nodes, places

Reason = tuple[str, str]
"""Why something is missing, and what brings it."""

_HELPERS: Final = ("cpuacct", "freezer")
"""Of version 1: they limit nothing, but know the processor time, and can hold processes."""
_ROUNDS: Final = 100


class Tree(NamedTuple):
    """Where this platform's groups are in one hierarchy."""

    version: int
    path: str
    controllers: frozenset[str]

    def node(self, name: str) -> nodes.Node:
        """The group `name`, made or not."""
        kind = nodes.V2 if self.version == 2 else nodes.V1
        return kind(f"{self.path}/{name}", self.controllers)

    def renew(self) -> None:
        """Make the directory once more: who ran before under the same name may end now, and removes it when it is
        empty. Raises OSError."""
        _made(self.path)
        for name in sorted(self.controllers) if self.version == 2 else ():
            nodes.write(f"{self.path}/cgroup.subtree_control", f"+{name}")

    def remove(self) -> None:
        """Remove the directory if nothing is left in it."""
        for path in (f"{self.path}/{places.HOST}", self.path):
            with contextlib.suppress(OSError):
                os.rmdir(path)


class Gone(Exception):
    """Somebody who looks under the same name removed the directory in between: look again."""


class Planted(NamedTuple):
    """What came of an attempt to have a tree."""

    tree: Tree | None
    why: dict[str, Reason]
    """For each controller that this hierarchy has and that can't be used."""
    mark: int = 0
    """Of its directory, by which another of the same name is told apart."""


def plant(seen: places.Seen, platform: str) -> list[Planted]:
    """A directory for `platform` in every hierarchy that is of use; version 2 first: it can end a group at once.

    Raises `Gone`.
    """
    found: list[Planted] = []
    taken: set[str] = set()
    wanted = (*nodes.LAYERS.values(), *_HELPERS)
    # The same hierarchy may be mounted more than once, and one of the mounts be writable.
    for mount in sorted(seen.mounts, key=lambda mount: (-mount.version, not mount.writable)):
        if mount.version == 2:
            has = frozenset(nodes.read(f"{mount.point}/cgroup.controllers").split())
            if not any(one.tree is not None and one.tree.version == 2 for one in found):
                found.append(_second(mount, seen.own.get("", "/"), platform, has & frozenset(wanted)))
        else:
            has = mount.controllers.intersection(wanted) - taken
            if has:
                found.append(_first(mount, seen.own, platform, has))
        if found and found[-1].tree is not None:
            taken |= has
    return found


def _first(mount: places.Mount, own: dict[str, str], platform: str, has: frozenset[str]) -> Planted:
    path = own.get(sorted(has)[0], "/")
    base = places.base(mount, path)
    if base is None:
        return Planted(None, dict.fromkeys(has, _closed(mount)))
    place = f"{base}/{places.named(platform)}"
    try:
        _made(place)
        mark = marked(place)
        nodes.V1(place, frozenset()).inherit()
    except OSError as error:
        return Planted(None, dict.fromkeys(has, explain(error, f"make {place}", mount)))
    return Planted(Tree(1, place, has), {}, mark)


def _second(mount: places.Mount, path: str, platform: str, has: frozenset[str]) -> Planted:
    base = places.base(mount, path)
    if base is None:
        return Planted(None, dict.fromkeys(has, _closed(mount)))
    place = f"{base}/{places.named(platform)}"
    mark = 0
    try:
        _made(place)
        mark = marked(place)
        # The top of a machine may hold processes and children; every other group holds one or the other.
        if has and os.path.exists(f"{base}/cgroup.type"):
            _make_room(base, f"{place}/{places.HOST}")
    except OSError as error:
        if mark and marked(place) != mark:
            raise Gone(place) from error
        return Planted(None, dict.fromkeys(has, explain(error, f"prepare {place}", mount)))
    # A controller may be there for the machine and not be handed down to the group that we may use.
    down = frozenset(nodes.read(f"{base}/cgroup.controllers").split())
    why = {name: _withheld(name) for name in has - down}
    usable: set[str] = set()
    for name in sorted(has & down):
        try:
            for folder in (base, place):
                nodes.write(f"{folder}/cgroup.subtree_control", f"+{name}")
            usable.add(name)
        except OSError as error:
            if marked(place) != mark:
                raise Gone(place) from error
            why[name] = explain(error, f"enable {name} below {base}", mount)
    # Beside it are the cells, which may be many: the platform gets its turn whenever it has something to do.
    with contextlib.suppress(OSError):
        nodes.write(f"{place}/{places.HOST}/cpu.weight", "10000")
    return Planted(Tree(2, place, frozenset(usable)), why, mark)


def marked(place: str) -> int:
    """The mark of the directory `place`; 0 when there is none."""
    try:
        return os.stat(place).st_ino
    except OSError:
        return 0


def _made(place: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o755)


def _make_room(base: str, host: str) -> None:
    """Move who is in `base` into a leaf: a group whose children are limited holds no process of its own
    (cgroup-v2.rst, "No Internal Process Constraint"). All of them are the platform's or in its container.
    """
    for _ in range(_ROUNDS):
        left = [pid for pid in nodes.read(f"{base}/cgroup.procs").split() if pid != "0"]
        if not left:
            return
        with contextlib.suppress(FileExistsError):
            os.mkdir(host, 0o755)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                nodes.write(f"{host}/cgroup.procs", pid)
    raise OSError(errno.EBUSY, f"processes keep appearing in {base}")


def explain(error: OSError, doing: str, mount: places.Mount | None = None) -> Reason:
    """What went wrong with a group, and the fix, in words for an operator."""
    said = f"the kernel refused to {doing}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EROFS:
        return _read_only(mount.point if mount else "/sys/fs/cgroup")
    if error.errno in (errno.EACCES, errno.EPERM):
        return said, _delegation()
    if error.errno == errno.EBUSY:
        return said, "start the platform in a unit or container of its own, where no other process runs beside it"
    if error.errno == errno.ENOENT:
        return said, "the running kernel lacks it: use a distribution's standard kernel"
    return said, "see docs/how-to/cgroups.md"


def absent(controller: str) -> Reason:
    """Why no hierarchy has `controller`."""
    fix = "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup"
    if controller == "memory":
        fix += "; on a Raspberry Pi also with cgroup_enable=memory"
    return f"no mounted hierarchy of control groups has the controller {controller}", fix


def _closed(mount: places.Mount) -> Reason:
    if not mount.writable:
        return _read_only(mount.point)
    if mount.version == 1 and os.geteuid() != 0:
        return (
            "control groups of version 1 are for root only",
            "start the platform as root, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    return "this user may not make control groups where the platform was started", _delegation()


def _read_only(point: str) -> Reason:
    return (
        f"{point} is mounted read-only, as containers have it",
        "docker run --cgroupns=private --security-opt writable-cgroups=true (Docker 28);"
        " podman run --security-opt unmask=/sys/fs/cgroup; or --privileged",
    )


def _delegation() -> str:
    return "start it with: systemd-run --user --scope -p Delegate=yes smcp up; as a service: Delegate=yes in its unit"


def _withheld(controller: str) -> Reason:
    return (
        f"the controller {controller} is not handed down to the group that the platform may use",
        "systemd: a drop-in for user@.service with 'Delegate=cpu memory pids' under [Service], then log in anew",
    )
