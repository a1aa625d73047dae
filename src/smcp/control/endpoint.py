"""What an endpoint is: a handler with a method, a path and an action, made by `@endpoint`.

`@endpoint` turns a function into a value, so nothing registers itself anywhere: a resource's file exports a literal
tuple of its endpoints and `control.routes` joins those. An endpoint without an action does not import. The types of
body, query and answer are read from the handler's signature, which pyright checks; the OpenAPI document comes from the
same place.
"""

import inspect
import re
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta

from smcp.access import policy
from smcp.audit import events
from smcp.control.services import Services
from smcp.deploy import secrets
from smcp.identity.oauth import clients
from smcp.kernel import errors, ids
from smcp.stores import bucket_model, kvrules

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No body, or no query: anything sent is refused."""


class Binary(msgspec.Struct, frozen=True):
    """A body of plain bytes that the handler reads piece by piece, behind the decision; `reading.binary` bounds it."""

    chunks: AsyncIterator[bytes]
    length: int | None = None
    """How many bytes are announced."""


class Large(Binary, frozen=True):
    """As `Binary`, for what has no other bound than that of one object: `reading.large`."""


class Open(msgspec.Struct, frozen=True):
    """Instead of an action: answers without a credential, because of `reason`."""

    reason: str


class AnyCredential(msgspec.Struct, frozen=True):
    """Instead of an action: answers every valid credential, because of `reason`."""

    reason: str


Access = policy.Action | Open | AnyCredential

_After = Annotated[str, Meta(max_length=64, pattern="^[a-z0-9-]*$", description="The `next` of the page before.")]
_Position = Annotated[
    int, Meta(ge=0, le=2**53, description="Entries behind this position; the `next` of the page before.")
]
_Limit = Annotated[int, Meta(ge=1, le=1000, description="Most items in one answer.")]


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging by name or id."""

    after: _After = ""
    limit: _Limit = 100


class Positions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging by position in a stream."""

    after: _Position = 0
    limit: _Limit = 100


class Raw(msgspec.Struct, frozen=True):
    """An answer that is written as it stands."""

    content: bytes
    media_type: str


class Chunks(Protocol):
    """Bytes that come, and hold something until they are closed."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """They can be read once."""
        ...

    def aclose(self) -> Awaitable[object]:
        """Let go of it."""
        ...


class Stream(msgspec.Struct, frozen=True):
    """An answer of plain bytes that is written as they come. Its end is as sure as that of the request: `chunks` is
    closed, and the place among the requests in flight is kept until then."""

    chunks: Chunks
    length: int | None
    """None where it is not known."""
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = "application/octet-stream"
    within_s: float | None = None
    """Seconds in which all of it must be taken, else it breaks off: for what holds memory meanwhile."""


class Call(msgspec.Struct, Generic[BodyT, QueryT], kw_only=True):
    """One request, read and allowed: all that a handler sees."""

    services: Services
    request_id: str
    path: Mapping[str, str]
    body: BodyT
    query: QueryT
    document: Mapping[str, Any]
    """The OpenAPI document of the platform that answers."""
    ask_again: Callable[[], Awaitable[None]]
    """Authenticate and decide once more, for handlers that have waited. Raises as the first time."""
    caller: policy.Principal | None = None
    accept: str = ""
    """The header Accept, for endpoints that answer in more than one format."""
    changes: list[events.Event] = []
    """What the handler changed; written to the audit trail before the answer is sent."""

    def changed(self, kind: type[events.Event], *, tenant: str = "", **specifics: Any) -> None:
        """Note what was just changed: an event of `kind` in the trail of `tenant` (default: the path's)."""
        self.changes.append(
            kind(tenant=tenant or self.tenant, actor=self.principal.id, request_id=self.request_id, **specifics)
        )

    @property
    def principal(self) -> policy.Principal:
        """Who is calling. Only open endpoints have nobody."""
        if self.caller is None:
            raise errors.Unauthenticated
        return self.caller

    @property
    def tenant(self) -> ids.TenantId:
        """The tenant in the path."""
        return ids.TenantId(self.path["tenant"])

    @property
    def server(self) -> ids.ServerName:
        """The server in the path."""
        return ids.ServerName(self.path["server"])


Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A handler and everything that is known about it."""

    method: str
    path: str
    access: Access
    handler: Handler
    body: type[msgspec.Struct]
    query: type[msgspec.Struct]
    answer: Any
    """The answer's type; None for an empty one."""
    csv: bool
    """Whether it answers with CSV where that is asked for."""
    status: int
    raises: tuple[type[errors.SmcpError], ...]
    """What the handler raises beyond what the walk raises for every endpoint."""
    platform: bool
    """Whether `{tenant}` may be the platform tenant."""
    summary: str
    description: str
    body_example: Mapping[str, Any]
    answer_example: Any

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in the path, in order."""
        return tuple(_PARAMETER.findall(self.path))

    def resource(self, path: Mapping[str, str]) -> policy.Resource:
        """What the request acts on; platform endpoints act on the platform tenant."""
        kind = self.access.partition(":")[0] if isinstance(self.access, policy.Action) else "platform"
        named = [path[name] for name in self.parameters if name != "tenant"]
        tenant = ids.TenantId(path.get("tenant", ids.PLATFORM))
        return policy.Resource(tenant, kind, "/".join(named), path.get("server", ""))


def endpoint(
    method: str,
    path: str,
    *,
    action: Access,
    status: int = 200,
    raises: tuple[type[errors.SmcpError], ...] = (),
    platform: bool = False,
    body_example: Mapping[str, Any] | None = None,
    answer_example: Any = None,
) -> Callable[[Handler], Endpoint]:
    """Make the decorated handler an `Endpoint`. Its docstring is the documentation: a summary line, then the rest."""
    unknown = set(_PARAMETER.findall(path)) - set(PARAMETERS)
    if unknown:
        raise TypeError(f"{path}: no parser for {', '.join(sorted(unknown))}")

    def make(handler: Handler) -> Endpoint:
        hints = typing.get_type_hints(handler, include_extras=True)
        body, query = typing.get_args(hints["call"])
        summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
        if not summary:
            raise TypeError(f"{method} {path}: the docstring is the documentation; there is none")
        return Endpoint(
            method=method,
            path=path,
            access=action,
            handler=handler,
            body=body,
            query=query,
            answer=_answer(hints["return"]),
            csv=Raw in typing.get_args(hints["return"]),
            status=status,
            raises=raises,
            platform=platform,
            summary=" ".join(summary.split()).removesuffix("."),
            description=description,
            body_example=body_example or {},
            answer_example=answer_example,
        )

    return make


def _answer(hint: Any) -> Any:
    # What may be `Raw` beside it is the same in another format, and what may be a `Stream` the same piece by piece.
    kinds = typing.get_args(hint)
    for kind in kinds:
        if (Raw in kinds or Stream in kinds) and kind not in (Raw, Stream):
            return kind
    return None if hint is type(None) else hint


def _opaque(text: str) -> str:
    # Ids are made by `ids.new`: what can't be one can't exist.
    if _ID.fullmatch(text) is None:
        raise errors.NotFound
    return text


def _client(text: str) -> str:
    if clients.REF.fullmatch(text) is None:
        raise errors.NotFound
    return text


def _role(text: str) -> str:
    if _ROLE.fullmatch(text) is None:
        raise errors.NotFound
    return text


_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_ID: Final = re.compile(r"[a-z]+-[0-9a-z]{1,40}|[0-9a-z]{1,40}", re.ASCII)

PARAMETERS: Final[Mapping[str, Callable[[str], str]]] = {
    "tenant": ids.any_tenant,
    "server": ids.server,
    "client": _client,
    "key": _opaque,
    "user": _opaque,
    "invitation": _opaque,
    "role": _role,
    "operation": _opaque,
    "secret": secrets.name,
    "namespace": kvrules.name,
    "item": kvrules.checked,
    "bucket": bucket_model.bucket_name,
    "object": bucket_model.key,
}
"""Every name that a path may hold, with its parser."""
DEEP: Final = frozenset({"item", "object"})
"""Names at the end of a path whose values may hold slashes (which clients write as %2F)."""
