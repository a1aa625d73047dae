"""How many applications one person makes lasting in a day.

A client is the tenant's own from the first consent on, and each takes some of the tenant's room (`room`). So a person
makes only so many lasting, on record: whoever waits for a restart gets no more.
"""

from typing import Final

import msgspec

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

MOST: Final = 50
"""In `DAY_S`, of one person. Some editors register anew for each server."""
DAY_S: Final = 86_400.0
_ATTEMPTS: Final = 100


class _Times(msgspec.Struct, frozen=True):
    """When one person did so in the last day (epoch seconds), oldest first."""

    at: tuple[float, ...]


class Adoptions:
    """Counts, for every tenant."""

    def __init__(self, store: stores.Store, clock: clocks.Clock) -> None:
        self._store = store
        self._clock = clock
        self._times = records.Records(store, _Times, ("oauth-adoptions",), cached=1024)

    async def count(self, tenant: ids.TenantId, person: str) -> None:
        """Count one more. Raises `errors.RateLimited`; then it is not counted."""
        place = self._store.tenant(tenant).private("oauth.adoptions", person)
        for _ in range(_ATTEMPTS):
            now = self._clock.now()
            found = await self._times.get(tenant, place)
            at = tuple(one for one in (found.value.at if found else ()) if now - one < DAY_S)
            if len(at) >= MOST:
                raise errors.RateLimited(
                    f"You have let {MOST} new applications act for you within a day, which is as many as is possible. "
                    "Those that you had allowed before go on. Try this one again tomorrow.",
                    retry_after=at[0] + DAY_S - now,
                    detail="adoptions",
                )
            try:
                revision = 0 if found is None else found.revision
                await self._times.put(tenant, (place,), _Times((*at, now)), expect=revision, ttl=DAY_S)
            except errors.Conflict:
                continue
            return
        raise errors.Conflict
