"""Clients that register themselves (RFC 7591), and look after their registration (RFC 7592).

For older clients: newer ones are the address of a document (`identity.oauth.metadata_document`). A registration costs a
client nothing and lives long, since clients that lose theirs do not come back by themselves. So there is a rate for
each address and for each tenant, and a bound on those that nobody uses (`identity.oauth.room`).
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from starlette import requests, responses, routing

from smcp.audit import events
from smcp.audit import identity as audited
from smcp.audit.trail import Trail
from smcp.identity.oauth import clients, refusals, registration, resources
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, jsonrpc
from smcp.tenancy import attempts
from smcp.tenancy.limits import Limiter
from smcp.web import replies

MAX_BYTES: Final = 8192
"""Of a description. What is kept of it is less (`clients.MAX_RECORD`)."""
BODY_S: Final = 10.0
"""In which all of a body is there (seconds)."""
ADDRESS_PER_MINUTE: Final = 10
TENANT_PER_MINUTE: Final = 20
_DEPTH: Final = 8


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What registering needs."""

    clients: clients.Clients
    resources: resources.Resources
    limiter: Limiter
    trail: Trail
    clock: clocks.Clock


def routes(parts: Parts) -> list[routing.BaseRoute]:
    """The endpoint's routes, for `control.app.build`."""
    edge = _Edge(parts)
    made = replies.Program({"POST": edge.register})
    kept = replies.Program({"GET": edge.read, "PUT": edge.replace, "DELETE": edge.remove})
    return [
        routing.Route("/oauth/{tenant}/register", made),
        routing.Route("/oauth/{tenant}/register/{client}", kept),
    ]


class _Edge:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._rate = attempts.Attempts(
            parts.clock,
            "registrations",
            address_per_minute=ADDRESS_PER_MINUTE,
            tenant_per_minute=TENANT_PER_MINUTE,
        )

    async def register(self, request: requests.Request) -> responses.Response:
        """RFC 7591, 3."""
        self._parts.limiter.platform()
        tenant = _tenant(request)
        self._rate.take(tenant, _address(request))
        try:
            metadata = registration.read(await _body(request), secrets=True)
            issued = await self._parts.clients.register(tenant, metadata, request_id=_request_id(request))
        except clients.UnknownClient as error:
            raise errors.NotFound(error.description, detail=error.detail) from None
        except refusals.Refused as error:
            await self._note(request, tenant, error)
            raise
        return self._answer(issued, 201, issued.manage)

    async def read(self, request: requests.Request) -> responses.Response:
        """RFC 7592, 2.1."""
        client, token = await self._client(request)
        return self._answer(clients.Issued(client), 200, token)

    async def replace(self, request: requests.Request) -> responses.Response:
        """RFC 7592, 2.2."""
        client, token = await self._client(request)
        said = await _body(request)
        if said.get("client_id") != client.id:
            told = "client_id is not that of this registration."
            raise refusals.Refused(refusals.INVALID_CLIENT_METADATA, told, detail="metadata")
        if "client_secret" in said and not self._parts.clients.proves(client, str(said["client_secret"])):
            told = "client_secret is not that of this registration."
            raise refusals.Refused(refusals.INVALID_CLIENT_METADATA, told, detail="metadata")
        issued = await self._parts.clients.amend(client, registration.read(said, secrets=True))
        # It may have other addresses, another proof and another name now: whoever looks into it later must see that.
        await self._parts.trail.write(
            audited.ClientRegistered(
                tenant=client.tenant,
                actor="anonymous",
                request_id=_request_id(request),
                client=client.id,
                how="amended",
            )
        )
        return self._answer(issued, 200, token)

    async def remove(self, request: requests.Request) -> responses.Response:
        """RFC 7592, 2.3."""
        client, _ = await self._client(request)
        await self._parts.clients.remove(client, request_id=_request_id(request))
        return responses.Response(status_code=204, headers={"Cache-Control": "no-store"})

    async def _client(self, request: requests.Request) -> tuple[clients.Client, str]:
        """Whose registration it is, as the registration access token says. One refusal for all that is wrong."""
        self._parts.limiter.platform()
        tenant = _tenant(request)
        token = _bearer(request)
        client: clients.Client | None = None
        try:
            client = await self._parts.clients.known(tenant, request.path_params["client"])
        except clients.UnknownClient:
            client = None
        if not self._parts.clients.manages(client, token) or client is None:
            error = refusals.Refused(
                refusals.INVALID_TOKEN,
                "The registration access token is wrong, or the client is not registered any more.",
                detail="token",
                status=401,
                headers=(("WWW-Authenticate", 'Bearer realm="smcp", error="invalid_token"'),),
            )
            if self._parts.limiter.unauthenticated(_address(request)):
                await self._note(request, tenant, error)
            raise error
        return client, token

    def _answer(self, issued: clients.Issued, status: int, manage: str) -> responses.Response:
        """RFC 7591, 3.2.1; RFC 7592, 3."""
        client = issued.client
        told = registration.shown(client)
        if issued.secret:
            told |= {"client_secret": issued.secret, "client_secret_expires_at": 0}
        told["registration_access_token"] = manage
        told["registration_client_uri"] = f"{self._parts.resources.endpoint(client.tenant, 'register')}/{client.id}"
        return replies.json(told, status, {"Pragma": "no-cache"})

    async def _note(self, request: requests.Request, tenant: ids.TenantId, error: refusals.Refused) -> None:
        trail = self._parts.trail
        try:
            digest = trail.digest(tenant, _address(request))
        except errors.NotFound:
            return  # no such tenant: there is no trail to tell it in
        noted: events.Event = audited.TokenRefused(
            tenant=tenant,
            actor="anonymous",
            request_id=_request_id(request),
            outcome="refused",
            why=error.code,
            detail=error.detail,
            address=digest,
        )
        trail.note(noted)


async def _body(request: requests.Request) -> Mapping[str, Any]:
    """The JSON object that was sent. Raises `errors.SmcpError`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise errors.UnsupportedMedia
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BYTES:
                    raise errors.TooLarge(f"The body has at most {MAX_BYTES} bytes.")
    except TimeoutError:
        raise errors.RequestTimeout from None
    except requests.ClientDisconnect:
        raise errors.BadRequest("The body ended early.") from None
    said: object = jsonrpc.strict_json(bytes(data), max_depth=_DEPTH)
    if not isinstance(said, dict):
        raise refusals.Refused(refusals.INVALID_CLIENT_METADATA, "Client metadata is a JSON object.", detail="metadata")
    return cast("dict[str, Any]", said)


def _tenant(request: requests.Request) -> ids.TenantId:
    try:
        return ids.any_tenant(request.path_params["tenant"])
    except errors.BadName:
        raise errors.NotFound("There is no authorization server at this address.") from None


def _bearer(request: requests.Request) -> str:
    said = request.headers.getlist("authorization")
    scheme, _, token = said[0].partition(" ") if len(said) == 1 else ("", "", "")
    return token.strip(" ")[:256] if scheme.lower() == "bearer" else ""


def _address(request: requests.Request) -> str:
    return request.client.host if request.client else ""


def _request_id(request: requests.Request) -> str:
    return str(request.scope.get("smcp.request_id", ""))
