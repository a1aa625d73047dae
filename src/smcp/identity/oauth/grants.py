"""What a person let a client do, and what follows from it: approvals, and the grants behind tokens.

An *approval* is what somebody said on the consent page: this client, this server, these scopes. A *grant* is one login
of that client under it, and what its tokens name. Both are records of the tenant: a grant that is not there is over, so
taking one away ends its access tokens with the next request that shows one, and its refresh token with it.

A client that acts for itself (RFC 6749, 4.4) has grants without an approval; an administrator gave it its roles.
"""

import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeVar

import msgspec

from smcp.audit import identity as events
from smcp.audit import trail
from smcp.identity.oauth import lifetimes, opaque
from smcp.kernel import clock, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

_T = TypeVar("_T")

USER: Final = "user"
CLIENT: Final = "client"

MOST: Final = 100
"""Grants of one person at once: with another one, the oldest of the client that has most ends. Clients that log in
again and again leave theirs behind."""
MOST_OWN: Final = 500
"""Tokens of one client that acts for itself at once: a client that needs more does not keep what it gets."""
MOST_APPROVALS: Final = 200
"""Clients that one person has approved."""

MOST_PAGES: Final = 8
"""Ways in which one client was shown and allowed: addresses of its answers, names that it has had."""

_PAGE: Final = 1000


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One login of a client."""

    id: str
    """`grant-` and 12 digits, which are its refresh token's id too."""
    tenant: ids.TenantId
    kind: str
    """Who the tokens speak for: `USER`, or the `CLIENT` itself."""
    subject: str
    """The id of that user or client."""
    client: str
    server: str
    """The audience (`policy.Principal.audience`)."""
    scopes: tuple[str, ...]
    how: str
    """The grant type that it came with."""
    created: float
    ends: float
    user_epoch: int = 0
    client_epoch: int = 0
    jkt: str = ""
    """The key that its refresh token is bound to (RFC 9449, 5); empty for none."""
    refreshable: bool = False


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What one person let one client do."""

    client: str
    servers: dict[str, tuple[str, ...]]
    """The scopes, for each server (`policy.API` for the admin API)."""
    pages: dict[str, tuple[str, ...]] = {}
    """What consent pages have shown of the client, for each server: digests, the last `MOST_PAGES` of them."""
    first: float
    last: float


class Grants:
    """Approvals and grants of any tenant."""

    def __init__(self, store: stores.Store, time: clock.Clock, audit: trail.Trail, lives: lifetimes.Lifetimes) -> None:
        self._store = store
        self._clock = time
        self._trail = audit
        self._lives = lives
        self._grants = records.Records(store, Grant, ("oauth-grant",))
        self._approvals = records.Records(store, Approval, ("oauth-approval",))
        self.when_ended: list[Callable[[Grant], Awaitable[None]]] = []
        """Each is awaited before `revoke` returns, and removes what belonged to the grant."""

    # --- approvals ---

    async def approve(
        self, tenant: ids.TenantId, user: str, client: str, server: str, scopes: Iterable[str], *, page: str = ""
    ) -> None:
        """A person said yes; what they let the client do before stays. Raises `errors.QuotaExceeded`.

        `page`: a digest of what they were shown of the client (`shown`); empty where it is not to count again.
        """
        key = (self._subject(tenant, user), self._client(tenant, client))
        now = self._clock.now()

        def change(known: Approval) -> Approval:
            held = {*known.servers.get(server, ()), *scopes}
            before = known.pages.get(server, ())
            pages = (*(one for one in before if one != page), page)[-MOST_PAGES:] if page else before
            return msgspec.structs.replace(
                known,
                servers={**known.servers, server: tuple(sorted(held))},
                pages={**known.pages, server: pages},
                last=now,
            )

        while True:
            if await self._approvals.get(tenant, *key) is None:
                if len(await self._approvals.list(tenant, key[0], limit=MOST_APPROVALS)) >= MOST_APPROVALS:
                    raise errors.QuotaExceeded("You have approved as many clients as is possible. Revoke some first.")
                fresh = change(Approval(client=client, servers={}, first=now, last=now))
                try:
                    await self._approvals.create(tenant, key, fresh)
                except errors.Conflict:
                    continue
            else:
                await self._approvals.update(tenant, key, change)
            return

    async def allowed(self, tenant: ids.TenantId, user: str, client: str, server: str) -> frozenset[str]:
        """The scopes that this person lets this client have for this server; empty for none."""
        found = await self._approvals.get(tenant, self._subject(tenant, user), self._client(tenant, client))
        return frozenset() if found is None else frozenset(found.value.servers.get(server, ()))

    async def shown(self, tenant: ids.TenantId, user: str, client: str, server: str, page: str) -> bool:
        """Has this person said yes to this client on such a page before, and not taken it back?"""
        found = await self._approvals.get(tenant, self._subject(tenant, user), self._client(tenant, client))
        return found is not None and page in found.value.pages.get(server, ())

    async def approvals(self, tenant: ids.TenantId, user: str) -> list[Approval]:
        """All clients that a person has approved, the newest first."""
        listed = await self._approvals.list(tenant, self._subject(tenant, user), limit=MOST_APPROVALS)
        return sorted((one.value for _, one in listed), key=lambda one: -one.last)

    async def withdraw(self, tenant: ids.TenantId, user: str, client: str, *, actor: str, why: str) -> int:
        """A person takes back what they let a client do; returns how many logins ended. Again is fine."""
        await self._approvals.delete(tenant, (self._subject(tenant, user), self._client(tenant, client)))
        ended = [one for one in await self.of(tenant, user) if one.client == client]
        for one in ended:
            await self.revoke(one, actor=actor, why=why)
        return len(ended)

    async def in_use(self, tenant: ids.TenantId) -> set[str]:
        """The ids of the clients that anybody lets do something: all with an approval or a grant. Reads all of them."""
        used = {one.client async for one in _all(self._approvals, tenant)}
        return used | {one.client async for one in _all(self._grants, tenant)}

    # --- grants ---

    def new(self, tenant: ids.TenantId, *, kind: str, subject: str, client: str, server: str, how: str) -> Grant:
        """A grant that nobody has yet; `add` makes it one."""
        now = self._clock.now()
        return Grant(
            id=f"grant-{opaque.new_id()}",
            tenant=tenant,
            kind=kind,
            subject=subject,
            client=client,
            server=server,
            scopes=(),
            how=how,
            created=now,
            ends=now + self._lives.grant_s,
        )

    async def add(self, grant: Grant) -> None:
        """Put a grant on record until it `ends`; of too many, the oldest of whichever client has most makes room.

        Raises `errors.RateLimited` where a client that acts for itself has too many: none of its own ends early.
        """
        if grant.kind == USER:
            known = sorted(await self.of(grant.tenant, grant.subject), key=lambda one: one.created)
            while len(known) >= MOST:
                # Of the client that has most: one that logs in without end must not end what others hold.
                [(most, _)] = collections.Counter(one.client for one in known).most_common(1)
                oldest = next(one for one in known if one.client == most)
                known.remove(oldest)
                await self.revoke(oldest, actor="platform", why="room")
        elif len(await self._grants.list(grant.tenant, self._subject(grant.tenant, grant.subject), limit=MOST_OWN)) >= (
            MOST_OWN
        ):
            raise errors.RateLimited(
                "This client has as many tokens as it may have at once. Keep a token until it ends.", retry_after=60.0
            )
        await self._grants.put(
            grant.tenant, self._key(grant.tenant, grant.subject, grant.id), grant,
            expect=0, ttl=grant.ends - self._clock.now(),
        )  # fmt: skip

    async def get(self, tenant: ids.TenantId, subject: str, id: str) -> records.Versioned[Grant] | None:
        """A grant that stands, or None."""
        return await self._grants.get(tenant, *self._key(tenant, subject, id))

    def peek(self, tenant: ids.TenantId, place: tuple[str, str]) -> int | None:
        """The revision of the grant at `place`, if memory knows that it stands. Never waits."""
        found = self._grants.peek(tenant, *place)
        return found.revision if isinstance(found, records.Versioned) else None

    def place(self, grant: Grant) -> tuple[str, str]:
        """Where a grant is on record: for `peek`."""
        return self._key(grant.tenant, grant.subject, grant.id)

    async def of(self, tenant: ids.TenantId, subject: str) -> list[Grant]:
        """All grants of a person, or of a client that acts for itself."""
        listed = await self._grants.list(tenant, self._subject(tenant, subject), limit=_PAGE)
        return [one.value for _, one in listed]

    async def revoke(self, grant: Grant, *, actor: str, why: str) -> None:
        """End a grant: its tokens are refused from the next request on. Again is fine."""
        place = self.place(grant)
        if await self._grants.get(grant.tenant, *place) is None:
            return
        await self._grants.delete(grant.tenant, place)
        for tell in self.when_ended:
            await tell(grant)
        self._trail.note(
            events.GrantRevoked(tenant=grant.tenant, actor=actor, grant=grant.id, client=grant.client, why=why)
        )

    def _key(self, tenant: ids.TenantId, subject: str, id: str) -> tuple[str, str]:
        return (self._subject(tenant, subject), id)

    def _subject(self, tenant: ids.TenantId, subject: str) -> str:
        return self._store.tenant(tenant).private("oauth.subject", subject)

    def _client(self, tenant: ids.TenantId, client: str) -> str:
        return self._store.tenant(tenant).private("oauth.client", client)


async def _all(kept: records.Records[_T], tenant: ids.TenantId) -> AsyncIterator[_T]:
    """All documents of two names, those of one first name after the other."""
    after: tuple[str, ...] | None = None
    while page := await kept.list(tenant, after=after, limit=_PAGE):
        for _, one in page:
            yield one.value
        after = page[-1][0]
