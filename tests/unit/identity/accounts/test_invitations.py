"""Invitations and the set-up: who gets an account, once."""

import asyncio

import pytest

from smcp.access import policy
from smcp.identity.accounts import accounts, invitations, throttle
from smcp.kernel import errors, ids
from support import humans

EMAIL = "ada@acme.example"


async def invite(room: humans.Room, email: str = EMAIL) -> str:
    return (await room.people.invitations.invite(humans.ACME, email, "Ada", ["mcp_user"], by=room.by)).text


async def invalid(room: humans.Room, code: str, tenant: ids.TenantId = humans.ACME) -> None:
    with pytest.raises(errors.NotFound) as said:
        await room.people.accounts.invited(tenant, code, humans.HOME)
    assert "This code is not valid" in said.value.public


@pytest.mark.requirement("oauth:people:invitation")
async def test_an_invitation_makes_one_account_with_its_roles_and_address(room: humans.Room) -> None:
    code = await invite(room)
    shown = await room.people.accounts.invited(humans.ACME, f" {code}\n", humans.HOME)
    assert (shown.email, shown.name, shown.roles) == (EMAIL, "Ada", ("mcp_user",))
    found = await room.people.accounts.accept(
        humans.ACME, code, "Ada L.", humans.PASSWORD, humans.HOME, email="evil@acme.example"
    )
    assert (found.user.email, found.user.name, found.user.roles) == (EMAIL, "Ada L.", ("mcp_user",))
    assert found.methods == ("setup", "password")
    await invalid(room, code)
    told = await room.told()
    assert [one["event"] for one in told if one["event"] != "checkpoint"][-3:] == [
        "user_created",
        "signed_in",
        "sign_in_failed",
    ]


@pytest.mark.requirement("oauth:people:invitation-once")
async def test_of_many_that_race_with_one_code_one_has_an_account(room: humans.Room) -> None:
    code = await invite(room)
    said = await asyncio.gather(
        *(room.people.accounts.accept(humans.ACME, code, f"N{n}", humans.PASSWORD, humans.HOME) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, accounts.SignedIn) for one in said) == 1
    assert all(isinstance(one, accounts.SignedIn | errors.Conflict | errors.NotFound) for one in said)
    assert len(await room.people.users.list(humans.ACME)) == 1


@pytest.mark.requirement("oauth:people:invitation-once")
async def test_a_weak_password_leaves_the_invitation_good(room: humans.Room) -> None:
    code = await invite(room)
    with pytest.raises(errors.InvalidParams):
        await room.people.accounts.accept(humans.ACME, code, "Ada", "short", humans.HOME)
    assert await room.people.accounts.accept(humans.ACME, code, "Ada", humans.PASSWORD, humans.HOME)


@pytest.mark.requirement("oauth:people:invitation-ends")
async def test_an_invitation_ends_after_seven_days_when_withdrawn_and_by_a_newer_one(room: humans.Room) -> None:
    first = await invite(room)
    second = await invite(room)
    await invalid(room, first)
    room.time.advance(invitations.LIFE_S - 1)
    assert await room.people.accounts.invited(humans.ACME, second, humans.HOME)
    room.time.advance(1)
    await invalid(room, second)
    third = await invite(room)
    (waiting,) = await room.people.invitations.list(humans.ACME)
    await room.people.invitations.withdraw(humans.ACME, waiting.id)
    await invalid(room, third)
    for name in (waiting.id, "inv-", "../x"):
        with pytest.raises(errors.NotFound):
            await room.people.invitations.withdraw(humans.ACME, name)


@pytest.mark.requirement("oauth:people:invitation")
async def test_a_code_is_of_one_tenant_and_is_not_guessed(room: humans.Room) -> None:
    code = await invite(room)
    await invalid(room, code, humans.UMBRA)
    swapped = code.replace("_acme_", "_umbra_")
    for text in (code[:-1], code[:-1] + ("0" if code[-1] != "0" else "1"), "", "smci_acme_", code.upper(), swapped):
        await invalid(room, text)
    tried = 0
    while tried < throttle.PER_ADDRESS:
        try:
            await invalid(room, "smci_acme_x")
        except errors.RateLimited:
            break
        tried += 1
    assert 0 < tried < throttle.PER_ADDRESS
    # From elsewhere it is as good as before.
    assert await room.people.accounts.invited(humans.ACME, code, "192.0.2.1")


@pytest.mark.requirement("oauth:people:kept-hashed")
async def test_no_code_is_in_what_is_stored_or_shown(room: humans.Room) -> None:
    issued = await room.people.invitations.invite(humans.ACME, EMAIL, "Ada", ["admin"], by=room.by)
    secret = issued.text[-39:-7]
    opened = [entry.value async for entry in room.store.tenant(humans.ACME).kv.snapshot()]
    assert not any(secret.encode() in value for value in opened)
    assert secret not in repr(issued)
    assert repr(issued.invitation.digest) not in repr(issued)


@pytest.mark.requirement("oauth:people:invitation")
async def test_an_address_has_one_account(room: humans.Room) -> None:
    await room.person()
    with pytest.raises(errors.Conflict):
        await invite(room, "ADA@acme.example")
    # Also when both were invited before either came.
    code = await invite(room, "bob@acme.example")
    (waiting,) = await room.people.invitations.list(humans.ACME)
    await room.person(email="bob@acme.example")
    assert waiting.id not in [one.id for one in await room.people.invitations.list(humans.ACME)]
    await invalid(room, code)
    # The same address in another tenant is somebody else.
    assert (await room.person(humans.UMBRA)).tenant == humans.UMBRA


@pytest.mark.requirement("oauth:people:invitation")
async def test_addresses_names_and_roles_are_bounded(room: humans.Room) -> None:
    for email in ("", "x", "@", "a@", "a b@c", "a@b\nc", "a" * 300 + "@b.example", '"a"@b', "a@b@c"):
        with pytest.raises(errors.InvalidParams):
            await invite(room, email)
    for name in ("x" * 81, "a\x07b"):
        with pytest.raises(errors.InvalidParams):
            await room.people.invitations.invite(humans.ACME, EMAIL, name, ["admin"], by=room.by)
    with pytest.raises(errors.InvalidParams):
        await room.people.invitations.invite(humans.ACME, EMAIL, "Ada", [], by=room.by)


@pytest.mark.requirement("oauth:people:again")
async def test_who_has_lost_every_way_begins_anew_with_the_same_account(room: humans.Room) -> None:
    user = await room.person()
    opened = await room.people.sessions.open(user, ("password",), address=humans.HOME)
    issued = await room.people.invitations.again(user, by=room.by)
    found = await room.people.accounts.accept(humans.ACME, issued.text, "", humans.OTHER, humans.HOME)
    assert (found.user.id, found.user.roles, found.user.epoch) == (user.id, user.roles, user.epoch + 1)
    assert await room.people.sessions.find(humans.ACME, opened.cookie) is None
    with pytest.raises(accounts.SignInRefused):
        await room.sign_in()
    assert isinstance(await room.sign_in(password=humans.OTHER), accounts.SignedIn)
    await invalid(room, issued.text)
    # A closed account is not opened by an older code.
    issued = await room.people.invitations.again(found.user, by=room.by)
    await room.people.users.disable(humans.ACME, user.id)
    with pytest.raises(errors.NotFound):
        await room.people.accounts.accept(humans.ACME, issued.text, "", humans.PASSWORD, humans.HOME)


@pytest.mark.requirement("oauth:people:setup")
async def test_the_set_up_makes_the_first_operator_and_nobody_else(room: humans.Room) -> None:
    rooms = room.people
    assert await rooms.users.list(ids.PLATFORM) == []  # no anonymous administrator, and no default one
    assert await rooms.invitations.needs_set_up()
    first = await rooms.invitations.set_up(by=None)
    assert not await rooms.invitations.needs_set_up()
    second = await rooms.invitations.set_up(by=None)
    await invalid(room, first.text, ids.PLATFORM)
    with pytest.raises(errors.InvalidParams):  # an address must be told
        await rooms.accounts.accept(ids.PLATFORM, second.text, "Olga", humans.PASSWORD, humans.HOME)
    found = await rooms.accounts.accept(
        ids.PLATFORM, second.text, "Olga", humans.PASSWORD, humans.HOME, email="olga@ops.example"
    )
    assert (found.user.tenant, found.user.roles) == (ids.PLATFORM, (policy.Role.OPERATOR,))
    await invalid(room, second.text, ids.PLATFORM)
    assert not await rooms.invitations.needs_set_up()
    with pytest.raises(errors.Conflict):
        await rooms.invitations.set_up(by=None)


@pytest.mark.requirement("oauth:people:setup")
async def test_a_set_up_code_ends_after_a_day_and_once_anybody_has_an_account(room: humans.Room) -> None:
    issued = await room.people.invitations.set_up(by=None)
    room.time.advance(invitations.SETUP_S)
    await invalid(room, issued.text, ids.PLATFORM)
    issued = await room.people.invitations.set_up(by=None)
    await room.person(ids.PLATFORM, "olga@ops.example", "operator")
    await invalid(room, issued.text, ids.PLATFORM)


@pytest.mark.requirement("oauth:people:again-as-it-was")
@pytest.mark.parametrize("how", ["roles", "password", "signed-out", "closed-and-opened"])
async def test_a_code_to_begin_anew_does_not_outlive_what_it_was_for(room: humans.Room, how: str) -> None:
    """Attack: a helpdesk keeps a code for an ordinary account until its owner is an administrator."""
    user = await room.person(role="mcp_user")
    issued = await room.people.invitations.again(user, by=room.by)
    if how == "roles":
        await room.people.users.set_roles(humans.ACME, user.id, ["admin"])
    elif how == "password":
        await room.people.accounts.set_password(user, humans.OTHER)
    elif how == "signed-out":
        await room.people.users.end_everything(humans.ACME, user.id)
    else:
        await room.people.users.disable(humans.ACME, user.id)
        await room.people.users.enable(humans.ACME, user.id)
    assert await room.people.invitations.list(humans.ACME) == []
    with pytest.raises(errors.NotFound):
        await room.people.accounts.accept(humans.ACME, issued.text, "", humans.OTHER, humans.HOME)


@pytest.mark.requirement("oauth:people:again-as-it-was")
async def test_a_code_made_for_an_older_look_at_the_account_is_refused(room: humans.Room) -> None:
    """Attack: the account changes between the look at it and the code, so that nothing withdraws the code."""
    user = await room.person(role="mcp_user")
    await room.people.users.set_roles(humans.ACME, user.id, ["admin"])
    issued = await room.people.invitations.again(user, by=room.by)
    with pytest.raises(errors.NotFound, match="changed"):
        await room.people.accounts.accept(humans.ACME, issued.text, "", humans.OTHER, humans.HOME)
    now = await room.people.users.require(humans.ACME, user.id)
    issued = await room.people.invitations.again(now, by=room.by)
    await room.people.users.end_everything(humans.ACME, user.id)
    issued = await room.people.invitations.again(now, by=room.by)
    with pytest.raises(errors.NotFound, match="changed"):
        await room.people.accounts.accept(humans.ACME, issued.text, "", humans.OTHER, humans.HOME)
    assert isinstance(await room.sign_in(), accounts.SignedIn)
