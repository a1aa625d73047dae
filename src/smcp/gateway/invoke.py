"""One request without a client's wire: how the admin API lists and calls tools.

It takes the same way as a client's request behind the lease, which the API holds: the same copies, the same audit
event.
"""

import time
from typing import Any

import msgspec

from smcp.access import policy
from smcp.audit import events
from smcp.gateway import check, exchange, narrow, targets
from smcp.kernel import errors, ids, jsonrpc, observe
from smcp.runtime import peer


async def invoke(
    parts: exchange.Parts,
    principal: policy.Principal,
    tenant: ids.TenantId,
    server: ids.ServerName,
    method: str,
    params: jsonrpc.Json,
) -> jsonrpc.Json:
    """The result of `method` on the live deployment. The caller has decided that the principal may.

    `tools/list` gives the tools of all pages: a cursor means nothing to another copy of a server.

    Raises `errors.InvalidParams` for arguments that do not fit,
    `errors.NotFound`, `errors.ServerStopped`, `errors.RateLimited`, or what `peer.Peer.request` raises.
    """
    target = await parts.targets.find(tenant, server)
    began = time.monotonic()
    code, sent = "cancelled", 0
    try:
        result = await _ask(parts, principal, target, method, params)
        code, sent = "", len(msgspec.json.encode(result))
    except errors.SmcpError as error:
        code = error.code
        raise
    finally:
        seconds = time.monotonic() - began
        named = params.get("name")
        parts.metrics.operation(method, "", seconds, failed=bool(code))
        received = len(msgspec.json.encode(params))
        parts.meter.call(tenant, server, principal.id, failed=bool(code), received=received, sent=sent)
        parts.trail.note(
            events.McpCall(
                tenant=tenant,
                actor=principal.id,
                outcome="failed" if code else "ok",
                server=server,
                method=method if method in observe.METHODS else observe.OTHER,
                target=parts.trail.target(tenant, named) if isinstance(named, str) and named else events.NO_TARGET,
                code=code,
                duration_ms=round(seconds * 1000, 3),
            )
        )
    return result


async def _ask(
    parts: exchange.Parts, principal: policy.Principal, target: targets.Target, method: str, params: dict[str, Any]
) -> jsonrpc.Json:
    spec = target.spec
    choice = narrow.choose(principal, policy.Resource(spec.tenant, "server", spec.server, spec.server))
    if choice is not None:
        narrow.permit(choice, target, method, params)
    if method == "tools/call":
        check.call(parts, target, params)
    timeout_s = parts.settings.gateway.call_timeout_s
    if target.modern and target.share != "session":
        instance = await parts.pool.shared(target.spec, target.share_key(principal))
        instance.principal = target.share_key(principal)
        told = await _ask_one(peer.Peer(instance, modern=True, timeout_s=timeout_s), method, params)
        return narrow.offered(choice, target, method, told)
    instance = await parts.pool.private(target.spec, modern=target.modern)
    instance.principal = principal.id
    try:
        client = peer.Peer(instance, modern=target.modern, timeout_s=timeout_s)
        if not target.modern:
            await client.introduce()
        return narrow.offered(choice, target, method, await _ask_one(client, method, params))
    finally:
        await parts.pool.release(instance, "the call is over")


async def _ask_one(client: peer.Peer, method: str, params: jsonrpc.Json) -> jsonrpc.Json:
    if method == "tools/list":
        return {"tools": await client.tools()}
    return await client.request(method, params)
