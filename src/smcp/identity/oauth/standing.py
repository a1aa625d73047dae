"""Who stands behind a token besides its grant: the person, and the client, each as of now.

A token holds none of this. What is kept of a verified token is good for as long as these records have the revisions
that they were verified with, so a role, a closed account or a revoked client counts from the next request on.
"""

from typing import Any, Final, NamedTuple, Protocol

from smcp.identity.oauth import clients, refusals
from smcp.kernel import ids
from smcp.stores import records

NEVER: Final = -1
"""A revision that no record has: ask again each time."""


class Holder(NamedTuple):
    """Somebody who may act just now."""

    revision: int
    epoch: int
    roles: tuple[str, ...]
    name: str
    """For people."""


class Source(Protocol):
    """Where holders are looked up."""

    def peek(self, tenant: ids.TenantId, id: str) -> int:
        """The revision that memory has; `NEVER` where it does not know. Never waits."""
        ...

    async def get(self, tenant: ids.TenantId, id: str) -> Holder | None:
        """Who it is; None for who does not exist, or may not act any more."""
        ...


class Accounts(Protocol):
    """What of `accounts.users.Users` is needed here."""

    def peek(self, tenant: ids.TenantId, user_id: str) -> records.Versioned[Any] | records.Unknown | None:
        """The account, if memory knows."""
        ...

    async def get(self, tenant: ids.TenantId, user_id: str) -> records.Versioned[Any] | None:
        """The account, closed or not."""
        ...


class People:
    """The persons of all tenants."""

    def __init__(self, users: Accounts) -> None:
        self._users = users

    def peek(self, tenant: ids.TenantId, id: str) -> int:
        """See `Source`."""
        found = self._users.peek(tenant, id)
        return found.revision if isinstance(found, records.Versioned) else NEVER

    async def get(self, tenant: ids.TenantId, id: str) -> Holder | None:
        """See `Source`. None for a closed account."""
        found = await self._users.get(tenant, id)
        if found is None or found.value.disabled:
            return None
        user = found.value
        return Holder(found.revision, user.epoch, tuple(str(role) for role in user.roles), user.name)


class Applications:
    """The clients of all tenants."""

    def __init__(self, known: clients.Clients) -> None:
        self._known = known

    def peek(self, tenant: ids.TenantId, id: str) -> int:
        """See `Source`. Of a client that every tenant knows there is no record: always 0."""
        found = self._known.peek(tenant, id)
        if isinstance(found, records.Versioned):
            return found.revision
        return NEVER if found is records.UNKNOWN else 0

    async def get(self, tenant: ids.TenantId, id: str) -> Holder | None:
        """See `Source`. None for a revoked client."""
        try:
            client = await self._known.known(tenant, id)
        except refusals.Refused:
            return None
        found = self._known.peek(tenant, id)
        revision = 0
        if found is not None:
            # Somebody may have written meanwhile: then what was read has no revision that can be compared.
            same = isinstance(found, records.Versioned) and found.value == client
            revision = found.revision if same and isinstance(found, records.Versioned) else NEVER
        return Holder(revision, client.epoch, client.roles, client.name)
