"""A whole admin API in this process: real rooms over a real store, real keys, two tenants and the platform's operator.

Only what a running server would do is handed in here: the API takes those as functions, and the real ones are
tested with a sandbox in tests/real.
"""

import contextlib
import io
import pathlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import httpx2
import msgspec

from smcp.access import policy
from smcp.audit import trail
from smcp.control import app, services
from smcp.deploy import secrets
from smcp.identity import authenticator
from smcp.identity.authn import api_key
from smcp.kernel import clock, hosts, ids, observe, settings
from smcp.sandbox.volumes import keeper
from smcp.stores import tenant as stores
from smcp.tenancy import limits, meter, overview, plans, tenants
from smcp.web import docs
from support import ground, storage
from unit.control import hosted

OWN: Final = ids.TenantId("acme")
OTHER: Final = ids.TenantId("globex")
SECRET: Final = "API_KEY"
"""A secret that the server `time` of both tenants has."""
BASE: Final = "http://127.0.0.1:8080"
ROLES: Final = tuple(role for role in policy.Role if role is not policy.Role.OPERATOR)


class World:
    """The API, its services and everybody's keys."""

    def __init__(
        self,
        parts: services.Services,
        made: hosted.Rooms,
        runtime: hosted.Runtime,
        log: io.StringIO,
        ground: ground.Ground,
        store: stores.Store,
    ) -> None:
        self.parts = parts
        self.store = store
        self.ground = ground
        """Where volumes are."""
        self.made = made
        self.runtime = runtime
        self.log = log
        self.keys: dict[str, str] = {}
        """Texts of keys: `operator`, and `<tenant>/<role>`."""
        self.operation = ""
        """An operation of `acme`."""
        transport = httpx2.ASGITransport(app.build(parts, docs.pages()), raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url=BASE)

    async def close(self) -> None:
        """End what `opened` began."""
        await self.client.aclose()
        await self.parts.volumes.close()
        await self.made.close()
        await self.parts.trail.close()
        await self.parts.keys.close()

    async def send(self, method: str, path: str, who: str | None = None, **options: Any) -> httpx2.Response:
        """One request with the key of `who`."""
        headers = dict(options.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.keys[who]}"
        return await self.client.request(method, path, headers=headers, **options)

    async def ok(self, method: str, path: str, who: str, **options: Any) -> Any:
        """The JSON of a request that has to succeed."""
        answer = await self.send(method, path, who, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def trail(self, tenant: ids.TenantId) -> list[dict[str, Any]]:
        """Everything in a tenant's trail, past the API."""
        return [msgspec.to_builtins(entry.event) for entry in await self.parts.trail.query(tenant, limit=10_000)]

    async def publish(self, tenant: ids.TenantId, server: str) -> str:
        """Make a new deployment of a server live; its id."""
        return (await self.made.publish(tenant, ids.ServerName(server))).id

    async def fresh_key(self, tenant: ids.TenantId) -> str:
        """The id of a new key, for a test to name."""
        role = policy.Role.OPERATOR if tenant == ids.PLATFORM else policy.Role.READ_ONLY
        return (await self.parts.keys.create(tenant, (role,), "fresh", expires_in_s=None)).key.id

    async def restore(self) -> None:
        """Put back what an allowed request may have changed: `acme` is served and has its server, with a past."""
        await self.parts.tenants.resume(OWN)
        for _ in range(2):
            await self.publish(OWN, "time")
        await self.parts.secrets.set(OWN, ids.ServerName("time"), SECRET, b"a value", by="key-1")
        await self.keep(OWN)

    async def keep(self, tenant: ids.TenantId) -> list[str]:
        """Two snapshots of the volume of a tenant's server `time`; their ids."""
        server, made = ids.ServerName("time"), list[str]()
        for number in range(2):
            spec = keeper.VolumeSpec("/data", 1_048_576)
            hold = await self.parts.volumes.acquire(tenant, server, spec, lambda _line: None)
            (self.ground.place(tenant, server) / "file").write_text(f"{number} {ids.new('any')}")
            made.append((await self.parts.volumes.snapshot(tenant, server)).id)
            hold.release()
        return made


_LAYERS: Final = (
    services.Layer("seccomp", True, "only listed system calls", ""),
    services.Layer("uid", False, "all run as one user", "start as root"),
)


def _configured(directory: pathlib.Path, groups: Mapping[str, Any], limit: Mapping[str, Any]) -> settings.Settings:
    rates: dict[str, Any] = {
        "unauthenticated_per_minute": 100_000,
        "tenant_per_minute": 100_000,
        "principal_per_minute": 100_000,
        **limit,
    }
    return settings.Settings(
        **groups, platform=settings.Platform(data_dir=str(directory)), limits=settings.Limits(**rates)
    )


def _amounts(store: stores.Store, made: hosted.Rooms, runtime: hosted.Runtime) -> dict[str, overview.Amount]:
    async def stored(tenant: ids.TenantId) -> int:
        return (await store.tenant(tenant).usage()).bytes

    async def copies(tenant: ids.TenantId) -> int:
        return runtime.instances(tenant, ids.ServerName("time"))

    return {"storage_bytes": stored, "instances": copies, "deployments_kept": made.versions.most_kept}


def _allowances(
    store: stores.Store,
    owners: tenants.Tenants,
    configured: settings.Settings,
    made: hosted.Rooms,
    runtime: hosted.Runtime,
) -> tuple[plans.Plans, limits.Limiter, overview.Overview]:
    every = plans.Plans(store, owners, configured)
    store.limit(lambda tenant: every.of(tenant).storage)
    limiter = limits.Limiter(configured.limits, every, clock.SystemClock())
    return every, limiter, overview.Overview(limiter, clock.SystemClock(), _amounts(store, made, runtime), {})


@contextlib.asynccontextmanager
async def opened(
    directory: pathlib.Path, groups: Mapping[str, Any] | None = None, **limit: Any
) -> AsyncGenerator[World]:
    """The tenants `acme` and `globex`, a key for each role, a live server in both; `groups`, `limit` are settings."""
    configured = _configured(directory, groups or {}, limit)
    now = clock.SystemClock()
    log = io.StringIO()
    async with storage.opened(directory) as store:
        found = tenants.Tenants(store, now)
        keys = api_key.ApiKeys(store, found.active, now)
        told = trail.Trail(store, now, writer="test", ttl_days=1)
        await told.start()
        runtime, metrics = hosted.Runtime(), observe.Metrics("0.0.0")
        logger = observe.logger(settings.Log(format="json"), log)
        place = ground.Ground(directory / "volumes")
        made = hosted.Rooms(store, configured, now, told, metrics)
        await made.start()
        every, limiter, shown = _allowances(store, found, configured, made, runtime)
        counting = meter.Meter(store, found, now, metrics, logger, node="node-1", days=400)
        parts = services.Services(
            version="0.0.0",
            public_url=BASE,
            settings=configured,
            hosts=hosts.Hosts(host="127.0.0.1", port=8080),
            authenticator=authenticator.Authenticator((keys,)),
            plans=every,
            overview=shown,
            limiter=limiter,
            meter=counting,
            trail=told,
            tenants=found,
            keys=keys,
            versions=made.versions,
            uploads=made.uploads,
            deployer=made.deployer,
            secrets=secrets.Secrets(store, now),
            volumes=keeper.Volumes(store, place, now, configured, metrics, logger),
            invoke=runtime.invoke,
            read_logs=runtime.read_logs,
            stop_server=runtime.stop_server,
            roll_back=runtime.stop_server,
            renew_server=runtime.renew_server,
            stop_tenant=runtime.stop_tenant,
            drop_logs=runtime.drop_logs,
            instances=runtime.instances,
            running=runtime.running,
            ready=(services.Ready("store", store.check),),
            layers=_LAYERS,
            metrics=metrics,
            logger=logger,
        )
        world = World(parts, made, runtime, log, place, store)
        try:
            await _populate(world)
            yield world
        finally:
            await world.close()


async def _populate(world: World) -> None:
    issued = await world.parts.keys.create(ids.PLATFORM, (policy.Role.OPERATOR,), "op", expires_in_s=None)
    world.keys["operator"] = issued.text
    for tenant in (OWN, OTHER):
        await world.parts.tenants.create(tenant)
        for role in ROLES:
            issued = await world.parts.keys.create(tenant, (role,), str(role), expires_in_s=None)
            world.keys[f"{tenant}/{role}"] = issued.text
        for _ in range(2):
            await world.publish(tenant, "time")
        await world.parts.secrets.set(tenant, ids.ServerName("time"), SECRET, b"a value", by="key-1")
        await world.keep(tenant)
    ordered = await world.ok(
        "POST", f"/api/v1/tenants/{OWN}/deployments", f"{OWN}/admin", json={"source": "pypi:some-package"}
    )
    world.operation = ordered["id"]
