"""What can happen: the closed list of audit events, one class each.

The fields are made of few types on purpose, so that a secret or a person has no place to stand: names from the
grammar of `kernel.ids`, ids that the platform made, closed lists, numbers, `Target` (a public name, or a salted digest
of what may be private) and `Digest` (a salted digest: addresses, labels). The one text that a person writes is
`Reason`, which is cut and redacted. `check` holds every event to this before it is written.

`tenant` says in whose trail an event stands. What an operator does to a tenant stands in that tenant's trail, where its
administrators see it; what concerns no tenant stands in the platform's.
"""

import functools
import re
import typing
from typing import Annotated, Any, Final, Literal, NewType

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
_ID: Final = re.compile(r"[A-Za-z0-9-]{0,64}")
_LONGEST_REASON: Final = 400
_KNOWN_CALLS: Final = 8192


def digest(data: bytes) -> Digest:
    """A digest field from `data`, the output of a keyed digest. `Trail.digest` is what others use."""
    return _Digest(data.hex()[:32])


@functools.lru_cache(maxsize=_KNOWN_CALLS)
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


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every event carries."""

    tenant: Name
    actor: Actor
    request_id: Id = ""
    outcome: Literal["ok", "refused", "failed"] = "ok"


# --- the platform --------------------------------------------------------------------------------------


class PlatformStarted(_Event, frozen=True, kw_only=True, tag="platform_started"):
    """A node began to serve."""

    version: Word
    node: Id = ""


class PlatformStopped(_Event, frozen=True, kw_only=True, tag="platform_stopped"):
    """A node ended in order."""

    node: Id = ""


class OperatorAccess(_Event, frozen=True, kw_only=True, tag="operator_access"):
    """An operator opened a tenant's data, and why."""

    action: Word
    reason: Reason


class AuditRead(_Event, frozen=True, kw_only=True, tag="audit_read"):
    """Somebody read the trail."""


class AuditVerified(_Event, frozen=True, kw_only=True, tag="audit_verified"):
    """The trail was verified. `outcome` is `failed` when it was found damaged, first at `position`."""

    entries: Count
    checkpoints: Count
    position: Count | None = None


class Checkpoint(_Event, frozen=True, kw_only=True, tag="checkpoint"):
    """Written by the trail itself: so many entries, this head, vouched for by a keyed code."""

    count: Count
    head: Hex
    mac: Hex


class ChainStarted(_Event, frozen=True, kw_only=True, tag="chain_started"):
    """Written by the trail itself: a writer begins a chain. `failed`: because its earlier chain is damaged."""

    writer: Id
    others: Count
    """Chains that its first record refers to."""


# --- tenants and credentials ---------------------------------------------------------------------------


class TenantCreated(_Event, frozen=True, kw_only=True, tag="tenant_created"):
    """A tenant was made."""

    plan: Word = ""


class TenantSuspended(_Event, frozen=True, kw_only=True, tag="tenant_suspended"):
    """A tenant is served no more."""


class TenantResumed(_Event, frozen=True, kw_only=True, tag="tenant_resumed"):
    """A tenant is served again."""


class PlanChanged(_Event, frozen=True, kw_only=True, tag="plan_changed"):
    """A tenant has another plan, or other numbers of its own (`name:number`)."""

    plan: Word
    base: Word = ""
    limits: tuple[Word, ...] = ()


class LimitCrossed(_Event, frozen=True, kw_only=True, tag="limit_crossed"):
    """The tenant came to 80 % of a limit of its plan (`warning`), or to the limit (`reached`)."""

    limit: Word
    state: Word
    used: Count
    most: Count


class KeyCreated(_Event, frozen=True, kw_only=True, tag="key_created"):
    """An API key was made."""

    key: Id
    roles: tuple[Word, ...]
    expires: float | None = None
    label: Digest = NO_DIGEST


class KeyRevoked(_Event, frozen=True, kw_only=True, tag="key_revoked"):
    """An API key was revoked."""

    key: Id


class AuthenticationFailed(_Event, frozen=True, kw_only=True, tag="authentication_failed"):
    """A credential was refused, or none was given."""

    why: Word
    address: Digest = NO_DIGEST


class AuthorizationDenied(_Event, frozen=True, kw_only=True, tag="authorization_denied"):
    """A known principal asked for more than its roles allow."""

    action: Word
    resource: Word
    name: Name = ""


# --- servers -------------------------------------------------------------------------------------------


class UploadStored(_Event, frozen=True, kw_only=True, tag="upload_stored"):
    """A folder or a bundle was sent, to be deployed within a day."""

    digest: Word
    """Of the bytes that were sent, `sha256:…`."""
    bytes: Count


class DeploySubmitted(_Event, frozen=True, kw_only=True, tag="deploy_submitted"):
    """A deployment was asked for."""

    operation: Id
    server: Name = ""
    source: Source = ""


class DeploySucceeded(_Event, frozen=True, kw_only=True, tag="deploy_succeeded"):
    """A deployment was made and is live."""

    operation: Id
    server: Name
    deployment: Id
    digest: Word = ""
    """Digest of the artefact, `sha256:…`."""


class DeployFailed(_Event, frozen=True, kw_only=True, tag="deploy_failed"):
    """A deployment was not made; what was live still is."""

    operation: Id
    server: Name = ""
    code: Word = ""


class ServerRolledBack(_Event, frozen=True, kw_only=True, tag="server_rolled_back"):
    """`live` of a server was pointed at another deployment: a rollback."""

    server: Name
    deployment: Id
    before: Id = ""


class ServerStarted(_Event, frozen=True, kw_only=True, tag="server_started"):
    """A server was set to run."""

    server: Name


class ServerStopped(_Event, frozen=True, kw_only=True, tag="server_stopped"):
    """A server was set to stop."""

    server: Name


class ServerDeleted(_Event, frozen=True, kw_only=True, tag="server_deleted"):
    """A server was removed."""

    server: Name


class SecretSet(_Event, frozen=True, kw_only=True, tag="secret_set"):
    """A server's secret was set: its first version, or one more."""

    server: Name
    name: SecretName
    version: Count


class SecretRotated(_Event, frozen=True, kw_only=True, tag="secret_rotated"):
    """A secret that a server had got a new value."""

    server: Name
    name: SecretName
    version: Count


class SecretDeleted(_Event, frozen=True, kw_only=True, tag="secret_deleted"):
    """A server's secret was removed, with all its versions; `version` was the newest."""

    server: Name
    name: SecretName
    version: Count


class VolumeSaved(_Event, frozen=True, kw_only=True, tag="volume_saved"):
    """Somebody asked for a snapshot of a server's volume; `snapshot` is the newest one since."""

    server: Name
    snapshot: Id


class VolumeRestored(_Event, frozen=True, kw_only=True, tag="volume_restored"):
    """A server's volume went back to the state of snapshot `source`, as the new snapshot `snapshot`."""

    server: Name
    snapshot: Id
    source: Id


class VolumeDeleted(_Event, frozen=True, kw_only=True, tag="volume_deleted"):
    """A server's volume was removed with its history."""

    server: Name


# --- MCP -----------------------------------------------------------------------------------------------


class McpCall(_Event, frozen=True, kw_only=True, tag="mcp_call"):
    """One MCP request, when it has ended."""

    server: Name
    method: Method
    target: Target = NO_TARGET
    code: Word = ""
    """The wire code of the error; empty when `outcome` is `ok`."""
    duration_ms: Millis = 0.0
    bytes_in: Count = 0
    bytes_out: Count = 0


class SessionOpened(_Event, frozen=True, kw_only=True, tag="session_opened"):
    """A legacy MCP session began."""

    server: Name
    version: Word = ""


class SessionResumed(_Event, frozen=True, kw_only=True, tag="session_resumed"):
    """A legacy MCP session goes on in another copy of its server, which was told the handshake again."""

    server: Name
    version: Word = ""


class SessionEnded(_Event, frozen=True, kw_only=True, tag="session_ended"):
    """A legacy MCP session ended."""

    server: Name
    why: Word = ""


class SessionRefused(_Event, frozen=True, kw_only=True, tag="session_refused"):
    """A caller showed the id of a session that is not there for it: 404."""

    server: Name
    why: Word = ""
    """`foreign`: the session is another principal's of the tenant, or another server's. `unknown`: all others."""


Event = (
    PlatformStarted
    | PlatformStopped
    | OperatorAccess
    | AuditRead
    | AuditVerified
    | Checkpoint
    | ChainStarted
    | TenantCreated
    | TenantSuspended
    | TenantResumed
    | PlanChanged
    | LimitCrossed
    | KeyCreated
    | KeyRevoked
    | AuthenticationFailed
    | AuthorizationDenied
    | UploadStored
    | DeploySubmitted
    | DeploySucceeded
    | DeployFailed
    | ServerRolledBack
    | ServerStarted
    | ServerStopped
    | ServerDeleted
    | SecretSet
    | SecretRotated
    | SecretDeleted
    | VolumeSaved
    | VolumeRestored
    | VolumeDeleted
    | McpCall
    | SessionOpened
    | SessionResumed
    | SessionEnded
    | SessionRefused
)

CLASSES: Final[tuple[type[Event], ...]] = typing.get_args(Event)
MAX_BYTES: Final = 4096
"""Longest encoded event."""

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event as it is stored, after `check`. Raises `ValueError`: a mistake of the room that made it."""
    check(event)
    data = _encoder.encode(event)
    if len(data) > MAX_BYTES:
        raise ValueError(f"an audit event of {len(data)} bytes")
    return data


def decode(data: bytes) -> Event:
    """The event in `data`. Raises `errors.TamperedData` when it is none, or breaks a field's grammar."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.TamperedData(detail="not an audit event") from error


def check(event: Event) -> None:
    """Raises `ValueError` when a field breaks its grammar, or holds what looks like a credential."""
    if type(event) is McpCall:
        # The hot event: all of it but its request id, time and sizes comes again and again.
        if _ID.fullmatch(event.request_id) is None:
            raise ValueError("an audit event's request id is not allowed")
        _check_call(event.tenant, event.actor, event.outcome, event.server, event.method, event.target, event.code)
    else:
        _check(event)


@functools.lru_cache(maxsize=_KNOWN_CALLS)
def _check_call(tenant: str, actor: str, outcome: Any, server: str, method: str, target: Target, code: str) -> None:
    _check(McpCall(tenant=tenant, actor=actor, outcome=outcome, server=server, method=method, target=target, code=code))


def _check(event: Event) -> None:
    encoded = _encoder.encode(event)
    try:
        _decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The message of msgspec names the field and the rule, never the value.
        raise ValueError(f"an audit event {type(event).__name__}: {error}") from None
    for name in event.__struct_fields__:
        value: object = getattr(event, name)
        if isinstance(value, str) and redact.text(value) != value:
            raise ValueError(f"an audit event's field {name} holds what looks like a credential")
