"""How a deployment that is a Worker is run: its modules from the artefact, its bindings from the manifest."""

import asyncio
import json
import pathlib
from collections.abc import Awaitable, Callable

from smcp.deploy import manifest, versions
from smcp.deploy.workers import builder, code, section
from smcp.kernel import errors, ids
from smcp.runtime import driver, hiding
from smcp.runtime.bindings import http, kv, objects, outbound
from smcp.runtime.drivers.workerd import driver as workerd
from smcp.sandbox import tools
from smcp.sandbox.egress import rules
from smcp.sandbox.volumes import keeper
from smcp.stores import buckets, heavy, namespaces


class Makers:
    """What answers the bindings of Workers: `drivers.workerd.bindings.Makers`."""

    def __init__(
        self, spaces: namespaces.Namespaces, kept: buckets.Buckets, places: heavy.Heavy, out: outbound.Outbound
    ) -> None:
        self._places = places
        self._spaces = spaces
        self._kept = kept
        self._out = out

    def kv(self, spec: driver.Spec, namespace: str) -> http.Handler:
        """A KV namespace of its tenant."""
        return kv.Binding(self._spaces, spec.tenant, namespace, self._places).answer

    def bucket(self, spec: driver.Spec, bucket: str) -> http.Handler:
        """A bucket of its tenant."""
        return objects.Binding(self._kept, spec.tenant, bucket, self._places).answer

    def outbound(self, spec: driver.Spec, told: Callable[[str], None]) -> outbound.Way:
        """Its way out. Raises `errors.SecretMissing`."""
        return self._out.open(spec, told)


class Peers:
    """Finds the servers that Workers bind as services: `drivers.workerd.driver.Peers`."""

    def __init__(
        self,
        made: versions.Versions,
        spec_of: Callable[[ids.TenantId, ids.ServerName, versions.Deployment], Awaitable[driver.Spec]],
        secrets: hiding.Hiding,
        lines: Callable[[driver.Spec], driver.Lines],
    ) -> None:
        """`secrets` gives what starts its secrets; `lines` is each server's log."""
        self._versions = made
        self._spec_of = spec_of
        self._secrets = secrets
        self._lines = lines

    async def __call__(self, tenant: ids.TenantId, server: ids.ServerName) -> workerd.Found:
        """What is live of it, as it is started. Raises `errors.NotFound`, `errors.ServerStopped`,
        `errors.SecretMissing`, and what the making of a spec raises."""
        known, live = await self._versions.live(tenant, server)
        if known.desired != "running":
            raise errors.ServerStopped
        spec = await self._spec_of(tenant, server, live)
        given, lines, _ = await self._secrets.prepared(spec, self._lines(spec))
        return workerd.Found(given, lines)


async def spec(
    tenant: ids.TenantId,
    server: ids.ServerName,
    deployment: versions.Deployment,
    artefact: pathlib.Path,
    pinned: tools.Tools,
) -> driver.Spec:
    """What to run of the unpacked `artefact`.

    Raises `errors.SandboxMissing` without workerd, `errors.ServerStopped` where it is older than what the deployment
    was made for, and `errors.TamperedData` for an artefact that is no Worker's.
    """
    asked = deployment.manifest
    if asked.worker is None:
        raise errors.TamperedData(detail="a Worker's deployment without its section")
    if pinned.workerd is None:
        raise tools.missing(tools.WORKERD)
    # Any workerd behaves as the day says that the Worker was written for, if that is not after its own.
    if asked.worker.compatibility_date > builder.newest():
        raise errors.ServerStopped(
            f"This server was built for {deployment.interpreter}, and the platform now runs on {pinned.workerd.label},"
            f" which does not know the compatibility date {asked.worker.compatibility_date}. Deploy it again with an"
            " earlier one."
        )
    modules = await asyncio.to_thread(code.read, artefact)
    return driver.Spec(
        tenant=tenant,
        server=server,
        deployment=deployment.id,
        artefact=str(artefact),
        argv=(),
        runtime="worker",
        egress=rules.parsed(asked.egress),
        secrets=tuple(asked.secrets.items()),
        volume=_volume(asked, asked.worker),
        least=asked.scale.min,
        most=asked.scale.max,
        worker=_worker(asked.worker, modules),
    )


def _worker(worker: section.Worker, modules: tuple[code.Module, ...]) -> driver.Worker:
    return driver.Worker(
        modules=tuple(driver.Module(one.name, one.kind) for one in modules),
        compatibility_date=worker.compatibility_date,
        compatibility_flags=worker.compatibility_flags,
        path=worker.path,
        variables=tuple((name, json.dumps(value, ensure_ascii=False)) for name, value in worker.vars.items()),
        kv=tuple(worker.kv.items()),
        buckets=tuple(worker.buckets.items()),
        # The class's own name: the objects stay what they are when a binding is called something else.
        durables=tuple(
            driver.Durable(one.binding, one.class_name, one.class_name, one.sqlite) for one in worker.durable_objects
        ),
        services=tuple(_service(binding, one) for binding, one in worker.services.items()),
        alone=worker.own_process,
    )


def _service(binding: str, one: str | section.Service) -> driver.Service:
    if isinstance(one, str):
        return driver.Service(binding, ids.ServerName(one))
    return driver.Service(binding, ids.ServerName(one.server), one.entrypoint)


def _volume(asked: manifest.Manifest, worker: section.Worker) -> keeper.VolumeSpec | None:
    """Where Durable Objects are kept; none without them."""
    if not worker.durable_objects:
        return None
    volume = asked.volume or manifest.Volume()
    return keeper.VolumeSpec(volume.path, volume.size_bytes)
