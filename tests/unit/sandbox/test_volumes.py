"""The life of a volume: opened, shared, saved, closed, restored, deleted, in any order and with failures between."""

import asyncio
import contextlib
import io
import os
import pathlib
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from smcp.kernel import clock, errors, ids, observe, settings
from smcp.sandbox.volumes import keeper, snapshots
from smcp.stores import local
from smcp.stores import tenant as stores
from support import ground

ACME = ids.TenantId("acme")
GLOBEX = ids.TenantId("globex")
NOTES = ids.ServerName("notes")
SPEC = keeper.VolumeSpec("/data", 1_048_576)


class World:
    """Volumes over a real store, on the ground."""

    def __init__(self, directory: pathlib.Path, config: settings.Settings) -> None:
        self.config = config
        self.data = directory / "data"
        self.store: stores.Store = local.open_local(self.data, config, clock.SystemClock())
        self.ground = ground.Ground(directory / "mounts")
        self.told: list[str] = []
        self.log = io.StringIO()
        self.metrics = observe.Metrics("0.0.0")
        self.volumes = self.make()
        self.changed = asyncio.Event()
        """Set when the history of a volume changes."""
        self.store.watch(("volume",), lambda _tenant, _key, _revision: self.changed.set())

    def make(self) -> keeper.Volumes:
        """The volumes of one run of the platform."""
        log = observe.logger(settings.Log(format="json"), self.log)
        metrics = self.metrics = observe.Metrics("0.0.0")
        return keeper.Volumes(self.store, self.ground, clock.SystemClock(), self.config, metrics, log)

    async def acquire(
        self,
        tenant: ids.TenantId = ACME,
        spec: keeper.VolumeSpec = SPEC,
        server: ids.ServerName = NOTES,
    ) -> keeper.Hold:
        """A copy's volume."""
        return await self.volumes.acquire(tenant, server, spec, self.told.append)

    async def idle(self, hold: keeper.Hold) -> None:
        """Give a volume back and wait until what follows is done."""
        hold.release()
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing happens in the background."""
        while tasks := set(self.volumes._tasks):  # pyright: ignore[reportPrivateUsage] - there is no other event
            await asyncio.wait(tasks)

    def file(self, name: str = "memo", tenant: ids.TenantId = ACME, server: str = NOTES) -> pathlib.Path:
        """A file in an open volume."""
        return self.ground.place(tenant, server) / name

    async def history(self, tenant: ids.TenantId = ACME) -> tuple[snapshots.Snapshot, ...]:
        """What is kept."""
        found = (await self.volumes.state(tenant, NOTES)).history
        return () if found is None else found.snapshots

    async def objects(self) -> set[str]:
        """The sealed objects that there are."""
        return {info.name[-1] for info in await self.store.tenant(ACME).objects.list(("volume",))}

    async def kept(self, text: str, tenant: ids.TenantId = ACME) -> snapshots.Snapshot:
        """Run a copy that writes `text`, to its end."""
        hold = await self.acquire(tenant)
        self.file(tenant=tenant).write_text(text)
        await self.idle(hold)
        return (await self.history(tenant))[-1]

    async def seen(self) -> str:
        """What a new copy finds."""
        hold = await self.acquire()
        text = self.file().read_text() if self.file().exists() else ""
        await self.idle(hold)
        return text

    def sealed(self, snapshot: snapshots.Snapshot) -> pathlib.Path:
        """The file behind a snapshot."""
        found = [path for path in self.data.rglob(f"*{snapshot.object}*") if path.is_file()]
        assert len(found) == 1, found
        return found[0]


@contextlib.asynccontextmanager
async def opened(directory: pathlib.Path, quota: int = 2**31, **volumes: Any) -> AsyncGenerator[World]:
    """A world with two tenants; closed in the end, when no volume may be open any more."""
    config = settings.Settings(volumes=settings.Volumes(**volumes), stores=settings.Stores(quota_bytes=quota))
    world = World(directory, config)
    await world.store.start()
    for tenant in (ACME, GLOBEX):
        await world.store.provision(tenant)
    try:
        yield world
        await world.volumes.close()
        assert world.ground.open() == []
    finally:
        await world.store.close()


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[World]:
    """Volumes with the settings they come with."""
    async with opened(tmp_path) as made:
        yield made


async def nothing() -> None:
    """Every copy has ended already."""


# --- kept over the end of copies ---


@pytest.mark.requirement("volumes:state:survives-stop")
async def test_what_a_copy_wrote_is_there_for_the_next_one(world: World) -> None:
    assert await world.seen() == ""
    await world.kept("remember me")
    assert world.ground.open() == []
    assert await world.seen() == "remember me"


@pytest.mark.requirement("volumes:state:survives-stop")
async def test_an_orderly_end_of_the_platform_keeps_every_volume(world: World) -> None:
    for tenant in (ACME, GLOBEX):
        await world.acquire(tenant)
        world.file(tenant=tenant).write_text(tenant)
    await world.volumes.close()
    assert world.ground.open() == []
    with pytest.raises(errors.Unavailable):
        await world.acquire()
    world.volumes = world.make()
    for tenant in (ACME, GLOBEX):
        await world.acquire(tenant)
        assert world.file(tenant=tenant).read_text() == tenant


@pytest.mark.requirement("volumes:content:whole")
async def test_names_modes_links_and_holes_come_back_as_they_were(world: World) -> None:
    hold = await world.acquire()
    root = world.file(".").resolve()
    (root / "line\nbreak ü \udcff").write_bytes(b"odd name")
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/script").write_text("#!/bin/sh")
    (root / "deep/er/script").chmod(0o750)
    os.link(root / "deep/er/script", root / "hard")
    (root / "soft").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    with (root / "holes").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
        file.seek(1024 * 1024)
        file.write(b"island")
    (root / "deep").chmod(0o500)
    os.utime(root / "hard", ns=(1, 1_234_567_890_123_456_789))
    await world.idle(hold)
    assert (await world.history())[-1].bytes < 100_000
    hold = await world.acquire()
    assert (root / "line\nbreak ü \udcff").read_bytes() == b"odd name"
    assert (root / "hard").stat().st_ino == (root / "deep/er/script").stat().st_ino
    assert (root / "hard").stat().st_mode & 0o7777 == 0o750
    assert (root / "hard").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (root / "deep").stat().st_mode & 0o7777 == 0o500
    assert os.readlink(root / "soft") == "/etc/passwd"
    assert (root / "pipe").is_fifo()
    assert (root / "holes").stat().st_size == 64 * 1024 * 1024
    assert (root / "holes").stat().st_blocks * 512 < 100_000
    assert (root / "holes").read_bytes().strip(b"\0") == b"island"
    await world.idle(hold)
    assert len(await world.history()) == 1, "what came back is the same to the bit"


@pytest.mark.requirement("volumes:history:changes-only")
async def test_nothing_is_stored_when_nothing_changed(world: World) -> None:
    first = await world.kept("same")
    for _ in range(3):
        assert await world.seen() == "same"
    assert await world.history() == (first,)
    assert 'outcome="unchanged"} 3.0' in world.metrics.render().decode()


@pytest.mark.requirement("volumes:history:bounded")
async def test_the_history_holds_the_newest_ones_and_no_object_more(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, keep=3) as world:
        for number in range(6):
            await world.kept(str(number))
        history = await world.history()
        assert [one.time for one in history] == sorted(one.time for one in history)
        assert len(history) == 3
        assert await world.objects() == {one.object for one in history}


# --- while copies run ---


@pytest.mark.requirement("volumes:sharing:copies")
async def test_all_copies_share_it_and_only_the_last_one_closes_it(world: World) -> None:
    first, second = await world.acquire(), await world.acquire()
    assert world.ground.opened == 1
    world.file().write_text("from the first")
    await world.idle(first)
    assert world.ground.open() == ["acme/notes"]
    await world.idle(second)
    await world.idle(second)
    assert world.ground.open() == []


@pytest.mark.requirement("volumes:sharing:tenants")
async def test_two_tenants_servers_of_one_name_have_nothing_in_common(world: World) -> None:
    await world.kept("of acme")
    hold = await world.acquire(GLOBEX)
    assert list(world.ground.place(GLOBEX, NOTES).iterdir()) == []
    await world.idle(hold)
    await world.kept("of globex", GLOBEX)
    assert await world.seen() == "of acme"


@pytest.mark.requirement("volumes:schedule:running")
async def test_a_running_server_is_saved_again_and_again(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, snapshot_s=0.02) as world:
        hold = await world.acquire()
        for number in range(3):
            world.file().write_text(str(number))
            hold.active = True
            async with asyncio.timeout(10):
                while len(await world.history()) <= number:
                    world.changed.clear()
                    await world.changed.wait()


@pytest.mark.requirement("volumes:schedule:frozen")
async def test_copies_are_held_still_while_a_snapshot_is_taken(world: World) -> None:
    hold = await world.acquire()
    code = "import sys\nwhile True:\n a=sys.stdin.read(1)\n for n in 'ab': open(n,'w').write(a)\n print(flush=True)"
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=-1, stdout=-1, cwd=world.file("."))
    assert running.stdin is not None
    assert running.stdout is not None
    hold.started(ground.Child(running))
    running.stdin.write(b"1")
    await running.stdout.readline()
    world.ground.gate.clear()
    taking = asyncio.create_task(world.volumes.snapshot(ACME, NOTES))
    await world.ground.waiting.wait()
    running.stdin.write(b"2")
    assert world.file("a").read_text() == world.file("b").read_text() == "1"
    world.ground.gate.set()
    assert (await taking).note == "asked for"
    await running.stdout.readline()
    assert world.file("a").read_text() == "2", "and then goes on"
    running.kill()
    await running.wait()


@pytest.mark.requirement("volumes:schedule:frozen")
async def test_a_server_is_not_held_still_longer_than_the_setting_says(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, freeze_s=0.05) as world:
        hold = await world.acquire()
        code = "import sys\nwhile True: print(sys.stdin.readline(), flush=True)"
        running = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=-1, stdout=-1)
        assert running.stdin is not None
        assert running.stdout is not None
        hold.started(ground.Child(running))
        world.ground.gate.clear()
        taking = asyncio.create_task(world.volumes.snapshot(ACME, NOTES))
        await world.ground.waiting.wait()
        running.stdin.write(b"still there?\n")
        async with asyncio.timeout(10):
            assert await running.stdout.readline() == b"still there?\n"
        world.ground.gate.set()
        assert (await taking).note == "asked for; taken while the server ran"
        running.kill()
        await running.wait()


@pytest.mark.requirement("volumes:races:reopened")
async def test_a_copy_that_comes_while_the_last_state_is_stored_gets_the_volume_as_it_is(world: World) -> None:
    hold = await world.acquire()
    world.file().write_text("still here")
    world.ground.gate.clear()
    hold.release()
    await world.ground.waiting.wait()
    coming = asyncio.create_task(world.acquire())
    await asyncio.sleep(0)
    world.ground.gate.set()
    again = await coming
    assert world.ground.opened == 1
    assert world.file().read_text() == "still here"
    await world.idle(again)


@pytest.mark.requirement("volumes:races:cancelled")
async def test_who_gives_up_while_it_is_opened_leaves_nothing_open(world: World) -> None:
    await world.kept("state")
    world.ground.gate.clear()
    starting = asyncio.create_task(world.acquire())
    await world.ground.waiting.wait()
    starting.cancel()
    world.ground.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await world.settled()
    assert world.ground.open() == []
    assert len(await world.history()) == 1


@pytest.mark.requirement("volumes:races:any-order")
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_comes_in_whatever_order_a_copy_finds_what_was_written_last(
    seed: int, tmp_path: pathlib.Path
) -> None:
    chance = random.Random(seed)
    async with opened(tmp_path, snapshot_s=0.005, keep=2) as world:
        holds: list[keeper.Hold] = []
        written = ""

        async def stop() -> None:
            while holds:
                holds.pop().release()

        for step in range(60):
            match chance.choice(("start", "start", "end", "write", "write", "save", "restore", "pause")):
                case "start":
                    holds.append(await world.acquire())
                    assert (world.file().read_text() if world.file().exists() else "") == written, step
                case "end" if holds:
                    holds.pop(chance.randrange(len(holds))).release()
                case "write" if holds:
                    written = f"{step}"
                    world.file().write_text(written)
                case "save" if written:
                    await world.volumes.snapshot(ACME, NOTES)
                case "restore" if written and await world.history():
                    # To the newest: what was written is stored first, so nothing is lost by it.
                    await world.volumes.snapshot(ACME, NOTES)
                    newest = (await world.history())[-1]
                    await world.volumes.restore(ACME, NOTES, newest.id, stop)
                case _:
                    await asyncio.sleep(chance.choice((0, 0.002)))
        await stop()
        await world.settled()
        assert world.ground.open() == []
        assert await world.seen() == written
        assert await world.objects() == {one.object for one in await world.history()}
        for line in world.told:
            assert "not stored" not in line


# --- failures ---


@pytest.mark.requirement("volumes:failure:kept")
async def test_what_can_not_be_stored_stays_and_is_tried_again(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, quota=200_000, snapshot_s=0.02) as world:
        filler = iter([os.urandom(150_000)])

        async def fill() -> AsyncIterator[bytes]:
            for one in filler:
                yield one

        await world.store.tenant(ACME).objects.put(("filler",), fill())
        hold = await world.acquire()
        world.file().write_bytes(os.urandom(100_000))
        content = world.file().read_bytes()
        await world.idle(hold)
        assert world.ground.open() == ["acme/notes"]
        state = await world.volumes.state(ACME, NOTES)
        assert "quota" in state.unsaved
        assert "stays in memory" in world.told[-1]
        assert 'outcome="failed"' in world.metrics.render().decode()
        again = await world.acquire()
        assert world.file().read_bytes() == content
        again.release()
        await world.store.tenant(ACME).objects.delete(("filler",))
        async with asyncio.timeout(10):
            await world.ground.closed.wait()
        assert world.ground.open() == []
        await world.acquire()
        assert world.file().read_bytes() == content
        assert (await world.volumes.state(ACME, NOTES)).unsaved == ""


@pytest.mark.requirement("volumes:failure:told")
async def test_a_state_that_is_lost_at_the_end_is_said_to_be_lost(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, quota=20_000) as world:
        await world.acquire()
        world.file().write_bytes(os.urandom(100_000))
        await world.volumes.close()
        assert world.ground.open() == []
        assert "last state is lost" in world.log.getvalue()


@pytest.mark.requirement("volumes:tampering:refused")
@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "exchanged"])
async def test_a_damaged_snapshot_keeps_the_server_from_starting_and_an_earlier_one_is_still_there(
    damage: str, world: World
) -> None:
    earlier, newest = await world.kept("one"), await world.kept("two")
    path = world.sealed(newest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    match damage:
        case "changed":
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-40])
        case "exchanged":
            path.write_bytes(world.sealed(earlier).read_bytes())
        case _:
            path.unlink()
    for _ in range(2):
        with pytest.raises(errors.TamperedData, match="is damaged") as raised:
            await world.acquire()
        assert newest.id in raised.value.public
        assert world.ground.open() == []
    with pytest.raises(errors.TamperedData):
        await world.volumes.restore(ACME, NOTES, newest.id, nothing)
    await world.volumes.restore(ACME, NOTES, earlier.id, nothing)
    assert await world.seen() == "one"


@pytest.mark.requirement("volumes:tampering:refused")
async def test_a_server_does_not_start_empty_when_its_history_was_taken_away(world: World) -> None:
    await world.kept("one")
    await world.store.tenant(ACME).kv.delete(("volume", NOTES))
    with pytest.raises(errors.TamperedData, match="record"):
        await world.acquire()
    assert len(await world.objects()) == 1
    await world.volumes.delete(ACME, NOTES, nothing)
    assert await world.seen() == ""


@pytest.mark.requirement("volumes:failure:crash")
async def test_what_a_crash_left_half_stored_is_removed_at_the_next_start(world: World) -> None:
    await world.kept("one")

    async def half() -> AsyncIterator[bytes]:
        yield b"stored, and never listed"

    await world.store.tenant(ACME).objects.put(("volume", NOTES, "snap-left"), half())
    assert await world.seen() == "one"
    assert await world.objects() == {one.object for one in await world.history()}


@pytest.mark.requirement("volumes:size:bounded")
async def test_a_tenant_gets_no_more_memory_for_volumes_than_the_settings_say(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, max_bytes=1_000_000, tenant_bytes=1_500_000) as world:
        with pytest.raises(errors.InvalidParams, match="max_bytes"):
            await world.acquire()
        small = keeper.VolumeSpec("/data", 1_000_000)
        hold = await world.acquire(spec=small)
        with pytest.raises(errors.QuotaExceeded, match="tenant_bytes"):
            await world.acquire(spec=small, server=ids.ServerName("other"))
        await world.acquire(GLOBEX, spec=small)
        await world.idle(hold)
        await world.acquire(spec=small, server=ids.ServerName("other"))


# --- restoring and deleting ---


@pytest.mark.requirement("volumes:restore:nothing-lost")
async def test_going_back_keeps_what_was_there(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, keep=2) as world:
        one, _ = await world.kept("one"), await world.kept("two")
        hold = await world.acquire()
        world.file().write_text("three, not stored yet")

        async def stop() -> None:
            with pytest.raises(errors.Unavailable, match="being restored"):
                await world.acquire()
            with pytest.raises(errors.Conflict):
                await world.volumes.delete(ACME, NOTES, nothing)
            hold.release()

        made = await world.volumes.restore(ACME, NOTES, one.id, stop)
        assert (made.digest, made.note) == (one.digest, f"restored from {one.id}")
        assert await world.seen() == "one"
        three = (await world.history())[0]
        await world.volumes.restore(ACME, NOTES, three.id, nothing)
        assert await world.seen() == "three, not stored yet"
        assert await world.objects() == {snapshot.object for snapshot in await world.history()}


@pytest.mark.requirement("volumes:restore:nothing-lost")
async def test_nothing_is_restored_when_what_is_there_can_not_be_stored(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, quota=200_000) as world:
        one = await world.kept("one")
        hold = await world.acquire()
        content = os.urandom(300_000)
        world.file().write_bytes(content)

        async def stop() -> None:
            hold.release()

        with pytest.raises(errors.QuotaExceeded):
            await world.volumes.restore(ACME, NOTES, one.id, stop)
        again = await world.acquire()
        assert world.file().read_bytes() == content
        world.file().unlink()
        again.release()


@pytest.mark.requirement("volumes:restore:nothing-lost")
async def test_what_never_was_can_not_be_restored(world: World) -> None:
    with pytest.raises(errors.NotFound):
        await world.volumes.restore(ACME, NOTES, "snap-none", nothing)
    with pytest.raises(errors.NotFound):
        await world.volumes.snapshot(ACME, NOTES)
    await world.kept("one", GLOBEX)
    with pytest.raises(errors.NotFound):
        await world.volumes.restore(ACME, NOTES, (await world.history(GLOBEX))[0].id, nothing)


@pytest.mark.requirement("volumes:delete:all")
async def test_deleting_removes_every_trace_and_the_next_start_is_empty(world: World) -> None:
    await world.kept("one")
    hold = await world.acquire()

    async def stop() -> None:
        hold.release()

    assert await world.volumes.delete(ACME, NOTES, stop)
    assert await world.objects() == set()
    assert world.ground.open() == []
    assert (await world.volumes.state(ACME, NOTES)).history is None
    assert await world.seen() == ""
    await world.volumes.delete(ACME, NOTES, nothing)
    assert not await world.volumes.delete(ACME, NOTES, nothing)


@pytest.mark.requirement("volumes:probe:scratch")
async def test_a_probe_sees_the_newest_state_and_changes_nothing(world: World) -> None:
    await world.kept("live")
    running = await world.acquire()
    hold = await world.acquire(spec=keeper.VolumeSpec("/data", 1_048_576, scratch=True))
    assert hold.volume.server != NOTES
    copy = world.file(server=hold.volume.server)
    assert copy.read_text() == "live"
    copy.write_text("migrated by a version that is refused")
    await world.idle(hold)
    assert world.file().read_text() == "live"
    await world.idle(running)
    assert len(await world.history()) == 1
    assert world.ground.open() == []
