"""The walk of one MCP request: one tuple of stages, in this order, none of which a setting can switch off.

Each stage either fills in the exchange, answers it, or raises. Whatever happens, `_finish` runs once at the end: lease
and call are given back, the meter, the audit trail and the metrics learn of it.
"""

import asyncio
import secrets
import time
from typing import Final

from smcp.access import policy
from smcp.audit import events
from smcp.gateway import exchange, forward, legacy, modern, read, route, streams, tracing
from smcp.kernel import errors, ids, jsonrpc, observe
from smcp.protocol import eras

_HELD_S: Final = 0.15
"""How long a refusal for asking too much is held back, give or take a half: a few in a second on one connection."""
_METHODS: Final = frozenset(observe.METHODS)
_CHALLENGE: Final = ("WWW-Authenticate", 'Bearer realm="smcp"')
_INSUFFICIENT: Final = ("WWW-Authenticate", 'Bearer realm="smcp", error="insufficient_scope"')  # RFC 6750, 3.1


async def authenticate(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The credential → principal; a failure counts against the address, and 401 says nothing more."""
    try:
        x.principal = await parts.authenticator.authenticate(x.incoming.fields.only("authorization"))
    except errors.TenantSuspended:
        # A suspended tenant has no rate of its own any more: its callers share the one of the unknown.
        parts.limiter.unauthenticated(x.address)
        raise
    except errors.Unauthenticated as error:
        parts.meters.auth_failures.inc()
        try:
            noted = parts.limiter.unauthenticated(x.address)
        except errors.RateLimited:
            parts.meters.limited["unauthenticated"].inc()
            raise
        # Not all of them: neither an address nor many of them together can fill the trail.
        if noted:
            _note_unknown(parts, x, error)
        raise errors.Unauthenticated(detail=error.detail, headers=(_CHALLENGE,)) from error
    if x.tenant is None:
        # Only who is known learns that there is no such address.
        raise errors.NotFound


def _note_unknown(parts: exchange.Parts, x: exchange.Exchange, error: errors.Unauthenticated) -> None:
    parts.trail.note(
        events.AuthenticationFailed(
            tenant=ids.PLATFORM,
            actor="anonymous",
            request_id=x.request_id,
            outcome="refused",
            why=error.detail or "absent",
            address=parts.trail.digest(ids.PLATFORM, x.address),
        )
    )


async def tenant_rate(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """Counts against the tenant's, the principal's and the session's rate; all that is not recorded ends here."""
    principal = _known(x)
    try:
        x.cors += parts.limiter.rate(principal, x.incoming.fields.only("mcp-session-id") or "").fields()
    except errors.RateLimited:
        parts.meters.limited["rate"].inc()
        raise
    parts.trail.check(principal.tenant)


async def decide(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """May the principal do this here? Only then is the server looked up."""
    principal = _known(x)
    if x.tenant is None or x.server is None:
        raise errors.NotFound
    decision = policy.decide(principal, x.action, policy.Resource(x.tenant, "server", x.server))
    if decision is not policy.Decision.ALLOW:
        parts.meters.refusals[decision.value].inc()
        parts.trail.note(
            events.AuthorizationDenied(
                tenant=principal.tenant,
                actor=principal.id,
                request_id=x.request_id,
                outcome="refused",
                action=x.action.value,
                resource="server",
                name=x.server if x.tenant == principal.tenant else "",
            )
        )
        if decision is policy.Decision.CONCEAL:
            raise errors.NotFound
        raise errors.Forbidden(headers=(_INSUFFICIENT,))
    x.target = await parts.targets.find(x.tenant, x.server)
    if x.era is eras.Era.MODERN and x.message is not None and x.message.method == "tools/call":
        x.target.check_headers(x.message.params, x.incoming.fields)


async def session(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """Legacy only: find the session, or end it; `initialize` makes a new one later, in `acquire`."""
    if x.era is eras.Era.LEGACY:
        await legacy.session(parts, x)


async def lease(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """A place among the requests in flight."""
    if x.message is not None and x.message.kind is jsonrpc.Kind.REQUEST:
        try:
            x.lease = parts.limiter.admit(_known(x))
        except errors.RateLimited:
            parts.meters.limited["concurrency"].inc()
            raise


async def acquire(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """A running copy of the hosted server."""
    if x.era is eras.Era.LEGACY:
        await legacy.acquire(parts, x)
    else:
        await modern.acquire(parts, x)


STAGES: Final = (
    route.edge,
    route.route,
    authenticate,
    tenant_rate,
    read.read,
    decide,
    session,
    lease,
    acquire,
    forward.forward,
    forward.stream_back,
)


async def _acquire_traced(parts: exchange.Parts, x: exchange.Exchange) -> None:
    began = time.time_ns()
    try:
        await acquire(parts, x)
    finally:
        tracing.waited(x, began)


_TRACED: Final = (
    *STAGES[: STAGES.index(decide)],
    tracing.begin,
    *STAGES[STAGES.index(decide) : STAGES.index(acquire)],
    _acquire_traced,
    tracing.handed,
    *STAGES[STAGES.index(forward.forward) :],
)
"""The same stages with spans between them; a request's begins when its caller is known and its message read."""


async def run(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """Take one request through the stages; never raises for what a client or a hosted server did."""
    parts.meters.active += 1
    try:
        for stage in _TRACED if parts.traces.on else STAGES:
            await stage(parts, x)
            if x.answered:
                break
    except errors.SmcpError as error:
        await _refuse(parts, x, error)
    except exchange.ClientGone:
        x.refused = "client_gone"
        parts.metrics.error("gateway", x.refused)
    except Exception as error:
        parts.log.error("request failed", request_id=x.request_id, method=x.method, exc_info=error)
        await _refuse(parts, x, errors.SmcpError())
    finally:
        _finish(parts, x)


async def _refuse(parts: exchange.Parts, x: exchange.Exchange, error: errors.SmcpError) -> None:
    x.refused = error.code
    parts.metrics.error("gateway", error.code)
    if error.http_status >= 500:
        parts.log.warning("request refused", request_id=x.request_id, code=error.code, detail=error.detail)
    body = jsonrpc.error(b"" if x.message is None else x.message.id, error.rpc_code, error.public, error.data)
    if isinstance(error, errors.RateLimited):
        # Who asks on at once, on many connections, would take the others' processor time with nothing but refusals.
        # Not all of them at one time again, either.
        await asyncio.sleep(_HELD_S * (0.5 + secrets.randbelow(1000) / 1000))
    if x.streaming:
        await streams.end_with(x, body)
    elif not x.answered:
        # Once the hosted server has the call, its failure is an answer to that call, and clients read the body.
        status = 200 if x.call is not None else error.http_status
        fields = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in error.headers)
        x.answer(status, body, fields)


def _finish(parts: exchange.Parts, x: exchange.Exchange) -> None:
    # The lease first: nothing that goes wrong below may keep a place among the requests in flight for ever.
    if x.lease is not None:
        x.lease.release()
    forward.give_back(parts, x)
    seconds = time.monotonic() - x.started
    parts.meters.count(x.incoming.method, x.status, seconds, x.received, x.sent)
    if x.message is not None and x.principal is not None and x.tenant == x.principal.tenant:
        failed = bool(x.refused) or (x.call is not None and x.call.code is not None)
        parts.metrics.operation(x.message.method, x.version, seconds, failed=failed)
        if failed and not x.refused:
            parts.metrics.error("gateway", "rpc_error")
        if x.message.kind is jsonrpc.Kind.REQUEST:
            # Callers invent names: only a server that exists has usage of its own.
            server = "" if x.target is None else x.target.spec.server
            parts.meter.call(
                x.principal.tenant, server, x.principal.id, failed=failed, received=x.received, sent=x.sent
            )
            _note(parts, x, _record(parts, x, x.principal, x.message, seconds, failed=failed))
    if x.trace is not None:
        tracing.end(x)


def _note(parts: exchange.Parts, x: exchange.Exchange, event: events.Event) -> None:
    try:
        parts.trail.note(event)
    except errors.Unavailable as error:
        # The answer has gone out; `tenant_rate` lets nobody in until the trail can be written again.
        parts.log.error("audit entry lost", request_id=x.request_id, detail=error.detail)


def _record(
    parts: exchange.Parts,
    x: exchange.Exchange,
    principal: policy.Principal,
    message: jsonrpc.Message,
    seconds: float,
    *,
    failed: bool,
) -> events.McpCall:
    named = message.params.get(eras.NAMED.get(message.method, ""))
    code = x.refused or ("rpc_error" if failed else "")
    return events.McpCall(
        tenant=principal.tenant,
        actor=principal.id,
        request_id=x.request_id,
        outcome="ok" if not failed else ("refused" if x.call is None else "failed"),
        server=x.server or "",
        method=message.method if message.method in _METHODS else observe.OTHER,
        target=parts.trail.target(principal.tenant, named) if isinstance(named, str) and named else events.NO_TARGET,
        code=code,
        duration_ms=round(seconds * 1000, 3),
        bytes_in=x.received,
        bytes_out=x.sent,
    )


def _known(x: exchange.Exchange) -> policy.Principal:
    if x.principal is None:
        raise errors.Unauthenticated
    return x.principal
