"""Metadata documents, under every address at which clients look for them.

| address | document |
|---|---|
| `/.well-known/oauth-authorization-server/t/{tenant}` | RFC 8414 |
| `/.well-known/openid-configuration/t/{tenant}` | OpenID Connect Discovery |
| `/t/{tenant}/.well-known/` and one of these two names | the same |
| the first two with `/{server}/mcp` behind the tenant | the same, for clients that take the server for its issuer |
| `/.well-known/oauth-protected-resource/t/{tenant}/{server}/mcp` | RFC 9728, of a server |
| `/.well-known/oauth-protected-resource/api/v1` | RFC 9728, of the admin API |
| the three names without a path | those of the tenant whose name the origin has (`gateway.hosts`), else 404 |

Each also with a slash at the end. `resource` is the address as it was asked for, with the host that was asked and the
slash (RFC 9728, 3.3); the issuer is always the canonical one, which a client that compares it with where it looked
(RFC 8414, 3.3) finds under the forms of the first three rows. Clients of MCP 2025-03-26 look at the root only, and
compare nothing. Nothing is looked up: a document says what an address would mean, and not whether a tenant or a server
is there.
"""

from collections.abc import Callable
from typing import Any, Final

from starlette import requests, responses, routing

from smcp.access import policy
from smcp.identity.oauth import discovery, resources
from smcp.kernel import errors, ids
from smcp.web import replies

_KEPT: Final = {"Cache-Control": "max-age=300"}
_WELL_KNOWN: Final = "/.well-known/"
_RESOURCE: Final = "oauth-protected-resource"

Made = Callable[[resources.Resources, ids.TenantId], dict[str, Any]]
_SERVERS: Final[tuple[tuple[str, Made], ...]] = (
    ("oauth-authorization-server", discovery.authorization_server),
    ("openid-configuration", discovery.openid),
)


def routes(of: resources.Resources) -> list[routing.BaseRoute]:
    """The documents' routes, for `control.app.build`."""
    found: list[routing.BaseRoute] = []
    for name, made in _SERVERS:
        program = replies.Program({"GET": _issuer(of, made)})
        for path in (
            f"{_WELL_KNOWN}{name}/t/{{tenant}}",
            f"/t/{{tenant}}{_WELL_KNOWN}{name}",
            f"{_WELL_KNOWN}{name}/t/{{tenant}}/{{server}}/mcp",
        ):
            found += _both(path, program)
        found += _both(f"{_WELL_KNOWN}{name}", replies.Program({"GET": _root_issuer(of, made)}))
    found += _both(f"{_WELL_KNOWN}{_RESOURCE}/t/{{tenant}}/{{server}}/mcp", replies.Program({"GET": _server(of)}))
    found += _both(f"{_WELL_KNOWN}{_RESOURCE}{resources.API_PATH}", replies.Program({"GET": _api(of)}))
    found += _both(f"{_WELL_KNOWN}{_RESOURCE}", replies.Program({"GET": _root(of)}))
    return found


def _both(path: str, program: replies.Program) -> list[routing.BaseRoute]:
    return [routing.Route(path, program), routing.Route(f"{path}/", program)]


def _issuer(of: resources.Resources, made: Made) -> replies.Handler:
    async def show(request: requests.Request) -> responses.Response:
        tenant = _tenant(request)
        if "server" in request.path_params:
            _named_server(request, tenant)
        return replies.json(made(of, tenant), headers=_KEPT)

    return show


def _root_issuer(of: resources.Resources, made: Made) -> replies.Handler:
    async def show(request: requests.Request) -> responses.Response:
        return replies.json(made(of, _owner(of, request)), headers=_KEPT)

    return show


def _server(of: resources.Resources) -> replies.Handler:
    async def show(request: requests.Request) -> responses.Response:
        tenant = _tenant(request)
        server = _named_server(request, tenant)
        return replies.json(discovery.protected_resource(of, tenant, server, _asked(request)), headers=_KEPT)

    return show


def _api(of: resources.Resources) -> replies.Handler:
    async def show(request: requests.Request) -> responses.Response:
        return replies.json(discovery.protected_resource(of, None, policy.API, _asked(request)), headers=_KEPT)

    return show


def _root(of: resources.Resources) -> replies.Handler:
    async def show(request: requests.Request) -> responses.Response:
        return replies.json(discovery.origin(of, _owner(of, request), _asked(request)), headers=_KEPT)

    return show


def _owner(of: resources.Resources, request: requests.Request) -> ids.TenantId:
    tenant = of.owner(request.headers["host"])
    if tenant is None:
        raise _none()
    return tenant


def _tenant(request: requests.Request) -> ids.TenantId:
    try:
        return ids.any_tenant(request.path_params["tenant"])
    except errors.BadName:
        raise _none() from None


def _named_server(request: requests.Request, tenant: ids.TenantId) -> str:
    try:
        server = ids.server(request.path_params["server"])
    except errors.BadName:
        raise _none() from None
    if tenant == ids.PLATFORM:
        raise _none()
    return server


def _asked(request: requests.Request) -> str:
    """The resource whose document was asked for, as the client would write it: the path behind the document's name."""
    # Host is on the platform's list (`control.app.Edge`), and so can't be a stranger's.
    path = request.scope["path"].removeprefix(f"{_WELL_KNOWN}{_RESOURCE}")
    return f"{request.scope['scheme']}://{request.headers['host'].lower()}{path}"


def _none() -> errors.NotFound:
    return errors.NotFound("There is no metadata here. Each tenant has its own: see /.well-known/…/t/{tenant}.")
