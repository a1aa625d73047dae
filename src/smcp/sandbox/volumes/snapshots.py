"""A volume's history: sealed, create-only objects, and one record that lists them.

The record is written before the first object and removed after the last one: objects without a record were not made by
a crash but by somebody who took the record away, and a server does not start empty over them. Objects that the record
does not name are what a crash left, and are removed when the volume is opened next.
"""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Collection
from typing import Final

import msgspec

from smcp.kernel import errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.stores.objects import base as objects

_PREFIX: Final = "volume"
_PAGE: Final = 1000


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A volume's content at one moment."""

    id: str
    object: str
    """The object that holds it. A restored state shares the object of the snapshot that it came from."""
    time: float
    """When it began to be taken, epoch seconds."""
    bytes: int
    """Size of the content as a tar stream."""
    digest: str
    """SHA-256 of the stream."""
    note: str = ""
    """What is special about it, for people; empty for nothing."""


class History(msgspec.Struct, frozen=True):
    """What is kept of one volume."""

    snapshots: tuple[Snapshot, ...] = ()
    """Oldest first."""

    @property
    def newest(self) -> Snapshot | None:
        """What the volume will be filled with when it is opened next."""
        return self.snapshots[-1] if self.snapshots else None

    def find(self, snapshot: str) -> Snapshot:
        """The snapshot with this id. Raises `errors.NotFound`."""
        for one in self.snapshots:
            if one.id == snapshot:
                return one
        raise errors.NotFound(f"The volume has no snapshot '{snapshot[:64]}'.")


class Snapshots:
    """Every tenant's volumes' histories. Who changes one holds that volume's lock (`keeper`)."""

    def __init__(self, store: stores.Store, keep: int) -> None:
        """`keep`: how many snapshots of a volume there are at most."""
        self._store = store
        self._keep = keep
        self._records = records.Records(store, History, (_PREFIX,), cached=1024)

    async def history(self, tenant: ids.TenantId, server: str) -> History | None:
        """What is kept; None for a volume that was never opened."""
        found = await self._records.get(tenant, server)
        return None if found is None else found.value

    async def begin(self, tenant: ids.TenantId, server: str) -> History:
        """The history of a volume that is about to be opened; begun if there is none.

        Raises `errors.TamperedData` when its record is gone and its snapshots are not.
        """
        found = await self.history(tenant, server)
        kept = await self._objects(tenant, server)
        if found is None:
            if kept:
                raise errors.TamperedData(
                    "The record of the server's volume is gone, its snapshots are not: the server is not started over "
                    "them. 'smcp volume delete' discards them.",
                    detail=f"{len(kept)} objects without a record",
                )
            found = History()
            await self._records.create(tenant, (server,), found)
        await self._remove(tenant, kept - {one.object for one in found.snapshots}, server)
        return found

    async def put(self, tenant: ids.TenantId, server: str, name: str, data: AsyncIterable[bytes]) -> None:
        """Seal a stream; nobody sees it before `add`. Raises `errors.QuotaExceeded` and what `data` raises."""
        await self._store.tenant(tenant).objects.put((_PREFIX, server, name), data)

    async def add(self, tenant: ids.TenantId, server: str, snapshot: Snapshot, *, spare: str = "") -> None:
        """Make `snapshot` the newest, and remove those that are too many, but not the one with the id `spare`."""
        dropped: set[str] = set()

        def change(history: History) -> History:
            nonlocal dropped
            every = (*history.snapshots, snapshot)
            kept = tuple(one for one in every[: -self._keep] if one.id == spare) + every[-self._keep :]
            dropped = {one.object for one in every} - {one.object for one in kept}
            return History(kept)

        await self._records.update(tenant, (server,), change)
        await self._remove(tenant, dropped, server)

    async def read(self, tenant: ids.TenantId, server: str, snapshot: Snapshot) -> AsyncIterator[bytes]:
        """The stream of `snapshot`. Raises `errors.TamperedData`, at its end at the latest, when it is another one."""
        digest = hashlib.sha256()
        try:
            async for chunk in self._store.tenant(tenant).objects.get((_PREFIX, server, snapshot.object)):
                digest.update(chunk)
                yield chunk
        except (errors.NotFound, errors.TamperedData) as error:
            raise _damaged(snapshot, str(error)) from error
        if digest.hexdigest() != snapshot.digest:
            raise _damaged(snapshot, "another content than the record says")

    async def discard(self, tenant: ids.TenantId, server: str) -> None:
        """Remove everything that is kept of a volume."""
        if await self.history(tenant, server) is not None:
            # First the record forgets them: a crash amid the removal leaves an empty history, not a broken one.
            await self._records.update(tenant, (server,), lambda _: History())
        await self._remove(tenant, await self._objects(tenant, server), server)
        await self._records.delete(tenant, (server,))

    async def _objects(self, tenant: ids.TenantId, server: str) -> set[str]:
        found: set[str] = set()
        after: objects.Name | None = None
        while page := await self._store.tenant(tenant).objects.list((_PREFIX, server), after=after, limit=_PAGE):
            found |= {info.name[-1] for info in page}
            after = page[-1].name
        return found

    async def _remove(self, tenant: ids.TenantId, names: Collection[str], server: str) -> None:
        for name in names:
            await self._store.tenant(tenant).objects.delete((_PREFIX, server, name))


def _damaged(snapshot: Snapshot, why: str) -> errors.TamperedData:
    return errors.TamperedData(
        f"The snapshot {snapshot.id} of the server's volume is damaged, so the server is not started with it. "
        "'smcp volume restore' goes back to an earlier one.",
        detail=why,
    )
