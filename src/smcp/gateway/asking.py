"""What a modern server wants to know of a legacy client, asked on the stream of the call that it is about.

A modern server answers `input_required` with requests, and wants the call again with the answers (MCP 2026-07-28,
"Multi round-trip requests"). Each of them becomes a request to the client, all of one answer at the same time: an event
of that call, so that it takes the way of everything else that comes before the response (`streams`, `resume`). When the
last one is answered the call goes on, with the answers and the server's state as the bytes that they were.

| the client | the call |
|---|---|
| answers, `decline` and `cancel` included | goes on |
| answers with an error | ends with that error: the modern wire has no other form for it, and SDKs do the same |
| answers what is not valid | ends with -32602, as the answer's own POST does |
| cancels the call, ends its session, or is too slow (`gateway.call_timeout_s`) | ends; open questions are cancelled |

An answer counts only from the session that was asked, and only once. Questions are in memory: after a restart the call
is asked again or ends, as its tool allows (`resume`), and what was asked before is asked no more.
"""

import asyncio
from typing import Final

import msgspec

from smcp.gateway import bridge, exchange
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import eras, translate
from smcp.protocol.validate import messages
from smcp.runtime import calls, driver

_ROUNDS: Final = 16
"""Answers to one call that may ask something; SDKs stop at 10."""
_AT_ONCE: Final = 16
_OPEN: Final = 64
"""Questions that may wait for one session's client."""
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
"""Between two questions whether a server is ready, which has answered with a state only."""
_TEXT: Final = 1000


class Asking:
    """The questions of one call: `calls.Call.inputs`."""

    __slots__ = (
        "_answers",
        "_call",
        "_open",
        "_over",
        "_parts",
        "_pause",
        "_rounds",
        "_state",
        "_task",
        "_timer",
        "_x",
    )

    def __init__(self, parts: exchange.Parts, x: exchange.Exchange, call: calls.Call) -> None:
        self._parts = parts
        self._x = x
        self._call = call
        self._open: dict[str, tuple[str, str]] | None = None
        """By our id: the server's key and the method."""
        self._answers: dict[str, bytes] | None = None
        self._state = b""
        self._rounds = 0
        self._pause = 0.0
        self._over = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- from the hosted server ---

    def wanted(self, number: int, result: msgspec.Raw) -> bool:
        """As `calls.Inputs.wanted`."""
        found = translate.wanted(result)
        if found is None or self._x.instance is None or self._over or self._call.done:
            return False
        self._x.instance.calls.park(number, self._call)
        self._call.history().asked = True
        self._state, self._answers = found.state, {}
        if found.requests:
            self._pause = 0.0
            try:
                self._ask(found.requests)
            except errors.SmcpError as error:
                self._fail(error)
        else:
            self._pause = min(_LONGEST_PAUSE_S, 2 * self._pause or _PAUSE_S)
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._again)
        return True

    def failure(self, error: bytes) -> bytes:
        """As `calls.Inputs.failure`."""
        return translate.failure(self._call.method, error)

    def _ask(self, requests: dict[str, bytes]) -> None:
        session = self._x.session
        if session is None:
            raise errors.SessionNotFound
        self._rounds += 1
        if self._rounds > _ROUNDS:
            raise errors.ServerInvalid(f"The hosted server wants more after {_ROUNDS} rounds of questions.")
        if len(requests) > _AT_ONCE:
            raise errors.ServerInvalid(f"The hosted server asks more than {_AT_ONCE} questions at once.")
        if len(session.questions) + len(requests) > _OPEN:
            raise errors.Unavailable("Too many questions of this session wait for an answer. Answer them first.")
        able = jsonrpc.obj(jsonrpc.decode(session.stamp).get(eras.META_CAPABILITIES)) or {}
        made = {ids.token(128): (key, request) for key, request in requests.items()}
        opened: dict[str, tuple[str, str]] = {}
        lines: list[bytes] = []
        for told, (key, request) in made.items():
            method, line = _written(session.version, request, able, told)
            opened[told] = key, method
            lines.append(line)
        self._open = opened
        session.questions.update(dict.fromkeys(made, self))
        for line in lines:
            # It fails the call where nobody reads: then nothing is open any more.
            self._call.push(line)

    # --- from the client ---

    def answer(self, told: str, message: jsonrpc.Message) -> None:
        """The client's answer to the question with our id `told`. Raises `errors.InvalidParams` for a wrong one."""
        session, asked = self._x.session, (self._open or {}).pop(told, None)
        if session is None or asked is None or self._answers is None:
            return
        session.questions.pop(told, None)
        key, method = asked
        frame = jsonrpc.frame(message.body)
        if not frame.result:
            self._refused(method, bytes(frame.error))
            return
        wrong = messages.client_result(session.version, method, bytes(frame.result))
        if wrong:
            error = errors.InvalidParams(f"The client's answer to {method} is not valid: {wrong}")
            self._fail(error)
            raise error
        self._answers[key] = bytes(frame.result)
        if not self._open:
            self._again()

    def _refused(self, method: str, raw: bytes) -> None:
        told = jsonrpc.obj(jsonrpc.decode(raw)) or {}
        code = told.get("code")
        code = code if type(code) is int else errors.ServerFailed.rpc_code
        text = f"The client answered {method} with an error: {str(told.get('message', ''))[:_TEXT]}"
        self.over()
        self._call.finish(jsonrpc.error(self._call.id, code, text, told.get("data")), code)

    # --- and on ---

    def _again(self) -> None:
        """The hosted server gets the call again."""
        self._timer = None
        if self._over or self._call.done:
            return
        instance = self._x.instance
        if instance is not None and instance.alive:
            self._send(instance)
        else:
            self._task = asyncio.get_running_loop().create_task(self._move())

    async def _move(self) -> None:
        """The copy that asked is gone; any other takes the answers, if what it needs is in its state."""
        try:
            if self._x.own_instance is not None:
                raise errors.ServerFailed("The hosted server ended while its question was asked.")
            self._send(await bridge.copy(self._parts, self._x))
        except errors.SmcpError as error:
            self._fail(error)

    def _send(self, instance: driver.Instance) -> None:
        x, call = self._x, self._call
        request = x.forwarded or x.message
        if call.done or x.session is None or request is None:
            return
        answers, self._answers = self._answers or {}, None
        try:
            number = instance.calls.again(call, translate.again(request, answers, self._state))
        except errors.SmcpError as error:
            self._fail(error)
            return
        if x.instance is not None:
            x.instance.calls.forget(x.number)
            x.session.running.pop((x.instance, x.number), None)
        x.instance, x.number = instance, number
        x.session.running[instance, number] = call.id

    def _fail(self, error: errors.SmcpError) -> None:
        self.over()
        self._call.fail(error)

    def over(self) -> None:
        """As `calls.Inputs.over`; the client hears that open questions need no answer any more."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        left, self._open = self._open or {}, None
        for told in left:
            if self._x.session is not None:
                self._x.session.questions.pop(told, None)
            params = jsonrpc.encode({"requestId": told, "reason": "the call is over"})
            self._call.push(jsonrpc.notification("notifications/cancelled", params))


def _written(version: str, request: bytes, able: jsonrpc.Json, told: str) -> tuple[str, bytes]:
    """Method and line of a question, if it is one that this client may be asked. Raises `errors.ServerInvalid`."""
    try:
        method, line = translate.question(request, able, told)
    except errors.InvalidParams as error:
        raise errors.ServerInvalid(f"The hosted server's question can't be asked: {error.public}.") from error
    wrong = messages.server_request(version, method, line)
    if wrong:
        raise errors.ServerInvalid(f"The hosted server's {method} is not valid for MCP {version}: {wrong}")
    return method, line
