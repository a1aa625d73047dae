"""Wrong codes behind a right password: they have an end, the owner is told, and nobody is locked out."""

import asyncio
import base64
import contextlib

import pytest

from smcp.identity.accounts import accounts, second_factor, throttle, totp
from smcp.kernel import errors
from support import authenticator, humans

GUESSER = "198.51.100.66"
MOST = second_factor.MOST_WRONG


class Ada:
    """Has an app, and one browser that she has signed in with."""

    def __init__(self, room: humans.Room, secret: bytes, recovery: tuple[str, ...], device: str) -> None:
        self.room, self.secret, self.recovery, self.device = room, secret, recovery, device

    def code(self) -> str:
        """What the app shows; each once."""
        self.room.time.advance(totp.STEP_S)
        return totp.hotp(self.secret, totp.step(self.room.time.now()))

    async def types(self, code: str, device: str = "", address: str = humans.HOME) -> accounts.SignedIn:
        """The right password, and then `code`."""
        begun = await self.room.sign_in(device=device, address=address)
        assert isinstance(begun, accounts.NeedsSecond)
        return await self.room.people.accounts.second(humans.ACME, begun.pending, code, address, device=device)

    async def guess(self, many: int) -> None:
        """So many wrong codes of a stranger who knows the password, as fast as they get."""
        for number in range(many):
            if number % throttle.PER_ACCOUNT == 0:
                self.room.time.advance(throttle.WINDOW_S)
            wrong = humans.wrong_code(self.secret, self.room.time.now())
            with pytest.raises(accounts.SignInRefused):
                await self.types(wrong, address=GUESSER)
        self.room.time.advance(throttle.WINDOW_S)

    async def told(self) -> second_factor.Guesses | None:
        """What her page says."""
        user = await self.room.people.users.find(humans.ACME, "ada@acme.example")
        assert user is not None
        return await self.room.people.accounts.guesses(user)


@pytest.fixture
async def ada(room: humans.Room) -> Ada:
    user = await room.person()
    first = await room.sign_in()
    assert isinstance(first, accounts.SignedIn)
    begun = await room.people.accounts.begin_app(user, "SMCP")
    secret = base64.b32decode(begun.text.replace(" ", ""))
    recovery = await room.people.accounts.confirm_app(user, totp.hotp(secret, totp.step(room.time.now())))
    return Ada(room, secret, recovery, first.device)


@pytest.mark.requirement("oauth:people:codes-end")
async def test_who_knows_the_password_does_not_guess_codes_for_ever(room: humans.Room, ada: Ada) -> None:
    """Attack: a stolen password and patience: ten codes a quarter of an hour, for years, also over restarts."""
    await ada.guess(MOST)
    room.people = room.again()
    for device in ("", "made.up.mark"):
        with pytest.raises(accounts.NewDeviceRefused):
            await ada.types(ada.code(), device, GUESSER)
    told = [one for one in await room.told() if one["event"] == "codes_guessed"]
    assert [one["codes"] for one in told] == [MOST]


@pytest.mark.requirement("oauth:people:codes-end")
async def test_one_wrong_code_less_and_a_right_one_passes_anywhere(ada: Ada) -> None:
    await ada.guess(MOST - 1)
    assert (await ada.types(ada.code())).methods == ("password", "totp")
    # The row has ended: the next one is as long.
    await ada.guess(MOST - 1)
    assert (await ada.types(ada.code())).methods == ("password", "totp")


@pytest.mark.requirement("oauth:people:codes-end")
async def test_many_guesses_at_once_are_all_counted(room: humans.Room, ada: Ada) -> None:
    """Attack: codes are typed in parallel, so that each sees the same count."""
    await ada.guess(MOST - 5)
    begun = [await room.sign_in(address=GUESSER) for _ in range(8)]
    wrong = humans.wrong_code(ada.secret, room.time.now())
    said = await asyncio.gather(
        *(
            room.people.accounts.second(humans.ACME, one.pending, wrong, GUESSER)
            for one in begun
            if isinstance(one, accounts.NeedsSecond)
        ),
        return_exceptions=True,
    )
    assert [isinstance(one, accounts.SignInRefused) for one in said] == [True] * 8
    found = await ada.told()
    assert found is not None
    assert found.many == MOST + 3
    room.time.advance(throttle.WINDOW_S)
    with pytest.raises(accounts.NewDeviceRefused):
        await ada.types(ada.code(), address=GUESSER)


@pytest.mark.requirement("oauth:people:codes-no-lock-out")
@pytest.mark.parametrize("way", ["known device", "recovery code", "passkey"])
async def test_a_guesser_at_codes_keeps_the_owner_out_of_nothing(room: humans.Room, ada: Ada, way: str) -> None:
    """Attack: lock somebody out by typing wrong codes."""
    mine = room.people.accounts
    user = await room.people.users.find(humans.ACME, "ada@acme.example")
    assert user is not None
    key = authenticator.Authenticator(humans.ORIGIN)
    adding = await mine.begin_adding_passkey(user, humans.ORIGIN)
    await mine.finish_adding_passkey(user, adding.step, key.create(adding.options), "laptop")
    await ada.guess(MOST + 10)
    if way == "known device":
        assert (await ada.types(ada.code(), ada.device)).methods == ("password", "totp")
    elif way == "recovery code":
        assert (await ada.types(ada.recovery[0])).methods == ("password", "recovery")
    else:
        begun = mine.begin_passkey(humans.ACME, humans.ORIGIN)
        answer = key.get(begun.options)
        assert (await mine.finish_passkey(humans.ACME, begun.step, answer, humans.HOME)).methods == ("passkey",)
        return
    # A right one ends it for new devices, too.
    assert (await ada.types(ada.code())).methods == ("password", "totp")


@pytest.mark.requirement("oauth:people:codes-no-lock-out")
async def test_another_password_ends_it(room: humans.Room, ada: Ada) -> None:
    await ada.guess(MOST)
    found = await ada.types(ada.code(), ada.device)
    changed = await room.people.accounts.set_password(found.user, humans.OTHER)
    assert await room.people.accounts.guesses(changed.user) is None
    begun = await room.sign_in(password=humans.OTHER)
    assert isinstance(begun, accounts.NeedsSecond)
    assert await room.people.accounts.second(humans.ACME, begun.pending, ada.code(), humans.HOME)


@pytest.mark.requirement("oauth:people:codes-told")
async def test_the_owner_is_told_of_what_was_guessed_before_a_right_code(room: humans.Room, ada: Ada) -> None:
    """Attack: the guess that was right ends the count, and with it all that the owner could see."""
    await ada.guess(second_factor.TELL - 1)
    assert await ada.told() is None
    await ada.types(ada.code())
    await ada.guess(second_factor.TELL + 2)
    found = await ada.told()
    assert found is not None
    assert found.many == second_factor.TELL + 2
    for _ in range(2):
        await ada.types(ada.code())
        assert await ada.told() == found
    room.time.advance(second_factor.TOLD_S)
    assert await ada.told() is None


@pytest.mark.requirement("oauth:people:codes-end")
async def test_what_throttle_refuses_is_not_looked_at(room: humans.Room, ada: Ada) -> None:
    room.time.advance(throttle.WINDOW_S)
    begun = [await room.sign_in(address=GUESSER) for _ in range(throttle.PER_ACCOUNT + 5)]
    wrong = humans.wrong_code(ada.secret, room.time.now())
    for one in begun:
        assert isinstance(one, accounts.NeedsSecond)
        with contextlib.suppress(accounts.SignInRefused, errors.RateLimited):
            await room.people.accounts.second(humans.ACME, one.pending, wrong, GUESSER)
    found = await ada.told()
    assert found is not None
    assert found.many == throttle.PER_ACCOUNT
