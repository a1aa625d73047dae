"""Answers of the authorization server's endpoints for programs: JSON, errors as OAuth has them, CORS.

Around these stands `control.app.Edge`, which has refused an Origin that is not on the platform's list already. So what
is left may read the answer, and is told so; a request without Origin comes from no page.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette import requests, responses
from starlette.types import Receive, Scope, Send

from smcp.identity.oauth import refusals
from smcp.kernel import errors

_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_EXPOSED: Final = "WWW-Authenticate, Retry-After, DPoP-Nonce, SMCP-Request-Id"
_ALLOWED: Final = "Authorization, Content-Type, Accept, MCP-Protocol-Version, DPoP"

Handler = Callable[[requests.Request], Awaitable[responses.Response]]


class Program:
    """One path for programs: an ASGI application with a handler for each method."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._allow = ", ".join([*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. What is refused is an answer, too, which the page of an allowed origin may read."""
        request = requests.Request(scope, receive)
        answer = self._preflight() if request.method == "OPTIONS" else await self._answer(request)
        answer.headers["Vary"] = "Origin"
        origin = request.headers.get("origin")
        if origin is not None:
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Expose-Headers"] = _EXPOSED
        await answer(scope, receive, send)

    async def _answer(self, request: requests.Request) -> responses.Response:
        handler = self._handlers.get("GET" if request.method == "HEAD" else request.method)
        try:
            if handler is None:
                raise errors.MethodNotAllowed(headers=(("Allow", self._allow),))
            return await handler(request)
        except refusals.Refused as error:
            return refusal(error)
        except errors.SmcpError as error:
            return refusal(of(error))

    def _preflight(self) -> responses.Response:
        # Without a credential, as browsers send it (WHATWG Fetch, "CORS-preflight fetch").
        answer = responses.Response(status_code=204, headers={**_SECURITY, "Allow": self._allow})
        answer.headers["Access-Control-Allow-Methods"] = self._allow
        answer.headers["Access-Control-Allow-Headers"] = _ALLOWED
        answer.headers["Access-Control-Max-Age"] = "7200"
        return answer


def json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> responses.Response:
    """`document` as an answer. Not to be kept, unless `headers` say otherwise."""
    return responses.Response(
        msgspec.json.encode(document),
        status,
        headers={**_SECURITY, **(headers or {})},
        media_type="application/json",
    )


def refusal(error: refusals.Refused) -> responses.Response:
    """RFC 6749, 5.2."""
    return json(error.body, error.status, dict(error.headers))


def of(error: errors.SmcpError) -> refusals.Refused:
    """An error of the platform in OAuth's words."""
    status = error.http_status
    if status in (429, 503):
        code = refusals.TEMPORARILY_UNAVAILABLE
    elif status < 500:
        code = refusals.INVALID_REQUEST
    else:
        code = refusals.SERVER_ERROR
    words = error.public.replace('"', "'").encode("ascii", "replace").decode()
    return refusals.Refused(code, words, detail=error.code, status=status, headers=tuple(error.headers))
