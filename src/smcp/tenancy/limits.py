"""What one caller may take from the others: rates and concurrency, on this node, from memory.

A rate is a sliding window (`tenancy.windows`): in any minute at most the limit passes. A request takes from its
tenant's, its principal's and its session's window together or from none: everything here is synchronous and belongs to
one thread, so nothing comes between looking and taking. The numbers are the tenant's plan's, read from memory, and
follow a change from the next request on.

Addresses are chosen by the caller, so their table is bounded: when it is full of active addresses, new ones share a
single window rather than memory. So are sessions, which the caller names before anybody has looked for them.
"""

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from smcp.access import policy
from smcp.kernel import clock, errors, ids, settings
from smcp.tenancy import addresses, plans, windows

MAX_ADDRESSES: Final = 16_384
"""Addresses (IPv6: /64 networks) that are told apart at once."""
MAX_SESSIONS: Final = 256
"""Names of sessions that are told apart for one principal, or twice the sessions that it may have. Who opens and ends
short sessions at the default rate stays below it."""
TOLD_PER_MINUTE: Final = 600
"""Refusals of unknown callers that are told in the trail in any minute, over all addresses; all of them are counted."""

_LONGEST_SESSION: Final = 128
_SLOT_NS: Final = windows.MINUTE_NS // windows.SLOTS
_BACK: Final = windows.SLOTS + 1
_FINE_NS: Final = windows.SECOND_NS // windows.SLOTS

Fields = tuple[tuple[bytes, bytes], ...]


class Standing:
    """What is left of a caller's rates: the windows that one kind of request takes from. Shared between requests."""

    __slots__ = ("_limiter", "principal", "session", "tenant")

    def __init__(
        self, limiter: "Limiter", tenant: "_Tenant", principal: windows.Window, session: windows.Window | None
    ) -> None:
        self._limiter = limiter
        self.tenant = tenant
        self.principal = principal
        self.session = session

    def lines(self) -> bytes:
        """`RateLimit-Policy` and `RateLimit` as of now (draft-ietf-httpapi-ratelimit-headers-10, 3 and 4), as lines.

        `r` is what is left, `t` the seconds until something of what is used comes back.
        """
        now = int(self._limiter.monotonic() * 1e9)
        tenant, principal, session = self.tenant, self.principal, self.session
        if session is None:
            return b'ratelimit-policy: %b\r\nratelimit: "tenant";r=%d;t=%d, "principal";r=%d;t=%d\r\n' % (
                tenant.policy,
                *_left(tenant.window, now),
                *_left(principal, now),
            )
        return _WITH_SESSION % (
            tenant.policy_session,
            *_left(tenant.window, now),
            *_left(principal, now),
            *_left(session, now),
        )

    def fields(self) -> Fields:
        """The same, as names and values."""
        lines = self.lines().split(b"\r\n")[:-1]
        return tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))


_WITH_SESSION: Final = (
    b'ratelimit-policy: %b\r\nratelimit: "tenant";r=%d;t=%d, "principal";r=%d;t=%d, "session";r=%d;t=%d\r\n'
)


def _left(window: windows.Window, now_ns: int) -> tuple[int, int]:
    slot = now_ns // _SLOT_NS
    if slot > window.expires:
        window.expire(slot)
    left, entries = window.limit - window.used, window.entries
    if not entries:
        return (left if left > 0 else 0), 0
    # Until the first of what is counted comes back (`Window.back`), rounded up.
    return (left if left > 0 else 0), -((now_ns - (entries[0] + _BACK) * _SLOT_NS) // windows.SECOND_NS)


class _Tenant:
    """What is known of a tenant that sends requests."""

    __slots__ = ("callers", "flying", "plan", "policy", "policy_session", "version", "window")

    def __init__(self, plan: plans.Plan) -> None:
        self.window = windows.Window(0)
        self.callers: dict[str, _Caller] = {}
        self.flying = 0
        self.version = -1
        self.follow(plan)

    def follow(self, plan: plans.Plan) -> None:
        """Take the numbers of `plan`."""
        self.plan = plan
        self.window.limit = plan.tenant_per_minute
        self.policy = b'"tenant";q=%d;w=60, "principal";q=%d;w=60' % (
            plan.tenant_per_minute,
            plan.principal_per_minute,
        )
        self.policy_session = self.policy + b', "session";q=%d;w=60' % plan.session_per_minute
        for caller in self.callers.values():
            caller.principal.limit = plan.principal_per_minute
            for standing in caller.sessions.values():
                if standing.session is not None:
                    standing.session.limit = plan.session_per_minute


class _Caller(Standing):
    """A principal that sends requests."""

    __slots__ = ("flying", "sessions")

    def __init__(self, limiter: "Limiter", tenant: _Tenant) -> None:
        super().__init__(limiter, tenant, windows.Window(tenant.plan.principal_per_minute), None)
        self.flying = 0
        self.sessions: dict[str, Standing] = {}

    def named(self, session: str, slot: int) -> Standing:
        """The standing of a session that is not in the table yet."""
        plan = self.tenant.plan
        if len(self.sessions) >= max(MAX_SESSIONS, 2 * plan.principal_sessions):
            for name in [name for name, one in self.sessions.items() if addresses.idle(one.session, slot)]:
                del self.sessions[name]
        if len(session) > _LONGEST_SESSION or len(self.sessions) >= max(MAX_SESSIONS, 2 * plan.principal_sessions):
            session = ""  # one window for all that are too many
        found = self.sessions.get(session)
        if found is None:
            window = windows.Window(plan.session_per_minute)
            shared = self.sessions.get("")
            if shared is not None and shared.session is not None:
                # What this session has taken may have been counted there.
                window.begin_as(shared.session)
            found = self.sessions[session] = Standing(self._limiter, self.tenant, self.principal, window)
        return found


class Lease:
    """One request in flight. Given back by `release`, or by leaving its `with` block; giving back twice is harmless."""

    __slots__ = ("_caller", "_tenant")

    def __init__(self, tenant: _Tenant, caller: _Caller) -> None:
        self._tenant = tenant
        self._caller: _Caller | None = caller
        tenant.flying += 1
        caller.flying += 1

    def release(self) -> None:
        """Give the place back. Idempotent."""
        caller = self._caller
        if caller is not None:
            self._caller = None
            caller.flying -= 1
            self._tenant.flying -= 1

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Limiter:
    """The platform's limits on this node: its own, a tenant's, a principal's, a session's, an address's."""

    def __init__(
        self,
        limits: settings.Limits,
        known: plans.Plans,
        clock: clock.Clock,
        *,
        max_addresses: int = MAX_ADDRESSES,
    ) -> None:
        self._plans = known
        self.monotonic = clock.monotonic
        """The time that rates are measured with, in seconds."""
        self._platform = windows.Window(limits.platform_per_second)
        self._tenants: dict[str, _Tenant] = {}
        self._addresses = addresses.Addresses(limits.unauthenticated_per_minute, max_addresses)
        self._told = windows.Window(TOLD_PER_MINUTE)

    def now_ns(self) -> int:
        """The monotonic time that rates are measured with."""
        return int(self.monotonic() * 1e9)

    def platform(self) -> None:
        """Count one request of anybody. Raises `errors.RateLimited`."""
        window = self._platform
        slot = int(self.monotonic() * 1e9) // _FINE_NS
        if slot > window.expires:
            window.expire(slot)
        if window.used >= window.limit:
            raise errors.RateLimited("The platform has as many requests as it takes. Retry shortly.", detail="platform")
        window.add(slot)

    def rate(self, principal: policy.Principal, session: str = "") -> Standing:
        """Take from the tenant's, the principal's and the session's window, or from none.

        `session` is what the caller says: an `Mcp-Session-Id` that nobody has looked for yet. Raises
        `errors.RateLimited`, whose `Retry-After` is enough unless others of the tenant come first.
        """
        slot = int(self.monotonic() * 1e9) // _SLOT_NS
        tenant = self._tenants.get(principal.tenant)
        if tenant is None or tenant.version != self._plans.version:
            tenant = self._follow(principal.tenant)
        caller = tenant.callers.get(principal.id)
        if caller is None:
            caller = tenant.callers[principal.id] = _Caller(self, tenant)
        one, two, three = tenant.window, caller.principal, None
        standing: Standing = caller
        if session:
            standing = caller.sessions.get(session) or caller.named(session, slot)
            three = standing.session
            if three is not None and slot > three.expires:
                three.expire(slot)
        if slot > one.expires:
            one.expire(slot)
        if slot > two.expires:
            two.expire(slot)
        if one.used >= one.limit or two.used >= two.limit or (three is not None and three.used >= three.limit):
            raise self._refusal(standing)
        one.add(slot)
        two.add(slot)
        if three is not None:
            three.add(slot)
        return standing

    def _follow(self, tenant: ids.TenantId) -> _Tenant:
        version = self._plans.version
        plan, sure = self._plans.look(tenant)
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = _Tenant(plan)
        elif found.plan is not plan:
            found.follow(plan)
        # Asked again at the next request where memory did not vouch for the answer.
        found.version = version if sure else -1
        return found

    def _refusal(self, standing: Standing) -> errors.RateLimited:
        rooms = {"tenant": standing.tenant.window.room(), "principal": standing.principal.room()}
        if standing.session is not None:
            rooms["session"] = standing.session.room()
        whose = max(rooms, key=rooms.__getitem__)
        wait = (rooms[whose] * _SLOT_NS - self.now_ns()) / 1e9
        fields = standing.fields()
        return _limited(f"The {whose}'s request rate is used up. Wait and retry.", wait, f"rate:{whose}", fields)

    def unauthenticated(self, address: str) -> bool:
        """Count one request without a valid credential from `address`. Raises `errors.RateLimited`.

        Called when authentication failed, so that a caller with a valid key never pays for a neighbour behind the same
        address. Returns whether it is to be noted: who has many addresses must not fill the trail either.
        """
        self.guard(address)
        now_ns = self.now_ns()
        self._addresses.window(addresses.network(address), now_ns // _SLOT_NS).add(now_ns // _SLOT_NS)
        if self._told.full(now_ns // _SLOT_NS):
            return False
        self._told.add(now_ns // _SLOT_NS)
        return True

    def guard(self, address: str) -> None:
        """Raises `errors.RateLimited` when `address` has failed as often as it may; counts nothing.

        Before work for strangers that costs more than being told: looking at signatures.
        """
        now_ns = self.now_ns()
        window = self._addresses.window(addresses.network(address), now_ns // _SLOT_NS)
        if window.full(now_ns // _SLOT_NS):
            wait = (window.room() * _SLOT_NS - now_ns) / 1e9
            raise _limited("Too many requests without a valid credential from this address.", wait, "rate:address")

    def admit(self, principal: policy.Principal) -> Lease:
        """A place among the requests in flight of the tenant and of the principal. Raises `errors.RateLimited`."""
        tenant = self._tenants.get(principal.tenant)
        if tenant is None or tenant.version != self._plans.version:
            tenant = self._follow(principal.tenant)
        caller = tenant.callers.get(principal.id)
        if caller is None:
            caller = tenant.callers[principal.id] = _Caller(self, tenant)
        if tenant.flying >= tenant.plan.tenant_concurrency:
            raise _limited("Too many requests of this tenant are in flight.", 1.0, "concurrency:tenant")
        if caller.flying >= tenant.plan.principal_concurrency:
            raise _limited("Too many of your requests are in flight.", 1.0, "concurrency:principal")
        return Lease(tenant, caller)

    def plan(self, tenant: ids.TenantId) -> plans.Plan:
        """The tenant's plan, from memory."""
        found = self._tenants.get(tenant)
        if found is None or found.version != self._plans.version:
            return self._plans.of(tenant)
        return found.plan

    # --- what is used ---

    def used(self, tenant: ids.TenantId) -> dict[str, tuple[int, int]]:
        """Of each rate and concurrency of a tenant: how much is used, and in how many seconds some of it comes back.

        Of principals' and sessions', the busiest one's.
        """
        found = self._tenants.get(tenant)
        if found is None:
            return {}
        now_ns = self.now_ns()
        rates = {
            "tenant_per_minute": [found.window],
            "principal_per_minute": [caller.principal for caller in found.callers.values()],
            "session_per_minute": [
                one.session
                for caller in found.callers.values()
                for one in caller.sessions.values()
                if one.session is not None
            ],
        }
        busiest = {
            name: max(((one.used, _left(one, now_ns)[1]) for one in some), default=(0, 0))
            for name, some in rates.items()
            if [_left(one, now_ns) for one in some]
        }
        busiest["tenant_concurrency"] = (found.flying, 0)
        busiest["principal_concurrency"] = (max((one.flying for one in found.callers.values()), default=0), 0)
        return busiest

    def tenants(self) -> list[ids.TenantId]:
        """The tenants that sent requests lately."""
        return [ids.TenantId(name) for name in self._tenants]

    def forget_idle(self) -> Iterator[None]:
        """Let go of all whose windows are empty, a tenant a step: a new window is an empty one too."""
        for name in list(self._tenants):
            slot = self.now_ns() // _SLOT_NS
            tenant = self._tenants[name]
            for principal, caller in list(tenant.callers.items()):
                if addresses.idle(caller.principal, slot) and not caller.flying:
                    del tenant.callers[principal]
                    continue
                for session in [label for label, one in caller.sessions.items() if addresses.idle(one.session, slot)]:
                    del caller.sessions[session]
            if addresses.idle(tenant.window, slot) and not tenant.flying:
                del self._tenants[name]
            yield

    @property
    def principals(self) -> int:
        """How many principals are remembered."""
        return sum(len(tenant.callers) for tenant in self._tenants.values())

    @property
    def sessions(self) -> int:
        """How many sessions are remembered."""
        return sum(len(one.sessions) for tenant in self._tenants.values() for one in tenant.callers.values())

    @property
    def addresses(self) -> int:
        """How many addresses are remembered; the window that many share counts too."""
        return len(self._addresses)

    @property
    def in_flight(self) -> int:
        """Requests in flight, over all tenants."""
        return sum(tenant.flying for tenant in self._tenants.values())


def _limited(public: str, wait: float, detail: str, fields: Fields = ()) -> errors.RateLimited:
    # Rounded up here: the header has whole seconds, and one that is too early would be a lie.
    headers = tuple((_SPELT[name], value.decode("ascii")) for name, value in fields)
    return errors.RateLimited(public, retry_after=float(math.ceil(wait)), detail=detail, headers=headers)


_SPELT: Final = {b"ratelimit-policy": "RateLimit-Policy", b"ratelimit": "RateLimit"}
