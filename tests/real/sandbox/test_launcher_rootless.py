"""Without root: the same launcher, started by a user without privilege whose Python lies in a home that is closed."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from typing import Any, Final

import pytest

import smcp
from smcp.sandbox import walls
from support import rootless

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user"),
]

_NOBODY: Final = 65534
# Gives up root in a view of its own, in which the Python lies in a home that only the new user may enter, and the code
# of this repository and of its packages can be reached.
_AS: Final = """
import json, os, sys
from smcp.sandbox import demote
from smcp.sandbox.launcher import linux
uid, base, needed, command = json.loads(sys.argv[1])
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
names = ("HOME", "TMPDIR", "PYTHONPATH")
os.execve(command[0], command, {"PATH": "/usr/bin:/bin", **{name: os.environ[name] for name in names}})
"""


@pytest.fixture(scope="module")
def seen() -> Generator[dict[str, Any]]:
    """What `support.rootless` saw."""
    made = tempfile.mkdtemp(dir="/tmp")
    try:
        for name in (made, f"{made}/tmp"):
            os.makedirs(name, 0o700, exist_ok=True)
            os.chown(name, _NOBODY, _NOBODY)
        program = pathlib.Path(rootless.__file__)
        tests = str(program.parent.parent)
        packages = [sys.prefix, str(pathlib.Path(smcp.__file__).parent), tests]
        order = [_NOBODY, os.path.realpath(sys.base_prefix), [*packages, made], [sys.executable, "-P", str(program)]]
        done = subprocess.run(
            [sys.executable, "-c", _AS, json.dumps(order)],
            env={**os.environ, "HOME": made, "TMPDIR": f"{made}/tmp", "PYTHONPATH": tests},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(made)


@pytest.mark.requirement("sandbox:launcher:rootless", "sandbox:interpreter:private-home")
def test_the_walls_stand_without_root(seen: dict[str, Any]) -> None:
    assert seen["uid"] == _NOBODY
    assert set(walls.NAMESPACES) | {walls.SECCOMP, walls.NESTING, walls.PROC} <= set(seen["layers"])
    assert walls.UID not in seen["layers"]
    who = seen["who"]
    assert who["ids"] == [65534, 65534]
    assert who["caps"] == ["0" * 16]
    assert (who["nnp"], who["seccomp"]) == ("1", "2")
    assert sorted(who["pids"]) == ["1", "2"]
    assert (who["network"], who["home"], who["environ"]) == (False, False, "")
    assert not {"etc", "home", "root", "var", "run", "sys"} & set(who["root"])
    assert who["python"].startswith(("/opt/python/", "/usr/"))


@pytest.mark.requirement("sandbox:launcher:rootless")
def test_volumes_egress_and_builds_work_without_root(seen: dict[str, Any]) -> None:
    assert seen["volume"] == "kept"
    assert seen["volumes outside"] == []
    assert seen["egress"] == "hello"
    assert seen["built"] == "made"


@pytest.mark.requirement("sandbox:launcher:rootless", "sandbox:limits:bite")
def test_processes_are_counted_without_a_cgroup(seen: dict[str, Any]) -> None:
    assert 1 <= seen["bomb"] < 12
    if walls.PIDS not in seen["layers"]:
        assert seen["who"]["nproc"] == [256, 256]


@pytest.mark.requirement("sandbox:launcher:rootless", "sandbox:launcher:death")
def test_nothing_is_left_without_root(seen: dict[str, Any]) -> None:
    assert seen["left"] == 0
    assert seen["left after a kill"] == 0
    assert seen["host uids"] == [_NOBODY]
    # A freezer needs a cgroup.
    assert seen["frozen"] is bool({walls.MEMORY, walls.PIDS} & set(seen["layers"]))
