"""The shell around every page for people: templates, what a browser may do with a page, and how errors look.

A page is HTML from a template that escapes everything it is given (jinja2, autoescape), and works without JavaScript.
Its policy (CSP level 3) starts from nothing: scripts and styles of this page's own nonce, images of ours, forms to
ourselves and to where the answer of *this* authorization request goes. Chromium holds redirects after a form to
`form-action`, so that one origin has to be there; nothing else ever is.
"""

import re
import urllib.parse
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any, Final

import jinja2
from starlette import responses

from smcp.kernel import errors, ids

_COMMON: Final = {
    "Cross-Origin-Resource-Policy": "same-origin",
    # `same-origin` and not `no-referrer`: with that one a browser calls the origin of our own forms `null` (Fetch,
    # "append a request Origin header"), and they could not be told from others'. No other site gets a referrer.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_PERMISSIONS: Final = (
    "accelerometer=(), camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=(), "
    "publickey-credentials-create=(self), publickey-credentials-get=(self)"
)
# What the grammar of CSP has words for (CSP level 3, 2.3.1): it has none for an IPv6 address.
_ORIGIN: Final = re.compile(r"https?://[a-z0-9._-]+(?::[0-9]{1,5})?")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")


def target_of(uri: str) -> str | None:
    """What `form-action` calls the place that `uri` leads to; None where it has no word for it (an IPv6 address)."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return f"{parts.scheme}:" if _SCHEME.fullmatch(parts.scheme) else None
    origin = f"{parts.scheme}://{parts.netloc.lower()}"
    return origin if _ORIGIN.fullmatch(origin) else None


def policy(nonce: str, targets: Iterable[str] = ()) -> str:
    """The content security policy of one page."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'nonce-{nonce}'",
            f"style-src 'nonce-{nonce}'",
            "img-src 'self'",
            "base-uri 'none'",
            " ".join(("form-action 'self'", *targets)),
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


class Shell:
    """Makes pages."""

    def __init__(self, version: str, now: Callable[[], float]) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(str(resources.files("smcp.web") / "templates")),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._version = version

        def ago(at: float) -> str:
            return _ago(now() - at)

        self._templates.filters["ago"] = ago

    def page(
        self,
        template: str,
        *,
        status: int = 200,
        targets: Iterable[str] = (),
        popup: bool = False,
        **values: Any,
    ) -> responses.Response:
        """The page of `template` with `values`.

        `targets`: where else its forms may lead, by redirects. `popup`: a web application may have opened it in a
        window and waits for that window's answer, so it is not cut off from who opened it.
        """
        nonce = ids.token(128)
        html = self._templates.get_template(template).render(nonce=nonce, version=self._version, **values)
        headers = {
            **_COMMON,
            "Content-Security-Policy": policy(nonce, targets),
            "Permissions-Policy": _PERMISSIONS,
            "Cross-Origin-Opener-Policy": "unsafe-none" if popup else "same-origin",
        }
        return responses.HTMLResponse(html, status, headers=headers)

    def refusal(self, error: errors.SmcpError, request_id: str) -> responses.Response:
        """The page that tells `error`: its public text, never its detail."""
        answer = self.page(
            "error.html",
            status=error.http_status,
            popup=True,
            title="That did not work" if error.http_status < 500 else "Something is wrong here",
            text=error.public,
            request_id=request_id,
        )
        for name, value in error.headers:
            answer.headers[name] = value
        return answer


def redirect(where: str) -> responses.Response:
    """Go on at `where` with GET, whatever the method was (303: RFC 9700, 4.12). No page learns where from."""
    # Not starlette's RedirectResponse: it would quote `where` anew, and a client compares what it gets.
    return responses.Response(status_code=303, headers={**_COMMON, "Location": where, "Referrer-Policy": "no-referrer"})


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
