"""What tenants give the platform to deploy: archives, sealed in the tenant's own storage until they are used.

An upload goes straight into a sealed object, so that no plain byte of it touches a disk before a deployment unpacks it;
its digest is known when its last byte is. A record with a time to live names the object, `upload:sha256:…` names the
record. Both lie below the tenant: what another tenant has uploaded does not exist here, whatever its digest is.
"""

import asyncio
import collections
import contextlib
import hashlib
import pathlib
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

import msgspec

from smcp.deploy.sources import any as sources
from smcp.kernel import errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

KEPT_S: Final = 86_400.0
"""An upload that nobody sends again is removed after this long; what was deployed from it stays."""
_SWEEP_S: Final = 600.0
_PAGE: Final = 1000
_MOST: Final = 100
_OBJECTS: Final = "upload"


class Stored(msgspec.Struct, frozen=True):
    """What was stored: its digest as a source, and its size in bytes."""

    source: sources.Upload
    bytes: int


class _Kept(msgspec.Struct, frozen=True):
    """Which object holds the bytes of a digest."""

    object: str
    bytes: int


class Uploads:
    """Every tenant's uploads."""

    def __init__(self, store: stores.Store, max_bytes: int) -> None:
        self._store = store
        self._max = max_bytes
        self._records = records.Records(store, _Kept, ("upload",), cached=1024)
        self._arriving: dict[str, ids.TenantId] = {}
        self._stopped: set[str] = set()
        """Those among them whose tenant was suspended meanwhile."""
        self._read: collections.Counter[str] = collections.Counter()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to remove what has expired, also what a crash left half stored."""
        self._task = asyncio.create_task(self._sweep_for_ever(), name="uploads: sweep")

    async def close(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def store(self, tenant: ids.TenantId, data: AsyncIterable[bytes]) -> Stored:
        """Take an upload in. One that is there already is kept for another day.

        Raises `errors.TooLarge`, `errors.QuotaExceeded`, `errors.InvalidParams` for an empty one,
        `errors.TenantSuspended` when that happens meanwhile, and what `data` raises; then nothing of it is kept.
        """
        name = ids.new("up")
        digest = hashlib.sha256()
        size = 0

        async def counted() -> AsyncGenerator[bytes]:
            nonlocal size
            async for chunk in data:
                self._check(name)
                size += len(chunk)
                if size > self._max:
                    raise errors.TooLarge(f"An upload has at most {self._max} bytes (deploy.max_upload_bytes).")
                digest.update(chunk)
                yield chunk
            if not size:
                raise errors.InvalidParams("The upload is empty. Send a tar, tar.gz or zip archive as the body.")

        await self.sweep(tenant)
        objects = self._store.tenant(tenant).objects
        if len(await objects.list((_OBJECTS,), limit=_MOST)) >= _MOST:
            raise errors.QuotaExceeded(f"{_MOST} uploads are kept already. Each is removed a day after it was sent.")
        self._arriving[name] = tenant
        try:
            await objects.put((_OBJECTS, name), counted())
            try:
                self._check(name)
                # Always the new object: an older one of the same bytes may be expiring just now. The sweep takes it.
                await self._records.put(tenant, (digest.hexdigest(),), _Kept(name, size), ttl=KEPT_S)
            except BaseException:
                await asyncio.shield(objects.delete((_OBJECTS, name)))
                raise
        finally:
            del self._arriving[name]
            self._stopped.discard(name)
        return Stored(sources.Upload(f"sha256:{digest.hexdigest()}"), size)

    def stop_tenant(self, tenant: ids.TenantId) -> None:
        """End a suspended tenant's uploads: each with its next bytes, or its end; nothing of it is kept."""
        self._stopped.update(name for name, owner in self._arriving.items() if owner == tenant)

    def _check(self, name: str) -> None:
        if name in self._stopped:
            raise errors.TenantSuspended

    async def check(self, tenant: ids.TenantId, upload: sources.Upload) -> None:
        """Raises `errors.NotFound` when this tenant has no such upload (any more)."""
        await self._find(tenant, upload)

    async def copy(self, tenant: ids.TenantId, upload: sources.Upload, target: pathlib.Path) -> None:
        """Write the upload into the new file `target`. Raises `errors.NotFound` and `errors.TamperedData`."""
        kept = await self._find(tenant, upload)
        digest = hashlib.sha256()
        self._read[kept.object] += 1
        try:
            with target.open("xb") as file:
                async for chunk in self._store.tenant(tenant).objects.get((_OBJECTS, kept.object)):
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        finally:
            self._read[kept.object] -= 1
            self._read += collections.Counter()  # forgets what is at zero
        if f"sha256:{digest.hexdigest()}" != upload.digest:
            raise errors.TamperedData(detail="an upload is not what its digest says")

    async def _find(self, tenant: ids.TenantId, upload: sources.Upload) -> _Kept:
        found = await self._records.get(tenant, upload.digest.removeprefix("sha256:"))
        if found is None:
            raise errors.NotFound("There is no such upload, or it has expired. Send it again.")
        return found.value

    async def sweep(self, tenant: ids.TenantId) -> None:
        """Remove what no record names: it expired, or a crash came between the object and its record."""
        objects = self._store.tenant(tenant).objects
        found = await objects.list((_OBJECTS,), limit=_PAGE)
        if not found:
            return
        # In this order: what was listed is either arriving now, or has had its record written by now.
        kept = {*self._arriving, *self._read}
        kept |= {one.value.object for _, one in await self._records.list(tenant, limit=_PAGE)}
        for info in found:
            # Who began to read it after it was looked up, found it while a record named it: it goes in the next round.
            if info.name[-1] not in kept and info.name[-1] not in self._read:
                await objects.delete(info.name)

    async def _sweep_for_ever(self) -> None:
        while True:
            for tenant in self._store.ring.tenants():
                # Erased meanwhile, or the store is away: the next round is soon.
                with contextlib.suppress(errors.SmcpError):
                    await self.sweep(tenant)
            await asyncio.sleep(_SWEEP_S)
