"""A Worker's packages are kept for its tenant's next build: the real npm, bundler and cells, and a test's registry."""

import io
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Final

import pytest

from smcp.cli import pack
from smcp.deploy import deployer, shelves, versions
from smcp.kernel import ids
from smcp.sandbox import walls
from support import registry, workshop

pytestmark = pytest.mark.real

_OTHER: Final = ids.TenantId("other")
_WRANGLER: Final = 'name = "notes"\nmain = "src/index.ts"\ncompatibility_date = "2026-11-01"\n'
_CODE: Final = "import dep from 'dep';\nexport default { async fetch() { return new Response(`${dep} N`) } };\n"
_DEP: Final = "module.exports = 'one';"
_HOOKS: Final = {"postinstall": "exit 1"}


@pytest.fixture
def packages() -> Iterator[registry.Registry]:
    """A registry with one package in two versions."""
    with registry.serving() as made:
        for version, code in (("1.0.0", _DEP), ("1.1.0", "module.exports = 'two';")):
            made.add({"name": "dep", "version": version, "main": "x.js", "scripts": _HOOKS}, {"x.js": code})
        yield made


def _integrity(packages: registry.Registry, version: str) -> str:
    _, data = packages.answer(f"/dep/-/dep-{version}.tgz", "")
    return registry.integrity(data)


class Project:
    """A Worker that says what its package says."""

    def __init__(self, root: pathlib.Path, packages: registry.Registry) -> None:
        self.root = root
        self._packages = packages
        (root / "src").mkdir(parents=True)
        (root / "wrangler.toml").write_text(_WRANGLER)
        (root / "package.json").write_text(json.dumps({"name": "notes", "dependencies": {"dep": "*"}}))
        self.code("first")
        self.locked("1.0.0")

    def code(self, word: str) -> None:
        """Change what it says beside."""
        (self.root / "src/index.ts").write_text(_CODE.replace("N", word))

    def locked(self, version: str, integrity: str = "") -> None:
        """Name another version in the lock, or another file of it."""
        entry = {"version": version, "integrity": integrity or _integrity(self._packages, version)}
        lock = {"lockfileVersion": 3, "packages": {"": {"dependencies": {"dep": "*"}}, "node_modules/dep": entry}}
        (self.root / "package-lock.json").write_text(json.dumps(lock))
        self._packages.asked.clear()

    def fetched(self) -> bool:
        """Has anybody asked the registry since the last time?"""
        asked = self._packages.paths()
        self._packages.asked.clear()
        return bool(asked)


@pytest.fixture
def project(tmp_path: pathlib.Path, packages: registry.Registry) -> Project:
    return Project(tmp_path / "notes", packages)


def _environ(packages: registry.Registry) -> dict[str, str]:
    return {**workshop.OFFLINE, "npm_config_registry": packages.address}


async def _deploy(
    shop: workshop.Workshop, project: Project, tenant: ids.TenantId = workshop.ACME, more: bytes | None = None
) -> deployer.Operation:
    source = await shop.upload(more or workshop.packed(project.root), tenant)
    return await shop.deploy(source, "notes", pack.manifest(project.root), tenant)


async def _said(shop: workshop.Workshop, done: deployer.Operation) -> tuple[str, versions.Deployment]:
    """What the deployed Worker says."""
    assert done.deployment is not None, done.error
    made = await shop.versions.deployment(workshop.ACME, ids.server("notes"), done.deployment)
    async with shop.isolate(made) as client:
        return await client.get(), made


def _kept(shop: workshop.Workshop) -> list[pathlib.Path]:
    return sorted((shop.data / "work" / shelves.DIRECTORY).glob("*/*"))


@pytest.mark.requirement("workers:shelf:kept", "workers:shelf:own")
async def test_the_next_build_fetches_nothing_and_is_the_same_as_a_fresh_one(
    tmp_path: pathlib.Path, packages: registry.Registry, project: Project
) -> None:
    async with workshop.opened(tmp_path / "data", environ=_environ(packages)) as shop:
        await shop.store.provision(_OTHER)
        said, first = await _said(shop, await _deploy(shop, project))
        assert said == "one first"
        assert project.fetched()
        # What breaks the code breaks nothing of this.
        project.code("`")
        assert (await _deploy(shop, project)).state == "failed"
        project.code("second")
        done = await _deploy(shop, project)
        said, second = await _said(shop, done)
        assert said == "one second"
        assert not project.fetched()
        assert second.lock == first.lock
        assert any("install scripts were not run: dep" in step.text for step in done.steps)
        # Another tenant's build knows nothing of it, and makes the same.
        theirs = await _deploy(shop, project, _OTHER)
        assert project.fetched()
        assert theirs.deployment is not None, theirs.error
        made = await shop.versions.deployment(_OTHER, ids.server("notes"), theirs.deployment)
        assert (made.digest, made.lock) == (second.digest, second.lock)
        assert [one.parent.name for one in _kept(shop)] == [workshop.ACME, _OTHER]
        await shop.deployer.stop_tenant(workshop.ACME)
        assert [one.parent.name for one in _kept(shop)] == [_OTHER]
        assert shop.leftovers() == []
    async with workshop.opened(tmp_path / "data", environ=_environ(packages)) as shop:
        # Nothing outlives the process that saw it being unpacked.
        assert _kept(shop) == []


@pytest.mark.requirement("workers:shelf:named")
async def test_a_lock_gets_what_it_names_and_nothing_that_is_kept_under_the_same_name(
    tmp_path: pathlib.Path, packages: registry.Registry, project: Project
) -> None:
    async with workshop.opened(tmp_path / "data", environ=_environ(packages)) as shop:
        assert (await _said(shop, await _deploy(shop, project)))[0] == "one first"
        project.locked("1.1.0")
        assert (await _said(shop, await _deploy(shop, project)))[0] == "two first"
        assert project.fetched()
        # Back again: both are there.
        project.locked("1.0.0")
        assert (await _said(shop, await _deploy(shop, project)))[0] == "one first"
        assert not project.fetched()
        # The name and version of one, the digest of nothing, and of the other: refused, whatever is kept.
        for integrity in (registry.integrity(b"other"), _integrity(packages, "1.1.0")):
            project.locked("1.0.0", integrity)
            done = await _deploy(shop, project)
            assert done.state == "failed"
            assert "not the one" in (done.error or "")
        project.locked("1.0.0")
        assert (await _said(shop, await _deploy(shop, project)))[0] == "one first"


def _with_modules(project: Project) -> bytes:
    """The project with a `node_modules` of its own, which the command line would leave out."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for path in sorted(project.root.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(project.root).as_posix())
        for name, text in (("x.js", "module.exports = 'mine';"), ("package.json", '{"name":"dep","main":"x.js"}')):
            entry = tarfile.TarInfo(f"node_modules/dep/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return target.getvalue()


@pytest.mark.requirement("workers:shelf:changed")
async def test_nothing_that_a_build_does_or_brings_is_in_the_next_one(
    tmp_path: pathlib.Path, packages: registry.Registry, project: Project
) -> None:
    async with workshop.opened(tmp_path / "data", environ=_environ(packages)) as shop:
        # Its own, and then not any more.
        assert (await _said(shop, await _deploy(shop, project, more=_with_modules(project))))[0] == "mine first"
        assert (await _said(shop, await _deploy(shop, project)))[0] == "one first"
        assert project.fetched()
        (tree,) = _kept(shop)
        place = tree / "node_modules/dep/x.js"
        # Code in a build's cell finds the packages as the bundler does, and changes nothing.
        tries = "\n".join(
            f"try: {attempt}\nexcept OSError as error: print(error.errno)"
            for attempt in (
                "open('/build/node_modules/dep/x.js', 'w')",
                "os.unlink('/build/node_modules/dep/x.js')",
                "os.rename('/build/node_modules/dep', '/build/node_modules/other')",
                "os.mkdir('/build/node_modules/more')",
                "os.chmod('/build/node_modules/dep/x.js', 0o777)",
            )
        )
        step = shop.bench.cell(
            argv=(shop.python.executable, "-I", "-c", f"import os\n{tries}"),
            binds=(walls.Bind(str(tree / "node_modules"), "/build/node_modules"),),
            env=(),
        )
        outcome = await shop.bench.run(step, None)
        assert outcome.code == 0
        assert len(outcome.tail) == 5, outcome.tail
        project.code("second")
        assert (await _said(shop, await _deploy(shop, project)))[0] == "one second"
        assert not project.fetched()
        # Who got out of a cell and covers its tracks is noticed by what the kernel writes.
        was = place.stat()
        place.write_text("module.exports = 'bad';")
        os.utime(place, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert place.stat().st_size == was.st_size
        assert (await _said(shop, await _deploy(shop, project)))[0] == "one second"
        assert project.fetched()
        assert len(_kept(shop)) == 1


@pytest.mark.requirement("workers:shelf:changed", "workers:shelf:named")
async def test_packages_that_were_refused_are_not_kept(
    tmp_path: pathlib.Path, packages: registry.Registry, project: Project
) -> None:
    link = tarfile.TarInfo("package/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    packages.add_file({"name": "dep", "version": "1.2.0"}, registry.tarball({"package.json": "{}"}, link))
    async with workshop.opened(tmp_path / "data", environ=_environ(packages)) as shop:
        project.locked("1.2.0")
        for _ in range(2):
            done = await _deploy(shop, project)
            assert "a link or a device" in (done.error or "")
            assert project.fetched()
        assert _kept(shop) == []
        assert shop.leftovers() == []
