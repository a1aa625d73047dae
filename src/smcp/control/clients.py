"""OAuth clients of a tenant: made by administrators, listed, revoked. A secret is in one answer, once."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access import grants, scopes
from smcp.access.policy import Action
from smcp.audit import identity as audited
from smcp.control import identity_views, views
from smcp.control.endpoint import Call, Nothing, Page, endpoint
from smcp.identity.oauth import clients, refusals, registration
from smcp.kernel import errors

_CLIENT: Final = {
    "id": "client-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "ref": "client-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "tenant": "acme",
    "kind": "administrator",
    "name": "nightly report",
    "host": "",
    "redirect_uris": [],
    "auth_method": "client_secret_basic",
    "jwks_uri": None,
    "grant_types": ["client_credentials"],
    "roles": ["mcp_user"],
    "created": 1800000000.0,
    "adopted": None,
    "revoked": None,
}
_MACHINE: Final = frozenset({clients.CLIENT_CREDENTIALS})
_PEOPLE: Final = (clients.AUTHORIZATION_CODE, clients.REFRESH_TOKEN)


class ClientOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new client is: a program that acts as itself (`roles`), one that people let act for them
    (`redirect_uris`), or both."""

    name: Annotated[str, Meta(min_length=1, max_length=registration.MAX_NAME, description="For people.")]
    roles: Annotated[
        tuple[Annotated[str, Meta(max_length=64)], ...],
        Meta(max_length=16, description="What it may do as itself, by client_credentials."),
    ] = ()
    redirect_uris: Annotated[
        tuple[Annotated[str, Meta(max_length=1024)], ...],
        Meta(max_length=32, description="Where answers to people's consent go."),
    ] = ()
    auth_method: Annotated[
        clients.AuthMethod,
        Meta(description="How it proves who it is; none only for clients without roles."),
    ] = clients.AuthMethod.BASIC
    jwks: Annotated[dict[str, Any], Meta(description="Its public keys (RFC 7517), for private_key_jwt.")] | None = None
    jwks_uri: Annotated[str, Meta(max_length=512, description="Or the https address where they are.")] | None = None


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/clients",
    action=Action.CLIENT_CREATE,
    status=201,
    raises=(errors.RateLimited,),
    platform=True,
    body_example={"name": "nightly report", "roles": ["mcp_user"]},
    answer_example={"client": _CLIENT, "secret": "smcs_acme_…"},
)
async def create(call: Call[ClientOrder, Nothing]) -> identity_views.NewClient:
    """Create an OAuth client.

    For programs without a person (`client_credentials`), and for those that are not to register themselves. `secret` is
    shown in this answer only; a client with `private_key_jwt` has none. A client can't be given a role that its
    creator could not grant, nor is it wider than the credential that makes it: it has that one's scopes. It has no end,
    so that an access token makes none with roles: make it with an API key.
    """
    order = call.body
    if order.roles:
        await _require(call, order.roles)
        if order.auth_method is clients.AuthMethod.NONE:
            raise errors.InvalidParams("A client with roles proves who it is: choose another auth_method than none.")
    elif not order.redirect_uris:
        raise errors.InvalidParams("Give the client roles, for acting as itself, or redirect_uris, for people.")
    try:
        issued = await _made(call, order)
    except clients.UnknownClient as error:
        raise errors.NotFound(detail=error.detail) from error
    except refusals.Refused as error:
        if error.status == 429:
            raise errors.RateLimited(error.description, retry_after=600) from error
        raise errors.InvalidParams(error.description) from error
    call.changed(audited.ClientRegistered, client=issued.client.id, how=issued.client.kind.value)
    return identity_views.NewClient(_view(issued.client), issued.secret or None)


async def _require(call: Call[Any, Any], roles: tuple[str, ...]) -> None:
    """May the caller make a program that acts as itself until somebody revokes it? Raises `errors.Forbidden`."""
    rules = (await call.services.roles.rules(call.tenant, roles)).rules
    grants.require(call.principal, call.tenant, roles, rules, Action.CLIENT_CREATE)
    if call.principal.client:
        raise errors.Forbidden("An access token makes no client with roles: use an API key.", detail="life")
    grants.within(call.principal, roles, rules, grants.Bounds(call.principal.scopes))


async def _made(call: Call[ClientOrder, Nothing], order: ClientOrder) -> clients.Issued:
    """Raises `refusals.Refused`."""
    grant_types = (*(_PEOPLE if order.redirect_uris else ()), *(_MACHINE if order.roles else ()))
    said: dict[str, Any] = {
        "client_name": order.name,
        "redirect_uris": list(order.redirect_uris),
        "grant_types": list(_PEOPLE) if order.redirect_uris else [clients.DEVICE_CODE],
        "token_endpoint_auth_method": order.auth_method.value,
    }
    if order.roles and call.principal.scopes is not None:
        said["scope"] = scopes.text(call.principal.scopes)
    if order.jwks is not None:
        said["jwks"] = order.jwks
    if order.jwks_uri is not None:
        said["jwks_uri"] = order.jwks_uri
    metadata = registration.read(said, secrets=True)
    return await call.services.clients.create(call.tenant, metadata, grant_types=grant_types, roles=order.roles)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/clients",
    action=Action.CLIENT_LIST,
    platform=True,
    answer_example={"items": [_CLIENT], "next": None},
)
async def index(call: Call[Nothing, Page]) -> views.Listing[identity_views.Client]:
    """List a tenant's OAuth clients.

    By `ref`, with those that are revoked; with those that registered themselves, and those that are a document which
    somebody has consented to.
    """
    every = sorted((_view(one) for one in await call.services.clients.list(call.tenant)), key=lambda one: one.ref)
    return views.page(every, call.query, lambda one: one.ref)


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/clients/{client}",
    action=Action.CLIENT_LIST,
    platform=True,
    answer_example=_CLIENT,
)
async def show(call: Call[Nothing, Nothing]) -> identity_views.Client:
    """Show an OAuth client."""
    return _view(await call.services.clients.look(call.tenant, call.path["client"]))


@endpoint(
    "DELETE",
    "/api/v1/tenants/{tenant}/clients/{client}",
    action=Action.CLIENT_REVOKE,
    platform=True,
    answer_example=_CLIENT | {"revoked": 1800000100.0},
)
async def revoke(call: Call[Nothing, Nothing]) -> identity_views.Client:
    """Revoke an OAuth client.

    It is unknown from the next request on, and what was issued to it has ended. It stays in the list, so that it can't
    come back: a client that is a document is refused although its document is still there.
    """
    revoked = await call.services.clients.revoke(call.tenant, call.path["client"])
    call.changed(audited.ClientRevoked, client=revoked.id)
    return _view(revoked)


def _view(client: clients.Client) -> identity_views.Client:
    return identity_views.Client(
        id=client.id,
        ref=clients.ref(client.id),
        tenant=client.tenant,
        kind=client.kind.value,
        name=client.name,
        host=client.host,
        redirect_uris=list(client.redirect_uris),
        auth_method=client.auth_method.value,
        jwks_uri=client.jwks_uri or None,
        grant_types=list(client.grant_types),
        roles=list(client.roles),
        created=client.created,
        adopted=client.adopted,
        revoked=client.revoked,
    )


ENDPOINTS: Final = (create, index, show, revoke)
