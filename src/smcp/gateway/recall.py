"""Answering from what is kept (`lists`), before a place among the requests in flight or a copy of the server is needed.

Behind the decision: who may not ask is refused before. The call is counted, metered and audited as any other.
"""

from collections.abc import Awaitable
from typing import Final

from smcp.access import policy
from smcp.gateway import exchange, lists, living, parkedwalk, read, streams, targets
from smcp.kernel import jsonrpc
from smcp.protocol import eras

_KEPT: Final = frozenset(
    {
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
    }
)
"""Methods whose results say how long they are good ("Caching")."""
_LARGE: Final = 65_536


def recall(parts: exchange.Parts, x: exchange.Exchange) -> Awaitable[None] | None:
    """Answer a list or a read that is kept; else see to it that its answer will be."""
    message = x.message
    if message is None or message.method not in _KEPT or message.kind is not jsonrpc.Kind.REQUEST:
        return None
    target, principal = x.target, x.principal
    if target is None or principal is None or "requestState" in message.params or "inputResponses" in message.params:
        return None
    if target.modern and (x.era is eras.Era.MODERN or (x.session is not None and x.session.bridged)):
        return _modern(parts, x, message, target, principal)
    session = x.session if x.era is eras.Era.LEGACY else parkedwalk.session(parts, target, principal, message)
    if session is not None and message.method in session.steady and _able(session):
        return _legacy(parts, x, message, target, session)
    return None


def _able(session: living.Session) -> bool:
    # Without a copy, nobody tells of a change.
    return session.instance is not None and session.instance.alive


def _modern(
    parts: exchange.Parts,
    x: exchange.Exchange,
    message: jsonrpc.Message,
    target: targets.Target,
    principal: policy.Principal,
) -> Awaitable[None] | None:
    if x.session is None:
        key = _key(x, target, x.version, message, None)
    else:
        key = _key(x, target, eras.MODERN[-1], message, jsonrpc.decode(x.session.stamp))
    private = target.share != "tenant"
    found = parts.lists.find(key, principal.id, private=private)
    if found is None:
        x.ticket = lists.Ticket(parts.lists, key, principal.id, private=private, legacy=False)
        return None
    return _answer(x, message, found)


def _legacy(
    parts: exchange.Parts,
    x: exchange.Exchange,
    message: jsonrpc.Message,
    target: targets.Target,
    session: living.Session,
) -> Awaitable[None] | None:
    # The copy's age stands for the copy: another one may have other lists.
    whose = f"session {session.name} {session.since}"
    key = _key(x, target, x.version, message, None)
    found = parts.lists.find(key, whose, private=True)
    if found is None:
        x.ticket = lists.Ticket(parts.lists, key, whose, private=True, legacy=True)
        return None
    return _answer(x, message, found)


def _key(
    x: exchange.Exchange, target: targets.Target, version: str, message: jsonrpc.Message, stamp: object
) -> lists.Key:
    spec = target.spec
    asked = lists.digest(message.params, stamp)
    edition = target.book.edition
    # What was cut for some is nobody else's list, and theirs only as long as their roles say the same.
    seen = policy.VERSION if x.choice is None else f"{policy.VERSION} {x.choice.digest}"
    return lists.Key(spec.tenant, spec.server, spec.deployment, seen, edition, version, message.method, asked, "")


def _answer(x: exchange.Exchange, message: jsonrpc.Message, result: bytes) -> Awaitable[None] | None:
    body = jsonrpc.result(message.id, result)
    if not read.plain(x):
        x.open_stream()
        return streams.end_with(x, body)
    if len(body) > _LARGE:
        return x.answer_large(200, body)
    x.answer(200, body)
    return None
