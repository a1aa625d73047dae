"""A place to deploy in: a real store, real sandboxes, packages from directories of wheels."""

import asyncio
import io
import os
import pathlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import msgspec

from smcp.app import machine
from smcp.audit import events
from smcp.cli import pack
from smcp.deploy import (
    artefacts,
    builders,
    deployer,
    index,
    npm_builder,
    npm_config,
    npm_modules,
    pypi_builder,
    shelves,
    upload_builder,
    uploads,
    versions,
    workbench,
)
from smcp.deploy.workers import builder as workers
from smcp.kernel import clock, errors, ids, observe, settings
from smcp.sandbox import cells, egress, interpreter, launch, node, spawn, tools
from smcp.stores import local
from smcp.stores import tenant as stores
from support import isolates

ACME = ids.TenantId("acme")
OFFLINE = {"PIP_NO_INDEX": "1", "HOME": "/nonexistent"}


class Workshop:
    """Everything that a deployment needs, without gateway and control plane."""

    def __init__(
        self,
        data: pathlib.Path,
        config: settings.Settings,
        launcher: launch.Launcher,
        environ: Mapping[str, str],
        pip_cache: pathlib.Path,
        pinned: tools.Tools,
    ) -> None:
        self.data = data
        self.config = config
        self.clock = clock.SystemClock()
        self.store: stores.Store = local.open_local(data, config, self.clock)
        self.launcher = launcher
        self.python = interpreter.current()
        self.node = node.current({"PATH": environ.get("PATH") or os.environ["PATH"]})
        self.probing = asyncio.Event()
        self.events: list[events.Event] = []
        self.artefacts = artefacts.Artefacts(self.store, data / "cache/artefacts", config.deploy.max_bytes)
        self.versions = versions.Versions(self.store, self.clock, self.artefacts)
        # Only what the test says: what this machine's pip.conf names is another machine's absence.
        files = None if environ is os.environ else ()
        self.bench = workbench.Workbench(
            launcher, self.python, config.sandbox, config.deploy, egress.Egress(config.egress, observe.Metrics("test"))
        )
        pip = pypi_builder.PypiBuilder(self.bench, index.read(environ, files), pip_cache)
        modules = npm_modules.Modules(self.bench, self.node, npm_config.read(environ, files))
        self.builder = builders.Builders(
            pypi=pip,
            npm=npm_builder.NpmBuilder(modules),
            upload=upload_builder.UploadBuilder(self.bench, pip, modules, workers.Workers(self.bench, modules, pinned)),
        )
        self.uploads = uploads.Uploads(self.store, config.deploy.max_upload_bytes)
        self.deployer = deployer.Deployer(
            self.store,
            self.versions,
            self.artefacts,
            self.probe,
            self.builder,
            self.uploads,
            self.clock,
            work=data / "work",
            record=self.record,
        )

    async def record(self, event: events.Event) -> None:
        """Keeps audit events."""
        self.events.append(event)

    async def probe(self, tenant: ids.TenantId, server: ids.ServerName, draft: versions.Deployment) -> deployer.Probed:
        """Starts the command once, in its sandbox: it has to end well."""
        self.probing.set()
        if draft.runtime == "worker":
            # What it answers is the driver's to ask; here it has to load, and to answer anything.
            async with self.isolate(draft) as client:
                await client.get()
            return deployer.Probed(versions.Eras(legacy=("2025-11-25",)), ())
        outcome = await self.run(draft)
        if outcome.code != 0:
            raise errors.DeployFailed(f"{server} of {tenant} does not start: {' / '.join(outcome.tail)[-500:]}")
        return deployer.Probed(versions.Eras(legacy=("2025-11-25",)), ())

    async def run(self, deployment: versions.Deployment, *more: str) -> spawn.Outcome:
        """Runs a deployment's command to its end."""
        path = await self.artefacts.path(ACME, deployment.digest)
        env = tuple(deployment.manifest.env.items())
        runs = self.python if deployment.runtime == "python" else self.node
        assert runs is not None, "there is no Node.js"
        cell = cells.hosted(self.config.sandbox, runs, ACME, str(path), (*deployment.argv, *more), env)
        return await spawn.run(cell, self.launcher, timeout_s=240)

    @asynccontextmanager
    async def isolate(self, deployment: versions.Deployment) -> AsyncGenerator[isolates.Client]:
        """Runs a Worker's artefact."""
        worker = deployment.manifest.worker
        assert worker is not None
        path = await self.artefacts.path(ACME, deployment.digest)
        async with isolates.running(path, worker) as client:
            yield client

    async def deploy(
        self, source: str, name: str | None = None, manifest: str | None = None, tenant: ids.TenantId = ACME
    ) -> deployer.Operation:
        """Submits and waits for the end."""
        return await self.ended(await self.deployer.submit("key-1", tenant, source, name, manifest))

    async def upload(self, content: bytes, tenant: ids.TenantId = ACME) -> str:
        """Stores what a tenant would send; its source."""

        async def chunks() -> AsyncGenerator[bytes]:
            yield content

        return str((await self.uploads.store(tenant, chunks())).source)

    async def ended(self, operation: deployer.Operation) -> deployer.Operation:
        """The operation when it has ended."""
        async with asyncio.timeout(300):
            return await self.deployer.ended(ids.TenantId(operation.tenant), operation.id)

    def leftovers(self) -> list[str]:
        """What is left of builds, and half-made copies; not what is kept for the next one."""
        made = self.data / "cache/artefacts"
        found = [path.name for path in [*(self.data / "work").glob("*"), *made.glob("*/.making*")]]
        return [name for name in found if name != shelves.DIRECTORY]


def packed(root: pathlib.Path) -> bytes:
    """The folder as `smcp deploy` sends it."""
    target = io.BytesIO()
    pack.write(pack.choose(root), target)
    return target.getvalue()


@asynccontextmanager
async def opened(
    data: pathlib.Path,
    wheel_dir: pathlib.Path | None = None,
    *,
    environ: Mapping[str, str] = OFFLINE,
    pip_cache: pathlib.Path | None = None,
    **deploy: object,
) -> AsyncGenerator[Workshop]:
    """A workshop in `data`, closed in the end. `deploy` are fields of settings.Deploy."""
    wheels = (str(wheel_dir),) if wheel_dir is not None else ()
    config = settings.Settings(deploy=settings.Deploy(wheel_dirs=wheels, **deploy))  # pyright: ignore[reportArgumentType] - a test's own fields
    config = msgspec.structs.replace(config, platform=settings.Platform(data_dir=str(data)))
    found = machine.Machine.find(config, {"PATH": os.environ["PATH"], **environ}, tools.current(os.environ))
    cache = pip_cache or data / machine.PIP_CACHE
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    launcher = await launch.Launcher.start(msgspec.structs.replace(found.house(config), caches=(str(cache),)))
    shop = Workshop(data, config, launcher, environ, cache, found.pinned)
    await shop.store.start()
    await shop.store.provision(ACME)
    await shop.deployer.start()
    try:
        yield shop
    finally:
        await shop.deployer.close()
        await shop.store.close()
        await launcher.close()
