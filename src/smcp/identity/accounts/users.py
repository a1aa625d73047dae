"""Who has an account in a tenant.

A user's record holds what others may see and what decides: roles, whether the account is closed, and the *epoch*. What
a person signs in with (`ways`) stands apart, so that nothing that reads a user ever holds a password's hash.

The epoch is in everything that a person opens (browser sessions, grants of OAuth clients). It grows when all of that
must end at once: whatever carries an older one is refused with the next request.
"""

import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from smcp.identity.accounts import email_index
from smcp.kernel import errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

MAX_EMAIL: Final = 254
"""Characters of an address (RFC 5321, 4.5.3.1.3: a path has 256 octets, two of them brackets)."""
MAX_NAME: Final = 80
MOST: Final = 10_000
"""Accounts of one tenant."""

_EMAIL: Final = re.compile(r"[^@\s<>\"'(),:;\[\]\\]{1,64}@[^@\s<>\"'(),:;\[\]\\]{1,189}")
USER_ID: Final = re.compile(r"user-[0-9a-z]{26}", re.ASCII)
"""What a user's id looks like."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person's account in one tenant."""

    id: str
    """`user-…`; also the principal's id."""
    tenant: ids.TenantId
    email: str
    """As `address` writes it: what the person types to sign in. Nothing is ever sent to it."""
    name: str
    """For people; not an identifier."""
    roles: tuple[str, ...]
    """By name: those of `access.policy.Role`, and the tenant's own."""
    created: float
    disabled: bool = False
    epoch: int = 0
    """Grows when everything that the person has opened must end."""


Ended = Callable[[ids.TenantId, str], Awaitable[None]]


class Users:
    """The accounts of all tenants."""

    def __init__(self, store: stores.Store) -> None:
        self._store = store
        self._records = records.Records(store, User, ("user",))
        self._emails = email_index.Emails(store)
        self.when_ended: list[Ended] = []
        """Each is awaited, with tenant and user id, before a write that ended what a person opened is told as done."""
        self.when_roles: list[Ended] = []
        """The same, for writes that gave a person other roles."""

    # --- reading ---

    def peek(self, tenant: ids.TenantId, user_id: str) -> records.Versioned[User] | records.Unknown | None:
        """The account if memory knows; `records.UNKNOWN` where it does not: ask `get`. Never waits."""
        return self._records.peek(tenant, user_id)

    async def get(self, tenant: ids.TenantId, user_id: str) -> records.Versioned[User] | None:
        """The account, closed or not; None where there is none."""
        return await self._records.get(tenant, user_id)

    async def require(self, tenant: ids.TenantId, user_id: str) -> User:
        """The account. Raises `errors.NotFound`."""
        found = await self._records.get(tenant, user_id)
        if found is None:
            raise errors.NotFound("There is no such person in this tenant.", detail="user")
        return found.value

    async def find(self, tenant: ids.TenantId, email: str) -> User | None:
        """The account of an address (as `address` writes it), closed or not."""
        user_id = await self._emails.find(tenant, email)
        found = None if user_id is None else await self._records.get(tenant, user_id)
        return None if found is None else found.value

    async def list(self, tenant: ids.TenantId, *, after: str | None = None, limit: int = 1000) -> list[User]:
        """Up to `limit` accounts by id, which is by age, behind `after`."""
        return [entry.value for _, entry in await self._records.list(tenant, after=after, limit=limit)]

    async def any(self, tenant: ids.TenantId) -> bool:
        """Does anybody have an account here, closed ones included?"""
        return bool(await self._records.list(tenant, limit=1))

    # --- writing ---

    def made(self, user: User) -> tuple[kv.Put, ...]:
        """The writes that make an account, for one atomic `apply` with others; a taken address is a `Conflict`."""
        return (
            self._records.staged((user.id,), user, expect=kv.ABSENT),
            self._emails.staged(user.tenant, user.email, user.id),
        )

    async def set_roles(self, tenant: ids.TenantId, user_id: str, roles: Iterable[str]) -> User:
        """Give a person these roles instead of their own. Holds from the next request on. Raises `errors.NotFound`."""
        wanted = tuple(sorted(set(roles)))
        changed = await self._change(tenant, user_id, lambda user: msgspec.structs.replace(user, roles=wanted))
        for tell in self.when_roles:
            await tell(tenant, user_id)
        return changed

    def ending(self, found: records.Versioned[User]) -> kv.Put:
        """The write that ends all that a person has opened, for one `apply`; `Conflict` when the account has changed.

        `ended` tells of it.
        """
        user = found.value
        return self._records.staged(
            (user.id,), msgspec.structs.replace(user, epoch=user.epoch + 1), expect=found.revision
        )

    def unchanged(self, found: records.Versioned[User]) -> kv.Put:
        """The write that leaves an account as it is, for one `apply` with what is for the account as it is.

        `Conflict` when it has changed.
        """
        return self._records.staged((found.value.id,), found.value, expect=found.revision)

    async def ended(self, tenant: ids.TenantId, user_id: str) -> User:
        """Tell what watches that what a person had opened has ended; returns the account as it is now."""
        for tell in self.when_ended:
            await tell(tenant, user_id)
        return await self.require(tenant, user_id)

    async def rename(self, tenant: ids.TenantId, user_id: str, name: str) -> User:
        """Call a person something else. Raises `errors.NotFound`, `errors.InvalidParams`."""
        called = person(name)
        return await self._change(tenant, user_id, lambda user: msgspec.structs.replace(user, name=called))

    async def disable(self, tenant: ids.TenantId, user_id: str) -> User:
        """Close an account: sessions and tokens are refused from the next request on. Again is fine."""

        def change(user: User) -> User:
            if user.disabled:
                return user
            return msgspec.structs.replace(user, disabled=True, epoch=user.epoch + 1)

        return await self._ending(tenant, user_id, change)

    async def enable(self, tenant: ids.TenantId, user_id: str) -> User:
        """Open a closed account again; what ended stays ended. Again is fine. Raises `errors.NotFound`."""
        return await self._change(tenant, user_id, lambda user: msgspec.structs.replace(user, disabled=False))

    async def end_everything(self, tenant: ids.TenantId, user_id: str) -> User:
        """End all that a person has opened: sessions, and what clients hold for them. Raises `errors.NotFound`."""
        return await self._ending(tenant, user_id, lambda user: msgspec.structs.replace(user, epoch=user.epoch + 1))

    async def _ending(self, tenant: ids.TenantId, user_id: str, change: Callable[[User], User]) -> User:
        changed = await self._change(tenant, user_id, change)
        await self.ended(tenant, user_id)
        return changed

    async def _change(self, tenant: ids.TenantId, user_id: str, change: Callable[[User], User]) -> User:
        if USER_ID.fullmatch(user_id) is None:
            raise errors.NotFound(detail="user")
        return await self._records.update(tenant, (user_id,), change)


def address(text: str) -> str:
    """`text` as the one spelling of an e-mail address. Raises `errors.InvalidParams`.

    Case is folded in the part before the @ as well: RFC 5321, 2.4 lets a host tell cases apart, hardly any does, and
    two accounts whose addresses differ in case only would be a trap.
    """
    email = unicodedata.normalize("NFC", text.strip()).lower()
    if len(email) > MAX_EMAIL or _EMAIL.fullmatch(email) is None or not email.isprintable():
        raise errors.InvalidParams("An e-mail address looks like name@example.org.")
    return email


def person(text: str) -> str:
    """`text` as the name of a person. Raises `errors.InvalidParams`."""
    name = unicodedata.normalize("NFC", " ".join(text.split(" "))).strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise errors.InvalidParams(f"A name is 1 to {MAX_NAME} printable characters.")
    return name
