"""What Workers take that nobody asks anything: of tenants whose Worker runs, and of tenants whose Worker was stopped.

The pool, the driver, the launcher, the cells and workerd are real. No gateway stands before them, and nothing is
deployed: what is measured are processes, and no call's time.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, NamedTuple, Self

from bench import cores
from smcp.kernel import ids, observe
from smcp.runtime import driver, ledger, pool
from support import handmade

_START_S: Final = 120.0
_LEFT_S: Final = 1.0
"""Without a request, until a Worker is stopped, in `stopped`."""
_STOP_S: Final = 300.0
_SERVER: Final = "resting"


class Stopped(NamedTuple):
    """What became of Workers that were left alone."""

    most: int
    """Processes at once, while they were started."""
    left: int
    """Processes when all were stopped."""


async def running(tenants: int, source: str, tool: str, **arguments: str) -> list[float]:
    """MB that the cell of each tenant's Worker has for itself (its sandbox included), all of them at once.

    `source` is the one module of each Worker, whose `tool` is called once. Raises RuntimeError for a process that is in
    no cell, or for a cell without workerd.
    """
    async with _house(tenants, source, idle_s=3600.0) as house:
        await house.call(tool, arguments)
        return [cores.private_kib(cell) * 1024 / 1e6 for cell in house.cells()]


async def stopped(tenants: int, source: str, tool: str, **arguments: str) -> Stopped:
    """As `running`, but each Worker is left alone until the pool stops it."""
    async with _house(tenants, source, idle_s=_LEFT_S) as house:
        await house.call(tool, arguments)
        await house.emptied()
        return Stopped(house.most, len(house.processes()))


class _House:
    """Tenants, each with one Worker."""

    def __init__(self, made: handmade.Workers, specs: Sequence[driver.Spec], *, idle_s: float) -> None:
        self._made = made
        self._specs = specs
        self._started: dict[str, int] = {}
        self.most = 0
        self._pool = pool.Pool(
            made.driver,
            self._lines,
            observe.Metrics("bench"),
            pool.Patience(idle_stop_s=idle_s, start_s=_START_S),
            caps=lambda _: ledger.Caps(1, 0, 1),
            starts_at_once=(os.cpu_count() or 1) + 2,
            memory_bytes=lambda _: 1,
        )

    async def __aenter__(self) -> Self:
        await self._pool.start()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._pool.close()

    def _lines(self, spec: driver.Spec) -> driver.Lines:
        def take(text: str) -> None:
            before, found, pid = text.rpartition("started, process ")
            if found and before == "[smcp] ":
                self._started[spec.tenant] = int(pid)

        return take

    async def call(self, tool: str, arguments: dict[str, Any]) -> None:
        """Each tenant calls its Worker once, which starts it."""
        async with asyncio.TaskGroup() as tasks:
            for spec in self._specs:
                tasks.create_task(self._call(spec, tool, arguments))

    async def _call(self, spec: driver.Spec, tool: str, arguments: dict[str, Any]) -> None:
        instance = await self._pool.shared(spec)
        await handmade.call(instance, tool, timeout_s=_START_S, **arguments)
        self.most = max(self.most, len(self.processes()))

    async def emptied(self) -> None:
        """Return when the pool has stopped them all. Raises TimeoutError."""
        async with asyncio.timeout(_STOP_S):
            await handmade.until(lambda: not any(self._pool.used(spec.tenant)[0] for spec in self._specs))

    def processes(self) -> set[int]:
        """Of every cell."""
        pid = self._made.standing.launcher.pid
        return cores.family(pid) - {pid}

    def cells(self) -> list[set[int]]:
        """The processes of each cell. Raises RuntimeError as `running`."""
        found = [cores.family(pid) for pid in self._started.values()]
        if len(found) != len(self._specs) or set[int]().union(*found) != self.processes():
            raise RuntimeError("there are processes that belong to no Worker's cell")
        if any("workerd" not in map(cores.name, cell) for cell in found):
            raise RuntimeError("a Worker's cell has no workerd in it")
        return found


@contextlib.asynccontextmanager
async def _house(tenants: int, source: str, *, idle_s: float) -> AsyncGenerator[_House]:
    async with handmade.handmade() as made:
        names = [ids.tenant(f"tenant-{number}") for number in range(tenants)]
        specs = [made.spec(_SERVER, source, tenant=name) for name in names]
        async with _House(made, specs, idle_s=idle_s) as house:
            yield house
