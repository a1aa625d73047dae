"""Whoever does not get in is in the trail, whichever way was tried."""

from collections import Counter

import pytest

from smcp.identity.accounts import accounts, throttle
from smcp.kernel import errors
from support import authenticator, humans

ORIGIN = "https://smcp.example"


async def reasons(room: humans.Room) -> Counter[str]:
    """How often each was told."""
    told = [one for one in await room.told() if one["event"] == "sign_in_failed"]
    assert all(one["outcome"] == "refused" and one["request_id"] == "req-1" and one["address"] for one in told)
    return Counter(str(one["why"]) for one in told)


async def answer(room: humans.Room, key: authenticator.Authenticator) -> accounts.SignedIn:
    """Try the passkey."""
    begun = room.people.accounts.begin_passkey(humans.ACME, ORIGIN)
    return await room.people.accounts.finish_passkey(
        humans.ACME, begun.step, key.get(begun.options), humans.HOME, request_id="req-1"
    )


@pytest.mark.requirement("oauth:people:told")
async def test_each_way_in_that_fails_is_in_the_trail_with_its_reason(room: humans.Room) -> None:
    ada = await room.person()
    key = authenticator.Authenticator(ORIGIN)
    begun = await room.people.accounts.begin_adding_passkey(ada, ORIGIN)
    await room.people.accounts.finish_adding_passkey(ada, begun.step, key.create(begun.options), "key")
    code = (await room.people.invitations.invite(humans.ACME, "eve@acme.example", "", ["mcp_user"], by=room.by)).text
    await room.people.accounts.accept(humans.ACME, code, "Eve", humans.PASSWORD, humans.HOME)
    for text in (code, "never a code"):
        with pytest.raises(errors.NotFound):
            await room.people.accounts.accept(
                humans.ACME, text, "Mallory", humans.PASSWORD, humans.HOME, request_id="req-1"
            )
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.second(humans.ACME, "forged", "123456", humans.HOME, request_id="req-1")
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.finish_passkey(humans.ACME, "forged", "{}", humans.HOME, request_id="req-1")
    assert await answer(room, key)
    await room.people.users.disable(humans.ACME, ada.id)
    with pytest.raises(accounts.SignInRefused):
        await answer(room, key)
    assert await reasons(room) == {"invitation": 2, "step": 1, "passkey": 1, "closed": 1}
    told = str(await room.told())
    assert code not in told
    assert humans.HOME not in told


@pytest.mark.requirement("oauth:people:told")
async def test_attack_a_flood_of_forged_steps_and_codes_does_not_fill_the_trail(room: humans.Room) -> None:
    await room.person()
    for number in range(2 * throttle.PER_ADDRESS):
        with pytest.raises(accounts.SignInRefused):
            await room.people.accounts.second(humans.ACME, f"forged {number}", "1", "192.0.2.7", request_id="req-1")
        with pytest.raises((errors.NotFound, errors.RateLimited)):
            await room.people.accounts.invited(humans.ACME, f"guess {number}", "192.0.2.8", request_id="req-1")
    most = throttle.PER_ADDRESS
    # And that more were tried, once: the address of the forged steps is refused what names an account, if it tries.
    assert await reasons(room) == {"step": most, "invitation": most, "held-off": 1}


@pytest.mark.requirement("oauth:people:told-held-off")
async def test_guesses_that_are_not_looked_at_any_more_are_told_once_for_each_full_window(room: humans.Room) -> None:
    await room.person()

    async def guess(account: str, address: str, times: int) -> None:
        for _ in range(times):
            with pytest.raises((accounts.SignInRefused, errors.RateLimited)):
                await room.people.accounts.sign_in(humans.ACME, account, "wrong", address, request_id="req-1")

    await guess("ada@acme.example", "192.0.2.7", throttle.PER_ACCOUNT)
    assert await reasons(room) == {"password": throttle.PER_ACCOUNT}
    for address in ("192.0.2.7", "192.0.2.8"):
        await guess("ada@acme.example", address, 20)
    first = [one for one in await room.told() if one.get("why") == "held-off"]
    assert len(first) == 1
    password = next(one for one in await room.told() if one.get("why") == "password")
    assert (first[0]["account"], first[0]["address"]) == (password["account"], password["address"])
    # An address that is full, at an account that is not.
    for number in range(throttle.PER_ADDRESS):
        await guess(f"n{number}@acme.example", "192.0.2.9", 2)
    await guess("late@acme.example", "192.0.2.9", 5)
    assert (await reasons(room))["held-off"] == 2
    # Another quarter of an hour, another window.
    room.time.advance(throttle.WINDOW_S)
    await guess("ada@acme.example", "192.0.2.7", throttle.PER_ACCOUNT + 20)
    assert (await reasons(room))["held-off"] == 3
