"""The walk of one MCP request: one tuple of stages, in this order, none of which a setting can switch off.

Each stage either fills in the exchange, answers it, or raises. Whatever happens, `_finish` runs once at the end: lease
and call are given back, the meter, the audit trail and the metrics learn of it.
"""

import asyncio
import contextlib
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, NoReturn

from smcp.access import policy
from smcp.audit import events
from smcp.gateway import (
    again,
    batch,
    challenge,
    check,
    exchange,
    forward,
    legacy,
    modern,
    narrow,
    oldsse,
    read,
    recall,
    route,
    streams,
    targets,
    tracing,
)
from smcp.identity.authn import base, binding
from smcp.kernel import errors, ids, jsonrpc, observe
from smcp.protocol import eras
from smcp.runtime import calls

_HELD_S: Final = 0.15
"""How long a refusal for asking too much is held back, give or take a half: a few in a second on one connection."""
_METHODS: Final = frozenset(observe.METHODS)


def authenticate(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """The credential → principal, from memory where that is enough."""
    head = x.head
    if head.recall is None:
        head.credential = x.incoming.fields.only(b"authorization")
        head.recall = parts.authenticator.recall(head.credential)
    principal = x.principal = None if head.recall is None else head.recall()
    if principal is None:
        head.recall = None
        return _authenticate(parts, x, head.credential)
    if not binding.free(principal):
        _bound(parts, x, principal)
    if x.tenant is None:
        # Only who is known learns that there is no such address.
        raise errors.NotFound
    return None


def _bound(parts: exchange.Parts, x: exchange.Exchange, principal: policy.Principal) -> None:
    """Is the credential for this server, and may it come from there? Else it is none."""
    try:
        binding.check(principal, x.tenant, x.server, x.address)
    except errors.Unauthenticated as error:
        x.principal = None
        _refused(parts, x, error)


async def _authenticate(parts: exchange.Parts, x: exchange.Exchange, credential: str | None) -> None:
    """A failure counts against the address, and 401 says nothing more."""
    try:
        principal = await parts.authenticator.authenticate(credential, _proof(x))
    except errors.TenantSuspended:
        # A suspended tenant has no rate of its own any more: its callers share the one of the unknown.
        parts.limiter.unauthenticated(x.address)
        raise
    except errors.Unauthenticated as error:
        _refused(parts, x, error)
    x.principal = principal
    if not binding.free(principal):
        _bound(parts, x, principal)
    if x.tenant is None:
        raise errors.NotFound


def _proof(x: exchange.Exchange) -> base.Proof | None:
    """The DPoP header (RFC 9449, 4.1); twice is refused."""
    text = x.incoming.fields.only(b"dpop")
    if text is None:
        return None
    path = x.incoming.path.partition(b"?")[0].decode("latin-1")
    return base.Proof(text, x.incoming.method, x.incoming.fields.only(b"host") or "", path)


def _refused(parts: exchange.Parts, x: exchange.Exchange, error: errors.Unauthenticated) -> NoReturn:
    parts.meters.auth_failures.inc()
    try:
        noted = parts.limiter.unauthenticated(x.address)
    except errors.RateLimited:
        parts.meters.limited["unauthenticated"].inc()
        raise
    # Not all of them: neither an address nor many of them together can fill the trail.
    if noted:
        _note_unknown(parts, x, error)
    raise errors.Unauthenticated(detail=error.detail, headers=(challenge.unauthenticated(parts, x),)) from error


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


def tenant_rate(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Counts against the tenant's, the principal's and the session's rate; all that is not recorded ends here.

    Here the old transport's two addresses turn off: `oldsse` walks the rest of the way with each message.
    """
    principal = _known(x)
    try:
        if x.head.session is None:
            x.head.session = x.incoming.fields.only(b"mcp-session-id") or ""
        standing = parts.limiter.rate(principal, x.head.session)
    except errors.RateLimited:
        parts.meters.limited["rate"].inc()
        raise
    x.lines += standing.lines()
    parts.trail.check(principal.tenant)
    if not x.head.way:
        return None
    return oldsse.serve(parts, x, oldsse.Stages(functools.partial(decide, parts), functools.partial(_inner, parts)))


def decide(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """May the principal do this here? Only then is the server looked up."""
    principal = _known(x)
    if x.tenant is None or x.server is None:
        raise errors.NotFound
    allowed = x.head.allowed
    if allowed is None or allowed[0] is not principal or allowed[1] is not x.action:
        resource = policy.Resource(x.tenant, "server", x.server, x.server)
        _judge(parts, x, principal, resource)
        x.choice = narrow.choose(principal, resource)
        x.head.allowed = principal, x.action, x.choice
    elif allowed[2] is not None:
        x.choice = allowed[2]
    x.target = parts.targets.known(x.tenant, x.server)
    if x.target is None:
        return _find(parts, x, x.tenant, x.server)
    _check_mirrored(x, x.target)
    return None


def _judge(parts: exchange.Parts, x: exchange.Exchange, principal: policy.Principal, resource: policy.Resource) -> None:
    """Raises unless the principal may; a refusal is noted."""
    decision = policy.decide(principal, x.action, resource)
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
                name=resource.name if resource.tenant == principal.tenant else "",
            )
        )
        if decision is policy.Decision.CONCEAL:
            raise errors.NotFound
        if decision is policy.Decision.STEP_UP:
            raise errors.Forbidden(headers=(challenge.step_up(parts, x, principal),))
        # No challenge: no other token of theirs would do, and clients would ask for one again and again.
        raise errors.Forbidden


async def _find(parts: exchange.Parts, x: exchange.Exchange, tenant: ids.TenantId, server: ids.ServerName) -> None:
    x.target = await parts.targets.find(tenant, server)
    _check_mirrored(x, x.target)


def _check_mirrored(x: exchange.Exchange, target: targets.Target) -> None:
    if x.era is eras.Era.MODERN and x.message is not None and x.message.method == "tools/call":
        if x.choice is not None:
            # First: the fields are compared with the tool's schema, and only a tool that exists has one.
            narrow.require(x.choice, target, x.message.params)
        target.check_headers(x.message.params, x.incoming.fields)


def session(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Legacy only: find the session, or end it; `initialize` makes a new one later, in `acquire`.

    What a batch's messages need beyond that is done for each of them.
    """
    if x.era is not eras.Era.LEGACY:
        return None
    waiting = legacy.session(parts, x)
    return waiting if x.members is None else _batch(parts, x, waiting)


async def _batch(parts: exchange.Parts, x: exchange.Exchange, waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        await waiting
    await batch.run(parts, x, _inner)


def lease(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """A place among the requests in flight."""
    if x.message is not None and x.message.kind is jsonrpc.Kind.REQUEST:
        try:
            x.lease = parts.limiter.admit(_known(x))
        except errors.RateLimited:
            parts.meters.limited["concurrency"].inc()
            raise


def acquire(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """A running copy of the hosted server."""
    return legacy.acquire(parts, x) if x.era is eras.Era.LEGACY else modern.acquire(parts, x)


Stage = Callable[[exchange.Parts, exchange.Exchange], Awaitable[None] | None]
"""What needs not wait returns nothing: a coroutine that never waits costs more than most stages."""


def begin(
    parts: exchange.Parts, x: exchange.Exchange, stages: tuple[Stage, ...] | None = None
) -> Coroutine[None, None, None] | None:
    """Walk one request through the stages, as far as nothing has to be waited for but the hosted server's answer.

    `stages` are given for what is no request of its own.
    Returns the rest of the walk, for a task; None when the request is over, or parked until its call is. Never raises
    for what a client or a hosted server did.
    """
    if stages is None:
        parts.meters.active += 1
        stages = _TRACED if parts.traces.on else STAGES
    try:
        for number, stage in enumerate(stages, 1):
            waiting = stage(parts, x)
            if waiting is not None:
                return _walk(parts, x, waiting, stages[number:])
            if x.answered:
                break
        x.parked = not x.answered
    except errors.RateLimited as error:
        return _hold(parts, x, error)
    except errors.SmcpError as error:
        _refuse(parts, x, error)
    except Exception as error:
        parts.log.error("request failed", request_id=x.request_id, method=x.method, exc_info=error)
        _refuse(parts, x, errors.SmcpError())
    if not x.parked:
        _finish(parts, x)
    return None


def _inner(parts: exchange.Parts, x: exchange.Exchange, counted: bool) -> None:
    """Walk one message of a body that has several; its rate was `counted` with the body, or is counted now."""
    stages = _INNER_TRACED if parts.traces.on else _INNER
    rest = begin(parts, x, stages if counted else (tenant_rate, *stages))
    if rest is not None:
        x.task = asyncio.get_running_loop().create_task(rest)


async def _walk(parts: exchange.Parts, x: exchange.Exchange, waiting: Awaitable[None], rest: tuple[Stage, ...]) -> None:
    """Go on behind the stage that has to wait."""
    try:
        await waiting
        for stage in rest:
            if x.answered:
                break
            more = stage(parts, x)
            if more is not None:
                await more
        x.parked = not x.answered
    except errors.SmcpError as error:
        if isinstance(error, errors.RateLimited):
            await _later()
        if x.streaming:
            await _end(x, error)
        _refuse(parts, x, error)
    except exchange.ClientGone:
        x.refused = "client_gone"
        parts.metrics.error("gateway", x.refused)
    except Exception as error:
        parts.log.error("request failed", request_id=x.request_id, method=x.method, exc_info=error)
        _refuse(parts, x, errors.SmcpError())
    finally:
        if not x.parked:
            _finish(parts, x)


async def _hold(parts: exchange.Parts, x: exchange.Exchange, error: errors.RateLimited) -> None:
    """Refuse, later: who asks on at once, on many connections, would take the others' time with refusals alone."""
    try:
        await _later()
        _refuse(parts, x, error)
    finally:
        _finish(parts, x)


async def _later() -> None:
    # Not all of them at one time again.
    await asyncio.sleep(_HELD_S * (0.5 + secrets.randbelow(1000) / 1000))


def stream_back(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Bring back what the call brings: at once when there is something, else when it says so."""
    call = x.call
    if call is None:
        raise errors.ServerFailed
    x.out.when_gone(functools.partial(streams.hung_up, x, call))
    if call.done or call.frames or x.gone:
        return streams.reply(parts, x, call)
    _alarm(parts, x, call)
    call.watch(functools.partial(_woken, parts, x, call))
    return None


def _alarm(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    waits = parts.settings.gateway
    parts.alarms.set(call, x.started + min(waits.heartbeat_s, waits.call_timeout_s))


def _woken(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
    """Something happened to the call of a parked request. Most often it is the answer, which needs no task."""
    parts.alarms.clear(call)
    x.parked = False
    if not streams.at_once(x, call):
        if call.failure is not None and again.begin(parts, x, call) and not call.frames:
            x.parked = True
            call.watch(functools.partial(_woken, parts, x, call))
            _alarm(parts, x, call)
            return
        x.task = asyncio.get_running_loop().create_task(_walk(parts, x, streams.reply(parts, x, call), ()))
        return
    try:
        try:
            x.answer(eras.http_status(x.era, call.code), call.response)
        finally:
            _finish(parts, x)
    except Exception as error:
        # Called by whoever reads the hosted server: its other calls must not suffer for this one.
        parts.log.error("request failed", request_id=x.request_id, method=x.method, exc_info=error)


STAGES: Final[tuple[Stage, ...]] = (
    route.edge,
    route.route,
    authenticate,
    tenant_rate,
    read.read,
    decide,
    session,
    check.check,
    recall.recall,
    lease,
    acquire,
    forward.forward,
    stream_back,
)


def _acquire_traced(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    waiting = acquire(parts, x)
    return None if waiting is None else _timed(x, waiting, time.time_ns())


async def _timed(x: exchange.Exchange, waiting: Awaitable[None], began_ns: int) -> None:
    try:
        await waiting
    finally:
        tracing.waited(x, began_ns)


_TRACED: Final[tuple[Stage, ...]] = (
    *STAGES[: STAGES.index(decide)],
    tracing.begin,
    *STAGES[STAGES.index(decide) : STAGES.index(acquire)],
    _acquire_traced,
    tracing.handed,
    *STAGES[STAGES.index(forward.forward) :],
)
"""The same stages with spans between them; a request's begins when its caller is known and its message read."""

_INNER: Final[tuple[Stage, ...]] = STAGES[STAGES.index(decide) :]
"""What a message of a body that has several still has to walk."""
_INNER_TRACED: Final[tuple[Stage, ...]] = _TRACED[_TRACED.index(tracing.begin) :]


async def _end(x: exchange.Exchange, error: errors.SmcpError) -> None:
    with contextlib.suppress(exchange.ClientGone):
        await streams.end_with(x, _error(x, error))


def _error(x: exchange.Exchange, error: errors.SmcpError) -> bytes:
    # A client's own answer has an id of the hosted server's, which may be one of the client's requests', too.
    id_raw = b"" if x.message is None or x.message.kind is jsonrpc.Kind.RESPONSE else x.message.id
    return jsonrpc.error(id_raw, error.rpc_code, error.public, error.data)


def _refuse(parts: exchange.Parts, x: exchange.Exchange, error: errors.SmcpError) -> None:
    x.refused = error.code
    parts.metrics.error("gateway", error.code)
    if error.http_status >= 500:
        parts.log.warning("request refused", request_id=x.request_id, code=error.code, detail=error.detail)
    if not x.answered:
        # Once the hosted server has the call, its failure is an answer to that call, and clients read the body.
        status = 200 if x.call is not None else error.http_status
        fields = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in error.headers)
        x.answer(status, _error(x, error), fields)


def _finish(parts: exchange.Parts, x: exchange.Exchange) -> None:
    # The lease first: nothing that goes wrong below may keep a place among the requests in flight for ever.
    if x.lease is not None:
        x.lease.release()
    x.over(x)
    forward.give_back(parts, x)
    seconds = time.monotonic() - x.started
    if not x.inner:
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
