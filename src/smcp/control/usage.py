"""What tenants used: by server, principal, hour and day, as JSON in pages or as CSV whole."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, Raw, endpoint
from smcp.kernel import errors, ids, tables
from smcp.tenancy import report, usage

CSV: Final = "text/csv; charset=utf-8"
_DEFAULT_S: Final = 86400.0
_TENANTS: Final = 100

_Time = Annotated[float, Meta(ge=0, le=2**40)]
_From = Annotated[
    _Time | None, Meta(description="Beginning, epoch seconds; its hour counts whole. By default a day before `to`.")
]
_To = Annotated[_Time | None, Meta(description="End, epoch seconds; an hour that has begun counts. By default now.")]
_Format = Annotated[
    Literal["json", "csv"] | None, Meta(description="`csv`: all rows as CSV, as with `Accept: text/csv`.")
]
_By = Annotated[
    str,
    Meta(
        pattern=r"\A(?:(?:server|principal|hour|day)(?:,(?:server|principal|hour|day)){0,3})?\Z",
        description="Any of server, principal, hour, day, with commas between; empty for one sum.",
    ),
]
_AfterRow = Annotated[
    str, Meta(max_length=128, pattern=r"\A[a-z0-9_.-]*\Z", description="The `next` of the page before.")
]
_Limit = Annotated[int, Meta(ge=1, le=1000, description="Most items in one answer.")]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of hours, and how to group them."""

    since: _From = msgspec.field(name="from", default=None)
    until: _To = msgspec.field(name="to", default=None)
    by: _By = ""
    format: _Format = None
    after: _AfterRow = ""
    limit: _Limit = 100


class AskedForAll(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of hours over tenants."""

    since: _From = msgspec.field(name="from", default=None)
    until: _To = msgspec.field(name="to", default=None)
    by: Annotated[str, Meta(pattern=r"\A(?:hour|day)?\Z", description="hour or day; empty for one sum a tenant.")] = ""
    format: _Format = None
    after: Annotated[
        str, Meta(max_length=64, pattern=r"\A[a-z0-9-]*\Z", description="The `next` of the page before.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=_TENANTS, description="Most tenants in one answer.")] = _TENANTS


_EXAMPLE: Final = {
    "tenant": "acme",
    "time": 1799996400.0,
    "server": "time",
    "principal": None,
    "calls": 1200,
    "errors": 3,
    "received_bytes": 240000,
    "sent_bytes": 3600000,
    "cpu_s": 14.2,
    "memory_byte_s": 190000000000,
    "copy_s": 3600.0,
    "cpu_unknown_s": 0.0,
    "memory_unknown_s": 0.0,
    "egress_sent_bytes": 0,
    "egress_received_bytes": 0,
    "storage_byte_s": 0,
}


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/usage",
    action=Action.USAGE_READ,
    raises=(errors.Unavailable,),
    answer_example={"items": [_EXAMPLE], "next": None},
)
async def show(call: Call[Nothing, Asked]) -> views.Listing[views.Usage] | Raw:
    """Show what the tenant used.

    Everything up to now is counted, by server, principal, hour or day as `by` says. Storage belongs to no server; what
    copies take belongs to a principal only where each has a copy of its own. `null` in `cpu_s` or `memory_byte_s` is
    "unknown", and the seconds for which that holds stand beside it. As CSV all rows come at once.
    """
    asked = call.query
    by = frozenset(asked.by.split(",")) if asked.by else frozenset[str]()
    groups = await _reader(call, asked).groups(call.tenant, by)
    if _csv(call, asked.format):
        return _table(_view(call.tenant, by, key, sums) for key, sums in groups)
    after = tuple(asked.after.split(".")) if asked.after else None
    rest = [one for one in groups if after is None or one[0] > after]
    page = rest[: asked.limit]
    items = [_view(call.tenant, by, key, sums) for key, sums in page]
    return views.Listing(items, ".".join(page[-1][0]) if len(rest) > len(page) else None)


@endpoint(
    "GET",
    "/api/v1/usage",
    action=Action.PLATFORM_USAGE,
    raises=(errors.Unavailable,),
    answer_example={"items": [{**_EXAMPLE, "server": None, "time": None}], "next": None},
)
async def everybody(call: Call[Nothing, AskedForAll]) -> views.Listing[views.Usage] | Raw:
    """Show what every tenant used.

    For operators: sums by tenant, and by hour or day, without servers and principals. A page has all rows of its
    tenants. As CSV all tenants come at once.
    """
    asked = call.query
    by = frozenset({asked.by}) if asked.by else frozenset[str]()
    reader, whole = _reader(call, asked), _csv(call, asked.format)
    items: list[views.Usage] = []
    after: str | None = asked.after or None
    while found := await call.services.tenants.list(after, asked.limit):
        after = found[-1].id
        for tenant in found:
            items += [_view(tenant.id, by, key, sums) for key, sums in await reader.groups(tenant.id, by)]
        if not whole or len(found) < asked.limit:
            break
    if whole:
        return _table(items)
    return views.Listing(items, after if len(found) == asked.limit else None)


def _reader(call: Call[Any, Any], asked: Asked | AskedForAll) -> report.Reader:
    now = call.services.meter.now()
    until = now if asked.until is None else asked.until
    since = max(0.0, until - _DEFAULT_S) if asked.since is None else asked.since
    if since > until:
        raise errors.InvalidParams("The range ends before it begins.")
    return report.Reader(call.services.meter, int(since // usage.HOUR_S), int(-(-until // usage.HOUR_S)))


def _csv(call: Call[Any, Any], format: str | None) -> bool:
    return format == "csv" or (format is None and "text/csv" in call.accept.lower())


def _view(tenant: ids.TenantId, by: frozenset[str], key: report.Key, sums: usage.Sums) -> views.Usage:
    where = report.where(key, by)
    ran = sums.copy_ms
    return views.Usage(
        tenant=tenant,
        time=where.time,
        server=where.server,
        principal=where.principal,
        calls=sums.calls,
        errors=sums.errors,
        received_bytes=sums.received,
        sent_bytes=sums.sent,
        cpu_s=None if ran and sums.cpu_unknown_ms >= ran else sums.cpu_us / 1e6,
        memory_byte_s=None if ran and sums.memory_unknown_ms >= ran else sums.memory_byte_s,
        copy_s=ran / 1e3,
        cpu_unknown_s=sums.cpu_unknown_ms / 1e3,
        memory_unknown_s=sums.memory_unknown_ms / 1e3,
        egress_sent_bytes=sums.egress_sent,
        egress_received_bytes=sums.egress_received,
        storage_byte_s=sums.storage_byte_s,
    )


def _table(items: Iterable[views.Usage]) -> Raw:
    columns = views.Usage.__struct_fields__
    rows = ([_shown(name, getattr(item, name)) for name in columns] for item in items)
    return Raw(tables.comma_separated(columns, rows).encode(), CSV)


def _shown(name: str, value: object) -> object:
    if name == "time" and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if value is None and name in ("cpu_s", "memory_byte_s"):
        return "unknown"
    return value


ENDPOINTS: Final = (show, everybody)
