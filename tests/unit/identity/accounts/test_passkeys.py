"""Passkeys: made, used, refused. The authenticator is software, its signatures are real."""

import json

import pytest

from smcp.identity.accounts import accounts, passkeys, throttle, users
from smcp.kernel import errors
from support import authenticator, humans

ORIGIN = humans.ORIGIN


async def added(room: humans.Room, user: users.User, origin: str = ORIGIN) -> authenticator.Authenticator:
    """A passkey of `user`."""
    key = authenticator.Authenticator(origin)
    begun = await room.people.accounts.begin_adding_passkey(user, origin)
    await room.people.accounts.finish_adding_passkey(user, begun.step, key.create(begun.options), "laptop")
    return key


async def used(room: humans.Room, key: authenticator.Authenticator, origin: str = ORIGIN) -> accounts.SignedIn:
    """Sign in with it."""
    begun = room.people.accounts.begin_passkey(humans.ACME, origin)
    return await room.people.accounts.finish_passkey(humans.ACME, begun.step, key.get(begun.options), humans.HOME)


@pytest.mark.requirement("oauth:people:passkey")
async def test_a_passkey_signs_in_alone(room: humans.Room) -> None:
    user = await room.person()
    key = await added(room, user)
    found = await used(room, key)
    assert (found.user, found.methods) == (user, ("passkey",))
    own = (await room.people.accounts.own(user)).passkeys
    assert [(one.name, one.rp, one.used) for one in own] == [("laptop", "smcp.example", room.time.now())]
    await room.people.accounts.remove_passkey(user, own[0].id)
    with pytest.raises(accounts.SignInRefused):
        await used(room, key)
    with pytest.raises(errors.NotFound):
        await room.people.accounts.remove_passkey(user, own[0].id)
    assert [one["what"] for one in await room.told() if one["event"] == "user_changed"] == [
        "passkey",
        "passkey-removed",
    ]


@pytest.mark.requirement("oauth:people:passkey-rules")
async def test_what_is_asked_for_is_verified_people_and_discoverable_keys(room: humans.Room) -> None:
    user = await room.person()
    await added(room, user)
    making = (await room.people.accounts.begin_adding_passkey(user, ORIGIN)).options
    assert making["authenticatorSelection"] == {
        "residentKey": "required",
        "requireResidentKey": True,
        "userVerification": "required",
    }
    assert [one["alg"] for one in making["pubKeyCredParams"]] == [-7, -8, -257]
    assert len(making["excludeCredentials"]) == 1
    assert making["rp"]["id"] == "smcp.example"
    asking = room.people.accounts.begin_passkey(humans.ACME, ORIGIN).options
    assert (asking["userVerification"], asking["rpId"]) == ("required", "smcp.example")
    # Whoever asks learns of nobody's passkeys.
    assert "allowCredentials" not in asking
    json.dumps([making, asking])


@pytest.mark.requirement("oauth:people:passkey-rules")
async def test_without_a_pin_or_a_finger_a_passkey_is_refused(room: humans.Room) -> None:
    user = await room.person()
    key = await added(room, user)
    key.verifies = False
    with pytest.raises(accounts.SignInRefused):
        await used(room, key)
    lazy = authenticator.Authenticator(ORIGIN)
    lazy.verifies = False
    begun = await room.people.accounts.begin_adding_passkey(user, ORIGIN)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.finish_adding_passkey(user, begun.step, lazy.create(begun.options), "x")
    odd = authenticator.Authenticator(ORIGIN)
    begun = await room.people.accounts.begin_adding_passkey(user, ORIGIN)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.finish_adding_passkey(
            user, begun.step, odd.create(begun.options, algorithm=-47), "x"
        )


@pytest.mark.requirement("oauth:people:passkey-once")
async def test_an_answer_passes_once_for_its_own_challenge_and_tenant(room: humans.Room) -> None:
    key = await added(room, await room.person())
    begun = room.people.accounts.begin_passkey(humans.ACME, ORIGIN)
    answer = key.get(begun.options)
    finish = room.people.accounts.finish_passkey
    other = room.people.accounts.begin_passkey(humans.ACME, ORIGIN)
    for tenant, step, told in (
        (humans.ACME, other.step, answer),
        (humans.UMBRA, begun.step, answer),
        (humans.ACME, begun.step[:-2], answer),
    ):
        with pytest.raises(accounts.SignInRefused):
            await finish(tenant, step, told, humans.HOME)
    assert await finish(humans.ACME, begun.step, answer, humans.HOME)
    with pytest.raises(accounts.SignInRefused):
        await finish(humans.ACME, begun.step, answer, humans.HOME)
    late = room.people.accounts.begin_passkey(humans.ACME, ORIGIN)
    answer = key.get(late.options)
    room.time.advance(300)
    with pytest.raises(accounts.SignInRefused):
        await finish(humans.ACME, late.step, answer, humans.HOME)
    # A challenge for adding signs nobody in.
    ada = await room.people.users.find(humans.ACME, "ada@acme.example")
    assert ada is not None
    adding = await room.people.accounts.begin_adding_passkey(ada, ORIGIN)
    with pytest.raises(accounts.SignInRefused):
        await finish(humans.ACME, adding.step, key.get(adding.options | {"rpId": "smcp.example"}), humans.HOME)


@pytest.mark.requirement("oauth:people:passkey-origin")
async def test_another_origins_page_gets_nothing(room: humans.Room) -> None:
    key = await added(room, await room.person())
    for origin in (
        "https://smcp.example.evil.test",
        "https://sub.smcp.example",
        "https://smcp.example:444",
        "http://smcp.example",
    ):
        key.origin = origin
        with pytest.raises(accounts.SignInRefused):
            await used(room, key)
    key.origin = "http://localhost:8080"
    with pytest.raises(accounts.SignInRefused):  # made for another host
        await used(room, key, "http://localhost:8080")


@pytest.mark.requirement("oauth:people:passkey-origin")
async def test_localhost_has_passkeys_and_ip_addresses_do_not(room: humans.Room) -> None:
    for origin in ("http://localhost:8080", "https://localhost", "https://smcp.example:8443"):
        assert passkeys.usable(origin)
    user = await room.person()
    for origin in (
        "http://127.0.0.1:8080",
        "https://127.0.0.1",
        "https://[::1]:8080",
        "https://203.0.113.5",
        "http://smcp.example",
        "https://0x7f.1",
        "",
    ):
        assert not passkeys.usable(origin)
        with pytest.raises(errors.InvalidParams, match="localhost"):
            room.people.accounts.begin_passkey(humans.ACME, origin)
        with pytest.raises(errors.InvalidParams, match="localhost"):
            await room.people.accounts.begin_adding_passkey(user, origin)
    local = await added(room, user, "http://localhost:8080")
    assert await used(room, local, "http://localhost:8080")


@pytest.mark.requirement("oauth:people:passkey-clone")
async def test_a_counter_that_goes_back_tells_of_a_copy(room: humans.Room) -> None:
    key = await added(room, await room.person())
    await used(room, key)
    await used(room, key)
    key.counter = 1
    with pytest.raises(accounts.SignInRefused):
        await used(room, key)
    key.counter = 7
    assert await used(room, key)


@pytest.mark.requirement("oauth:people:no-lock-out")
async def test_a_passkey_signs_in_while_somebody_guesses_at_the_password(room: humans.Room) -> None:
    key = await added(room, await room.person())
    for _ in range(throttle.PER_ACCOUNT):
        with pytest.raises(accounts.SignInRefused):
            await room.sign_in(password="wrong wrong wrong", address=humans.HOME)
    with pytest.raises(errors.RateLimited):
        await room.sign_in()
    assert await used(room, key)


@pytest.mark.requirement("oauth:people:passkey-rules")
@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null",
        "[]",
        "{}",
        "{",
        '{"id":"x"}',
        '{"rawId":"!!","response":{},"type":"public-key","id":""}',
        "9" * 70_000,
    ],
)
async def test_what_is_no_answer_is_refused(room: humans.Room, answer: str) -> None:
    user = await room.person()
    begun = room.people.accounts.begin_passkey(humans.ACME, ORIGIN)
    with pytest.raises(accounts.SignInRefused):
        await room.people.accounts.finish_passkey(humans.ACME, begun.step, answer, humans.HOME)
    adding = await room.people.accounts.begin_adding_passkey(user, ORIGIN)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.finish_adding_passkey(user, adding.step, answer, "x")


@pytest.mark.requirement("oauth:people:passkey-rules")
async def test_a_passkey_is_added_to_who_began_and_the_closed_do_not_get_in(room: humans.Room) -> None:
    ada, bob = await room.person(), await room.person(email="bob@acme.example")
    key = authenticator.Authenticator(ORIGIN)
    begun = await room.people.accounts.begin_adding_passkey(ada, ORIGIN)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.finish_adding_passkey(bob, begun.step, key.create(begun.options), "x")
    key = await added(room, ada)
    key.user = bob.id.encode()  # claims to be somebody else's
    with pytest.raises(accounts.SignInRefused):
        await used(room, key)
    key.user = ada.id.encode()
    await room.people.users.disable(humans.ACME, ada.id)
    with pytest.raises(accounts.SignInRefused):
        await used(room, key)
