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
from smcp.access import roles as model
from smcp.app import inviting
from smcp.audit import trail
from smcp.control import app, services
from smcp.deploy import secrets
from smcp.identity import authenticator, roles, signing
from smcp.identity.accounts import invitations, passwords, people, users
from smcp.identity.authn import api_key
from smcp.identity.oauth import lifetimes
from smcp.kernel import clock, ids, observe, settings
from smcp.sandbox.volumes import keeper
from smcp.stores import buckets, heavy, namespaces
from smcp.stores import tenant as stores
from smcp.tenancy import limits, meter, overview, plans, tenants
from smcp.web import docs, register, wellknown
from support import authorizing, ground, humans, storage
from unit.control import hosted, paths

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
        made_clients: authorizing.Room,
    ) -> None:
        self.parts = parts
        self.store = store
        self.ground = ground
        """Where volumes are."""
        self.made = made
        self.runtime = runtime
        self.log = log
        self.by: invitations.By
        """The operator's key, which has invited everybody."""
        self.keys: dict[str, str] = {}
        """Texts of keys: `operator`, and `<tenant>/<role>`."""
        self.operation = ""
        """An operation of `acme`."""
        self.clients = made_clients
        """Everything about OAuth clients."""
        registering = register.Parts(
            clients=parts.clients,
            resources=made_clients.resources,
            limiter=parts.limiter,
            trail=parts.trail,
            clock=made_clients.time,
        )
        pages = [*docs.pages(), *wellknown.routes(made_clients.resources), *register.routes(registering)]
        transport = httpx2.ASGITransport(app.build(parts, pages), raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url=BASE)

    async def close(self) -> None:
        """End what `opened` began."""
        await self.client.aclose()
        await self.parts.volumes.close()
        await self.made.close()
        await self.parts.trail.close()
        await self.parts.keys.close()
        await self.parts.people.close()

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

    async def make_role(self, tenant: ids.TenantId) -> None:
        """A role of the tenant's own."""
        action = "platform:metrics" if tenant == ids.PLATFORM else "mcp:list"
        await self.parts.roles.set(tenant, model.Custom(name=paths.ROLE, actions=(action,)))

    async def fresh_key(self, tenant: ids.TenantId) -> str:
        """The id of a new key, for a test to name."""
        role = policy.Role.OPERATOR if tenant == ids.PLATFORM else policy.Role.READ_ONLY
        return (await self.parts.keys.create(tenant, (role,), "fresh", expires_in_s=None)).key.id

    async def fresh_client(self, tenant: ids.TenantId) -> str:
        """The id of a new OAuth client, for a test to name."""
        said = authorizing.metadata()
        made = await self.parts.clients.create(tenant, said, grant_types=("authorization_code",), roles=())
        return made.client.id

    async def fresh_people(self, tenant: ids.TenantId) -> dict[str, str]:
        """A new person and a new invitation, for a test to name in a path."""
        role = "operator" if tenant == ids.PLATFORM else "read_only"
        person = await self.person(tenant, role)
        waiting = await self.parts.people.invitations.invite(
            tenant, f"{ids.new('any')}@example.org", "", [role], by=self.by
        )
        return {"user": person.id, "invitation": waiting.invitation.id}

    async def person(self, tenant: ids.TenantId, *roles: str) -> users.User:
        """Somebody with an account, past the API."""
        held = await self.parts.roles.rules(tenant, roles)
        invited = await self.parts.people.invitations.invite(
            tenant, f"{ids.new('any')}@example.org", "", roles, by=self.by, rules=held.rules
        )
        accepted = await self.parts.people.accounts.accept(tenant, invited.text, "", humans.PASSWORD, humans.HOME)
        return accepted.user

    async def restore(self) -> None:
        """Put back what an allowed request may have changed: `acme` is served and has its server, with a past."""
        await self.parts.tenants.resume(OWN)
        for _ in range(2):
            await self.publish(OWN, "time")
        await self.parts.secrets.set(OWN, ids.ServerName("time"), SECRET, b"a value", by="key-1")
        await self.keep(OWN)
        await self.parts.namespaces.put(OWN, paths.SPACE, paths.ITEM, b"a value")
        await self.store_object(OWN, paths.BUCKET, paths.OBJECT)
        for tenant in (OWN, ids.PLATFORM):
            await self.make_role(tenant)

    async def store_object(self, tenant: ids.TenantId, bucket: str, key: str, content: bytes = b"its bytes") -> None:
        """Put an object, past the API."""

        async def body() -> AsyncGenerator[bytes]:
            yield content

        await self.parts.buckets.bucket(tenant, bucket).put(key, body())

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


def _running(runtime: hosted.Runtime) -> dict[str, Any]:
    return {
        "invoke": runtime.invoke,
        "read_logs": runtime.read_logs,
        "stop_server": runtime.stop_server,
        "roll_back": runtime.stop_server,
        "renew_server": runtime.renew_server,
        "stop_tenant": runtime.stop_tenant,
        "drop_logs": runtime.drop_logs,
        "instances": runtime.instances,
        "running": runtime.running,
    }


@contextlib.asynccontextmanager
async def opened(
    directory: pathlib.Path, groups: Mapping[str, Any] | None = None, **limit: Any
) -> AsyncGenerator[World]:
    """The tenants `acme` and `globex`, a key for each role, a live server in both; `groups`, `limit` are settings."""
    configured, now, log = _configured(directory, groups or {}, limit), clock.SystemClock(), io.StringIO()
    async with storage.opened(directory) as store:
        found = tenants.Tenants(store, now)
        custom = roles.Roles(store, now)
        keys = api_key.ApiKeys(store, found.active, now, custom)
        told = trail.Trail(store, now, writer="test", ttl_days=1)
        await told.start()
        runtime, metrics = hosted.Runtime(), observe.Metrics("0.0.0")
        logger = observe.logger(settings.Log(format="json"), log)
        place = ground.Ground(directory / "volumes")
        made = hosted.Rooms(store, configured, now, told, metrics)
        await made.start()
        oauth = authorizing.Room(store, owners=found, told=told, public=BASE)
        behind = inviting.behind(keys, oauth.clients, custom)
        every, limiter, shown = _allowances(store, found, configured, made, runtime)
        counting = meter.Meter(store, found, now, metrics, logger, node="node-1", days=400)
        parts = services.Services(
            version="0.0.0",
            public_url=BASE,
            settings=configured,
            hosts=oauth.hosts,
            authenticator=authenticator.Authenticator((keys,)),
            plans=every,
            overview=shown,
            limiter=limiter,
            meter=counting,
            trail=told,
            tenants=found,
            keys=keys,
            signing=signing.Signing(store, now, lifetimes.Lifetimes(), told.note),
            clients=oauth.clients,
            roles=custom,
            people=people.build(store, told, now, found.active, behind, passwords.Passwords(humans.CHEAP)),
            versions=made.versions,
            uploads=made.uploads,
            deployer=made.deployer,
            secrets=secrets.Secrets(store, now),
            volumes=keeper.Volumes(store, place, now, configured, metrics, logger),
            namespaces=namespaces.Namespaces(store),
            heavy=heavy.Heavy(),
            buckets=buckets.Buckets(store),
            **_running(runtime),
            ready=(services.Ready("store", store.check),),
            layers=_LAYERS,
            metrics=metrics,
            logger=logger,
        )
        world = World(parts, made, runtime, log, place, store, oauth)
        try:
            await _populate(world)
            yield world
        finally:
            await world.close()


async def _populate(world: World) -> None:
    issued = await world.parts.keys.create(ids.PLATFORM, (policy.Role.OPERATOR,), "op", expires_in_s=None)
    world.keys["operator"] = issued.text
    world.by = invitations.By(ids.PLATFORM, issued.key.id)
    for tenant in (OWN, OTHER):
        await world.parts.tenants.create(tenant)
        for role in ROLES:
            issued = await world.parts.keys.create(tenant, (role,), str(role), expires_in_s=None)
            world.keys[f"{tenant}/{role}"] = issued.text
        for _ in range(2):
            await world.publish(tenant, "time")
        await world.parts.secrets.set(tenant, ids.ServerName("time"), SECRET, b"a value", by="key-1")
        await world.keep(tenant)
        await world.parts.namespaces.put(tenant, paths.SPACE, paths.ITEM, b"a value")
        await world.store_object(tenant, paths.BUCKET, paths.OBJECT)
        await world.make_role(tenant)
    await world.make_role(ids.PLATFORM)
    ordered = await world.ok(
        "POST", f"/api/v1/tenants/{OWN}/deployments", f"{OWN}/admin", json={"source": "pypi:some-package"}
    )
    world.operation = ordered["id"]
