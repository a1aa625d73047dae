"""What the API shows: every answer's shape, apart from how rooms store it.

A field that a room adds is not shown until it is added here; a secret or a digest can't slip out with a refactoring.
Times are seconds since the Unix epoch, UTC.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

Time = Annotated[float, Meta(description="Seconds since the Unix epoch, UTC.")]


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list."""

    items: list[T]
    next: Annotated[str | int | None, Meta(description="Send as `after` for the next page; null on the last one.")]


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, in one stable code and one sentence."""

    code: Annotated[str, Meta(description="Stable; docs/reference/errors.md lists all codes.")]
    message: str
    request_id: Annotated[str, Meta(description="Finds the request in the platform's log.")]
    data: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Error(msgspec.Struct, frozen=True):
    """The body of every answer that is not 2xx."""

    error: Failure


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """The platform can take traffic; the conditions that were checked."""

    ready: bool
    checks: list[str]


class Version(msgspec.Struct, frozen=True):
    """Which SMCP this is."""

    name: str
    version: str


class Layer(msgspec.Struct, frozen=True):
    """A layer of the walls around hosted servers."""

    name: str
    present: bool
    why: str
    """What it does, or why it is missing; for operators, else empty."""
    fix: str
    """What brings it; for operators, else empty."""


class Sandbox(msgspec.Struct, frozen=True):
    """The walls around hosted servers on this machine."""

    layers: list[Layer]
    missing: list[str]


class Principal(msgspec.Struct, frozen=True):
    """Who the credential belongs to."""

    tenant: str
    id: str
    kind: Annotated[str, Meta(description="`api_key`, `user` (a person) or `client` (an OAuth client itself).")]
    roles: list[str]
    label: str
    client: Annotated[str, Meta(description="The OAuth client that acts for a person; else empty.")] = ""
    scopes: Annotated[
        list[str] | None, Meta(description="What the credential is narrowed to; null: all that its roles allow.")
    ] = None
    servers: Annotated[list[str] | None, Meta(description="The servers that it reaches; null: everything.")] = None
    expires: Annotated[float | None, Meta(description="When it ends: seconds since the Unix epoch, UTC.")] = None


class Tenant(msgspec.Struct, frozen=True):
    """A tenant: the unit of isolation."""

    id: str
    display_name: str
    state: Annotated[str, Meta(description="`active` or `suspended`.")]
    plan: str
    created: Time


class Limit(msgspec.Struct, frozen=True):
    """One limit of a tenant's plan, and where the tenant stands."""

    name: str
    text: Annotated[str, Meta(description="What is limited.")]
    unit: Annotated[str, Meta(description="`requests`, `sessions`, `copies`, `bytes`, `keys` or `deployments`.")]
    limit: int
    used: Annotated[
        int | None, Meta(description="Now; of principals, sessions and servers the busiest's. Null: uncounted.")
    ]
    remaining: int | None
    resets: Annotated[
        float | None,
        Meta(description="When some of it comes back by itself: seconds since the Unix epoch, UTC. Null: it does not."),
    ]
    state: Annotated[str, Meta(description="`ok`, `warning` from 80 % on, or `reached`.")]


class Limits(msgspec.Struct, frozen=True):
    """A tenant's plan, and every limit of it."""

    tenant: str
    plan: Annotated[str, Meta(description="`free`, `standard` or `custom`.")]
    base: Annotated[str | None, Meta(description="Of a custom plan: what its numbers are changes of.")]
    state: Annotated[str, Meta(description="The worst of all limits' states.")]
    limits: list[Limit]


class PlanChange(msgspec.Struct, frozen=True):
    """What a change of plan does, or would do."""

    applied: Annotated[bool, Meta(description="False for a dry run.")]
    above: Annotated[
        list[Limit],
        Meta(description="Limits of the new plan that the tenant's present use is above. Nothing that is there goes."),
    ]
    limits: Limits


class Upload(msgspec.Struct, frozen=True):
    """What was sent, and how to name it in a deployment."""

    source: Annotated[str, Meta(description="`upload:sha256:…`: the `source` of a deployment of this tenant.")]
    bytes: int


class Step(msgspec.Struct, frozen=True):
    """One line of an operation's story."""

    at: Time
    stage: str
    text: str


class Operation(msgspec.Struct, frozen=True):
    """A deployment being made."""

    id: str
    tenant: str
    state: Annotated[str, Meta(description="`running`, `succeeded` or `failed`.")]
    steps: list[Step]
    error: str | None
    server: str | None
    deployment: str | None


class Locked(msgspec.Struct, frozen=True):
    """One package of a deployment's dependency lock."""

    name: str
    version: str
    sha256: str


class ToolName(msgspec.Struct, frozen=True):
    """A tool as it was when the deployment was made."""

    name: str
    description: str


class Remote(msgspec.Struct, frozen=True):
    """How a server is reached that runs elsewhere."""

    url: str
    headers: Annotated[
        dict[str, str], Meta(description="Headers of every request to it, each with the name of the secret that it is.")
    ]
    wire: Annotated[str, Meta(description="`streamable` or `sse`.")]


class Deployment(msgspec.Struct, frozen=True):
    """An immutable version of a server."""

    id: str
    server: str
    number: int
    live: Annotated[bool, Meta(description="Whether the server's endpoint serves this one.")]
    created: Time
    by: Annotated[str, Meta(description="The principal that deployed it.")]
    source: str
    digest: Annotated[str, Meta(description="Of the artefact; of a remote server of how it is reached.")]
    argv: list[str]
    legacy_versions: Annotated[list[str], Meta(description="MCP versions up to 2025-11-25 that the server speaks.")]
    modern_versions: Annotated[list[str], Meta(description="MCP versions from 2026-07-28 on that the server speaks.")]
    runtime: Annotated[str, Meta(description="`python`, `node`, or `remote`: it runs elsewhere.")]
    remote: Annotated[Remote | None, Meta(description="Of a remote server: how it is reached.")]
    tools: list[ToolName]
    lock: list[Locked]


class Server(msgspec.Struct, frozen=True):
    """A named MCP endpoint of a tenant."""

    name: str
    tenant: str
    created: Time
    desired: Annotated[str, Meta(description="`running` or `stopped`.")]
    live: Annotated[str | None, Meta(description="The id of the deployment that the endpoint serves.")]
    endpoint: Annotated[str, Meta(description="The URL for MCP clients.")]
    instances: Annotated[int, Meta(description="Running copies on this node.")]


class Instance(msgspec.Struct, frozen=True):
    """A running copy of a server."""

    kind: Annotated[
        str, Meta(description="`shared`, `own` (one session's, or one request's) or `spare` (started ahead).")
    ]
    state: Annotated[
        str,
        Meta(
            description="`serving`, `draining` (ends with its last call), `ending`; of a spare `starting` or `ready`."
        ),
    ]
    deployment: str
    outstanding: Annotated[int, Meta(description="Requests that it has not answered yet.")]
    age_s: Annotated[float, Meta(description="Seconds since its start.")]


class Running(msgspec.Struct, frozen=True):
    """What runs of a server on this node."""

    copies: list[Instance]
    starting: int
    waiting: Annotated[int, Meta(description="Requests and starts that wait for a copy.")]
    breaker: Annotated[
        str, Meta(description="`closed`; `open` while starts wait because copies kept ending; `half_open` behind that.")
    ]
    retry_s: Annotated[float, Meta(description="Seconds until a start is tried again; 0 unless the breaker is open.")]


class ServerDetail(Server, frozen=True):
    """A server with its live deployment."""

    deployment: Deployment
    running: Running


class LogLine(msgspec.Struct, frozen=True):
    """A line of a hosted server's log."""

    position: int
    time: Time
    text: str


class Secret(msgspec.Struct, frozen=True):
    """A server's secret, without its value."""

    name: str
    version: int
    kind: Annotated[str, Meta(description="`env` or `file`.")]
    created: Annotated[float, Meta(description="When this version was set; seconds since the Unix epoch, UTC.")]
    by: Annotated[str, Meta(description="Id of the principal who set it.")]


class Snapshot(msgspec.Struct, frozen=True):
    """A sealed state of a volume."""

    id: str
    time: Annotated[float, Meta(description="When it was taken; seconds since the Unix epoch, UTC.")]
    bytes: int
    digest: Annotated[str, Meta(description="SHA-256 of the content as it is stored: equal for equal content.")]
    note: Annotated[str, Meta(description="What is special about it; empty for nothing.")]


class Volume(msgspec.Struct, frozen=True):
    """What a server keeps."""

    server: str
    path: Annotated[
        str | None, Meta(description="Where the server sees it; null when what is live keeps nothing any more.")
    ]
    size_bytes: Annotated[int | None, Meta(description="Room for its files; null as `path`.")]
    used_bytes: Annotated[int, Meta(description="Size of the newest snapshot.")]
    open: Annotated[bool, Meta(description="Whether it is in memory now, because a copy of the server runs.")]
    unsaved: Annotated[str | None, Meta(description="Why its last state is not stored, if it could not be.")]
    snapshots: Annotated[list[Snapshot], Meta(description="Newest first.")]


class KvNamespace(msgspec.Struct, frozen=True):
    """A KV namespace that holds something."""

    name: str


class KvKey(msgspec.Struct, frozen=True):
    """A key of a KV namespace, without its value."""

    name: str
    bytes: Annotated[int, Meta(description="Size of its value.")]
    expires: Annotated[int | None, Meta(description="When it ends; seconds since the Unix epoch, UTC.")]
    metadata: Annotated[Any, Meta(description="JSON that was written with it; null for none.")]


class KvValue(msgspec.Struct, frozen=True):
    """A key of a KV namespace with its value, as text or in base64: one of the two is null."""

    name: str
    bytes: Annotated[int, Meta(description="Size of the value.")]
    expires: Annotated[int | None, Meta(description="When it ends; seconds since the Unix epoch, UTC.")]
    metadata: Annotated[Any, Meta(description="JSON that was written with it; null for none.")]
    value: Annotated[str | None, Meta(description="The value, where it is UTF-8.")]
    value_base64: Annotated[str | None, Meta(description="The value's bytes, where it is not (RFC 4648, 4).")]


class KvCleared(msgspec.Struct, frozen=True):
    """A KV namespace that was deleted, or would be."""

    name: str
    keys: int
    bytes: Annotated[int, Meta(description="Size of their values.")]
    dry_run: bool


class Bucket(msgspec.Struct, frozen=True):
    """A bucket that something is in."""

    name: str
    objects: int


class Object(msgspec.Struct, frozen=True):
    """An object of a bucket, without its bytes."""

    key: str
    bytes: int
    etag: Annotated[str, Meta(description="MD5 of the bytes; behind a multipart upload, another text with a '-'.")]
    version: str
    uploaded: Time
    storage_class: str
    http: Annotated[dict[str, str], Meta(description="Header fields that were given with it, such as Content-Type.")]
    metadata: dict[str, str]
    checksums: Annotated[
        dict[str, str], Meta(description="In hexadecimal, by name: md5, sha1, sha256, sha384, sha512.")
    ]


class ObjectPage(msgspec.Struct, frozen=True):
    """A page of a bucket."""

    items: list[Object]
    prefixes: Annotated[list[str], Meta(description="What keys begin with up to the delimiter, where one was given.")]
    next: Annotated[str | None, Meta(description="Send as `after` for the next page; null on the last one.")]


class BucketDeleted(msgspec.Struct, frozen=True):
    """A bucket that was deleted, or would be."""

    name: str
    objects: int
    bytes: Annotated[int, Meta(description="Size of them all.")]
    dry_run: bool


class Tools(msgspec.Struct, frozen=True):
    """The server's own answer to tools/list, all pages."""

    tools: list[dict[str, Any]]


class AuditEntry(msgspec.Struct, frozen=True):
    """One entry of a tenant's audit trail."""

    position: int
    time: Time
    event: Annotated[
        dict[str, Any],
        Meta(description="`event` names its kind; docs/reference/audit-events.md lists the kinds and their fields."),
    ]


class AuditReport(msgspec.Struct, frozen=True):
    """Whether a tenant's audit trail is whole."""

    ok: bool
    entries: int
    checkpoints: int
    problem: str | None
    position: int | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used; null in `time`, `server` and `principal` where it is not by these."""

    tenant: str
    time: Annotated[float | None, Meta(description="Beginning of the hour or day, epoch seconds, UTC.")]
    server: str | None
    principal: str | None
    calls: int
    errors: int
    received_bytes: Annotated[int, Meta(description="Of the requests' bodies.")]
    sent_bytes: Annotated[int, Meta(description="Of the answers' bodies.")]
    cpu_s: Annotated[float | None, Meta(description="Processor time of the servers' copies; null: unknown.")]
    memory_byte_s: Annotated[
        int | None, Meta(description="Bytes of memory times the seconds that copies had them; null: unknown.")
    ]
    copy_s: Annotated[float, Meta(description="Time that copies ran, each for itself.")]
    cpu_unknown_s: Annotated[float, Meta(description="The part of copy_s for which cpu_s is not known.")]
    memory_unknown_s: Annotated[float, Meta(description="The part of copy_s for which memory_byte_s is not known.")]
    egress_sent_bytes: int
    egress_received_bytes: int
    storage_byte_s: Annotated[int, Meta(description="Bytes stored times the seconds that they were kept.")]


class Paging(Protocol):
    """A page that is asked for by name or id."""

    @property
    def after(self) -> str: ...

    @property
    def limit(self) -> int: ...


def page(items: Iterable[T], asked: Paging, name: Callable[[T], str]) -> Listing[T]:
    """The page of `items` that was asked for, ordered by `name`."""
    rest = sorted((item for item in items if name(item) > asked.after), key=name)
    shown = rest[: asked.limit]
    return Listing(shown, name(shown[-1]) if len(rest) > len(shown) else None)
