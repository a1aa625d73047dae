"""Tenants: made, shown, suspended and resumed by operators."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.kernel import errors, ids
from smcp.tenancy import tenants

_EXAMPLE: Final = {
    "id": "acme",
    "display_name": "Acme Ltd",
    "state": "active",
    "plan": "standard",
    "created": 1800000000.0,
}


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tenant is called."""

    id: Annotated[
        str,
        Meta(max_length=ids.MAX_TENANT, description="Lower-case letters, digits and single hyphens. Never changes."),
    ]
    display_name: Annotated[
        str, Meta(max_length=tenants.MAX_DISPLAY_NAME, description="For people: printable characters.")
    ] = ""


@endpoint(
    "POST",
    "/api/v1/tenants",
    action=Action.TENANT_CREATE,
    status=201,
    raises=(errors.Conflict, errors.BadName),
    body_example={"id": "acme", "display_name": "Acme Ltd"},
    answer_example=_EXAMPLE,
)
async def create(call: Call[NewTenant, Nothing]) -> views.Tenant:
    """Create a tenant.

    It starts empty and without keys; create a first `admin` key for it next.
    """
    tenant = ids.tenant(call.body.id)
    made = await call.services.tenants.create(tenant, call.body.display_name or tenant)
    call.changed(events.TenantCreated, tenant=tenant, plan=made.plan)
    return _view(made)


@endpoint("GET", "/api/v1/tenants", action=Action.TENANT_LIST, answer_example={"items": [_EXAMPLE], "next": None})
async def index(call: Call[Nothing, Page]) -> views.Listing[views.Tenant]:
    """List the tenants."""
    page = call.query
    found = await call.services.tenants.list(after=page.after or None, limit=page.limit)
    return views.Listing([_view(one) for one in found], found[-1].id if len(found) == page.limit else None)


@endpoint("GET", "/api/v1/tenants/{tenant}", action=Action.TENANT_READ, answer_example=_EXAMPLE)
async def show(call: Call[Nothing, Nothing]) -> views.Tenant:
    """Show a tenant."""
    return _view(await call.services.tenants.get(call.tenant))


@endpoint("POST", "/api/v1/tenants/{tenant}/suspend", action=Action.TENANT_SUSPEND, answer_example=_EXAMPLE)
async def suspend(call: Call[Nothing, Nothing]) -> views.Tenant:
    """Suspend a tenant.

    Its credentials and endpoints answer 403 `tenant_suspended` from the next request on, and its servers' sessions and
    processes end. Nothing that is stored is lost.
    """
    changed = await call.services.tenants.suspend(call.tenant)
    call.changed(events.TenantSuspended)
    await call.services.stop_tenant(call.tenant)
    return _view(changed)


@endpoint("POST", "/api/v1/tenants/{tenant}/resume", action=Action.TENANT_RESUME, answer_example=_EXAMPLE)
async def resume(call: Call[Nothing, Nothing]) -> views.Tenant:
    """Resume a suspended tenant."""
    changed = await call.services.tenants.resume(call.tenant)
    call.changed(events.TenantResumed)
    return _view(changed)


def _view(tenant: tenants.Tenant) -> views.Tenant:
    return views.Tenant(tenant.id, tenant.display_name, tenant.state, tenant.plan, tenant.created)


ENDPOINTS: Final = (create, index, show, suspend, resume)
