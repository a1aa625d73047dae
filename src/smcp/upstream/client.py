"""HTTP to one remote server: the guarded way out, with nothing that happens by itself.

No proxy of the environment, no cookies, no decompression, no caching, no retries. Redirects are followed here, a few
of them, and each hop is dialled through the same door:

| a redirect | what happens |
|---|---|
| from https to http | refused |
| to another origin | the configured fields and the session go no further, also not back; the rest goes on |
| 307, 308 | method and body are kept (RFC 9110, 15.4.8 and 15.4.9) |
| 301, 302 | method and body are kept: the change to GET is a MAY (15.4.2), and no MCP server means it |
| 303 | only for GET: it says that the answer to a POST is elsewhere, and MCP knows no such thing |
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final

import httpcore2

from smcp.kernel import errors, ids
from smcp.sandbox import egress
from smcp.upstream import dial, places, transport

HOPS: Final = 3
"""Redirects that are followed for one request."""
_WRITE_S: Final = 60.0
_PLACE_S: Final = 30.0
"""Seconds to wait for one of the connections."""
_CONNECTIONS: Final = 256
_STREAMS: Final = 2048
"""Connections that are held by streams, beside the others: as many as there may be sessions and listeners."""
_KEPT: Final = 16
_KEPT_S: Final = 4.0
"""Seconds for which an idle connection is kept: less than the five after which uvicorn and Node.js close theirs, so
that no request meets a connection that is just being closed."""
_BOUND_TO_ORIGIN: Final = ("mcp-session-id", "last-event-id")


class Answer(transport.Answer):
    """A response of a remote server."""

    who = "remote server"

    def __init__(self, response: httpcore2.Response, place: places.Place) -> None:
        self.place = place  # after redirects
        self.status = response.status
        self.headers = tuple(response.headers)
        """All of them, as they came."""
        self._fields = {name.lower(): value for name, value in reversed(response.headers)}
        self._stream = response.aiter_stream()
        self._response = response

    def field(self, name: str) -> str:
        return self._fields.get(name.encode("ascii"), b"").strip(b" \t").decode("latin-1")

    async def chunks(self) -> AsyncGenerator[bytes]:
        with failures():
            async for chunk in self._stream:
                yield chunk

    async def close(self) -> None:
        """Done with it. A body that was not read to its end takes the connection with it."""
        await self._stream.aclose()
        await self._response.aclose()


class Client(transport.Client):
    """Requests of one tenant to one server, with one set of credentials. Connections are kept for a while."""

    who = "remote server"

    def __init__(
        self,
        reach: egress.Egress,
        secure: ssl.SSLContext,
        tenant: ids.TenantId,
        told: Callable[[str], None],
        counted: Callable[[int, int], None],
        credentials: transport.Fields,
    ) -> None:
        """`credentials` are the configured fields, sent to the first origin only; the rest as `dial.Door`."""
        door = dial.Door(reach, tenant, told, counted)
        self._credentials = tuple(credentials)
        self._pools = {
            (scheme, lasting): httpcore2.AsyncConnectionPool(
                ssl_context=secure,
                max_connections=_STREAMS if lasting else _CONNECTIONS,
                max_keepalive_connections=_KEPT,
                keepalive_expiry=_KEPT_S,
                network_backend=backend,
            )
            for scheme, backend in (("https", door), ("http", door.plain()))
            for lasting in (False, True)
        }

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        place: places.Place,
        fields: transport.Fields,
        body: bytes = b"",
        *,
        silence_s: float = transport.SILENCE_S,
        lasting: bool = False,
    ) -> AsyncGenerator[Answer]:
        """The answer to a request, after redirects."""
        origin, sent = place.origin, [*fields, *self._credentials]
        for _ in range(HOPS + 1):
            if place.origin != origin:
                # For good: a stranger that sends us back would choose what the credentials are shown to.
                sent = [(name, value) for name, value in fields if name.lower() not in _BOUND_TO_ORIGIN]
            answer = await self._once(method, place, sent, body, silence_s, lasting=lasting)
            try:
                there = _redirected(answer, method, place)
                if there is None:
                    _readable(answer)
                    yield answer
                    return
            finally:
                await answer.close()
            place = there
        raise errors.ServerFailed(f"The remote server redirects more than {HOPS} times.")

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def _once(
        self,
        method: str,
        place: places.Place,
        fields: transport.Fields,
        body: bytes,
        silence_s: float,
        *,
        lasting: bool,
    ) -> Answer:
        heads = [("Host", place.authority), ("User-Agent", "smcp"), ("Accept-Encoding", "identity"), *fields]
        if body or method == "POST":
            heads.append(("Content-Length", str(len(body))))
        patience = {"connect": 15.0, "read": silence_s, "write": _WRITE_S, "pool": _PLACE_S}
        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=place.scheme, host=place.host, port=place.port, target=place.target),
            headers=heads,
            content=body,
            extensions={"timeout": patience},
        )
        with failures():
            # A head that comes a byte at a time is as late as one that does not come.
            async with asyncio.timeout(silence_s):
                return Answer(await self._pools[place.scheme, lasting].handle_async_request(request), place)


def _redirected(answer: Answer, method: str, place: places.Place) -> places.Place | None:
    """Where the answer sends us; None when it is one. Raises `errors.ServerFailed`."""
    if answer.status not in (301, 302, 303, 307, 308) or not answer.field("location"):
        return None
    if answer.status == 303 and method != "GET":
        raise errors.ServerFailed("The remote server answered with 303 See Other, which MCP does not know.")
    try:
        there = places.follow(place, answer.field("location"))
    except errors.InvalidParams as error:
        raise errors.ServerFailed(f"The remote server redirects to a wrong address: {error.public}") from error
    if place.scheme == "https" and there.scheme != "https":
        raise errors.ServerFailed("The remote server redirects from https to http, which is not followed.")
    return there


def _readable(answer: Answer) -> None:
    if answer.field("content-encoding").lower() not in ("", "identity"):
        raise errors.ServerFailed("The remote server's answer is compressed, although it was asked not to be.")


@contextlib.contextmanager
def failures() -> Generator[None]:
    """What can go wrong on the way, in the platform's words: nothing of the other side's is in them."""
    try:
        yield
    except httpcore2.PoolTimeout as error:
        raise errors.Unavailable("Too many connections to the remote server are in use. Retry shortly.") from error
    except (httpcore2.TimeoutException, TimeoutError) as error:
        raise errors.ServerTimeout("The remote server did not answer in time.") from error
    except (httpcore2.RemoteProtocolError, httpcore2.LocalProtocolError) as error:
        raise errors.ServerFailed(
            "The remote server does not speak HTTP as it should.", detail=str(error)[:300]
        ) from error
    except dial.Spent as error:
        raise dial.used_up() from error
    except httpcore2.NetworkError as error:
        raise errors.ServerFailed("The connection to the remote server broke.", detail=str(error)[:300]) from error
