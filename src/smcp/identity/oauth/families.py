"""Refresh tokens (RFC 6749, 6): one family for each grant, a new token with each use, and a memory for the old ones.

A token says its family and generation; its secret follows from both under a key of the tenant's ring. So a record of a
few numbers knows every token that its family ever had, and whoever shows an old one is told apart from whoever guesses.

Clients race themselves: several windows of one editor refresh with one token at once, and only one answer is kept in
the end. A token that was used less than `Lifetimes.grace_s` ago is therefore still good: it gets the family's current
token, the same one that the race was won with, so whichever answer is kept goes on. Used later, it is a copy, and its
family and everything that was issued under its grant ends (RFC 9700, 4.14.2; OAuth 2.1, 4.3.1).
"""

import enum
from typing import Final, NamedTuple

import msgspec

from smcp.identity.oauth import codes, grants, lifetimes, opaque
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

_REMEMBERED: Final = 64
"""Rotations within the grace. A client that asks more often gets the current token again instead of another one."""


class _Past(msgspec.Struct, frozen=True, array_like=True):
    generation: int
    at: float


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a grant's refresh tokens."""

    subject: str
    grant: str
    client: str
    generation: int = 1
    recent: tuple[_Past, ...] = ()
    """Generations that were used within the grace, and when."""
    used: float = 0.0
    """When the current token was made."""


class Use(enum.Enum):
    """What a token of the family is."""

    CURRENT = "current"
    GRACE = "grace"
    REUSED = "reused"


class Found(NamedTuple):
    """A token that is one, and its family."""

    id: str
    family: Family
    revision: int
    use: Use


class Families:
    """Refresh tokens of any tenant."""

    def __init__(self, store: stores.Store, time: clock.Clock, lives: lifetimes.Lifetimes) -> None:
        self._store = store
        self._clock = time
        self._lives = lives
        self._families = records.Records(store, Family, ("oauth-family",))

    async def begin(self, grant: grants.Grant) -> str:
        """The first refresh token of a grant."""
        id = grant.id.removeprefix("grant-")
        family = Family(subject=grant.subject, grant=grant.id, client=grant.client, used=self._clock.now())
        await self._families.put(grant.tenant, (id,), family, expect=0, ttl=self._ttl(grant))
        return self._text(grant.tenant, id, 1)

    async def find(self, tenant: ids.TenantId, text: str) -> Found:
        """The family of a token that is, or was, one of its own.

        Raises `refusals.Refused` (`invalid_grant`) for what never was a token, or whose family is over.
        """
        parsed = opaque.parse(opaque.REFRESH, text)
        if parsed is None or parsed.tenant != tenant:
            raise codes.refused("malformed")
        found = await self._families.get(tenant, parsed.id)
        right = crypto.equal(parsed.secret, self._secret(tenant, parsed.id, parsed.number))
        if found is None or not right or not 0 < parsed.number <= found.value.generation:
            raise codes.refused("unknown")
        return Found(parsed.id, found.value, found.revision, self._use(found.value, parsed.number))

    async def next(self, grant: grants.Grant, found: Found) -> str | None:
        """The token that comes after a current one, or stands in for one in grace; None: look again (`find`)."""
        family, now = found.family, self._clock.now()
        recent = tuple(one for one in family.recent if now - one.at <= self._lives.grace_s)
        if found.use is Use.GRACE or len(recent) >= _REMEMBERED:
            return self._text(grant.tenant, found.id, family.generation)
        turned = msgspec.structs.replace(
            family, generation=family.generation + 1, recent=(*recent, _Past(family.generation, now)), used=now
        )
        try:
            await self._families.put(grant.tenant, (found.id,), turned, expect=found.revision, ttl=self._ttl(grant))
        except errors.Conflict:
            return None
        return self._text(grant.tenant, found.id, turned.generation)

    async def end(self, grant: grants.Grant) -> None:
        """No token of the grant works any more. Again is fine."""
        await self._families.delete(grant.tenant, (grant.id.removeprefix("grant-"),))

    async def last_used(self, grant: grants.Grant) -> float | None:
        """When the grant's refresh token was last used, or made (epoch seconds); None where it has none."""
        found = await self._families.get(grant.tenant, grant.id.removeprefix("grant-"))
        return None if found is None else found.value.used

    def _use(self, family: Family, generation: int) -> Use:
        if generation == family.generation:
            return Use.CURRENT
        now = self._clock.now()
        graced = any(one.generation == generation and now - one.at <= self._lives.grace_s for one in family.recent)
        return Use.GRACE if graced else Use.REUSED

    def _ttl(self, grant: grants.Grant) -> float:
        return max(1.0, min(self._lives.refresh_s, grant.ends - self._clock.now()))

    def _text(self, tenant: ids.TenantId, id: str, generation: int) -> str:
        return opaque.compose(opaque.REFRESH, tenant, id, self._secret(tenant, id, generation), generation)

    def _secret(self, tenant: ids.TenantId, id: str, generation: int) -> str:
        key = self._store.ring.data_key(tenant, "identity.oauth refresh")
        return opaque.derived_secret(key, tenant, id, str(generation))
