"""Signing in: who gets in, the one answer for everybody else, and that no guesser locks an owner out."""

import asyncio
import base64
import contextlib

import argon2
import pytest

from smcp.audit import trail as trails
from smcp.identity.accounts import accounts, passwords, sealing, throttle, totp, ways
from smcp.kernel import errors, ids
from support import humans

ADA = "ada@acme.example"
GUESSER = "198.51.100.66"


class Counting(passwords.Passwords):
    """Says what argon2 was done with: a hash that is kept, or the decoy."""

    def __init__(self, parameters: argon2.Parameters) -> None:
        super().__init__(parameters)
        self.asked: list[bool] = []
        self.decoy = ""

    def _right(self, kept: str, password: str) -> bool:
        self.asked.append(kept != self.decoy)
        return super()._right(kept, password)


class Full(passwords.Passwords):
    """Has no room."""

    async def verify(self, kept: str | None, password: str, *, known: bool = False) -> bool:
        raise errors.RateLimited("Too many people are signing in at this moment.")


async def refused(room: humans.Room, email: str = ADA, password: str = "wrong wrong wrong", **more: str) -> None:
    with pytest.raises(accounts.SignInRefused) as said:
        await room.sign_in(email, password, **more)
    assert said.value.args == ()
    assert "address" in said.value.public


async def signed_in(room: humans.Room, **more: str) -> accounts.SignedIn:
    found = await room.sign_in(**more)
    assert isinstance(found, accounts.SignedIn)
    return found


async def with_app(room: humans.Room) -> tuple[bytes, tuple[str, ...]]:
    """Ada with an authenticator app: its secret, and her recovery codes. The step of the confirming code has passed."""
    user = await room.person()
    begun = await room.people.accounts.begin_app(user, "SMCP acme")
    secret = base64.b32decode(begun.text.replace(" ", ""))
    codes = await room.people.accounts.confirm_app(user, totp.hotp(secret, totp.step(room.time.now())))
    room.time.advance(2 * totp.STEP_S)
    return secret, codes


def code(room: humans.Room, secret: bytes) -> str:
    return totp.hotp(secret, totp.step(room.time.now()))


async def pending(room: humans.Room, **more: str) -> str:
    found = await room.sign_in(**more)
    assert isinstance(found, accounts.NeedsSecond)
    return found.pending


@pytest.mark.requirement("oauth:people:sign-in")
async def test_the_right_password_signs_in_however_the_address_is_typed(room: humans.Room) -> None:
    user = await room.person()
    for email in (ADA, "ADA@Acme.example", f"  {ADA} "):
        found = await signed_in(room, email=email)
        assert (found.user, found.methods) == (user, ("password",))
    told = [one for one in await room.told() if one["event"] == "signed_in"]
    assert told[-1]["methods"] == ("password",)
    assert told[-1]["actor"] == user.id


@pytest.mark.requirement("oauth:people:one-answer")
async def test_all_that_is_wrong_has_one_answer_after_one_argon2(room: humans.Room) -> None:
    hashing = Counting(humans.CHEAP)
    hashing.decoy = await hashing.against_nobody()
    room.people = room.built(hashing)
    user = await room.person()
    closed = await room.person(email="bob@acme.example")
    await room.people.users.disable(humans.ACME, closed.id)
    await refused(room)
    await refused(room, "nobody@acme.example", humans.PASSWORD)
    await refused(room, "no address", humans.PASSWORD)
    await refused(room, closed.email, humans.PASSWORD)
    await refused(room, ADA, "x" * 100_000)
    await refused(room, ADA, "")
    for tenant in (humans.UMBRA, ids.tenant("nowhere")):
        with pytest.raises(accounts.SignInRefused):
            await room.people.accounts.sign_in(tenant, ADA, humans.PASSWORD, humans.HOME)
    await room.tenants.suspend(humans.ACME)
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, "192.0.2.200")
    # One each, over a decoy where there is nobody: no answer comes sooner than another.
    assert hashing.asked == [True, False, False, True, True, True, False, False, False]
    why = [one["why"] for one in await room.told() if one["event"] == "sign_in_failed"]
    assert why == ["password", "unknown", "unknown", "closed", "password", "password", "unknown"]
    assert user.email not in str(await room.told())


@pytest.mark.requirement("oauth:people:one-answer")
async def test_the_decoy_costs_what_a_real_password_costs(room: humans.Room) -> None:
    decoy = await room.people.passwords.against_nobody()
    await room.person()
    ada = await room.people.users.find(humans.ACME, ADA)
    assert ada is not None
    kept = (await ways.Store(room.store).get(humans.ACME, ada.id)).password
    assert argon2.extract_parameters(decoy) == argon2.extract_parameters(kept)


@pytest.mark.requirement("oauth:people:no-lock-out")
async def test_the_owner_signs_in_from_a_known_device_while_somebody_guesses(room: humans.Room) -> None:
    await room.person()
    device = (await signed_in(room)).device
    for _ in range(throttle.PER_ACCOUNT):
        await refused(room, address=GUESSER)
    with pytest.raises(errors.RateLimited) as slowed:
        await room.sign_in(ADA, humans.PASSWORD, GUESSER)
    assert "known" not in slowed.value.public
    # Not even the right password passes on a strange device meanwhile, from wherever.
    with pytest.raises(errors.RateLimited):
        await room.sign_in(ADA, humans.PASSWORD, "192.0.2.9")
    # The owner's own device is not concerned, nor the address that the guesser shares with it.
    again = await signed_in(room, device=device, address=GUESSER)
    assert (await signed_in(room, device=again.device, address=GUESSER)).user == again.user
    # Another account's mark is worth nothing here.
    await room.person(email="bob@acme.example")
    other = await signed_in(room, email="bob@acme.example")
    with pytest.raises(errors.RateLimited):
        await room.sign_in(ADA, humans.PASSWORD, GUESSER, other.device)
    room.time.advance(throttle.WINDOW_S)
    await signed_in(room)


@pytest.mark.requirement("oauth:people:throttle")
async def test_an_account_that_does_not_exist_is_slowed_like_one_that_does(room: humans.Room) -> None:
    await room.person()
    said: dict[str, list[str]] = {}
    for number, email in enumerate((ADA, "nobody@acme.example")):
        for _ in range(throttle.PER_ACCOUNT + 3):
            try:
                await room.sign_in(email, "wrong wrong wrong", f"192.0.2.{number}")
            except (accounts.SignInRefused, errors.RateLimited) as error:
                said.setdefault(email, []).append(f"{type(error).__name__}: {error.public}")
    assert said[ADA] == said["nobody@acme.example"]
    assert sum("RateLimited" in one for one in said[ADA]) == 3


@pytest.mark.requirement("oauth:people:throttle")
async def test_a_hundred_guesses_at_once_are_no_more_than_ten(room: humans.Room) -> None:
    await room.person()
    said = await asyncio.gather(
        *(room.sign_in(ADA, f"guess number {number}", f"192.0.2.{number}") for number in range(100)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, accounts.SignInRefused) for one in said) == throttle.PER_ACCOUNT
    assert sum(isinstance(one, errors.RateLimited) for one in said) == 100 - throttle.PER_ACCOUNT


@pytest.mark.requirement("oauth:people:throttle")
async def test_what_is_right_or_not_looked_at_does_not_count(room: humans.Room) -> None:
    await room.person()
    for _ in range(2 * throttle.PER_ACCOUNT):
        await signed_in(room)
    hashing = Full(humans.CHEAP)
    full = room.built(hashing)
    for _ in range(2 * throttle.PER_ACCOUNT):
        with pytest.raises(errors.RateLimited, match="Too many people"):
            await full.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, humans.HOME)
    await full.close()


@pytest.mark.requirement("oauth:people:rehash")
async def test_a_hash_with_older_parameters_is_renewed_at_the_next_sign_in(room: humans.Room) -> None:
    user = await room.person()
    stronger = argon2.Parameters(argon2.Type.ID, 19, 16, 32, time_cost=2, memory_cost=128, parallelism=1)
    hashing = passwords.Passwords(stronger)
    later = room.built(hashing)
    found = await later.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, humans.HOME)
    assert isinstance(found, accounts.SignedIn)
    kept = (await ways.Store(room.store).get(humans.ACME, user.id)).password
    assert argon2.extract_parameters(kept) == stronger
    assert isinstance(await later.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, humans.HOME), accounts.SignedIn)
    await later.close()


@pytest.mark.requirement("oauth:people:totp-second")
async def test_an_app_is_asked_after_the_password_and_each_code_passes_once(room: humans.Room) -> None:
    secret, _ = await with_app(room)
    now = code(room, secret)
    first, second = await pending(room), await pending(room)
    found = await room.people.accounts.second(humans.ACME, first, now, humans.HOME)
    assert found.methods == ("password", "totp")
    for step, typed in ((second, now), (first, now)):
        with pytest.raises(accounts.SignInRefused):
            await room.people.accounts.second(humans.ACME, step, typed, humans.HOME)
    room.time.advance(totp.STEP_S)
    assert await room.people.accounts.second(humans.ACME, second, code(room, secret), humans.HOME)


@pytest.mark.requirement("oauth:people:totp-once")
async def test_of_two_that_race_with_one_code_one_gets_in(room: humans.Room) -> None:
    secret, _ = await with_app(room)
    steps = [await pending(room) for _ in range(5)]
    said = await asyncio.gather(
        *(room.people.accounts.second(humans.ACME, step, code(room, secret), humans.HOME) for step in steps),
        return_exceptions=True,
    )
    assert sum(isinstance(one, accounts.SignedIn) for one in said) == 1
    assert sum(isinstance(one, accounts.SignInRefused) for one in said) == 4


@pytest.mark.requirement("oauth:people:totp-second")
async def test_a_step_is_of_one_tenant_ends_and_can_not_be_made(room: humans.Room) -> None:
    secret, _ = await with_app(room)
    step = await pending(room)
    changed = step[:10] + ("A" if step[10] != "A" else "B") + step[11:]
    for tenant, text in ((humans.UMBRA, step), (humans.ACME, changed), (humans.ACME, ""), (humans.ACME, "é")):
        with pytest.raises(accounts.SignInRefused):
            await room.people.accounts.second(tenant, text, code(room, secret), humans.HOME)
    room.time.advance(300)
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.second(humans.ACME, step, code(room, secret), humans.HOME)
    # What ended the account's sessions ends what was half signed in.
    step = await pending(room)
    ada = await room.people.users.find(humans.ACME, ADA)
    assert ada is not None
    await room.people.users.end_everything(humans.ACME, ada.id)
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.second(humans.ACME, step, code(room, secret), humans.HOME)


@pytest.mark.requirement("oauth:people:throttle")
async def test_codes_are_guessed_as_slowly_as_passwords(room: humans.Room) -> None:
    secret, _ = await with_app(room)
    wrong = humans.wrong_code(secret, room.time.now())
    refusals, step = 0, ""
    while refusals < throttle.PER_ACCOUNT:
        step = await pending(room, address=GUESSER)
        with pytest.raises(accounts.SignInRefused):
            await room.people.accounts.second(humans.ACME, step, wrong, GUESSER)
        refusals += 1
    # Neither the last step nor another sign-in gives one more guess.
    with pytest.raises(errors.RateLimited):
        await room.people.accounts.second(humans.ACME, step, wrong, GUESSER)
    with pytest.raises(errors.RateLimited):
        await room.sign_in(address=GUESSER)


@pytest.mark.requirement("oauth:people:recovery-codes")
async def test_a_recovery_code_passes_once_and_is_not_kept(room: humans.Room) -> None:
    _, codes = await with_app(room)
    found = await room.people.accounts.second(humans.ACME, await pending(room), codes[3].upper(), humans.HOME)
    assert found.methods == ("password", "recovery")
    own = await room.people.accounts.own(found.user)
    assert (own.app, own.recovery_codes) == (True, totp.RECOVERY_CODES - 1)
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.second(humans.ACME, await pending(room), codes[3], humans.HOME)
    opened = [entry.value async for entry in room.store.tenant(humans.ACME).kv.snapshot()]
    plain = [one.replace("-", "").encode() for one in codes] + [one.encode() for one in codes]
    assert not any(one in value for value in opened for one in plain)


@pytest.mark.requirement("oauth:people:totp-second")
async def test_an_app_counts_once_a_code_of_it_was_seen_and_goes_again(room: humans.Room) -> None:
    user = await room.person()
    begun = await room.people.accounts.begin_app(user, "SMCP")
    wrong = humans.wrong_code(base64.b32decode(begun.text.replace(" ", "")), room.time.now())
    assert isinstance(await room.sign_in(), accounts.SignedIn)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.confirm_app(user, wrong)
    assert isinstance(await room.sign_in(), accounts.SignedIn)
    await room.people.accounts.remove_app(user)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.confirm_app(user, wrong)


@pytest.mark.requirement("oauth:people:password-change")
async def test_another_password_ends_what_was_open(room: humans.Room) -> None:
    user = await room.person()
    opened = await room.people.sessions.open(user, ("password",), address=humans.HOME)
    ended: list[tuple[str, str]] = []

    async def note(tenant: ids.TenantId, user_id: str) -> None:
        ended.append((tenant, user_id))

    room.people.users.when_ended.append(note)
    signed = await room.people.accounts.set_password(user, humans.OTHER, methods=("passkey",))
    changed = signed.user
    assert signed.methods == ("passkey",)
    assert changed.epoch == user.epoch + 1
    assert ended == [(humans.ACME, user.id)]
    assert await room.people.sessions.find(humans.ACME, opened.cookie) is None
    await refused(room, password=humans.PASSWORD)
    await signed_in(room, password=humans.OTHER)
    # The device at hand stays known, whoever guesses.
    for _ in range(throttle.PER_ACCOUNT):
        with contextlib.suppress(accounts.SignInRefused, errors.RateLimited):
            await room.sign_in(password="wrong wrong wrong", address=GUESSER)
    await signed_in(room, password=humans.OTHER, device=signed.device)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.set_password(changed, "too short")


class Slow(passwords.Passwords):
    """Waits for a word before it says what it has found."""

    def __init__(self, parameters: argon2.Parameters) -> None:
        super().__init__(parameters)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def verify(self, kept: str | None, password: str, *, known: bool = False) -> bool:
        found = await super().verify(kept, password, known=known)
        self.asked.set()
        await self.go_on.wait()
        return found


@pytest.mark.requirement("oauth:people:browser-session-ends")
async def test_an_account_that_is_closed_while_somebody_signs_in_stays_closed(room: humans.Room) -> None:
    user = await room.person()
    hashing = Slow(humans.CHEAP)
    slow = room.built(hashing)
    signing = asyncio.ensure_future(slow.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, humans.HOME))
    await hashing.asked.wait()
    await room.people.users.disable(humans.ACME, user.id)
    hashing.go_on.set()
    with pytest.raises(accounts.SignInRefused):
        await signing
    assert [one["event"] for one in await room.told()].count("signed_in") == 1  # when the account was made
    await slow.close()


@pytest.mark.requirement("oauth:people:steps-bounded")
async def test_what_has_passed_is_remembered_in_bounded_memory_for_each_tenant(room: humans.Room) -> None:
    steps = sealing.Steps(room.store, room.time)
    for number in range(8192):
        assert steps.use(humans.ACME, f"step {number}")
    assert not steps.use(humans.ACME, "step 0")
    with pytest.raises(errors.RateLimited):
        steps.use(humans.ACME, "one more")
    assert steps.use(humans.UMBRA, "one more")
    room.time.advance(sealing.LIFE_S)
    assert steps.use(humans.ACME, "one more")


@pytest.mark.requirement("oauth:people:fail-closed")
async def test_nobody_signs_in_while_the_store_or_the_trail_is_away(room: humans.Room) -> None:
    await room.person()
    await room.trail.close()
    closed = trails.Trail(room.store, room.time, writer="other", ttl_days=1)
    other = room.built(room.people.passwords, closed)
    with pytest.raises(errors.Unavailable):
        await other.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, humans.HOME)
    await room.store.close()
    for asked in (
        room.people.accounts.sign_in(humans.ACME, ADA, humans.PASSWORD, humans.HOME),
        room.people.sessions.find(humans.ACME, "anything"),
        room.people.accounts.invited(humans.ACME, "anything", humans.HOME),
    ):
        with pytest.raises(errors.Unavailable):
            await asked


@pytest.mark.requirement("oauth:people:kept-hashed")
async def test_no_password_is_in_what_is_stored_or_shown(room: humans.Room) -> None:
    user = await room.person()
    kept = await ways.Store(room.store).get(humans.ACME, user.id)
    opened = [entry.value async for entry in room.store.tenant(humans.ACME).kv.snapshot()]
    keys = [str(entry.key) async for entry in room.store.tenant(humans.ACME).kv.snapshot()]
    assert not any(humans.PASSWORD.encode() in value for value in opened)
    assert kept.password.startswith("$argon2id$")
    assert kept.password not in repr(kept)
    # Keys are not sealed: no address stands in one.
    assert not any("@" in key or "example" in key for key in keys)
    assert humans.PASSWORD not in str(await room.told())


@pytest.mark.requirement("oauth:people:password-as-it-was")
async def test_a_person_who_was_signed_out_meanwhile_sets_no_password(room: humans.Room) -> None:
    """Attack: a thief's new password is being hashed while its owner signs out everywhere."""
    user = await room.person()
    await room.people.users.end_everything(humans.ACME, user.id)
    with pytest.raises(errors.Unauthenticated):
        await room.people.accounts.set_password(user, humans.OTHER)
    assert isinstance(await room.sign_in(), accounts.SignedIn)
