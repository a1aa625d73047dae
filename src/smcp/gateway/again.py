"""A call whose copy of the hosted server ends before it has answered: repeated once on another copy, or its caller is
told whether it may have run (docs/decisions/0041-in-flight-loss.md).

| the call | what becomes of it |
|---|---|
| never got there | is sent to another copy, whatever it is |
| only reads, or calls a tool that declares `readOnlyHint` or `idempotentHint` | is repeated |
| was asked something about by the server, or brings the answer to such a question | error |
| has lost its second copy, too | error |
| any other | error |

The same reader goes on as if nothing had happened: its stream, its place among the requests in flight and its time
limit stay. Progress that was told is not told again. All this is decided when a copy is gone: a call that goes well
costs nothing for it.
"""

import asyncio
import math
from typing import Final

from smcp.gateway import bridge, exchange, recheck, reviving, sending
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import calls, driver

_MAY: Final = "The hosted server ended while this call ran. It may have been carried out, in part or as a whole, and "
_NOT: Final = "The hosted server ended before this call reached it. The call was not carried out, and "
_CARRY: Final = frozenset({"inputResponses", "requestState"})
"""Params that go on with what a server began: they may be good for one use only."""


def begin(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> bool:
    """`call` has failed. Is it in flight again? Else its failure says what is known, where its copy was lost.

    Must not raise: it may be called by whoever closes the copy, whose other calls must not suffer.
    """
    past, instance = call.past, x.instance
    if past is None or not past.lost or call.failure is None or instance is None or x.message is None:
        return False
    past.lost = False
    if call.listens:
        return False  # it was told to end, and carries nothing out
    ran = not past.unsent or (x.again is not None and x.again.ran)
    why = _refusal(parts, x, x.message, past)
    if why:
        if x.again is not None:
            x.again.lost = True
        call.failure = _interrupted(call.failure, why, ran=ran)
        return False
    call.restart()
    instance.calls.park(x.number, call)  # who cancels it until it is sent again finds it there
    if x.session is not None:
        x.session.running[instance, x.number] = call.id
    x.again = made = exchange.Repetition((instance, x.number), ran=ran)
    made.task = asyncio.get_running_loop().create_task(_repeat(parts, x, call, made))
    return True


def _refusal(parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message, past: calls.Past) -> str:
    """Why the call is not repeated; empty when it is."""
    if x.again is not None:
        return "was not repeated once more: its second copy has ended, too."
    if parts.replays.doomed():
        return "was not repeated: the platform ends."
    if x.gone and x.era is eras.Era.MODERN:
        return "was not repeated: nobody waits for it."
    if x.session is not None and not x.session.bridged and (x.session.over or not x.session.replays):
        return "was not repeated: its session has ended with the server."
    if x.target is None or not (x.target.modern or x.session is not None):
        return "was not repeated: its session has ended with the server."
    if past.unsent:
        return ""
    if past.asked or not _CARRY.isdisjoint(message.params):
        return "was not repeated: the server had asked something for it."
    if not x.target.repeatable(message.method, message.params):
        if message.method == "tools/call":
            return "was not repeated: the tool declares neither readOnlyHint nor idempotentHint."
        return "was not repeated: it does not only read."
    return ""


async def _repeat(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call, made: exchange.Repetition) -> None:
    try:
        instance = await _another(parts, x)
        if not call.done:  # cancelled, or too late
            _send(x, call, made, instance)
    except errors.SmcpError as error:
        call.fail(_interrupted(error, f"could not be repeated: {error.public}", ran=made.ran))
    except Exception as error:
        # Nobody else would hear of it, and the call would wait for its time limit.
        parts.log.error("call not repeated", request_id=x.request_id, method=x.method, exc_info=error)
        call.fail(_interrupted(errors.SmcpError(), "could not be repeated.", ran=made.ran))


async def _another(parts: exchange.Parts, x: exchange.Exchange) -> driver.Instance:
    """Another copy, for whoever may still use it. Raises what a new request would meet."""
    if x.tenant is None or x.server is None or x.principal is None:
        raise errors.Unauthenticated
    await recheck.check(parts, x, -math.inf)
    live = await parts.targets.find(x.tenant, x.server)
    if x.session is not None and not x.session.bridged:
        if x.session.instance is not None and x.session.instance.alive:
            return x.session.instance
        await reviving.revive(parts, x, x.session)
        if x.instance is None:
            raise errors.ServerFailed
        return x.instance
    if live is not x.target:
        # What the other one's tools promise is not what was promised when the call was made.
        raise errors.Unavailable("Another version of the server is live meanwhile.")
    own = x.own_instance
    instance = await bridge.copy(parts, x)
    if own is not None:
        parts.pool.release_soon(own, "it has ended")
    return instance


def _send(x: exchange.Exchange, call: calls.Call, made: exchange.Repetition, instance: driver.Instance) -> None:
    request = x.forwarded or x.message
    if request is None:
        raise errors.ServerFailed
    number = instance.calls.again(call, request)
    made.before[0].calls.forget(made.before[1])
    if x.session is not None:
        x.session.running.pop(made.before, None)
        if x.session.bridged:
            x.session.running[instance, number] = call.id
    x.instance, x.number = instance, number


async def elsewhere(
    parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message, failure: errors.ServerFailed
) -> None:
    """Hand over a request that its copy did not take since it is gone; `failure` is what it said."""
    if x.session is not None and not x.session.bridged and not x.session.replays:
        raise _interrupted(failure, "was not repeated: its session has ended with the server.", ran=False)
    try:
        x.instance = await _another(parts, x)
        sending.send(parts, x, message, x.instance)
    except errors.ServerFailed as error:
        raise _interrupted(error, f"could not be repeated: {error.public}", ran=False) from error


def failed(call: calls.Call) -> errors.SmcpError | None:
    """What the caller of a call is told that has failed and is never repeated; None: it has not."""
    if call.failure is None or call.past is None or not call.past.lost:
        return call.failure
    return _interrupted(
        call.failure, "was not repeated: its session has ended with the server.", ran=not call.past.unsent
    )


def _interrupted(failure: errors.SmcpError, why: str, *, ran: bool) -> errors.CallInterrupted:
    text = (_MAY if ran else _NOT) + why
    return errors.CallInterrupted(text, detail=failure.detail or failure.public, data={"mayHaveRun": ran})


def over(parts: exchange.Parts, x: exchange.Exchange, call: calls.Call, made: exchange.Repetition) -> None:
    """The exchange is over."""
    if made.task is not None:
        made.task.cancel()
    if x.session is not None:
        x.session.running.pop(made.before, None)
    answered = call.done and call.failure is None
    parts.meters.repeated["answered" if answered else "lost" if made.lost else "failed"].inc()
