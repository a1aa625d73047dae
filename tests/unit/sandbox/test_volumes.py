"""The life of a volume: opened, shared, saved and closed, in any order."""

import asyncio
import os
import pathlib
import random
import sys

import pytest

from smcp.kernel import errors
from smcp.sandbox.volumes import keeper
from support import ground
from support.kept import ACME, GLOBEX, NOTES, World, opened

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
            async with asyncio.timeout(60):
                while True:
                    world.changed.clear()
                    if len(await world.history()) > number:
                        break
                    await world.changed.wait()


@pytest.mark.requirement("volumes:schedule:frozen")
async def test_copies_are_held_still_while_a_snapshot_is_taken(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path, freeze_s=100) as world:  # a busy machine takes its time for a tar
        hold = await world.acquire()
        code = "import sys\nwhile True:\n a=sys.stdin.read(1)\n for n in 'ab': open(n,'w').write(a)\n print(flush=True)"
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=-1, stdout=-1, cwd=world.file(".")
        )
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
        async with asyncio.timeout(60):
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
