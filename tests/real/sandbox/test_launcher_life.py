"""A cell's life, told to who started it; and that nothing is left of it, a thousand times."""

import asyncio
import contextlib
import gc
import os
import pathlib
import random
import resource
import signal
import time
from collections.abc import AsyncGenerator, Callable
from typing import Final, NamedTuple

import msgspec
import pytest

from smcp.kernel import errors, settings
from smcp.sandbox import interpreter, launch, spawn, walls
from smcp.sandbox.cgroups import places
from support import cell, processes

pytestmark = pytest.mark.real

_CYCLES: Final = 1_000
_AT_ONCE: Final = 4
_GROUPS: Final = bool({"cgroup_memory", "cgroup_pids"} & cell.host().layers)
_NEEDS_GROUPS: Final = pytest.mark.skipif(not _GROUPS, reason="this machine has no control groups for this user")


def _plain(*argv: str) -> walls.Cell:
    return walls.Cell(
        argv=argv, binds=(), tenant=cell.TENANT, memory_bytes=1 << 28, tmp_bytes=1 << 20, open_files=64, processes=16
    )


def _shell(script: str) -> walls.Cell:
    return _plain("/bin/sh", "-c", script)


async def _spawned(launcher: launch.Launcher, inside: walls.Cell) -> launch.Child:
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return await launcher.spawn(inside, stdin=nothing, stdout=nothing, stderr=nothing)
    finally:
        os.close(nothing)


@contextlib.asynccontextmanager
async def _talking(launcher: launch.Launcher, script: str) -> AsyncGenerator[tuple[launch.Child, asyncio.StreamReader]]:
    """A running shell, and what it says."""
    read, write = os.pipe2(os.O_CLOEXEC)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0)
    )
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            child = await launcher.spawn(_shell(script), stdin=nothing, stdout=write, stderr=write)
        finally:
            os.close(nothing)
            os.close(write)
        yield child, reader
    finally:
        transport.close()  # one that more came for than was read does not end by itself


# --- how it ended ---


@pytest.mark.requirement("sandbox:launcher:told")
@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
async def test_the_exit_code_is_told(script: str, code: int) -> None:
    async with cell.launched() as launcher:
        child = await _spawned(launcher, _shell(script))
        assert await child.wait() == code
        assert not child.exited.result().out_of_memory
        child.kill()  # it has ended: nothing to do, and no error


@pytest.mark.requirement("sandbox:launcher:told")
async def test_a_command_that_is_not_there_is_told_by_bubblewrap_and_a_code() -> None:
    async with cell.launched() as launcher:
        outcome = await spawn.run(_plain("/nope"), launcher, timeout_s=60)
        assert outcome.code == 1
        assert "No such file or directory" in outcome.tail[-1]
        outcome = await spawn.run(_plain("/usr"), launcher, timeout_s=60)
        assert outcome.code == 1
        assert "Permission denied" in outcome.tail[-1]


@pytest.mark.requirement("sandbox:launcher:told")
async def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    async with cell.standing() as (launcher, house):
        nowhere = walls.Bind(f"{house.artefacts}/acme/none", "/app")
        with pytest.raises(errors.SandboxMissing, match="No such file or directory"):
            await _spawned(launcher, msgspec.structs.replace(_plain("/usr/bin/true"), binds=(nowhere,)))
        with pytest.raises(errors.SandboxMissing, match="No cell of this kind may see /etc"):
            await _spawned(launcher, msgspec.structs.replace(_plain("/x"), binds=(walls.Bind("/etc", "/app"),)))
        with pytest.raises(errors.SandboxMissing, match="volume is not open"):
            await _spawned(launcher, msgspec.structs.replace(_plain("/x"), volume=walls.Volume("a", "/data")))
        with pytest.raises(errors.SandboxMissing, match="Argument list too long"):
            await _spawned(launcher, _plain("/usr/bin/true", "x" * 3_000_000))
        assert await (await _spawned(launcher, _plain("/usr/bin/true"))).wait() == 0
        assert processes.naming(f"smcp-cell:{house.platform}") == set()


@_NEEDS_GROUPS
@pytest.mark.requirement("sandbox:launcher:told")
async def test_a_cell_that_takes_too_much_memory_is_told_as_such() -> None:
    async with cell.launched() as launcher:
        hog = cell.python("/", "import os\nkept=[]\nwhile True: kept.append(os.urandom(1 << 20))")
        small = msgspec.structs.replace(hog, binds=interpreter.current().binds, memory_bytes=1 << 26)
        # More data than its rlimit lets one process have: let the cgroup be who stops it.
        fork = "import os\nfor _ in range(8): os.fork()\nkept=[]\nwhile True: kept.append(os.urandom(1 << 18))"
        many = msgspec.structs.replace(small, argv=(small.argv[0], "-c", fork))
        outcome = await spawn.run(many, launcher, timeout_s=60)
        assert outcome.out_of_memory
        assert outcome.code != 0


# --- many ---


@pytest.mark.requirement("sandbox:launcher:told")
async def test_a_hundred_and_fifty_cells_run_at_once() -> None:
    async with cell.launched() as launcher:
        children = [await _spawned(launcher, _plain("/usr/bin/sleep", "600")) for _ in range(150)]
        for child in children:
            child.kill()
        codes = [await child.wait() for child in children]
        assert set(codes) <= {137, -9}


class _Counts(NamedTuple):
    """What could grow."""

    ours: int
    launchers: int
    mounts: int
    kilobytes: int
    launchers_kilobytes: int


def _mounts(pid: int | str = "self") -> int:
    return pathlib.Path(f"/proc/{pid}/mountinfo").read_text().count("\n")


def _count(pid: int) -> _Counts:
    gc.collect()
    return _Counts(
        len(os.listdir("/proc/self/fd")),
        len(os.listdir(f"/proc/{pid}/fd")),
        _mounts(pid),
        _resident(os.getpid()),
        _resident(pid),
    )


def _resident(pid: int) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def _dead() -> set[str]:
    """Zombies that were cells' processes, and that somebody of ours has yet to take up.

    Not init's: while its launcher lives, no process of a cell is handed on to init, so those are what another test's
    launcher left when it was killed, and when init takes them up is the machine's affair. Nor another worker's, whose
    cells come and go meanwhile.
    """
    found: set[str] = set()
    ours = {str(one.pid) for one in processes.descendants(os.getpid())}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = rest.split()[:2]
        if state == "Z" and name in ("bwrap", "sh", "sleep") and parent in ours:
            found.add(f"{stat.parent.name} {name} child of {parent}")
    return found


def _groups(platform: str) -> list[str]:
    """Its cells' groups, in every hierarchy."""
    tops = [place for mount in places.seen().mounts for place in places.left(mount.point, f"smcp-{platform}")]
    return [f"{top}/{name}" for top in tops for name in places.listed(top) if name != places.HOST]


async def _until(condition: Callable[[], bool], what: str) -> None:
    """The kernel takes a group down in its own time, and tells nobody."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def _cycle(launcher: launch.Launcher, dice: random.Random, mark: str) -> None:
    """One start, and one of the ways to an end."""
    script = "(trap '' TERM; sleep 600) & " * dice.randrange(3) + f": {mark}; sleep 600"
    match dice.randrange(4):
        case 0:  # in the first moments, which may be before the launcher has heard of it
            task = asyncio.create_task(_spawned(launcher, _shell(script)))
            await asyncio.sleep(dice.random() * 0.012)
            task.cancel()
            try:
                child = await task
            except asyncio.CancelledError:
                return
            child.kill()
        case 1:  # while it runs
            child = await _spawned(launcher, _shell(script))
            await asyncio.sleep(dice.random() * 0.01)
            child.kill()
        case 2:  # frozen
            child = await _spawned(launcher, _shell(script))
            await child.freeze()
            child.kill()
        case _:  # by itself, with daemons left behind
            child = await _spawned(launcher, _shell(f"(setsid sleep 600 &) ; : {mark}; exit 3"))
    await child.wait()


@pytest.mark.timeout(900)
@pytest.mark.requirement("sandbox:launcher:nothing-left")
async def test_a_thousand_cells_come_and_go_and_leave_nothing() -> None:
    dice = random.Random(4711)
    async with cell.standing() as (launcher, house):
        (head,) = [one for one in processes.descendants(os.getpid()) if one.pid == launcher.pid]
        mark = f"mark-{house.platform}"
        dead = _dead()

        async def some(count: int) -> None:
            for _ in range(count):
                await _cycle(launcher, dice, mark)

        await some(40)  # what is made once (buffers, caches of the allocator) is there
        before = _count(head.pid)
        outside = _mounts()
        await asyncio.gather(*(some(_CYCLES // _AT_ONCE) for _ in range(_AT_ONCE)))
        # Said to be gone means gone: nothing is waited for here.
        assert processes.naming(mark) | processes.naming(f"smcp-cell:{house.platform}") == set()
        await _until(lambda: not _groups(house.platform), "groups are left")
        await _until(lambda: len(os.listdir(f"/proc/{head.pid}/fd")) <= before.launchers, "descriptors are left")
        after = _count(head.pid)
        assert _dead() - dead == set()
        assert (after.ours, after.launchers, after.mounts) == (before.ours, before.launchers, before.mounts)
        assert _mounts() == outside
        assert after.launchers_kilobytes - before.launchers_kilobytes < 1_024, (before, after)
        assert after.kilobytes - before.kilobytes < 8_192, (before, after)


# --- cancel, freeze, the launcher's end ---


@pytest.mark.requirement("sandbox:launcher:nothing-left")
async def test_a_cancelled_start_gives_its_sockets_back() -> None:
    async with cell.standing() as (launcher, house):
        if "net" not in house.host.layers:
            pytest.skip("no network namespaces here")
        open_cell = msgspec.structs.replace(_plain("/usr/bin/sleep", "600"), egress=(80, 443))
        child = await _spawned(launcher, open_cell)
        assert len(child.sockets) == 3
        for one in child.sockets:
            assert not os.get_inheritable(one.fileno())
            one.close()
        child.kill()
        await child.wait()
        gc.collect()  # what others left may be closed at any time
        before = len(os.listdir("/proc/self/fd"))
        for step in range(30):
            task = asyncio.create_task(_spawned(launcher, open_cell))
            await asyncio.sleep(step / 1000)
            task.cancel()
            try:
                child = await task
            except asyncio.CancelledError:
                continue
            for one in child.sockets:
                one.close()
            child.kill()
            await child.wait()
        assert len(os.listdir("/proc/self/fd")) == before


@_NEEDS_GROUPS
@pytest.mark.requirement("sandbox:launcher:freeze")
async def test_a_frozen_cell_stands_still_goes_on_and_can_be_ended() -> None:
    async with (
        cell.launched() as launcher,
        _talking(launcher, "while :; do echo x; done") as (child, said),
    ):
        async with asyncio.timeout(100):
            await said.readexactly(100)
            assert await child.freeze()
            # What was written before is in the pipe; then comes nothing.
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        await said.read(65536)
                except TimeoutError:
                    break
            await child.thaw()
            await said.readexactly(100_000)
            assert await child.freeze()
            child.kill()
            assert await child.wait() in (137, -9)
        assert await child.freeze() is False


@pytest.mark.requirement("sandbox:launcher:told")
async def test_when_the_launcher_is_gone_everybody_hears_of_it() -> None:
    async with cell.standing() as (launcher, house):
        (head,) = [one for one in processes.descendants(os.getpid()) if one.pid == launcher.pid]
        children = [await _spawned(launcher, _shell("trap '' TERM; sleep 600")) for _ in range(3)]
        starting = [asyncio.create_task(_spawned(launcher, _plain("/usr/bin/sleep", "600"))) for _ in range(3)]
        await asyncio.sleep(0)
        os.kill(head.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            await launcher.ended.wait()
            assert [await child.wait() for child in children] == [-9, -9, -9]
            for one in await asyncio.gather(*starting, return_exceptions=True):
                assert isinstance(one, errors.SandboxMissing | launch.Child)
        for child in children:
            child.kill()
        with pytest.raises(errors.Unavailable):
            await _spawned(launcher, _plain("/usr/bin/true"))
        with pytest.raises(errors.Unavailable):
            await launcher.open_volume("acme", "memory", 8192)
        with pytest.raises(errors.Unavailable):
            await children[0].freeze()
        assert processes.left(processes.naming(f"smcp-cell:{house.platform}"), 60) == set()
        # The next one takes down the groups of it.
        await (await launch.Launcher.start(house)).close()
        assert _groups(house.platform) == []


@pytest.mark.requirement("sandbox:launcher:told")
async def test_a_launcher_that_can_not_start_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with cell.house() as house:
        with pytest.raises(errors.SandboxMissing):
            await launch.Launcher.start(msgspec.structs.replace(house, volumes="/nope"))
        await (await launch.Launcher.start(house)).close()
    said = capfd.readouterr().err
    assert "/nope" in said
    assert "Traceback" not in said


# --- what goes along ---


@pytest.mark.requirement("sandbox:descriptors:none")
async def test_no_descriptor_goes_along_whatever_a_cell_has(tmp_path: pathlib.Path) -> None:
    code = """
    import json, os
    found = {}
    for number in range(4096):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass
    print(json.dumps(found))
    """
    async with cell.launched(fixed=[tmp_path]) as launcher:
        # Others run beside it, so that the launcher has much open; and what it has itself comes by descriptors, too.
        others = [await _spawned(launcher, _plain("/usr/bin/sleep", "600")) for _ in range(20)]
        await launcher.open_volume(cell.TENANT, "memory", 1 << 16)
        full = msgspec.structs.replace(
            cell.python(tmp_path, code),
            files=(walls.File("/run/token", b"x"), walls.File("/run/other", b"y")),
            volume=walls.Volume("memory", "/data"),
            egress=(80, 443),
        )
        found = await cell.asked(launcher, full)
        for other in others:
            other.kill()
    assert set(found) == {"0", "1", "2"}, found


@pytest.mark.requirement("sandbox:limits:bite")
async def test_the_limits_of_a_cell_are_set_for_every_process_of_it() -> None:
    names = ("CORE", "NOFILE", "FSIZE", "DATA", "MEMLOCK", "MSGQUEUE")
    async with cell.launched() as launcher:
        code = "import json, resource; print(json.dumps([resource.getrlimit(n) for n in range(16)]))"
        limits = settings.Sandbox(tmp_bytes=4_194_304, memory_bytes=1 << 28, open_files=48)
        inside = msgspec.structs.replace(cell.python("/", code, limits), binds=interpreter.current().binds)
        found = await cell.asked(launcher, inside)
    wanted = (0, 48, 4_194_304, 1 << 28, 65_536, 0)
    for name, amount in zip(names, wanted, strict=True):
        assert found[getattr(resource, f"RLIMIT_{name}")] == [amount, amount], name
