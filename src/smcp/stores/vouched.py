"""Documents that are a stranger's until somebody vouches for them, and the tenant's own from then on.

A stranger's is in its kind's share (`shares`), the tenant's own below a prefix like any other. It goes from the first
to the second in one write, and never back; so whoever looks in that order finds it.
"""

import builtins
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from smcp.kernel import errors, ids
from smcp.stores import records, shares
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

T = TypeVar("T")

_ATTEMPTS: Final = 100
_PAGE: Final = 500


class Vouched(Generic[T]):
    """The documents of type `T` that have one name each."""

    def __init__(
        self, store: stores.Store, type: type[T], kind: str, prefix: kv.Key, strange: Callable[[T], bool]
    ) -> None:
        """`kind` is that of the share; `strange` says whether nobody has vouched for a document."""
        self._store = store
        self._strange = strange
        self._theirs = records.Records(store, type, shares.prefix(kind))
        self._own = records.Records(store, type, prefix)

    def peek(self, tenant: ids.TenantId, name: str) -> records.Versioned[T] | records.Unknown | None:
        """The document or None, if memory knows; else `records.UNKNOWN`. Never waits."""
        own = self._own.peek(tenant, name)
        if isinstance(own, records.Versioned):
            return own
        theirs = self._theirs.peek(tenant, name)
        return own if theirs is None else theirs

    async def get(self, tenant: ids.TenantId, name: str) -> records.Versioned[T] | None:
        """The document, or None: also for a tenant that does not exist."""
        known = self.peek(tenant, name)
        if known is not records.UNKNOWN:
            return known
        return await self._theirs.get(tenant, name) or await self._own.get(tenant, name)

    async def every(self, tenant: ids.TenantId) -> builtins.list[T]:
        """All documents by name, strangers' ones first."""
        found: dict[str, T] = {}
        for where in (self._theirs, self._own):
            after: str | None = None
            while page := await where.list(tenant, after=after, limit=_PAGE):
                found |= {key[-1]: one.value for key, one in page}
                after = page[-1][0][-1]
        return builtins.list(found.values())

    async def create(self, tenant: ids.TenantId, name: str, value: T) -> int:
        """Write a document that does not exist yet. Raises `errors.Conflict`, and `errors.QuotaExceeded`: of the share
        for a stranger's."""
        here, there = (self._theirs, self._own) if self._strange(value) else (self._own, self._theirs)
        return await self._store.tenant(tenant).kv.apply(
            [here.staged((name,), value, expect=kv.ABSENT), there.unstaged((name,), expect=kv.ABSENT)]
        )

    async def update(self, tenant: ids.TenantId, name: str, change: Callable[[T], T]) -> T:
        """Replace a document by `change` of it, as `records.Records.update`; it moves when it is vouched for."""
        for _ in range(_ATTEMPTS):
            found = await self._theirs.get(tenant, name)
            if found is None:
                return await self._own.update(tenant, (name,), change)
            value = change(found.value)
            if value == found.value:
                return value
            try:
                if self._strange(value):
                    await self._theirs.put(tenant, (name,), value, expect=found.revision)
                else:
                    await self._store.tenant(tenant).kv.apply(
                        [
                            self._theirs.unstaged((name,), expect=found.revision),
                            self._own.staged((name,), value, expect=kv.ABSENT),
                        ]
                    )
            except errors.Conflict:
                continue
            return value
        raise errors.Conflict

    async def delete(self, tenant: ids.TenantId, name: str) -> None:
        """Remove a document, wherever it is."""
        await self._store.tenant(tenant).kv.apply([self._theirs.unstaged((name,)), self._own.unstaged((name,))])

    async def drop(self, tenant: ids.TenantId, name: str, found: records.Versioned[T]) -> None:
        """Remove a document if it is still as `found`. Raises `errors.Conflict` when it is not."""
        where = self._theirs if self._strange(found.value) else self._own
        await where.delete(tenant, (name,), expect=found.revision)
