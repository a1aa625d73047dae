"""Which directory a platform's groups go to, and what is written there: from texts and plain files."""

import errno
import os
import pathlib

import pytest

from smcp.kernel import errors
from smcp.sandbox import cgroups
from smcp.sandbox.cgroups import groups, nodes, places, trees

_SECOND = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"
_HYBRID = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup ro,relatime - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 master:1 - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 /docker/4711 /sys/fs/cgroup/my\\040memory ro,relatime - cgroup cgroup rw,memory
34 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 ro
a line that makes no sense
"""
_OWN = "12:cpu,cpuacct:/a\n5:memory:/docker/4711/deep\n1:name=systemd:/user:x.slice\n0::/user.slice/a:b.scope\n"
_LIMITS = cgroups.Limits(67_108_864, 32, 0.5)


def _mount(point: pathlib.Path | str, root: str = "/", version: int = 2, writable: bool = True) -> places.Mount:
    return places.Mount(version, frozenset(), str(point), root, writable)


def _fake(folder: pathlib.Path, *names: str, **values: str) -> pathlib.Path:
    """A directory with the files of a group. Plain ones: nothing happens when they are written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("")
    for name, value in values.items():
        (folder / name.replace("__", ".", 1)).write_text(value)
    return folder


@pytest.mark.requirement("sandbox:cgroup:places")
def test_hierarchies_are_read_from_mountinfo() -> None:
    assert list(places.mounts(_SECOND)) == [places.Mount(2, frozenset(), "/sys/fs/cgroup", "/", True)]
    found = {mount.point: mount for mount in places.mounts(_HYBRID)}
    assert found["/sys/fs/cgroup/my memory"].root == "/docker/4711"
    assert {"cpu", "cpuacct"} <= found["/sys/fs/cgroup/cpu,cpuacct"].controllers
    assert {point.rpartition("/")[2]: mount.writable for point, mount in found.items()} == {
        "cpu,cpuacct": True,
        "my memory": False,
        "systemd": True,
        "unified": False,
    }


@pytest.mark.requirement("sandbox:cgroup:places")
def test_the_own_group_is_read_for_each_controller() -> None:
    assert places.own(_OWN) == {
        "cpu": "/a",
        "cpuacct": "/a",
        "memory": "/docker/4711/deep",
        "name=systemd": "/user:x.slice",
        "": "/user.slice/a:b.scope",
    }


@pytest.mark.requirement("sandbox:cgroup:places")
@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/", "/", "/m"),
        ("/", "/user.slice/x.scope", "/m/user.slice/x.scope"),
        ("/docker/4711", "/docker/4711/deep", "/m/deep"),
        ("/docker/4711", "/docker/4711", "/m"),
        # Not below what is mounted here: another namespace's names.
        ("/docker/4711", "/", "/m"),
        ("/", "/../../outside", "/m"),
        ("/../..", "/x", "/m"),
        ("/", "", "/m"),
    ],
)
def test_a_group_outside_of_what_is_seen_is_never_a_path_outside_of_the_mount(
    root: str, path: str, expected: str
) -> None:
    assert places.directory(_mount("/m", root), path) == expected


@pytest.mark.requirement("sandbox:cgroup:places")
def test_a_platform_that_was_moved_into_its_leaf_starts_again_from_the_group_above(tmp_path: pathlib.Path) -> None:
    unit = _fake(tmp_path / "run-u7.scope")
    _fake(unit / "smcp-abc" / "host")
    assert places.base(_mount(tmp_path), "/run-u7.scope/smcp-abc/host") in (str(unit), str(tmp_path))
    assert places.base(_mount(unit), "/smcp-abc/host") == str(unit)


@pytest.mark.requirement("sandbox:cgroup:places")
def test_leftovers_are_found_wherever_the_earlier_run_was_started_from(tmp_path: pathlib.Path) -> None:
    for folder in ("smcp-abc/cell-1", "user.slice/session-3.scope/smcp-abc/cell-2", "smcp-abcd/cell-1", "x/smcp-other"):
        _fake(tmp_path / folder)
    (tmp_path / "link").symlink_to(tmp_path / "user.slice")
    found = sorted(os.path.relpath(path, tmp_path) for path in places.left(str(tmp_path), places.named("abc")))
    assert found == ["smcp-abc", "user.slice/session-3.scope/smcp-abc"]


@pytest.mark.requirement("sandbox:cgroup:limits")
def test_what_is_written_for_version_2(tmp_path: pathlib.Path) -> None:
    files = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    folder = _fake(tmp_path / "cell", *files)
    nodes.V2(str(folder), frozenset({"memory", "pids", "cpu"})).limit(_LIMITS)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "32",
        "cpu.max": "50000 100000",
    }


@pytest.mark.requirement("sandbox:cgroup:limits")
def test_what_is_written_for_version_1(tmp_path: pathlib.Path) -> None:
    files = ("memory.limit_in_bytes", "memory.swappiness", "pids.max", "cpu.cfs_period_us", "cpu.cfs_quota_us")
    folder = _fake(tmp_path / "cell", *files)
    nodes.V1(str(folder), frozenset({"memory", "pids", "cpu"})).limit(_LIMITS)
    assert [(folder / name).read_text() for name in files] == ["67108864", "0", "32", "100000", "50000"]


@pytest.mark.requirement("sandbox:cgroup:limits")
def test_a_limit_that_can_not_be_set_is_an_error_and_no_file_is_made_for_it(tmp_path: pathlib.Path) -> None:
    folder = _fake(tmp_path / "cell", "memory.max")
    node = nodes.V2(str(folder), frozenset({"memory", "pids"}))
    with pytest.raises(FileNotFoundError):
        node.limit(_LIMITS)
    assert [file.name for file in folder.iterdir()] == ["memory.max"]


@pytest.mark.requirement("sandbox:cgroup:limits")
def test_the_smallest_share_of_a_processor_is_one_that_the_kernel_takes() -> None:
    written = {one.file: one.value for one in nodes.V2("", frozenset()).settings(_LIMITS._replace(cpus=0.000_1))}
    assert written["cpu.max"] == "1000 100000"


@pytest.mark.requirement("sandbox:cgroup:limits")
def test_a_group_of_version_1_that_has_no_processors_yet_gets_those_of_the_group_above(tmp_path: pathlib.Path) -> None:
    _fake(tmp_path / "top", cpuset__cpus="0-1\n", cpuset__mems="0\n")
    group = tmp_path / "top" / "cell"
    _fake(group, cpuset__cpus="\n", cpuset__mems="\n")
    nodes.V1(str(group), frozenset()).inherit()
    assert [(group / name).read_text() for name in ("cpuset.cpus", "cpuset.mems")] == ["0-1", "0"]


@pytest.mark.requirement("sandbox:cgroup:usage")
def test_what_a_cell_took_is_read_from_either_version(tmp_path: pathlib.Path) -> None:
    second = _fake(
        tmp_path / "2",
        memory__current="4096\n",
        memory__peak="8192\n",
        memory__events="low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n",
        pids__current="3\n",
    )
    (second / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert nodes.V2(str(second), frozenset()).usage() == (4096, 8192, 1.5, 2, 3)
    first = _fake(tmp_path / "1", memory__usage_in_bytes="1\n", memory__max_usage_in_bytes="2\n", pids__current="3\n")
    (first / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    (first / "cpuacct.usage").write_text("2500000000\n")
    assert nodes.V1(str(first), frozenset()).usage() == (1, 2, 2.5, 4, 3)


@pytest.mark.requirement("sandbox:cgroup:usage")
def test_a_group_that_is_gone_took_nothing_and_is_removed(tmp_path: pathlib.Path) -> None:
    group = groups.Group("gone", [nodes.V2(str(tmp_path / "gone"), frozenset())])
    assert group.usage() == cgroups.Usage()
    assert group.processes() == []
    assert group.remove()
    assert not group.freeze(True)
    group.kill()
    with pytest.raises(errors.SandboxMissing):
        group.opened()


@pytest.mark.requirement("sandbox:cgroup:found")
def test_without_any_hierarchy_there_are_no_groups_and_every_layer_says_why() -> None:
    found = cgroups.look("abc", places.Seen((), {}))
    assert found.groups is None
    assert set(found.why) == set(cgroups.LAYERS)
    assert all("no mounted hierarchy" in why and "systemd.unified" in fix for why, fix in found.why.values())


@pytest.mark.requirement("sandbox:cgroup:found")
def test_a_hierarchy_that_takes_no_directory_is_no_layer(tmp_path: pathlib.Path) -> None:
    """A file system that only looks like control groups: nothing can be limited, nothing is left behind."""
    top = _fake(tmp_path / "top", cgroup__procs="", cgroup__subtree_control="", cgroup__controllers="memory pids cpu\n")
    found = cgroups.look("abc", places.Seen((_mount(top),), {"": "/"}))
    assert found.groups is None
    assert set(found.why) == set(cgroups.LAYERS)


@pytest.mark.requirement("sandbox:cgroup:found")
@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.EROFS, "writable-cgroups=true"),
        (errno.EACCES, "Delegate=yes"),
        (errno.EPERM, "Delegate=yes"),
        (errno.EBUSY, "of its own"),
        (errno.ENOENT, "kernel"),
        (errno.EINVAL, "docs/how-to/cgroups.md"),
    ],
)
def test_each_obstacle_is_told_with_what_removes_it(code: int, fix: str) -> None:
    why, told = trees.explain(OSError(code, "no"), "make a group")
    assert why
    assert fix in told


@pytest.mark.requirement("sandbox:cgroup:names")
def test_no_name_leaves_the_platforms_directory(tmp_path: pathlib.Path) -> None:
    made = groups.Groups("abc", [trees.Tree(2, str(tmp_path), frozenset())], [], {})
    for name in ("..", "a/b", "", ".", "host", "cgroup.procs", "A", "a\n"):
        with pytest.raises(errors.SandboxMissing):
            made.make(name, _LIMITS)
    for platform in ("", "a/b", "..", "a-b", "A"):
        with pytest.raises(ValueError, match="a platform's id"):
            cgroups.find(platform)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.requirement("sandbox:cgroup:names")
def test_a_group_that_could_not_be_limited_is_not_left_behind(tmp_path: pathlib.Path) -> None:
    made = groups.Groups("abc", [trees.Tree(2, str(tmp_path), frozenset({"memory"}))], [], {})
    with pytest.raises(errors.SandboxMissing, match="could not be limited"):
        made.make("cell-1", _LIMITS)
    assert list(tmp_path.iterdir()) == []
