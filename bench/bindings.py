"""What a Worker waits for a KV read: workerd, the door, the namespaces and the store are real, and no sandbox is.

The platform's side (and the client's, which is the same process) has one core, workerd another.
"""

import os
import pathlib
import tempfile
import time
from typing import Final, NamedTuple

import uvloop

from bench import cores, figures
from smcp.kernel import ids
from smcp.runtime.bindings import door, kv
from smcp.stores import heavy, namespaces
from smcp.upstream import lean, places
from support import doorworker, storage

_TOPIC: Final = "a request to a Worker that reads from KV"
_TENANT: Final = ids.tenant("bench")
_SCRIPT: Final = """
export default {
  async fetch(request, env) {
    const key = new URL(request.url).pathname.slice(1);
    return Response.json({ value: key === "" ? "" : await env.KV.get(key) });
  },
};
"""
_WAYS: Final = {figures.BARE: "", "a value of 100 bytes": "small", "a value of 64 KiB": "medium", "none there": "none"}
_VALUES: Final = {"small": b"x" * 100, "medium": b"x" * 65_536}


class Plan(NamedTuple):
    """Rounds, and requests in each of every way."""

    rounds: int
    requests: int


def measure(plan: Plan, found: figures.Figures, where: cores.Cores) -> None:
    """Add the figures: every way in turns, one request at a time. Raises RuntimeError when an answer was wrong."""
    uvloop.run(_measure(plan, found, where))


async def _measure(plan: Plan, found: figures.Figures, where: cores.Cores) -> None:
    with tempfile.TemporaryDirectory(prefix="smcp-bench-") as name:
        directory = pathlib.Path(name)
        async with storage.opened(directory / "store") as store:
            await store.provision(_TENANT)
            every = namespaces.Namespaces(store)
            for key, value in _VALUES.items():
                await every.put(_TENANT, "bench", key, value)
            path = str(directory / "door")
            way = await door.Door.open(path, os.getuid(), lambda _line: None)
            bound = doorworker.Bound(
                "KV", "kvNamespace", way.admit(kv.Binding(every, _TENANT, "bench", heavy.Heavy()).answer)
            )
            async with doorworker.running(_SCRIPT, path, [bound]) as worker:
                os.sched_setaffinity(worker.pid, {where.measured})
                client = lean.Client(str(worker.socket))
                for key in _WAYS.values():  # what comes first pays for what is made once
                    await _times(client, key, plan.requests // 10 + 1)
                for _ in range(plan.rounds):
                    for how, key in _WAYS.items():
                        found.add(_TOPIC, "one at a time", how, "ms", await _times(client, key, plan.requests))
                await client.close()
            await way.close()


async def _times(client: lean.Client, key: str, number: int) -> list[float]:
    """Milliseconds of each of so many requests."""
    place = places.Place("http", "worker", 80, f"/{key}")
    wanted = (_VALUES.get(key, b"").decode(), "null" if key == "none" else None)
    took: list[float] = []
    for _ in range(number):
        before = time.perf_counter()
        async with client.send("GET", place, ()) as answer:
            said = (answer.ready() or await answer.read(1 << 20)).decode()
        took.append((time.perf_counter() - before) * 1000)
        if said != f'{{"value":{wanted[1] or chr(34) + wanted[0] + chr(34)}}}':
            raise RuntimeError(f"the Worker read something else from {key!r}")
    return took
