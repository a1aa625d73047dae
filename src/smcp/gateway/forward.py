"""Forwarding: a request to its copy of the server, a notification or an answer on its way, a GET to its stream."""

from collections.abc import Awaitable

from smcp.gateway import again, exchange, living, resume, sending
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import calls


def forward(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Hand the message over. Only a request leaves something to wait for."""
    message, instance = x.message, x.instance
    if message is None:
        return resume.listen(parts, x)
    if instance is None:
        raise errors.ServerFailed
    if message.kind is jsonrpc.Kind.REQUEST:
        try:
            sending.send(parts, x, message, instance)
        except errors.ServerFailed as error:
            if instance.alive:
                raise
            return again.elsewhere(parts, x, message, error)
    elif message.kind is jsonrpc.Kind.NOTIFICATION:
        instance.calls.notify(message)
        if x.session is not None and message.method == "notifications/initialized":
            x.session.greet()
        x.answer(202)
    else:
        # An answer that nobody asked for is dropped; telling so would tell which ids are in use.
        instance.calls.answer(message)
        x.answer(202)
    return None


def give_back(parts: exchange.Parts, x: exchange.Exchange) -> None:
    """The exchange is over: cancel what nobody waits for any more."""
    if x.own_instance is not None:
        parts.pool.release_soon(x.own_instance, "its request is over")
    if x.number == 0 or x.call is None or x.instance is None:
        return
    if x.again is not None:
        again.over(parts, x, x.call, x.again)
    if x.session is not None:
        x.session.busy -= 1
        x.session.running.pop((x.instance, x.number), None)
        if x.call.method in living.NOTED and x.message is not None and _granted(x.call):
            x.session.noted(x.message)
    if x.refused == "server_timeout" and x.instance.calls.heard < x.started:
        # Silent since before this call: a shared copy that hangs would fail every later call too.
        parts.pool.suspect(x.instance)
    if x.call.inputs is not None:
        x.call.inputs.over()
        # The two know each other: apart, they go at once, and not when the collector next looks.
        x.call.inputs = None
    if x.ticket is not None and x.target is not None and _granted(x.call) and x.call.spooled is None:
        x.ticket.keep(x.target.book.edition, jsonrpc.frame(x.call.response).result)
    if x.call.done:
        x.instance.calls.forget(x.number)
    elif x.era is eras.Era.LEGACY and x.refused == "client_gone":
        # Hanging up does not cancel there; the answer will be dropped when it comes.
        x.instance.calls.abandon(x.number)
    else:
        x.instance.calls.cancel(x.number, "the client has gone" if x.refused == "client_gone" else "timed out")
    x.call.release()


def _granted(call: calls.Call) -> bool:
    return call.done and call.failure is None and call.code is None
