"""Looking after what lies around: ownership of build directories, cells that an earlier run left."""

import contextlib
import os
import signal
import stat
import time
from collections.abc import Collection
from typing import Final

from smcp.sandbox.launcher import child, linux

_SWEEP_S: Final = 10.0
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def own(root: str, path: str, owners: Collection[int], uid: int) -> None:
    """Give the directory `path`, which lies below `root`, and all that is in it to `uid`.

    Only what belongs to one of `owners` changes hands: a hard link to a file of somebody else stays what it is.
    Links are not followed, neither on the way nor inside. Raises OSError.
    """
    if not path.startswith(f"{root}/") or os.path.normpath(path) != path or "\0" in path:
        raise PermissionError(f"{path} is no directory of a build")
    here = linux.open_plain(path, os.O_RDONLY | os.O_DIRECTORY)
    # Not os.fwalk, which recurses and keeps a descriptor for each level: a build may nest as deep as it likes.
    above: list[tuple[os.stat_result, list[str]]] = []
    try:
        pending = _give(here, owners, uid)
        while pending or above:
            if pending:
                inside = os.open(pending.pop(), _FOLDER, dir_fd=here)
                above.append((os.fstat(here), pending))
                os.close(here)
                here = inside
                pending = _give(here, owners, uid)
            else:
                was, pending = above.pop()
                outside = os.open("..", _FOLDER, dir_fd=here)
                os.close(here)
                here = outside
                if not os.path.samestat(os.fstat(here), was):
                    raise PermissionError(f"{path} is being moved")
    finally:
        os.close(here)


def reclaim(root: str, owners: Collection[int], uid: int) -> None:
    """Give back to the platform, `uid`, what builds had when an earlier run was killed: else it can't remove them."""
    with os.scandir(root) as entries:
        left = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in left:
        with contextlib.suppress(OSError):
            own(root, path, owners, uid)


def _give(directory: int, owners: Collection[int], uid: int) -> list[str]:
    """Give a directory and its files to `uid`; the names of those in it."""
    if os.fstat(directory).st_uid in owners:
        os.fchown(directory, uid, uid)
    folders: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                folders.append(entry.name)
            elif found.st_uid in owners and found.st_nlink == 1:
                _give_file(directory, entry.name, owners, uid)
    return folders


def _give_file(directory: int, name: str, owners: Collection[int], uid: int) -> None:
    # What is looked at once more is what changes hands: the name may mean another file by now.
    try:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(file)
        if found.st_uid in owners and found.st_nlink == 1:
            linux.chown(file, uid)
    finally:
        os.close(file)


def sweep(platform: str) -> int:
    """End every cell of this platform that an earlier run left, however it ended; how many processes there were.

    They are known by their argv[0], which is bubblewrap's own and nothing that hosted code can change.
    """
    seen: set[int] = set()
    foreign: set[int] = set()
    deadline = time.monotonic() + _SWEEP_S
    while (left := _left(platform) - foreign) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                seen.add(pid)
            except ProcessLookupError:
                continue
            except PermissionError:
                foreign.add(pid)  # anybody may call a program of theirs so; that does not hold up a start
        time.sleep(0.005)
    return len(seen)


def _left(platform: str) -> set[int]:
    mark = f"{child.ARGV0}{platform}\0".encode()
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read(len(mark)) == mark and _running(name):
                    found.add(int(name))
    return found


def _running(name: str) -> bool:
    with open(f"/proc/{name}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
