"""How many earlier deployments stay: as many as the plan says, the newest ones, and no artefact of the others."""

import pathlib

import pytest

from smcp.deploy import artefacts, manifest, versions
from smcp.kernel import clock, ids
from smcp.stores import tenant as stores
from support import storage

ACME, TIME = ids.tenant("acme"), ids.server("time")


class Shop:
    """Publishes deployments with real artefacts."""

    def __init__(self, store: stores.Store, directory: pathlib.Path) -> None:
        self.kept = 50
        self.store = store
        self.directory = directory
        self.artefacts = artefacts.Artefacts(store, directory / "cache", 1_000_000)
        self.versions = versions.Versions(store, clock.SystemClock(), self.artefacts, lambda tenant: self.kept)

    async def publish(self, content: str) -> str:
        tree = self.directory / "trees" / content
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "app.py").write_text(content)
        async with self.versions.changing(ACME):
            made = versions.Deployment(
                id=ids.new("dep"),
                server=TIME,
                number=await self.versions.reserve(ACME, TIME),
                created=1.0,
                by="key-1",
                source="pypi:x==1",
                digest=await self.artefacts.save(ACME, tree, self.directory / ids.new("scratch")),
                manifest=manifest.Manifest(),
                lock=(),
                argv=("/app/x",),
                interpreter="cpython-3.11",
            )
            await self.versions.publish(ACME, made)
        return made.id

    async def there(self) -> tuple[list[str], int]:
        """The deployments that there are, and how many artefacts."""
        found = await self.versions.deployments(ACME, TIME)
        stored = await self.store.tenant(ACME).objects.list(())
        return [one.id for one in found], len(stored)


@pytest.mark.requirement("deploy:kept:oldest-go")
async def test_the_oldest_earlier_deployments_go_with_their_artefacts_when_a_new_one_is_live(
    tmp_path: pathlib.Path,
) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(ACME)
        shop = Shop(store, tmp_path)
        made = [await shop.publish(f"version {number}") for number in range(5)]
        assert await shop.there() == (made, 5)
        assert await shop.versions.most_kept(ACME) == 4
        shop.kept = 2
        assert await shop.there() == (made, 5), "a smaller plan takes nothing by itself"
        made.append(await shop.publish("version 5"))
        assert await shop.there() == (made[-3:], 3)
        # What is live again is not the oldest, wherever it came from.
        await shop.versions.rollback(ACME, TIME, made[-3])
        made.append(await shop.publish("version 6"))
        ids_left, stored = await shop.there()
        assert made[-4] in ids_left
        assert (len(ids_left), stored) == (3, 3)
        assert (await shop.versions.server(ACME, TIME)).live == made[-1]


@pytest.mark.requirement("deploy:kept:oldest-go")
async def test_an_artefact_that_a_kept_deployment_shares_stays(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(ACME)
        shop = Shop(store, tmp_path)
        shop.kept = 1
        for content in ("same", "other", "same"):
            last = await shop.publish(content)
        assert (await shop.there())[1] == 2
        live = await shop.versions.deployment(ACME, TIME, last)
        assert (await shop.artefacts.path(ACME, live.digest)).is_dir()
