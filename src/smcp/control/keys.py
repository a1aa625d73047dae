"""API keys of a tenant: made, listed, rotated, revoked. The text of a key is in one answer, once."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access import addresses, grants, policy
from smcp.access.policy import Action
from smcp.audit import events, identity
from smcp.control import credentials, views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.identity.authn import api_key
from smcp.kernel import errors

_DAY: Final = 86400.0
_SLACK_S: Final = 1.0
"""Ends and beginnings that are taken from each other are not exact."""
_KEY: Final = {
    "id": "key-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "tenant": "acme",
    "label": "laptop",
    "roles": ["mcp_user"],
    "created": 1800000000.0,
    "expires": 1807776000.0,
    "revoked": None,
    "last_used": None,
    "scopes": None,
    "servers": None,
    "networks": [],
    "successor": None,
    "notice": None,
}
_Word = Annotated[str, Meta(max_length=64)]


class KeyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new key may do, and for how long."""

    roles: Annotated[
        tuple[_Word, ...],
        Meta(
            min_length=1, max_length=api_key.MAX_ROLES, description="Roles that every tenant has, or the tenant's own."
        ),
    ]
    label: Annotated[str, Meta(max_length=api_key.MAX_LABEL, description="For people: printable characters.")] = ""
    expires_in_days: (
        Annotated[float, Meta(gt=0, le=3650, description="Days until it stops working; left out: 90, null: never.")]
        | None
    ) = api_key.LIFE_S / _DAY
    scopes: (
        Annotated[
            tuple[_Word, ...],
            Meta(min_length=1, description="What it may be used for of what its roles give; left out or null: all."),
        ]
        | None
    ) = None
    servers: (
        Annotated[
            tuple[_Word, ...],
            Meta(
                min_length=1,
                max_length=api_key.MAX_SERVERS,
                description="It reaches these servers and nothing else; left out or null: everything.",
            ),
        ]
        | None
    ) = None
    networks: Annotated[
        tuple[_Word, ...],
        Meta(
            max_length=addresses.MOST, description="It may be used from these only, like `203.0.113.0/24`; empty: all."
        ),
    ] = ()


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the change to the new key goes."""

    overlap_hours: Annotated[
        float,
        Meta(ge=0, le=api_key.MAX_OVERLAP_S / 3600, description="Hours in which both keys work."),
    ] = api_key.OVERLAP_S / 3600


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/keys",
    action=Action.KEY_CREATE,
    status=201,
    platform=True,
    body_example={"roles": ["mcp_user"], "label": "laptop", "expires_in_days": 90},
    answer_example={"key": _KEY, "secret": "smcp_acme_…"},
)
async def create(call: Call[KeyOrder, Nothing]) -> credentials.NewKey:
    """Create an API key.

    `secret` is shown in this answer only. A key can't be given a role that its creator could not grant: `operator`
    keys are made by operators, for the tenant `platform`, which has no other role.

    A key for some servers reaches those and nothing else: it manages no keys, and lists no servers.

    Nor is a key wider than the credential that makes it: scopes and networks that are left out are that credential's
    own, and by an access token no key is made that lives longer than 90 days.
    """
    body, maker = call.body, call.principal
    roles = tuple(sorted(set(body.roles)))
    made = grants.Bounds(
        maker.scopes if body.scopes is None else frozenset(body.scopes),
        maker.servers if body.servers is None else frozenset(body.servers),
        addresses.parse(body.networks) or maker.networks,
    )
    life_s = None if body.expires_in_days is None else body.expires_in_days * _DAY
    await _require(call, roles, Action.KEY_CREATE, made, life_s)
    issued = await call.services.keys.create(
        call.tenant,
        roles,
        body.label,
        expires_in_s=life_s,
        scopes=made.scopes,
        servers=made.servers,
        networks=made.networks,
    )
    return _told(call, issued)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/keys",
    action=Action.KEY_LIST,
    platform=True,
    answer_example={"items": [_KEY], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[credentials.Key]:
    """List a tenant's API keys.

    By id, with those that are revoked or expired.
    """
    return views.page(
        [_view(call, key) for key in await call.services.keys.list(call.tenant)], call.query, lambda key: key.id
    )


@endpoint(
    "DELETE",
    "/api/v1/tenants/{tenant}/keys/{key}",
    action=Action.KEY_REVOKE,
    platform=True,
    answer_example=_KEY | {"revoked": 1800000100.0},
)
async def revoke(call: Call[Nothing, Nothing]) -> credentials.Key:
    """Revoke an API key.

    It stops working with the next request, and stays in the list.
    """
    revoked = await call.services.keys.revoke(call.tenant, call.path["key"])
    call.changed(events.KeyRevoked, key=revoked.id)
    return _view(call, revoked)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/keys/{key}/rotate",
    action=Action.KEY_ROTATE,
    status=201,
    platform=True,
    raises=(errors.Conflict,),
    body_example={"overlap_hours": 24},
    answer_example={"key": _KEY, "secret": "smcp_acme_…"},
)
async def rotate(call: Call[Rotation, Nothing]) -> credentials.NewKey:
    """Replace an API key by a new one.

    The new key is worth the same and lives as long again. The old one works on for `overlap_hours`, so that whoever
    uses it can change over, and then ends by itself. `secret` is shown in this answer only, and only to who could make
    such a key.
    """
    old = await call.services.keys.find(call.tenant, call.path["key"])
    made = grants.Bounds(
        None if old.scopes is None else frozenset(old.scopes),
        None if old.servers is None else frozenset(old.servers),
        old.networks,
    )
    await _require(call, old.roles, Action.KEY_ROTATE, made, None if old.expires is None else old.expires - old.created)
    issued = await call.services.keys.rotate(call.tenant, old.id, overlap_s=call.body.overlap_hours * 3600)
    ended = await call.services.keys.find(call.tenant, old.id)
    call.changed(identity.KeyRotated, key=old.id, successor=issued.key.id, ends=ended.expires or issued.key.created)
    return _told(call, issued)


async def _require(
    call: Call[Any, Any], roles: tuple[str, ...], action: Action, made: grants.Bounds, life_s: float | None
) -> None:
    """May the caller make such a key, which lives that long? Raises `errors.Forbidden`, `errors.InvalidParams`."""
    rules = (await call.services.roles.rules(call.tenant, roles)).rules
    unknown = set(roles) - set(policy.Role) - {rule.role for rule in rules}
    if unknown:
        raise errors.InvalidParams(f"This tenant has no role {min(unknown)!r}. Its own are told by: smcp role list.")
    grants.require(call.principal, call.tenant, roles, rules, action)
    grants.within(call.principal, roles, rules, made)
    if call.principal.client and (life_s is None or life_s > api_key.LIFE_S + _SLACK_S):
        # A client was let in for as long as somebody lets it. What it makes has an end of its own, too.
        raise errors.Forbidden(
            "A key that an access token makes, or rotates, lives for 90 days at most.", detail="life"
        )


def _told(call: Call[Any, Any], issued: api_key.Issued) -> credentials.NewKey:
    key = issued.key
    label = call.services.trail.digest(call.tenant, key.label) if key.label else events.NO_DIGEST
    call.changed(events.KeyCreated, key=key.id, roles=key.roles, expires=key.expires, label=label)
    return credentials.NewKey(_view(call, key), issued.text)


def _view(call: Call[Any, Any], key: api_key.ApiKey) -> credentials.Key:
    return credentials.Key(
        key.id,
        key.tenant,
        key.label,
        list(key.roles),
        key.created,
        key.expires,
        key.revoked,
        key.last_used,
        None if key.scopes is None else list(key.scopes),
        None if key.servers is None else list(key.servers),
        list(key.networks),
        key.successor or None,
        _NOTICE if call.services.keys.ends_soon(key) else None,
    )


_NOTICE: Final = "It ends soon. Rotate it: smcp key rotate."

ENDPOINTS: Final = (create, index, rotate, revoke)
