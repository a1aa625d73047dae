"""What can happen: the closed list of audit events, one class each.

What their fields are made of is in `fields`; `check` holds every event to it before it is written. Those of people,
clients and tokens are in `identity`.

`tenant` says in whose trail an event stands. What an operator does to a tenant stands in that tenant's trail, where its
administrators see it; what concerns no tenant stands in the platform's.
"""

import functools
import re
import typing
from typing import Any, Final

import msgspec

from smcp.audit import identity
from smcp.audit.fields import (
    KNOWN as KNOWN,
)
from smcp.audit.fields import (
    NO_DIGEST as NO_DIGEST,
)
from smcp.audit.fields import (
    NO_TARGET as NO_TARGET,
)
from smcp.audit.fields import (
    Actor as Actor,
)
from smcp.audit.fields import (
    Count as Count,
)
from smcp.audit.fields import (
    Digest as Digest,
)
from smcp.audit.fields import (
    Entry as Entry,
)
from smcp.audit.fields import (
    Hex as Hex,
)
from smcp.audit.fields import (
    Id as Id,
)
from smcp.audit.fields import (
    Method as Method,
)
from smcp.audit.fields import (
    Millis as Millis,
)
from smcp.audit.fields import (
    Name as Name,
)
from smcp.audit.fields import (
    Reason as Reason,
)
from smcp.audit.fields import (
    SecretName as SecretName,
)
from smcp.audit.fields import (
    Source as Source,
)
from smcp.audit.fields import (
    Space as Space,
)
from smcp.audit.fields import (
    Target as Target,
)
from smcp.audit.fields import (
    Word as Word,
)
from smcp.audit.fields import (
    digest as digest,
)
from smcp.audit.fields import (
    private_target as private_target,
)
from smcp.audit.fields import (
    public_name as public_name,
)
from smcp.audit.fields import (
    reason as reason,
)
from smcp.kernel import errors, redact

_ID: Final = re.compile(r"[A-Za-z0-9-]{0,64}")

# --- the platform --------------------------------------------------------------------------------------


class PlatformStarted(Entry, frozen=True, kw_only=True, tag="platform_started"):
    """A node began to serve."""

    version: Word
    node: Id = ""


class PlatformStopped(Entry, frozen=True, kw_only=True, tag="platform_stopped"):
    """A node ended in order."""

    node: Id = ""


class OperatorAccess(Entry, frozen=True, kw_only=True, tag="operator_access"):
    """An operator opened a tenant's data, and why."""

    action: Word
    reason: Reason


class AuditRead(Entry, frozen=True, kw_only=True, tag="audit_read"):
    """Somebody read the trail."""


class AuditVerified(Entry, frozen=True, kw_only=True, tag="audit_verified"):
    """The trail was verified. `outcome` is `failed` when it was found damaged, first at `position`."""

    entries: Count
    checkpoints: Count
    position: Count | None = None


class Checkpoint(Entry, frozen=True, kw_only=True, tag="checkpoint"):
    """Written by the trail itself: so many entries, this head, vouched for by a keyed code."""

    count: Count
    head: Hex
    mac: Hex


class ChainStarted(Entry, frozen=True, kw_only=True, tag="chain_started"):
    """Written by the trail itself: a writer begins a chain. `failed`: because its earlier chain is damaged."""

    writer: Id
    others: Count
    """Chains that its first record refers to."""


# --- tenants and credentials ---------------------------------------------------------------------------


class TenantCreated(Entry, frozen=True, kw_only=True, tag="tenant_created"):
    """A tenant was made."""

    plan: Word = ""


class TenantSuspended(Entry, frozen=True, kw_only=True, tag="tenant_suspended"):
    """A tenant is served no more."""


class TenantResumed(Entry, frozen=True, kw_only=True, tag="tenant_resumed"):
    """A tenant is served again."""


class PlanChanged(Entry, frozen=True, kw_only=True, tag="plan_changed"):
    """A tenant has another plan, or other numbers of its own (`name:number`)."""

    plan: Word
    base: Word = ""
    limits: tuple[Word, ...] = ()


class LimitCrossed(Entry, frozen=True, kw_only=True, tag="limit_crossed"):
    """The tenant came to 80 % of a limit of its plan (`warning`), or to the limit (`reached`)."""

    limit: Word
    state: Word
    used: Count
    most: Count


class KeyCreated(Entry, frozen=True, kw_only=True, tag="key_created"):
    """An API key was made."""

    key: Id
    roles: tuple[Word, ...]
    expires: float | None = None
    label: Digest = NO_DIGEST


class KeyRevoked(Entry, frozen=True, kw_only=True, tag="key_revoked"):
    """An API key was revoked."""

    key: Id


class AuthenticationFailed(Entry, frozen=True, kw_only=True, tag="authentication_failed"):
    """A credential was refused, or none was given."""

    why: Word
    address: Digest = NO_DIGEST


class AuthorizationDenied(Entry, frozen=True, kw_only=True, tag="authorization_denied"):
    """A known principal asked for more than its roles allow."""

    action: Word
    resource: Word
    name: Name = ""


# --- servers -------------------------------------------------------------------------------------------


class UploadStored(Entry, frozen=True, kw_only=True, tag="upload_stored"):
    """A folder or a bundle was sent, to be deployed within a day."""

    digest: Word
    """Of the bytes that were sent, `sha256:…`."""
    bytes: Count


class DeploySubmitted(Entry, frozen=True, kw_only=True, tag="deploy_submitted"):
    """A deployment was asked for."""

    operation: Id
    server: Name = ""
    source: Source = ""


class DeploySucceeded(Entry, frozen=True, kw_only=True, tag="deploy_succeeded"):
    """A deployment was made and is live."""

    operation: Id
    server: Name
    deployment: Id
    digest: Word = ""
    """Digest of the artefact, `sha256:…`."""


class DeployFailed(Entry, frozen=True, kw_only=True, tag="deploy_failed"):
    """A deployment was not made; what was live still is."""

    operation: Id
    server: Name = ""
    code: Word = ""


class ServerRolledBack(Entry, frozen=True, kw_only=True, tag="server_rolled_back"):
    """`live` of a server was pointed at another deployment: a rollback."""

    server: Name
    deployment: Id
    before: Id = ""


class ServerStarted(Entry, frozen=True, kw_only=True, tag="server_started"):
    """A server was set to run."""

    server: Name


class ServerStopped(Entry, frozen=True, kw_only=True, tag="server_stopped"):
    """A server was set to stop."""

    server: Name


class ServerDeleted(Entry, frozen=True, kw_only=True, tag="server_deleted"):
    """A server was removed."""

    server: Name


class SecretSet(Entry, frozen=True, kw_only=True, tag="secret_set"):
    """A server's secret was set: its first version, or one more."""

    server: Name
    name: SecretName
    version: Count


class SecretRotated(Entry, frozen=True, kw_only=True, tag="secret_rotated"):
    """A secret that a server had got a new value."""

    server: Name
    name: SecretName
    version: Count


class SecretDeleted(Entry, frozen=True, kw_only=True, tag="secret_deleted"):
    """A server's secret was removed, with all its versions; `version` was the newest."""

    server: Name
    name: SecretName
    version: Count


class VolumeSaved(Entry, frozen=True, kw_only=True, tag="volume_saved"):
    """Somebody asked for a snapshot of a server's volume; `snapshot` is the newest one since."""

    server: Name
    snapshot: Id


class VolumeRestored(Entry, frozen=True, kw_only=True, tag="volume_restored"):
    """A server's volume went back to the state of snapshot `source`, as the new snapshot `snapshot`."""

    server: Name
    snapshot: Id
    source: Id


class VolumeDeleted(Entry, frozen=True, kw_only=True, tag="volume_deleted"):
    """A server's volume was removed with its history."""

    server: Name


class KvPut(Entry, frozen=True, kw_only=True, tag="kv_put"):
    """Somebody gave a key of a KV namespace a value, from outside of the tenant's code. `key` is a digest of it."""

    namespace: Space
    key: Digest
    bytes: Count


class KvDeleted(Entry, frozen=True, kw_only=True, tag="kv_deleted"):
    """Somebody removed a key of a KV namespace, from outside of the tenant's code. `key` is a digest of it."""

    namespace: Space
    key: Digest


class KvCleared(Entry, frozen=True, kw_only=True, tag="kv_cleared"):
    """Somebody removed a KV namespace with all its keys."""

    namespace: Space
    keys: Count


class ObjectPut(Entry, frozen=True, kw_only=True, tag="object_put"):
    """Somebody wrote an object, from outside of the tenant's code. `key` is a digest of its key."""

    bucket: Space
    key: Digest
    bytes: Count


class ObjectDeleted(Entry, frozen=True, kw_only=True, tag="object_deleted"):
    """Somebody removed an object from outside of the tenant's code, or, without `key`, a bucket with all of them."""

    bucket: Space
    key: Digest = NO_DIGEST
    objects: Count = 1


# --- MCP -----------------------------------------------------------------------------------------------


class McpCall(Entry, frozen=True, kw_only=True, tag="mcp_call"):
    """One MCP request, when it has ended."""

    server: Name
    method: Method
    target: Target = NO_TARGET
    code: Word = ""
    """The wire code of the error; empty when `outcome` is `ok`."""
    duration_ms: Millis = 0.0
    bytes_in: Count = 0
    bytes_out: Count = 0


class SessionOpened(Entry, frozen=True, kw_only=True, tag="session_opened"):
    """A legacy MCP session began."""

    server: Name
    version: Word = ""


class SessionResumed(Entry, frozen=True, kw_only=True, tag="session_resumed"):
    """A legacy MCP session goes on in another copy of its server, which was told the handshake again."""

    server: Name
    version: Word = ""


class SessionEnded(Entry, frozen=True, kw_only=True, tag="session_ended"):
    """A legacy MCP session ended."""

    server: Name
    why: Word = ""


class SessionRefused(Entry, frozen=True, kw_only=True, tag="session_refused"):
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
    | KvPut
    | KvDeleted
    | KvCleared
    | ObjectPut
    | ObjectDeleted
    | McpCall
    | SessionOpened
    | SessionResumed
    | SessionEnded
    | SessionRefused
    | identity.Event
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


@functools.lru_cache(maxsize=KNOWN)
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
