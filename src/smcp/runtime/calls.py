"""Calls over one pipe: ids, progress tokens and subscription ids mapped there and back, everything else untouched.

Many calls share one hosted server (modern era), so each gets a number of ours as id. Bodies are spliced, not
decoded: only a progress token (in params) and the few notifications that name an id are opened.

| from the hosted server | goes to |
|---|---|
| a response | the call with that number |
| notifications/progress | the call whose token it names |
| a notification that names a subscription id | the listening call |
| notifications/message (modern) | the only call in flight that asked for a log level, else nobody |
| a request, or any other notification (legacy) | the newest call in flight, else the session's own stream |
"""

import asyncio
import collections
import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import budgets, checks, spool
from smcp.runtime.call import Call, Past

__all__ = ("CANCELLED", "Call", "Calls", "Past")

_HELD_BYTES: Final = 16 * 1024 * 1024
_KEPT: Final = 256
"""Calls without a reader that are remembered, and requests of a hosted server that may wait for an answer."""
_DIGITS: Final = 18
CANCELLED: Final = "The client cancelled this request."
_LENIENT: Final = 20
"""Answers a second that are no JSON and whose caller is looked for."""

_Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(_Members)

_STREAM_FIRST: Final = frozenset(
    {
        "notifications/resources/updated",
        "notifications/resources/list_changed",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
    }
)
"""Legacy notices about the server as a whole: they belong on the session's stream, not on some call's."""


class Calls:
    """The calls in flight on one hosted server."""

    def __init__(
        self,
        *,
        modern: bool,
        write: Callable[[bytes], None],
        stray: Callable[[bytes, str], None],
        limit: int,
        limit_bytes: int = _HELD_BYTES,
        budget: budgets.Budget | None = None,
        checked: checks.Checks | None = None,
    ) -> None:
        """`write` sends one message; `stray` gets what belongs to no call (message, method).

        `limit` frames of together `limit_bytes` bytes may wait for the reader of one call, and what `budget` leaves for
        all calls of the tenant. `checked` says what is valid; without it everything is.
        """
        self._modern = modern
        self._write = write
        self._stray = stray
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._budget = budget or budgets.Budget(sys.maxsize)
        self._checks = checked
        self.heard = time.monotonic()
        """When the hosted server last said anything that could be read."""
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._pending: dict[int, Call] = {}
        self._background = 0
        """How many of them are no reason to keep the hosted server running."""
        self._parked: dict[int, Call] = {}
        """Those that the hosted server has answered with a question, by the number that it answered."""
        self._tokens: dict[bytes, int] = {}
        self._asked: dict[str | int, str] = {}
        """What the hosted server asked and nobody has answered: its ids and methods."""
        self._abandoned: collections.deque[int] = collections.deque()
        self._closed: errors.SmcpError | None = None
        self._second = 0
        self._lenient = 0
        """Answers in this second that were no JSON."""

    def __len__(self) -> int:
        return len(self._pending) - self._background

    @property
    def sent(self) -> int:
        """Requests that were ever forwarded."""
        return self._next

    def send(self, message: jsonrpc.Message) -> tuple[int, Call]:
        """Forward a client's request; returns its number (for `cancel`) and the call."""
        if self._closed is not None:
            raise self._closed
        number = self._next = self._next + 1
        call = Call(self._loop, message.id, message.method, self._limit, self._limit_bytes, self._budget)
        params = message.params_raw
        meta = jsonrpc.obj(message.params.get("_meta"))
        if meta is not None:
            call.log_level = eras.META_LOG_LEVEL in meta
            if "progressToken" in meta:
                params = self._remember_token(params, number, call)
        if message.method == "subscriptions/listen":
            call.listens, call.shape = True, functools.partial(_closing, call.id)
        if message.method == "tools/call":
            call.tool = str(message.params.get("name"))
            call.task = "task" in message.params
        # Written first: what the hosted server does not get is not waited for.
        self._write(jsonrpc.request(b"%d" % number, message.method, params))
        self._pending[number] = call
        if call.token:
            self._tokens[call.token_key] = number
        return number, call

    def again(self, call: Call, message: jsonrpc.Message) -> int:
        """Forward `message` for a call whose last answer was a question, or whose copy is gone; its new number."""
        if self._closed is not None:
            raise self._closed
        self._next += 1
        number = self._next
        params = self._remember_token(message.params_raw, number, call) if call.token else message.params_raw
        self._write(jsonrpc.request(b"%d" % number, message.method, params))
        self._pending[number] = call
        if call.token:
            self._tokens[call.token_key] = number
        return number

    def ask(self, method: str, params: bytes, *, background: bool = False) -> tuple[int, Call]:
        """A request of the platform's own (probe, list).

        With `background` it is no reason to keep the hosted server running.
        """
        # No progress is asked for: the params need be known only where the answer depends on them.
        told = (jsonrpc.obj(jsonrpc.decode(params)) or {}) if method == "tools/call" else {}
        number, call = self.send(jsonrpc.Message(jsonrpc.Kind.REQUEST, method, told, b"0", params, b""))
        call.own, call.background = True, background
        self._background += background
        return number, call

    def tell(self, method: str) -> None:
        """A notification of the platform's own, without params."""
        if self._closed is not None:
            raise self._closed
        self._write(jsonrpc.notification(method))

    def forget(self, number: int) -> None:
        """The call is over or nobody waits for it any more; a late response is dropped."""
        self._pop(number)
        self._parked.pop(number, None)

    def abandon(self, number: int) -> None:
        """Nobody reads the call any more, and it goes on: a legacy client may still cancel it (bounded)."""
        call = self._pending.get(number)
        if call is None:
            # A question that its client did not wait for: nobody will answer it.
            parked = self._parked.pop(number, None)
            if parked is not None:
                parked.abandon()
            return
        call.abandon()
        self._abandoned.append(number)
        if len(self._abandoned) > _KEPT:
            self.forget(self._abandoned.popleft())

    def cancel(self, number: int, reason: str, failure: errors.SmcpError | None = None) -> None:
        """Tell the hosted server that nobody needs the call, and forget it; who waits gets `failure`. Never raises."""
        parked = self._parked.pop(number, None)
        if parked is not None:
            # The hosted server has answered it, and knows of nothing that could be cancelled.
            if parked.inputs is not None:
                parked.inputs.over()
            if failure is not None:
                parked.fail(failure)
            return
        call = self._pop(number)
        if call is not None:
            if failure is not None:
                call.fail(failure)
            if self._closed is None:
                params = jsonrpc.encode({"requestId": number, "reason": reason})
                # A server that ends, or does not read, needs not be told; whoever waited is to get the real reason.
                with contextlib.suppress(errors.SmcpError):
                    self._write(jsonrpc.notification("notifications/cancelled", params))

    def notify(self, message: jsonrpc.Message) -> None:
        """Forward a legacy client's notification; a cancellation gets our number for the client's id and ends the call.

        A server need not answer what was cancelled, and its client does not listen for it (MCP 2025-11-25,
        "Cancellation"): whoever waits gets `CANCELLED`, else the request would keep its place among those in flight.
        """
        if self._closed is not None:
            raise self._closed
        if message.method != "notifications/cancelled":
            self._write(jsonrpc.notification(message.method, message.params_raw))
            return
        wanted = message.params.get("requestId")
        for number, call in self._pending.items():
            if _id(call.id) == wanted and type(wanted) in (str, int):
                members = _members.decode(message.params_raw)
                members["requestId"] = msgspec.Raw(b"%d" % number)
                self._write(jsonrpc.notification(message.method, jsonrpc.encode(members)))
                self._pop(number)
                call.fail(errors.BadRequest(CANCELLED))
                return

    def answer(self, message: jsonrpc.Message) -> bool:
        """Forward a legacy client's response, if the hosted server asked for it; False when it didn't.

        Raises `errors.InvalidParams` for one that is not valid; the hosted server gets an error in its place.
        """
        key = _id(message.id)
        if key is None or key not in self._asked or self._closed is not None:
            return False
        method = self._asked.pop(key)
        wrong = self._checks.answer(method, message.body) if self._checks is not None and method else ""
        if wrong:
            text = f"The client's answer to {method} is not valid: {wrong}"
            self._write(jsonrpc.error(message.id, errors.InvalidParams.rpc_code, text))
            raise errors.InvalidParams(text)
        self._write(message.body)
        return True

    def end_listening(self, failure: errors.SmcpError) -> None:
        """Fail the calls that never end by themselves."""
        for call in self._pending.values():
            if call.listens:
                call.fail(failure)

    def close(self, failure: errors.SmcpError) -> None:
        """The hosted server is gone: fail every call in flight, and later ones."""
        self._closed = failure
        pending, self._pending = self._pending, {}
        self._background = 0
        self._tokens.clear()
        for call in pending.values():
            call.lose(failure)

    def unsent(self, lines: list[bytes]) -> None:
        """These messages never got to the hosted server, which is as good as gone: their calls are not carried out."""
        for line in lines:
            with contextlib.suppress(errors.ParseError):
                frame = jsonrpc.frame(line)
                call = self._pending.get(_number(frame.id)) if frame.method else None
                if call is not None:
                    call.history().unsent = True

    def waits(self, number: int) -> bool:
        """Is there no response to this call yet, and somebody who may want it?"""
        return number in self._pending

    def lost(self, number: int, failure: errors.SmcpError) -> None:
        """There will be no response to this call."""
        call = self._pop(number)
        if call is not None:
            call.fail(failure)

    def received(self, line: bytes, of: int | None = None) -> None:
        """One message of the hosted server. Raises `errors.ParseError` when it is not JSON-RPC.

        `of`: where each call has a stream of its own, the number of the one on whose stream this came, and 0 for the
        stream of no call. There nothing needs to be guessed, and nothing but that call can be answered.
        """
        try:
            frame = jsonrpc.frame(line)
        except errors.ParseError as error:
            self._unreadable(line, error)
            raise
        self.heard = time.monotonic()
        if not frame.method:
            if of and _number(frame.id) != of:
                raise errors.ParseError("A response to another request than the stream is of was dropped.")
            self._response(frame)
        elif frame.id:
            self._request(frame, line, of)
        else:
            self._notification(frame, line, of)

    def spooled(self, number: int, result: spool.Result) -> None:
        """A response of the hosted server, whose result is too large for memory."""
        self.heard = time.monotonic()
        call = self._pop(number)
        if call is None:
            result.close()
            return
        if self._checks is not None:
            self._checks.unread(call.method)
        if call.listens or call.method == "initialize":
            result.close()
            call.fail(errors.ServerFailed(f"The hosted server's answer to {call.method} is too large."))
        else:
            call.finish_spooled(result)

    def _response(self, frame: jsonrpc.Frame) -> None:
        number = _number(frame.id)
        call = self._pop(number)
        if call is None:
            return
        try:
            # `"error": null` beside a result is JSON-RPC 1.0, which some servers still write.
            if frame.error and bytes(frame.error) != b"null":
                code = _code(frame.error)
                wrong = self._checks.failure(call, frame.error) if self._checks is not None else ""
                if wrong:
                    call.fail(checks.failed(call.method, call.tool, wrong))
                else:
                    error = frame.error if call.inputs is None else call.inputs.failure(bytes(frame.error))
                    call.finish(jsonrpc.failure(call.id, error), code)
            elif frame.result:
                wrong = self._checks.result(call, frame.result) if self._checks is not None else ""
                if wrong:
                    call.fail(checks.failed(call.method, call.tool, wrong))
                    return
                if call.inputs is not None and call.inputs.wanted(number, frame.result):
                    return
                shape = call.shape
                call.finish(jsonrpc.result(call.id, frame.result if shape is None else shape(frame.result)), None)
            else:
                raise errors.ParseError("The hosted server answered with neither a result nor an error.")
        except errors.ParseError:
            # The call is no longer pending: whoever waits must hear of it.
            call.fail(errors.ServerFailed("The hosted server's answer is not a JSON-RPC response."))
            raise

    def _unreadable(self, line: bytes, error: errors.ParseError) -> None:
        """Tell the caller, if what cannot be passed on is an answer: NaN and half characters are the usual reasons."""
        if not self._pending or len(line) > spool.LARGE:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lenient = second, 0
        self._lenient += 1
        if self._lenient > _LENIENT:
            return
        # Anything that Python reads, which is more than JSON; only the id is taken from it.
        with contextlib.suppress(ValueError, RecursionError):
            told = jsonrpc.obj(json.loads(line)) or {}
            number = told.get("id")
            call = self._pop(number) if type(number) is int and "method" not in told else None
            if call is not None:
                call.fail(errors.ServerInvalid(f"The hosted server's answer to {call.method[:128]}: {error.public}"))

    def park(self, number: int, call: Call) -> None:
        """The answer to `number` was a question, or there was none: `again` follows, or the call's end."""
        self._parked[number] = call

    def _pop(self, number: int) -> Call | None:
        call = self._pending.pop(number, None)
        if call is None:
            return None
        self._background -= call.background
        if call.token and self._tokens.get(call.token_key) == number:
            del self._tokens[call.token_key]
        return call

    def _request(self, frame: jsonrpc.Frame, line: bytes, of: int | None) -> None:
        if self._modern:  # forbidden there (MCP 2026-07-28, "Base protocol"): dropped, and told to the server's log
            raise errors.ParseError("A modern server must not send requests; the message was dropped.")
        key = _id(bytes(frame.id))
        if key is None:
            raise errors.ParseError("A request whose id is neither a string nor an integer was dropped.")
        wrong = self._checks.request(frame, line) if self._checks is not None else ""
        if wrong:
            # Whoever asked must not wait for an answer that nobody will give.
            text = f"This {frame.method[:128]} is not valid: {wrong}"
            with contextlib.suppress(errors.SmcpError):
                self._write(jsonrpc.error(bytes(frame.id), errors.InvalidParams.rpc_code, text))
            return
        # What answers a request with a task comes by another way.
        for call in self._pending.values():
            call.history().asked = True  # it does not say which of them it asks for
        self._asked[key] = "" if b'"task"' in bytes(frame.params) else frame.method
        if len(self._asked) > _KEPT:
            del self._asked[next(iter(self._asked))]
        self._newest_or_stray(line, frame.method, of)

    def _notification(self, frame: jsonrpc.Frame, line: bytes, of: int | None) -> None:
        if self._checks is not None and not self._checks.notice(frame, line):
            return
        if frame.method == "notifications/progress":
            self._progress(frame, line)
        elif self._modern:
            self._modern_notice(frame, line, of)
        elif frame.method in _STREAM_FIRST:
            self._stray(line, frame.method)
        else:
            self._newest_or_stray(line, frame.method, of)

    def _newest_or_stray(self, line: bytes, method: str, of: int | None) -> None:
        if of is None:
            # A legacy server does not say which request its message is related to (client-quirk 15).
            call = next((one for one in reversed(self._pending.values()) if not one.done), None)
        else:
            call = self._pending.get(of)
        if call is None or call.method == "initialize":
            self._stray(line, method)
        else:
            call.push(line)

    def _progress(self, frame: jsonrpc.Frame, line: bytes) -> None:
        members = _decode_members(frame.params)
        token = bytes(members.get("progressToken", b""))
        number = self._tokens.get(token)
        call = None if number is None else self._pending.get(number)
        if call is None:
            return
        if not call.rises(bytes(members.get("progress", b""))):
            return
        if self._modern:
            members["progressToken"] = msgspec.Raw(call.token)
            line = jsonrpc.notification(frame.method, jsonrpc.encode(members))
        call.push(line)

    def _modern_notice(self, frame: jsonrpc.Frame, line: bytes, of: int | None) -> None:
        members = _decode_members(frame.params)
        if frame.method == "notifications/message":
            asked = [call for number, call in self._pending.items() if call.log_level and of in (None, number)]
            # It names no request: where two callers asked, nobody can tell whose it is.
            if len(asked) == 1 or (asked and asked[0].party and all(one.party is asked[0].party for one in asked)):
                asked[-1].push(line)
            return
        if frame.method == "notifications/cancelled":
            self._torn_down(members)
            return
        meta = _decode_members(members.get("_meta", msgspec.Raw(b"{}")))
        call = self._pending.get(_number(meta.get(eras.META_SUBSCRIPTION)))
        if call is not None and call.listens:
            meta[eras.META_SUBSCRIPTION] = msgspec.Raw(call.id)
            members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
            call.push(jsonrpc.notification(frame.method, jsonrpc.encode(members)))

    def _torn_down(self, members: _Members) -> None:
        call = self._pending.get(_number(members.get("requestId")))
        if call is not None:
            members["requestId"] = msgspec.Raw(call.id)
            call.push(jsonrpc.notification("notifications/cancelled", jsonrpc.encode(members)))

    def _remember_token(self, params: bytes, number: int, call: Call) -> bytes:
        members = _members.decode(params)
        meta = _members.decode(members["_meta"])
        call.token = bytes(meta["progressToken"])
        # Tokens are chosen by clients, who may share this server: there ours is the call's number.
        call.token_key = b"%d" % number if self._modern else call.token
        if not self._modern:
            return params
        meta["progressToken"] = msgspec.Raw(b"%d" % number)
        members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
        return jsonrpc.encode(members)


def _closing(id_raw: bytes, result: bytes | msgspec.Raw) -> bytes:
    members = _decode_members(msgspec.Raw(result))
    meta = _decode_members(members.get("_meta", msgspec.Raw(b"{}")))
    told = {eras.META_SUBSCRIPTION: msgspec.Raw(id_raw)} if eras.META_SUBSCRIPTION in meta else {}
    return jsonrpc.encode({**members, "_meta": {**meta, **told}} if told else members)


def _decode_members(raw: msgspec.Raw) -> _Members:
    if not raw:
        return {}
    try:
        return _members.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.ParseError("The hosted server sent params that are not an object.") from error


def _code(raw: msgspec.Raw) -> int:
    error = jsonrpc.obj(jsonrpc.decode(raw))
    if error is None:
        raise errors.ParseError("The hosted server sent an error that is not an object.")
    code = error.get("code")
    return code if type(code) is int else -32603


def _number(raw: msgspec.Raw | None) -> int:
    """The number of ours that a hosted server names; 0, which is nobody's, for anything else."""
    digits = b"" if raw is None else bytes(raw)
    return int(digits) if len(digits) <= _DIGITS and digits.isdigit() else 0


def _id(raw: bytes) -> str | int | None:
    """The id that `raw` spells, in one of the many ways that JSON has for a text; None for what is no id."""
    value: object = jsonrpc.decode(raw) if len(raw) <= jsonrpc.MAX_ID_BYTES else None
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None
