"""What a token is for (RFC 8707): the one reading of `resource`, for authorization and token requests alike.

A resource is one server of the tenant, or the admin API. Clients write it as the address that they were given: with any
host that this platform answers to, with and without a slash at the end. All of these are one resource, whose canonical
address is the token's audience.

Where a client names none (MCP before 2025-06-18), or only the origin or the issuer (which says no server), the resource
is the tenant's only server; where the tenant has none or several, nothing can be told and the request is refused. The
platform tenant has no servers: there it is the admin API. The origin of a name that is another tenant's means nothing.
"""

import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from smcp.access import policy
from smcp.identity.oauth import refusals
from smcp.kernel import errors, hosts, ids

API_PATH: Final = "/api/v1"
_LONGEST: Final = 512
_PORTS: Final = {"http": ":80", "https": ":443"}

Servers = Callable[[ids.TenantId], Awaitable[Sequence[str]]]
"""The names of a tenant's servers; for a tenant that does not exist none."""


class Resources:
    """The addresses of this platform, as OAuth has them."""

    def __init__(self, public: str, known: hosts.Hosts) -> None:
        """`public` is how clients reach the platform, without a slash at the end."""
        self.public: Final = public
        self._hosts = known
        self.servers: Servers = _none
        """Set by who composes, when there is something to ask: until then nothing can be derived."""

    def issuer(self, tenant: ids.TenantId) -> str:
        """The tenant's issuer: character for character what its tokens and documents say (RFC 8414, 2)."""
        return f"{self.public}/t/{tenant}"

    def endpoint(self, tenant: ids.TenantId, name: str) -> str:
        """The address of the tenant's OAuth endpoint `name` (`token`, `register`, …)."""
        return f"{self.public}/oauth/{tenant}/{name}"

    def url(self, tenant: ids.TenantId, server: str) -> str:
        """The canonical address of a server, or of the admin API (`policy.API`): the audience of its tokens."""
        return f"{self.public}{API_PATH}" if server == policy.API else f"{self.public}/t/{tenant}/{server}/mcp"

    def named(self, tenant: ids.TenantId, resource: str) -> str | None:
        """The server that `resource` is the address of, or `policy.API`; None where it is neither."""
        path, _ = self._read(resource)
        return None if path is None else _server(tenant, path)

    def owner(self, authority: str) -> ids.TenantId | None:
        """Whose the name of an origin is (`gateway.hosts`); None where many tenants share it."""
        return self._hosts.tenant(authority)

    async def target(self, tenant: ids.TenantId, resource: str | None) -> str:
        """As `named`; where none is said it is derived. Raises `refusals.Refused` (`invalid_target`, RFC 8707, 2)."""
        path, owner = ("/", None) if resource is None else self._read(resource)
        if path is None:
            raise _not_ours()
        found = _server(tenant, path)
        if found is not None:
            return found
        if path not in ("", "/", f"/t/{tenant}", f"/t/{tenant}/") or owner not in (None, tenant):
            raise _not_ours()
        if tenant == ids.PLATFORM:
            return policy.API
        servers = await self.servers(tenant)
        if len(servers) != 1:
            raise refusals.Refused(
                refusals.INVALID_TARGET,
                "Say which server is meant: send resource with the address of its MCP endpoint.",
                detail="resource",
            )
        return servers[0]

    def _read(self, resource: str) -> tuple[str | None, ids.TenantId | None]:
        """The path of an address of this platform, None for any other; and whose the name in it is."""
        if len(resource) > _LONGEST or not resource.isascii() or not resource.isprintable() or "\\" in resource:
            return None, None
        try:
            parts = urllib.parse.urlsplit(resource)
        except ValueError:
            return None, None
        if parts.scheme not in _PORTS or "?" in resource or "#" in resource or " " in resource:
            return None, None
        authority = parts.netloc.lower()
        forms = (authority.removesuffix(_PORTS[parts.scheme]), authority)
        if not self._hosts.ours(*forms):
            return None, None
        return parts.path, next(filter(None, map(self._hosts.tenant, forms)), None)


async def _none(tenant: ids.TenantId) -> Sequence[str]:
    return ()


def _server(tenant: ids.TenantId, path: str) -> str | None:
    plain = path.removesuffix("/")
    if plain == API_PATH:
        return policy.API
    parts = plain.split("/")
    if len(parts) != 5 or parts[:3] != ["", "t", tenant] or parts[4] != "mcp" or tenant == ids.PLATFORM:
        return None
    try:
        return ids.server(parts[3])
    except errors.BadName:
        return None


def _not_ours() -> refusals.Refused:
    return refusals.Refused(
        refusals.INVALID_TARGET, "The resource is not an address of a server of this tenant.", detail="resource"
    )
