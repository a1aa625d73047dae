"""Uploads become deployments: unpacked with care, then a bundle or a folder, by what they hold."""

import asyncio
import pathlib

from smcp.deploy import build as builds
from smcp.deploy import bundle, folder, manifest, npm_modules, packed, pypi_builder, shelves, workbench
from smcp.deploy.sources import any as sources
from smcp.deploy.workers import builder as workers
from smcp.kernel import errors


class UploadBuilder:
    """Makes directories from what tenants sent (`build.UPLOAD` in the deployment's directory)."""

    def __init__(
        self,
        bench: workbench.Workbench,
        pip: pypi_builder.PypiBuilder,
        modules: npm_modules.Modules,
        made: workers.Workers | None = None,
    ) -> None:
        """Without `made` no Worker is built."""
        self._folders = folder.Folders(bench.python, pip, modules)
        self._bundles = bundle.Bundles(bench.python, modules)
        self._workers = made
        self._max = bench.deploy.max_bytes

    async def build(
        self,
        source: sources.Upload,
        asked: manifest.Manifest,
        directory: pathlib.Path,
        tell: builds.Tell,
        shelf: shelves.Shelf,
    ) -> builds.Built:
        """As `builds.Builder`, with what the tenant's earlier builds left on its shelf."""
        archive, tree = directory / builds.UPLOAD, directory / "unpacked"
        found = await asyncio.to_thread(packed.unpack, archive, tree, self._max)
        await asyncio.to_thread(archive.unlink)
        tell("resolve", f"{found.files} files, {found.bytes / 1e6:.1f} MB unpacked")
        if found.kind == "zip" and await asyncio.to_thread(bundle.is_bundle, tree):
            if asked.worker is not None:
                raise errors.DeployFailed("The manifest has [worker], and a bundle (.mcpb) is no Worker.")
            digest = source.digest.partition(":")[2]
            return await self._bundles.build(str(source), digest, tree, asked, tell)
        if asked.config:
            raise errors.DeployFailed("Values of a configuration ([config]) are for a bundle's options; this is none.")
        if await asyncio.to_thread(workers.is_worker, tree, asked):
            if self._workers is None:
                raise errors.DeployFailed("This platform can't build Workers.")
            return await self._workers.build(str(source), tree, asked, directory, tell, shelf)
        return await self._folders.build(str(source), tree, asked, directory, tell)
