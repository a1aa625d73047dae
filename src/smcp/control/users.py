"""People of a tenant: invited, listed, given roles, closed, signed out. A code is in one answer, once.

Who changes an account must be able to give the roles that it has, and those that it gets: else somebody with a role
that lets them invite could close an administrator's account, or begin it anew as their own. An account is as wide as
its roles: a credential with fewer scopes, or for some networks, makes none of it.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access import grants, policy
from smcp.access.actions import Action
from smcp.audit import events, identity
from smcp.control import identity_views, views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.identity.accounts import browser, invitations, users
from smcp.kernel import errors, ids

_MOST_ROLES: Final = 16
_ID: Final = "user-01kaq3v7q0zj1x5w9n2c8d4f6g"
_USER: Final = {
    "id": _ID,
    "tenant": "acme",
    "email": "ada@example.org",
    "name": "Ada",
    "roles": ["mcp_user"],
    "created": 1800000000.0,
    "disabled": False,
}
_DETAILS: Final = _USER | {"app": True, "recovery_codes": 10, "passkeys": 1, "sessions": 1}
_INVITATION: Final = {
    "id": "inv-0123456789ab",
    "tenant": "acme",
    "email": "ada@example.org",
    "name": "Ada",
    "roles": ["mcp_user"],
    "created": 1800000000.0,
    "expires": 1800604800.0,
    "by": "key-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "user": "",
}
_NEW: Final = {"invitation": _INVITATION, "code": "smci_acme_…", "url": "https://smcp.example/account/acme/invite"}
_VISIT: Final = {
    "id": "visit-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "created": 1800000000.0,
    "seen": 1800000060.0,
    "methods": ["password"],
    "address": "203.0.113.7",
    "agent": "Browser/1.0",
}

_Roles = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=40)], ...],
    Meta(min_length=1, max_length=_MOST_ROLES, description="Of every tenant, or the tenant's own."),
]


class InvitationOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is invited, and what they may do."""

    email: Annotated[str, Meta(max_length=users.MAX_EMAIL, description="What they will sign in with. Nothing is sent.")]
    roles: _Roles
    name: Annotated[str, Meta(max_length=users.MAX_NAME, description="For people. Left out: from the address.")] = ""


class RolesOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person may do from now on."""

    roles: _Roles


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/invitations",
    action=Action.USER_INVITE,
    status=201,
    raises=(errors.Conflict, errors.QuotaExceeded),
    platform=True,
    body_example={"email": "ada@example.org", "name": "Ada", "roles": ["mcp_user"]},
    answer_example=_NEW,
)
async def invite(call: Call[InvitationOrder, Nothing]) -> identity_views.NewInvitation:
    """Invite a person.

    `code` is shown in this answer only: pass it on, with `url`. It makes one account, within seven days, and as long
    as you could still make it: an inviter who is closed, or has fewer roles, has nothing to give. A newer
    invitation of the same address replaces an older one. Nobody can give a role that they could not be given, or with
    a credential that is for less than the role gives.
    """
    roles = tuple(sorted(set(call.body.roles)))
    rules = await _require(call, roles, Action.USER_INVITE)
    issued = await call.services.people.invitations.invite(
        call.tenant, call.body.email, call.body.name, roles, by=_by(call), rules=rules
    )
    _told(call, issued.invitation)
    return _new(call, issued, "invite")


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/invitations",
    action=Action.USER_LIST,
    platform=True,
    answer_example={"items": [_INVITATION], "next": None},
)
async def waiting(call: Call[Nothing, Page]) -> views.Listing[identity_views.Invitation]:
    """List the invitations that wait."""
    found = await call.services.people.invitations.list(call.tenant)
    return views.page([_invitation(one) for one in found], call.query, lambda one: one.id)


@endpoint(
    "DELETE", "/api/v1/tenants/{tenant}/invitations/{invitation}", action=Action.USER_INVITE, status=204, platform=True
)
async def withdraw(call: Call[Nothing, Nothing]) -> None:
    """Withdraw an invitation.

    Its code is of no use from then on.
    """
    await call.services.people.invitations.withdraw(call.tenant, call.path["invitation"])
    call.changed(identity.InvitationWithdrawn, invitation=call.path["invitation"])


@endpoint(
    "POST",
    "/api/v1/setup",
    action=Action.USER_INVITE,
    status=201,
    raises=(errors.Conflict,),
    answer_example={
        "invitation": _INVITATION | {"tenant": "platform", "email": "", "name": "", "roles": ["operator"]},
        "code": "smci_platform_…",
        "url": "https://smcp.example/account/platform/setup",
    },
)
async def set_up(call: Call[Nothing, Nothing]) -> identity_views.NewInvitation:
    """Make another set-up code.

    For a platform on which nobody has an account yet, whose first code was lost: it makes the first operator's account,
    within a day. Earlier codes end. `conflict` once there is an account in the tenant `platform`.
    """
    grants.require(call.principal, ids.PLATFORM, ("operator",), action=Action.USER_INVITE)
    grants.within(call.principal, ("operator",), ())
    issued = await call.services.people.invitations.set_up(by=_by(call))
    _told(call, issued.invitation)
    return _new(call, issued, "setup")


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/users",
    action=Action.USER_LIST,
    platform=True,
    answer_example={"items": [_USER], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[identity_views.User]:
    """List a tenant's people.

    By id, which is by age, with closed accounts.
    """
    page = call.query
    found = await call.services.people.users.list(call.tenant, after=page.after or None, limit=page.limit)
    return views.Listing([_view(one) for one in found], found[-1].id if len(found) == page.limit else None)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/users/{user}",
    action=Action.USER_READ,
    platform=True,
    answer_example=_DETAILS,
)
async def show(call: Call[Nothing, Nothing]) -> identity_views.UserDetails:
    """Show a person's account."""
    user = await _user(call)
    own = await call.services.people.accounts.own(user)
    sessions = await call.services.people.sessions.list(user)
    shown = msgspec.structs.asdict(_view(user))
    return identity_views.UserDetails(
        **shown,
        app=own.app,
        recovery_codes=own.recovery_codes,
        passkeys=len(own.passkeys),
        sessions=len(sessions),
    )


@endpoint(
    "PUT",
    "/api/v1/tenants/{tenant}/users/{user}/roles",
    action=Action.USER_ROLES,
    platform=True,
    body_example={"roles": ["mcp_user"]},
    answer_example=_USER,
)
async def roles(call: Call[RolesOrder, Nothing]) -> identity_views.User:
    """Give a person other roles.

    They hold from the next request on, also for what clients do in the person's name.
    """
    user = await _over(call, Action.USER_ROLES)
    wanted = tuple(sorted(set(call.body.roles)))
    await _require(call, wanted, Action.USER_ROLES)
    changed = await call.services.people.users.set_roles(call.tenant, user.id, wanted)
    call.changed(identity.UserChanged, user=user.id, what="roles", roles=changed.roles)
    return _view(changed)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/users/{user}/disable",
    action=Action.USER_DISABLE,
    platform=True,
    answer_example=_USER | {"disabled": True},
)
async def disable(call: Call[Nothing, Nothing]) -> identity_views.User:
    """Close a person's account.

    Their browser sessions, and what clients hold in their name, are refused from the next request on. Invitations that
    they have made and that wait are withdrawn.
    """
    user = await _over(call, Action.USER_DISABLE)
    changed = await call.services.people.users.disable(call.tenant, user.id)
    call.changed(identity.UserDisabled, user=user.id)
    for invitation in await call.services.people.invitations.withdraw_of(call.tenant, user.id):
        call.changed(identity.InvitationWithdrawn, invitation=invitation)
    return _view(changed)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/users/{user}/enable",
    action=Action.USER_ENABLE,
    platform=True,
    answer_example=_USER,
)
async def enable(call: Call[Nothing, Nothing]) -> identity_views.User:
    """Open a closed account again.

    What ended stays ended: its owner signs in anew, and clients ask anew.
    """
    user = await _over(call, Action.USER_ENABLE)
    changed = await call.services.people.users.enable(call.tenant, user.id)
    call.changed(identity.UserEnabled, user=user.id)
    return _view(changed)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/users/{user}/sessions",
    action=Action.USER_SESSIONS,
    platform=True,
    answer_example={"items": [_VISIT], "next": None},
)
async def sessions(call: Call[Nothing, Page]) -> views.Listing[identity_views.Visit]:
    """List a person's open browser sessions."""
    found = await call.services.people.sessions.list(await _user(call))
    return views.page([_visit(one) for one in found], call.query, lambda one: one.id)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/users/{user}/sign-out",
    action=Action.USER_SESSIONS,
    platform=True,
    answer_example=_USER,
)
async def sign_out(call: Call[Nothing, Nothing]) -> identity_views.User:
    """Sign a person out everywhere.

    Their browser sessions, and what clients hold in their name, end. They can sign in again.
    """
    user = await _over(call, Action.USER_SESSIONS)
    many = len(await call.services.people.sessions.list(user))
    changed = await call.services.people.users.end_everything(call.tenant, user.id)
    call.changed(identity.SignedOut, user=user.id, why="administrator", sessions=many)
    return _view(changed)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/users/{user}/invitation",
    action=Action.USER_INVITE,
    status=201,
    raises=(errors.Conflict,),
    platform=True,
    answer_example=_NEW | {"invitation": _INVITATION | {"user": _ID}},
)
async def again(call: Call[Nothing, Nothing]) -> identity_views.NewInvitation:
    """Let a person begin anew.

    For who has lost the password, or the device with the codes. Used, the code replaces every way of signing in to the
    account (password, app, recovery codes, passkeys), and ends what is open. `code` is shown in this answer only. An
    access token of the person themselves gets none.
    """
    user = await _over(call, Action.USER_INVITE)
    await _within(call, user.roles)
    if call.principal.client and user.id == call.principal.id:
        # A client that acts for somebody would have their account, and keep it when they end what it may do.
        raise errors.Forbidden("An access token gets no code for its own person's account.", detail="own account")
    if user.disabled:
        raise errors.Conflict("This account is closed. Enable it first.", detail="user")
    issued = await call.services.people.invitations.again(user, by=_by(call))
    _told(call, issued.invitation)
    return _new(call, issued, "invite")


async def _user(call: Call[Any, Any]) -> users.User:
    return await call.services.people.users.require(call.tenant, call.path["user"])


async def _over(call: Call[Any, Any], action: Action) -> users.User:
    """The account in the path, which the caller must be able to make, as it is. Raises `errors.Forbidden`."""
    user = await _user(call)
    held = await call.services.roles.rules(call.tenant, user.roles)
    # A role that was deleted gives nothing: nobody needs to be able to give it.
    real = {str(role) for role in grants.possible(call.tenant)} | {rule.role for rule in held.rules}
    grants.require(call.principal, call.tenant, real & set(user.roles), held.rules, action)
    return user


def _by(call: Call[Any, Any]) -> invitations.By:
    return invitations.By(call.principal.tenant, call.principal.id, call.principal.client)


async def _require(call: Call[Any, Any], wanted: Iterable[str], action: Action) -> tuple[policy.Rule, ...]:
    """What `wanted` gives of the tenant's own; the caller may give all of it. Raises `errors.Forbidden`."""
    held = await call.services.roles.rules(call.tenant, wanted)
    grants.require(call.principal, call.tenant, wanted, held.rules, action)
    await _within(call, wanted)
    return held.rules


async def _within(call: Call[Any, Any], wanted: Iterable[str]) -> None:
    """An account has no scopes and comes from anywhere: is the caller's credential as wide?"""
    held = await call.services.roles.rules(call.tenant, wanted)
    grants.within(call.principal, wanted, held.rules)


def _told(call: Call[Any, Any], made: invitations.Invitation) -> None:
    email = call.services.trail.digest(made.tenant, made.email) if made.email else events.NO_DIGEST
    call.changed(identity.UserInvited, tenant=made.tenant, invitation=made.id, roles=made.roles, email=email)


def _new(call: Call[Any, Any], issued: invitations.Issued, page: str) -> identity_views.NewInvitation:
    made = issued.invitation
    return identity_views.NewInvitation(
        _invitation(made), issued.text, f"{call.services.public_url}/account/{made.tenant}/{page}"
    )


def _view(user: users.User) -> identity_views.User:
    return identity_views.User(
        user.id, user.tenant, user.email, user.name, list(user.roles), user.created, user.disabled
    )


def _invitation(made: invitations.Invitation) -> identity_views.Invitation:
    return identity_views.Invitation(
        made.id, made.tenant, made.email, made.name, list(made.roles), made.created, made.expires, made.by, made.user
    )


def _visit(session: browser.Session) -> identity_views.Visit:
    return identity_views.Visit(
        session.id, session.created, session.seen, list(session.methods), session.address, session.agent
    )


ENDPOINTS: Final = (
    set_up,
    invite,
    waiting,
    withdraw,
    index,
    show,
    roles,
    disable,
    enable,
    sessions,
    sign_out,
    again,
)
