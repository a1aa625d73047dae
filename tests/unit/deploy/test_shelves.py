"""Packages kept for a tenant's next build: whose they are, what makes them others, and how much they take."""

import asyncio
import os
import pathlib
import random
from collections.abc import Callable
from typing import Final

import pytest

from smcp.deploy import build, npm_lock, shelves
from smcp.kernel import clock, ids

_ACME: Final = ids.TenantId("acme")
_OTHER: Final = ids.TenantId("other")
_LOCK: Final = (build.Locked("dep", "1.0.0", "0" * 64, ""),)
_BOUNDS: Final = shelves.Bounds(spare_bytes=0)
_PLENTY: Final = 100_000
_TREE: Final = 60_000
"""Bytes of one tree, about; each takes some blocks more."""


def _packages(version: str, integrity: str = "sha512-" + "A" * 86 + "==") -> tuple[npm_lock.Package, ...]:
    return (npm_lock.Package("node_modules/dep", "dep", version, integrity),)


class Ground:
    """Shelves in a directory, and trees for them."""

    def __init__(self, work: pathlib.Path, bounds: shelves.Bounds = _BOUNDS) -> None:
        self.work = work
        self.clock = clock.FrozenClock()
        self.shelves = shelves.Shelves(work, self.clock, bounds)
        self._number = 0

    def made(self, size: int = 10) -> shelves.Kept:
        """A tree as a build unpacks it."""
        self._number += 1
        tree = self.work / f"op-{self._number}" / "packages"
        (tree / "node_modules/dep").mkdir(parents=True)
        (tree / "node_modules/dep/x.js").write_bytes(b"x" * size)
        return shelves.Kept(tree, _LOCK, ("a note",))

    async def keep(self, version: str, tenant: ids.TenantId = _ACME, size: int = 10) -> pathlib.Path:
        """A build that fetches; where its tree is afterwards."""
        async with self.shelves.of(tenant).lent(_packages(version), self.made(size)) as kept:
            assert (kept.tree / "node_modules/dep/x.js").stat().st_size == size
            return kept.tree

    async def found(self, version: str, tenant: ids.TenantId = _ACME) -> shelves.Kept | None:
        """What the next build finds."""
        async with self.shelves.of(tenant).borrowed(_packages(version)) as kept:
            return kept

    def trees(self) -> list[pathlib.Path]:
        """All that lies there."""
        return sorted((self.work / shelves.DIRECTORY).glob("*/*"))

    def bytes(self) -> int:
        """What it takes."""
        return sum(one.lstat().st_blocks * 512 for tree in self.trees() for one in tree.rglob("*"))


@pytest.mark.requirement("workers:shelf:kept")
async def test_the_same_packages_are_found_again_with_what_was_said_of_them(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    assert await ground.found("1.0.0") is None
    tree = await ground.keep("1.0.0")
    assert tree.is_relative_to(tmp_path / shelves.DIRECTORY / _ACME)
    assert await ground.found("1.0.0") == shelves.Kept(tree, _LOCK, ("a note",))


@pytest.mark.requirement("workers:shelf:named")
async def test_any_difference_of_the_lock_is_another_tree(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    await ground.keep("1.0.0")
    one = _packages("1.0.0")[0]
    for packages in (
        _packages("1.0.1"),
        _packages("1.0.0", "sha512-" + "B" * 86 + "=="),
        (npm_lock.Package("node_modules/other", one.name, one.version, one.integrity),),
        (npm_lock.Package(one.path, "other", one.version, one.integrity),),
        (one, npm_lock.Package("node_modules/more", "more", "1.0.0", one.integrity)),
        (),
    ):
        async with ground.shelves.of(_ACME).borrowed(packages) as kept:
            assert kept is None
    # No two lists run together into one name.
    joined = (npm_lock.Package(one.path + one.name, "", one.version, one.integrity),)
    assert shelves.digest(joined) != shelves.digest((one,))


@pytest.mark.requirement("workers:shelf:own")
async def test_another_tenant_finds_nothing_and_forgets_nothing_of_it(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    tree = await ground.keep("1.0.0")
    assert await ground.found("1.0.0", _OTHER) is None
    theirs = await ground.keep("1.0.0", _OTHER)
    assert theirs != tree
    await ground.shelves.forget(_OTHER)
    assert not theirs.exists()
    assert await ground.found("1.0.0", _OTHER) is None
    assert await ground.found("1.0.0") is not None


def _rewrite(file: pathlib.Path) -> None:
    """Other bytes, as many, with the times of before: what a careful attacker would do."""
    was = file.stat()
    file.write_bytes(b"y" * was.st_size)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    while file.stat().st_ctime_ns == was.st_ctime_ns:  # many kernels count these times in steps of some milliseconds
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def _replace(file: pathlib.Path) -> None:
    was, other = file.stat(), file.with_name("other")
    other.write_bytes(b"y" * was.st_size)
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.rename(file)


def _linked(file: pathlib.Path) -> None:
    file.unlink()
    file.symlink_to("/etc/passwd")


_CHANGES: Final[tuple[Callable[[pathlib.Path], object], ...]] = (
    _rewrite,
    _replace,
    _linked,
    lambda file: file.unlink(),
    lambda file: file.chmod(0o755),
    lambda file: file.with_name("more.js").write_text(""),
    lambda file: file.with_name("again.js").hardlink_to(file),
    lambda file: file.parent.rename(file.parent.with_name("moved")),
)


@pytest.mark.requirement("workers:shelf:changed")
@pytest.mark.parametrize("change", _CHANGES)
async def test_a_tree_that_was_changed_is_used_no_more(
    tmp_path: pathlib.Path, change: Callable[[pathlib.Path], object]
) -> None:
    ground = Ground(tmp_path)
    tree = await ground.keep("1.0.0")
    change(tree / "node_modules/dep/x.js")
    assert await ground.found("1.0.0") is None
    assert ground.trees() == []
    await ground.keep("1.0.0")
    assert await ground.found("1.0.0") is not None


@pytest.mark.requirement("workers:shelf:changed")
async def test_what_no_package_has_is_not_kept(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    made = ground.made()
    (made.tree / "node_modules/dep/link").symlink_to("/etc")
    async with ground.shelves.of(_ACME).lent(_packages("1.0.0"), made) as kept:
        assert kept == made
    assert ground.trees() == []


@pytest.mark.requirement("workers:shelf:bounded")
async def test_one_tenants_trees_push_out_its_own_oldest_and_nobody_elses(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path, shelves.Bounds(tenant_trees=2, spare_bytes=0))
    await ground.keep("0.9.0", _OTHER)
    for version in ("1.0.0", "1.0.1"):
        await ground.keep(version)
        ground.clock.advance(1)
    assert await ground.found("1.0.0") is not None
    await ground.keep("1.0.2")
    assert await ground.found("1.0.1") is None
    assert await ground.found("1.0.0") is not None
    assert await ground.found("0.9.0", _OTHER) is not None


@pytest.mark.requirement("workers:shelf:bounded")
async def test_what_is_larger_than_a_tenants_share_stays_with_its_build(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path, shelves.Bounds(tenant_bytes=_PLENTY, spare_bytes=0))
    await ground.keep("1.0.0")
    tree = await ground.keep("1.0.1", size=2 * _PLENTY)
    assert not tree.is_relative_to(tmp_path / shelves.DIRECTORY)
    assert await ground.found("1.0.0") is not None
    # Two that do not fit together.
    await ground.keep("1.0.2", size=_TREE)
    await ground.keep("1.0.3", size=_TREE)
    assert await ground.found("1.0.2") is None
    assert await ground.found("1.0.3") is not None


@pytest.mark.requirement("workers:shelf:bounded")
async def test_on_a_full_disk_nothing_is_kept_and_what_was_goes(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    await ground.keep("1.0.0")
    full = Ground(tmp_path / "full", shelves.Bounds(spare_bytes=1 << 62))
    full.work.mkdir()
    tree = await full.keep("1.0.0")
    assert not tree.is_relative_to(full.work / shelves.DIRECTORY)
    assert full.trees() == []
    assert ground.trees() != []


@pytest.mark.requirement("workers:shelf:bounded")
async def test_what_nobody_has_used_for_an_hour_goes_with_the_next_build_of_anybody(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    await ground.keep("1.0.0")
    ground.clock.advance(_BOUNDS.idle_s - 1)
    assert await ground.found("1.0.0") is not None
    ground.clock.advance(_BOUNDS.idle_s + 1)
    await ground.found("1.0.0", _OTHER)
    assert ground.trees() == []


@pytest.mark.requirement("workers:shelf:bounded")
async def test_a_tree_in_use_stays_whatever_else_happens(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path, shelves.Bounds(tenant_trees=1, spare_bytes=0))
    async with ground.shelves.of(_ACME).lent(_packages("1.0.0"), ground.made()) as kept:
        await ground.keep("1.0.1")
        ground.clock.advance(2 * _BOUNDS.idle_s)
        await ground.found("1.0.1", _OTHER)
        await ground.shelves.forget(_ACME)
        assert (kept.tree / "node_modules/dep/x.js").exists()
        assert ground.trees() == [kept.tree]
    await ground.shelves.forget(_ACME)
    assert ground.trees() == []


@pytest.mark.requirement("workers:shelf:bounded")
async def test_whatever_comes_in_whatever_order_the_bounds_hold(tmp_path: pathlib.Path) -> None:
    bounds = shelves.Bounds(all_bytes=3 * _PLENTY, tenant_bytes=2 * _PLENTY, tenant_trees=3, idle_s=50, spare_bytes=0)
    ground = Ground(tmp_path, bounds)
    chance = random.Random(7)
    kept = 0
    for _ in range(300):
        tenant = ids.TenantId(f"tenant-{chance.randrange(4)}")
        version = f"1.0.{chance.randrange(6)}"
        ground.clock.advance(chance.randrange(10))
        if await ground.found(version, tenant) is None:
            kept += (await ground.keep(version, tenant, chance.randrange(_PLENTY))).parent.name == tenant
        assert ground.bytes() <= bounds.all_bytes
        assert len({one.parent for one in ground.trees()}) * 3 >= len(ground.trees())
    assert kept > 50


@pytest.mark.requirement("workers:shelf:bounded")
async def test_a_cancelled_build_leaves_a_tree_that_is_known(tmp_path: pathlib.Path) -> None:
    ground = Ground(tmp_path)
    for number in range(20):
        building = asyncio.create_task(ground.keep(f"1.0.{number}"))
        for _ in range(number):
            await asyncio.sleep(0)
        building.cancel()
        await asyncio.gather(building, return_exceptions=True)
    await ground.shelves.forget(_ACME)
    assert ground.trees() == []
