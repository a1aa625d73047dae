"""Rooms of people on a real store, with a clock that stands still and an argon2 that costs little."""

import contextlib
import pathlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import argon2
import msgspec

from smcp.access import policy
from smcp.app import inviting
from smcp.audit import trail
from smcp.identity import roles
from smcp.identity.accounts import accounts, invitations, passwords, people, totp, users
from smcp.identity.authn import api_key
from smcp.identity.oauth import clients
from smcp.kernel import clock, ids
from smcp.stores import tenant as stores
from smcp.tenancy import tenants as tenancy
from support import storage

ACME: Final = ids.tenant("acme")
UMBRA: Final = ids.tenant("umbra")
PASSWORD: Final = "violet gravel teapot seven"
OTHER: Final = "amber lantern bicycle nine"
HOME: Final = "203.0.113.7"
ORIGIN: Final = "https://smcp.example"

CHEAP: Final = argon2.Parameters(
    type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=64, parallelism=1
)


def wrong_code(secret: bytes, now: float) -> str:
    """Six digits that an authenticator with `secret` shows neither around `now` nor in the minutes behind it."""
    shown = {totp.hotp(secret, totp.step(now) + away) for away in range(-10, 21)}
    return next(code for code in (f"{number:06}" for number in range(100)) if code not in shown)


class _NoDocuments:
    async def read(self, tenant: ids.TenantId, client_id: str, address: str, *, known: bool) -> clients.Client:
        raise clients.UnknownClient


class Room:
    """Two tenants, and people in them."""

    def __init__(self, store: stores.Store, audit: trail.Trail) -> None:
        self.store = store
        self.trail = audit
        self.time = clock.FrozenClock()
        self.tenants = tenancy.Tenants(store, self.time)
        self.roles = roles.Roles(store, self.time)
        self.keys = api_key.ApiKeys(store, self.tenants.active, self.time, self.roles)
        self.clients = clients.Clients(store, _NoDocuments(), self.time, self.tenants.active, audit.write)
        self.by: invitations.By
        """An operator's key, which has invited everybody."""
        self.people = self.built(passwords.Passwords(CHEAP))

    def built(self, hashing: passwords.Passwords, audit: trail.Trail | None = None) -> people.People:
        """The rooms of people, with nothing in memory."""
        behind = inviting.behind(self.keys, self.clients, self.roles)
        return people.build(self.store, audit or self.trail, self.time, self.tenants.active, behind, hashing)

    def again(self) -> people.People:
        """The same rooms in a process that has nothing in memory."""
        return self.built(self.people.passwords)

    async def key(self, tenant: ids.TenantId, role: str, **more: Any) -> invitations.By:
        """A new API key, for inviting."""
        more.setdefault("expires_in_s", None)
        made = await self.keys.create(tenant, (role,), "", **more)
        return invitations.By(tenant, made.key.id)

    async def person(
        self, tenant: ids.TenantId = ACME, email: str = "ada@acme.example", role: str = "admin"
    ) -> users.User:
        """Somebody with an account and the password `PASSWORD`."""
        invited = await self.people.invitations.invite(tenant, email, "Ada", [role], by=self.by)
        return (await self.people.accounts.accept(tenant, invited.text, "", PASSWORD, HOME)).user

    async def sign_in(
        self, email: str = "ada@acme.example", password: str = PASSWORD, address: str = HOME, device: str = ""
    ) -> accounts.SignedIn | accounts.NeedsSecond:
        """Sign in to acme."""
        return await self.people.accounts.sign_in(ACME, email, password, address, device=device)

    async def told(self, tenant: ids.TenantId = ACME) -> list[dict[str, object]]:
        """The tenant's trail."""
        return [msgspec.to_builtins(entry.event) for entry in await self.trail.query(tenant, limit=10_000)]


@contextlib.asynccontextmanager
async def opened(directory: pathlib.Path) -> AsyncGenerator[Room]:
    """A room of its own."""
    async with storage.opened(directory) as store:
        audit = trail.Trail(store, clock.SystemClock(), writer="test", ttl_days=1)
        await audit.start()
        room = Room(store, audit)
        try:
            await room.tenants.create("acme")
            await room.tenants.create("umbra")
            room.by = await room.key(ids.PLATFORM, policy.Role.OPERATOR)
            yield room
        finally:
            await room.people.close()
            await room.keys.close()
            await audit.close()
