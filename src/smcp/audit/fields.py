"""What audit events are made of: few types, so that a secret or a person has no place to stand.

Names from the grammar of `kernel.ids`, ids that the platform made, closed lists, numbers, `Target` (a public name, or a
salted digest of what may be private) and `Digest` (a salted digest: addresses, labels, redirect addresses). The one
text that a person writes is `Reason`, which is cut and redacted.
"""

import functools
import re
from typing import Annotated, Final, Literal, NewType

import msgspec
from msgspec import Meta

from smcp.kernel import errors, redact

Actor = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,63}\Z")]
"""A principal's id, `anonymous` or `platform`."""
Name = Annotated[str, Meta(pattern=r"\A(?:[a-z0-9-]{1,63})?\Z")]
"""A tenant's or server's name; empty for none."""
Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9-]{0,64}\Z")]
"""An id that the platform made; empty for none. Session ids are none: they are credentials."""
Word = Annotated[str, Meta(pattern=r"\A[a-z0-9_/.:-]{0,80}\Z")]
"""A word of a closed list that another room keeps: a role, an action, an error code."""
Method = Annotated[str, Meta(pattern=r"\A[A-Za-z/_]{1,64}\Z")]
"""An MCP method of a closed list; `_OTHER` for all others."""
Count = Annotated[int, Meta(ge=0)]
Millis = Annotated[float, Meta(ge=0)]

Source = Annotated[str, Meta(pattern=r"\A(?:[a-z]{1,16}:[!-~]{1,300})?\Z")]
"""Where a deployment comes from, as the caller named it: `pypi:…`."""
SecretName = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
"""What a server calls a secret: the name of a variable or file, never the value."""
Space = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
"""A tenant's own name for a KV namespace or a bucket of objects."""
Hex = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]

_Digest = NewType("_Digest", str)
_Target = NewType("_Target", str)
_Reason = NewType("_Reason", str)
Digest = Annotated[_Digest, Meta(pattern=r"\A(?:[0-9a-f]{32})?\Z")]
"""32 hexadecimal digits made by `Trail.digest` (salted for the tenant); empty for none."""
Target = Annotated[_Target, Meta(pattern=r"\A(?:[A-Za-z0-9_./-]{1,128}|#[0-9a-f]{32})?\Z")]
"""What a call was aimed at, made by `Trail.target`; empty for nothing."""
Reason = Annotated[_Reason, Meta(min_length=1, max_length=400)]
"""Why an operator looked: made by `reason`."""

NO_DIGEST: Final = _Digest("")
NO_TARGET: Final = _Target("")

_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_LONGEST_REASON: Final = 400
KNOWN: Final = 8192
"""How many targets, and how many checks of calls, are kept in memory."""


def digest(data: bytes) -> Digest:
    """A digest field from `data`, the output of a keyed digest. `Trail.digest` is what others use."""
    return _Digest(data.hex()[:32])


@functools.lru_cache(maxsize=KNOWN)
def public_name(text: str) -> Target | None:
    """`text` as a target if it is the name of a tool or a prompt; None when it may be private.

    A name is what MCP 2026-07-28, "Tool Names", allows (1 to 128 letters, digits, `_`, `-`, `.`, `/`). Resource
    addresses, and whatever looks like a credential, are private.
    """
    if _NAME.fullmatch(text) is not None and redact.text(text) == text:
        return _Target(text)
    return None


def private_target(data: bytes) -> Target:
    """A target from the output of a keyed digest of what may be private. `Trail.target` is what others use."""
    return _Target(f"#{data.hex()[:32]}")


def reason(text: str) -> Reason:
    """An operator's own words, redacted and cut. Raises `errors.InvalidParams` when there are none."""
    if not text.strip():
        raise errors.InvalidParams("Say why: access to a tenant's data needs a reason.")
    return _Reason(redact.text(text.strip())[:_LONGEST_REASON])


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every event carries."""

    tenant: Name
    actor: Actor
    request_id: Id = ""
    outcome: Literal["ok", "refused", "failed"] = "ok"
