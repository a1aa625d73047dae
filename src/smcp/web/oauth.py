"""The authorization server's endpoints for programs: tokens, and what may be asked about them.

| path below `/oauth/{tenant}/` | |
|---|---|
| `token` | RFC 6749, 3.2 |
| `device_authorization` | RFC 8628, 3.1 |
| `introspect` | RFC 7662 |
| `revoke` | RFC 7009 |
| `jwks` | RFC 7517: the keys that access tokens are signed with |

Every request counts for the platform's rate, every refusal for the one of strangers from its address; devices that ask
for codes, which anybody may, for one of their own. What a request says is in its body: a query is refused, because it
would be written into logs (RFC 6749, 2.3.1).
"""

import asyncio
import contextlib
from typing import Final

import msgspec
from starlette import requests, responses, routing

from smcp.audit import identity as audited
from smcp.audit.trail import Trail
from smcp.identity.oauth import device, dpop, exchange, forms, introspect, refusals, resources
from smcp.identity.signing import Signing
from smcp.kernel import clock, errors, ids
from smcp.tenancy import attempts
from smcp.tenancy.limits import Limiter
from smcp.tenancy.tenants import Tenants
from smcp.web import oauth_document, replies

BODY_S: Final = 10.0
"""In which all of a body is there (seconds)."""
KEYS_S: Final = 600
"""For how long the key set may be kept (seconds)."""
ADDRESS_PER_MINUTE: Final = 30
TENANT_PER_MINUTE: Final = 120
_MEDIA: Final = "application/x-www-form-urlencoded"
_WAITING: Final = frozenset({device.PENDING, device.SLOW_DOWN})
"""Refusals that a client is meant to get: they count for nothing."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoints need."""

    exchange: exchange.Exchange
    looking: introspect.Looking
    signing: Signing
    resources: resources.Resources
    tenants: Tenants
    limiter: Limiter
    trail: Trail
    clock: clock.Clock
    version: str


def routes(parts: Parts) -> list[routing.BaseRoute]:
    """The endpoints' routes, for `control.app.build`."""
    edge = _Edge(parts)
    document = oauth_document.document(parts.version)

    async def described(_: requests.Request) -> responses.Response:
        return replies.json(document, headers={"Cache-Control": "no-cache"})

    return [
        routing.Route("/oauth/openapi.json", replies.Program({"GET": described})),
        routing.Route("/oauth/{tenant}/token", replies.Program({"POST": edge.token})),
        routing.Route("/oauth/{tenant}/device_authorization", replies.Program({"POST": edge.device})),
        routing.Route("/oauth/{tenant}/introspect", replies.Program({"POST": edge.introspect})),
        routing.Route("/oauth/{tenant}/revoke", replies.Program({"POST": edge.revoke})),
        routing.Route("/oauth/{tenant}/jwks", replies.Program({"GET": edge.keys})),
    ]


class _Edge:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._devices = attempts.Attempts(
            parts.clock,
            "devices that want to log somebody in",
            address_per_minute=ADDRESS_PER_MINUTE,
            tenant_per_minute=TENANT_PER_MINUTE,
        )

    async def token(self, request: requests.Request) -> responses.Response:
        """RFC 6749, 3.2."""
        asked = await self._read(request)
        try:
            tokens = await self._parts.exchange.token(asked)
        except refusals.Refused as error:
            self._refused(request, asked, error)
            raise
        return replies.json(tokens.body, headers=_KEPT_NOWHERE)

    async def device(self, request: requests.Request) -> responses.Response:
        """RFC 8628, 3.2."""
        asked = await self._read(request)
        self._devices.take(asked.tenant, _address(request))
        try:
            begun = await self._parts.exchange.begin_device(asked)
        except refusals.Refused as error:
            self._refused(request, asked, error)
            raise
        place = f"{self._parts.resources.public}/account/{asked.tenant}/device"
        told = {
            "device_code": begun.device_code,
            "user_code": begun.user_code,
            "verification_uri": place,
            "verification_uri_complete": f"{place}?user_code={begun.user_code}",
            "expires_in": begun.expires_in,
            "interval": begun.interval,
        }
        return replies.json(told, headers=_KEPT_NOWHERE)

    async def introspect(self, request: requests.Request) -> responses.Response:
        """RFC 7662, 2.2."""
        asked = await self._read(request)
        try:
            told = await self._parts.looking.introspect(asked)
        except refusals.Refused as error:
            self._refused(request, asked, error)
            raise
        return replies.json(told, headers=_KEPT_NOWHERE)

    async def revoke(self, request: requests.Request) -> responses.Response:
        """RFC 7009, 2.2."""
        asked = await self._read(request)
        try:
            await self._parts.looking.revoke(asked)
        except refusals.Refused as error:
            self._refused(request, asked, error)
            raise
        return replies.json({}, headers=_KEPT_NOWHERE)

    async def keys(self, request: requests.Request) -> responses.Response:
        """RFC 7517, 5. For a suspended tenant, too: its tokens are refused elsewhere."""
        self._parts.limiter.platform()
        tenant = _tenant(request)
        with contextlib.suppress(errors.TenantSuspended):
            await self._parts.tenants.active(tenant)
        found = await self._parts.signing.published(tenant)
        return replies.json(found, headers={"Cache-Control": f"public, max-age={KEYS_S}"})

    async def _read(self, request: requests.Request) -> exchange.Request:
        """The request, of a tenant that is served."""
        self._parts.limiter.platform()
        tenant = _tenant(request)
        if request.url.query:
            raise _bad("Send the parameters in the body, not in the address.")
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != _MEDIA:
            raise _bad(f"Send the parameters as {_MEDIA}.", status=415)
        await self._parts.tenants.active(tenant)
        form = forms.parse(await _body(request))
        if "client_assertion" in form:
            self._parts.limiter.guard(_address(request))
        shown = _only(request, "authorization")
        proof = _only(request, "dpop")
        return exchange.Request(
            tenant=tenant,
            form=form,
            authorization=shown,
            proof=None if proof is None else dpop.Shown(proof, request.method, request.headers["host"], _path(request)),
            address=_address(request),
            request_id=request.scope.get("smcp.request_id", ""),
        )

    def _refused(self, request: requests.Request, asked: exchange.Request, error: refusals.Refused) -> None:
        """Counts, and is told in the trail as far as the rate goes. Raises `errors.RateLimited`."""
        if error.code in _WAITING or not self._parts.limiter.unauthenticated(_address(request)):
            return
        trail = self._parts.trail
        trail.note(
            audited.TokenRefused(
                tenant=asked.tenant,
                actor="anonymous",
                request_id=asked.request_id,
                outcome="refused",
                why=error.code,
                detail=error.detail,
                address=trail.digest(asked.tenant, _address(request)),
            )
        )


_KEPT_NOWHERE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""RFC 6749, 5.1."""


def _tenant(request: requests.Request) -> ids.TenantId:
    try:
        return ids.any_tenant(request.path_params["tenant"])
    except errors.BadName:
        raise errors.NotFound(detail="tenant") from None


def _address(request: requests.Request) -> str:
    return request.client.host if request.client else ""


def _path(request: requests.Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("latin-1")


def _only(request: requests.Request, name: str) -> str | None:
    """A header that may come once (RFC 9449, 4.3, for proofs)."""
    found = request.headers.getlist(name)
    if len(found) > 1:
        raise _bad(f"The header {name} is sent twice.")
    return found[0] if found else None


async def _body(request: requests.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > forms.MAX_BYTES:
                    raise errors.TooLarge
    except TimeoutError:
        raise errors.RequestTimeout from None
    except requests.ClientDisconnect:
        raise errors.BadRequest("The body did not arrive as a whole.") from None
    return bytes(body)


def _bad(words: str, *, status: int = 400) -> refusals.Refused:
    return refusals.Refused(refusals.INVALID_REQUEST, words, detail="request", status=status)
