"""API keys: made once, shown once, kept as a keyed digest; checked on each request from memory.

What is stored is an HMAC of the secret under a key of the tenant's ring, so that neither the database nor a backup of
it can be searched for a known key. The secret has 160 random bits: nothing slower than an HMAC is needed (NIST SP
800-63B, 5.1.2.2, asks for slow hashing of look-up secrets below 112 bits only).

The warm path touches no storage: a key that was verified before is found by a digest of its whole text under a
key that only this process has, and stays valid exactly as long as its record keeps the revision that was
verified. A revocation gives the record another revision, and the write does not return before every reader sees it.
"""

import asyncio
import collections
import contextlib
import functools
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, TypeVar

import msgspec

from smcp.access import addresses, grants, policy, scopes
from smcp.identity import roles
from smcp.identity.authn import base, key_text
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

_T = TypeVar("_T")

MAX_LABEL: Final = 80
MAX_LIFE_S: Final = 10 * 366 * 86400.0
LIFE_S: Final = 90 * 86400.0
"""How long a key lives where nobody says anything else."""
NOTICE_S: Final = 14 * 86400.0
"""How long before its end it is told of it."""
MAX_OVERLAP_S: Final = 30 * 86400.0
OVERLAP_S: Final = 86400.0
"""How long a key still works beside its successor where nobody says anything else."""
MAX_ROLES: Final = 16
MAX_SERVERS: Final = 64
COARSE_S: Final = 60.0
"""How exact `last_used` is; also the least time between two writes of it for one key."""

_WARM_KEYS: Final = 20_000
_PENDING_USES: Final = 10_000
_PURPOSE: Final = "identity.api-key digest"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key. The secret is not."""

    id: str
    """`key-` and the id that stands in the key's text; also the principal's id."""
    tenant: ids.TenantId
    label: str
    roles: tuple[str, ...]
    """`policy.Role`s, and roles of the tenant's own: by name, so that a change of one is a change of the key."""
    created: float
    expires: float | None = None
    revoked: float | None = None
    scopes: tuple[str, ...] | None = None
    """None: not narrowed."""
    servers: tuple[str, ...] | None = None
    """The servers that it reaches; None: not narrowed."""
    networks: tuple[str, ...] = ()
    """Where it may be used from; empty: anywhere."""
    successor: str = ""
    """The key that replaces it."""
    last_used: float | None = None
    """Coarse: within a minute. Filled in by `list`; kept in a record of its own."""
    digest: bytes = b""
    """Keyed digest of the secret. Not for any answer."""

    def __repr__(self) -> str:
        return f"ApiKey(id={self.id!r}, tenant={self.tenant!r}, roles={self.roles!r}, digest=…)"


class Issued(NamedTuple):
    """A new key, and its text: the only time that anybody sees it."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"Issued(key={self.key!r}, text=…)"


class _Use(msgspec.Struct, frozen=True):
    """When a key was last used: apart from the key, so that noting it does not touch the key's record."""

    at: float
    told: bool = False
    """That it ends soon has been told."""


class _Warm:
    """A verified key."""

    __slots__ = ("book", "digest", "expires", "noted", "principal", "revision", "seen")

    def __init__(self, key: ApiKey, revision: int, digest: bytes, held: roles.Held) -> None:
        self.book = held.revision if roles.own(key.roles) else None
        """Revision of the tenant's own roles; what they gave stands on the principal. None: it has none of them."""
        self.digest = digest
        self.expires = key.expires
        self.noted = 0.0
        self.principal = _principal(key, held)
        self.revision = revision
        self.seen = -1
        """`Store.changes` when it was last found to be unchanged, and its tenant to be served."""


def _principal(key: ApiKey, held: roles.Held) -> policy.Principal:
    return policy.Principal(
        key.tenant,
        key.id,
        "api_key",
        key.roles,
        key.label,
        scopes=None if key.scopes is None else frozenset(key.scopes),
        rules=held.rules,
        servers=None if key.servers is None else frozenset(key.servers),
        networks=key.networks,
        expires=key.expires,
    )


class ApiKeys(base.Method):
    """Makes, lists, revokes and checks API keys of any tenant, the platform's (operators') included."""

    def __init__(
        self,
        store: stores.Store,
        tenant_active: Callable[[ids.TenantId], Awaitable[None]],
        clock: clock.Clock,
        custom: roles.Roles,
        *,
        tenant_served: Callable[[ids.TenantId], bool] = lambda _: False,
    ) -> None:
        """`tenant_active` returns for an active tenant and raises `TenantSuspended` or `NotFound` for others.

        `custom` knows the roles that tenants make themselves. `tenant_served` says of an active tenant so, if memory
        knows; False says nothing.
        """
        self._store = store
        self._tenant_active = tenant_active
        self._tenant_served = tenant_served
        self._clock = clock
        self._roles = custom
        self._keys = records.Records(store, ApiKey, ("key",))
        self._uses = records.Records(store, _Use, ("key-use",))
        self._process_key = secrets.token_bytes(32)
        self._warm: collections.OrderedDict[bytes, _Warm] = collections.OrderedDict()
        self._pending_uses: dict[tuple[ids.TenantId, str], float] = {}
        self._noting: asyncio.Task[None] | None = None
        self.when_revoked: Callable[[ids.TenantId, str], Awaitable[None]] | None = None
        """Ends what a key has opened, by tenant and the key's id; awaited before `revoke` returns."""
        self.when_ending: Callable[[ids.TenantId, str, float], None] | None = None
        """Is told once of each key in use that ends within `NOTICE_S`: tenant, the key's id, when. Must not raise."""

    # --- life cycle ---

    async def create(
        self,
        tenant: ids.TenantId,
        roles: Iterable[str],
        label: str,
        *,
        expires_in_s: float | None,
        scopes: Iterable[str] | None = None,
        servers: Iterable[str] | None = None,
        networks: Iterable[str] = (),
    ) -> Issued:
        """A new key of `tenant`. Whether the caller may give these roles is `access.grants`'s question, asked before.

        Raises `errors.InvalidParams`, `errors.NotFound` (no such tenant), `errors.TenantSuspended`.
        """
        if expires_in_s is not None and not 0 < expires_in_s <= MAX_LIFE_S:
            raise errors.InvalidParams("A key's life is more than zero and at most ten years.")
        now = self._clock.now()
        wanted = ApiKey(
            id="",
            tenant=tenant,
            label=label,
            roles=tuple(sorted({str(role) for role in roles})),
            created=now,
            expires=None if expires_in_s is None else now + expires_in_s,
            scopes=None if scopes is None else tuple(sorted(set(scopes))),
            servers=None if servers is None else tuple(sorted(set(servers))),
            networks=addresses.parse(networks),
        )
        await self._check(wanted)
        await self._tenant_active(tenant)
        return await self._issue(wanted)

    async def _check(self, key: ApiKey) -> None:
        """Raises `errors.InvalidParams` for a key that can't be."""
        own = {rule.role for rule in (await self._roles.rules(key.tenant, key.roles)).rules}
        if not 0 < len(key.roles) <= MAX_ROLES or not set(key.roles) <= grants.possible(key.tenant) | own:
            names = ", ".join(sorted(grants.possible(key.tenant)))
            raise errors.InvalidParams(
                f"A key of this tenant has one or more of these roles: {names}; or roles of its own: smcp role list."
            )
        if len(key.label) > MAX_LABEL or not key.label.isprintable():
            raise errors.InvalidParams(f"A key's label is up to {MAX_LABEL} printable characters.")
        if key.scopes is not None and (not key.scopes or not set(key.scopes) <= scopes.WORDS.keys()):
            raise errors.InvalidParams(f"A key's scopes are one or more of these: {', '.join(scopes.WORDS)}.")
        if key.servers is not None:
            if not 0 < len(key.servers) <= MAX_SERVERS or key.tenant == ids.PLATFORM:
                raise errors.InvalidParams(f"A tenant's key is for all servers, or for 1 to {MAX_SERVERS}.")
            for name in key.servers:
                ids.server(name)

    async def _issue(self, wanted: ApiKey) -> Issued:
        key_id, secret = key_text.new_id(), key_text.new_secret()
        key = msgspec.structs.replace(
            wanted, id=key_text.public_id(key_id), digest=self._digest(wanted.tenant, key_id, secret)
        )
        # Create-only: an id that exists (chance 2⁻⁶⁰ a key) is a Conflict, never an overwritten key.
        await self._keys.create(key.tenant, (key.id,), key)
        return Issued(key, key_text.compose(key.tenant, key_id, secret))

    async def find(self, tenant: ids.TenantId, key_id: str) -> ApiKey:
        """One key, without `last_used`. Raises `errors.NotFound`."""
        found = await self._keys.get(tenant, key_id) if key_text.KEY_ID.fullmatch(key_id) else None
        if found is None:
            raise errors.NotFound(detail="key")
        return found.value

    async def standing(self, tenant: ids.TenantId, key_id: str) -> policy.Principal | None:
        """Who a key is as of now, for what it has made; None for one that is revoked, has ended or is none."""
        found = await self._keys.get(tenant, key_id) if key_text.KEY_ID.fullmatch(key_id) else None
        if found is None or found.value.revoked is not None:
            return None
        key = found.value
        if key.expires is not None and self._clock.now() >= key.expires:
            return None
        return _principal(key, await self._roles.rules(tenant, key.roles))

    async def rotate(self, tenant: ids.TenantId, key_id: str, *, overlap_s: float = OVERLAP_S) -> Issued:
        """A successor that is worth the same and lives as long again. The key itself ends `overlap_s` from now.

        Whether the caller may give its roles is `access.grants`'s question, asked before.
        Raises `errors.NotFound`, `errors.InvalidParams`, `errors.Conflict` for a key that has ended or has a successor,
        `errors.TenantSuspended`.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise errors.InvalidParams(
                f"A key works beside its successor for at most {MAX_OVERLAP_S / 86400:.0f} days."
            )
        old, now = await self.find(tenant, key_id), self._clock.now()
        _rotatable(old, now)
        await self._tenant_active(tenant)
        life_s = None if old.expires is None else old.expires - old.created
        made = await self._issue(
            msgspec.structs.replace(old, created=now, expires=None if life_s is None else now + life_s)
        )

        def change(key: ApiKey) -> ApiKey:
            _rotatable(key, now)
            ends = now + overlap_s if key.expires is None else min(key.expires, now + overlap_s)
            return msgspec.structs.replace(key, expires=ends, successor=made.key.id)

        try:
            await self._keys.update(tenant, (key_id,), change)
        except errors.SmcpError:
            # Two at a time, or revoked meanwhile: nobody has seen the new one.
            await self.revoke(tenant, made.key.id)
            raise
        return made

    async def list(self, tenant: ids.TenantId) -> list[ApiKey]:
        """All keys of `tenant`, revoked and expired ones too, by id, with `last_used`."""
        uses = {key[-1]: use.value.at for key, use in await _all(self._uses, tenant)}
        return [
            msgspec.structs.replace(entry.value, last_used=uses.get(entry.value.id))
            for _, entry in await _all(self._keys, tenant)
        ]

    def ends_soon(self, key: ApiKey) -> bool:
        """Is it time to rotate it?"""
        return _ends_soon(key, self._clock.now())

    async def revoke(self, tenant: ids.TenantId, key_id: str) -> ApiKey:
        """Revoke a key for ever: the next request with it is refused. Again is fine. Raises `errors.NotFound`."""
        if key_text.KEY_ID.fullmatch(key_id) is None:
            raise errors.NotFound(detail="key")
        now = self._clock.now()

        def change(key: ApiKey) -> ApiKey:
            return key if key.revoked is not None else msgspec.structs.replace(key, revoked=now)

        revoked = await self._keys.update(tenant, (key_id,), change)
        if self.when_revoked is not None:
            await self.when_revoked(tenant, key_id)
        return revoked

    async def close(self) -> None:
        """Finish noting uses. Idempotent."""
        if self._noting is not None:
            await self._noting

    # --- authentication ---

    def recognises(self, credential: str) -> bool:
        """Whatever begins like a key of ours is ours to refuse."""
        return credential.startswith(key_text.PREFIX)

    def recall(self, credential: str) -> base.Recall | None:
        if len(credential) > key_text.LONGEST or not credential.isascii():
            return None
        warm = self._remembered(self._fingerprint(credential))
        return None if warm is None else functools.partial(self._still, warm)

    def _still(self, warm: _Warm) -> policy.Principal | None:
        if warm.seen != self._store.changes and not self._stands(warm):
            return None
        now = self._clock.now()
        if (
            (warm.expires is not None and now >= warm.expires)
            or now - warm.noted >= COARSE_S
            or not self._store.fresh()
        ):
            return None
        return warm.principal

    def _stands(self, warm: _Warm) -> bool:
        """Is neither the key's record nor its tenant's another one? Looked up only after something has changed."""
        changes, principal = self._store.changes, warm.principal
        found = self._keys.peek(principal.tenant, principal.id)
        if (
            not isinstance(found, records.Versioned)
            or found.revision != warm.revision
            or not self._tenant_served(principal.tenant)
            or (warm.book is not None and not self._roles.unchanged(principal.tenant, principal.roles, warm.book))
        ):
            return False
        if found.expires is None:
            warm.seen = changes
        return True

    async def authenticate(self, credential: str, proof: base.Proof | None = None) -> policy.Principal:
        """Who this is: see `base.Method`. From memory when the key was verified before and is unchanged."""
        if not self._store.fresh():
            await self._store.proven()
        if proof is not None:  # a key is bound to nothing
            raise base.refused(base.Reason.PROOF)
        if len(credential) > key_text.LONGEST or not credential.isascii():
            raise base.refused(base.Reason.MALFORMED)
        digest = self._fingerprint(credential)
        warm = self._remembered(digest)
        if warm is None or not await self._unchanged(warm):
            warm = await self._verify(credential, digest)
        now = self._clock.now()
        if warm.expires is not None and now >= warm.expires:
            raise base.refused(base.Reason.EXPIRED)
        try:
            await self._tenant_active(warm.principal.tenant)
        except errors.NotFound:
            raise base.refused(base.Reason.UNKNOWN) from None
        if now - warm.noted >= COARSE_S:
            warm.noted = now
            self._note_use(warm.principal, now)
        return warm.principal

    def _fingerprint(self, credential: str) -> bytes:
        return hashlib.blake2b(credential.encode(), key=self._process_key, digest_size=32).digest()

    def _remembered(self, digest: bytes) -> _Warm | None:
        warm = self._warm.get(digest[:16])
        return warm if warm is not None and crypto.equal(warm.digest, digest) else None

    async def _unchanged(self, warm: _Warm) -> bool:
        principal = warm.principal
        found = self._keys.peek(principal.tenant, principal.id)
        if found is records.UNKNOWN:
            found = await self._keys.get(principal.tenant, principal.id)
        return (
            isinstance(found, records.Versioned)
            and found.revision == warm.revision
            and (warm.book is None or self._roles.unchanged(principal.tenant, principal.roles, warm.book) is True)
        )

    async def _verify(self, credential: str, digest: bytes) -> _Warm:
        """The slow way: read the text, look the record up, compare the secret's digest, remember."""
        self._warm.pop(digest[:16], None)
        parsed = key_text.parse(credential)
        if parsed is None:
            raise base.refused(base.Reason.MALFORMED)
        with contextlib.suppress(errors.TenantSuspended):  # told only to who has proved to hold a key
            try:
                await self._tenant_active(parsed.tenant)
            except errors.NotFound:
                raise base.refused(base.Reason.UNKNOWN) from None
        found = await self._keys.get(parsed.tenant, key_text.public_id(parsed.id))
        given = self._digest(parsed.tenant, parsed.id, parsed.secret)
        # Compared even where there is no record, so that both refusals take the same steps.
        if not crypto.equal(found.value.digest if found else bytes(32), given) or found is None:
            raise base.refused(base.Reason.UNKNOWN)
        if found.value.revoked is not None:
            raise base.refused(base.Reason.REVOKED)
        held = await self._roles.rules(parsed.tenant, found.value.roles)
        warm = self._warm[digest[:16]] = _Warm(found.value, found.revision, digest, held)
        if len(self._warm) > _WARM_KEYS:
            self._warm.popitem(last=False)
        return warm

    def _digest(self, tenant: ids.TenantId, key_id: str, secret: str) -> bytes:
        pepper = self._store.ring.data_key(tenant, _PURPOSE)
        return crypto.keyed_digest(pepper, tenant, key_id, secret)

    # --- last used ---

    def _note_use(self, principal: policy.Principal, now: float) -> None:
        """Never waits, and never fails a request: when storage is slow, what is known is simply not refreshed."""
        if len(self._pending_uses) < _PENDING_USES:
            self._pending_uses[principal.tenant, principal.id] = now
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._write_uses())

    async def _write_uses(self) -> None:
        while self._pending_uses:
            (tenant, key_id), at = self._pending_uses.popitem()
            # A store that is away or a full quota must not end a caller's request; requests fail closed elsewhere.
            with contextlib.suppress(errors.SmcpError):
                known = await self._uses.get(tenant, key_id)
                if known is None or at - known.value.at >= COARSE_S:
                    told = (known is not None and known.value.told) or await self._tell(tenant, key_id, at)
                    await self._uses.put(tenant, (key_id,), _Use(at, told))

    async def _tell(self, tenant: ids.TenantId, key_id: str, now: float) -> bool:
        """Tell of a key that ends soon and has no successor. Was there anything to tell?"""
        found = await self._keys.get(tenant, key_id)
        if found is None or not _ends_soon(found.value, now):
            return False
        if self.when_ending is not None and found.value.expires is not None:
            self.when_ending(tenant, key_id, found.value.expires)
        return True


def _ends_soon(key: ApiKey, now: float) -> bool:
    return (
        key.revoked is None
        and not key.successor
        and key.expires is not None
        and now < key.expires <= now + min(NOTICE_S, (key.expires - key.created) / 2)
    )


def _rotatable(key: ApiKey, now: float) -> None:
    if key.successor:
        raise errors.Conflict(f"This key has a successor already: {key.successor}.")
    if key.revoked is not None or (key.expires is not None and now >= key.expires):
        raise errors.Conflict("This key has ended. Create a new one.")


async def _all(found: records.Records[_T], tenant: ids.TenantId) -> list[tuple[kv.Key, records.Versioned[_T]]]:
    page_size = 1000
    entries: list[tuple[kv.Key, records.Versioned[_T]]] = []
    after: str | None = None
    while True:
        page = await found.list(tenant, after=after, limit=page_size)
        entries += page
        if len(page) < page_size:
            return entries
        after = page[-1][0][-1]
