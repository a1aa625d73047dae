"""Roles of a tenant's own: what one may hold, and who may make or give it. Pure; kept by `identity.roles`."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from smcp.access import patterns, policy
from smcp.access.actions import Action
from smcp.kernel import errors, ids

MOST: Final = 64
"""Roles that a tenant can make."""
MOST_SERVERS: Final = 64
MOST_TOOLS: Final = 32
MAX_DESCRIPTION: Final = 200

NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", re.ASCII)
"""A role's name. Those of `policy.Role` are taken."""


class Custom(msgspec.Struct, frozen=True, kw_only=True):
    """A role of a tenant's own, as it is kept."""

    name: str
    description: str = ""
    actions: tuple[str, ...]
    """`resource:action`, in order. One that a later platform knows and this one does not gives nothing here."""
    servers: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    read_only: bool = False
    changed: float = 0.0

    def rule(self) -> policy.Rule:
        """What it gives."""
        known = frozenset(Action(action) for action in self.actions if action in _ACTIONS)
        return policy.Rule(self.name, known, frozenset(self.servers), self.tools, self.read_only)


_ACTIONS: Final = frozenset(action.value for action in Action)


def possible(tenant: ids.TenantId) -> frozenset[Action]:
    """The actions that a role of `tenant` can hold: what its widest role gives."""
    return policy.GRANTS[policy.Role.OPERATOR if tenant == ids.PLATFORM else policy.Role.ADMIN]


def checked(tenant: ids.TenantId, role: Custom) -> Custom:
    """`role` in its one form. Raises `errors.InvalidParams`, which says what is wrong.

    `mcp:*` stands for all possible actions of a resource.
    """
    if NAME.fullmatch(role.name) is None or role.name in set(policy.Role):
        raise errors.InvalidParams(
            "A role's name is 2 to 40 small letters, digits and '-', and none of " + ", ".join(policy.Role) + "."
        )
    if len(role.description) > MAX_DESCRIPTION or not role.description.isprintable():
        raise errors.InvalidParams(f"A role's description is up to {MAX_DESCRIPTION} printable characters.")
    if len(role.servers) > MOST_SERVERS or len(role.tools) > MOST_TOOLS:
        raise errors.InvalidParams(f"A role names up to {MOST_SERVERS} servers and {MOST_TOOLS} patterns of tools.")
    for pattern in role.tools:
        if not patterns.valid(pattern):
            raise errors.InvalidParams(
                f"{pattern[:64]!r} is no pattern of tools: letters, digits, '_', '-', '.', '/' and up to "
                f"{patterns.MOST_STARS} '*'."
            )
    servers = {str(ids.server(name)) for name in role.servers}
    actions = _expanded(tenant, role.actions)
    return msgspec.structs.replace(
        role,
        actions=tuple(sorted(actions)),
        servers=tuple(sorted(servers)),
        tools=tuple(sorted(set(role.tools))),
    )


def _expanded(tenant: ids.TenantId, wanted: Iterable[str]) -> set[str]:
    allowed = {action.value for action in possible(tenant)}
    found: set[str] = set()
    for word in wanted:
        kind, _, verb = word.partition(":")
        matching = {one for one in allowed if one.partition(":")[0] == kind} if verb == "*" else {word} & allowed
        if not matching:
            raise errors.InvalidParams(
                f"{word[:64]!r} is no action that a role of this tenant can hold. "
                "They are listed by `smcp role actions` and in docs/reference/roles.md."
            )
        found |= matching
    if not found:
        raise errors.InvalidParams("A role holds at least one action, like mcp:list or server:*.")
    return found
