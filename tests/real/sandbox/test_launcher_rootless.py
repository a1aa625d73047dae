"""Without root: the same launcher, started by a user without privilege whose Python lies in a home that is closed."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from smcp.sandbox import walls
from support import busy, plain, rootless

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user"),
]


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Any]]:
    """What `support.rootless` saw."""
    program = pathlib.Path(rootless.__file__)
    tests = str(program.parent.parent)
    with plain.home() as home:
        environ = {"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": f"{home}/tmp", "PYTHONPATH": tests}
        done = subprocess.run(
            plain.command([sys.executable, "-P", str(program)], [tests, home], environ),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])


@pytest.mark.requirement("sandbox:launcher:rootless", "sandbox:interpreter:private-home")
def test_the_walls_stand_without_root(seen: dict[str, Any]) -> None:
    assert seen["uid"] == plain.UID
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


@pytest.mark.requirement("usage:copies:measured")
def test_what_a_cell_takes_is_told_without_root_and_without_control_groups(seen: dict[str, Any]) -> None:
    assert not {"cgroup_memory", "cgroup_cpu"} & set(seen["layers"])
    cpu_s, byte_s, all_cpu_s, all_byte_s = seen["taken"]
    assert busy.ENOUGH <= cpu_s <= all_cpu_s < 60
    assert 0 < byte_s <= all_byte_s


@pytest.mark.requirement("sandbox:launcher:rootless", "sandbox:limits:bite")
def test_processes_are_counted_without_a_cgroup(seen: dict[str, Any]) -> None:
    assert 1 <= seen["bomb"] < 12
    if walls.PIDS not in seen["layers"]:
        assert seen["who"]["nproc"] == [256, 256]


@pytest.mark.requirement("sandbox:launcher:rootless", "sandbox:launcher:death")
def test_nothing_is_left_without_root(seen: dict[str, Any]) -> None:
    assert seen["left"] == 0
    assert seen["left after a kill"] == 0
    assert seen["host uids"] == [plain.UID]
    # A freezer needs a cgroup.
    assert seen["frozen"] is bool({walls.MEMORY, walls.PIDS} & set(seen["layers"]))
