"""What one caller may take from the others: rates and concurrency, on this node, from memory.

A rate is a token bucket that holds one minute's worth and refills evenly, kept as its *theoretical arrival time*
(the generic cell rate algorithm): one number a bucket. Time is scaled to integers in which a request costs a whole
number, so there is no rounding to drift: over any time t at most `per_minute × (1 + t/60 s)` requests pass, exactly.

Tenant and principal buckets are taken together or not at all. A table forgets a bucket as soon as it is full again,
which changes no answer. Addresses are chosen by the caller, so their table is bounded: when it is full of active
addresses, new ones share a single bucket rather than memory.
"""

import collections
import ipaddress
import math
from collections.abc import Hashable
from types import TracebackType
from typing import Final

from smcp.access import policy
from smcp.kernel import clock, errors, settings

MAX_ADDRESSES: Final = 65_536
"""Addresses (IPv6: /64 networks) that are told apart at once."""

_COST: Final = 60_000_000_000
"""What one request costs, in units of 1 ns ÷ per_minute: a minute's nanoseconds."""


class Buckets:
    """Token buckets of one rate, by key. For one thread.

    The table is in the order of last taking, and a bucket is full one minute after that at the latest: so the idle ones
    gather at the front, where each new key removes up to two of them. Between bursts the table shrinks by itself.
    """

    __slots__ = ("_capacity", "_per_minute", "_table")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._capacity = per_minute * _COST
        self._table: collections.OrderedDict[Hashable, int] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._table

    def wait(self, key: Hashable, now_ns: int) -> float:
        """Seconds until `key` has a token: 0.0 when it has one now. Takes nothing."""
        arrival = self._table.get(key)
        if arrival is None:
            return 0.0
        missing = arrival + _COST - self._capacity - now_ns * self._per_minute
        return missing / (self._per_minute * 1e9) if missing > 0 else 0.0

    def take(self, key: Hashable, now_ns: int) -> None:
        """Take the token that `wait` has just found."""
        now = now_ns * self._per_minute
        arrival = self._table.get(key)
        if arrival is None:
            self.forget_idle(now_ns)
            self._table[key] = now + _COST
            return
        self._table[key] = (arrival if arrival > now else now) + _COST
        self._table.move_to_end(key)

    def forget_idle(self, now_ns: int, most: int = 2) -> None:
        """Drop up to `most` buckets that are full again: a bucket that is not in the table is full."""
        now = now_ns * self._per_minute
        table = self._table
        for _ in range(most):
            if not table:
                return
            first = next(iter(table))
            if table[first] > now:
                return
            del table[first]


class Lease:
    """One request in flight. Given back by `release`, or by leaving its `with` block; giving back twice is harmless."""

    __slots__ = ("_counts", "_keys")

    def __init__(self, counts: dict[Hashable, int], keys: tuple[Hashable, ...]) -> None:
        self._counts = counts
        self._keys = keys
        for key in keys:
            counts[key] = counts.get(key, 0) + 1

    def release(self) -> None:
        """Give the place back. Idempotent."""
        keys, self._keys = self._keys, ()
        counts = self._counts
        for key in keys:
            left = counts[key] - 1
            if left:
                counts[key] = left
            else:
                del counts[key]

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Limiter:
    """The platform's limits on this node: a tenant's, a principal's, an address's."""

    def __init__(self, limits: settings.Limits, clock: clock.Clock, *, max_addresses: int = MAX_ADDRESSES) -> None:
        self._limits = limits
        self._clock = clock
        self._max_addresses = max_addresses
        self._tenants = Buckets(limits.tenant_per_minute)
        self._principals = Buckets(limits.principal_per_minute)
        self._addresses = Buckets(limits.unauthenticated_per_minute)
        self._in_flight: dict[Hashable, int] = {}

    def rate(self, principal: policy.Principal) -> None:
        """Take a token of the principal's tenant and one of its own, or neither.

        Raises `errors.RateLimited`, whose `Retry-After` is enough unless others of the tenant come first.
        """
        now_ns = self._now_ns()
        tenant, who = principal.tenant, (principal.tenant, principal.id)
        by_tenant, by_principal = self._tenants.wait(tenant, now_ns), self._principals.wait(who, now_ns)
        if by_tenant or by_principal:
            whose = "tenant" if by_tenant >= by_principal else "principal"
            raise _limited(
                f"The {whose}'s request rate is used up. Wait and retry.", max(by_tenant, by_principal), f"rate:{whose}"
            )
        self._tenants.take(tenant, now_ns)
        self._principals.take(who, now_ns)

    def unauthenticated(self, address: str) -> None:
        """Count one request without a valid credential from `address`. Raises `errors.RateLimited`.

        Called when authentication failed, so that a caller with a valid key never pays for a neighbour behind the same
        address.
        """
        now_ns = self._now_ns()
        key: Hashable = _network(address)
        if key not in self._addresses:
            self._addresses.forget_idle(now_ns)
            if len(self._addresses) >= self._max_addresses:
                key = None
        wait = self._addresses.wait(key, now_ns)
        if wait:
            raise _limited("Too many requests without a valid credential from this address.", wait, "rate:address")
        self._addresses.take(key, now_ns)

    def admit(self, principal: policy.Principal) -> Lease:
        """A place among the requests in flight of the tenant and of the principal. Raises `errors.RateLimited`."""
        in_flight = self._in_flight
        tenant, who = principal.tenant, (principal.tenant, principal.id)
        if in_flight.get(tenant, 0) >= self._limits.tenant_concurrency:
            raise _limited("Too many requests of this tenant are in flight.", 1.0, "concurrency:tenant")
        if in_flight.get(who, 0) >= self._limits.principal_concurrency:
            raise _limited("Too many of your requests are in flight.", 1.0, "concurrency:principal")
        return Lease(in_flight, (tenant, who))

    @property
    def principals(self) -> int:
        """How many principals' buckets are remembered."""
        return len(self._principals)

    @property
    def addresses(self) -> int:
        """How many addresses' buckets are remembered; the shared one counts too."""
        return len(self._addresses)

    @property
    def in_flight(self) -> int:
        """Requests in flight, over all tenants. Every place is held for the tenant and for the principal."""
        return sum(self._in_flight.values()) // 2

    def _now_ns(self) -> int:
        return int(self._clock.monotonic() * 1e9)


def _limited(public: str, wait: float, detail: str) -> errors.RateLimited:
    # Rounded up here: the header has whole seconds, and one that is too early would be a lie.
    return errors.RateLimited(public, retry_after=float(math.ceil(wait)), detail=detail)


def _network(address: str) -> str:
    """What counts as one address: IPv4 as it is, IPv6 by its /64 (one subscriber's usual network, RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address[:64])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return f"{int(parsed) >> 64:x}/64"
        parsed = parsed.ipv4_mapped
    return str(parsed)
