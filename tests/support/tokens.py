"""Rooms of tokens on a real store: two tenants, a person, clients of every kind, and a clock that stands still."""

import base64
import contextlib
import hashlib
import io
import json
import pathlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import msgspec
import pytest
from joserfc import jwk, jws

from smcp.access import policy
from smcp.app import authorization, tokens
from smcp.audit import trail
from smcp.identity import authenticator, roles
from smcp.identity.accounts import users
from smcp.identity.authn import base
from smcp.identity.oauth import (
    authorize,
    client_auth,
    clients,
    codes,
    exchange,
    fetched,
    issue,
    lifetimes,
    refusals,
    registration,
    remote_keys,
    resources,
)
from smcp.identity.oauth import dpop as proofs
from smcp.kernel import clock, errors, hosts, ids, observe, settings
from smcp.stores import tenant as stores
from smcp.tenancy import attempts
from smcp.tenancy import tenants as tenancy
from support import storage

ACME: Final = ids.tenant("acme")
UMBRA: Final = ids.tenant("umbra")
PUBLIC: Final = "https://smcp.example"
VERIFIER: Final = "v" * 43
BACK: Final = "https://client.example/back"
SHORT: Final = lifetimes.Lifetimes(access_s=5.0)


def challenge(verifier: str) -> str:
    """The S256 challenge of a verifier."""
    return b64(hashlib.sha256(verifier.encode()).digest())


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _NoDocuments:
    async def read(self, tenant: ids.TenantId, client_id: str, address: str, *, known: bool) -> clients.Client:
        raise clients.UnknownClient


class Room:
    """Everything about tokens, as `app.wire` joins it."""

    def __init__(
        self, store: stores.Store, audit: trail.Trail, lives: lifetimes.Lifetimes, time: clock.FrozenClock | None = None
    ) -> None:
        self.store = store
        self.paid: list[remote_keys.Payer] = []
        """Who was charged for each reading of keys, of which none finds any."""
        self.trail = audit
        self.lives = lives
        self.time = time or clock.FrozenClock()
        self.tenants = tenancy.Tenants(store, self.time)
        self.users = users.Users(store)
        self.roles = roles.Roles(store, self.time)
        names = hosts.Hosts(host="127.0.0.1", port=8080, public_url=PUBLIC)
        self.resources = resources.Resources(PUBLIC, names)
        self.resources.servers = self._servers
        self.clients = clients.Clients(store, _NoDocuments(), self.time, self.tenants.active, audit.write)
        log = observe.logger(settings.Log(), io.StringIO())
        auth = client_auth.ClientAuth(
            store,
            self.clients,
            remote_keys.RemoteKeys(self._no_keys, fetched.Fetches(), self.time, log),
            self.resources,
            self.time,
            attempts.Shares(self.time, "assertions", per_minute=120).take,
        )
        asking = authorization.Authorization(
            self.resources, self.clients, auth, authorize.Authorizations(self.clients, self.resources)
        )
        self.asking = asking
        self.made = tokens.open(store, self.time, audit, self.tenants, self.users, self.roles, asking, lives, "https")
        self.user: users.User
        self.client: clients.Client
        """A public one, which may use every grant that a person gives."""

    async def _no_keys(self, tenant: ids.TenantId, payer: remote_keys.Payer, url: str) -> fetched.Document:
        self.paid.append(payer)
        raise errors.ServerFailed

    async def _servers(self, tenant: ids.TenantId) -> list[str]:
        return ["files", "mail"]

    async def settle(self) -> None:
        """Tenants, a person and a client."""
        await self.tenants.create("acme")
        await self.tenants.create("umbra")
        self.user = await self.person(ACME)
        self.client = await self.public(ACME)

    def again(self) -> "Room":
        """The same in a process that has nothing in memory."""
        other = Room(self.store, self.trail, self.lives, self.time)
        other.user, other.client = self.user, self.client
        return other

    async def person(self, tenant: ids.TenantId, email: str = "ada@acme.example") -> users.User:
        """Somebody with an account."""
        user = users.User(
            id=ids.new("user"),
            tenant=tenant,
            email=email,
            name="Ada",
            roles=(policy.Role.MCP_USER,),
            created=self.time.now(),
        )
        await self.store.tenant(tenant).kv.apply(list(self.users.made(user)))
        return user

    async def public(self, tenant: ids.TenantId, **said: Any) -> clients.Client:
        """A client that registers itself."""
        described = {
            "client_name": "Editor",
            "redirect_uris": [BACK],
            "token_endpoint_auth_method": "none",
            "grant_types": [clients.AUTHORIZATION_CODE, clients.REFRESH_TOKEN, clients.DEVICE_CODE],
            **said,
        }
        found = await self.clients.register(tenant, registration.read(described, secrets=True), request_id="")
        return found.client

    async def machine(self, tenant: ids.TenantId = ACME, method: str = "client_secret_basic") -> clients.Issued:
        """A client of an administrator, with a secret and the role `mcp_user`."""
        described = {
            "client_name": "Robot",
            "token_endpoint_auth_method": method,
        }
        metadata = registration.read({**described, "redirect_uris": [BACK]}, secrets=True)
        return await self.clients.create(
            tenant, metadata, grant_types=(clients.CLIENT_CREDENTIALS,), roles=(policy.Role.MCP_USER,)
        )

    def approved(self, **changes: Any) -> codes.Approved:
        """What `user` has allowed `client` for the server `files`."""
        made = codes.Approved(
            client=self.client.id,
            client_epoch=self.client.epoch,
            redirect_uri=BACK,
            challenge=challenge(VERIFIER),
            user=self.user.id,
            user_epoch=self.user.epoch,
            server="files",
            scopes=("mcp:call", "mcp:read"),
        )
        return msgspec.structs.replace(made, **changes)

    async def code(self, **changes: Any) -> str:
        """A code for it, with the approval on record."""
        wanted = self.approved(**changes)
        await self.made.grants.approve(ACME, wanted.user, wanted.client, wanted.server, wanted.scopes)
        return await self.made.codes.issue(ACME, wanted)

    async def ask(
        self,
        form: Mapping[str, str],
        *,
        tenant: ids.TenantId = ACME,
        authorization: str | None = None,
        proof: proofs.Shown | None = None,
    ) -> issue.Tokens:
        """Ask the token endpoint."""
        request = exchange.Request(tenant=tenant, form=form, authorization=authorization, proof=proof)
        return await self.made.exchange.token(request)

    def with_code(self, code: str, **changes: str) -> dict[str, str]:
        """The form that exchanges `code`; an empty change leaves a field out."""
        form = {
            "grant_type": clients.AUTHORIZATION_CODE,
            "client_id": self.client.id,
            "code": code,
            "code_verifier": VERIFIER,
            "redirect_uri": BACK,
            **changes,
        }
        return {name: value for name, value in form.items() if value}

    def with_refresh(self, token: str, **changes: str) -> dict[str, str]:
        """The form that uses a refresh token."""
        return {
            "grant_type": clients.REFRESH_TOKEN,
            "client_id": self.client.id,
            "refresh_token": token,
            **changes,
        }

    async def log_in(self, **changes: Any) -> issue.Tokens:
        """A whole login."""
        return await self.ask(self.with_code(await self.code(**changes)))

    async def who(self, token: str, scheme: str = "Bearer", proof: proofs.Shown | None = None) -> policy.Principal:
        """Whom a token is of, by the authenticator, as both edges ask it."""
        return await authenticator.Authenticator((self.made.method,)).authenticate(
            f"{scheme} {token}", None if proof is None else proof_of(proof)
        )

    async def why(self, token: str, scheme: str = "Bearer", proof: proofs.Shown | None = None) -> str:
        """The private reason for which a token is refused; the public words never differ."""
        with pytest.raises(errors.Unauthenticated) as refused:
            await self.who(token, scheme, proof)
        assert refused.value.public == errors.Unauthenticated.text
        return refused.value.detail

    async def refused(self, form: Mapping[str, str], **more: Any) -> refusals.Refused:
        """The refusal of a token request."""
        with pytest.raises(refusals.Refused) as found:
            await self.ask(form, **more)
        return found.value

    async def told(self) -> list[dict[str, Any]]:
        """The tenant's trail."""
        return [msgspec.to_builtins(entry.event) for entry in await self.trail.query(ACME, limit=10_000)]


def proof_of(shown: proofs.Shown) -> base.Proof:
    """The same proof, as the authenticator takes it."""
    return base.Proof(*shown)


class Key:
    """A client's DPoP key."""

    def __init__(self) -> None:
        self.key = jwk.ECKey.generate_key("P-256", auto_kid=False)
        self.thumbprint = self.key.thumbprint()
        self._count = 0

    def proof(
        self,
        room: Room,
        *,
        path: str = "/oauth/acme/token",
        token: str | None = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> proofs.Shown:
        """A proof for a POST to `path`, shown there; `header` and `claims` change it (None leaves a claim out)."""
        self._count += 1
        said: dict[str, Any] = {
            "jti": f"proof-{self._count}",
            "htm": "POST",
            "htu": f"{PUBLIC}{path}",
            "iat": int(room.time.now()),
            "ath": None if token is None else b64(hashlib.sha256(token.encode()).digest()),
        }
        said |= claims
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.as_dict(private=False), **(header or {})}
        payload = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
        text = jws.serialize_compact(head, payload, self.key, algorithms=["ES256"])
        return proofs.Shown(text, "POST", "smcp.example", path)


@contextlib.asynccontextmanager
async def opened(directory: pathlib.Path, lives: lifetimes.Lifetimes | None = None) -> AsyncGenerator[Room]:
    """A settled room in `directory`, closed in the end."""
    async with storage.opened(directory) as store, around(store, lives or lifetimes.Lifetimes()) as room:
        yield room


@contextlib.asynccontextmanager
async def around(store: stores.Store, lives: lifetimes.Lifetimes) -> AsyncGenerator[Room]:
    """A settled room on a store."""
    audit = trail.Trail(store, clock.SystemClock(), writer="node-1", ttl_days=30)
    await audit.start()
    try:
        room = Room(store, audit, lives)
        await room.settle()
        yield room
    finally:
        await audit.close()
