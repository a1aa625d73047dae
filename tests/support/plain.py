"""A user without privilege, as whom a test that runs as root starts a program.

The user's Python lies in a home of mode 0700 that only this user may enter, wherever it lies on this machine: a view
(mount namespace) of the program's own shows it so.
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from typing import Final

import smcp

UID: Final = 65534
# Gives up root in a view of its own, in which the Python lies in a home that only the new user may enter, and the code
# of this repository and of its packages can be reached.
_AS: Final = """
import json, os, sys
from smcp.sandbox import demote
from smcp.sandbox.launcher import linux
uid, base, needed, command, environ = json.loads(sys.argv[1])
home = "/" + base.split("/")[1]
linux.unshare(linux.CLONE_NEWNS)
linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
if home != "/usr":
    paths = sorted(path for path in {base, *needed} if path.startswith(home + "/"))
    paths = [path for path in paths if not any(path.startswith(other + "/") for other in paths)]
    opened = [(path, os.open(path, os.O_PATH)) for path in paths]
    linux.mount("home", home, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=0700,uid={uid},gid={uid},size=1m")
    for path, source in opened:
        os.makedirs(path)
        linux.mount(f"/proc/self/fd/{source}", path, flags=linux.MS_BIND | linux.MS_REC)
demote.drop(uid, needed)
assert home == "/usr" or os.stat(home).st_mode & 0o777 == 0o700
os.execve(command[0], command, environ)
"""


@contextlib.contextmanager
def home() -> Generator[str]:
    """A home directory of the user, with a directory `tmp` in it."""
    made = tempfile.mkdtemp(dir="/tmp")
    try:
        for name in (made, f"{made}/tmp"):
            os.makedirs(name, 0o700, exist_ok=True)
            os.chown(name, UID, UID)
        yield made
    finally:
        shutil.rmtree(made)


def command(argv: Sequence[str], needed: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """What root runs so that the user runs `argv`, with this project and `needed` within reach."""
    packages = [sys.prefix, str(pathlib.Path(smcp.__file__).parent), *needed]
    order = [UID, os.path.realpath(sys.base_prefix), packages, argv, environ]
    return [sys.executable, "-c", _AS, json.dumps(order)]
