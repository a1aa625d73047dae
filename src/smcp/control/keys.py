"""API keys of a tenant: made, listed, revoked. The text of a key is in one answer, once."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.access import grants, policy
from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.identity.authn import api_key

_DAY: Final = 86400.0
_KEY: Final = {
    "id": "key-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "tenant": "acme",
    "label": "laptop",
    "roles": ["mcp_user"],
    "created": 1800000000.0,
    "expires": 1807776000.0,
    "revoked": None,
    "last_used": None,
}


class KeyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new key may do, and for how long."""

    roles: Annotated[tuple[policy.Role, ...], Meta(min_length=1, max_length=len(policy.Role))]
    label: Annotated[str, Meta(max_length=api_key.MAX_LABEL, description="For people: printable characters.")] = ""
    expires_in_days: (
        Annotated[float, Meta(gt=0, le=3650, description="Days until it stops working; left out or null: never.")]
        | None
    ) = None


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/keys",
    action=Action.KEY_CREATE,
    status=201,
    platform=True,
    body_example={"roles": ["mcp_user"], "label": "laptop", "expires_in_days": 90},
    answer_example={"key": _KEY, "secret": "smcp_acme_…"},
)
async def create(call: Call[KeyOrder, Nothing]) -> views.NewKey:
    """Create an API key.

    `secret` is shown in this answer only. A key can't be given a role that its creator could not grant: `operator`
    keys are made by operators, for the tenant `platform`, which has no other role.
    """
    roles = tuple(sorted(set(call.body.roles)))
    grants.require(call.principal, call.tenant, roles)
    days = call.body.expires_in_days
    issued = await call.services.keys.create(
        call.tenant, roles, call.body.label, expires_in_s=None if days is None else days * _DAY
    )
    label = call.services.trail.digest(call.tenant, call.body.label) if call.body.label else events.NO_DIGEST
    call.changed(events.KeyCreated, key=issued.key.id, roles=roles, expires=issued.key.expires, label=label)
    return views.NewKey(_view(issued.key), issued.text)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/keys",
    action=Action.KEY_LIST,
    platform=True,
    answer_example={"items": [_KEY], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[views.Key]:
    """List a tenant's API keys.

    By id, with those that are revoked or expired.
    """
    return views.page(
        [_view(key) for key in await call.services.keys.list(call.tenant)], call.query, lambda key: key.id
    )


@endpoint(
    "DELETE",
    "/api/v1/tenants/{tenant}/keys/{key}",
    action=Action.KEY_REVOKE,
    platform=True,
    answer_example=_KEY | {"revoked": 1800000100.0},
)
async def revoke(call: Call[Nothing, Nothing]) -> views.Key:
    """Revoke an API key.

    It stops working with the next request, and stays in the list.
    """
    revoked = await call.services.keys.revoke(call.tenant, call.path["key"])
    call.changed(events.KeyRevoked, key=revoked.id)
    return _view(revoked)


def _view(key: api_key.ApiKey) -> views.Key:
    roles = [str(role) for role in key.roles]
    return views.Key(key.id, key.tenant, key.label, roles, key.created, key.expires, key.revoked, key.last_used)


ENDPOINTS: Final = (create, index, revoke)
