"""A platform whose tenants have people: servers, accounts, and an application elsewhere with a document of its own."""

import contextlib
import http.server
import json
import pathlib
import ssl
import tempfile
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from support import byoauth, elsewhere, gates, visitors, wire
from support.authority import Authority
from support.clients import Endpoint
from support.gates import Gate
from support.platform import Platform

APP: Final = "app.client.example"
"""Where the application with a metadata document lives; for the platform it is on this machine."""
UMBRA: Final = "mcp.umbra.example"
"""A name of the platform that belongs to the tenant umbra."""
SETTINGS: Final = {
    **gates.SETTINGS,
    **gates.BRISK,
    **elsewhere.SETTINGS,
    # What is short there is for tests of those limits. Here a hundred clients in one process send at once, and a body
    # may come seconds behind its head where the machine is busy.
    "SMCP_GATEWAY_CALL_TIMEOUT_S": "120",
    "SMCP_GATEWAY_BODY_TIMEOUT_S": "120",
    # Rates count by address: a test that needs one of its own says where it comes from.
    "SMCP_GATEWAY_TRUSTED_PROXIES": "127.0.0.1/32",
    "SMCP_EGRESS_HOSTS": f"{APP}=127.0.0.1,inner.client.example=10.1.2.3,cloud.client.example=169.254.169.254",
    "SMCP_GATEWAY_HOSTS": f"{UMBRA}=umbra",
}


class Documents:
    """A web server over https that shows documents, and notes what it was asked."""

    def __init__(self, authority: Authority) -> None:
        self.found: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        handler = type("Handler", (_Handler,), {"documents": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        certificate, key = authority.issue(APP, prefix="documents")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str) -> str:
        """The address of a document."""
        return f"https://{APP}:{self.port}{path}"

    def client(self, path: str, **said: Any) -> str:
        """Show a client's metadata document at `path`; its address, which is the client's id."""
        url = self.url(path)
        document = {
            "client_id": url,
            "client_name": "An application",
            "redirect_uris": [byoauth.LOOPBACK],
            "token_endpoint_auth_method": "none",
            **said,
        }
        self.show(path, document)
        return url

    def show(self, path: str, document: object, status: int = 200, **fields: str) -> None:
        """Show `document` at `path`."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        self.found[path] = (status, {"content-type": "application/json", **named}, json.dumps(document).encode())

    def __enter__(self) -> "Documents":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    documents: Documents

    def do_GET(self) -> None:
        self.documents.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, fields, body = self.documents.found.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests stay quiet."""


@dataclass(frozen=True)
class House:
    """The platform with what is in it."""

    gate: Gate
    documents: Documents
    people: Mapping[str, tuple[str, str]] = field(repr=False)
    """Tenant and address of each person by first name; all have the password of `visitors`."""
    clients: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str], repr=False)
    """By tenant and name: how many may register in a minute is limited."""

    @property
    def platform(self) -> Platform:
        """The platform."""
        return self.gate.platform

    @property
    def base_url(self) -> str:
        """Its address."""
        return self.gate.platform.base_url

    @property
    def api(self) -> str:
        """The resource that the admin API is."""
        return f"{self.base_url}/api/v1"

    def visitor(self, who: str) -> visitors.Visitor:
        """A browser of somebody's, in which she is not signed in yet."""
        tenant, email = self.people[who]
        return visitors.Visitor(self.base_url, tenant, email)

    def issuer(self, http: httpx2.AsyncClient, tenant: str = "acme") -> byoauth.Issuer:
        """The authorization server of `tenant`."""
        return byoauth.Issuer(http, self.base_url, tenant)


async def client(house: House, issuer: byoauth.Issuer, name: str = "By hand", **said: Any) -> str:
    """The id of a client that registered itself as `name` once, with `said`."""
    key = (issuer.tenant, name)
    if key not in house.clients:
        house.clients[key] = str((await issuer.register(client_name=name, **said))["client_id"])
    return house.clients[key]


async def invite(platform: Platform, tenant: str, email: str, *roles: str, key: str | None = None) -> visitors.Visitor:
    """Somebody new, with an account, signed in, in a browser of her own."""
    made = platform.api("POST", f"/tenants/{tenant}/invitations", {"email": email, "roles": list(roles)}, key=key)
    visitor = visitors.Visitor(platform.base_url, tenant, email)
    await visitor.join(made["code"])
    return visitor


@contextlib.contextmanager
def opened(directory: pathlib.Path, changed: Mapping[str, str] | None = None) -> Generator[tuple[Gate, Documents]]:
    """The platform, running, with the servers of `gates` and without people."""
    shelf, home = directory / "wheels", directory / "platform"
    shelf.mkdir()
    home.mkdir()
    wire.wheel(shelf)
    # Where the platform's own user finds it.
    with tempfile.TemporaryDirectory(dir="/tmp") as readable:
        pathlib.Path(readable).chmod(0o755)
        authority = Authority(pathlib.Path(readable))
        environ = {
            **SETTINGS,
            "SMCP_DEPLOY_WHEEL_DIRS": str(shelf),
            "SSL_CERT_FILE": str(authority.file),
            **(changed or {}),
        }
        with Documents(authority) as documents, Platform(home, environ) as platform:
            platform.create_tenant("strangers")  # what is not meant to be registered is refused there
            yield gates.opened(platform), documents


async def peopled(gate: Gate, documents: Documents) -> House:
    """The same with people: Ada (admin) and Bob (caller) of acme, Eve (admin) of umbra, Olga (operator)."""
    known = {
        "ada": ("acme", "ada@acme.example", "admin"),
        "bob": ("acme", "bob@acme.example", "mcp_user"),
        "eve": ("umbra", "eve@umbra.example", "admin"),
    }
    for tenant, email, role in known.values():
        async with await invite(gate.platform, tenant, email, role):
            pass
    return House(gate, documents, {name: (tenant, email) for name, (tenant, email, _) in known.items()})


@contextlib.asynccontextmanager
async def signed_in(house: House, who: str) -> AsyncGenerator[visitors.Visitor]:
    """A browser in which somebody is signed in."""
    async with house.visitor(who) as visitor:
        page = await visitor.sign_in()
        assert page.status_code == 200, page.text[:2000]
        yield visitor


async def login(
    house: House,
    issuer: byoauth.Issuer,
    who: str,
    resource: str,
    *,
    scope: str = byoauth.SCOPES,
    by: str | None = None,
) -> tuple[str, byoauth.Pair]:
    """The client's id and the tokens of somebody who agreed that `by`, a client, or any acts for her."""
    by = by or await client(house, issuer)
    attempt = issuer.begin(by, resource, scope=scope)
    async with house.visitor(who) as visitor:
        came = await visitor.agree(attempt.address)
    assert came["state"] == attempt.state, came
    assert came["iss"] == issuer.name, came
    return by, byoauth.pair(await issuer.redeem(attempt, came["code"]))


def at(endpoint: Endpoint, pair: byoauth.Pair) -> Endpoint:
    """The same server, for the holder of a token."""
    return Endpoint(endpoint.url, pair.access)
