"""What strangers may try at a tenant: exact numbers, and a part of it that a few addresses can't hold."""

import pytest

from smcp.kernel import clock, errors, ids
from smcp.tenancy import attempts

ACME = ids.tenant("acme")
UMBRA = ids.tenant("umbra")


def made(time: clock.Clock, *, address: int = 30, tenant: int = 120) -> attempts.Attempts:
    return attempts.Attempts(time, "devices", address_per_minute=address, tenant_per_minute=tenant)


def taken(tried: attempts.Attempts, address: str, times: int, tenant: ids.TenantId = ACME) -> int:
    """How many of so many got through."""
    count = 0
    for _ in range(times):
        try:
            tried.take(tenant, address)
        except errors.RateLimited:
            continue
        count += 1
    return count


@pytest.mark.requirement("oauth:edge:newcomers", "attack:oauth:window-held-full")
@pytest.mark.parametrize(("address", "tenant", "few"), [(30, 120, 90), (10, 20, 15), (10, 60, 45)])
def test_a_few_addresses_do_not_hold_a_tenants_window_full(address: int, tenant: int, few: int) -> None:
    """Attack: two to four addresses, each within its own rate, so that nobody else registers or connects a device."""
    time = clock.FrozenClock()
    tried = made(time, address=address, tenant=tenant)
    attackers = [f"198.51.100.{number}" for number in range(8)]
    held = [taken(tried, one, address) for one in attackers]
    # They have three quarters, and one more each for those that had nothing so far.
    late = sum(count == 1 for count in held)
    assert sum(held) - late == few
    left = tenant - few - late
    newcomers = [f"203.0.113.{number}" for number in range(left + 1)]
    assert [taken(tried, one, 2) for one in newcomers] == [1] * left + [0]
    # Another tenant has its own.
    assert taken(tried, attackers[0], address + 1, UMBRA) == address
    time.advance(61)
    assert taken(tried, attackers[0], address + 1) == address


@pytest.mark.requirement("oauth:edge:newcomers")
def test_who_has_to_wait_is_told_until_when() -> None:
    time = clock.FrozenClock()
    tried = made(time, address=4, tenant=4)
    assert taken(tried, "198.51.100.1", 3) == 3
    time.advance(30)
    assert taken(tried, "198.51.100.2", 1) == 1
    wait = 0
    for address in ("198.51.100.1", "198.51.100.2", "198.51.100.3"):
        with pytest.raises(errors.RateLimited) as refused:
            tried.take(ACME, address)
        # In the slot behind that of the first: its whole window, and a hundredth of it more at most.
        wait = int(dict(refused.value.headers)["Retry-After"])
        assert 30 < wait <= 32
    time.advance(wait)
    assert taken(tried, "198.51.100.1", 1) == 1


@pytest.mark.requirement("oauth:edge:newcomers")
def test_networks_of_one_subscriber_are_one_address() -> None:
    tried = made(clock.FrozenClock(), address=4, tenant=8)
    assert [taken(tried, f"2001:db8::{number:x}", 1) for number in range(5)] == [1, 1, 1, 1, 0]


@pytest.mark.requirement("oauth:edge:newcomers")
def test_however_many_addresses_come_memory_is_bounded() -> None:
    """Attack: a new address for each attempt, so that the tables of addresses grow."""
    time = clock.FrozenClock()
    tried = made(time, address=30, tenant=10**6)
    for number in range(attempts.MAX_ADDRESSES + 500):
        taken(tried, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
    assert len(tried) == attempts.MAX_ADDRESSES + 2  # a shared one, and that of the tenant
    time.advance(61)
    # Idle ones go, two for each that comes.
    for number in range(attempts.MAX_ADDRESSES):
        taken(tried, f"10.9.{number >> 8 & 255}.{number & 255}", 1)
    assert len(tried) <= attempts.MAX_ADDRESSES + 2
