"""People over the admin API: who may do what to whom."""

import pytest

from smcp.access import policy
from smcp.access import roles as custom
from smcp.control import endpoint, users
from smcp.identity.accounts import accounts, invitations
from smcp.kernel import errors, ids
from support import humans
from unit.control import world as worlds

ADMIN = f"{worlds.OWN}/admin"
HERE = f"/api/v1/tenants/{worlds.OWN}"
PLATFORM = f"/api/v1/tenants/{ids.PLATFORM}"


@pytest.mark.requirement("oauth:people:api")
async def test_a_person_is_invited_comes_and_is_listed_without_anything_secret(world: worlds.World) -> None:
    order = {"email": "Ada@Example.org", "name": "Ada", "roles": ["mcp_user", "admin"]}
    made = await world.ok("POST", f"{HERE}/invitations", ADMIN, json=order)
    assert made["url"] == f"{worlds.BASE}/account/acme/invite"
    assert made["code"].startswith("smci_acme_")
    waiting = await world.send("GET", f"{HERE}/invitations", ADMIN)
    assert [one["email"] for one in waiting.json()["items"]] == ["ada@example.org"]
    assert made["code"][-39:-7] not in waiting.text + world.log.getvalue()
    found = await world.parts.people.accounts.accept(worlds.OWN, made["code"], "", humans.PASSWORD, humans.HOME)
    assert (await world.ok("GET", f"{HERE}/invitations", ADMIN))["items"] == []
    opened = await world.parts.people.sessions.open(found.user, found.methods, address=humans.HOME, agent="B/1")
    shown = await world.ok("GET", f"{HERE}/users/{found.user.id}", ADMIN)
    assert {name: shown[name] for name in ("name", "roles", "disabled", "app", "passkeys", "sessions")} == {
        "name": "Ada",
        "roles": ["admin", "mcp_user"],
        "disabled": False,
        "app": False,
        "passkeys": 0,
        "sessions": 1,
    }
    listed = await world.send("GET", f"{HERE}/users", ADMIN)
    visits = await world.send("GET", f"{HERE}/users/{found.user.id}/sessions", ADMIN)
    assert [one["id"] for one in visits.json()["items"]] == [opened.session.id]
    for secret in ("argon2", "digest", opened.cookie, opened.session.place):
        assert secret not in listed.text + visits.text + str(shown)


@pytest.mark.requirement("oauth:people:api")
async def test_closing_signing_out_and_beginning_anew_count_from_the_next_request_on(world: worlds.World) -> None:
    user = await world.person(worlds.OWN, "mcp_user")
    sessions = world.parts.people.sessions

    async def visit() -> str:
        now = await world.parts.people.users.require(worlds.OWN, user.id)
        return (await sessions.open(now, ("password",), address=humans.HOME)).cookie

    there = f"{HERE}/users/{user.id}"
    cookie = await visit()
    await world.ok("POST", f"{there}/sign-out", ADMIN)
    assert await sessions.find(worlds.OWN, cookie) is None
    cookie = await visit()
    assert (await world.ok("POST", f"{there}/disable", ADMIN))["disabled"]
    assert await sessions.find(worlds.OWN, cookie) is None
    assert (await world.send("POST", f"{there}/invitation", ADMIN)).status_code == 409
    assert not (await world.ok("POST", f"{there}/enable", ADMIN))["disabled"]
    code = (await world.ok("POST", f"{there}/invitation", ADMIN))["code"]
    again = await world.parts.people.accounts.accept(worlds.OWN, code, "", humans.OTHER, humans.HOME)
    assert isinstance(again, accounts.SignedIn)
    assert again.user.id == user.id
    changed = await world.ok("PUT", f"{there}/roles", ADMIN, json={"roles": ["read_only"]})
    assert changed["roles"] == ["read_only"]
    told = [event["event"] for event in await world.trail(worlds.OWN)]
    assert [name for name in told if name.startswith(("user_", "signed_out"))][-6:] == [
        "signed_out",
        "user_disabled",
        "user_enabled",
        "user_invited",
        "user_changed",
        "user_changed",
    ]


@pytest.mark.requirement("oauth:people:leaves-nothing")
async def test_who_is_closed_leaves_no_invitation_behind(world: worlds.World) -> None:
    """Attack: an administrator who expects to be closed invites themselves before."""
    user = await world.person(worlds.OWN, "admin")
    invite = world.parts.people.invitations.invite
    left = await invite(worlds.OWN, "eve@example.org", "", ["admin"], by=invitations.By(worlds.OWN, user.id))
    kept = await invite(worlds.OWN, "bob@example.org", "", ["admin"], by=world.by)
    await world.ok("POST", f"{HERE}/users/{user.id}/disable", ADMIN)
    waiting = await world.ok("GET", f"{HERE}/invitations", ADMIN)
    assert [one["id"] for one in waiting["items"]] == [kept.invitation.id]
    with pytest.raises(errors.NotFound):
        await world.parts.people.accounts.accept(worlds.OWN, left.text, "", humans.PASSWORD, humans.HOME)
    told = [one for one in await world.trail(worlds.OWN) if one["event"] == "invitation_withdrawn"]
    assert [one["invitation"] for one in told] == [left.invitation.id]


@pytest.mark.requirement("oauth:people:no-more-than-own")
async def test_nobody_gives_a_role_that_they_could_not_be_given(world: worlds.World) -> None:
    user = await world.person(worlds.OWN, "read_only")
    for names in (["operator"], ["admin", "operator"], ["nothing-like-it"]):
        order = {"email": "eve@example.org", "roles": names}
        assert (await world.send("POST", f"{HERE}/invitations", ADMIN, json=order)).status_code == 403
        answer = await world.send("PUT", f"{HERE}/users/{user.id}/roles", ADMIN, json={"roles": names})
        assert answer.status_code == 403
    order = {"email": "eve@example.org", "roles": ["admin"]}
    assert (await world.send("POST", f"{PLATFORM}/invitations", "operator", json=order)).status_code == 403
    assert (await world.send("POST", f"{PLATFORM}/invitations", ADMIN, json=order)).status_code == 404
    assert (await world.parts.people.users.require(worlds.OWN, user.id)).roles == ("read_only",)


@pytest.mark.requirement("oauth:people:no-more-than-own")
async def test_who_may_invite_but_is_no_administrator_has_no_way_to_an_administrators_account(
    world: worlds.World,
) -> None:
    """Attack: privilege escalation by taking over, closing or degrading an account that may more."""
    may = ("user:invite", "user:roles", "user:disable", "user:enable", "user:sessions", "user:list", "tenant:read")
    await world.parts.roles.set(worlds.OWN, custom.Custom(name="hr", actions=may))
    held = await world.parts.roles.rules(worlds.OWN, ["hr"])
    hr = policy.Principal(worlds.OWN, "key-hr", "api_key", ("hr",), rules=held.rules)
    admin, colleague = await world.person(worlds.OWN, "admin"), await world.person(worlds.OWN, "hr")
    await world.parts.roles.set(worlds.OWN, custom.Custom(name="was-deleted", actions=("tenant:read",)))
    gone = await world.person(worlds.OWN, "hr", "was-deleted")
    await world.parts.roles.delete(worlds.OWN, "was-deleted")

    async def asks(one: endpoint.Endpoint, user: str, body: object = None) -> object:
        nothing = endpoint.Nothing()
        path = {"tenant": worlds.OWN, "user": user}
        assert policy.decide(hr, action(one), one.resource(path)) is policy.Decision.ALLOW
        return await one.handler(
            endpoint.Call(
                services=world.parts,
                request_id="req-1",
                path=path,
                body=body or nothing,
                query=nothing,
                document={},
                ask_again=world.close,
                caller=hr,
            )
        )

    degraded = users.RolesOrder(roles=("hr",))
    for one in (users.again, users.disable, users.enable, users.sign_out, users.roles):
        body = degraded if one is users.roles else None
        with pytest.raises(errors.Forbidden):
            await asks(one, admin.id, body)
    for one, body in ((users.again, None), (users.sign_out, None), (users.roles, degraded), (users.disable, None)):
        assert await asks(one, colleague.id, body)
    # A role that was deleted gives nothing, and is in nobody's way.
    assert await asks(users.disable, gone.id)
    with pytest.raises(errors.Forbidden):
        await asks(users.roles, colleague.id, users.RolesOrder(roles=("hr", "admin")))
    with pytest.raises(errors.Forbidden):
        await asks(users.invite, "", users.InvitationOrder(email="eve@example.org", roles=("admin",)))
    assert await asks(users.invite, "", users.InvitationOrder(email="eve@example.org", roles=("hr",)))
    assert (await world.parts.people.users.require(worlds.OWN, admin.id)) == admin


def action(one: endpoint.Endpoint) -> policy.Action:
    assert isinstance(one.access, policy.Action)
    return one.access


@pytest.mark.requirement("oauth:people:setup")
async def test_another_set_up_code_is_the_operators_until_there_is_an_account(world: worlds.World) -> None:
    assert (await world.send("POST", "/api/v1/setup", ADMIN)).status_code == 404
    assert (await world.send("POST", "/api/v1/setup")).status_code == 401
    made = await world.ok("POST", "/api/v1/setup", "operator")
    assert made["url"] == f"{worlds.BASE}/account/platform/setup"
    found = await world.parts.people.accounts.accept(
        ids.PLATFORM, made["code"], "Olga", humans.PASSWORD, humans.HOME, email="olga@ops.example"
    )
    assert found.user.roles == ("operator",)
    assert (await world.send("POST", "/api/v1/setup", "operator")).status_code == 409


@pytest.mark.requirement("oauth:people:api")
async def test_an_invitation_is_withdrawn(world: worlds.World) -> None:
    order = {"email": "ada@example.org", "roles": ["mcp_user"]}
    made = await world.ok("POST", f"{HERE}/invitations", ADMIN, json=order)
    there = f"{HERE}/invitations/{made['invitation']['id']}"
    assert (await world.send("DELETE", there, ADMIN)).status_code == 204
    assert (await world.send("DELETE", there, ADMIN)).status_code == 404
