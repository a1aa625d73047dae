"""A modern client's request at a legacy server: its walk behind the lease.

| the client sends | what happens |
|---|---|
| server/discover | answered from what `initialize` said |
| subscriptions/listen | `parkedlisten` |
| tasks/… | 404, -32601: tasks of 2025-11-25 are another thing, and are not translated |
| a request with a `requestState` | the call that it names goes on, with the answers that came |
| everything else | forwarded on the private session, in legacy words |

The call's end comes back in modern words. If the server asks something before, the call waits, and its questions are
the answer: those that come within a moment together (`_QUIET_S`), since a server that asks for three things at once
writes them one by one.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

from smcp.access import policy
from smcp.audit import events
from smcp.gateway import (
    again,
    exchange,
    large,
    living,
    narrow,
    parked,
    parkedlisten,
    parkedruns,
    read,
    recheck,
    reviving,
    streams,
    targets,
)
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, sse, upward
from smcp.runtime import calls, driver, spool

_QUIET_S: Final = 0.02
"""So long a server must have said nothing after its last question, until its client is asked."""
_GATHER_S: Final = 0.25
"""So long its client waits for the first question at most."""
_URL: Final[jsonrpc.Json] = {"elicitation": {"url": {}}}
_DECLINED: Final = "The request needs its user to open an address first, and the user did not."


async def serve(
    parts: exchange.Parts,
    x: exchange.Exchange,
    target: targets.Target,
    principal: policy.Principal,
    message: jsonrpc.Message,
) -> None:
    """Answer one request. Raises what ends it instead."""
    if message.method.startswith("tasks/"):
        raise errors.MethodNotFound("The tasks of MCP 2025-11-25, which this server may have, are not translated.")
    state = message.params.get("requestState")
    if state is not None and message.method in upward.ASKABLE:
        run = parts.parked.find(state, principal, target.spec.server, upward.digest(message))
        given = _given(run, message)
        parts.parked.forget(run)
        # From here on it is this request's: whatever happens below, the state is spent.
        await _carry(parts, x, run, message, given)
        return
    private = await _private(parts, x, target, principal, message)
    private.session.used = parts.sessions.now()
    if message.method == "server/discover":
        await _say(x, None, jsonrpc.result(message.id, private.described))
    elif message.method == "subscriptions/listen":
        await parkedlisten.serve(parts, x, private, message)
    else:
        run = parkedruns.Run(private, message)
        run.ready_answers = dict(upward.responses(message)) if "inputResponses" in message.params else {}
        private.enter(run)
        await _carry(parts, x, run, message, None)


# --- the private session ----------------------------------------------------------------------------------


async def _private(
    parts: exchange.Parts,
    x: exchange.Exchange,
    target: targets.Target,
    principal: policy.Principal,
    message: jsonrpc.Message,
) -> parkedruns.Private:
    declared = upward.capabilities(message.params)
    key = _key(target, principal, declared)
    found = parts.parked.known(key)
    if found is not None:
        return found
    hello = upward.hello(declared, upward.client(message.params))
    return await parts.parked.opened(
        key,
        lambda: asyncio.create_task(
            _open(parts, x.request_id, target, principal, declared, hello), name="private-session"
        ),
    )


def _key(target: targets.Target, principal: policy.Principal, declared: jsonrpc.Json) -> parked.Key:
    told = upward.canonical(declared)
    if len(told) > living.HELLO_BYTES:
        raise errors.InvalidParams(f"The client's capabilities have more than {living.HELLO_BYTES} bytes.")
    return principal.tenant, principal.id, target.spec.server, target.spec.deployment, told


def session(
    parts: exchange.Parts, target: targets.Target, principal: policy.Principal, message: jsonrpc.Message
) -> living.Session | None:
    """The private session that a request would go to, if it is open. Raises `errors.InvalidParams`."""
    found = parts.parked.known(_key(target, principal, upward.capabilities(message.params)))
    return None if found is None else found.session


async def _open(
    parts: exchange.Parts,
    request_id: str,
    target: targets.Target,
    principal: policy.Principal,
    declared: jsonrpc.Json,
    hello: bytes,
) -> parkedruns.Private:
    await parts.sessions.load((principal.tenant, principal.id))
    parts.sessions.make_room(principal)
    instance = await parts.pool.private(target.spec)
    opened: living.Session | None = None
    try:
        call, before = await reviving.answered(parts, instance, *instance.calls.ask("initialize", hello))
        answer = jsonrpc.obj((jsonrpc.obj(jsonrpc.decode(call.response)) or {}).get("result"))
        if call.code is not None or answer is None or not instance.alive:
            raise errors.ServerFailed("The hosted MCP server refused the handshake. 'smcp server logs' may show why.")
        told = answer.get("protocolVersion")
        opened = _session(parts, request_id, target, principal, instance, str(told) if told in eras.LEGACY else "")
        opened.promised(answer.get("capabilities"))
        private = parkedruns.Private(parts.parked, opened, instance, declared, answer)
        parts.parked.enter(private)
        instance.calls.tell("notifications/initialized")
        for frame in before:
            private.heard(None, frame)
    except BaseException:
        if opened is None:
            parts.pool.release_soon(instance, "the handshake failed")
        else:
            parts.sessions.end(opened, "refused")
        raise
    return private


def _session(
    parts: exchange.Parts,
    request_id: str,
    target: targets.Target,
    principal: policy.Principal,
    instance: driver.Instance,
    version: str,
) -> living.Session:
    spec = target.spec
    # First: a session that can't be recorded is not opened.
    parts.trail.note(
        events.SessionOpened(
            tenant=principal.tenant, actor=principal.id, request_id=request_id, server=spec.server, version=version
        )
    )
    # Again: others of the same principal may have come to the cap while this copy was starting.
    parts.sessions.make_room(principal)
    opened = parts.sessions.open(principal, spec.server, spec.deployment, instance, version)
    opened.target = target
    instance.owner = opened
    instance.principal = principal.id
    return opened


# --- one call ---------------------------------------------------------------------------------------------


def _given(run: parkedruns.Run, message: jsonrpc.Message) -> dict[str, bytes]:
    """The answers to what was asked, by key. What was not asked is ignored, as the specification wants it.

    Raises `errors.InvalidParams` for one that the server could not read: the state stays good.
    """
    given: dict[str, bytes] = {}
    for key, raw in upward.responses(message).items():
        question = run.questions.get(key)
        if question is None:
            continue
        wrong = run.private.wrong(question, raw)
        if wrong:
            raise errors.InvalidParams(
                f"inputResponses.{key} is no answer to {question.method}: {wrong}. Send the request again, with the"
                " same requestState."
            )
        given[key] = bytes(raw)
    return given


async def _carry(
    parts: exchange.Parts,
    x: exchange.Exchange,
    run: parkedruns.Run,
    message: jsonrpc.Message,
    given: dict[str, bytes] | None,
) -> None:
    """Carry a call on until it is answered, or asks something. `given`: None for a new one."""
    why = "the client has gone"
    try:
        run.attach(message)
        await _level(parts, run)
        if given is not None:
            run.answer(given)
        if run.declined:
            await _fail(parts, x, message, run, errors.BadRequest(_DECLINED))
        else:
            await _follow(parts, x, run, message, run.ready(message))
        why = "it is answered"
    except errors.ServerTimeout:
        why = "timed out"
        raise
    finally:
        if run.attached:
            run.end(why)


async def _level(parts: exchange.Parts, run: parkedruns.Run) -> None:
    """Have the server log from the severity on that the requests of now ask for."""
    private = run.private
    if not run.level or "logging" not in private.offers:
        return
    async with private.changing:
        wanted = private.level_wanted()
        if wanted == private.level:
            return
        handed = private.instance.calls
        asked = handed.ask("logging/setLevel", jsonrpc.encode({"level": wanted}))
        # Refused or not: the server has heard it.
        _, before = await reviving.answered(parts, private.instance, *asked)
        private.level = wanted
        for frame in before:
            private.heard(None, frame)


async def _follow(
    parts: exchange.Parts, x: exchange.Exchange, run: parkedruns.Run, message: jsonrpc.Message, call: calls.Call
) -> None:
    x.call = call
    narrow.prepare(x)
    x.out.when_gone(functools.partial(streams.hung_up, x, call))
    takes_stream = read.accepts(x, "text/event-stream")
    waits = parts.settings.gateway
    deadline = time.monotonic() + waits.call_timeout_s
    checked = told = time.monotonic()
    try:
        while True:
            while call.frames:
                out = run.private.heard(run, call.take())
                if out is not None and takes_stream:
                    await _stream(x, sse.event(out))
                    told = time.monotonic()
            checked = await recheck.check(parts, x, checked)
            first = bool(run.questions) and (run.inherited or run.again)  # or nobody would ever ask them
            if call.done and not first:
                await _finished(parts, x, run, message, call)
                return
            if x.gone:
                raise exchange.ClientGone
            now = time.monotonic()
            due = min(run.heard + _QUIET_S, run.first + _GATHER_S) if run.questions else deadline
            if run.questions and (call.done or now >= due or len(run.questions) >= parkedruns.OPEN):
                await _ask(parts, x, run, message)
                return
            if now >= deadline:
                raise errors.ServerTimeout
            if takes_stream and now - told >= waits.heartbeat_s - recheck.EARLY:
                told = now
                await _stream(x, sse.HEARTBEAT)
                continue
            await _wait(parts, call, due if run.questions else min(told + waits.heartbeat_s, deadline), now, run)
    finally:
        parts.alarms.clear(call)


async def _wait(parts: exchange.Parts, call: calls.Call, at: float, now: float, run: parkedruns.Run) -> None:
    if not run.questions:
        parts.alarms.set(call, at)
        await call.wait()
        return
    # Alarms are too coarse for moments.
    timer = asyncio.get_running_loop().call_later(at - now, call.wake)
    try:
        await call.wait()
    finally:
        timer.cancel()


async def _stream(x: exchange.Exchange, data: bytes) -> None:
    if not x.streaming:
        x.open_stream()
    await x.stream(data)


async def _ask(parts: exchange.Parts, x: exchange.Exchange, run: parkedruns.Run, message: jsonrpc.Message) -> None:
    """Its questions are the answer, and the call waits."""
    if x.gone:
        raise exchange.ClientGone
    state = parts.parked.park(run, message)
    questions = {key: (one.method, one.params) for key, one in run.questions.items()}
    await _say(x, None, jsonrpc.result(message.id, upward.required(questions, state, run.private.info)))


async def _finished(
    parts: exchange.Parts, x: exchange.Exchange, run: parkedruns.Run, message: jsonrpc.Message, call: calls.Call
) -> None:
    failure = again.failed(call)
    if failure is not None:
        raise failure
    if call.spooled is not None:
        checked = time.monotonic()

        async def check() -> None:
            nonlocal checked
            checked = await recheck.check(parts, x, checked)

        plain = not x.streaming and read.accepts(x, "application/json")
        await large.send(x, message.id, Completed(call.spooled, run.method), check, plain=plain)
        return
    frame = jsonrpc.frame(call.response)
    if call.code is None:
        if run.lacking and upward.failed(frame.result):
            await _lacking(parts, x, message, run, run.lacking)
        else:
            done = upward.complete(run.method, frame.result, run.private.info)
            if x.ticket is not None and x.target is not None:
                x.ticket.keep(x.target.book.edition, done)
            await _say(x, None, jsonrpc.result(message.id, done))
        return
    if call.code == upward.URL_REQUIRED and run.takes and await _address(parts, x, run, message, frame.error):
        return
    if run.lacking:
        await _lacking(parts, x, message, run, run.lacking)
        return
    code, error = upward.failure(run.method, run.told, frame.error)
    await _say(x, code, jsonrpc.failure(message.id, error))


async def _address(
    parts: exchange.Parts, x: exchange.Exchange, run: parkedruns.Run, message: jsonrpc.Message, error: Any
) -> bool:
    """The server wants its user at an address first, and the request once more then."""
    wanted = upward.addresses(error)
    if not wanted:
        return False
    if upward.lacks(run.private.declared, _URL):
        await _lacking(parts, x, message, run, _URL)
        return True
    run.again = True
    for params in wanted:
        run.ask("", parkedruns.Question(b"", "elicitation/create", params))
    await _ask(parts, x, run, message)
    return True


async def _lacking(
    parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message, run: parkedruns.Run, lacking: jsonrpc.Json
) -> None:
    await _fail(parts, x, message, run, errors.CapabilityMissing(data={"requiredCapabilities": lacking}))


async def _fail(
    parts: exchange.Parts, x: exchange.Exchange, message: jsonrpc.Message, run: parkedruns.Run, error: errors.SmcpError
) -> None:
    x.call = run.call
    x.refused = error.code
    parts.metrics.error("gateway", error.code)
    await _say(x, error.rpc_code, jsonrpc.error(message.id, error.rpc_code, error.public, error.data))


async def _say(x: exchange.Exchange, code: int | None, body: bytes) -> None:
    if not x.streaming and read.accepts(x, "application/json"):
        await x.answer_large(eras.http_status(x.era, code), body)
        return
    if not x.streaming:
        x.open_stream()
    await streams.end_with(x, body)


class Completed:
    """A legacy result on disk, with the members of a modern one in front of its own."""

    def __init__(self, result: spool.Result, method: str) -> None:
        self._result = result
        self._head = upward.head(method)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Its bytes, in pieces. Raises as `spool.Result.pieces` does."""
        head = b"{" + self._head
        async with contextlib.aclosing(self._result.pieces()) as pieces:
            async for piece in pieces:
                if head:
                    # An object with many members: it is too large for an empty one.
                    piece, head = head + piece.lstrip()[1:], b""
                yield piece
