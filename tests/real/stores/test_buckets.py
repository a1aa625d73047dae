"""Buckets of real processes: killed while they write, and objects larger than memory."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.backends import ACME, opened
from smcp.kernel import clock as clocks
from smcp.stores import buckets
from support.buckets import nothing_left, whole

pytestmark = pytest.mark.real

TESTS = Path(__file__).parents[2]
LIVES = 5


def started(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)}
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, env=environment)


def killed_while_working(directory: Path, life: int, after: int) -> dict[str, str]:
    """What each key was last said to hold, up to the death some acknowledgements after the first `after`."""
    with started(str(TESTS / "real/stores/bucketeer.py"), str(directory), str(life)) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        assert writer.wait() == -signal.SIGKILL, lines
    return dict(line.decode().split() for line in lines if line.endswith(b"\n"))


@pytest.mark.requirement("workers:objects:crash", "workers:objects:nothing-left")
async def test_of_a_killed_process_every_acknowledged_object_stays_and_no_byte_besides(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    left_over = 0
    for life in range(LIVES):
        acknowledged |= await asyncio.to_thread(killed_while_working, tmp_path, life, 5 + 13 * life)
        store = await opened(tmp_path, clocks.SystemClock())
        held = buckets.Buckets(store)
        left_over += len(await store.tenant(ACME).kv.scan(("buckets", "waste")))
        await held.sweep(ACME)
        bucket = held.bucket(ACME, "photos")
        await bucket.uploads.abort_all()
        await nothing_left(store)
        for key, text in acknowledged.items():
            if key == "gone":
                continue
            found = (await whole(await bucket.get(key))).decode()
            seen = found[: len(text)]
            assert found == seen * (len(found) // len(seen)), f"{key} is half there"
            # The one after it may have been written too, and its acknowledgement not.
            assert seen >= text, f"{key} lost {text}"
        await store.close()
    assert left_over, "no life was killed in the middle of anything"


MEMORY = """
import asyncio, resource, sys
from pathlib import Path
from contract import backends
from smcp.kernel import clock
from smcp.stores import buckets
from support.buckets import drained

async def main():
    store = await backends.opened(Path(sys.argv[1]), clock.SystemClock(), quota_bytes=2 * 10**9)
    bucket = buckets.Buckets(store, segment=128 * 1024 * 1024).bucket(backends.ACME, "photos")

    async def content(mebibytes):
        for _ in range(mebibytes * 4):
            yield bytes(256 * 1024)

    for mebibytes in (20, 400):
        put = await bucket.put("k", content(mebibytes), length=mebibytes * 1024 * 1024)
        reading = await bucket.get("k")
        assert await drained(reading.body) == put.size == mebibytes * 1024 * 1024
        upload = await bucket.uploads.create("parts")
        await bucket.uploads.part("parts", upload, 1, content(mebibytes))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    await store.close()

asyncio.run(main())
"""


@pytest.mark.requirement("workers:objects:constant-memory")
async def test_a_large_object_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    with started("-c", MEMORY, str(tmp_path)) as process:
        assert process.stdout is not None
        small, large = map(int, (await asyncio.to_thread(process.stdout.read)).split())
        assert process.wait() == 0
    assert large - small < 64 * 1024, f"{small} KiB for 20 MB, {large} KiB for 400 MB"
