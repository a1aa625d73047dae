"""The files that the pages for people are made with. All are small and ours; the same for every tenant."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Final

from starlette import requests, responses, routing

PREFIX: Final = "/pages/"
_FILES: Final[Mapping[str, str]] = {
    "pages.css": "text/css",
    "pages.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[routing.BaseRoute]:
    """Where the files are."""
    return [_file(name, media_type) for name, media_type in _FILES.items()]


def _file(name: str, media_type: str) -> routing.Route:
    content = (resources.files("smcp.web") / "static" / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def show(request: requests.Request) -> responses.Response:
        headers = _HEADERS | {"ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return responses.Response(status_code=304, headers=headers)
        return responses.Response(content, headers=headers, media_type=media_type)

    return routing.Route(PREFIX + name, show, methods=["GET"])
