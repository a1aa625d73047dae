"""An invitation is worth no more than its inviter is when somebody comes with it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from smcp.access import roles as model
from smcp.identity.accounts import accounts, invitations, inviters
from smcp.identity.oauth import clients
from smcp.kernel import errors, ids
from support import authorizing, humans

EVE = "eve@acme.example"


async def invite(room: humans.Room, by: invitations.By, *roles: str, **more: Any) -> str:
    held = await room.roles.rules(humans.ACME, roles)
    made = await room.people.invitations.invite(humans.ACME, EVE, "Eve", roles, by=by, rules=held.rules, **more)
    return made.text


async def comes(room: humans.Room, code: str, tenant: ids.TenantId = humans.ACME) -> accounts.SignedIn:
    return await room.people.accounts.accept(tenant, code, "", humans.PASSWORD, humans.HOME)


async def refused(room: humans.Room, code: str, why: str) -> None:
    """Refused with the one text, told in the trail, and at an end."""
    for _ in range(2):
        with pytest.raises(errors.NotFound, match="This code is not valid") as said:
            await comes(room, code)
        assert said.value.public == invitations.invalid("").public
    assert await room.people.users.find(humans.ACME, EVE) is None
    assert await room.people.invitations.list(humans.ACME) == []
    told = [one for one in await room.told() if one["event"] == "invitation_refused"]
    assert [one["why"] for one in told] == [why]


async def admin(room: humans.Room, tenant: ids.TenantId = humans.ACME) -> invitations.By:
    role = "operator" if tenant == ids.PLATFORM else "admin"
    return invitations.By(tenant, (await room.person(tenant, "boss@acme.example", role)).id)


@pytest.mark.requirement("oauth:people:inviter-stands")
@pytest.mark.parametrize("tenant", [humans.ACME, ids.PLATFORM])
async def test_an_invitation_of_who_was_closed_is_of_no_use(room: humans.Room, tenant: ids.TenantId) -> None:
    """Attack: an administrator, or an operator, who expects to be closed leaves a code for a friend."""
    by = await admin(room, tenant)
    code = await invite(room, by, "admin")
    await room.people.users.disable(by.tenant, by.id)
    await refused(room, code, inviters.GONE)


@pytest.mark.requirement("oauth:people:inviter-stands")
@pytest.mark.parametrize("tenant", [humans.ACME, ids.PLATFORM])
async def test_an_invitation_of_who_lost_the_role_is_of_no_use(room: humans.Room, tenant: ids.TenantId) -> None:
    """Attack: an administrator who is made an ordinary user comes back as one by the code they kept."""
    by = await admin(room, tenant)
    code = await invite(room, by, "admin")
    await room.people.users.set_roles(by.tenant, by.id, ["mcp_user" if tenant == humans.ACME else "read_only"])
    await refused(room, code, inviters.LESS)


@pytest.mark.requirement("oauth:people:inviter-stands")
async def test_what_the_inviter_still_may_give_is_given(room: humans.Room) -> None:
    await room.roles.set(humans.ACME, model.Custom(name="hr", actions=("user:invite", "tenant:read", "mcp:list")))
    await room.roles.set(humans.ACME, model.Custom(name="lists", actions=("mcp:list",)))
    by = await admin(room)
    code = await invite(room, by, "lists")
    await room.people.users.set_roles(humans.ACME, by.id, ["hr"])
    assert (await comes(room, code)).user.roles == ("lists",)


async def revoked(room: humans.Room, key: str) -> None:
    await room.keys.revoke(humans.ACME, key)


async def ended(room: humans.Room, key: str) -> None:
    room.time.advance(3600.0)


@pytest.mark.requirement("oauth:people:inviter-stands")
@pytest.mark.parametrize("end", [revoked, ended])
async def test_an_invitation_ends_with_the_key_that_made_it(
    room: humans.Room, end: Callable[[humans.Room, str], Awaitable[None]]
) -> None:
    """Attack: a stolen key makes codes that wait until it has been revoked."""
    by = await room.key(humans.ACME, "admin", expires_in_s=3600.0)
    code = await invite(room, by, "mcp_user")
    await end(room, by.id)
    await refused(room, code, inviters.GONE)


@pytest.mark.requirement("oauth:people:inviter-stands")
async def test_a_key_gives_no_more_than_its_scopes_let_it(room: humans.Room) -> None:
    wide = await room.key(humans.ACME, "admin")
    assert (await comes(room, await invite(room, wide, "mcp_user"))).user.roles == ("mcp_user",)
    user = await room.people.users.find(humans.ACME, EVE)
    assert user is not None
    for narrow in ({"scopes": ("api:read",)}, {"servers": ("files",)}, {"networks": ("10.0.0.0/8",)}):
        by = await room.key(humans.ACME, "admin", **narrow)
        issued = await room.people.invitations.again(user, by=by)
        with pytest.raises(errors.NotFound, match="This code is not valid"):
            await comes(room, issued.text)
    told = [one["why"] for one in await room.told() if one["event"] == "invitation_refused"]
    assert told == [inviters.LESS] * 3


@pytest.mark.requirement("oauth:people:inviter-stands")
async def test_a_code_to_begin_anew_ends_with_its_maker_too(room: humans.Room) -> None:
    """Attack: an operator who is leaving keeps a code for a tenant's administrator."""
    by = await admin(room, ids.PLATFORM)
    user = await room.person()
    issued = await room.people.invitations.again(user, by=by)
    await room.people.users.disable(ids.PLATFORM, by.id)
    with pytest.raises(errors.NotFound, match="This code is not valid"):
        await comes(room, issued.text)
    assert isinstance(await room.sign_in(), accounts.SignedIn)


async def application(room: humans.Room, *roles: str) -> clients.Client:
    said = authorizing.metadata()
    grants = ("authorization_code",) if not roles else ("client_credentials",)
    return (await room.clients.create(humans.ACME, said, grant_types=grants, roles=roles)).client


@pytest.mark.requirement("oauth:people:inviter-stands")
@pytest.mark.parametrize("alone", [True, False])
async def test_an_invitation_ends_with_the_client_that_made_it(room: humans.Room, *, alone: bool) -> None:
    """Attack: a client that turned out to be hostile has invited, as itself or in an administrator's name."""
    person = (await admin(room)).id
    codes: list[str] = []
    client = await application(room, "admin") if alone else await application(room)
    by = invitations.By(humans.ACME, client.id if alone else person, client.id)
    assert (await comes(room, await invite(room, by, "mcp_user"))).user.email == EVE
    bob = await room.people.invitations.invite(humans.ACME, "bob@acme.example", "", ["mcp_user"], by=by)
    codes.append(bob.text)
    await room.clients.revoke(humans.ACME, client.id)
    with pytest.raises(errors.NotFound, match="This code is not valid"):
        await comes(room, codes[0])
    assert [one["why"] for one in await room.told() if one["event"] == "invitation_refused"] == [inviters.GONE]


@pytest.mark.requirement("oauth:people:inviter-stands")
@pytest.mark.parametrize("by", ["user-01kaq3v7q0zj1x5w9n2c8d4f6g", "key-01kaq3v7q0zj1x5w", "nobody"])
async def test_who_was_never_there_has_invited_nobody(room: humans.Room, by: str) -> None:
    await refused(room, await invite(room, invitations.By(humans.ACME, by), "mcp_user"), inviters.GONE)


@pytest.mark.requirement("oauth:people:inviter-stands")
async def test_the_administrator_of_one_tenant_invites_nobody_into_another(room: humans.Room) -> None:
    by = await room.key(humans.UMBRA, "admin")
    await refused(room, await invite(room, by, "mcp_user"), inviters.LESS)


@pytest.mark.requirement("oauth:people:role-made-again")
async def test_a_role_that_was_made_again_does_not_come_through_an_old_invitation(room: humans.Room) -> None:
    """Attack: somebody is invited for little, the role is deleted, and later its name is used for much."""
    await room.roles.set(humans.ACME, model.Custom(name="helper", actions=("mcp:list",)))
    code = await invite(room, room.by, "helper")
    await room.roles.delete(humans.ACME, "helper")
    await room.roles.set(humans.ACME, model.Custom(name="helper", actions=("mcp:list", "key:create", "user:invite")))
    await refused(room, code, inviters.OTHERS)


@pytest.mark.requirement("oauth:people:role-made-again")
@pytest.mark.parametrize("change", ["deleted", "wider", "other servers", "the same"])
async def test_an_invitation_gives_what_its_roles_gave(room: humans.Room, change: str) -> None:
    made = model.Custom(name="helper", description="Helps", actions=("mcp:list",), servers=("files",))
    await room.roles.set(humans.ACME, made)
    code = await invite(room, room.by, "helper", "read_only")
    if change == "deleted":
        await room.roles.delete(humans.ACME, "helper")
    elif change == "wider":
        wider = model.Custom(name="helper", actions=("mcp:list", "mcp:call"), servers=("files",))
        await room.roles.set(humans.ACME, wider)
    elif change == "other servers":
        await room.roles.set(humans.ACME, model.Custom(name="helper", actions=("mcp:list",), servers=("mail",)))
    else:
        room.time.advance(60)
        words = model.Custom(name="helper", description="Helps a lot", actions=("mcp:list",), servers=("files",))
        await room.roles.set(humans.ACME, words)
        assert (await comes(room, code)).user.roles == ("helper", "read_only")
        return
    await refused(room, code, inviters.OTHERS)
