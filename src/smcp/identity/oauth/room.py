"""How many clients a tenant may have on record, and which one gives way.

Anybody may register a client, and any member may let one act for them, so those records must be bounded without those
who never come back being able to take the room of those who do. What gives way when the room is needed:

| client | when |
|---|---|
| *loose*: it registered itself and nobody consented to it, revoked or not | after its first hour, the oldest first |
| revoked | after `STALE_S`, the oldest first; not one with a document, which would be unrevoked by that |
| registered or with a document, and nobody's approval or grant is left | `STALE_S` after the last consent |
| of an administrator, and `smcp login` | never, unless it was revoked |

The edge takes fewer registrations in an hour than there is room for loose clients. The last tenth of the places is for
administrators (`KEPT`).
"""

import asyncio
import collections
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from typing import Final, NamedTuple

from smcp.identity.oauth import client_model, refusals
from smcp.kernel import clock as clocks
from smcp.kernel import ids

MOST: Final = 5_000
"""Clients of a tenant that are on record, revoked ones too; without revoked ones that have a document."""
KEPT: Final = 10
"""One place in so many is for administrators' clients alone."""
MOST_LOOSE: Final = 2_000
"""Registered clients of a tenant that nobody has consented to. `web.register` takes 20 a minute, so 1,200 in
`LOOSE_S`."""
LOOSE_S: Final = 3600.0
"""For so long (seconds) a loose client does not give way."""
STALE_S: Final = 3 * 86_400.0
"""For so long (seconds) a client stays that was revoked, or that nobody lets do anything any more."""
LOOK_S: Final = 600.0
"""All approvals of a tenant are looked at no more often than that (seconds)."""
_DOCUMENTED: Final = frozenset({client_model.Kind.METADATA, client_model.Kind.BUILT_IN})
"""Whose id comes back by itself: their revocation has to stay on record."""
_TENANTS: Final = 128
"""Tenants whose numbers are remembered; those of others are counted anew."""


class Found(NamedTuple):
    """What is on record of a tenant: how many, and the loose ones with when they were made, oldest first."""

    every: int
    loose: dict[str, float]


def found(clients: Iterable[client_model.Client]) -> Found:
    """What of a tenant's clients counts."""
    every = [one for one in clients if not (one.kind in _DOCUMENTED and one.revoked is not None)]
    every = [one for one in every if one.kind is not client_model.Kind.BUILT_IN]
    loose = sorted((one for one in every if one.strange), key=lambda one: one.created)
    return Found(len(every), {client_model.ref(one.id): one.created for one in loose})


def gives_way(client: client_model.Client, now: float) -> bool:
    """May it be removed for another, unless somebody lets it do something?"""
    if client.strange:
        return now - client.created >= LOOSE_S
    if client.revoked is not None:
        return client.kind not in _DOCUMENTED and now - client.revoked >= STALE_S
    passing = client.kind in (client_model.Kind.DYNAMIC, client_model.Kind.METADATA)
    return passing and now - _last(client) >= STALE_S


def stale(clients: Iterable[client_model.Client], in_use: Collection[str] | None, now: float) -> collections.deque[str]:
    """Those that are not loose and give way, by `ref`, the oldest first. `in_use`: None where nobody knows."""
    every = [one for one in clients if not one.strange and gives_way(one, now)]
    every = [one for one in every if one.revoked is not None or (in_use is not None and one.id not in in_use)]
    return collections.deque(client_model.ref(one.id) for one in sorted(every, key=_last))


def _last(client: client_model.Client) -> float:
    return client.revoked if client.revoked is not None else max(client.used, client.adopted or client.created)


def full() -> refusals.Refused:
    """There is no room for another client."""
    return refusals.Refused(
        refusals.TEMPORARILY_UNAVAILABLE,
        "This tenant has as many clients as it may have. Its administrator can revoke some, or retry later.",
        detail="full",
        status=429,
        headers=(("Retry-After", "600"),),
    )


class Shelf:
    """What is known of one tenant's clients."""

    __slots__ = ("count", "known", "lock", "looked", "loose", "stale")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.known = False
        self.count = 0
        self.loose: dict[str, float] = {}
        self.stale: collections.deque[str] = collections.deque()
        """Clients that nobody used when it was looked, the oldest first; each is looked at again before it goes."""
        self.looked = float("-inf")
        """When that was (monotonic seconds)."""

    def added(self, key: str, loose_since: float | None = None) -> None:
        """A client was put on record."""
        self.count += 1
        if loose_since is not None:
            self.loose[key] = loose_since


class Rooms:
    """Every tenant's room."""

    def __init__(
        self,
        clock: clocks.Clock,
        count: Callable[[ids.TenantId], Awaitable[Found]],
        find_stale: Callable[[ids.TenantId], Awaitable[collections.deque[str]]],
        drop: Callable[[ids.TenantId, str], Awaitable[bool]],
        *,
        most: int = MOST,
        most_loose: int = MOST_LOOSE,
    ) -> None:
        """`count` looks at the records, `find_stale` for those that nobody uses (`stale`); `drop` removes one if it
        gives way still, and says whether."""
        self._clock = clock
        self._count = count
        self._find_stale = find_stale
        self._drop = drop
        self._most = most
        self._most_loose = most_loose
        self._kept = most // KEPT
        self._shelves: collections.OrderedDict[ids.TenantId, Shelf] = collections.OrderedDict()

    @contextlib.asynccontextmanager
    async def one_more(self, tenant: ids.TenantId, *, loose: bool = False, own: bool = False) -> AsyncGenerator[Shelf]:
        """While a client is made: one at a time in a tenant. Raises `refusals.Refused` when there is no room.

        `own`: an administrator makes it.
        """
        shelf = self._shelf(tenant)
        async with shelf.lock:
            if not shelf.known:
                shelf.count, shelf.loose = await self._count(tenant)
                shelf.known = True
            if not await self._fits(tenant, shelf, loose=loose, own=own):
                await self._oldest(tenant, shelf)
            yield shelf

    def stays(self, tenant: ids.TenantId, key: str) -> None:
        """The client is loose no more."""
        if (shelf := self._shelves.get(tenant)) is not None:
            shelf.loose.pop(key, None)

    def forget(self, tenant: ids.TenantId) -> None:
        """Count anew: a client went."""
        if (shelf := self._shelves.get(tenant)) is not None:
            shelf.known = False

    async def _fits(self, tenant: ids.TenantId, shelf: Shelf, *, loose: bool, own: bool) -> bool:
        if loose and len(shelf.loose) >= self._most_loose:
            return False
        return shelf.count < self._most - (0 if own else self._kept) or await self._unused(tenant, shelf)

    async def _unused(self, tenant: ids.TenantId, shelf: Shelf) -> bool:
        """Make room by a client that nobody uses any more; False where there is none."""
        now = self._clock.monotonic()
        if not shelf.stale and now - shelf.looked >= LOOK_S:
            shelf.stale = await self._find_stale(tenant)
            shelf.looked = now
        while shelf.stale:
            if await self._drop(tenant, shelf.stale.popleft()):
                shelf.count -= 1
                return True
        return False

    async def _oldest(self, tenant: ids.TenantId, shelf: Shelf) -> None:
        """Make room by the oldest loose client."""
        oldest = next(iter(shelf.loose), None)
        if oldest is None or self._clock.now() - shelf.loose[oldest] < LOOSE_S:
            raise full()
        del shelf.loose[oldest]
        if await self._drop(tenant, oldest):
            shelf.count -= 1

    def _shelf(self, tenant: ids.TenantId) -> Shelf:
        found = self._shelves.get(tenant)
        if found is None:
            idle = [name for name, one in self._shelves.items() if not one.lock.locked()]
            for name in idle[: max(0, len(self._shelves) + 1 - _TENANTS)]:
                del self._shelves[name]
            found = self._shelves[tenant] = Shelf()
        self._shelves.move_to_end(tenant)
        return found
