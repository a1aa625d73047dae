"""Handing a request to its copy of the server."""

from smcp.gateway import asking, exchange, narrow
from smcp.kernel import jsonrpc
from smcp.runtime import driver


def send(parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message, instance: driver.Instance) -> None:
    """From now on the exchange has a call in flight; `forward.give_back` ends it."""
    x.number, x.call = instance.calls.send(x.forwarded or message)
    narrow.prepare(x)
    if x.session is not None:
        x.session.busy += 1
        if x.session.bridged:
            x.session.running[instance, x.number] = message.id
            x.call.inputs = asking.Asking(parts, x, x.call)
            x.call.party = x.session
