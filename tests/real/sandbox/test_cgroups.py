"""Control groups as this machine has them: every limit is tried with processes that want more."""

import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator
from typing import Final

import pytest

from smcp.sandbox import cgroups
from smcp.sandbox.cgroups import groups, places, trees

pytestmark = pytest.mark.real

_MIB: Final = 1_048_576
_LIMITS: Final = cgroups.Limits(64 * _MIB, 24, 1.0)
_JOIN: Final = (
    "import os, sys, time\nfor entry in sys.argv[1:]:\n    os.write(int(entry), b'0')\n    os.close(int(entry))\n"
)
_PLATFORM: Final = f"testgroups{os.getpid()}"


def _ways() -> dict[str, places.Seen]:
    """Both versions as they are here and, where it limits memory, version 1 alone, as old kernels are."""
    here = places.seen()
    ways = {"as it is here": here}
    first = tuple(mount for mount in here.mounts if mount.version == 1)
    if any("memory" in mount.controllers for mount in first) and len(first) < len(here.mounts):
        ways["version 1 alone"] = here._replace(mounts=first)
    return ways


@pytest.fixture(params=list(_ways().values()), ids=list(_ways()))
def made(request: pytest.FixtureRequest) -> Generator[cgroups.Groups]:
    """The groups of a platform that nobody else has."""
    found = cgroups.look(_PLATFORM, request.param)
    if found.groups is None:
        pytest.skip(f"no group may be made by this user on this machine: {found.why}")
    try:
        yield found.groups
    finally:
        other = cgroups.find(_PLATFORM)
        assert other is not None
        other.sweep()
        other.close()
        assert not [path for mount in places.seen().mounts for path in places.left(mount.point, f"smcp-{_PLATFORM}")]


def _until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """The kernel tells nobody when it is done with a group: ask until it is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def _inside(group: cgroups.Group, code: str) -> Generator[subprocess.Popen[str]]:
    """Python that joins `group` as a cell does, and then runs `code`."""
    entries = group.opened()
    assert not any(os.get_inheritable(entry) for entry in entries)
    argv = [sys.executable, "-c", _JOIN + textwrap.dedent(code), *map(str, entries)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, pass_fds=entries)
    for entry in entries:
        os.close(entry)
    try:
        yield process
    finally:
        group.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        _until(group.remove, "the group can be removed")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.requirement("sandbox:cgroup:processes")
def test_a_fork_bomb_ends_at_the_limit_and_nobody_else_notices(made: cgroups.Groups) -> None:
    group = made.make("bomb", _LIMITS)
    bomb = """
        print("joined", flush=True)
        while True:
            try:
                os.fork()
            except OSError:
                time.sleep(0)
        """
    with _inside(group, bomb) as process:
        assert _line(process) == "joined"
        _until(lambda: group.usage().processes == _LIMITS.processes, "the bomb reaches its limit")
        assert len(group.processes()) <= _LIMITS.processes
        assert subprocess.run(["/bin/true"], check=False).returncode == 0
        pids = group.processes()
        group.kill()
        _until(lambda: not group.processes(), "the bomb is over")
        process.wait(60)
        assert not [pid for pid in pids if _alive(pid)]


@pytest.mark.requirement("sandbox:cgroup:memory")
@pytest.mark.parametrize(
    "hog",
    [
        "kept = []\nwhile True:\n    kept.append(bytearray(os.urandom(65536) * 16))",
        # A file in a tmpfs, as a cell's /tmp is one: no process owns it, and still it counts.
        "at = os.memfd_create('tmp')\nwhile True:\n    os.write(at, bytes(1048576))",
        "for _ in range(15):\n    if os.fork() == 0:\n        kept = os.urandom(8388608); break\ntime.sleep(600)",
    ],
    ids=["in one process", "in a file of a tmpfs", "in many processes"],
)
def test_a_memory_hog_dies_at_the_cap_of_its_cell(made: cgroups.Groups, hog: str) -> None:
    group = made.make("hog", _LIMITS)
    with _inside(group, hog) as process:
        _until(lambda: group.usage().oom_kills > 0, "the kernel ends the hog")
        # One of many may be chosen where a group does not die as a whole (version 1).
        group.kill()
        assert process.wait(60) == -9
        assert 0.9 * _LIMITS.memory_bytes < group.usage().memory_peak_bytes <= _LIMITS.memory_bytes


@pytest.mark.requirement("sandbox:cgroup:swap")
def test_a_cell_has_no_swap(made: cgroups.Groups) -> None:
    group = made.make("swap", _LIMITS)
    folders = [path for mount in places.seen().mounts for path in places.left(mount.point, f"smcp-{_PLATFORM}")]
    files = {"memory.memsw.limit_in_bytes": str(_LIMITS.memory_bytes), "memory.swap.max": "0", "memory.swappiness": "0"}
    found = {
        name: (pathlib.Path(folder) / "swap" / name).read_text().strip()
        for folder in folders
        for name in files
        if (pathlib.Path(folder) / "swap" / name).exists()
    }
    assert found
    assert found == {name: files[name] for name in found}
    assert group.remove()


@pytest.mark.requirement("sandbox:cgroup:cpu")
def test_spinners_get_their_share_of_the_processor_and_no_more(made: cgroups.Groups) -> None:
    group = made.make("spin", _LIMITS._replace(cpus=0.2))
    with _inside(group, "print('joined', flush=True)\nos.fork()\nos.fork()\nwhile True: pass") as process:
        assert _line(process) == "joined"
        shares: list[float] = []
        # The kernel takes back what was taken beyond the quota, but not at once: a machine that is held up itself (as
        # virtual ones are) may be seen before it has. Spinners without a quota take more than this in every look.
        while not shares or not 0.0 < shares[-1] < 0.3:
            assert len(shares) < 20, shares
            began, before = time.monotonic(), group.usage().cpu_s
            time.sleep(1.5)  # what is measured is time
            shares.append((group.usage().cpu_s - before) / (time.monotonic() - began))


@pytest.mark.requirement("sandbox:cgroup:kill")
@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_kill_ends_the_whole_tree_with_daemons_that_left_their_session(made: cgroups.Groups, frozen: bool) -> None:
    group = made.make("tree", _LIMITS)
    tree = """
        import signal
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for _ in range(3):
            read, write = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.write(write, b".")
                    time.sleep(600)
                os._exit(0)
            os.read(read, 1)
            os.wait()
        print("made", flush=True)
        time.sleep(600)
        """
    with _inside(group, tree) as process:
        assert _line(process) == "made"
        pids = group.processes()
        assert len(pids) == 4
        assert not group.remove(), "a group with processes stays"
        assert set(group.processes()) == set(pids)
        if frozen:
            assert group.freeze(True)
        group.kill()
        process.wait(60)
        _until(lambda: not any(_alive(pid) for pid in pids), "all of them end")


@pytest.mark.requirement("sandbox:cgroup:freeze")
def test_what_is_frozen_makes_no_progress_until_it_is_thawed(made: cgroups.Groups, tmp_path: pathlib.Path) -> None:
    group = made.make("ice", _LIMITS)
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    count = f"""
        import mmap
        with open({str(counter)!r}, "r+b") as file:
            shared = mmap.mmap(file.fileno(), 8)
        number = 0
        while True:
            number += 1
            shared[:] = number.to_bytes(8, "little")
        """

    def seen() -> int:
        return int.from_bytes(counter.read_bytes(), "little")

    with _inside(group, count):
        _until(lambda: seen() > 0, "it counts")
        assert group.freeze(True)

        def still() -> bool:
            before = seen()
            time.sleep(0.02)
            return seen() == before

        _until(still, "it is frozen")
        held = seen()
        time.sleep(0.2)  # time in which nothing may happen
        assert seen() == held
        assert group.freeze(False)
        _until(lambda: seen() > held, "it goes on")


@pytest.mark.requirement("sandbox:cgroup:sweep")
def test_what_a_killed_launcher_left_is_ended_and_removed_by_the_next(
    made: cgroups.Groups, tmp_path: pathlib.Path
) -> None:
    launcher = f"""
        import os, subprocess, time
        from smcp.sandbox import cgroups
        groups = cgroups.find({_PLATFORM!r})
        for name in ("cell-1", "cell-2"):
            group = groups.make(name, cgroups.Limits(67108864, 24, 1.0))
            held = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
            for entry in group.opened():
                os.write(entry, str(held.pid).encode())
            print(held.pid, flush=True)
        time.sleep(600)
        """
    mine = made.make("mine", _LIMITS)
    with (
        _inside(mine, "print('in', flush=True)\ntime.sleep(600)") as kept,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(launcher)], stdout=subprocess.PIPE, text=True
        ) as killed,
    ):
        assert _line(kept) == "in"
        pids = [int(_line(killed)), int(_line(killed))]
        killed.kill()
        killed.wait(60)
        assert all(_alive(pid) for pid in pids)
        assert made.sweep() == 2
        _until(lambda: not any(_alive(pid) for pid in pids), "they end")
        assert _alive(kept.pid), "a group of this run is nobody's leftover"
        assert made.sweep() == 0


@pytest.mark.requirement("sandbox:cgroup:found")
def test_a_layer_is_there_only_after_a_process_was_limited_by_it(made: cgroups.Groups) -> None:
    assert set(cgroups.LAYERS) == made.layers | set(made.why)
    assert not made.layers & set(made.why)
    assert made.layers


@pytest.mark.requirement("sandbox:cgroup:found")
def test_who_looks_under_one_name_at_the_same_time_finds_all_that_is_there() -> None:
    """As every start and every `smcp doctor` does: each makes the same directory, and removes it in the end."""
    name = f"{_PLATFORM}x"
    alone = cgroups.look(name)
    if alone.groups is None:
        pytest.skip(f"no group may be made by this user on this machine: {alone.why}")
    alone.groups.close()
    looks = f"""
        from smcp.sandbox import cgroups
        for _ in range(30):
            found = cgroups.look({name!r})
            if found.groups is not None:
                found.groups.close()
            print(sorted(found.groups.layers) if found.groups is not None else found.why)
        """
    argv = [sys.executable, "-c", textwrap.dedent(looks)]
    with contextlib.ExitStack() as stack:
        at_once = [stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)) for _ in range(3)]
        said = [line for one in at_once for line in one.communicate(timeout=240)[0].splitlines()]
    assert set(said) == {str(sorted(alone.groups.layers))}
    assert len(said) == 90


@pytest.mark.requirement("sandbox:cgroup:sweep")
def test_a_launcher_that_ends_late_takes_nothing_from_the_next_one(made: cgroups.Groups) -> None:
    earlier = cgroups.find(_PLATFORM)
    assert earlier is not None
    earlier.close()  # there is no cell yet: what it removes is empty
    group = made.make("late", _LIMITS)
    with _inside(group, "print('in', flush=True)\ntime.sleep(600)") as process:
        assert _line(process) == "in"
        assert group.usage().processes == 1
        assert group.processes() == [process.pid]


@pytest.mark.requirement("sandbox:cgroup:kill")
def test_version_2_kills_freezes_and_removes_also_where_it_limits_nothing() -> None:
    """In the hierarchy of version 2 alone, which here may have no controllers: its core is real all the same."""
    here = places.seen()
    second = here._replace(mounts=tuple(mount for mount in here.mounts if mount.version == 2))
    planted = [one.tree for one in trees.plant(second, _PLATFORM) if one.tree is not None]
    if not planted:
        pytest.skip("no hierarchy of version 2 is mounted for this user")
    core = groups.Groups(_PLATFORM, planted, [mount.point for mount in second.mounts], {})
    try:
        group = core.make("core", _LIMITS)
        folder = pathlib.Path(planted[0].path) / "core"
        with _inside(group, "print('in', flush=True)\nwhile True: pass") as process:
            assert _line(process) == "in"
            assert group.processes() == [process.pid]
            assert not group.remove()
            assert group.freeze(True)
            _until(lambda: "frozen 1" in (folder / "cgroup.events").read_text(), "it is frozen")
            group.kill()
            assert process.wait(60) == -9
            _until(lambda: "populated 0" in (folder / "cgroup.events").read_text(), "it is empty")
        assert not folder.exists()
    finally:
        core.close()
