"""Who really sent a form: a page of ours, in the browser that it was made for.

Three independent checks, all of which must hold for every POST:

1. `Sec-Fetch-Site`, where the browser tells it, is `same-origin` (W3C Fetch Metadata).
2. `Origin`, where the browser tells it, is exactly the origin that was asked: neither `null` nor one of the other
   origins that MCP clients in browsers may have (`gateway.origins`).
3. The form holds a token: a keyed digest of what this browser's cookie says and of the form's own name ("signed
   double-submit" of the OWASP cheat sheet on CSRF). Signed in, the cookie is the session's, so a token ends with the
   session; before, it is a random one, so that nobody can sign a visitor in as somebody else (login CSRF).
"""

import re
from collections.abc import Callable
from typing import Final

from starlette import requests, responses

from smcp.kernel import crypto, errors, ids

FIELD: Final = "form_token"
"""The hidden field of every form."""
_PURPOSE: Final = "page-forms"
_BROWSER: Final = re.compile(r"[A-Za-z0-9_-]{43}")

DataKey = Callable[[ids.TenantId, str], bytes]
"""A tenant's key for a purpose (`kernel.crypto.KeyRing.data_key`)."""


_TOLD: Final = (
    "This form was not sent from a page of this site in this browser, or the page is too old. Open the page again."
)


def browser(request: requests.Request) -> str:
    """What tells this browser from others before anybody has signed in; made when it is missing or odd."""
    found = request.cookies.get(_name(request), "")
    return found if _BROWSER.fullmatch(found) else ids.token()


def remember(request: requests.Request, answer: responses.Response, value: str) -> None:
    """Have the browser send `value` as `browser` from now on, until it is closed."""
    if request.cookies.get(_name(request)) != value:
        # Lax and not Strict: the way here is a link in an application or on another site.
        answer.set_cookie(_name(request), value, path="/", secure=secure(request), httponly=True, samesite="lax")


def secure(request: requests.Request) -> bool:
    """Did this come over TLS, to us or to the proxy in front?"""
    return request.scope["scheme"] == "https"


def token(key: DataKey, tenant: ids.TenantId, holder: str, form: str) -> str:
    """The token of the form named `form`, for the browser or session `holder`."""
    return crypto.keyed_digest(key(tenant, _PURPOSE), tenant, holder, form).hex()


def check_origin(request: requests.Request, public_url: str) -> None:
    """The first two checks. Raises `errors.HostRefused`."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        raise errors.HostRefused(_TOLD, detail=f"Sec-Fetch-Site {site[:40]!r}")
    origin = request.headers.get("origin")
    if origin is None:
        return
    # Behind a proxy that gives us a name of its own, the browser knows the public one.
    asked = f"{request.scope['scheme']}://{request.headers.get('host', '')}".lower()
    if origin.lower() not in (asked, public_url.lower()):
        raise errors.HostRefused(_TOLD, detail=f"Origin {origin[:100]!r}")


def check_token(given: str, expected: str) -> None:
    """The third check. Raises `errors.HostRefused`."""
    if not crypto.equal(given, expected):
        raise errors.HostRefused(_TOLD, detail="token")


def _name(request: requests.Request) -> str:
    # `__Host-`: no other host of the same domain can set it (RFC 6265bis, 4.1.3.2). It needs TLS.
    # An underscore stands in no tenant's name, so this is never the cookie of a tenant (`smcp-…`).
    return "__Host-smcp_browser" if secure(request) else "smcp_browser"
