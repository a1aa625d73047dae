"""Guessing is slow, and nobody is locked out by it."""

import pytest

from smcp.identity.accounts import throttle
from smcp.kernel import clock, errors, ids
from support import humans

ACME = humans.ACME


def guess(
    guard: throttle.Throttle, times: int, account: str = "ada@acme.example", address: str = "198.51.100.1"
) -> int:
    """Wrong attempts from a strange device; how many were let through."""
    passed = 0
    for _ in range(times):
        try:
            guard.admit(ACME, account, address, "")
        except errors.RateLimited:
            continue
        passed += 1
    return passed


@pytest.mark.requirement("oauth:people:throttle")
def test_an_account_is_guessed_at_ten_times_a_quarter_of_an_hour_from_anywhere() -> None:
    time = clock.FrozenClock()
    guard = throttle.Throttle(time)
    assert sum(guess(guard, 5, address=f"198.51.100.{number}") for number in range(200)) == throttle.PER_ACCOUNT
    time.advance(throttle.WINDOW_S - 1)
    assert guess(guard, 5, address="192.0.2.1") == 0
    time.advance(1)
    assert guess(guard, 100, address="192.0.2.1") == throttle.PER_ACCOUNT


@pytest.mark.requirement("oauth:people:throttle")
def test_an_address_tries_fifty_accounts_a_quarter_of_an_hour() -> None:
    guard = throttle.Throttle(clock.FrozenClock())
    assert sum(guess(guard, 1, account=f"n{number}@acme.example") for number in range(500)) == throttle.PER_ADDRESS
    # The whole network of an IPv6 customer is one address.
    tried = [guess(guard, 1, f"v{number}@acme.example", f"2001:db8:1:2::{number:x}") for number in range(500)]
    assert sum(tried) == throttle.PER_ADDRESS
    assert guess(guard, 1, "v@acme.example", "2001:db8:1:3::1") == 1


@pytest.mark.requirement("oauth:people:no-lock-out")
def test_a_known_device_is_not_asked_about_the_account_or_the_address() -> None:
    guard = throttle.Throttle(clock.FrozenClock())
    guess(guard, 1000)
    guard.admit(ACME, "ada@acme.example", "198.51.100.1", "device-1").back()
    # Its own window is filled by itself only: then it is a device like any other.
    for _ in range(throttle.PER_DEVICE):
        assert guard.knows(ACME, "ada@acme.example", "device-1")
        guard.admit(ACME, "ada@acme.example", "198.51.100.1", "device-1")
    assert not guard.knows(ACME, "ada@acme.example", "device-1")
    assert guard.knows(ACME, "ada@acme.example", "device-2")


@pytest.mark.requirement("oauth:people:throttle")
def test_the_tables_are_bounded_and_forget_what_was_touched_longest_ago() -> None:
    guard = throttle.Throttle(clock.FrozenClock())
    guess(guard, 10, account="first@acme.example", address="192.0.2.1")
    for number in range(throttle.TABLE):
        guard.admit(ACME, f"n{number}@acme.example", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "")
    assert guard.size == 2 * throttle.TABLE
    assert guess(guard, 1, account=f"n{throttle.TABLE - 1}@acme.example", address="192.0.2.2") == 1


@pytest.mark.requirement("oauth:people:throttle-kept")
def test_a_full_window_of_an_account_is_not_pushed_out() -> None:
    """Attack: strangers' cheap failures flush the table, and the account that was guessed at is open again."""
    time = clock.FrozenClock()
    guard = throttle.Throttle(time)
    guess(guard, throttle.PER_ACCOUNT, account="first@acme.example", address="192.0.2.1")
    for number in range(throttle.TABLE + 1):  # refused passkeys
        guard.failed_address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    for number in range(throttle.TABLE + 1):  # wrong passwords for accounts that nobody has
        guess(guard, 1, f"n{number}@acme.example", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert guard.size == 2 * throttle.TABLE
    assert guess(guard, 1, account="first@acme.example", address="192.0.2.1") == 0
    time.advance(throttle.WINDOW_S)
    assert guess(guard, 1, account="first@acme.example", address="192.0.2.1") == 1


@pytest.mark.requirement("oauth:people:no-lock-out")
async def test_a_mark_is_of_one_account_one_tenant_and_one_epoch(room: humans.Room) -> None:
    devices = throttle.Devices(room.store, room.time)
    mark = devices.mark(ACME, "user-1", 0)
    device = devices.read(ACME, "user-1", 0, mark)
    assert device
    assert devices.read(ACME, "user-1", 0, devices.mark(ACME, "user-1", 0, mark)) == device
    for tenant, user, epoch in ((humans.UMBRA, "user-1", 0), (ACME, "user-2", 0), (ACME, "user-1", 1)):
        assert devices.read(tenant, user, epoch, mark) == ""
    head, made, code = mark.split(".")
    forged = (
        f"x{head}.{made}.{code}",
        f"{head}.{int(made) + 1}.{code}",
        f"{head}.{made}.",
        "",
        ".",
        "..",
        "a.b.c",
        "é.1.x",
    )
    assert [devices.read(ids.TenantId(ACME), "user-1", 0, text) for text in forged] == [""] * len(forged)
    room.time.advance(throttle.DEVICE_S)
    assert devices.read(ACME, "user-1", 0, mark) == ""
