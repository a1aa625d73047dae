"""OAuth clients: who may ask people of a tenant for their consent, and how each came to be known.

| kind | how it became known | for how long |
|---|---|---|
| `administrator` | a tenant's administrator made it | until it is revoked |
| `built_in` | it is `smcp login`, in every tenant | until it is revoked; on record only then |
| `metadata` | its id is the https address of a document about it | on record from the first consent on |
| `dynamic` | it registered itself (RFC 7591) | a stranger's until the first consent (`stores.shares`) |

Which of them give way when the room is needed, and when, says `room`.

A client id means something within one tenant only. A revoked client is unknown from the next request on.
"""

import builtins
import collections
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from smcp.audit import events
from smcp.audit import identity as audited
from smcp.identity.oauth import adoptions, client_model, refusals, room
from smcp.kernel import clock as clocks
from smcp.kernel import crypto, errors, ids
from smcp.stores import records, shares, vouched
from smcp.stores import tenant as stores

Kind = client_model.Kind
AuthMethod = client_model.AuthMethod
AUTHORIZATION_CODE = client_model.AUTHORIZATION_CODE
REFRESH_TOKEN = client_model.REFRESH_TOKEN
CLIENT_CREDENTIALS = client_model.CLIENT_CREDENTIALS
DEVICE_CODE = client_model.DEVICE_CODE
Client = client_model.Client
Metadata = client_model.Metadata
Issued = client_model.Issued
CLI = client_model.CLI
REF = client_model.REF
cli = client_model.cli
ref = client_model.ref


class UnknownClient(refusals.Refused):
    """No such client in this tenant, or not any more. The description says what to do next."""

    def __init__(self, description: str = "", *, detail: str = "unknown") -> None:
        words = description or "This client is not known here, or was revoked. Register it again."
        super().__init__(refusals.INVALID_CLIENT, words, detail=detail, status=401)


class Documents(Protocol):
    """Reads clients' metadata documents (`metadata_document.Documents`)."""

    async def read(self, tenant: ids.TenantId, client_id: str, address: str, *, known: bool) -> Client:
        """The client whose document stands at `client_id`. Raises `UnknownClient`, `Unreadable`, `RateLimited`."""
        ...


class Unreadable(UnknownClient):
    """A document could not be read just now; what it said before may count for a while."""


STANDS_S: Final = 86_400.0
"""A document that can't be read counts for so long after it was read last, where somebody had consented."""
MAX_RECORD: Final = 4_000
"""Bytes of what is kept of a client that registered itself, before it is sealed."""
_USED_S: Final = 3600.0
"""A consent within so long (seconds) after another is not put on record again."""
_ID: Final = re.compile(r"client-[0-9a-z]{26}|smcp-cli")
_SECRET: Final = "identity.oauth-client secret"  # noqa: S105 - what the key of digests is derived for
_MANAGE: Final = "identity.oauth-client registration"


class Clients:
    """The clients of all tenants."""

    def __init__(
        self,
        store: stores.Store,
        documents: Documents,
        clock: clocks.Clock,
        tenant_active: Callable[[ids.TenantId], Awaitable[None]],
        note: Callable[[events.Event], Awaitable[None]],
        *,
        most: int = room.MOST,
    ) -> None:
        """`tenant_active` is `Tenants.active`; `note` writes to the audit trail; `most`: on record of one tenant."""
        self._store = store
        self._documents = documents
        self._clock = clock
        self._tenant_active = tenant_active
        self._note = note
        self._records = kept(store)
        self._adoptions = adoptions.Adoptions(store, clock)
        self._rooms = room.Rooms(clock, self._count, self._stale, self._drop, most=most)
        self.when_revoked: Callable[[ids.TenantId, str], Awaitable[None]] | None = None
        """Ends what was issued to a client, by tenant and client id; awaited before it counts as revoked or removed."""
        self.in_use: Callable[[ids.TenantId], Awaitable[set[str]]] | None = None
        """The ids of clients with an approval or a grant (`grants.Grants.in_use`). Until it is set, none gives way that
        somebody consented to."""

    # --- reading ---

    async def find(self, tenant: ids.TenantId, client_id: str, address: str = "") -> Client:
        """The client, its document read where what is known of it is old; `address` is who asks, for the rate of that.

        Raises `UnknownClient`, `errors.RateLimited`, `errors.Unavailable`.
        """
        if not client_id.startswith("https://"):
            return await self.known(tenant, client_id)
        await self._served(tenant)
        kept = await self._records.get(tenant, ref(client_id))
        if kept is not None and kept.value.revoked is not None:
            raise UnknownClient(detail="revoked")
        try:
            read = await self._documents.read(tenant, client_id, address, known=kept is not None)
        except (Unreadable, errors.RateLimited):
            # Strangers who use up the rate keep nobody out whom people here have consented to.
            if kept is None or self._clock.now() - kept.value.read > STANDS_S:
                raise
            return kept.value
        return read if kept is None else await self._seen(kept.value, read)

    async def _seen(self, kept: Client, read: Client) -> Client:
        """What a document says now of a client on record. Its keys count at once, the rest from the next consent on."""
        if read.keys == kept.keys and read.read - kept.read < STANDS_S / 4:
            return _renewed(kept, read)

        def change(found: Client) -> Client:
            jwks, jwks_uri = read.keys
            epoch = found.epoch + (found.keys != read.keys)
            return msgspec.structs.replace(found, jwks=jwks, jwks_uri=jwks_uri, read=read.read, epoch=epoch)

        try:
            return _renewed(await self._records.update(kept.tenant, ref(kept.id), change), read)
        except errors.NotFound:
            raise UnknownClient from None

    async def known(self, tenant: ids.TenantId, client_id: str) -> Client:
        """The client as it is on record, for all behind the consent. Raises `UnknownClient`, `errors.Unavailable`."""
        await self._served(tenant)
        found = self.peek(tenant, client_id)
        if found is records.UNKNOWN:
            found = await self._records.get(tenant, ref(client_id))
        if found is None and client_id == CLI:
            return cli(tenant)
        if not isinstance(found, records.Versioned) or found.value.id != client_id:
            raise UnknownClient
        if found.value.revoked is not None:
            raise UnknownClient(detail="revoked")
        return found.value

    def peek(self, tenant: ids.TenantId, client_id: str) -> records.Versioned[Client] | records.Unknown | None:
        """The record, also a revoked one, or None (of `CLI`: it may be used), if memory knows; else `UNKNOWN`."""
        if not client_id.startswith("https://") and _ID.fullmatch(client_id) is None:
            return None
        return self._records.peek(tenant, ref(client_id))

    async def look(self, tenant: ids.TenantId, named: str) -> Client:
        """The record of the client with this `ref` or id, revoked or not. Raises `errors.NotFound`."""
        key = ref(named)
        found = await self._records.get(tenant, key) if REF.fullmatch(key) else None
        if found is None and key == CLI:
            return cli(tenant)
        if found is None:
            raise errors.NotFound(detail="client")
        return found.value

    async def list(self, tenant: ids.TenantId) -> builtins.list[Client]:
        """All clients, those that nobody has approved first, revoked ones too."""
        every = await self._records.every(tenant)
        return every if any(one.id == CLI for one in every) else [*every, cli(tenant)]

    # --- how clients come and go ---

    async def register(self, tenant: ids.TenantId, metadata: Metadata, *, request_id: str) -> Issued:
        """A client that registers itself (RFC 7591). Raises `refusals.Refused`, `errors.Unavailable`."""
        await self._served(tenant)
        now = self._clock.now()
        base = Client(id=ids.new("client"), tenant=tenant, kind=Kind.DYNAMIC, name="", host=metadata.host, created=now)
        manage = _secret("smcd", tenant)
        client = metadata.of(msgspec.structs.replace(base, manage_digest=self._digest(base, _MANAGE, manage)))
        client, secret = self._with_secret(client)
        _checked(client)
        async with self._rooms.one_more(tenant, loose=True) as shelf:
            try:
                await self._records.create(tenant, client.id, client)
            except errors.QuotaExceeded:
                raise room.full() from None
            shelf.added(client.id, now)
        await self._note(
            audited.ClientRegistered(
                tenant=tenant, actor="anonymous", request_id=request_id, client=client.id, how=client.kind.value
            )
        )
        return Issued(client, secret, manage)

    async def create(
        self, tenant: ids.TenantId, metadata: Metadata, *, grant_types: tuple[str, ...], roles: tuple[str, ...]
    ) -> Issued:
        """A client that an administrator makes. Whether they may give `roles` is asked before. Raises as `register`."""
        await self._served(tenant)
        base = _new(tenant, Kind.ADMINISTRATOR, metadata, self._clock.now())
        made = msgspec.structs.replace(metadata.of(base), grant_types=grant_types, roles=tuple(sorted(set(roles))))
        client, secret = self._with_secret(made)
        async with self._rooms.one_more(tenant, own=True) as shelf:
            await self._records.create(tenant, client.id, client)
            shelf.added(client.id)
        return Issued(client, secret)

    async def adopt(self, client: Client, *, actor: str, request_id: str) -> Client:
        """Somebody (the person `actor`) has consented to `client` (of `find`): from now on it is the tenant's own.

        Called before a code is issued. Raises `UnknownClient` when it was revoked meanwhile, `refusals.Refused` when
        the tenant has no room for another, `errors.RateLimited` when this person has made too many lasting today,
        `errors.Unavailable`.
        """
        if client.kind is Kind.BUILT_IN:
            return await self.known(client.tenant, client.id)
        now, tenant, key = self._clock.now(), client.tenant, ref(client.id)
        known = await self._records.get(tenant, key)
        if known is None and client.kind is not Kind.METADATA:
            raise UnknownClient
        if known is None or (known.value.adopted is None and known.value.kind is not Kind.ADMINISTRATOR):
            await self._adoptions.count(tenant, actor)
        if known is None:
            return await self._first(client, actor=actor, request_id=request_id)

        def change(found: Client) -> Client:
            if found.revoked is not None:
                raise UnknownClient(detail="revoked")
            kept = _renewed(found, client) if client.kind is Kind.METADATA else found
            first = now if kept.adopted is None else kept.adopted
            used = now if now - kept.used >= _USED_S else kept.used
            return msgspec.structs.replace(kept, adopted=first, used=used)

        try:
            adopted = await self._records.update(tenant, key, change)
        except errors.NotFound:
            raise UnknownClient from None
        self._rooms.stays(tenant, key)
        return adopted

    async def _first(self, client: Client, *, actor: str, request_id: str) -> Client:
        """Put a client with a document on record."""
        now, tenant, key = self._clock.now(), client.tenant, ref(client.id)
        made = msgspec.structs.replace(client, created=now, adopted=now, used=now)
        async with self._rooms.one_more(tenant) as shelf:
            await self._records.create(tenant, key, made)
            shelf.added(key)
        await self._note(
            audited.ClientRegistered(
                tenant=tenant, actor=actor, request_id=request_id, client=client.id, how=client.kind.value
            )
        )
        return made

    async def amend(self, client: Client, metadata: Metadata) -> Issued:
        """Another description of a client that registered itself (RFC 7592, 2.2).

        Raises `UnknownClient`, `refusals.Refused` for one that is too large.
        """
        made: builtins.list[str] = []

        def change(found: Client) -> Client:
            if found.revoked is not None:
                raise UnknownClient(detail="revoked")
            new = metadata.of(msgspec.structs.replace(found, host=metadata.host))
            if (new.auth_method, new.keys) != (found.auth_method, found.keys):
                made.clear()
                new, secret = self._with_secret(msgspec.structs.replace(new, epoch=found.epoch + 1))
                made.append(secret)
            _checked(new)
            return new

        try:
            amended = await self._records.update(client.tenant, ref(client.id), change)
        except errors.NotFound:
            raise UnknownClient from None
        return Issued(amended, made[0] if made else "")

    async def remove(self, client: Client, *, request_id: str) -> None:
        """A client that registered itself goes (RFC 7592, 2.3), and what was issued to it."""
        await self._end(client)
        await self._records.delete(client.tenant, ref(client.id))
        self._rooms.forget(client.tenant)
        told = audited.ClientRevoked(tenant=client.tenant, actor="anonymous", request_id=request_id, client=client.id)
        await self._note(told)

    async def revoke(self, tenant: ids.TenantId, named: str) -> Client:
        """Revoke the client with this `ref` or id for ever: it is unknown from the next request on. Again is fine.

        Its record gives way after `room.STALE_S`, when the room is needed, unless it could come back without it.

        Raises `errors.NotFound`, `errors.Unavailable`.
        """
        found = await self.look(tenant, named)
        now = self._clock.now()

        def change(one: Client) -> Client:
            if one.revoked is not None:
                return one
            return msgspec.structs.replace(one, revoked=now, epoch=one.epoch + 1)

        if found.kind is Kind.BUILT_IN:
            with contextlib.suppress(errors.Conflict):
                await self._records.create(tenant, found.id, found)
        revoked = await self._records.update(tenant, ref(found.id), change)
        self._rooms.forget(tenant)
        await self._end(revoked)
        return revoked

    # --- secrets ---

    def proves(self, client: Client | None, secret: str) -> bool:
        """Is `secret` the client's? Takes the same steps where there is no client, or none with a secret."""
        return self._equal(client, _SECRET, secret, b"" if client is None else client.secret_digest)

    def manages(self, client: Client | None, token: str) -> bool:
        """Is `token` the client's registration access token (RFC 7592, 3)?"""
        return self._equal(client, _MANAGE, token, b"" if client is None else client.manage_digest)

    def _equal(self, client: Client | None, purpose: str, secret: str, digest: bytes) -> bool:
        nobody = Client(id="", tenant=ids.PLATFORM, kind=Kind.DYNAMIC, name="", host="")
        given = self._digest(client or nobody, purpose, secret)
        return crypto.equal(digest or bytes(32), given)

    def _with_secret(self, client: Client) -> tuple[Client, str]:
        if client.auth_method not in (AuthMethod.BASIC, AuthMethod.POST):
            return msgspec.structs.replace(client, secret_digest=b""), ""
        secret = _secret("smcs", client.tenant)
        return msgspec.structs.replace(client, secret_digest=self._digest(client, _SECRET, secret)), secret

    def _digest(self, client: Client, purpose: str, secret: str) -> bytes:
        pepper = self._store.ring.data_key(client.tenant, purpose)
        return crypto.keyed_digest(pepper, client.tenant, client.id, secret)

    # --- room ---

    async def _served(self, tenant: ids.TenantId) -> None:
        if not self._store.fresh():
            await self._store.proven()
        try:
            await self._tenant_active(tenant)
        except (errors.NotFound, errors.TenantSuspended):
            # Nobody who asks here has proved to belong to the tenant: one answer for both.
            raise UnknownClient("There is no authorization server at this address.", detail="tenant") from None

    async def _count(self, tenant: ids.TenantId) -> room.Found:
        return room.found(await self._records.every(tenant))

    async def _stale(self, tenant: ids.TenantId) -> collections.deque[str]:
        every = await self._records.every(tenant)
        # Asked after the clients were read: a consent since then has put its moment on record (`adopt`).
        used = None if self.in_use is None else await self.in_use(tenant)
        return room.stale(every, used, self._clock.now())

    async def _drop(self, tenant: ids.TenantId, key: str) -> bool:
        found = await self._records.get(tenant, key)
        if found is None or not room.gives_way(found.value, self._clock.now()):
            return False
        try:
            # Of that revision only: a client that somebody consents to meanwhile stays.
            await self._records.drop(tenant, key, found)
        except errors.Conflict:
            return False
        if not found.value.strange and found.value.revoked is None:
            told = audited.ClientRevoked(tenant=tenant, actor="platform", request_id="", client=found.value.id)
            await self._note(told)
        return True

    async def _end(self, client: Client) -> None:
        if self.when_revoked is not None:
            await self.when_revoked(client.tenant, client.id)


def _new(tenant: ids.TenantId, kind: Kind, metadata: Metadata, now: float) -> Client:
    sure, host = kind is Kind.ADMINISTRATOR, metadata.host
    return Client(id=ids.new("client"), tenant=tenant, kind=kind, name="", host=host, created=now, verified=sure)


def kept(store: stores.Store) -> vouched.Vouched[Client]:
    """Where clients are on record, by `ref`."""
    return vouched.Vouched(store, Client, shares.CLIENT, ("oauth-client",), lambda client: client.strange)


def _checked(client: Client) -> None:
    """Raises `refusals.Refused` for a description that is too large to be kept for a stranger."""
    if len(msgspec.msgpack.encode(client)) > MAX_RECORD:
        raise refusals.Refused(
            refusals.INVALID_CLIENT_METADATA,
            f"The description is too large: {MAX_RECORD} bytes are kept. Send fewer or shorter redirect URIs and keys.",
            detail="size",
        )


def _renewed(kept: Client, read: Client) -> Client:
    """What is on record of a client, with what its document says now."""
    return msgspec.structs.replace(
        read,
        created=kept.created,
        adopted=kept.adopted,
        used=kept.used,
        epoch=kept.epoch + (kept.keys != read.keys),
        roles=kept.roles,
    )


def _secret(prefix: str, tenant: ids.TenantId) -> str:
    return f"{prefix}_{tenant}_{ids.base32(secrets.randbits(260), 52)}"
