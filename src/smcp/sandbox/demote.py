"""Giving up root: the process that faces the network, before it does anything else.

It keeps a view of the host in which it can reach what it needs and little else of what was root's alone: where a
directory on the way is closed to its new uid (a home of mode 0700 that holds the interpreter, say), an empty one
covers it, in this process's view only, with what is needed in its place. Paths stay what they are.
"""

import os
import stat
from collections.abc import Iterable

from smcp.sandbox.launcher import linux


def drop(uid: int, needed: Iterable[str]) -> None:
    """Become `uid` for good, with `needed` (existing absolute paths) within reach. Raises OSError.

    Nothing is left of root: no capability, no group, no key of its session (keyrings(7)), and no way back
    (PR_SET_NO_NEW_PRIVS).
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
    covered: dict[str, list[str]] = {}
    for path in sorted({os.path.realpath(one) for one in needed} | {os.path.abspath(one) for one in needed}):
        closed = _closed(path, uid)
        if closed:
            covered.setdefault(closed, []).append(path)
    for closed, paths in covered.items():
        _cover(closed, paths)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    linux.no_new_privileges()
    linux.forget_keys()


def _closed(path: str, uid: int) -> str:
    """The first directory above `path` that `uid` may not pass through; empty when there is none."""
    here = ""
    for part in path.split("/")[1:-1]:
        here = f"{here}/{part}"
        found = os.lstat(here)
        mine = stat.S_IXUSR if found.st_uid == uid else stat.S_IXOTH
        if stat.S_ISDIR(found.st_mode) and not found.st_mode & mine:
            return here
    return ""


def _cover(closed: str, paths: list[str]) -> None:
    # Opened before they are covered, in this view: what is open can be mounted again.
    kept = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in _outermost(paths)]
    linux.mount("cover", closed, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1m")
    for path, source in kept:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.mkdir(path, 0o755)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        linux.mount(f"/proc/self/fd/{source}", path, flags=linux.MS_BIND | linux.MS_REC)
        os.close(source)


def _outermost(paths: list[str]) -> list[str]:
    """Without those that lie below another one."""
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]
