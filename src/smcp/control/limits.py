"""Limits: what a tenant's plan allows and what is used of it; operators change the plan."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, endpoint
from smcp.kernel import errors
from smcp.tenancy import overview, plans

_LIMIT: Final = {
    "name": "storage_bytes",
    "text": "Bytes stored, over all keys and objects.",
    "unit": "bytes",
    "limit": 2147483648,
    "used": 1825361100,
    "remaining": 322122548,
    "resets": None,
    "state": "warning",
}
_LIMITS: Final = {
    "tenant": "acme",
    "plan": "standard",
    "base": None,
    "state": "warning",
    "limits": [
        {
            "name": "tenant_per_minute",
            "text": "Requests of the tenant in any minute.",
            "unit": "requests",
            "limit": 1000,
            "used": 12,
            "remaining": 988,
            "resets": 1800000042.0,
            "state": "ok",
        },
        _LIMIT,
    ],
}
_WORST: Final = (overview.OK, overview.WARNING, overview.REACHED)


class NewPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which plan the tenant gets."""

    plan: Annotated[str, Meta(max_length=40, description="`free`, `standard` or `custom`.")]
    base: Annotated[
        str, Meta(max_length=40, description="Of a custom plan: `free` or `standard`; what is not in `limits` is its.")
    ] = ""
    limits: Annotated[
        dict[str, int], Meta(max_length=40, description="Of a custom plan: numbers by name, as the limits list them.")
    ] = {}


class Rehearsal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to change anything."""

    dry_run: Annotated[bool, Meta(description="Say what would be above the new plan; change nothing.")] = False


@endpoint("GET", "/api/v1/tenants/{tenant}/limits", action=Action.TENANT_READ, answer_example=_LIMITS)
async def show(call: Call[Nothing, Nothing]) -> views.Limits:
    """Show a tenant's limits.

    Each limit of its plan with what is used and left, when some of it comes back, and whether it is getting narrow.
    """
    record = await call.services.tenants.get(call.tenant)
    rows = await call.services.overview.of(call.tenant)
    return _limits(record.id, record.plan, record.base, rows)


@endpoint(
    "PUT",
    "/api/v1/tenants/{tenant}/plan",
    action=Action.TENANT_PLAN,
    raises=(errors.InvalidParams,),
    body_example={"plan": "custom", "base": "standard", "limits": {"tenant_per_minute": 5000}},
    answer_example={"applied": True, "above": [_LIMIT], "limits": _LIMITS},
)
async def change(call: Call[NewPlan, Rehearsal]) -> views.PlanChange:
    """Give a tenant another plan.

    It counts from the next request on. What is above the new plan stays; only nothing more is let in until use is below
    it.
    """
    asked = call.body
    plan, base, numbers = call.services.plans.checked(asked.plan, asked.base, asked.limits)
    rows = await call.services.overview.of(call.tenant, plan)
    above = [_view(row) for row in rows if row.used is not None and row.used > row.most]
    if not call.query.dry_run:
        await call.services.plans.assign(call.tenant, plan.name, base, numbers)
        told = tuple(f"{name}:{number}" for name, number in sorted(numbers.items()))
        call.changed(events.PlanChanged, plan=plan.name, base=base, limits=told)
    return views.PlanChange(not call.query.dry_run, above, _limits(call.tenant, plan.name, base, rows))


def _limits(tenant: str, plan: str, base: str, rows: Sequence[overview.Row]) -> views.Limits:
    worst = max((_WORST.index(row.state) for row in rows), default=0)
    custom = plan == plans.CUSTOM
    return views.Limits(tenant, plan, base if custom else None, _WORST[worst], [_view(row) for row in rows])


def _view(row: overview.Row) -> views.Limit:
    return views.Limit(
        name=row.limit.name,
        text=row.limit.text,
        unit=row.limit.unit,
        limit=row.most,
        used=row.used,
        remaining=row.remaining,
        resets=row.resets,
        state=row.state,
    )


ENDPOINTS: Final = (show, change)
