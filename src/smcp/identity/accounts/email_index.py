"""From an address to an account, without the addresses standing in keys: keys are not sealed, values are."""

from typing import Final

import msgspec

from smcp.kernel import crypto, ids
from smcp.stores import records
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

_PURPOSE: Final = "identity.e-mail index"


class _Owner(msgspec.Struct, frozen=True):
    """Whose address it is."""

    user: str


class Emails:
    """The index of all tenants."""

    def __init__(self, store: stores.Store) -> None:
        self._store = store
        self._records = records.Records(store, _Owner, ("user-email",))

    async def find(self, tenant: ids.TenantId, email: str) -> str | None:
        """The id of the account that has this address."""
        if not self._store.knows(tenant):
            return None
        found = await self._records.get(tenant, self._key(tenant, email))
        return None if found is None else found.value.user

    def staged(self, tenant: ids.TenantId, email: str, user_id: str) -> kv.Put:
        """The write that takes the address; a `Conflict` where it is taken."""
        return self._records.staged((self._key(tenant, email),), _Owner(user_id), expect=kv.ABSENT)

    def _key(self, tenant: ids.TenantId, email: str) -> str:
        return crypto.keyed_digest(self._store.ring.data_key(tenant, _PURPOSE), tenant, email).hex()
