"""Writing answers: JSON with the security headers, and the one mapper from an error to an answer."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from starlette import responses
from starlette.types import Receive, Scope, Send

from smcp.control import endpoint
from smcp.kernel import errors
from smcp.protocol import compress

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


async def answer(value: Any, status: int, accepts: str | None) -> responses.Response:
    """The answer of a handler that returned `value`, for a client whose Accept-Encoding is `accepts`."""
    if isinstance(value, endpoint.Raw):
        content, media_type = value.content, value.media_type
    else:
        content, media_type = msgspec.json.encode(value) if value is not None else b"", "application/json"
    if not content:
        return _response(b"", status, None)
    if media_type != "application/json" or len(content) < compress.LEAST:
        return _response(content, status, media_type)
    headers = [_header(compress.VARY)]
    if compress.wanted(accepts):
        headers.append(_header(compress.CODED))
        content = await compress.gzip_beside(content)
    return _response(content, status, media_type, headers)


class Streamed:
    """The ASGI application that answers with a stream of bytes, as fast as they are taken."""

    def __init__(self, value: endpoint.Stream, status: int, stall_s: float) -> None:
        """`stall_s`: how long a client may take nothing of it."""
        self._value = value
        self._status = status
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Breaks off, so that what came does not pass for the whole, when the client stalls or the bytes fail."""
        gone = asyncio.create_task(_gone(receive))
        try:
            async with asyncio.timeout(self._value.within_s), contextlib.aclosing(self._value.chunks) as chunks:
                await send({"type": "http.response.start", "status": self._status, "headers": self._fields()})
                if scope["method"] != "HEAD":
                    async for chunk in chunks:
                        if gone.done():
                            return
                        async with asyncio.timeout(self._stall_s):
                            await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    def _fields(self) -> list[tuple[bytes, bytes]]:
        own = {
            "Content-Type": self._value.media_type,
            **({} if self._value.length is None else {"Content-Length": str(self._value.length)}),
            # Whatever it is, a browser is not to show it as a page of this origin.
            "Content-Disposition": "attachment",
        }
        every = {**SECURITY, **own, **dict(self._value.headers)}
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in every.items()]


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal(error: errors.SmcpError, request_id: str) -> responses.Response:
    """The answer that tells `error`: its wire code and public text, never its detail."""
    body: dict[str, Any] = {"code": error.code, "message": error.public, "request_id": request_id}
    if error.data is not None:
        body["data"] = error.data
    headers = list(error.headers)
    if isinstance(error, errors.Unauthenticated) and not any(name.lower() == "www-authenticate" for name, _ in headers):
        headers.append(("WWW-Authenticate", "Bearer"))  # RFC 6750, section 3
    return _response(msgspec.json.encode({"error": body}), error.http_status, "application/json", headers)


def _header(field: tuple[bytes, bytes]) -> tuple[str, str]:
    return field[0].decode(), field[1].decode()


def _response(
    content: bytes, status: int, media_type: str | None, headers: Iterable[tuple[str, str]] = ()
) -> responses.Response:
    return responses.Response(content, status, headers={**SECURITY, **dict(headers)}, media_type=media_type)
