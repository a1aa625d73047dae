"""Volumes over a real store, on the ground (`support.ground`)."""

import asyncio
import contextlib
import io
import pathlib
from collections.abc import AsyncGenerator
from typing import Any

from smcp.kernel import clock, ids, observe, settings
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

    def __init__(self, directory: pathlib.Path, config: settings.Settings, freeze_s: float = keeper.FREEZE_S) -> None:
        self.config = config
        self._freeze_s = freeze_s
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
        return keeper.Volumes(
            self.store, self.ground, clock.SystemClock(), self.config, metrics, log, freeze_s=self._freeze_s
        )

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
async def opened(
    directory: pathlib.Path, quota: int = 2**31, freeze_s: float = keeper.FREEZE_S, **volumes: Any
) -> AsyncGenerator[World]:
    """A world with two tenants; closed in the end, when no volume may be open any more."""
    config = settings.Settings(volumes=settings.Volumes(**volumes), stores=settings.Stores(quota_bytes=quota))
    world = World(directory, config, freeze_s)
    await world.store.start()
    for tenant in (ACME, GLOBEX):
        await world.store.provision(tenant)
    try:
        yield world
        await world.volumes.close()
        assert world.ground.open() == []
    finally:
        await world.store.close()


async def nothing() -> None:
    """Every copy has ended already."""
