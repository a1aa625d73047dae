"""The one order in which every API request is handled: `STAGES`, a literal tuple. Nothing switches a stage off.

Before it, `control.app` has made the request id and checked Host and Origin, for unknown paths and pages too. Every
stage either passes on or raises an `errors.SmcpError`, which `control.app` turns into the answer.
"""

import contextlib
import functools
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Final

import msgspec
from starlette import requests
from starlette.types import Receive, Scope, Send

from smcp.access import policy, scopes
from smcp.audit import events
from smcp.control import answers, reading
from smcp.control.endpoint import Binary, Call, Endpoint, Large, Open, Stream
from smcp.control.services import Services
from smcp.identity.authn import base, binding
from smcp.kernel import errors, ids, observe
from smcp.tenancy import limits

REASON: Final = "SMCP-Reason"
"""Header in which an operator says why a tenant's resource is touched. Left out: the action's name."""


class Visit(msgspec.Struct, kw_only=True):
    """One request on its way through the stages."""

    request: requests.Request
    request_id: str
    services: Services
    endpoint: Endpoint
    document: Mapping[str, Any]
    caller: policy.Principal | None = None
    call: Call[Any, Any] | None = None
    answer: Any = None
    lease: limits.Lease | None = None

    @property
    def reading(self) -> Call[Any, Any]:
        """The request as read. Only stages behind `_read` ask."""
        if self.call is None:
            raise RuntimeError("a stage stands before _read that must stand behind it")
        return self.call


def _proof(request: requests.Request) -> base.Proof | None:
    """The DPoP header (RFC 9449, 4.1). Two of them, joined, are no proof (4.3)."""
    found = request.headers.getlist("dpop")
    if not found:
        return None
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return base.Proof(", ".join(found), request.method, request.headers.get("host", ""), path.decode("latin-1"))


async def _authenticate(visit: Visit) -> None:
    if isinstance(visit.endpoint.access, Open):
        return
    with _counted(visit, "platform"):
        visit.services.limiter.platform()
    headers = visit.request.headers.getlist("authorization")
    address = _address(visit)
    try:
        visit.caller = await _known(visit)
    except errors.TenantSuspended:
        # A suspended tenant has no rate of its own any more: its callers share the one of the unknown.
        with _counted(visit, "unauthenticated"):
            visit.services.limiter.unauthenticated(address)
        raise
    except errors.Unauthenticated as error:
        visit.services.metrics.counter(observe.Metric.AUTH_FAILURES, surface="control").inc()
        # The limit first: behind it a guesser can't fill the trail.
        with _counted(visit, "unauthenticated"):
            noted = visit.services.limiter.unauthenticated(address)
        if noted:
            visit.services.trail.note(
                events.AuthenticationFailed(
                    tenant=ids.PLATFORM,
                    actor="anonymous",
                    request_id=visit.request_id,
                    outcome="refused",
                    why=error.detail,
                    address=visit.services.trail.digest(ids.PLATFORM, address),
                )
            )
        shown = ', error="invalid_token"' if headers else ""
        challenge = f'Bearer realm="smcp"{shown}{_metadata(visit)}, scope="{scopes.text(scopes.API)}"'
        raise errors.Unauthenticated(detail=error.detail, headers=(("WWW-Authenticate", challenge),)) from error


async def _known(visit: Visit, *, again: bool = False) -> policy.Principal:
    """Who asks, with a credential that is good here and from there. `again`: the request was let in before."""
    headers = visit.request.headers.getlist("authorization")
    shown = ", ".join(headers) if headers else None
    asked = visit.services.authenticator
    caller = await (asked.again(shown) if again else asked.authenticate(shown, _proof(visit.request)))
    if not binding.free(caller):
        binding.check(caller, None, policy.API, _address(visit))
    return caller


def _address(visit: Visit) -> str:
    return visit.request.client.host if visit.request.client else ""


def _metadata(visit: Visit) -> str:
    # RFC 9728, 5.1; as the client wrote the platform's name, which has been checked.
    host = visit.request.headers.get("host", "").lower()
    return f', resource_metadata="{visit.request.scope["scheme"]}://{host}/.well-known/oauth-protected-resource/api/v1"'


async def _rate(visit: Visit) -> None:
    if visit.caller is not None:
        with _counted(visit, "rate"):
            standing = visit.services.limiter.rate(visit.caller)
        # Behind the request, so that answers and refusals alike carry them as of the end.
        visit.request.scope[answers.STANDING] = standing


async def _lease(visit: Visit) -> None:
    """A place among the requests in flight, given back in the end by `Path`. Operators are never locked out."""
    if visit.caller is not None and visit.caller.tenant != ids.PLATFORM:
        with _counted(visit, "concurrency"):
            visit.lease = visit.services.limiter.admit(visit.caller)


@contextlib.contextmanager
def _counted(visit: Visit, limit: str) -> Generator[None]:
    try:
        yield
    except errors.RateLimited:
        visit.services.metrics.counter(observe.Metric.RATE_LIMITED, limit=limit).inc()
        raise


async def _read(visit: Visit) -> None:
    path = reading.path(visit.request.path_params)
    query = reading.query(visit.request.scope["query_string"], visit.endpoint.query)
    if visit.endpoint.body is Large:
        body = reading.large(visit.request, visit.services.settings.gateway)
    elif visit.endpoint.body is Binary:
        body = reading.binary(visit.request, visit.services.settings)
    else:
        body = await reading.body(visit.request, visit.endpoint.body, visit.services.settings.gateway)
        if visit.caller is not None:
            # A body may take its time, and its sender may have lost the credential, or its roles, meanwhile.
            visit.caller = await _known(visit, again=True)
    visit.call = Call(
        services=visit.services,
        request_id=visit.request_id,
        path=path,
        body=body,
        query=query,
        document=visit.document,
        caller=visit.caller,
        accept=visit.request.headers.get("accept", ""),
        ask_again=functools.partial(_ask_again, visit),
    )


async def _decide(visit: Visit) -> None:
    action, call = visit.endpoint.access, visit.reading
    if not isinstance(action, policy.Action):
        return
    decision = policy.decide(call.principal, action, visit.endpoint.resource(call.path))
    if decision is policy.Decision.ALLOW:
        return
    visit.services.metrics.counter(observe.Metric.ACCESS_REFUSED, surface="control", decision=decision.value).inc()
    # In the trail of who asked: another tenant must not be made to store what a stranger tries.
    visit.services.trail.note(
        events.AuthorizationDenied(
            tenant=call.principal.tenant,
            actor=call.principal.id,
            request_id=visit.request_id,
            outcome="refused",
            action=str(action),
            resource=str(action).partition(":")[0],
        )
    )
    if decision is policy.Decision.CONCEAL:
        raise errors.NotFound
    if decision is policy.Decision.STEP_UP:
        # RFC 6750, 3.1: all that the token had and what lacks, so that what was possible stays so.
        wanted = scopes.step_up(call.principal.scopes or frozenset(), action)
        challenge = f'Bearer realm="smcp", error="insufficient_scope", scope="{wanted}"{_metadata(visit)}'
        raise errors.Forbidden(headers=(("WWW-Authenticate", challenge),))
    raise errors.Forbidden


async def _ask_again(visit: Visit) -> None:
    visit.caller = visit.reading.caller = await _known(visit, again=True)
    await _decide(visit)


async def _find_tenant(visit: Visit) -> None:
    # Behind the decision: only who may act on the tenant learns whether it exists.
    tenant = visit.reading.path.get("tenant")
    if tenant == ids.PLATFORM:
        if not visit.endpoint.platform:
            raise errors.NotFound
    elif tenant is not None:
        await visit.services.tenants.get(ids.TenantId(tenant))


async def _account_for_crossing(visit: Visit) -> None:
    # Written before the handler runs: an operator's look into a tenant is in that tenant's trail even if we die then.
    call = visit.reading
    if call.caller is None or call.path.get("tenant", call.caller.tenant) == call.caller.tenant:
        return
    action = str(visit.endpoint.access)
    reason = events.reason(visit.request.headers.get(REASON) or action)
    call.changed(events.OperatorAccess, action=action, reason=reason)
    await visit.services.trail.write(call.changes.pop())


async def _handle_and_record(visit: Visit) -> None:
    call = visit.reading
    if call.caller is not None:
        # What can't be recorded is not begun.
        visit.services.trail.check(call.path.get("tenant", ids.PLATFORM))
    try:
        visit.answer = await visit.endpoint.handler(call)
    finally:
        # Also when the handler failed half-way: what it did change by then is told.
        for event in call.changes:
            await visit.services.trail.write(event)


STAGES: Final[tuple[Callable[[Visit], Awaitable[None]], ...]] = (
    _authenticate,
    _rate,
    _lease,
    _read,
    _decide,
    _find_tenant,
    _account_for_crossing,
    _handle_and_record,
)


class Path:
    """The ASGI application behind one path: its endpoints by method."""

    def __init__(
        self,
        services: Services,
        endpoints: Mapping[str, Endpoint],
        document: Mapping[str, Any],
    ) -> None:
        self._services = services
        self._endpoints = endpoints
        self._document = document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._endpoints.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if found is None:
            raise errors.MethodNotAllowed(headers=(("Allow", ", ".join(sorted(self._endpoints))),))
        visit = Visit(
            request=requests.Request(scope, receive),
            request_id=scope["smcp.request_id"],
            services=self._services,
            endpoint=found,
            document=self._document,
        )
        try:
            for stage in STAGES:
                await stage(visit)
            if isinstance(visit.answer, Stream):
                stall_s = visit.services.settings.gateway.body_timeout_s
                await answers.Streamed(visit.answer, found.status, stall_s)(scope, receive, send)
                return
        finally:
            if visit.lease is not None:
                visit.lease.release()
        accepts = visit.request.headers.get("accept-encoding")
        told = await answers.answer(visit.answer, found.status, accepts)
        await told(scope, receive, send)
