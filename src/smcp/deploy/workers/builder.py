"""Projects of Workers: what wrangler's file or the manifest says, the lock's packages, and one bundle of both.

**fetch** is that of every npm project: exactly the lock's packages, no install script. **build** is the bundler
(`bundler`) in a cell without network and without credentials. The artefact holds the modules and nothing of the project
beside them.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncGenerator, Collection
from typing import Final, NamedTuple

import msgspec

from smcp.deploy import build as builds
from smcp.deploy import folder, locks, manifest, npm_lock, npm_modules, shelves, workbench
from smcp.deploy.workers import bundler, code, section, wrangler
from smcp.kernel import errors
from smcp.sandbox import tools, walls

_LOCK: Final = "package-lock.json"
_PACKAGE: Final = "package.json"
_MODULES: Final = "node_modules"


class _Package(msgspec.Struct, frozen=True):
    """What is read of a package.json."""

    dependencies: dict[str, str] = {}
    development: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="devDependencies")
    optional: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="optionalDependencies")


class _Site(NamedTuple):
    """What the bundler sees, read-only."""

    project: pathlib.Path
    packages: pathlib.Path
    """It holds `node_modules`."""


class Workers:
    """Builds unpacked folders that are Workers."""

    def __init__(self, bench: workbench.Workbench, modules: npm_modules.Modules, pinned: tools.Tools) -> None:
        """`pinned` are the programs that are here: without one of them every order is refused."""
        self._bench = bench
        self._modules = modules
        self._pinned = pinned

    async def build(
        self,
        name: str,
        tree: pathlib.Path,
        asked: manifest.Manifest,
        directory: pathlib.Path,
        tell: builds.Tell,
        shelf: shelves.Shelf,
    ) -> builds.Built:
        """Build the project in `tree`. `name` is its source, for the record; `shelf` is its tenant's.

        Raises `errors.DeployFailed`, which says what to do, and `errors.SandboxMissing` without the programs.
        """
        esbuild, workerd = self._pinned.esbuild, self._pinned.workerd
        if esbuild is None or workerd is None:
            raise tools.missing(tools.ESBUILD if esbuild is None else tools.WORKERD)
        asked = await asyncio.to_thread(settled, tree, asked, tell)
        worker = asked.worker
        assert worker is not None
        if worker.compatibility_date > newest():
            raise errors.DeployFailed(
                f"The compatibility date {worker.compatibility_date} is after the last one that this platform's runtime"
                f" ({workerd.label}) knows: write {newest()}, or an earlier one."
            )
        await asyncio.to_thread(folder.inside, tree, worker.main.removeprefix("./"))
        development, packages = await asyncio.to_thread(_packages, tree)
        tell("resolve", f"Worker, {len(packages)} packages in its lock, starts {worker.main}")
        app, out = directory / "app", directory / "out"
        app.mkdir()
        out.mkdir()
        async with self._having(packages, directory, shelf, tell) as kept:
            await self._bundle(esbuild, worker, development, _Site(tree, kept.tree), out)
        taken = await asyncio.to_thread(bundler.take, out, app, worker)
        size = await asyncio.to_thread(workbench.size, app / code.DIRECTORY)
        tell("build", f"{len(taken)} modules, {size / 1e6:.1f} MB with the places of its sources")
        return builds.Built(
            tree=app,
            source=name,
            lock=kept.lock,
            argv=(),
            interpreter=workerd.label,
            runtime="worker",
            asked=asked,
        )

    @contextlib.asynccontextmanager
    async def _having(
        self,
        packages: tuple[npm_lock.Package, ...],
        directory: pathlib.Path,
        shelf: shelves.Shelf,
        tell: builds.Tell,
    ) -> AsyncGenerator[shelves.Kept]:
        """The packages unpacked: from the build before, where that had the same, else fetched."""
        fresh = directory / "packages"
        (fresh / _MODULES).mkdir(parents=True)
        if not packages:
            yield shelves.Kept(fresh, (), ())
            return
        async with shelf.borrowed(packages) as found:
            if found is not None:
                tell("download", f"{len(packages)} packages, as an earlier build fetched them")
                for note in found.notes:
                    tell("build", note)
                yield found
                return
        notes: list[str] = []

        def noting(stage: str, text: str) -> None:
            if stage == "build":
                notes.append(text)
            tell(stage, text)

        locked = await self._modules.install(packages, directory, fresh, noting)
        async with shelf.lent(packages, shelves.Kept(fresh, locked, tuple(notes))) as kept:
            yield kept

    async def _bundle(
        self,
        esbuild: tools.Tool,
        worker: section.Worker,
        development: Collection[str],
        site: _Site,
        out: pathlib.Path,
    ) -> None:
        out_bind = walls.Bind(str(out), bundler.OUT, writable=True)
        step = self._bench.cell(
            argv=bundler.command(esbuild.executable, worker),
            binds=(
                esbuild.bind,
                walls.Bind(str(site.project), f"{bundler.SITE}/{bundler.PROJECT}"),
                # Beside the project: packages are looked for in every directory above a file.
                walls.Bind(str(site.packages / _MODULES), f"{bundler.SITE}/{_MODULES}"),
                out_bind,
            ),
            files=(bundler.EMAIL,),
            env=(),
            cwd=f"{bundler.SITE}/{bundler.PROJECT}",
        )
        outcome = await self._bench.within(step, out, None)
        if outcome.out_of_memory:
            raise errors.DeployFailed("Bundling the project takes more memory than a build has.")
        if outcome.code != 0:
            told = bundler.why(outcome.tail, development, node=bundler.has_node(worker))
            raise errors.DeployFailed(f"The project can't be bundled. {told}")
        shift = int(await asyncio.to_thread(bundler.requires, out, worker))
        step = self._bench.cell(
            argv=bundler.lines_command(self._bench.python.executable, shift),
            binds=(*(walls.Bind(one, bundler.LINES) for one in bundler.tools()), out_bind),
            env=(),
        )
        if (await self._bench.within(step, out, None)).code != 0:
            raise errors.DeployFailed("The places of the Worker's code could not be told.")


def newest() -> str:
    """The last day as whose runtime the pinned workerd can behave."""
    return tools.WORKERD.released.isoformat()


def is_worker(tree: pathlib.Path, asked: manifest.Manifest) -> bool:
    """Whether the folder `tree` is a Worker: by its manifest, or by a file of wrangler's. Blocking."""
    return asked.worker is not None or wrangler.find(tree) is not None


def settled(tree: pathlib.Path, asked: manifest.Manifest, tell: builds.Tell) -> manifest.Manifest:
    """`asked` with its `[worker]`, taken from wrangler's file where it has none. Blocking.

    Raises `errors.DeployFailed` for a file that says what is not supported, or does not go with the rest.
    """
    file = wrangler.find(tree)
    if asked.worker is not None:
        if file is not None:
            tell("resolve", f"{file} is not read, as smcp.toml has [worker]")
        return asked
    assert file is not None
    found = wrangler.translate(file, locks.text(tree / file))
    for note in found.notes:
        tell("resolve", f"{file}: {note}")
    try:
        return msgspec.structs.replace(asked, worker=found.worker)
    except ValueError as error:
        raise errors.DeployFailed(f"smcp.toml and {file} do not go together: {error}.") from error


def _packages(tree: pathlib.Path) -> tuple[frozenset[str], tuple[npm_lock.Package, ...]]:
    """Names of what is only for development, and the lock's packages: none where the project needs none."""
    if not (tree / _PACKAGE).is_file():
        return frozenset(), ()
    try:
        found = msgspec.json.decode(locks.text(tree / _PACKAGE), type=_Package)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.DeployFailed(f"The {_PACKAGE} can't be read: {str(error)[:200]}.") from error
    needed = found.dependencies or found.optional
    return frozenset(found.development), folder.node_lock(tree) if needed else ()
