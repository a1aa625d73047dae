"""Where a running server would be: what the API asks of the runtime, and deployments on a machine without a sandbox.

There an order is accepted and fails at its first step: what the API has to tell of it, without a network or a build.
"""

import socket
from typing import Any

from smcp.access import policy
from smcp.audit import trail
from smcp.control import services
from smcp.deploy import artefacts, builders, deployer, index, manifest, pypi_builder, uploads, versions, workbench
from smcp.kernel import clock, errors, ids, observe, settings
from smcp.runtime import pool
from smcp.sandbox import egress, interpreter, launch
from smcp.stores import tenant as stores


class Runtime:
    """The runtime's functions, as a test sees them: what was asked for, and answers that it chooses."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, str, dict[str, Any]]] = []
        self.stopped: list[tuple[str, str]] = []
        self.renewed: list[tuple[str, str]] = []
        self.dropped: list[tuple[str, str]] = []
        self.pages: list[dict[str, Any]] = [{"tools": [{"name": "now", "inputSchema": {"type": "object"}}]}]
        self.failure: Exception | None = None
        self.lines = 3
        self.waited = 0.0

    async def invoke(
        self,
        principal: policy.Principal,
        tenant: ids.TenantId,
        server: ids.ServerName,
        method: str,
        params: dict[str, Any],
        /,
    ) -> dict[str, Any]:
        """One MCP request."""
        self.calls.append((principal.id, tenant, server, method, params))
        if self.failure is not None:
            raise self.failure
        if server != "time":
            raise errors.NotFound
        if method == "tools/list":
            return self.pages[int(params.get("cursor", "0"))]
        return {"content": [{"type": "text", "text": "noon"}], "isError": False}

    async def read_logs(
        self, tenant: ids.TenantId, server: ids.ServerName, /, *, after: int, limit: int, wait_s: float
    ) -> list[services.LogLine]:
        """The lines behind `after`; only servers named `time` have any."""
        self.waited = wait_s
        if server != "time":
            return []
        lines = [
            services.LogLine(at, 1_800_000_000.0 + at, f"{tenant}/{server} {at}") for at in range(1, self.lines + 1)
        ]
        return [line for line in lines if line.position > after][:limit]

    async def stop_server(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """End its instances."""
        if self.failure is not None:
            raise self.failure
        self.stopped.append((tenant, server))

    def renew_server(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Let its instances end with their last call."""
        self.renewed.append((tenant, server))

    async def stop_tenant(self, tenant: ids.TenantId) -> None:
        """End every instance of a tenant."""
        self.stopped.append((tenant, "*"))

    async def drop_logs(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Remove its lines."""
        self.dropped.append((tenant, server))

    def instances(self, tenant: ids.TenantId, server: ids.ServerName) -> int:
        """How many run."""
        return 0 if (tenant, server) in self.stopped else 1

    def running(self, tenant: ids.TenantId, server: ids.ServerName) -> pool.View:
        """What runs."""
        copies = (pool.Seen("shared", "serving", "dep-1", 3, 1.5),) * self.instances(tenant, server)
        return pool.View(copies, starting=0, waiting=0, breaker="closed", retry_s=0.0)


class Rooms:
    """The rooms that keep deployments."""

    def __init__(
        self,
        store: stores.Store,
        configured: settings.Settings,
        now: clock.Clock,
        told: trail.Trail,
        metrics: observe.Metrics,
    ) -> None:
        directory = configured.platform.directory()
        kept = artefacts.Artefacts(store, directory / "cache" / "artefacts", configured.deploy.max_bytes)
        # A launcher that has gone: what it is asked for, it does not start.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.close()
        bare = launch.Launcher(ours)
        guard = egress.Egress(configured.egress, observe.Metrics("test"))
        bench = workbench.Workbench(bare, interpreter.current(), configured.sandbox, configured.deploy, guard)
        builder = builders.Builders(
            pypi=pypi_builder.PypiBuilder(bench, index.Index((), (), ()), directory / "cache" / "pip"),
        )
        self.versions = versions.Versions(store, now, kept)
        self.store = store
        self.uploads = uploads.Uploads(store, configured.deploy.max_upload_bytes)
        self.deployer = deployer.Deployer(
            store,
            self.versions,
            kept,
            _never_probed,
            builder,
            self.uploads,
            now,
            work=directory / "work",
            record=told.write,
            metrics=metrics,
        )

    async def start(self) -> None:
        """Make ready."""
        await self.deployer.start()

    async def publish(self, tenant: ids.TenantId, server: ids.ServerName) -> versions.Deployment:
        """A live deployment whose artefact was never built: the API shows it, nobody here runs it."""
        made = versions.Deployment(
            id=ids.new("dep"),
            server=server,
            number=await self.versions.reserve(tenant, server),
            created=1_800_000_000.0,
            by="key-000000000000",
            source="pypi:mcp-server-time==2026.1.1",
            digest="sha256:" + "0" * 64,
            manifest=manifest.Manifest(volume=manifest.Volume()),
            lock=(versions.Locked(name="mcp-server-time", version="2026.1.1", sha256="1" * 64),),
            argv=("/app/bin/mcp-server-time",),
            interpreter="cpython-3.11",
            eras=versions.Eras(legacy=("2025-11-25",)),
            tools=(versions.Tool("now", "Tells the time", b'{"type":"object"}'),),
        )
        async with self.versions.changing(tenant):
            await self.versions.publish(tenant, made)
        return made

    async def close(self) -> None:
        """End what was begun."""
        await self.deployer.close()


async def _never_probed(tenant: ids.TenantId, server: ids.ServerName, draft: versions.Deployment) -> deployer.Probed:
    raise errors.SandboxMissing(detail=f"{tenant}/{server} {draft.id} was built without a sandbox")
