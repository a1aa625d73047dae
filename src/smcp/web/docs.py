"""The interactive page of the admin API: three static files that read /api/v1/openapi.json in the browser.

A page of our own rather than Swagger UI: that is 1.5 MB of vendored script, needs `style-src 'unsafe-inline'`, and does
not work well on a phone. The key that a person pastes stays in the page's memory: no storage, no cookie, no URL.
"""

import hashlib
from importlib import resources
from typing import Final

from starlette import requests, responses, routing

# Only files from here, no inline script or style, no frame, no form that leaves the page (CSP level 3).
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FILES: Final = (
    ("/api/docs", "docs.html", "text/html"),
    ("/api/docs/docs.css", "docs.css", "text/css"),
    ("/api/docs/docs.js", "docs.js", "text/javascript"),
    ("/api/docs/icon.svg", "icon.svg", "image/svg+xml"),
)


def pages() -> list[routing.BaseRoute]:
    """The page's routes, for `control.app.build`."""
    return [_page(path, file, media_type) for path, file, media_type in _FILES]


def _page(path: str, file: str, media_type: str) -> routing.Route:
    content = (resources.files("smcp.web") / "static" / file).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def show(request: requests.Request) -> responses.Response:
        headers = _HEADERS | {"ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return responses.Response(status_code=304, headers=headers)
        return responses.Response(content, headers=headers, media_type=media_type)

    return routing.Route(path, show, methods=["GET"])
