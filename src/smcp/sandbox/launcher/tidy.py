"""Looking after what lies around: ownership of build directories, cells that an earlier run left."""

import contextlib
import os
import signal
import stat
import time
from collections.abc import Collection
from typing import Final

from smcp.sandbox.launcher import child, linux

_SWEEP_S: Final = 5.0


def own(root: str, path: str, owners: Collection[int], uid: int) -> None:
    """Give the directory `path`, which lies below `root`, and all that is in it to `uid`.

    Only what belongs to one of `owners` changes hands: a hard link to a file of somebody else stays what it is.
    Links are not followed, neither on the way nor inside. Raises OSError.
    """
    if not path.startswith(f"{root}/") or os.path.normpath(path) != path:
        raise PermissionError(f"{path} is no directory of a build")
    top = linux.open_plain(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _, folders, files, directory in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            if os.fstat(directory).st_uid in owners:
                os.fchown(directory, uid, uid)
            for name in (*folders, *files):
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                plain = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
                if found.st_uid in owners and plain:
                    os.chown(name, uid, uid, dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(top)


def parent(pid: int) -> int:
    """The parent of a process (proc(5), /proc/pid/stat); 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def sweep(platform: str) -> int:
    """End every cell of this platform that an earlier run left, however it ended; how many processes there were.

    They are known by their argv[0], which is bubblewrap's own and nothing that hosted code can change.
    """
    count = 0
    deadline = time.monotonic() + _SWEEP_S
    while (left := _left(platform)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                count += 1
        time.sleep(0.01)
    return count


def _left(platform: str) -> list[int]:
    mark = f"{child.ARGV0}{platform}\0".encode()
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read(len(mark)) == mark and _running(name):
                    found.append(int(name))
    return found


def _running(name: str) -> bool:
    with open(f"/proc/{name}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
