"""What people sign in with: password's hash, app's secret, recovery codes' digests, passkeys. In no other record.

What a person changes of it themselves is written only while the account is the one that their session is of: its
revision is in the same write (`change_as`). A request that takes its time does not outlive what it began with.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from smcp.identity.accounts import users
from smcp.kernel import errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

MOST_PASSKEYS: Final = 20
MAX_PASSKEY_NAME: Final = 60
_ATTEMPTS: Final = 100


class Passkey(msgspec.Struct, frozen=True, kw_only=True):
    """One passkey (W3C Web Authentication Level 3, 4: a credential record)."""

    id: str
    """`passkey-…`, for people and forms."""
    name: str
    rp: str
    """The host that it was made for: it works there and nowhere else."""
    credential: bytes
    """Attested credential data: the credential's id and its public key."""
    counter: int = 0
    created: float = 0.0
    used: float | None = None


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """How one person signs in. Not for any answer."""

    password: str = ""
    """PHC string; empty: none."""
    totp: bytes = b""
    """The app's secret; empty: no app."""
    totp_step: int = 0
    """The last time step whose code was used."""
    totp_coming: bytes = b""
    """The secret of an app that was not confirmed yet."""
    totp_epoch: int = 0
    """The account's when that app was begun: who was signed out since has to begin again."""
    wrong: int = 0
    """Wrong codes in a row since the last right one."""
    wrong_at: float = 0.0
    """When the last of them was typed (epoch seconds)."""
    guessed: int = 0
    """How many were in the last row that was long enough to be told of, and was ended by a right code."""
    guessed_at: float = 0.0
    recovery: tuple[bytes, ...] = ()
    """Keyed digests of the recovery codes that are left."""
    passkeys: tuple[Passkey, ...] = ()

    def __repr__(self) -> str:
        return f"Ways(totp={bool(self.totp)}, recovery={len(self.recovery)}, passkeys={len(self.passkeys)})"


_NONE: Final = Ways()


class Store:
    """The records, one a person."""

    def __init__(self, store: stores.Store) -> None:
        self._store = store
        self._records = records.Records(store, Ways, ("user-ways",), cached=4096)

    async def get(self, tenant: ids.TenantId, user_id: str) -> Ways:
        """How a person signs in; nothing at all for who does not exist."""
        found = await self._records.get(tenant, user_id)
        return _NONE if found is None else found.value

    async def change(self, tenant: ids.TenantId, user_id: str, change: Callable[[Ways], Ways]) -> Ways:
        """Replace them by `change` of them; returns the new ones. Raises `errors.NotFound`, and what `change` does."""
        return await self._records.update(tenant, (user_id,), change)

    async def change_as(self, people: users.Users, user: users.User, change: Callable[[Ways], Ways]) -> Ways:
        """As `change`, by the person's own session: only while the account is open and has the epoch of `user`.

        Both are one write. Raises `errors.Unauthenticated` when what the session was opened for has ended meanwhile.
        """
        for _ in range(_ATTEMPTS):
            account = await people.get(user.tenant, user.id)
            if account is None or account.value.disabled or account.value.epoch != user.epoch:
                raise errors.Unauthenticated(detail="the session has ended meanwhile")
            found = await self._records.get(user.tenant, user.id)
            if found is None:
                raise errors.NotFound(detail="ways")
            wanted = change(found.value)
            writes = [self._records.staged((user.id,), wanted, expect=found.revision), people.unchanged(account)]
            try:
                await self._store.tenant(user.tenant).kv.apply(writes)
            except errors.Conflict:
                continue
            return wanted
        raise errors.Conflict

    def made(self, user_id: str, ways: Ways) -> kv.Put:
        """The write that begins a person's record, for one `apply` with others."""
        return self._records.staged((user_id,), ways, expect=kv.ABSENT)

    async def replaced(self, tenant: ids.TenantId, user_id: str, change: Callable[[Ways], Ways]) -> kv.Put:
        """The write that puts `change` of what is there in its place, for one `apply` with others."""
        found = await self._records.get(tenant, user_id)
        if found is None:
            raise errors.NotFound(detail="ways")
        return self._records.staged((user_id,), change(found.value), expect=found.revision)
