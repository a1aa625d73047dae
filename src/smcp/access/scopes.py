"""Scopes: what a token or a key may be used for, of what its holder's roles give (RFC 6749, 3.3).

| scope | lets | implies |
|---|---|---|
| `mcp:read` | connect to a server, list and read | |
| `mcp:call` | call its tools | `mcp:read` |
| `api:read` | read over the admin API | |
| `api:write` | change servers and their data | `api:read` |
| `api:admin` | keys, users, clients, roles | `api:write` |

A scope gives nothing by itself. Every action needs exactly one scope; where another implies it, that one will do.
"""

import functools
from collections.abc import Iterable
from typing import Final

from smcp.access.actions import Action

READ: Final = "mcp:read"
CALL: Final = "mcp:call"
API_READ: Final = "api:read"
API_WRITE: Final = "api:write"
API_ADMIN: Final = "api:admin"

WORDS: Final[dict[str, str]] = {
    READ: "See what the server offers, and read it",
    CALL: "Use the server's tools",
    API_READ: "See servers, settings and usage",
    API_WRITE: "Change servers and their data",
    API_ADMIN: "Manage keys, people, clients and roles",
}
"""Every scope there is, with what it means to a person. Narrow ones first."""

MCP: Final = (READ, CALL)
"""What is asked for where a server is used: all of it in one challenge (MCP 2026-07-28, "Scope Selection")."""
API: Final = (API_READ, API_WRITE, API_ADMIN)

DROPPED: Final = frozenset({"offline_access"})
"""What clients ask for that means nothing here (OpenID Connect Core, 11): every grant can be refreshed."""

_IMPLIES: Final = {CALL: (READ,), API_WRITE: (API_READ,), API_ADMIN: (API_READ, API_WRITE)}

_ADMIN_KINDS: Final = frozenset({"client", "key", "role", "signing", "user"})
_READING: Final = frozenset(
    {
        Action.AUDIT_READ,
        Action.AUDIT_VERIFY,
        Action.KV_READ,
        Action.OBJECT_READ,
        Action.PLATFORM_METRICS,
        Action.PLATFORM_READ,
        Action.PLATFORM_USAGE,
        Action.SECRETS_LIST,
        Action.SERVER_LIST,
        Action.SERVER_LOGS,
        Action.SERVER_READ,
        Action.TENANT_LIST,
        Action.TENANT_READ,
        Action.USAGE_READ,
        Action.VOLUME_READ,
    }
)


def _scope(action: Action) -> str:
    kind = action.value.partition(":")[0]
    if kind == "mcp":
        return CALL if action is Action.MCP_CALL else READ
    if kind in _ADMIN_KINDS:
        return API_ADMIN
    return API_READ if action in _READING else API_WRITE


NEEDS: Final[dict[Action, str]] = {action: _scope(action) for action in Action}
"""The scope that an action needs."""


def parse(text: str) -> frozenset[str] | None:
    """The scopes that a request names, separated by spaces, without those that mean nothing; None: one is unknown.

    RFC 6749, 3.3: the caller answers None with `invalid_scope`.
    """
    asked = frozenset(text.split(" ")) - DROPPED - {""}
    return asked if asked <= WORDS.keys() else None


def text(scopes: Iterable[str]) -> str:
    """Scopes as one parameter, narrow ones first."""
    wanted = set(scopes)
    return " ".join(scope for scope in WORDS if scope in wanted)


def whole(scopes: Iterable[str]) -> frozenset[str]:
    """`scopes` with all that they imply."""
    named = [scope for scope in scopes if scope in WORDS]
    return frozenset(named).union(*(_IMPLIES.get(scope, ()) for scope in named))


@functools.lru_cache(maxsize=1024)
def actions(scopes: frozenset[str]) -> frozenset[Action]:
    """What `scopes` leave of the roles. Unknown scopes leave nothing."""
    held = whole(scopes)
    return frozenset(action for action, needed in NEEDS.items() if needed in held)


def step_up(held: frozenset[str], action: Action) -> str:
    """What to ask for so as to do `action` and all that was possible before: the `scope` of a 403.

    RFC 6750, 3; MCP 2026-07-28, "Scope Challenge Handling": clients then ask for exactly this.
    """
    return text({*held, NEEDS[action]})
