"""Real processes: killed while they write, two on the same files, out of disk, and objects larger than memory."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.backends import ACME, opened
from contract.objects import whole
from smcp.kernel import clock as clocks
from smcp.stores import tenant

pytestmark = pytest.mark.real

TESTS = Path(__file__).parents[2]


def started(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)}
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, env=environment)


def killed_while_writing(directory: Path, life: int, after: int) -> list[tuple[str, str]]:
    """What a writer said was acknowledged, up to its death some acknowledgements after the first `after`."""
    with started(str(TESTS / "real/stores/writer.py"), str(directory), str(life)) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        assert writer.wait() == -signal.SIGKILL, lines
    acknowledged = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return [(kind, name) for kind, name in acknowledged]


async def check(store: tenant.Store, acknowledged: set[tuple[str, str]]) -> None:
    handle = store.tenant(ACME)
    left = {entry.key[1]: entry.value async for entry in handle.kv.snapshot(("left",))}
    right = {entry.key[1]: entry.value async for entry in handle.kv.snapshot(("right",))}
    assert left == right, "an apply is half there"
    assert all(value == name.encode() for name, value in left.items())
    assert {name for kind, name in acknowledged if kind == "pair"} <= set(left)
    records = await handle.log.read(("s",), limit=1_000_000)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    names = [record.data.decode() for record in records]
    assert names[::2] == names[1::2], "an append is half there"
    assert {name for kind, name in acknowledged if kind == "record"} <= set(names)
    blobs = {info.name[1]: info.size for info in await handle.objects.list(("o",), limit=1_000_000)}
    assert {name for kind, name in acknowledged if kind == "blob"} <= set(blobs)
    for name in blobs:
        assert await whole(handle.objects, ("o", name)) == name.encode() * 100_000, "an object is half there"
    size = await handle.kv.size(())
    assert (await handle.usage()).keys == size.keys + len(blobs)


@pytest.mark.requirement("stores:crash:acknowledged", "stores:kv:atomic", "stores:objects:whole-or-absent")
@pytest.mark.timeout(300)
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(os.urandom(8))
    acknowledged: set[tuple[str, str]] = set()
    for life in range(8):
        # Once long enough for some of each kind.
        after = chance.choice([1, 10, 100, 1000, chance.randrange(1, 3000)]) if life else 1000
        acknowledged |= set(await asyncio.to_thread(killed_while_writing, tmp_path, life, after))
        store = await opened(tmp_path, clocks.SystemClock())
        await check(store, acknowledged)
        await store.close()
        assert list((tmp_path / "store/objects/staging").iterdir()) == []
    assert len({kind for kind, _ in acknowledged}) == 3


@pytest.mark.requirement("stores:sqlite:one-process")
async def test_a_second_process_is_told_which_one_has_the_store(tmp_path: Path) -> None:
    store = await opened(tmp_path, clocks.SystemClock())
    script = (
        "import asyncio, pathlib, sys; from contract.backends import opened; from smcp.kernel import clock\n"
        "asyncio.run(opened(pathlib.Path(sys.argv[1]), clock.SystemClock()))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)}
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert second.returncode != 0
    assert f"pid {os.getpid()}" in second.stderr
    assert "platform.data_dir" in second.stderr
    await store.close()


FULL_DISK = """
import asyncio, pathlib, resource, sys
from contract.backends import ACME, opened
from smcp.kernel import clock, errors

async def main():
    store = await opened(pathlib.Path(sys.argv[1]), clock.SystemClock())
    handle = store.tenant(ACME)
    # From here on no file grows past 2 MiB: what a full disk does to every write.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    async def blob():
        yield bytes(4 * 1024 * 1024)
    refused = 0
    try:
        await handle.objects.put(("o",), blob())
    except errors.Unavailable:
        refused += 1
    for interface in ("kv", "log"):
        for n in range(200):
            try:
                if interface == "kv":
                    await handle.kv.put(("k", str(n)), bytes(50_000))
                else:
                    await handle.log.append(("s",), [bytes(50_000)])
            except errors.Unavailable:
                refused += 1
                break
            print(interface, n, flush=True)
    print("refused", refused, flush=True)

asyncio.run(main())
"""


@pytest.mark.requirement("stores:sqlite:unavailable")
async def test_a_full_disk_is_told_as_unavailable_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with started("-c", FULL_DISK, str(tmp_path)) as writer:
        assert writer.stdout is not None
        said = (await asyncio.to_thread(writer.stdout.read)).decode().splitlines()
        assert writer.wait() == 0
    assert said[-1] == "refused 3"
    kv = [line for line in said if line.startswith("kv")]
    log = [line for line in said if line.startswith("log")]
    assert len(kv) > 10
    assert len(log) > 10
    store = await opened(tmp_path, clocks.SystemClock())
    handle = store.tenant(ACME)
    assert await handle.objects.head(("o",)) is None
    for line in kv:
        entry = await handle.kv.get(("k", line.split()[1]))
        assert entry is not None
        assert entry.value == bytes(50_000)
    assert await handle.log.last(("s",)) >= len(log)
    assert len(await handle.log.read(("s",))) >= len(log)
    await handle.kv.put(("k", "after"), b"")
    await store.close()


MEMORY = """
import asyncio, pathlib, resource, sys
from contract.backends import ACME, opened
from smcp.kernel import clock

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main():
    store = await opened(pathlib.Path(sys.argv[1]), clock.SystemClock())
    objects = store.tenant(ACME).objects
    async def data(size):
        for _ in range(size // 1_000_000):
            yield bytes(1_000_000)
    async def through(name, size):
        await objects.put((name,), data(size))
        read = 0
        async for chunk in objects.get((name,)):
            read += len(chunk)
        assert read == size
        return peak()
    small = await through("small", 20_000_000)
    large = await through("large", 400_000_000)
    print(small, large, flush=True)
    await store.close()

asyncio.run(main())
"""


@pytest.mark.requirement("stores:objects:memory")
async def test_a_large_object_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    with started("-c", MEMORY, str(tmp_path)) as process:
        assert process.stdout is not None
        small, large = map(int, (await asyncio.to_thread(process.stdout.read)).split())
        assert process.wait() == 0
    assert large - small < 48 * 1024, f"{small} KiB for 20 MB, {large} KiB for 400 MB"
