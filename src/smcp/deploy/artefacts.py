"""Artefacts: sealed in the tenant's objects, unpacked on this node when they are needed.

The store is the truth, the unpacked directory is a cache: `<cache>/<tenant>/<digest>`, read-only, made aside and moved
into place whole, and compared with its digest when this process uses it for the first time (so a disk that lost power,
or somebody who changed a file, is noticed and the copy made anew). Tenants do not share copies: a name in one tenant's
cache says nothing about another's.
"""

import asyncio
import contextlib
import os
import pathlib
import re
import secrets
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import IO, Final

from smcp.deploy import archive
from smcp.kernel import errors, ids
from smcp.stores import tenant as stores

_PREFIX: Final = "sha256:"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK: Final = 1_048_576
_LEVEL: Final = 1
_ASIDE: Final = ".making-"


class Artefacts:
    """Every tenant's artefacts, and this node's unpacked copies."""

    def __init__(self, store: stores.Store, cache: pathlib.Path, max_bytes: int) -> None:
        self._store = store
        self._cache = cache
        self._max = max_bytes
        self._trusted: set[tuple[str, str]] = set()
        self._making: dict[tuple[str, str], asyncio.Lock] = {}

    def location(self, tenant: ids.TenantId, digest: str) -> pathlib.Path:
        """Where `path` puts it; says nothing about whether it is there."""
        if _DIGEST.fullmatch(digest) is None:
            raise errors.TamperedData(detail="not a digest of an artefact")
        return self._cache / tenant / digest.removeprefix(_PREFIX)

    async def save(self, tenant: ids.TenantId, tree: pathlib.Path, scratch: pathlib.Path) -> str:
        """Seal `tree` into the tenant's objects and return its digest. One that is there already is kept.

        `scratch` is a file that may be written on the way. Raises `errors.DeployFailed` and `errors.QuotaExceeded`.
        """
        digest = _PREFIX + await asyncio.to_thread(self._pack, tree, scratch)
        objects = self._store.tenant(tenant).objects
        with contextlib.suppress(errors.Conflict):  # made before, by an earlier deployment of the same packages
            await objects.put(_name(digest), _compressed(scratch))
        return digest

    async def path(self, tenant: ids.TenantId, digest: str) -> pathlib.Path:
        """The unpacked, verified, read-only artefact. Raises `errors.NotFound` and `errors.TamperedData`."""
        place = (tenant, digest)
        target = self.location(tenant, digest)
        if place in self._trusted:
            return target
        async with self._making.setdefault(place, asyncio.Lock()):
            if place not in self._trusted:
                if not await asyncio.to_thread(self._intact, target, digest):
                    await self._make(tenant, digest, target)
                self._trusted.add(place)
        return target

    async def discard(self, tenant: ids.TenantId, digest: str) -> None:
        """Remove the artefact, from the store first. Nobody may be running it."""
        place = (tenant, digest)
        target = self.location(tenant, digest)
        # Not while somebody compares or makes the copy: what they trust afterwards would not be there.
        async with self._making.setdefault(place, asyncio.Lock()):
            self._trusted.discard(place)
            await self._store.tenant(tenant).objects.delete(_name(digest))
            await asyncio.to_thread(archive.remove, target)

    def sweep(self) -> None:
        """Remove what a crash left half made. At start, before anything is unpacked. Blocking."""
        if self._cache.is_dir():
            for left in self._cache.glob(f"*/{_ASIDE}*"):
                if left.is_dir() and not left.is_symlink():
                    archive.remove(left)
                else:
                    left.unlink()

    # --- blocking parts ---

    def _pack(self, tree: pathlib.Path, scratch: pathlib.Path) -> str:
        with scratch.open("xb") as file:
            return archive.pack(tree, file, self._max)

    def _intact(self, target: pathlib.Path, digest: str) -> bool:
        """Raises `errors.Unavailable` where this machine can't tell."""
        if not target.is_dir():
            return False
        try:
            return _PREFIX + archive.pack(target, None, self._max) == digest
        except errors.DeployFailed:
            return False
        except OSError as error:
            if error.errno in archive.MACHINE:
                raise errors.Unavailable(detail=f"reading an artefact: {error}") from error
            return False

    async def _make(self, tenant: ids.TenantId, digest: str, target: pathlib.Path) -> None:
        aside = target.parent / f"{_ASIDE}{secrets.token_hex(8)}"
        packed = target.parent / f"{aside.name}.tar"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await self._download(tenant, digest, packed)
            await asyncio.to_thread(self._unpack, packed, aside, target, digest)
        finally:
            await asyncio.to_thread(_clear, packed, aside)

    async def _download(self, tenant: ids.TenantId, digest: str, packed: pathlib.Path) -> None:
        inflate = zlib.decompressobj()
        size = 0
        # A tar is larger than its files by a header for each and the padding.
        most = self._max * 2 + 256 * _BLOCK
        with packed.open("xb") as file:
            async for chunk in self._store.tenant(tenant).objects.get(_name(digest)):
                rest = chunk
                while rest:
                    try:
                        data = await asyncio.to_thread(inflate.decompress, rest, _BLOCK)
                    except zlib.error as error:
                        raise errors.TamperedData(detail="an artefact does not decompress") from error
                    rest = inflate.unconsumed_tail
                    size += len(data)
                    if size > most:
                        raise errors.TamperedData(detail="an artefact grows without bound")
                    file.write(data)
            file.write(inflate.flush())

    def _unpack(self, packed: pathlib.Path, aside: pathlib.Path, target: pathlib.Path, digest: str) -> None:
        with packed.open("rb") as file:
            archive.unpack(file, aside, self._max)
        if not self._intact(aside, digest):
            raise errors.TamperedData(detail=f"artefact {digest} is not what its digest says")
        # What is there failed its comparison.
        archive.remove(target)
        os.rename(aside, target)


def _name(digest: str) -> tuple[str, str]:
    return ("artefact", digest.removeprefix(_PREFIX))


def _clear(packed: pathlib.Path, aside: pathlib.Path) -> None:
    packed.unlink(missing_ok=True)
    archive.remove(aside)


async def _compressed(path: pathlib.Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        blocks = _deflated(file)
        while block := await asyncio.to_thread(next, blocks, b""):
            yield block


def _deflated(file: IO[bytes]) -> Iterator[bytes]:
    deflate = zlib.compressobj(_LEVEL)
    while block := file.read(_BLOCK):
        if data := deflate.compress(block):
            yield data
    yield deflate.flush()
