"""How often strangers may try one thing at a tenant: so often per address, and so often over all of them.

For what is offered without a credential: registering, signing in, having documents read. The last quarter of what a
tenant has is for addresses that have had nothing of it in this window: else a few of them, each within its own rate,
would take all of it, and keep out everybody who comes once.
"""

import math
from typing import Final

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.tenancy import addresses, windows

MAX_ADDRESSES: Final = 4096
"""Addresses that are told apart, over all tenants."""
MAX_TENANTS: Final = 4096
MAX_NAMES: Final = 16_384
"""Names that are told apart, over all tenants."""
KEPT: Final = 4
"""One part in so many of a tenant's window is kept for addresses that have had nothing of it."""
_SLOT_NS: Final = windows.MINUTE_NS // windows.SLOTS


class Attempts:
    """The windows of one thing that can be tried. For one thread."""

    def __init__(self, clock: clocks.Clock, what: str, *, address_per_minute: int, tenant_per_minute: int) -> None:
        """`what` is tried, in words that go on "Too many …"."""
        self._clock = clock
        self._what = what
        self._addresses = addresses.Addresses(address_per_minute, MAX_ADDRESSES)
        self._tenants = addresses.Addresses(tenant_per_minute, MAX_TENANTS)

    def take(self, tenant: ids.TenantId, address: str) -> None:
        """Count one from `address` at `tenant`. Raises `errors.RateLimited`; then it is not counted."""
        now_ns = int(self._clock.monotonic() * 1e9)
        slot = now_ns // _SLOT_NS
        own = self._addresses.window(f"{tenant} {addresses.network(address)}", slot)
        every = self._tenants.window(tenant, slot)
        full = own.full(slot)  # first: it forgets what has left the window
        kept = every.limit // KEPT if own.used else 0
        if full or every.full(slot) or every.used >= every.limit - kept:
            room = max(own.room(), every.room(kept))
            raise errors.RateLimited(
                f"Too many {self._what}. Wait and retry.",
                retry_after=float(math.ceil((room * _SLOT_NS - now_ns) / 1e9)),
                detail="attempts",
            )
        own.add(slot)
        every.add(slot)

    def __len__(self) -> int:
        """Windows in memory: at most `MAX_ADDRESSES` and `MAX_TENANTS`, and a shared one of each."""
        return len(self._addresses) + len(self._tenants)


class Shares:
    """The windows of what somebody known may have of one thing, by tenant and names. For one thread."""

    def __init__(self, clock: clocks.Clock, what: str, *, per_minute: int) -> None:
        """`what` is had, in words that go on "Too many …"."""
        self._clock = clock
        self._what = what
        self._names = addresses.Addresses(per_minute, MAX_NAMES)

    def take(self, tenant: ids.TenantId, *names: str) -> None:
        """Count one. Raises `errors.RateLimited`; then it is not counted."""
        now_ns = int(self._clock.monotonic() * 1e9)
        slot = now_ns // _SLOT_NS
        window = self._names.window(" ".join((tenant, *names)), slot)
        if window.full(slot):
            wait = (window.room() * _SLOT_NS - now_ns) / 1e9
            raise errors.RateLimited(
                f"Too many {self._what}. Wait and retry.", retry_after=float(math.ceil(wait)), detail="share"
            )
        window.add(slot)
