"""The rooms of OAuth clients on a real store, and hosts on loopback that publish documents about clients."""

import asyncio
import contextlib
import io
import json
import pathlib
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from smcp.app import documents
from smcp.audit import trail
from smcp.identity.oauth import (
    authorize,
    client_auth,
    clients,
    fetched,
    metadata_document,
    registration,
    remote_keys,
    resources,
)
from smcp.kernel import clock, hosts, ids, observe, settings
from smcp.sandbox import egress
from smcp.stores import tenant as stores
from smcp.tenancy import attempts, tenants
from support import authority, serving

ACME: Final = ids.TenantId("acme")
UMBRA: Final = ids.TenantId("umbra")
PUBLIC: Final = "https://mcp.example"
ISSUER: Final = f"{PUBLIC}/t/acme"
UMBRAS: Final = "mcp.umbra.example"
"""A name of the platform that belongs to umbra."""
CALLBACK: Final = "https://app.example/callback"
CHALLENGE: Final = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
"""Of the verifier in RFC 7636, appendix B."""
APP: Final = "app.example"
OTHER: Final = "other.example"
INSIDE: Final = (
    "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1",
    "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:0:0:0:0:80ff:fffe",
)  # fmt: skip
"""Addresses that nobody is led to by what a client says."""


class Host:
    """An https server for `app.example` and `other.example` that answers as a test says."""

    def __init__(self, made: authority.Authority) -> None:
        self._authority = made
        self.pages: dict[str, bytes] = {}
        """Whole answers, by path."""
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        """Path and fields of each request."""
        self.hold: asyncio.Event | None = None
        """Answers wait for it."""
        self.arrived = asyncio.Event()
        self.port = 0

    def url(self, path: str, host: str = APP) -> str:
        """Where `path` is."""
        return f"https://{host}:{self.port}{path}"

    def publish(self, path: str, said: object = None, *fields: str, status: int = 200, host: str = APP) -> str:
        """Answer `path` with `said` in JSON (default: a right document); its URL."""
        url = self.url(path, host)
        body = said if isinstance(said, bytes) else json.dumps(document(url) if said is None else said).encode()
        heads = list(fields)
        if not any(one.lower().startswith("content-type") for one in heads):
            heads.append("Content-Type: application/json")
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *heads]
        self.pages[path] = "\r\n".join([*head, "", ""]).encode() + body
        return url

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = lines[0].split(" ")[1]
        fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:])}
        self.asked.append((path, fields))
        self.arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        writer.write(self.pages.get(path, b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"))
        await writer.drain()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator["Host"]:
        """Listening on loopback, with a certificate for its names."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*self._authority.issue(APP, OTHER, "127.0.0.1"))
        async with serving.served(self._serve, made) as self.port:
            yield self
            if self.hold is not None:
                self.hold.set()


def document(url: str, **more: Any) -> dict[str, Any]:
    """What a client says of itself at `url`."""
    return {
        "client_id": url,
        "client_name": "Some App",
        "redirect_uris": [CALLBACK],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
    } | more


def metadata(*, secrets: bool = True, **said: Any) -> clients.Metadata:
    """What a client says of itself, read; as little as possible unless `said`."""
    plain = {"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
    return registration.read(plain | said, secrets=secrets)


class Room:
    """Everything about clients, on one store. Its clock stands still; two tenants are there."""

    def __init__(
        self,
        store: stores.Store,
        *,
        resolve: egress.Resolve | None = None,
        open_to: Sequence[str] = (),
        pins: Sequence[str] = (),
        secure: ssl.SSLContext | None = None,
        owners: tenants.Tenants | None = None,
        told: trail.Trail | None = None,
        public: str = PUBLIC,
    ) -> None:
        """`open_to` and `pins` are what an operator opens; `secure` says which certificates are trusted.

        `owners` and `told` are those of a platform that this is a part of.
        """
        self.store = store
        self.time = clock.FrozenClock()
        self.log = io.StringIO()
        self.tenants = owners or tenants.Tenants(store, self.time)
        self.trail = told or trail.Trail(store, self.time, writer="test", ttl_days=1)
        self.hosts = hosts.Hosts(host="127.0.0.1", port=8080, public_url=public, hosts=(f"{UMBRAS}=umbra",))
        opened = settings.Egress(allowed_networks=tuple(open_to), hosts=tuple(pins))
        reach = egress.Egress(opened, observe.Metrics("0.0.0"), resolve)
        logger = observe.logger(settings.Log(format="json"), self.log)
        self.fetch = documents.Fetcher(reach, self.time, logger, secure)
        self.fetches = fetched.Fetches()
        self.documents = metadata_document.Documents(self.fetch.document, self.fetches, self.time)
        self.remote_keys = remote_keys.RemoteKeys(self.fetch.key_set, self.fetches, self.time, logger)
        self.resources = resources.Resources(public, self.hosts)
        self.clients = clients.Clients(store, self.documents, self.time, self.tenants.active, self.trail.write)
        self.auth = client_auth.ClientAuth(
            store,
            self.clients,
            self.remote_keys,
            self.resources,
            self.time,
            attempts.Shares(self.time, "assertions", per_minute=120).take,
        )
        self.requests = authorize.Authorizations(self.clients, self.resources)

    async def told(self, tenant: ids.TenantId = ACME) -> list[Any]:
        """Everything in a tenant's trail."""
        return [entry.event for entry in await self.trail.query(tenant, limit=10_000)]

    async def register(self, tenant: ids.TenantId = ACME, **said: Any) -> clients.Issued:
        """A client that registers itself."""
        return await self.clients.register(tenant, metadata(**said), request_id="req-1")


@contextlib.asynccontextmanager
async def opened(store: stores.Store, **options: Any) -> AsyncGenerator[Room]:
    """A room with the tenants `acme` and `umbra`."""
    room = Room(store, **options)
    await room.trail.start()
    try:
        await room.tenants.create("acme")
        await room.tenants.create("umbra")
        yield room
    finally:
        await room.fetches.close()
        await room.trail.close()


Pair = tuple[Room, Host]


@contextlib.asynccontextmanager
async def published(store: stores.Store, directory: pathlib.Path, **options: Any) -> AsyncGenerator[Pair]:
    """A room whose operator has opened loopback, and a host there that can publish documents."""
    made = authority.Authority(directory / "authority")
    found = {"open_to": ["127.0.0.0/8"], "pins": [f"{APP}=127.0.0.1", f"{OTHER}=127.0.0.1"], "secure": made.client()}
    async with Host(made).open() as host, opened(store, **(found | options)) as room:
        yield room, host
