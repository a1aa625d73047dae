"""The edge and the route: what can be refused before anybody is asked who they are.

One form of each address exists. `//`, a trailing slash, `%2e`, upper case or a suffix is not normalised into it but is
simply another path, so that no later stage can read it differently (ToolHive GHSA-9v4w-3mqh-6vmm). The two addresses of
the old transport (`oldsse`) are as strict, the query of one of them included.
"""

import re
from typing import Final

from smcp.access import policy
from smcp.gateway import exchange
from smcp.gateway import head as heads
from smcp.kernel import errors, ids
from smcp.protocol import eras

_PATH = re.compile(rb"/t/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/(?:mcp|(sse)|(messages)\?session_id=([A-Za-z0-9_-]{43}))")
_MAX_FIELDS_BYTES: Final = 32_768
_VERBS: Final = frozenset({"POST", "GET", "DELETE", "OPTIONS"})

ALLOW: Final = (b"allow", b"GET, POST, DELETE, OPTIONS")
_ALLOWED: Final = (
    b"Authorization, Content-Type, Accept, MCP-Protocol-Version, Mcp-Session-Id, Last-Event-ID, "
    b"Mcp-Method, Mcp-Name, traceparent, tracestate, baggage"
)
_EXPOSED: Final = (
    b"Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, RateLimit, RateLimit-Policy, SMCP-Request-Id"
)

ACTIONS: Final = {
    "initialize": policy.Action.MCP_CONNECT,
    "ping": policy.Action.MCP_CONNECT,
    "server/discover": policy.Action.MCP_CONNECT,
    "logging/setLevel": policy.Action.MCP_CONNECT,
    "notifications/initialized": policy.Action.MCP_CONNECT,
    "notifications/cancelled": policy.Action.MCP_CONNECT,
    "notifications/progress": policy.Action.MCP_CONNECT,
    "notifications/roots/list_changed": policy.Action.MCP_CONNECT,
    "tools/list": policy.Action.MCP_LIST,
    "prompts/list": policy.Action.MCP_LIST,
    "resources/list": policy.Action.MCP_LIST,
    "resources/templates/list": policy.Action.MCP_LIST,
    "resources/read": policy.Action.MCP_READ,
    "resources/subscribe": policy.Action.MCP_READ,
    "resources/unsubscribe": policy.Action.MCP_READ,
    "subscriptions/listen": policy.Action.MCP_READ,
    "prompts/get": policy.Action.MCP_READ,
    "completion/complete": policy.Action.MCP_READ,
}
"""Method → action. What is not here, extensions and whatever comes later, needs the right to call tools."""


def action(method: str) -> policy.Action:
    """The action that a JSON-RPC method is."""
    return ACTIONS.get(method, policy.Action.MCP_CALL)


def edge(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The platform's own rate, Host and Origin, CORS, the size of the header fields."""
    try:
        parts.limiter.platform()
    except errors.RateLimited:
        parts.meters.limited["platform"].inc()
        raise
    head = x.head
    if not head.good:
        _examine(parts, x, head)
        head.good = True
    x.address = head.address
    x.lines = b"smcp-request-id: %b\r\n%b" % (x.request_id.encode(), head.lines)
    if x.incoming.method == "OPTIONS":
        _preflight(x)


def _examine(parts: exchange.Parts, x: exchange.Exchange, head: heads.Head) -> None:
    """Everything at the edge that follows from the head alone."""
    fields = x.incoming.fields
    # An answer, a refusal too, can be read by whoever it is for, and found again.
    x.lines = b"smcp-request-id: %b\r\n" % x.request_id.encode()
    origin = fields.only(b"origin")
    parts.hosts.check(fields.only(b"host"), origin)
    head.address = x.address
    if parts.hosts.proxied:
        head.address = x.address = parts.hosts.seen(x.address, "http", fields.pairs).address
    if origin is not None:
        head.lines = exchange.joined(
            (
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _EXPOSED),
                (b"vary", b"Origin"),
            )
        )
        x.lines += head.lines
    if fields.size() > _MAX_FIELDS_BYTES:
        raise errors.TooLarge(f"The header fields take more than {_MAX_FIELDS_BYTES} bytes.")
    if x.incoming.method not in _VERBS:
        raise errors.MethodNotAllowed(headers=(("Allow", "GET, POST, DELETE, OPTIONS"),))
    version = fields.get(b"mcp-protocol-version")
    head.era, head.version = eras.of_header(version), version or ""
    _name(head, x.incoming.path)


def _preflight(x: exchange.Exchange) -> None:
    # Before authentication: browsers send preflights without credentials (WHATWG Fetch, "CORS-preflight fetch").
    asked = x.incoming.fields.only(b"access-control-request-headers") or ""
    mirrored = [name for name in asked.lower().replace(" ", "").split(",") if _PARAM.fullmatch(name)]
    allowed = b", ".join([_ALLOWED, *(name.encode("ascii") for name in mirrored[:32])])
    x.answer(
        204,
        fields=(
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", b"7200"),
            ALLOW,
        ),
    )


_PARAM = re.compile(r"mcp-param-[!#$%&'*+\-.^_`|~0-9a-z]{1,64}", re.ASCII)


def route(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """Path → tenant and server. Answers for no server: unknown and known addresses must give the same 401.

    Clients look for metadata below whatever address they have (client-quirk 6). There is none below any, and a 401
    would send them on to look for more.
    """
    x.tenant, x.server = x.head.tenant, x.head.server
    if x.tenant is None and b"/.well-known/" in x.incoming.path:
        raise errors.NotFound


def _name(head: heads.Head, path: bytes) -> None:
    match = _PATH.fullmatch(path)
    if match is None:
        return
    try:
        tenant, server = ids.tenant(match[1].decode("ascii")), ids.server(match[2].decode("ascii"))
    except errors.BadName:
        return
    head.tenant, head.server = tenant, server
    if match[3] or match[4]:
        head.way = (match[3] or match[4]).decode("ascii")
        # The old transport names its session in the address; a header says nothing there.
        head.session = (match[5] or b"").decode("ascii")
