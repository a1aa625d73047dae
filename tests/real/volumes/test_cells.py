"""Volumes in real cells: mounts that only the cells see, uids, sizes, freezers. Without the platform around them."""

import asyncio
import contextlib
import io
import json
import os
import pathlib
import tarfile
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from smcp.kernel import clock, errors, ids, observe, settings
from smcp.sandbox import launch, spawn, walls
from smcp.sandbox.volumes import keeper
from smcp.stores import local
from smcp.stores import tenant as stores
from support import cell

pytestmark = pytest.mark.real

ACME = ids.TenantId("acme")
GLOBEX = ids.TenantId("globex")
NOTES = ids.ServerName("notes")
SPEC = keeper.VolumeSpec("/data", 4_194_304)


class World:
    """Volumes over a real store and a real launcher."""

    def __init__(
        self, directory: pathlib.Path, launcher: launch.Launcher, config: settings.Settings, freeze_s: float
    ) -> None:
        self.app = directory / "app"
        self.app.mkdir(mode=0o755)
        self.launcher = launcher
        self.store: stores.Store = local.open_local(directory / "data", config, clock.SystemClock())
        self.volumes = keeper.Volumes(
            self.store,
            launcher,
            clock.SystemClock(),
            config,
            observe.Metrics("0"),
            observe.logger(config.log),
            freeze_s=freeze_s,
        )
        self.told: list[str] = []

    async def acquire(self, tenant: ids.TenantId = ACME, server: ids.ServerName = NOTES) -> keeper.Hold:
        """A copy's volume."""
        return await self.volumes.acquire(tenant, server, SPEC, self.told.append)

    async def run(self, of: keeper.Hold | walls.Volume, code: str, tenant: ids.TenantId = ACME) -> Any:
        """What `code` prints as JSON, in a cell with the volume."""
        volume = of.volume if isinstance(of, keeper.Hold) else of
        made = msgspec.structs.replace(
            cell.python(self.app, code), binds=(), tenant=tenant, volume=volume, file_bytes=2 * SPEC.size_bytes
        )
        made = msgspec.structs.replace(made, argv=("/usr/bin/python3", *made.argv[1:]), hidden=())
        outcome = await spawn.run(made, self.launcher, timeout_s=cell.WAIT_S)
        assert outcome.code == 0, outcome
        return json.loads(outcome.tail[-1]) if outcome.tail else None

    async def idle(self, hold: keeper.Hold) -> None:
        """Give a volume back, and wait until it is closed."""
        hold.release()
        while (await self.volumes.state(ACME, NOTES)).open:
            await asyncio.wait(set(self.volumes._tasks))  # pyright: ignore[reportPrivateUsage] - there is no other event


@contextlib.asynccontextmanager
async def opened(directory: pathlib.Path, freeze_s: float = keeper.FREEZE_S, **volumes: Any) -> AsyncGenerator[World]:
    """A world with two tenants."""
    config = settings.Settings(volumes=settings.Volumes(**volumes), sandbox=cell.LIMITS)
    async with cell.launched() as launcher:
        world = World(directory, launcher, config, freeze_s)
        await world.store.start()
        for tenant in (ACME, GLOBEX):
            await world.store.provision(tenant)
        try:
            yield world
        finally:
            await world.volumes.close()
            await world.store.close()


@pytest.mark.requirement("volumes:real:content")
async def test_what_a_cell_writes_is_its_own_before_and_after_a_restore(tmp_path: pathlib.Path) -> None:
    look = """
        import json, os
        print(json.dumps([[n, oct(os.lstat(n).st_mode), os.lstat(n).st_uid == os.getuid(), os.lstat(n).st_mtime_ns,
                           open(n).read() if os.path.isfile(n) else ""]
                          for d, _, fs in os.walk("/data") for n in [d, *(d + "/" + f for f in sorted(fs))]]))
    """
    async with opened(tmp_path) as world:
        hold = await world.acquire()
        await world.run(
            hold,
            """
            import os
            os.makedirs("/data/a/b")
            for n in ("/data/one", "/data/a/two", "/data/a/b/three"):
                open(n, "w").write(n)
            os.chmod("/data/one", 0o640); os.symlink("one", "/data/link"); os.chmod("/data/a/b", 0o555)
            """,
        )
        before = await world.run(hold, look)
        assert all(own for _, _, own, _, _ in before)
        await world.idle(hold)
        hold = await world.acquire()
        assert await world.run(hold, look) == before
        await world.idle(hold)
        history = (await world.volumes.state(ACME, NOTES)).history
        assert history is not None
        assert len(history.snapshots) == 1


@pytest.mark.requirement("volumes:real:unreadable")
async def test_what_the_server_itself_may_not_read_is_left_out_and_said_so(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as world:
        hold = await world.acquire()
        await world.run(
            hold,
            """
            import os
            open("/data/kept", "w").write("kept"); open("/data/closed", "w").write("x"); os.chmod("/data/closed", 0)
            """,
        )
        await world.idle(hold)
        history = (await world.volumes.state(ACME, NOTES)).history
        assert history is not None
        assert "may not read" in history.snapshots[0].note
        assert any("closed" in line for line in world.told)
        hold = await world.acquire()
        assert await world.run(hold, "import os; print('\"' + ' '.join(os.listdir('/data')) + '\"')") == "kept"


@pytest.mark.requirement("volumes:real:full")
async def test_a_full_volume_is_full_for_its_server_and_saved_all_the_same(tmp_path: pathlib.Path) -> None:
    fill = """
        import json, os
        made = 0
        try:
            with open("/data/big", "wb", buffering=0) as file:
                while True:
                    made += file.write(os.urandom(65536))
        except OSError as error:
            why = error.errno
        files = 0
        try:
            while True:
                open(f"/data/{files}", "x").close()
                files += 1
        except OSError as error:
            print(json.dumps([made, why, files, error.errno]))
    """
    async with opened(tmp_path) as world:
        hold = await world.acquire()
        made, why, files, more = await world.run(hold, fill)
        assert (why, more) == (28, 28)  # ENOSPC
        assert SPEC.size_bytes * 0.9 < made <= SPEC.size_bytes
        assert files < 2000
        other = await world.acquire(GLOBEX)
        assert await world.run(other, "open('/data/x', 'w').write('room'); print('true')", GLOBEX)
        await world.idle(hold)
        hold = await world.acquire()
        look = "import json, os; print(json.dumps([os.path.getsize('/data/big'), len(os.listdir('/data'))]))"
        assert await world.run(hold, look) == [made, files + 1]


@pytest.mark.requirement("volumes:real:full")
async def test_what_does_not_fit_into_a_smaller_volume_stays_what_it_was(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as world:
        hold = await world.acquire()
        await world.run(hold, "import os; open('/data/x', 'wb').write(os.urandom(1_000_000))")
        await world.idle(hold)
        with pytest.raises(errors.ServerFailed, match="smaller than it was"):
            await world.volumes.acquire(ACME, NOTES, keeper.VolumeSpec("/data", 500_000), world.told.append)
        hold = await world.acquire()
        assert await world.run(hold, "import os; print(os.path.getsize('/data/x'))") == 1_000_000


@pytest.mark.requirement("volumes:real:invisible")
async def test_a_volume_is_visible_to_its_own_cells_only(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as world:
        mine, theirs = await world.acquire(), await world.acquire(GLOBEX)
        canary = ids.new("canary")
        await world.run(mine, f"open('/data/{canary}', 'w').write('of acme')")
        assert await world.run(theirs, "import os; print(len(os.listdir('/data')))", GLOBEX) == 0
        with pytest.raises(errors.SandboxMissing, match="not open"):
            await world.run(walls.Volume("none", "/data"), "print(1)")
        assert " - tmpfs volume " not in _mounts()
        assert canary not in {name for root in (tmp_path, "/run", "/tmp") for name in _files(pathlib.Path(root))}


def _mounts() -> str:
    return pathlib.Path("/proc/self/mountinfo").read_text("utf-8")


def _files(root: pathlib.Path) -> list[str]:
    return [name for _, _, names in os.walk(root) for name in names]


@pytest.mark.requirement("volumes:real:frozen")
async def test_a_cell_stands_still_while_its_volume_is_saved(tmp_path: pathlib.Path) -> None:
    # Two files that are always written one after the other: a snapshot that tears them apart has different ones.
    code = """
        number = 0
        while True:
            number += 1
            for name in ("first", "second"):
                with open("/data/" + name, "r+b" if number > 1 else "wb") as file:
                    file.write(b"%09d" % number * 50_000)
            print(flush=True)
    """
    async with opened(tmp_path, freeze_s=200) as world:
        hold = await world.acquire()
        made = msgspec.structs.replace(
            cell.python(world.app, code), binds=(), tenant=ACME, volume=hold.volume, hidden=()
        )
        made = msgspec.structs.replace(made, argv=("/usr/bin/python3", *made.argv[1:]))
        nothing, (read, write) = os.open(os.devnull, os.O_RDWR), os.pipe()
        running = await world.launcher.spawn(made, stdin=nothing, stdout=write, stderr=nothing)
        os.close(nothing)
        os.close(write)
        hold.started(running)
        freezer = await running.freeze()
        await running.thaw()
        for _ in range(5):
            await asyncio.to_thread(os.read, read, 65536)
            taken = await world.volumes.snapshot(ACME, NOTES)
            assert freezer == ("taken while the server ran" not in taken.note)
        running.kill()
        await running.wait()
        os.close(read)
        await world.volumes.snapshot(ACME, NOTES)
        hold.release()
        history = (await world.volumes.state(ACME, NOTES)).history
        assert history is not None
        assert len(history.snapshots) > 3
        numbers = [await _numbers(world, one) for one in history.snapshots[:-1] if one.bytes > 900_000]
        assert numbers
        # Frozen amid a write, the second file is one behind; never more, as it would be if time went on.
        assert not freezer or all(0 <= first - second <= 1 for first, second in numbers), numbers


async def _numbers(world: World, snapshot: Any) -> tuple[int, int]:
    """The numbers that the two files of a snapshot begin with; the test's own look into the stream."""
    data = b"".join([part async for part in world.store.tenant(ACME).objects.get(("volume", NOTES, snapshot.object))])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [archive.extractfile(f"./{name}") for name in ("first", "second")]
        first, second = (int(file.read(9) or 0) if file else 0 for file in found)
    return first, second
