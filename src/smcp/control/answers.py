"""Writing answers: JSON with the security headers, and the one mapper from an error to an answer."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from starlette import responses

from smcp.control import endpoint
from smcp.kernel import errors

REQUEST_ID: Final = "SMCP-Request-Id"
STANDING: Final = "smcp.standing"
"""Where the scope of a request keeps what is left of its caller's rates (`tenancy.limits.Standing`)."""

# OWASP REST security cheat sheet, "Security headers". Answers are data for programs: a browser that is led to one may
# neither guess another type, nor run, frame or keep it.
SECURITY: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def answer(value: Any, status: int) -> responses.Response:
    """The answer of a handler that returned `value`."""
    if isinstance(value, endpoint.Raw):
        return _response(value.content, status, value.media_type)
    if value is None:
        return _response(b"", status, None)
    return _response(msgspec.json.encode(value), status, "application/json")


def refusal(error: errors.SmcpError, request_id: str) -> responses.Response:
    """The answer that tells `error`: its wire code and public text, never its detail."""
    body: dict[str, Any] = {"code": error.code, "message": error.public, "request_id": request_id}
    if error.data is not None:
        body["data"] = error.data
    headers = list(error.headers)
    if isinstance(error, errors.Unauthenticated) and not any(name.lower() == "www-authenticate" for name, _ in headers):
        headers.append(("WWW-Authenticate", "Bearer"))  # RFC 6750, section 3
    return _response(msgspec.json.encode({"error": body}), error.http_status, "application/json", headers)


def _response(
    content: bytes, status: int, media_type: str | None, headers: Iterable[tuple[str, str]] = ()
) -> responses.Response:
    return responses.Response(content, status, headers={**SECURITY, **dict(headers)}, media_type=media_type)
