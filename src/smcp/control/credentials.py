"""What the API shows of keys and roles: see `views`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from smcp.control.views import Time


class Key(msgspec.Struct, frozen=True):
    """An API key without its secret, which is not stored."""

    id: str
    tenant: str
    label: str
    roles: list[str]
    created: Time
    expires: Time | None
    revoked: Time | None
    last_used: Annotated[float, Meta(description="Within a minute; seconds since the Unix epoch, UTC.")] | None
    scopes: Annotated[list[str] | None, Meta(description="What it may be used for of what its roles give; null: all.")]
    servers: Annotated[list[str] | None, Meta(description="The servers that it reaches; null: everything.")]
    networks: Annotated[list[str], Meta(description="Where it may be used from; empty: anywhere.")]
    successor: Annotated[str | None, Meta(description="The key that replaces it.")]
    notice: Annotated[str | None, Meta(description="What is to be done about it soon; null: nothing.")]


class Role(msgspec.Struct, frozen=True):
    """A role: what it gives, and under which conditions."""

    name: str
    description: str
    actions: list[str]
    servers: Annotated[list[str], Meta(description="It reaches these servers only; empty: everything.")]
    tools: Annotated[list[str], Meta(description="It reaches tools that fit one of these only; empty: all.")]
    read_only: Annotated[bool, Meta(description="It reaches only tools that said `readOnlyHint` when deployed.")]
    changed: Time | None
    """Null for the roles that every tenant has."""


class Verdict(msgspec.Struct, frozen=True):
    """What would be decided, and why."""

    decision: Annotated[str, Meta(description="`allow`, `deny` (403), `step_up` (403) or `conceal` (404).")]
    hidden: Annotated[bool, Meta(description="The tool is on no list, and looks as if it did not exist.")]
    allowed: bool
    because: list[str]


class NewKey(msgspec.Struct, frozen=True):
    """A new API key and, this once, its text."""

    key: Key
    secret: Annotated[str, Meta(description="The whole key, `smcp_…`. Shown once; only a keyed hash of it is stored.")]

    def __repr__(self) -> str:
        return f"NewKey(key={self.key!r}, secret=…)"
