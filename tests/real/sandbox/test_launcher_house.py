"""What the house lets a cell see: asked by a platform in hostile hands, and while somebody swaps the paths."""

import asyncio
import contextlib
import ctypes
import os
import pathlib
import signal
import threading
from collections.abc import Generator
from typing import Any, Final

import msgspec
import pytest

from smcp.kernel import errors
from smcp.sandbox import cells, interpreter, launch, spawn, walls
from support import cell

pytestmark = pytest.mark.real

_ROUNDS: Final = 200
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_AS_ROOT: Final = os.geteuid() == 0


def _app(made: cell.Standing, tenant: str = cell.TENANT, name: str = "0a") -> pathlib.Path:
    """An artefact of `tenant`, with a file that says whose it is."""
    place = pathlib.Path(made.house.artefacts, tenant, name)
    place.mkdir(parents=True)
    (place / "whose").write_text(f"{tenant}/{name}")
    return place


def _build(made: cell.Standing) -> pathlib.Path:
    """A directory that a build may write."""
    place = pathlib.Path(made.house.work, "op")
    place.mkdir()
    return place


def _shows(bind: walls.Bind, **changes: Any) -> walls.Cell:
    """A cell that tries to say whose its bind is."""
    inside = cell.python("/", "print(open('/app/whose').read())")
    return msgspec.structs.replace(inside, binds=(*interpreter.current().binds, bind), **changes)


async def _run(launcher: launch.Launcher, inside: walls.Cell) -> str:
    return (await spawn.run(inside, launcher, timeout_s=cell.WAIT_S)).tail[-1]


@pytest.mark.requirement("sandbox:launcher:house")
async def test_only_the_tenants_own_artefact_is_seen_and_only_read() -> None:
    async with cell.standing() as made:
        own, other = _app(made), _app(made, "globex")
        assert await _run(made.launcher, _shows(walls.Bind(str(own), "/app"))) == "acme/0a"
        assert await _run(made.launcher, _shows(walls.Bind(str(other), "/app"), tenant="globex")) == "globex/0a"
        elsewhere = pathlib.Path(made.house.work).parent / "elsewhere"
        elsewhere.mkdir()
        (own / "link").symlink_to(other)
        (own / "up").symlink_to("..")
        for source, writable in (
            (str(own), True),
            (str(other), False),
            (f"{own}/../../globex/0a", False),
            (f"{own}/link", False),
            (f"{own}/up/../globex/0a", False),
            (f"{own}/up", False),
            (made.house.artefacts, False),
            (f"{made.house.artefacts}/acme", False),
            (f"{made.house.artefacts}/acme-2", False),
            (f"{made.house.artefacts}/acme/none", False),
            (made.house.work, True),
            (made.house.volumes, False),
            (made.house.caches[0], True),
            (made.house.caches[0], False),
            (str(elsewhere), False),
            (os.path.dirname(made.house.work), False),
            ("/", False),
            ("/etc", False),
            ("/etc/shadow", False),
            ("/proc", False),
            ("/proc/self", False),
            (f"/proc/{os.getpid()}/root/etc", False),
            ("/sys/fs/cgroup", True),
            ("/dev", False),
            ("/root", False),
            ("/run", False),
            ("/usr", True),
            (made.house.fixed[0], True),
            (f"{made.house.fixed[0]}/lib", False),
            ("relative", False),
            ("", False),
        ):
            with pytest.raises(errors.SandboxMissing):
                await _run(made.launcher, _shows(walls.Bind(source, "/app", writable)))


@pytest.mark.timeout(600)
@pytest.mark.requirement("sandbox:launcher:house")
async def test_what_is_swapped_for_a_link_while_cells_start_is_never_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "whose").write_text("the host's")
    async with cell.standing() as made:
        own = _app(made)
        (own.parent / "shadow").symlink_to(tmp_path)
        (own.parent / "deep").symlink_to(_app(made, "globex"))
        nested = _app(made, name="1b/2c")
        seen: dict[str, int] = {}
        # The directory itself is swapped, and (the second) a component on the way to it.
        swaps = [(own, own.parent / "shadow"), (nested.parent, own.parent / "deep")]
        (made_up := pathlib.Path(made.house.artefacts, "globex", "0a", "2c")).mkdir()
        (made_up / "whose").write_text("another tenant's")
        with contextlib.ExitStack() as stack:
            flips = [stack.enter_context(_flipping(*swap)) for swap in swaps]
            for number in range(_ROUNDS):
                source = (own, nested)[number % 2]
                try:
                    found = await _run(made.launcher, _shows(walls.Bind(str(source), "/app")))
                except errors.SandboxMissing:
                    found = "refused"
                seen[found] = seen.get(found, 0) + 1
        assert all(flip[0] > _ROUNDS for flip in flips), "nothing was swapped"
        assert set(seen) <= {"acme/0a", "acme/1b/2c", "refused"}, seen
        assert len(seen) == 3, f"the race was not run: {seen}"


@contextlib.contextmanager
def _flipping(one: pathlib.Path, other: pathlib.Path) -> Generator[list[int]]:
    """Exchange two paths as fast as a thread can (renameat2(2), RENAME_EXCHANGE); how often, in a list."""
    libc = ctypes.CDLL(None, use_errno=True)
    stop = threading.Event()
    count = [0]

    def flip() -> None:
        words = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
        while not stop.is_set():
            assert libc.renameat2(*words) == 0, os.strerror(ctypes.get_errno())
            count[0] += 1
            stop.wait(0.0002)  # else the interpreter's lock leaves nothing for the cells

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()
        if count[0] % 2:
            libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


@pytest.mark.requirement("sandbox:launcher:house")
async def test_a_volume_is_its_tenants_and_gone_when_it_is_closed() -> None:
    async with cell.standing() as made:
        launcher = made.launcher
        app = _app(made)
        bind = walls.Bind(str(app), "/app")
        await launcher.open_volume("acme", "memory", 1 << 20)
        with pytest.raises(errors.SandboxMissing):
            await launcher.open_volume("acme", "memory", 1 << 20)
        volume = walls.Volume("memory", "/data")
        writes = _python("open('/data/x','w').write('kept'); print('written')", bind, volume)
        reads = _python("print(open('/data/x').read())", bind, volume)
        assert await _run(launcher, writes) == "written"
        assert await _run(launcher, reads) == "kept"
        # The same bytes, but not to be changed.
        again = msgspec.structs.replace(writes, volume=walls.Volume("memory", "/data", writable=False))
        assert "Read-only file system" in await _run(launcher, again)
        # Nobody else's: not by name, not by path, not in the host's view.
        globex = walls.Bind(str(_app(made, "globex")), "/app")
        with pytest.raises(errors.SandboxMissing):
            await _run(launcher, _python("", globex, volume, tenant="globex"))
        with pytest.raises(errors.SandboxMissing):
            await _run(launcher, _shows(walls.Bind(f"{made.house.volumes}/1", "/app")))
        assert os.listdir(made.house.volumes) == []
        fills = _python(
            """
            try:
                with open("/data/big", "wb", buffering=0) as file:
                    while True: file.write(b"x" * 65536)
            except OSError as error:
                print(error.errno)
            """,
            bind,
            volume,
        )
        assert await _run(launcher, fills) == "28"  # ENOSPC
        many = "import os\ntry:\n  for n in range(10**6): os.mkdir(f'/data/d{n}')\nexcept OSError as e: print(e.errno)"
        assert await _run(launcher, _python(many, bind, volume)) == "28"
        await launcher.close_volume("acme", "memory")
        await launcher.close_volume("acme", "memory")
        with pytest.raises(errors.SandboxMissing):
            await _run(launcher, reads)
        await launcher.open_volume("acme", "memory", 1 << 20)
        assert "No such file" in await _run(launcher, reads)


@pytest.mark.requirement("sandbox:launcher:house")
async def test_a_volume_that_is_closed_under_a_cell_stays_the_cells_and_no_one_elses() -> None:
    async with cell.standing() as made:
        bind = walls.Bind(str(_app(made)), "/app")
        volume = walls.Volume("memory", "/data")
        await made.launcher.open_volume("acme", "memory", 1 << 20)
        running = asyncio.Event()
        holds = _python(
            "import time; open('/data/x','w').write('old'); print('up', flush=True); time.sleep(600)", bind, volume
        )
        task = asyncio.create_task(spawn.run(holds, made.launcher, timeout_s=600, on_line=lambda _: running.set()))
        async with asyncio.timeout(60):
            await running.wait()
        await made.launcher.close_volume("acme", "memory")
        await made.launcher.open_volume("acme", "memory", 1 << 20)
        assert await _run(made.launcher, _python("import os; print(os.listdir('/data'))", bind, volume)) == "[]"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def _python(code: str, bind: walls.Bind, volume: walls.Volume | None, tenant: str = cell.TENANT) -> walls.Cell:
    inside = cell.python("/", code, tenant=tenant)
    return msgspec.structs.replace(inside, binds=(*interpreter.current().binds, bind), volume=volume)


@pytest.mark.skipif(not _AS_ROOT, reason="without root there is one uid, and nothing to hand over")
@pytest.mark.requirement("sandbox:launcher:own")
async def test_only_what_a_build_made_changes_hands(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("root's")
    async with cell.standing() as made:
        work = pathlib.Path(made.house.work)
        build = work / "op"
        (build / "sub").mkdir(parents=True)
        (build / "sub" / "own").write_text("")
        foreign = build / "foreign"
        foreign.write_text("")
        os.chown(foreign, 4711, 4711)
        os.link(outside, build / "hard")
        (build / "link").symlink_to(outside)
        (work / "way").symlink_to(work / "op")
        await made.launcher.own(str(build), "acme")
        uid = build.stat().st_uid
        assert uid >= made.house.uid_first + 16
        assert (build / "sub" / "own").stat().st_uid == uid
        assert (build / "link").lstat().st_uid == uid
        # Another's file, and one that has a second name (which may lie anywhere), stay what they are.
        assert foreign.stat().st_uid == 4711
        assert outside.stat().st_uid == 0
        for path in (
            "/etc",
            str(outside),
            made.house.work,
            made.house.artefacts,
            f"{work}/../cache",
            f"{work}/op/../../cache",
            f"{work}/op/sub/own",
            f"{work}/op/link",
            f"{work}/way",
            f"{work}/way/sub",
            f"{work}/none",
            f"{work}/",
            f"{work}/op\0",
            "op",
            "",
        ):
            with pytest.raises(errors.SandboxMissing):
                await made.launcher.own(path, "globex")
        assert os.stat("/etc").st_uid == 0
        assert (build / "sub").stat().st_uid == uid
        await made.launcher.own(str(build), None)
        assert (build / "sub" / "own").stat().st_uid == made.house.uid


@pytest.mark.skipif(not _AS_ROOT, reason="without root there is one uid, and nothing to hand over")
@pytest.mark.requirement("sandbox:launcher:own")
async def test_a_build_that_nests_as_deep_as_it_can_is_handed_back() -> None:
    async with cell.standing() as made:
        build = _build(made)
        deep = """
        import os
        for _ in range(2000):
            os.mkdir("d")
            os.chdir("d")
        open("leaf", "w").close()
        print(os.stat("leaf").st_ino)
        """
        inside = msgspec.structs.replace(
            cell.python("/", deep),
            binds=(*interpreter.current().binds, walls.Bind(str(build), "/build", writable=True)),
            cwd="/build",
        )
        outcome = await spawn.run(inside, made.launcher, timeout_s=cell.WAIT_S)
        assert outcome.code == 0, outcome
        here = os.open(build, os.O_RDONLY | os.O_DIRECTORY)
        owners: set[int] = set()
        for _ in range(2000):
            owners.add(os.fstat(here).st_uid)
            inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
        owners.add(os.stat("leaf", dir_fd=here).st_uid)
        os.close(here)
        assert owners == {made.house.uid}
        await asyncio.to_thread(_removed, build)


def _removed(deep: pathlib.Path) -> None:
    """Remove a chain of directories that is too deep for most who remove trees: from its end, flattened."""
    place = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    while "d" in os.listdir(place):
        # Lift the grandchild next to its parent, and drop the parent.
        os.rename("d", "was", src_dir_fd=place, dst_dir_fd=place)
        if os.path.exists(f"/proc/self/fd/{place}/was/d"):
            os.rename("was/d", "d", src_dir_fd=place, dst_dir_fd=place)
        elif os.path.exists(f"/proc/self/fd/{place}/was/leaf"):
            os.unlink("was/leaf", dir_fd=place)
        os.rmdir("was", dir_fd=place)
    os.close(place)


@pytest.mark.requirement("sandbox:launcher:house")
async def test_a_file_exists_only_inside_and_can_not_be_written() -> None:
    async with cell.standing() as made:
        inside = cells.hosted(
            cell.LIMITS,
            interpreter.current(),
            "acme",
            str(_app(made)),
            (
                interpreter.current().executable,
                "-c",
                "import os; p='/run/secret/token'; s=os.stat(p); print(open(p).read(), oct(s.st_mode), s.st_nlink)\n"
                "try: open(p, 'r+')\nexcept OSError as e: print(e.errno)",
            ),
            files=(walls.File("/run/secret/token", b"canary-4711", 0o400),),
        )
        outcome = await spawn.run(inside, made.launcher, timeout_s=cell.WAIT_S)
    assert outcome.code == 0, outcome
    assert outcome.tail[0].startswith("canary-4711 0o100400")
    assert outcome.tail[1] in ("13", "30")  # EACCES, EROFS


@pytest.mark.requirement("sandbox:launcher:reclaims")
async def test_what_a_build_had_when_all_was_killed_is_the_platforms_again() -> None:
    with cell.house() as house:
        launcher = await launch.Launcher.start(house)
        place = pathlib.Path(house.work, "op-1")
        (place / "app" / "deep").mkdir(parents=True)
        (place / "app" / "file").write_text("x")
        await launcher.own(str(place), "acme")
        had = (place / "app" / "file").stat().st_uid
        os.kill(launcher.pid, signal.SIGKILL)
        await launcher.ended.wait()
        await launcher.close()
        again = await launch.Launcher.start(house)
        try:
            assert {found.st_uid for found in _owners(place)} == {house.uid}
        finally:
            await again.close()
        assert not house.uid_first or had != house.uid


def _owners(place: pathlib.Path) -> list[os.stat_result]:
    return [one.stat() for one in (place, *place.rglob("*"))]
