"""The roles that tenants make themselves, kept: one book a tenant, so that one revision tells whether any has changed.

Whoever verifies a credential asks for `rules` and keeps them with the principal, together with the book's revision;
as long as `unchanged` says so they are true. A change counts from the next request on: it has another revision before
its write returns.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from smcp.access import policy, roles
from smcp.kernel import clock, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores


class _Book(msgspec.Struct, frozen=True):
    """All roles of a tenant by name."""

    entries: dict[str, roles.Custom] = {}


class Held(NamedTuple):
    """What names of roles mean just now."""

    rules: tuple[policy.Rule, ...]
    revision: int
    """Of the book they come from; 0 where the tenant has none, and where no role of its own is named."""


NONE: Final = Held((), 0)


class Roles:
    """Makes, lists and removes roles of any tenant, and says what they give."""

    def __init__(self, store: stores.Store, time: clock.Clock) -> None:
        self._clock = time
        self._books = records.Records(store, _Book, ("roles",))

    # --- for who verifies credentials ---

    async def rules(self, tenant: ids.TenantId, names: Iterable[str]) -> Held:
        """What the roles of `names` that are the tenant's own give. One that does not exist gives nothing."""
        wanted = own(names)
        if not wanted:
            return NONE
        found = await self._books.get(tenant, "book")
        if found is None:
            return NONE
        kept = found.value.entries
        return Held(tuple(kept[name].rule() for name in wanted if name in kept), found.revision)

    def unchanged(self, tenant: ids.TenantId, names: Iterable[str], revision: int) -> bool | None:
        """Do `names` still mean what they meant at `revision`? None: memory does not know; ask `rules` again.

        Never waits.
        """
        if not own(names):
            return True
        found = self._books.peek(tenant, "book")
        if found is records.UNKNOWN:
            return None
        return (0 if found is None else found.revision) == revision

    # --- for who manages them ---

    async def list(self, tenant: ids.TenantId) -> list[roles.Custom]:
        """All roles of the tenant's own, by name."""
        found = await self._books.get(tenant, "book")
        return [] if found is None else [found.value.entries[name] for name in sorted(found.value.entries)]

    async def find(self, tenant: ids.TenantId, name: str) -> roles.Custom:
        """One role. Raises `errors.NotFound`."""
        found = await self._books.get(tenant, "book")
        if found is None or name not in found.value.entries:
            raise errors.NotFound(detail="role")
        return found.value.entries[name]

    async def set(self, tenant: ids.TenantId, role: roles.Custom) -> roles.Custom:
        """Make or replace a role. Whether the caller may is `access.grants`'s question, asked before.

        Raises `errors.InvalidParams`, and `errors.NotFound` for a tenant that does not exist.
        """
        made = msgspec.structs.replace(roles.checked(tenant, role), changed=self._clock.now())

        def change(book: _Book) -> _Book:
            if made.name not in book.entries and len(book.entries) >= roles.MOST:
                raise errors.InvalidParams(f"A tenant can make {roles.MOST} roles. Delete one first.")
            return _Book({**book.entries, made.name: made})

        await self._change(tenant, change)
        return made

    async def delete(self, tenant: ids.TenantId, name: str) -> None:
        """Remove a role: whoever has it keeps its name, which gives nothing. Raises `errors.NotFound`."""

        def change(book: _Book) -> _Book:
            if name not in book.entries:
                raise errors.NotFound(detail="role")
            return _Book({kept: role for kept, role in book.entries.items() if kept != name})

        await self._change(tenant, change)

    async def _change(self, tenant: ids.TenantId, change: Callable[[_Book], _Book]) -> None:
        if await self._books.get(tenant, "book") is None:
            try:
                await self._books.create(tenant, ("book",), change(_Book()))
            except errors.Conflict:
                pass
            else:
                return
        await self._books.update(tenant, ("book",), change)


def mark(rules: Iterable[policy.Rule]) -> bytes:
    """Another one for roles that give anything else: what was promised under them is not given under others.

    A role that was deleted and made again by its old name, to give more, has another one.
    """
    said = msgspec.json.encode(sorted(rules, key=lambda rule: rule.role), order="deterministic")
    return hashlib.sha256(said).digest()


def own(names: Iterable[str]) -> list[str]:
    """Those of `names` that are no role of every tenant."""
    return [name for name in names if name not in _BUILT_IN]


_BUILT_IN: Final = frozenset(role.value for role in policy.Role)
