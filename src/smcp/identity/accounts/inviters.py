"""Does who has invited still stand, and may they still give what the invitation gives?

An invitation waits for days. When it is used, its inviter is looked up as they are then: a person's account, an API
key, an OAuth client. Who is gone, closed, revoked or has ended has nothing to give any more, and who has fewer roles
gives no more than those would let them. So a code in a drawer is worth no more than whoever put it there.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from smcp.access import grants, policy
from smcp.access.actions import Action
from smcp.identity import roles
from smcp.identity.accounts import invitations, users
from smcp.kernel import errors, ids

Resolve = Callable[[ids.TenantId, str], Awaitable[policy.Principal | None]]
"""The principal with this id as of now; None for who does not exist, or may not act any more."""

GONE: Final = "inviter"
"""Why an invitation is refused: its inviter does not stand any more,"""
LESS: Final = "roles"
"""may not give these roles any more, or"""
OTHERS: Final = "changed"
"""the roles by these names are not those that were promised."""


class Behind(NamedTuple):
    """Who invites besides people, and what roles give."""

    roles: roles.Roles
    key: Resolve
    """An API key."""
    client: Resolve
    """An OAuth client as itself."""


class Inviters:
    """Looks inviters up."""

    def __init__(self, people: users.Users, behind: Behind) -> None:
        self._users = people
        self._behind = behind

    async def refusal(self, told: invitations.Invitation) -> str:
        """Why this invitation is not good any more, in a word; empty when it is.

        Raises `errors.Unavailable` when that can't be told.
        """
        if told.by_tenant is None:
            return "" if told.setup else GONE  # the platform makes the first set-up, and nothing else
        by = await self._standing(invitations.By(told.by_tenant, told.by, told.by_client))
        if by is None:
            return GONE
        held = await self._behind.roles.rules(told.tenant, told.roles)
        wanted = set(told.roles)
        if told.user:
            # A role that was deleted gives nothing, and is in nobody's way: the account has its name as it is.
            wanted &= {str(role) for role in grants.possible(told.tenant)} | {rule.role for rule in held.rules}
        elif roles.mark(held.rules) != told.given:
            return OTHERS
        try:
            grants.require(by, told.tenant, wanted, held.rules, Action.USER_INVITE)
            grants.within(by, told.roles, held.rules)
        except errors.Forbidden:
            return LESS
        return ""

    async def _standing(self, by: invitations.By) -> policy.Principal | None:
        if users.USER_ID.fullmatch(by.id) is not None:
            return await self._person(by)
        found = await self._behind.key(by.tenant, by.id)
        return await self._behind.client(by.tenant, by.id) if found is None else found

    async def _person(self, by: invitations.By) -> policy.Principal | None:
        """As wide as their roles. A client that acted for them must stand, too: a revoked one leaves no way in."""
        found = await self._users.get(by.tenant, by.id)
        if found is None or found.value.disabled:
            return None
        if by.client and await self._behind.client(by.tenant, by.client) is None:
            return None
        user = found.value
        held = await self._behind.roles.rules(by.tenant, user.roles)
        return policy.Principal(by.tenant, user.id, "user", user.roles, user.name, by.client, rules=held.rules)
