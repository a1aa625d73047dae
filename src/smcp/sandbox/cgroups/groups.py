"""All hierarchies together: one name, one group with every limit that works here."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import time
from typing import Final, NamedTuple

from smcp.kernel import errors
from smcp.sandbox.cgroups import nodes, places, trees

_PLATFORM: Final = re.compile(r"[a-z0-9]+")
_NAME: Final = re.compile(r"[a-z0-9-]+")
_TRIAL: Final = "trial"
_TRIAL_LIMITS: Final = nodes.Limits(67_108_864, 64, 1.0)
_SWEEP_S: Final = 10.0
_SWEEP_STEP_S: Final = 0.01
_ROUNDS: Final = 100
_LOOKS: Final = 50


class Group:
    """One cell's group, a directory in each hierarchy."""

    def __init__(self, name: str, parts: list[nodes.Node]) -> None:
        self.name = name
        self._parts = parts

    def place(self) -> int | None:
        """A descriptor of its directory of version 2, for clone3(2) to make a process there. Raises OSError."""
        folders = [part.path for part in self._parts if isinstance(part, nodes.V2)]
        return os.open(folders[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if folders else None

    def opened(self, *, born: bool = False) -> list[int]:
        """Descriptors for a forked child, which writes b"0" into each and is in; without that of version 2 if it was
        `born` there (`place`). Raises `errors.SandboxMissing`."""
        found: list[int] = []
        try:
            for part in self._parts:
                if born and isinstance(part, nodes.V2):
                    continue
                found.append(part.entry())
        except OSError as error:
            for descriptor in found:
                os.close(descriptor)
            raise errors.SandboxMissing(detail=f"group {self.name}: {error}") from error
        return found

    def processes(self) -> list[int]:
        """Who is in it, in whichever hierarchy."""
        return sorted({pid for part in self._parts for pid in part.processes()})

    def kill(self) -> None:
        """End every process of it, frozen or not. They are gone a moment later, not yet on return."""
        if not any(part.kill() for part in self._parts):
            self._hunt()
        else:
            # What a freezer of version 1 holds does not die before it is let go.
            self.freeze(False)

    def freeze(self, frozen: bool) -> bool:
        """Hold every process where it is, or let them go on. False where the kernel can't."""
        return any(part.freeze(frozen) for part in self._parts)

    def spent(self) -> float:
        """Processor time that it has taken, in seconds."""
        return max(part.spent() for part in self._parts)

    def memory(self) -> int:
        """Bytes that it has now; 0 where nothing tells."""
        return max(part.memory() for part in self._parts)

    def weigh(self, share: float) -> None:
        """Its weight beside other groups where processors are short, as a part of what each has at first."""
        for part in self._parts:
            part.weigh(share)

    def remove(self) -> bool:
        """False while something of it is still dying: ask again later. Never waits."""
        left = [part for part in self._parts if not part.remove()]
        return not left

    def usage(self) -> nodes.Usage:
        """What the cell takes now, and has taken."""
        known = [part.usage() for part in self._parts]
        most = [max(values) for values in zip(nodes.Usage(), *known, strict=True)]
        return nodes.Usage(int(most[0]), int(most[1]), float(most[2]), int(most[3]), int(most[4]))

    def _hunt(self) -> None:
        """Without cgroup.kill: one by one, as long as there are some that have not been signalled.

        A process that was signalled forks no more, and frozen ones don't at all.
        """
        held = self.freeze(True)
        done: set[int] = set()
        for _ in range(_ROUNDS):
            fresh = [pid for pid in self.processes() if pid not in done and pid > 0]
            if not fresh:
                break
            for pid in fresh:
                _kill(pid, self)
            done.update(fresh)
        if held:
            self.freeze(False)


class Groups:
    """The groups of one platform on this machine."""

    def __init__(self, platform: str, found: list[trees.Tree], tops: list[str], why: dict[str, trees.Reason]) -> None:
        self.why: dict[str, trees.Reason] = why
        """For each layer that is missing: why, and what brings it."""
        usable = {controller for tree in found for controller in tree.controllers}
        self.layers: frozenset[str] = frozenset(name for name, one in nodes.LAYERS.items() if one in usable)
        """The layers that work here, tried."""
        self._platform = platform
        self._trees = found
        self._tops = tops
        self._made: set[str] = set()

    def make(self, name: str, limits: nodes.Limits) -> Group:
        """A new group. Raises `errors.SandboxMissing`, with the reason, and leaves nothing behind."""
        if _NAME.fullmatch(name) is None or name == places.HOST:
            raise errors.SandboxMissing(detail=f"{name!r} is no name of a group")
        parts: list[nodes.Node] = []
        for tree in self._trees:
            part = tree.node(name)
            try:
                parts.append(part)
                try:
                    part.make()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        raise
                    # An earlier launcher of this platform has just ended, and removed what it took for its own.
                    tree.renew()
                    part.make()
                part.limit(limits)
            except OSError as error:
                for made in parts:
                    made.remove()
                why, fix = trees.explain(error, f"make the group {part.path}")
                raise errors.SandboxMissing(f"A cell could not be limited: {why}. {fix}", detail=str(error)) from error
        self._made.add(name)
        return Group(name, parts)

    def sweep(self) -> int:
        """End and remove what an earlier run of this platform left, wherever it was started from; how many groups.

        Waits for the kernel up to some seconds; what can't die by then is left for the next sweep.
        """
        own = places.named(self._platform)
        folders = [folder for top in self._tops for folder in places.left(top, own)]
        left: dict[str, list[nodes.Node]] = {}
        for folder in folders:
            tree = trees.Tree(2 if os.path.exists(f"{folder}/cgroup.type") else 1, folder, frozenset())
            for name in places.listed(folder):
                if name != places.HOST and name not in self._made:
                    left.setdefault(name, []).append(tree.node(name))
        waiting = [Group(name, sorted(parts, key=_version, reverse=True)) for name, parts in left.items()]
        total = len(waiting)
        deadline = time.monotonic() + _SWEEP_S
        while waiting:
            for group in waiting:
                group.kill()
            waiting = [group for group in waiting if not group.remove()]
            if time.monotonic() > deadline:
                break
            if waiting:
                time.sleep(_SWEEP_STEP_S)
        here = {tree.path for tree in self._trees}
        for folder in folders:
            if folder not in here:
                trees.Tree(0, folder, frozenset()).remove()
        return total - len(waiting)

    def close(self) -> None:
        """Remove what is empty of the platform's own directories."""
        for tree in self._trees:
            tree.remove()


class Found(NamedTuple):
    """What this machine offers."""

    groups: Groups | None
    why: dict[str, trees.Reason]
    """For each layer that is missing: why, and what brings it. All of them, when there are no groups."""


def find(platform: str, seen: places.Seen | None = None) -> Groups | None:
    """The groups for `platform`; None when nothing can be limited here (`look` says why).

    Call it from a process whose own group it may tidy: in a delegated unit or a container every process of that group
    is moved into a leaf first. Raises ValueError for a platform's id that is not [a-z0-9]+.
    """
    return look(platform, seen).groups


def look(platform: str, seen: places.Seen | None = None) -> Found:
    """As `find`, and for every missing layer why. `seen` is what /proc says (tests leave hierarchies out)."""
    if _PLATFORM.fullmatch(platform) is None:
        raise ValueError("a platform's id is [a-z0-9]+")
    here = seen or places.seen()
    for _ in range(_LOOKS):
        try:
            return _look(platform, here)
        except trees.Gone:
            time.sleep(_SWEEP_STEP_S)
    again = (
        f"others make and remove groups called {places.named(platform)} all the while",
        "start the platform once more when they have ended",
    )
    return Found(None, dict.fromkeys(nodes.LAYERS, again))


def _look(platform: str, here: places.Seen) -> Found:
    """Raises `trees.Gone`."""
    planted = trees.plant(here, platform)
    why = {name: trees.absent(controller) for name, controller in nodes.LAYERS.items()}
    layer = {controller: name for name, controller in nodes.LAYERS.items()}
    tried: list[trees.Tree] = []
    for one in planted:
        reasons = dict(one.why)
        if one.tree is not None:
            controllers, refused = _try(one.tree)
            if (controllers is None or refused) and trees.marked(one.tree.path) != one.mark:
                raise trees.Gone(one.tree.path)
            reasons |= refused
            if controllers is None:
                one.tree.remove()
            else:
                tried.append(one.tree._replace(controllers=controllers))
        why |= {layer[controller]: reason for controller, reason in reasons.items() if controller in layer}
    groups = Groups(platform, tried, [mount.point for mount in here.mounts], why)
    for name in groups.layers:
        why.pop(name, None)
    if groups.layers:
        return Found(groups, why)
    groups.close()
    return Found(None, why)


def _try(tree: trees.Tree) -> tuple[frozenset[str] | None, dict[str, trees.Reason]]:
    """Which controllers take a limit, with a process in the group; None when none may enter."""
    node = tree.node(f"{_TRIAL}-{os.getpid()}")
    works: set[str] = set()
    refused: dict[str, trees.Reason] = {}
    try:
        node.make()
    except OSError as error:
        return None, dict.fromkeys(tree.controllers, trees.explain(error, f"make {node.path}"))
    try:
        for controller in tree.controllers:
            try:
                type(node)(node.path, frozenset({controller})).limit(_TRIAL_LIMITS)
                works.add(controller)
            except OSError as error:
                refused[controller] = trees.explain(error, f"limit {controller} in {node.path}")
        _enter(node)
    except OSError as error:
        return None, dict.fromkeys(tree.controllers, trees.explain(error, f"put a process into {node.path}"))
    finally:
        deadline = time.monotonic() + _SWEEP_S
        while not node.remove() and time.monotonic() < deadline:
            time.sleep(_SWEEP_STEP_S / 10)
    return frozenset(works), refused


def _enter(node: nodes.Node) -> None:
    """Put a process of ours into the group: to make a group and to enter it are two permissions (cgroup-v2.rst,
    "Delegation Containment"). Raises OSError.
    """
    with subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE, env={}, cwd="/") as child:
        nodes.write(f"{node.path}/cgroup.procs", str(child.pid))


def _version(part: nodes.Node) -> int:
    return 2 if isinstance(part, nodes.V2) else 1


def _kill(pid: int, group: Group) -> None:
    """SIGKILL to a process of `group`, and to no other that got its number in the meantime."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:  # before Linux 5.3
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return
    try:
        if pid in group.processes():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
