"""Rates and concurrency: exact, together or not at all, bounded."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smcp.access import policy
from smcp.kernel import clock, errors, ids, settings
from smcp.tenancy import limits

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")


def principal(name: str, tenant: ids.TenantId = ACME) -> policy.Principal:
    return policy.Principal(tenant, name, "api_key", (policy.Role.MCP_USER,))


def limiter(
    time: clock.FrozenClock,
    *,
    tenant: int = 1000,
    principal: int = 1000,
    address: int = 1000,
    tenant_flight: int = 10,
    principal_flight: int = 10,
    addresses: int = 100,
) -> limits.Limiter:
    return limits.Limiter(
        settings.Limits(
            tenant_per_minute=tenant,
            principal_per_minute=principal,
            unauthenticated_per_minute=address,
            tenant_concurrency=tenant_flight,
            principal_concurrency=principal_flight,
        ),
        time,
        max_addresses=addresses,
    )


def count_allowed(limit: limits.Limiter, who: policy.Principal, tries: int) -> int:
    allowed = 0
    for _ in range(tries):
        try:
            limit.rate(who)
        except errors.RateLimited:
            continue
        allowed += 1
    return allowed


@pytest.mark.requirement("tenancy:rate:exact")
def test_a_minute_is_held_at_once_and_refills_evenly() -> None:
    time = clock.FrozenClock()
    limit = limiter(time, principal=60)
    assert count_allowed(limit, principal("a"), 100) == 60
    time.advance(0.999)
    assert count_allowed(limit, principal("a"), 5) == 0
    time.advance(0.001)
    assert count_allowed(limit, principal("a"), 5) == 1
    time.advance(3600)
    assert count_allowed(limit, principal("a"), 100) == 60


@pytest.mark.requirement("tenancy:rate:exact")
@hypothesis_settings(max_examples=50)
@given(
    rate=st.integers(1, 97),
    steps=st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 40)), min_size=1, max_size=30),
)
def test_over_any_time_exactly_the_rate_passes_whatever_the_pattern(rate: int, steps: list[tuple[int, int]]) -> None:
    """Against a model in whole numbers. A tick is 1/512 s: exact as a float and as nanoseconds."""
    time = clock.FrozenClock()
    limit = limiter(time, principal=rate)
    request = 60 * 512
    bucket = rate * request
    for ticks, tries in steps:
        time.advance(ticks / 512)
        bucket = min(rate * request, bucket + ticks * rate)
        expected = min(tries, bucket // request)
        assert count_allowed(limit, principal("a"), tries) == expected
        bucket -= expected * request


@pytest.mark.requirement("tenancy:rate:honest-retry")
@given(rate=st.integers(1, 5000), extra=st.integers(0, 3))
@hypothesis_settings(max_examples=30)
def test_after_the_told_wait_the_request_passes(rate: int, extra: int) -> None:
    time = clock.FrozenClock()
    limit = limiter(time, tenant=rate, principal=5000)
    count_allowed(limit, principal("a"), rate + extra)
    with pytest.raises(errors.RateLimited) as refused:
        limit.rate(principal("a"))
    header = dict(refused.value.headers)["Retry-After"]
    assert refused.value.data == {"retryAfter": int(header)}
    time.advance(float(header))
    limit.rate(principal("a"))


@pytest.mark.requirement("tenancy:rate:both-or-none")
def test_a_refused_request_takes_from_neither_bucket() -> None:
    limit = limiter(clock.FrozenClock(), tenant=10, principal=4)
    assert count_allowed(limit, principal("a"), 50) == 4
    assert count_allowed(limit, principal("b"), 50) == 4
    assert count_allowed(limit, principal("c"), 50) == 2


@pytest.mark.requirement("tenancy:rate:isolated")
def test_a_busy_tenant_takes_nothing_from_another() -> None:
    limit = limiter(clock.FrozenClock(), tenant=5, principal=5)
    assert count_allowed(limit, principal("a"), 100) == 5
    # The same key id in another tenant is another principal.
    assert count_allowed(limit, principal("a", UMBRA), 100) == 5


@pytest.mark.requirement("tenancy:address:bounded")
def test_many_addresses_do_not_grow_memory_and_share_one_bucket_when_the_table_is_full() -> None:
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
def test_an_ipv6_network_counts_as_one_address_and_a_mapped_one_as_its_ipv4() -> None:
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
def test_what_is_no_address_shares_one_bucket() -> None:
    limit = limiter(clock.FrozenClock(), address=2)
    limit.unauthenticated("not an address")
    limit.unauthenticated("9" * 5000)
    with pytest.raises(errors.RateLimited):
        limit.unauthenticated("")


@pytest.mark.requirement("tenancy:concurrency:leases")
def test_a_place_is_given_back_once_however_often_it_is_released() -> None:
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
def test_a_place_is_given_back_when_the_work_fails() -> None:
    limit = limiter(clock.FrozenClock(), principal_flight=1)
    with pytest.raises(ZeroDivisionError), limit.admit(principal("a")):
        _ = 1 / 0
    with limit.admit(principal("a")):
        assert limit.in_flight == 1
    assert limit.in_flight == 0


@pytest.mark.requirement("tenancy:concurrency:both-or-none")
def test_a_refused_admission_holds_no_place_of_either_kind() -> None:
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
def test_idle_principals_are_forgotten() -> None:
    time = clock.FrozenClock()
    limit = limiter(time)
    for number in range(500):
        limit.rate(principal(f"key-{number}"))
    time.advance(61)
    for number in range(300):
        limit.rate(principal(f"new-{number}"))
    assert limit.principals <= 300
