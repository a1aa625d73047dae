"""How many large answers of one tenant are in memory at once.

A list, a bulk get, a value that is turned into JSON: each has megabytes in memory, from when it is made until its last
byte is sent. So a place is kept until then, by whichever of the tenant's bindings or requests it is. One tenant's
readers that do not read can take its own places only, and each place only for a while.
"""

import asyncio
import weakref
from typing import Final

from smcp.kernel import errors, ids

AT_ONCE: Final = 4
"""Places of one tenant."""
OF_ONE: Final = 2
"""Places that one of its bindings may take: no binding alone keeps the others out."""
HOLD_S: Final = 30.0
"""Seconds for which a place may be kept: what is not sent by then breaks off."""
WAIT_S: Final = 75.0
"""Seconds to wait for a place: longer than two holders one after the other keep theirs."""
SMALL: Final = 65_536
"""Bytes up to which an answer needs no place while it is sent: a connection's own buffers are not smaller."""


class Heavy:
    """Every tenant's places."""

    def __init__(self, *, hold_s: float = HOLD_S, wait_s: float = WAIT_S) -> None:
        self.hold_s = hold_s
        self.wait_s = wait_s
        self._tenants: weakref.WeakValueDictionary[ids.TenantId, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._shared: weakref.WeakValueDictionary[tuple[ids.TenantId, str], Share] = weakref.WeakValueDictionary()

    def share(self, tenant: ids.TenantId) -> "Share":
        """For one binding of the tenant."""
        return Share(self._tenants.setdefault(tenant, asyncio.Semaphore(AT_ONCE)), self.hold_s, self.wait_s)

    def common(self, tenant: ids.TenantId, name: str) -> "Share":
        """The one that everybody who says this name has, while anybody has it."""
        found = self._shared.get((tenant, name))
        if found is None:
            found = self._shared[tenant, name] = self.share(tenant)
        return found


class Share:
    """The places that one of a tenant's bindings may take."""

    def __init__(self, tenants: asyncio.Semaphore, hold_s: float, wait_s: float) -> None:
        """Use `Heavy.share`."""
        self._tenants = tenants
        self._own = asyncio.Semaphore(OF_ONE)
        self.hold_s = hold_s
        self._wait_s = wait_s

    async def take(self) -> "Place":
        """A place. Raises `errors.RateLimited` when none gets free in time."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._own.acquire()
                try:
                    await self._tenants.acquire()
                except BaseException:
                    self._own.release()
                    raise
        except TimeoutError:
            raise errors.RateLimited("Too many large answers are being sent. Read them, or wait and retry.") from None
        return Place(self._own, self._tenants)


class Place:
    """One of them, until it is released."""

    __slots__ = ("_of",)

    def __init__(self, *of: asyncio.Semaphore) -> None:
        """Use `Share.take`."""
        self._of = of

    def release(self) -> None:
        """Somebody else's turn. May be called again."""
        of, self._of = self._of, ()
        for one in of:
            one.release()
