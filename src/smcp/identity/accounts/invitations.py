"""Invitations: how an account begins, and how somebody gets in again who has lost every way.

Nobody is sent anything. Whoever invites gets a code once and passes it on; what is kept is a keyed digest of it. It
works once, within seven days, and the account's creation and the invitation's end are one write. It is worth no more
than its inviter is when it is used (`inviters`), and gives what its roles gave when it was made.

A fresh platform has no account and no password. Its first start makes one invitation without an address, for the
tenant `platform` (the *set-up*), which is shown once on the terminal. It ends when it is used, after a day, or when
another one is made, and it is refused once there is any account of the platform.
"""

import re
import secrets
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from smcp.access import policy
from smcp.identity import roles as books
from smcp.identity.accounts import users
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

LIFE_S: Final = 7 * 86400.0
SETUP_S: Final = 86400.0
MOST: Final = 1000
"""Invitations of one tenant that wait."""
PREFIX: Final = "smci_"

_ID_DIGITS: Final = 12
_SECRET_DIGITS: Final = 32
_DIGIT: Final = "[0-9a-hjkmnp-tv-z]"
_FORM: Final = re.compile(
    rf"{PREFIX}([a-z0-9-]{{1,{ids.MAX_TENANT}}})_({_DIGIT}{{{_ID_DIGITS}}})({_DIGIT}{{{_SECRET_DIGITS}}})"
    rf"({_DIGIT}{{7}})",
    re.ASCII,
)
_PURPOSE: Final = "identity.invitation digest"


class By(NamedTuple):
    """A principal that invites. Of another tenant than the invitation's where an operator helps."""

    tenant: ids.TenantId
    id: str
    client: str = ""
    """The OAuth client that acted for it; empty where none did."""


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an invitation. The code is not."""

    id: str
    tenant: ids.TenantId
    email: str
    """Empty for the set-up: whoever holds the code says."""
    name: str
    roles: tuple[str, ...]
    created: float
    expires: float
    by: str
    """Who invited; `platform` for the platform itself, which makes the first set-up."""
    by_tenant: ids.TenantId | None = None
    """Whose principal `by` is; None for the platform itself."""
    by_client: str = ""
    given: bytes = b""
    """What the roles of the tenant's own gave when it was made (`roles.mark`)."""
    user: str = ""
    """The account that begins anew with it; empty for a new one. `roles` are what it had."""
    epoch: int = 0
    """That account's: a code is for an account as it was, and for none that has changed since."""
    digest: bytes = b""

    @property
    def setup(self) -> bool:
        """Is it a fresh platform's?"""
        return self.email == ""

    def __repr__(self) -> str:
        return f"Invitation(id={self.id!r}, tenant={self.tenant!r}, roles={self.roles!r}, digest=…)"


class Issued(NamedTuple):
    """A new invitation, and its code: the only time that anybody sees it."""

    invitation: Invitation
    text: str

    def __repr__(self) -> str:
        return f"Issued(invitation={self.invitation!r}, text=…)"


class Shown(NamedTuple):
    """An invitation whose code was shown, and the revision that its end expects."""

    invitation: Invitation
    revision: int


class _Order(NamedTuple):
    """What a new invitation is for."""

    tenant: ids.TenantId
    email: str
    name: str
    roles: tuple[str, ...]
    by: By | None
    life_s: float
    given: bytes
    user: str = ""
    epoch: int = 0


class Invitations:
    """Makes and checks invitations of any tenant. Who may invite whom is asked before."""

    def __init__(self, store: stores.Store, people: users.Users, clock: clock.Clock) -> None:
        self._store = store
        self._users = people
        self._clock = clock
        self._records = records.Records(store, Invitation, ("invitation",), cached=1024)

    async def invite(
        self,
        tenant: ids.TenantId,
        email: str,
        name: str,
        roles: Iterable[str],
        *,
        by: By,
        rules: Iterable[policy.Rule] = (),
    ) -> Issued:
        """Invite somebody. Raises `errors.InvalidParams`, `Conflict` (has an account), `QuotaExceeded`.

        `rules` are what those of the roles give that are the tenant's own, as whoever was asked has seen them.
        """
        wanted, address = tuple(sorted(set(roles))), users.address(email)
        called = users.person(name or address.partition("@")[0])
        if not wanted:
            raise errors.InvalidParams("An account has one role or more.")
        if await self._users.find(tenant, address) is not None:
            raise errors.Conflict("There is an account with this address already.", detail="user")
        waiting = await self.list(tenant)
        if len(waiting) >= MOST:
            raise errors.QuotaExceeded(f"A tenant has at most {MOST} invitations that wait. Withdraw some first.")
        for one in waiting:
            if one.email == address and not one.user:
                await self.withdraw(tenant, one.id)  # the newer one says what is meant
        return await self._make(_Order(tenant, address, called, wanted, by, LIFE_S, books.mark(rules)))

    async def again(self, user: users.User, *, by: By) -> Issued:
        """Let the owner of an account begin anew: used, it replaces every way of signing in, and ends what is open."""
        for one in await self.list(user.tenant):
            if one.user == user.id:
                await self.withdraw(user.tenant, one.id)
        order = _Order(user.tenant, user.email, user.name, user.roles, by, LIFE_S, b"", user.id, user.epoch)
        return await self._make(order)

    async def set_up(self, *, by: By | None) -> Issued:
        """The one set-up code of a platform without accounts; earlier ones end. Raises `errors.Conflict`.

        `by`: None for the platform itself.
        """
        if await self._users.any(ids.PLATFORM):
            raise errors.Conflict("The platform has an account already: its owner invites others.", detail="set up")
        for one in await self.list(ids.PLATFORM):
            if one.setup:
                await self.withdraw(ids.PLATFORM, one.id)
        order = _Order(ids.PLATFORM, "", "", (str(policy.Role.OPERATOR),), by, SETUP_S, books.mark(()))
        return await self._make(order)

    async def needs_set_up(self) -> bool:
        """Has the platform neither an account nor a set-up code that somebody may hold?"""
        if await self._users.any(ids.PLATFORM):
            return False
        return not any(one.setup for one in await self.list(ids.PLATFORM))

    async def list(self, tenant: ids.TenantId) -> list[Invitation]:
        """The invitations that wait, by id."""
        return [entry.value for _, entry in await self._records.list(tenant, limit=2 * MOST)]

    async def withdraw(self, tenant: ids.TenantId, invitation_id: str) -> None:
        """End an invitation. Raises `errors.NotFound` for one that does not wait."""
        if re.fullmatch(rf"inv-{_DIGIT}{{{_ID_DIGITS}}}", invitation_id) is None:
            raise errors.NotFound(detail="invitation")
        if await self._records.get(tenant, invitation_id) is None:
            raise errors.NotFound("There is no such invitation; it may have been used.", detail="invitation")
        await self._records.delete(tenant, (invitation_id,))

    async def withdraw_of(self, tenant: ids.TenantId, by: str) -> tuple[str, ...]:
        """End what somebody has invited: who is closed leaves no way in behind. Returns the invitations' ids."""
        mine = tuple(one.id for one in await self.list(tenant) if one.by == by)
        for one in mine:
            await self._records.delete(tenant, (one,))
        return mine

    async def withdraw_for(self, tenant: ids.TenantId, user_id: str) -> None:
        """End what lets an account begin anew: it has other roles now, or what was open has ended."""
        for one in await self.list(tenant):
            if one.user == user_id:
                await self._records.delete(tenant, (one.id,))

    async def show(self, tenant: ids.TenantId, text: str) -> Shown:
        """The invitation behind a code. Raises `errors.NotFound` with one text for all that is wrong with one."""
        match = _FORM.fullmatch(text.strip())
        if match is not None and match.group(1) == tenant and _checksum(match.group(0)[:-7]) == match.group(4):
            found = await self._records.get(tenant, f"inv-{match.group(2)}") if self._store.knows(tenant) else None
            if (
                found is not None
                and crypto.equal(found.value.digest, self._digest(tenant, match.group(2), match.group(3)))
                and self._clock.now() < found.value.expires
                and not (found.value.setup and await self._users.any(tenant))
            ):
                return Shown(found.value, found.revision)
        raise invalid("invitation")

    def ended(self, shown: Shown) -> kv.Delete:
        """The write that ends an invitation, for one `apply` with what it is used for; `Conflict` when it was used."""
        return self._records.unstaged((shown.invitation.id,), expect=shown.revision)

    async def _make(self, order: "_Order") -> Issued:
        tenant, now = order.tenant, self._clock.now()
        code_id = ids.base32(secrets.randbits(5 * _ID_DIGITS), _ID_DIGITS)
        secret = ids.base32(secrets.randbits(5 * _SECRET_DIGITS), _SECRET_DIGITS)
        made = Invitation(
            id=f"inv-{code_id}",
            tenant=tenant,
            email=order.email,
            name=order.name,
            roles=order.roles,
            created=now,
            expires=now + order.life_s,
            by="platform" if order.by is None else order.by.id,
            by_tenant=None if order.by is None else order.by.tenant,
            by_client="" if order.by is None else order.by.client,
            given=order.given,
            user=order.user,
            epoch=order.epoch,
            digest=self._digest(tenant, code_id, secret),
        )
        await self._records.put(tenant, (made.id,), made, expect=kv.ABSENT, ttl=order.life_s)
        body = f"{PREFIX}{tenant}_{code_id}{secret}"
        return Issued(made, body + _checksum(body))

    def _digest(self, tenant: ids.TenantId, code_id: str, secret: str) -> bytes:
        return crypto.keyed_digest(self._store.ring.data_key(tenant, _PURPOSE), tenant, code_id, secret)


def invalid(detail: str) -> errors.NotFound:
    """What is said of a code that is not good, whatever the reason; `detail` is for the log."""
    return errors.NotFound(
        "This code is not valid: it was used, withdrawn, has ended, or is mistyped. Ask for another one.",
        detail=detail,
    )


def _checksum(body: str) -> str:
    return ids.base32(zlib.crc32(body.encode("ascii")), 7)
