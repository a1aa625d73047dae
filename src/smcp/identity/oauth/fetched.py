"""What is fetched because a client names its address: its metadata document, or its key set (`jwks_uri`).

Anybody can name one, so there is one reading of such an address, for both, and room for so many fetches at once and no
more. The fetching itself is the guarded client's (handed in: see `app.documents`): no redirects, no private network,
small, quick.
"""

import asyncio
import functools
import re
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec

from smcp.kernel import errors, ids
from smcp.upstream import places

T = TypeVar("T")

LONGEST: Final = 512
"""Characters of an address."""
MAX_BYTES: Final = 16_384
"""Of what stands there. The draft on metadata documents thinks of 5 KB."""
REFUSED_S: Final = 60.0
"""For how long it is remembered that there was nothing (seconds)."""
_AT_ONCE: Final = 32
"""Fetches under way."""
_OF_STRANGERS: Final = 24
"""Of those, so many for clients that nobody has consented to."""
_OF_TENANT: Final = 4
"""And so many of a tenant, where it is for such a client."""
_OF_KNOWN: Final = 12
"""And so many of a tenant, where it is for one that is known."""
_URL: Final = re.compile(r"https://[a-z0-9.-]+(?::[1-9][0-9]{0,4})?/[!-~]+")


class Document(msgspec.Struct, frozen=True):
    """What stood at an address, and for how long its server lets it be kept (seconds)."""

    body: bytes
    kept_s: float

    def within(self, bounds: tuple[float, float]) -> float:
        """For how long it is kept, by whoever keeps nothing for less or more than `bounds`."""
        least, most = bounds
        return min(max(self.kept_s, least), most)


def plain(url: str) -> bool:
    """May `url` be fetched? It is https, in the one spelling that is dialled and compared, and has a path; no user, no
    query (what a stranger names is read, and nothing is asked of it), no fragment, no `.` or `..`."""
    if len(url) > LONGEST or not _URL.fullmatch(url) or any(one in url for one in "?#@\\"):
        return False
    if any(urllib.parse.unquote(part) in (".", "..") for part in url[8:].split("/")[1:]):
        return False
    try:
        return str(places.parse(url, LONGEST)) == url
    except errors.InvalidParams:
        return False


def origin(url: str) -> str:
    """Scheme, host and port of a `plain` address (RFC 6454, 4)."""
    return "/".join(url.split("/", 3)[:3])


class Fetches:
    """What is being fetched for clients: many who ask for the same at once wait for one answer."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[ids.TenantId, str, str], asyncio.Task[Any]] = {}

    async def once(
        self, tenant: ids.TenantId, what: str, url: str, fetch: Callable[[], Coroutine[Any, Any, T]], *, known: bool
    ) -> T:
        """What `fetch` returns or raises, or what another call of it for the same does that is under way.

        Room is kept for other tenants, and for clients that are `known`. Raises `errors.RateLimited` where there is
        none.
        """
        key = (tenant, what, url)
        task = self._under_way.get(key)
        if task is None:
            own = sum(one[0] == tenant for one in self._under_way)
            every, of_tenant = (_AT_ONCE, _OF_KNOWN) if known else (_OF_STRANGERS, _OF_TENANT)
            if len(self._under_way) >= every or own >= of_tenant:
                raise errors.RateLimited("Too many documents are being read right now. Retry shortly.")
            task = self._under_way[key] = asyncio.create_task(fetch())
            task.add_done_callback(functools.partial(self._done, key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Nobody waits any more."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _done(self, key: tuple[ids.TenantId, str, str], task: asyncio.Task[Any]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, because nobody may be waiting any more
