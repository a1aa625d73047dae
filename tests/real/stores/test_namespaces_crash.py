"""A writer of KV namespaces is killed in the middle, again and again: nothing is torn, lost or left behind."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.backends import ACME, opened
from smcp.kernel import clock as clocks
from smcp.stores import namespaces

pytestmark = pytest.mark.real

TESTS = Path(__file__).parents[2]


def _killed_while_writing(directory: Path, life: int, after: int) -> dict[str, str]:
    """What each key was last acknowledged to have when the writer died, some acknowledgements after the first ones."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS)}
    script = str(TESTS / "real/stores/kvwriter.py")
    with subprocess.Popen(
        [sys.executable, script, str(directory), str(life)], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        assert writer.wait() == -signal.SIGKILL, lines
    return dict(line.decode().split() for line in lines if line.endswith(b"\n"))


def _number(text: str) -> tuple[int, int]:
    life, _, n = text.split("-")
    return int(life), int(n)


@pytest.mark.requirement("workers:kv:leftovers", "workers:kv:atomic")
@pytest.mark.timeout(600)
async def test_a_killed_writer_tears_loses_and_leaves_nothing(tmp_path: Path) -> None:
    chance = random.Random(os.urandom(8))
    acknowledged: dict[str, str] = {}
    left = 0
    for life in range(8):
        after = chance.choice([1, 20, chance.randrange(1, 200)])
        acknowledged |= await asyncio.to_thread(_killed_while_writing, tmp_path, life, after)
        store = await opened(tmp_path, clocks.SystemClock())
        every = namespaces.Namespaces(store)
        left += await every.sweep(ACME)
        kept = (await every.list(ACME, "notes")).keys
        for one in kept:
            found = await every.get(ACME, "notes", one.name)
            assert found is not None
            assert found.metadata is not None
            text = found.metadata.strip('"')
            value = await found.read()
            assert value == (text.encode() + b" ") * (len(value) // (len(text) + 1)), "a value is torn"
            assert len(value) == one.size > 0
            last = acknowledged.get(one.name, "-")
            assert last == "-" or _number(text) >= _number(last), "an acknowledged write is lost"
        names = {one.name for one in kept}
        gone = [key[:2] for key, text in acknowledged.items() if text != "-" and key not in names]
        # Each of the writer's workers may have had one deletion under way.
        assert len(gone) == len(set(gone)), "an acknowledged write is lost"
        acknowledged = {one.name: (one.metadata or "").strip('"') for one in kept}
        handle = store.tenant(ACME)
        large = sum(one.size > namespaces.BESIDE for one in kept)
        beside = sum(namespaces.INLINE < one.size <= namespaces.BESIDE for one in kept)
        assert len(await handle.objects.list(("worker-kv",))) == large
        assert len(await handle.kv.scan(("worker-kv-blob",))) == large
        assert len(await handle.kv.scan(("worker-kv-value",))) == beside
        await store.close()
    print(f"{left} large values were left by the killed")
