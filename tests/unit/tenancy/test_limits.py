"""Rates and concurrency: exact, together or not at all, bounded."""

import asyncio
import collections
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smcp.access import policy
from smcp.kernel import clock, errors, ids, settings
from smcp.stores import local
from smcp.stores import tenant as stores
from smcp.tenancy import limits, plans, tenants, windows

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")
MINUTE = 60.0
LATE = 0.6
"""A slot: what was taken comes back up to so many seconds late."""
shared = hypothesis_settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
Make = Callable[..., limits.Limiter]


def principal(name: str, tenant: ids.TenantId = ACME) -> policy.Principal:
    return policy.Principal(tenant, name, "api_key", (policy.Role.MCP_USER,))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.Store]:
    """A real one, without tenants: all have the plan `standard`. Not started: nothing here reads or writes."""
    made = local.open_local(tmp_path_factory.mktemp("store"), settings.Settings(), clock.SystemClock())
    yield made
    asyncio.run(made.close())


@pytest.fixture
def limiter(store: stores.Store) -> Callable[..., limits.Limiter]:
    def make(
        time: clock.FrozenClock,
        *,
        tenant: int = 1000,
        principal: int = 1000,
        session: int = 1000,
        address: int = 1000,
        platform: int = 1000,
        tenant_flight: int = 10,
        principal_flight: int = 10,
        addresses: int = 100,
    ) -> limits.Limiter:
        config = settings.Limits(
            platform_per_second=platform,
            tenant_per_minute=tenant,
            principal_per_minute=principal,
            unauthenticated_per_minute=address,
            tenant_concurrency=tenant_flight,
            principal_concurrency=principal_flight,
            standard=(f"session_per_minute={session}",),
        )
        known = plans.Plans(store, tenants.Tenants(store, time), settings.Settings(limits=config))
        return limits.Limiter(config, known, time, max_addresses=addresses)

    return make


def count_allowed(limit: limits.Limiter, who: policy.Principal, tries: int) -> int:
    allowed = 0
    for _ in range(tries):
        try:
            limit.rate(who)
        except errors.RateLimited:
            continue
        allowed += 1
    return allowed


def allowed_times(limit: limits.Limiter, time: clock.FrozenClock, steps: list[tuple[int, int]]) -> list[float]:
    """When requests passed; every step waits (in 1/512 s: exact as a float and as nanoseconds) and tries some times."""
    passed: list[float] = []
    for ticks, tries in steps:
        time.advance(ticks / 512)
        passed += [time.monotonic()] * count_allowed(limit, principal("a"), tries)
    return passed


steps = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 40)), min_size=1, max_size=30)


@pytest.mark.requirement("tenancy:rate:exact")
def test_a_minutes_worth_passes_at_once_and_comes_back_a_minute_later(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, principal=60)
    assert count_allowed(limit, principal("a"), 100) == 60
    time.advance(MINUTE - 0.001)
    assert count_allowed(limit, principal("a"), 5) == 0
    time.advance(LATE + 0.001)
    assert count_allowed(limit, principal("a"), 100) == 60


@pytest.mark.requirement("tenancy:rate:exact")
@shared
@given(rate=st.integers(1, 97), steps=steps)
def test_in_any_minute_at_most_the_limit_passes_whatever_the_pattern(
    limiter: Make, rate: int, steps: list[tuple[int, int]]
) -> None:
    time = clock.FrozenClock()
    passed = allowed_times(limiter(time, principal=rate), time, steps)
    for last in passed:
        assert sum(1 for one in passed if last - MINUTE < one <= last) <= rate


@pytest.mark.requirement("tenancy:rate:exact")
@shared
@given(rate=st.integers(1, 97), steps=steps)
def test_nothing_is_refused_that_there_is_room_for(limiter: Make, rate: int, steps: list[tuple[int, int]]) -> None:
    """But for one slot, by which what was taken comes back late."""
    time = clock.FrozenClock()
    limit = limiter(time, principal=rate)
    passed: list[float] = []
    for ticks, tries in steps:
        time.advance(ticks / 512)
        now = time.monotonic()
        for _ in range(tries):
            counted = sum(1 for one in passed if one > now - MINUTE - LATE)
            if count_allowed(limit, principal("a"), 1):
                passed.append(now)
            else:
                assert counted >= rate


@pytest.mark.requirement("tenancy:rate:reaches")
def test_a_flood_gets_at_least_ninety_eight_percent_of_the_limit(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, principal=500)
    passed = allowed_times(limit, time, [(13, 4)] * (512 * 60 * 20 // 13))
    assert 0.98 * 500 * 20 <= len(passed) <= 500 * 21


@pytest.mark.requirement("tenancy:rate:reaches")
def test_the_platforms_rate_is_by_the_second(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, platform=200)
    passed: list[float] = []
    for _ in range(512 * 10):
        time.advance(1 / 512)
        for _ in range(2):
            try:
                limit.platform()
            except errors.RateLimited:
                continue
            passed.append(time.monotonic())
    assert len(passed) >= 0.98 * 200 * 10
    for last in passed[::7]:
        assert sum(1 for one in passed if last - 1 < one <= last) <= 200


@pytest.mark.requirement("tenancy:rate:honest-retry")
@given(rate=st.integers(1, 5000), extra=st.integers(0, 3), pause=st.integers(0, 59_000))
@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_after_the_told_wait_the_request_passes(limiter: Make, rate: int, extra: int, pause: int) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, tenant=rate, principal=5000)
    count_allowed(limit, principal("a"), rate // 2)
    time.advance(pause / 1000)
    count_allowed(limit, principal("a"), rate + extra)
    with pytest.raises(errors.RateLimited) as refused:
        limit.rate(principal("a"))
    header = dict(refused.value.headers)["Retry-After"]
    assert refused.value.data == {"retryAfter": int(header)}
    time.advance(float(header))
    limit.rate(principal("a"))


@pytest.mark.requirement("tenancy:rate:session")
def test_a_session_has_a_rate_of_its_own_and_its_principal_one_over_all_of_them(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), principal=25, session=10)

    def tries(session: str) -> int:
        passed = 0
        for _ in range(40):
            try:
                limit.rate(principal("a"), session)
            except errors.RateLimited:
                continue
            passed += 1
        return passed

    assert (tries("one"), tries("two"), tries("three"), tries("")) == (10, 10, 5, 0)


@pytest.mark.requirement("tenancy:session:bounded")
def test_invented_sessions_take_bounded_memory_and_share_one_rate_beyond_it(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, tenant=100_000, principal=100_000, session=3)
    passed = 0
    for number in range(5000):
        try:
            limit.rate(principal("a"), f"invented-{number}")
        except errors.RateLimited:
            continue
        passed += 1
    assert passed == limits.MAX_SESSIONS + 3
    assert limit.sessions == limits.MAX_SESSIONS + 1
    limit.rate(principal("b"), "x" * 30_000)
    assert limit.sessions == limits.MAX_SESSIONS + 2
    # A minute later, real ones find room again.
    time.advance(61)
    for number in range(limits.MAX_SESSIONS):
        for _ in range(3):
            limit.rate(principal("a"), f"new-{number}")


@pytest.mark.requirement("tenancy:session:bounded")
def test_nobody_gets_a_second_rate_for_a_session_by_inventing_others(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, tenant=100_000, principal=100_000, session=3)
    for number in range(limits.MAX_SESSIONS):
        limit.rate(principal("a"), f"invented-{number}")
    time.advance(50)
    for _ in range(3):
        limit.rate(principal("a"), "real")
    time.advance(11)  # the invented ones are gone, what the real one took is not
    with pytest.raises(errors.RateLimited):
        limit.rate(principal("a"), "real")
    time.advance(50)
    limit.rate(principal("a"), "real")


_ITEM = re.compile(r'"([a-z]+)"((?:;[a-z]+=[0-9]+)+)')


def read_fields(fields: limits.Fields) -> dict[str, dict[str, dict[str, int]]]:
    """Both fields as structured fields (RFC 9651): by header and by policy, the parameters."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, value in fields:
        items = found[name.decode()] = {}
        for part in value.decode().split(", "):
            match = _ITEM.fullmatch(part)
            assert match is not None, part
            items[match[1]] = {pair.split("=")[0]: int(pair.split("=")[1]) for pair in match[2][1:].split(";")}
    return found


@pytest.mark.requirement("tenancy:rate:told")
def test_the_header_fields_tell_what_is_left_and_when_some_of_it_comes_back(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, tenant=50, principal=20, session=7)
    limit.rate(principal("b"))
    time.advance(10)
    limit.rate(principal("a"))
    time.advance(5)
    told = read_fields(limit.rate(principal("a"), "s").fields())
    assert told["ratelimit-policy"] == {
        "tenant": {"q": 50, "w": 60},
        "principal": {"q": 20, "w": 60},
        "session": {"q": 7, "w": 60},
    }
    assert told["ratelimit"] == {
        "tenant": {"r": 47, "t": 46},
        "principal": {"r": 18, "t": 56},
        "session": {"r": 6, "t": 61},
    }
    plain = read_fields(limit.rate(principal("c")).fields())
    assert plain["ratelimit-policy"].keys() == plain["ratelimit"].keys() == {"tenant", "principal"}


@pytest.mark.requirement("tenancy:rate:told")
def test_a_refusal_carries_the_same_header_fields_and_agrees_with_retry_after(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, tenant=50, principal=3)
    count_allowed(limit, principal("a"), 3)
    time.advance(20)
    with pytest.raises(errors.RateLimited) as refused:
        limit.rate(principal("a"))
    headers = dict(refused.value.headers)
    told = read_fields(((b"ratelimit", headers["RateLimit"].encode()),))["ratelimit"]
    assert told["principal"]["r"] == 0
    assert told["principal"]["t"] == int(headers["Retry-After"]) == 41
    assert headers["RateLimit-Policy"] == '"tenant";q=50;w=60, "principal";q=3;w=60'


@pytest.mark.requirement("tenancy:rate:exact")
def test_a_window_keeps_no_more_than_its_slots() -> None:
    window = windows.Window(10**9)
    for slot in range(10_000):
        if slot > window.expires:
            window.expire(slot)
        window.add(slot)
    assert len(window.entries) <= 2 * (windows.SLOTS + 1)
    assert window.used == windows.SLOTS + 1


@pytest.mark.requirement("tenancy:rate:both-or-none")
def test_a_refused_request_takes_from_neither_bucket(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), tenant=10, principal=4)
    assert count_allowed(limit, principal("a"), 50) == 4
    assert count_allowed(limit, principal("b"), 50) == 4
    assert count_allowed(limit, principal("c"), 50) == 2


@pytest.mark.requirement("tenancy:rate:both-or-none")
@shared
@given(
    tenant=st.integers(1, 60),
    who=st.integers(1, 40),
    session=st.integers(1, 20),
    calls=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "one", "two"])), max_size=150),
)
def test_a_request_passes_when_all_its_rates_have_room_and_takes_from_all_or_none(
    limiter: Make, tenant: int, who: int, session: int, calls: list[tuple[str, str]]
) -> None:
    limit = limiter(clock.FrozenClock(), tenant=tenant, principal=who, session=session)
    taken: collections.Counter[tuple[str, ...]] = collections.Counter()
    for name, label in calls:
        keys: list[tuple[tuple[str, ...], int]] = [((), tenant), ((name,), who)]
        keys += [((name, label), session)] if label else []
        try:
            limit.rate(principal(name), label)
        except errors.RateLimited:
            assert any(taken[key] >= most for key, most in keys)
            continue
        assert all(taken[key] < most for key, most in keys)
        taken.update(key for key, _ in keys)
    assert limit.used(ACME).get("tenant_per_minute", (0, 0))[0] == taken[()]


@pytest.mark.requirement("tenancy:rate:isolated")
def test_a_busy_tenant_takes_nothing_from_another(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), tenant=5, principal=5)
    assert count_allowed(limit, principal("a"), 100) == 5
    # The same key id in another tenant is another principal.
    assert count_allowed(limit, principal("a", UMBRA), 100) == 5


@pytest.mark.requirement("tenancy:address:bounded")
def test_many_addresses_do_not_grow_memory_and_share_one_bucket_when_the_table_is_full(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, address=3, addresses=50)
    for number in range(50):
        limit.unauthenticated(f"10.0.0.{number}")
    passed = 0
    for number in range(10_000):
        try:
            limit.unauthenticated(f"10.1.{number // 256}.{number % 256}")
        except errors.RateLimited:
            continue
        passed += 1
    assert passed == 3
    assert limit.addresses == 51
    # Who was known before is still counted alone.
    limit.unauthenticated("10.0.0.7")
    # And when the attack is over, the table takes new addresses again.
    time.advance(61)
    for number in range(40):
        limit.unauthenticated(f"10.2.0.{number}")
        limit.unauthenticated(f"10.2.0.{number}")
    assert limit.addresses <= 51


@pytest.mark.requirement("tenancy:address:network")
def test_an_ipv6_network_counts_as_one_address_and_a_mapped_one_as_its_ipv4(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), address=2)
    limit.unauthenticated("2001:db8:1:1::1")
    limit.unauthenticated("2001:db8:1:1:ffff::2")
    with pytest.raises(errors.RateLimited):
        limit.unauthenticated("2001:db8:1:1::3")
    limit.unauthenticated("2001:db8:1:2::1")
    limit.unauthenticated("::ffff:192.0.2.1")
    limit.unauthenticated("192.0.2.1")
    with pytest.raises(errors.RateLimited):
        limit.unauthenticated("192.0.2.1")


@pytest.mark.requirement("tenancy:address:network")
def test_what_is_no_address_shares_one_bucket(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), address=2)
    limit.unauthenticated("not an address")
    limit.unauthenticated("9" * 5000)
    with pytest.raises(errors.RateLimited):
        limit.unauthenticated("")


@pytest.mark.requirement("tenancy:concurrency:leases")
def test_a_place_is_given_back_once_however_often_it_is_released(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), principal_flight=2)
    first, second = limit.admit(principal("a")), limit.admit(principal("a"))
    with pytest.raises(errors.RateLimited):
        limit.admit(principal("a"))
    first.release()
    first.release()
    third = limit.admit(principal("a"))
    with pytest.raises(errors.RateLimited):
        limit.admit(principal("a"))
    second.release()
    third.release()
    assert limit.in_flight == 0


@pytest.mark.requirement("tenancy:concurrency:leases")
def test_a_place_is_given_back_when_the_work_fails(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), principal_flight=1)
    with pytest.raises(ZeroDivisionError), limit.admit(principal("a")):
        _ = 1 / 0
    with limit.admit(principal("a")):
        assert limit.in_flight == 1
    assert limit.in_flight == 0


@pytest.mark.requirement("tenancy:concurrency:both-or-none")
def test_a_refused_admission_holds_no_place_of_either_kind(limiter: Make) -> None:
    limit = limiter(clock.FrozenClock(), tenant_flight=3, principal_flight=2)
    leases = [limit.admit(principal("a")), limit.admit(principal("a"))]
    for _ in range(5):
        with pytest.raises(errors.RateLimited):
            limit.admit(principal("a"))
    leases.append(limit.admit(principal("b")))
    with pytest.raises(errors.RateLimited, match="tenant"):
        limit.admit(principal("b"))
    limit.admit(principal("a", UMBRA)).release()
    for lease in leases:
        lease.release()
    assert limit.in_flight == 0


@pytest.mark.requirement("tenancy:rate:forgets")
def test_idle_principals_are_forgotten(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time)
    for number in range(500):
        limit.rate(principal(f"key-{number}"))
        limit.rate(principal(f"key-{number}"), "a session")
    flying = limit.admit(principal("key-7"))
    time.advance(61)
    limit.rate(principal("new"))
    for _ in limit.forget_idle():
        pass
    assert (limit.principals, limit.sessions) == (2, 0), "who has a request in flight is not idle"
    flying.release()
    time.advance(61)
    for _ in limit.forget_idle():
        pass
    assert (limit.principals, limit.tenants()) == (0, [])


@pytest.mark.requirement("tenancy:limits:guard", "attack:oauth:costly-keys")
def test_an_address_that_failed_too_often_is_known_before_the_work_and_asking_costs_nothing(limiter: Make) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, address=2)
    for _ in range(10):
        limit.guard("10.0.0.1")
    for _ in range(2):
        limit.unauthenticated("10.0.0.1")
    with pytest.raises(errors.RateLimited):
        limit.guard("10.0.0.1")
    limit.guard("10.0.0.2")
    time.advance(61)
    limit.guard("10.0.0.1")
