"""The rooms of people, joined: what `app.wire` opens, and the pages, tokens and the admin API are handed."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from smcp.audit import trail
from smcp.identity.accounts import (
    accounts,
    browser,
    invitations,
    inviters,
    passkeys,
    passwords,
    sealing,
    second_factor,
    throttle,
    users,
    ways,
)
from smcp.kernel import clock, ids
from smcp.stores import tenant as stores


class People(NamedTuple):
    """Accounts, invitations and browser sessions of all tenants."""

    users: users.Users
    accounts: accounts.Accounts
    invitations: invitations.Invitations
    sessions: browser.BrowserSessions
    passwords: passwords.Passwords

    async def close(self) -> None:
        """End the threads. Idempotent."""
        await self.passwords.close()


def build(
    store: stores.Store,
    audit: trail.Trail,
    time: clock.Clock,
    tenant_active: Callable[[ids.TenantId], Awaitable[None]],
    behind: inviters.Behind,
    hashing: passwords.Passwords | None = None,
) -> People:
    """Put them together; `close` in the end. `tenant_active` as `ApiKeys` has it.

    `behind`: who invites besides people. `hashing`: other parameters.
    """
    known = users.Users(store)
    kept = ways.Store(store)
    hashes = passwords.Passwords() if hashing is None else hashing
    steps = sealing.Steps(store, time)
    invited = invitations.Invitations(store, known, time)
    known.when_ended.append(invited.withdraw_for)
    known.when_roles.append(invited.withdraw_for)
    rooms = accounts.Rooms(
        users=known,
        ways=kept,
        passwords=hashes,
        passkeys=passkeys.Passkeys(known, kept, steps, time),
        second=second_factor.SecondFactor(store, known, kept, time),
        invitations=invited,
        inviters=inviters.Inviters(known, behind),
        steps=steps,
        guard=throttle.Throttle(time),
        devices=throttle.Devices(store, time),
    )
    return People(
        known,
        accounts.Accounts(store, audit, time, tenant_active, rooms),
        invited,
        browser.BrowserSessions(store, known, time),
        hashes,
    )
