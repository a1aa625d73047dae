"""Unpacked packages that a tenant's next build may need again: read-only, bounded, never another tenant's.

Who changes a file of a project builds it again with the packages of the build before. They were fetched by the lock,
and every file of them was compared with the lock's SHA-512 when it was unpacked; so the same packages of the same lock
are the same bytes, and there is no need to fetch them again.

- **What a tree is called** is the digest of all that went into it: each package's place, name, version and SHA-512. A
  lock that differs in any of it names another tree.
- **Whose it is**: each tenant has a directory of its own, and no build is handed another's. So nobody learns from the
  time of a build which packages somebody else has.
- **What may have become of it**: builds see a tree read-only, and before each use its every file must be the one that
  was unpacked, by inode, size and the times that the kernel writes when a file changes (stat(2), st_ctime). Else it is
  removed, and the build fetches anew.
- **How long**: at most for an hour without use and as long as this process; the directory is emptied at the start. What
  all tenants' trees take together is bounded, and so is one tenant's share; and none is kept where the disk is full.
"""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
import stat
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from smcp.deploy import archive, build, npm_lock
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import decided

DIRECTORY: Final = "kept"
_BLOCK: Final = 512
"""Bytes of what st_blocks counts (stat(2))."""


class Bounds(NamedTuple):
    """How much may lie there."""

    all_bytes: int = 2_147_483_648
    tenant_bytes: int = 536_870_912
    tenant_trees: int = 4
    idle_s: float = 3600.0
    spare_bytes: int = 1_073_741_824
    """What stays free on the disk, which holds the stores too."""


_BOUNDS: Final = Bounds()


class Kept(NamedTuple):
    """Packages that lie there, for a build's cell to see read-only."""

    tree: pathlib.Path
    """It holds `node_modules`."""
    lock: tuple[build.Locked, ...]
    notes: tuple[str, ...]
    """What their first build said of them and every build should say."""


class _Look(NamedTuple):
    digest: bytes
    bytes: int


@dataclasses.dataclass
class _Tree:
    kept: Kept
    look: _Look
    used: float


_Place = tuple[ids.TenantId, str]


class Shelves:
    """Every tenant's trees, below one directory of the deployer's."""

    def __init__(self, work: pathlib.Path, clock: clocks.Clock, bounds: Bounds = _BOUNDS) -> None:
        """`work` is where builds are made: what is put on a shelf is moved there. Nothing is read yet."""
        self._root = work / DIRECTORY
        self._clock = clock
        self._bounds = bounds
        self._trees: dict[_Place, _Tree] = {}
        self._held: collections.Counter[_Place] = collections.Counter()
        self._changing = asyncio.Lock()
        self._numbers = itertools.count()

    def of(self, tenant: ids.TenantId) -> "Shelf":
        """A tenant's own."""
        return Shelf(self, tenant)

    async def forget(self, tenant: ids.TenantId) -> None:
        """Remove what a tenant has; not what one of its builds uses right now."""
        async with self._changing:
            for place in self._unused(tenant):
                await self._remove(place)

    @contextlib.contextmanager
    def held(self, place: _Place) -> Generator[None]:
        """While this is open, a tree of this place stays."""
        self._held[place] += 1
        try:
            yield
        finally:
            self._held[place] -= 1
            if not self._held[place]:
                del self._held[place]
            if place in self._trees:
                self._trees[place].used = self._clock.monotonic()

    async def take(self, place: _Place) -> Kept | None:
        """A tree that is `held`; None where there is none, or it was changed."""
        async with self._changing:
            await self._tidy(0)
            found = self._trees.get(place)
            if found is None:
                return None
            if await asyncio.to_thread(_look, found.kept.tree) == found.look:
                return found.kept
            await self._remove(place)
            return None

    async def put(self, place: _Place, made: Kept) -> Kept | None:
        """Move a tree to a place that is `held`; None where there is no room for it, and it stays where it is."""
        async with self._changing:
            look = await asyncio.to_thread(_look, made.tree)
            if look is None or place in self._trees or not await self._room(place[0], look.bytes):
                return None
            # A number of its own: what an earlier one of the name left is in nobody's way.
            target = self._root / place[0] / f"{place[1]}-{next(self._numbers)}"
            look = await asyncio.to_thread(_move, made.tree, target)
            if look is None:
                raise errors.Unavailable(detail=f"packages that were moved to {target} can't be read")
            kept = made._replace(tree=target)
            self._trees[place] = _Tree(kept, look, self._clock.monotonic())
            return kept

    # --- room ---

    async def _room(self, tenant: ids.TenantId, size: int) -> bool:
        """Make room for a tree of `size` bytes, where that can be."""
        if size > self._bounds.tenant_bytes:
            return False
        unused = self._unused(tenant)
        while True:
            mine = [one for one in self._trees if one[0] == tenant]
            if len(mine) < self._bounds.tenant_trees and self._sum(mine) + size <= self._bounds.tenant_bytes:
                return await self._tidy(size)
            if not unused:
                return False
            await self._remove(unused.pop(0))

    async def _tidy(self, size: int) -> bool:
        """Remove what nobody has used for long, and what stands in the way of `size` bytes more; False where others do.

        Whoever has waited longest goes first."""
        now = self._clock.monotonic()
        for place in self._unused(None):
            idle = now - self._trees[place].used > self._bounds.idle_s
            if idle or not await self._fits(size):
                await self._remove(place)
        return await self._fits(size)

    async def _fits(self, size: int) -> bool:
        if self._sum(self._trees) + size > self._bounds.all_bytes:
            return False
        # What is to be kept is on the disk already: it is moved.
        return await asyncio.to_thread(_free, self._root) >= self._bounds.spare_bytes

    def _unused(self, tenant: ids.TenantId | None) -> list[_Place]:
        """Those that nobody uses, of a tenant or all; the longest unused first."""
        found = [one for one in self._trees if one not in self._held and tenant in (None, one[0])]
        return sorted(found, key=lambda one: self._trees[one].used)

    def _sum(self, places: Iterable[_Place]) -> int:
        return sum(self._trees[one].look.bytes for one in places)

    async def _remove(self, place: _Place) -> None:
        # Forgotten first: what can't be removed whole is used no more, and the next start sweeps it.
        found = self._trees.pop(place)
        with contextlib.suppress(OSError):
            await decided.decided(asyncio.to_thread(archive.remove, found.kept.tree))


class Shelf:
    """One tenant's trees: all that its builds are handed."""

    def __init__(self, shelves: Shelves, tenant: ids.TenantId) -> None:
        self._shelves = shelves
        self._tenant = tenant

    @contextlib.asynccontextmanager
    async def borrowed(self, packages: Sequence[npm_lock.Package]) -> AsyncGenerator[Kept | None]:
        """The tree of these packages, which stays while this is open; None where there is none."""
        place = (self._tenant, digest(packages))
        with self._shelves.held(place):
            yield await self._shelves.take(place)

    @contextlib.asynccontextmanager
    async def lent(self, packages: Sequence[npm_lock.Package], made: Kept) -> AsyncGenerator[Kept]:
        """Keep what was made of these packages where there is room for it; where it lies while this is open.

        `made.tree` is on the disk of the shelves, nobody writes to it any more, and it may be moved.
        """
        place = (self._tenant, digest(packages))
        with self._shelves.held(place):
            # To its end: a tree that was moved and that nobody knows of would lie there for ever.
            yield await decided.decided(self._shelves.put(place, made)) or made


def digest(packages: Sequence[npm_lock.Package]) -> str:
    """The name of what these packages make: of everything that `Modules.install` makes of them."""
    return hashlib.sha256(msgspec.msgpack.encode(list(packages))).hexdigest()


def _move(tree: pathlib.Path, target: pathlib.Path) -> _Look | None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.rename(tree, target)
    return _look(target)


def _look(tree: pathlib.Path) -> _Look | None:
    """Every name in `tree` with what the kernel changes of it when its content changes, and what all of it takes.

    None where it can't be told, or there is a link or a device: no package has one."""
    seen, total = hashlib.sha256(), 0
    waiting = [str(tree)]
    try:
        while waiting:
            here = waiting.pop()
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    elif not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                        return None
                    total += found.st_blocks * _BLOCK
                    what = (found.st_mode, found.st_uid, found.st_ino, found.st_size, found.st_mtime_ns)
                    seen.update(repr((entry.path, *what, found.st_ctime_ns)).encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return _Look(seen.digest(), total)


def _free(root: pathlib.Path) -> int:
    """Bytes that are free on the disk; 0 where nobody can tell."""
    try:
        return shutil.disk_usage(root if root.exists() else root.parent).free
    except OSError:
        return 0
