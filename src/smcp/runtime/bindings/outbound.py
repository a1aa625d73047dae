"""What a Worker's `fetch` reaches: the hosts of its deployment's egress, by the platform's guarded way out.

workerd sends each request here as an absolute URL (`style = proxy`). It is parsed once, and what was parsed is what the
rules are asked about, what is resolved, checked, dialled, what TLS is about and what the Host field says. Redirects are
not followed: the code's own `fetch` does, and each hop comes back here. The isolate resolves no name and dials nothing.

Whatever is refused is an answer to the code: a status, `x-smcp-refused` with the reason, and a sentence about it.
"""

import asyncio
import contextlib
import enum
import functools
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.runtime.bindings import http, substitutes
from smcp.sandbox import egress
from smcp.sandbox.egress import rules, substituted, verdicts
from smcp.sandbox.egress.verdicts import Reason
from smcp.upstream import client, passage, places

REFUSED: Final = b"x-smcp-refused"
"""The field that tells an answer of the platform's own from one of a host: of those it is taken away."""

_URL: Final = 16_384
_HEAD: Final = 65_536
"""Bytes of a request's head, with its secrets."""
_AT_ONCE: Final = 128
"""Requests of one tenant that are under way at once; a server's are bounded by its door."""
PLACE_S: Final = 30.0
"""Seconds to wait for one of those places."""
_REQUESTS: Final = (512, 256.0)
"""Requests of one tenant at once, and a second: those beyond are slowed down. Each takes the platform's time."""
_OURS: Final = b"x-smcp-"
# RFC 9110, 7.6.1: what is about one connection and not about the message. And what the platform says itself.
_HOP: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings", b"expect", b"host", b"content-length"),
    }
)
_NEVER: Final = frozenset({"CONNECT", "TRACE"})
"""TRACE answers with the request's own fields (RFC 9110, 9.3.8), and so with a secret."""

Counted = Callable[[driver.Spec, int, int], None]
"""Gets the bytes that were sent for a server and received."""


class Refusal(enum.Enum):
    """Why there is no answer of a host: what `x-smcp-refused` says, and the status."""

    ADDRESS = ("address", 400)
    METHOD = ("method", 405)
    EGRESS = ("egress", 403)
    LARGE = ("large", 431)
    BUSY = ("busy", 429)
    QUOTA = ("quota", 403)
    UNREACHABLE = ("unreachable", 502)
    LATE = ("late", 504)
    AWAY = ("away", 503)


_FAILURES: Final[tuple[tuple[type[errors.SmcpError], Refusal], ...]] = (
    (errors.QuotaExceeded, Refusal.QUOTA),
    (errors.AddressRefused, Refusal.EGRESS),
    (errors.ServerTimeout, Refusal.LATE),
    (errors.ServerFailed, Refusal.UNREACHABLE),
    (errors.Unavailable, Refusal.AWAY),
)


class Outbound:
    """One for a platform."""

    def __init__(
        self,
        reach: egress.Egress,
        counted: Counted | None = None,
        secure: ssl.SSLContext | None = None,
        *,
        place_s: float = PLACE_S,
    ) -> None:
        """`secure` says which certificates are trusted; without it those of the system."""
        self._reach = reach
        self._counted = counted
        self._place_s = place_s
        self._secure = secure or ssl.create_default_context()
        self._shares: weakref.WeakValueDictionary[ids.TenantId, _Share] = weakref.WeakValueDictionary()

    def open(self, spec: driver.Spec, told: Callable[[str], None]) -> "Way":
        """The way out for one server, for as long as its process lives. `told` gets a line per verdict, a bounded
        number of them. Raises `errors.SecretMissing`."""
        share = self._shares.get(spec.tenant)
        if share is None:
            share = self._shares[spec.tenant] = _Share(self._place_s)
        counted = functools.partial(self._counted, spec) if self._counted is not None else _nobody
        out = passage.Passage(self._reach, self._secure, spec.tenant, told, counted)
        return Way(spec, out, share)


class _Share:
    """What the servers of one tenant share."""

    __slots__ = ("__weakref__", "_place_s", "_places", "_rate")

    def __init__(self, place_s: float) -> None:
        self._place_s = place_s
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._rate = verdicts.Bucket(*_REQUESTS)

    async def pace(self) -> None:
        """Wait as long as one request more has to."""
        wait_s = self._rate.take()
        if wait_s:
            await asyncio.sleep(wait_s)

    async def __aenter__(self) -> None:
        """A place. Raises `TimeoutError`."""
        async with asyncio.timeout(self._place_s if self._places.locked() else None):
            await self._places.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._places.release()


class Way:
    """One server's way out. `answer` is the handler for its door, admitted as a proxy."""

    def __init__(self, spec: driver.Spec, out: passage.Passage, share: _Share) -> None:
        given = dict(spec.env)
        self._substitutes = substitutes.Substitutes(
            substitutes.Secret(name, given.get(name, ""), hosts)
            for name, kind in spec.secrets
            if (hosts := substituted.hosts(kind)) is not None
        )
        self.env: dict[str, str] = {**given, **self._substitutes.placeholders}
        """The environment as the code may have it: what is substituted is not in it."""
        self._rules = spec.egress
        self._out = out
        self._share = share

    def __repr__(self) -> str:
        return f"Way({self._substitutes!r})"

    async def close(self) -> None:
        """Close every connection. What is under way breaks off."""
        await self._out.close()

    async def answer(self, request: http.Request) -> http.Response:
        """The answer of the host that is meant, or one that says why there is none."""
        async with contextlib.AsyncExitStack() as held:
            try:
                await self._share.pace()
                place = self._place(request)
                await self._enter(held)
                return await self._ask(request, place, held)
            except _Refused as refused:
                return refused.answer()

    def _place(self, request: http.Request) -> places.Place:
        """Where it is to go: the one parse, and the rules about it. Raises `_Refused`."""
        if request.method in _NEVER:
            raise _Refused(Refusal.METHOD, f"{request.method} is not sent to other hosts.")
        try:
            place = places.parse(request.target, _URL)
            told = request.headers.get(b"host")
            if told is not None:
                _agree(place, told)
        except errors.InvalidParams as error:
            self._tell(Reason.ADDRESS, "a URL", error.public)
            raise _Refused(Refusal.ADDRESS, error.public) from None
        reason = _verdict(self._rules, place)
        if reason is not None:
            where = f"{place.host}:{place.port}"
            self._tell(reason, where, "not in the manifest's egress")
            raise _Refused(Refusal.EGRESS, f"{where} is not in the egress of this server's manifest.")
        return place

    def _tell(self, reason: Reason, where: str, why: str) -> None:
        self._out.door.verdicts.tell(reason, where, why=why)

    async def _enter(self, held: contextlib.AsyncExitStack) -> None:
        """Take a place, for as long as something is `held`. Raises `_Refused`."""
        try:
            await held.enter_async_context(self._share)
        except TimeoutError:
            self._tell(Reason.BUSY, "a request", "too many requests of the tenant are under way")
            raise _Refused(Refusal.BUSY, "Too many requests of this tenant are under way.") from None

    async def _ask(self, request: http.Request, place: places.Place, held: contextlib.AsyncExitStack) -> http.Response:
        """Raises `_Refused`."""
        put = self._substitutes.put(place, _end_to_end(request.headers.items()))
        if sum(len(name) + len(value) for name, value in put.fields) > _HEAD:
            raise _Refused(Refusal.LARGE, "The head of the request is too large.")
        framing, body = _framed(request)
        fields = [(b"Host", place.authority.encode()), *put.fields, *framing]
        try:
            await self._out.door.affordable(f"{place.host}:{place.port}")
            answer = await self._out.send(request.method, place, fields, body, secret=put.secret)
        except errors.SmcpError as error:
            raise _failed(error) from error
        held.push_async_callback(answer.close)
        if answer.status < 200:
            raise _Refused(Refusal.UNREACHABLE, "The host wants to speak another protocol, which was not asked for.")
        back = self._substitutes.hide(_end_to_end(answer.headers), put.encoded)
        length = answer.field("content-length")
        return http.Response(answer.status, back, _Body(answer, held.pop_all()), int(length) if length else None)


class _Body:
    """An answer's body; whatever is held for it is let go with it."""

    def __init__(self, answer: client.Answer, held: contextlib.AsyncExitStack) -> None:
        self._chunks = answer.chunks()
        self._held = held

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Nobody wants more of it. May be called again."""
        await self._chunks.aclose()
        await self._held.aclose()


class _Refused(Exception):
    """There will be no answer of a host."""

    def __init__(self, why: Refusal, text: str) -> None:
        super().__init__(text)
        self._why = why
        self._text = text

    def answer(self) -> http.Response:
        """What the code gets."""
        word, status = self._why.value
        heads = [(REFUSED, word.encode()), (b"content-type", b"text/plain; charset=utf-8")]
        if self._why is Refusal.BUSY:
            heads.append((b"retry-after", b"1"))
        return http.Response(status, heads, f"{self._text}\n".encode())


def _failed(error: errors.SmcpError) -> Exception:
    """The answer for an `error` on the way; the error itself where it is none of that."""
    for kind, why in _FAILURES:
        if isinstance(error, kind):
            return _Refused(why, error.public)
    return error


def _verdict(allowed: Sequence[rules.Rule], place: places.Place) -> Reason | None:
    """Why no rule means `place`; None when one does."""
    if any(rule.means(place.host, place.port) for rule in allowed):
        return None
    if places.is_address(place.host):
        return Reason.ADDRESS
    return Reason.PORT if any(rule.names(place.host) for rule in allowed) else Reason.NAME


def _agree(place: places.Place, told: bytes) -> None:
    """The Host field must mean what the URL means. Raises `errors.InvalidParams`."""
    there = places.parse(f"{place.scheme}://{told.decode('latin-1')}")
    if there.origin != place.origin or there.target != "/":
        raise errors.InvalidParams("The Host field names another host than the URL.")


def _end_to_end(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields that are meant for the other end, of a message that came: neither a connection's own nor ours."""
    found = [(name, value) for name, value in fields]
    named = b",".join(value for name, value in found if name.lower() == b"connection")
    gone = _HOP.union(one.strip().lower() for one in named.split(b","))
    return [(name, value) for name, value in found if name.lower() not in gone and not name.lower().startswith(_OURS)]


def _framed(request: http.Request) -> tuple[list[tuple[bytes, bytes]], AsyncIterator[bytes] | bytes]:
    """How a request's body is sent."""
    if request.length is None:
        return [(b"Transfer-Encoding", b"chunked")], request.body
    if request.length:
        return [(b"Content-Length", b"%d" % request.length)], request.body
    return [(b"Content-Length", b"0")] if b"content-length" in request.headers else [], b""


def _nobody(sent: int, received: int) -> None:
    """Bytes that nobody counts."""
