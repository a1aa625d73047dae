"""What a refused client is told to do: the Bearer challenges of 401 and 403, worked out when somebody is refused.

RFC 9728, 5.1: `resource_metadata` leads to who gives tokens. It names the platform as the client wrote it (its scheme
and Host, which the edge has checked), since clients compare it with the address that they have. Every scope that the
server knows stands in the 401: many clients ask once, and for what stands there (client-quirk 11).
"""

from typing import Final

from smcp.access import policy, scopes
from smcp.gateway import exchange

_NAME: Final = "WWW-Authenticate"


def unauthenticated(parts: exchange.Parts, x: exchange.Exchange) -> tuple[str, str]:
    """For a 401. RFC 6750, 3.1: `invalid_token` only where one was shown."""
    shown = ', error="invalid_token"' if x.incoming.fields.only(b"authorization") is not None else ""
    return _NAME, f'Bearer realm="smcp"{shown}{_metadata(parts, x)}, scope="{scopes.text(scopes.MCP)}"'


def step_up(parts: exchange.Parts, x: exchange.Exchange, principal: policy.Principal) -> tuple[str, str]:
    """For a 403 that another token of the same person would not get (RFC 6750, 3.1; MCP 2026-07-28, "Scope Challenge
    Handling"): all scopes of the token and what lacks, so that what was possible stays so."""
    wanted = scopes.step_up(principal.scopes or frozenset(), x.action)
    return _NAME, f'Bearer realm="smcp", error="insufficient_scope", scope="{wanted}"{_metadata(parts, x)}'


def _metadata(parts: exchange.Parts, x: exchange.Exchange) -> str:
    if x.tenant is None or x.server is None:
        return ""  # no address of a server: there is nothing to be told about it
    fields = x.incoming.fields
    host = fields.only(b"host") or ""
    scheme = parts.hosts.seen(x.incoming.address, parts.hosts.scheme, fields.pairs).scheme
    return (
        f', resource_metadata="{scheme}://{host.lower()}/.well-known/oauth-protected-resource'
        f'/t/{x.tenant}/{x.server}/mcp"'
    )
