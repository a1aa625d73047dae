"""The pages with the rooms that they stand on, served on a port of this machine: real stores, people and clients."""

import asyncio
import base64
import contextlib
import hashlib
import html.parser
import pathlib
import socket
import urllib.parse
from collections.abc import AsyncGenerator, Generator
from typing import Any, Final

import argon2
import httpx2
import msgspec
import uvicorn
from starlette import requests, responses, routing
from starlette.types import ASGIApp

from smcp.access import policy
from smcp.app import inviting
from smcp.audit import trail
from smcp.identity import roles
from smcp.identity.accounts import invitations, passwords, people, users
from smcp.identity.authn import api_key
from smcp.identity.oauth import authorize, clients, codes, device, grants, lifetimes, resources
from smcp.kernel import clock, hosts, ids, observe, settings
from smcp.stores import tenant as stores
from smcp.tenancy import limits, plans, tenants
from smcp.web import services
from smcp.web.pages import routes
from support import storage, trails

ACME: Final = ids.tenant("acme")
EMAIL: Final = "ada@example.org"
PASSWORD: Final = "four unlikely words together"
VERIFIER: Final = "v" * 43
CHALLENGE: Final = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
CHEAP: Final = argon2.Parameters(argon2.Type.ID, 19, 16, 32, 1, 8, 1)
"""Hashes that take no time: what is shown here is not how long they take."""


class World:
    """A tenant, a person and pages."""

    def __init__(self, store: stores.Store, audit: trail.Trail, port: int, time: clock.Clock) -> None:
        self.store = store
        self.trail = audit
        self.clock = time
        self.port = port
        self.base = f"http://localhost:{port}"
        self.tenants = tenants.Tenants(store, self.clock)
        self.names = hosts.Hosts(
            host="127.0.0.1", port=port, public_url=self.base, origins=["https://inspector.example"]
        )
        lives = lifetimes.Lifetimes()
        self.grants = grants.Grants(store, self.clock, audit, lives)
        self.codes = codes.Codes(store, self.clock, lives)
        self.clients = clients.Clients(store, _Nothing(), self.clock, self.tenants.active, self._note)
        custom = roles.Roles(store, self.clock)
        self.keys = api_key.ApiKeys(store, self.tenants.active, self.clock, custom)
        self.by: invitations.By
        """An administrator's key, which has invited everybody."""
        behind = inviting.behind(self.keys, self.clients, custom)
        self.people = people.build(store, audit, self.clock, self.tenants.active, behind, passwords.Passwords(CHEAP))
        self.resources = resources.Resources(self.base, self.names)
        self.resources.servers = self._servers
        self.devices = device.Devices(store, time, lives)
        self.landed: list[str] = []
        """What clients on this machine were told: the addresses that browsers came with."""
        self.config = settings.Settings()

    @property
    def time(self) -> clock.FrozenClock:
        """The clock of an aged world."""
        assert isinstance(self.clock, clock.FrozenClock)
        return self.clock

    async def _servers(self, tenant: ids.TenantId) -> list[str]:
        return ["notes"]

    async def _note(self, event: Any) -> None:
        await self.trail.write(event)

    async def fill(self) -> None:
        """Make the tenant and its person."""
        await self.tenants.create("acme")
        made = await self.keys.create(ACME, (policy.Role.ADMIN,), "", expires_in_s=None)
        self.by = invitations.By(ACME, made.key.id)
        self.ada = await self.person(EMAIL, "Ada")

    async def person(self, email: str, name: str) -> users.User:
        """Somebody with an account and a password."""
        issued = await self.people.invitations.invite(ACME, email, name, [policy.Role.MCP_USER], by=self.by)
        signed = await self.people.accounts.accept(ACME, issued.text, name, PASSWORD, "127.0.0.1")
        return signed.user

    async def client(self, name: str, *uris: str) -> clients.Client:
        """A client that has registered itself."""
        asked = clients.Metadata(
            name=name,
            redirect_uris=uris or (self.callback,),
            uri="",
            auth_method=clients.AuthMethod.NONE,
            grant_types=(clients.AUTHORIZATION_CODE, clients.REFRESH_TOKEN),
            native=True,
            scope="",
            jwks="",
            jwks_uri="",
        )
        return (await self.clients.register(ACME, asked, request_id="")).client

    async def rename(self, client: clients.Client, name: str) -> None:
        """Put a name on record that registration would have refused or cleaned."""
        kept = clients.kept(self.store)
        await kept.update(ACME, client.id, lambda one: msgspec.structs.replace(one, name=name))

    @property
    def callback(self) -> str:
        """Where a client on this machine listens."""
        return f"http://127.0.0.1:{self.port}/landed"

    def link(self, client: clients.Client, **other: str) -> str:
        """An authorization request of `client`."""
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": client.redirect_uris[0],
            "scope": "mcp:read mcp:call",
            "state": "as it was",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": f"{self.base}/t/acme/notes/mcp",
            **other,
        }
        return f"{self.base}/oauth/acme/authorize?{urllib.parse.urlencode(query)}"

    async def app(self) -> ASGIApp:
        """The application, with a place where clients of this machine listen beside the pages."""
        every = plans.Plans(self.store, self.tenants, self.config)
        await every.start()
        made = services.Services(
            version="0.1",
            public_url=self.base,
            clock=self.clock,
            key=self.store.ring.data_key,
            tenants=self.tenants,
            limiter=limits.Limiter(self.config.limits, every, self.clock),
            trail=self.trail,
            metrics=observe.Metrics("0"),
            logger=observe.logger(self.config.log),
            accounts=self.people.accounts,
            sessions=self.people.sessions,
            authorizing=authorize.Authorizations(self.clients, self.resources),
            clients=self.clients,
            grants=self.grants,
            codes=self.codes,
            devices=self.devices,
            resources=self.resources,
        )

        async def landed(request: requests.Request) -> responses.Response:
            self.landed.append(str(request.url))
            return responses.HTMLResponse("<!doctype html><title>landed</title><h1>landed</h1>")

        # Without the edge that checks Host and Origin around all of it: what is shown here is what the pages check.
        return routing.Router(
            [*routes.pages(made), routing.Route("/landed", landed), routing.Route("/evil", _evil)],
            redirect_slashes=False,
        )

    async def told(self, kind: str) -> list[Any]:
        """The entries of the tenant's trail that are a `kind`."""
        await self.trail.flush(ACME)
        entries = await self.trail.query(ACME, limit=1000)
        return [one.event for one in entries if type(one.event).__name__ == kind]


async def _evil(request: requests.Request) -> responses.Response:
    """A page of another origin that says what its query says."""
    return responses.HTMLResponse(request.query_params["html"])


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Whoever runs the tests decides when they end."""
        yield


class _Nothing:
    """No document can be read: the clients here have registered themselves."""

    async def read(self, tenant: ids.TenantId, client_id: str, address: str, *, known: bool) -> clients.Client:
        """Raises `UnknownClient`."""
        raise clients.UnknownClient


@contextlib.asynccontextmanager
async def serving(directory: pathlib.Path, *, aged: bool = False) -> AsyncGenerator[World]:
    """A world whose pages are served; ended in the end. `aged`: its clock stands still, and tests move it on."""
    time = clock.FrozenClock() if aged else clock.SystemClock()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # who comes before the server does waits for it
    async with contextlib.AsyncExitStack() as undo:
        undo.callback(listener.close)
        store = await undo.enter_async_context(storage.opened(directory))
        audit = await undo.enter_async_context(trails.writing(store, clock.SystemClock()))
        world = World(store, audit, listener.getsockname()[1], time)
        await world.fill()
        server = _Server(
            uvicorn.Config(
                await world.app(), lifespan="off", proxy_headers=False, log_config=None, access_log=False, ws="none"
            )
        )
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield world
        finally:
            server.should_exit = True
            await task
            await world.people.close()


def secret(text: str) -> bytes:
    """An authenticator's key, from how the page shows it."""
    digits = text.replace(" ", "")
    return base64.b32decode(digits + "=" * (-len(digits) % 8))


class Forms(html.parser.HTMLParser):
    """The forms of a page: where each goes and what it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((given["action"], {}))
        elif tag == "input" and self.forms and "name" in given:
            self.forms[-1][1][given["name"]] = given.get("value", "")


class Browser:
    """A browser without a screen: keeps cookies, and sends forms as the page has them."""

    def __init__(self, world: World, client: httpx2.AsyncClient) -> None:
        self.world = world
        self.http = client

    async def get(self, where: str) -> httpx2.Response:
        """One page; redirects are not followed."""
        return await self.http.get(where)

    async def send(
        self, page: httpx2.Response, number: int = 0, headers: dict[str, str] | None = None, **fields: str
    ) -> httpx2.Response:
        """Send a form of `page`, filled in."""
        action, hidden = Forms(page.text).forms[number]
        sent = {"Origin": self.world.base, "Sec-Fetch-Site": "same-origin", **(headers or {})}
        return await self.http.post(action, data={**hidden, **fields}, headers=sent)

    async def sign_in(self, email: str = EMAIL, password: str = PASSWORD) -> httpx2.Response:
        """Sign in on the login page."""
        page = await self.get("/account/acme/login")
        return await self.send(page, email=email, password=password)

    async def sign_in_again(self) -> httpx2.Response:
        """Sign in on the page that asks who is signed in to do so again; first let the session grow old."""
        await self.send(await self.get("/account/acme/logout"))
        return await self.sign_in()


@contextlib.asynccontextmanager
async def browser(world: World) -> AsyncGenerator[Browser]:
    """A new browser."""
    async with httpx2.AsyncClient(base_url=world.base, timeout=60, trust_env=False) as client:
        yield Browser(world, client)
