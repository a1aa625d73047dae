"""Volumes that can't be stored, were damaged, are taken back or deleted: nothing is lost in silence."""

import asyncio
import os
import pathlib
from collections.abc import AsyncIterator

import pytest

from smcp.kernel import errors, ids
from smcp.sandbox.volumes import keeper
from support.kept import ACME, GLOBEX, NOTES, World, nothing, opened

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
        assert "kept in memory" in world.told[-1]
        assert 'outcome="failed"' in world.metrics.render().decode()
        again = await world.acquire()
        assert world.file().read_bytes() == content
        again.release()
        await world.store.tenant(ACME).objects.delete(("filler",))
        async with asyncio.timeout(60):
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
