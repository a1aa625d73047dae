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
from collections.abc import Callable
from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras

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


class Call:
    """One request in flight: interim frames, then the response. One consumer."""

    __slots__ = (
        "_limit",
        "_loop",
        "_waiter",
        "code",
        "done",
        "failure",
        "frames",
        "id",
        "listens",
        "log_level",
        "method",
        "response",
        "token",
        "token_key",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, id_raw: bytes, method: str, limit: int) -> None:
        self.id = id_raw
        self.method = method
        self.frames: collections.deque[bytes] = collections.deque()
        self.response = b""
        self.code: int | None = None
        """The JSON-RPC error code of the response, None for a result."""
        self.failure: errors.SmcpError | None = None
        """Set instead of `response` when the hosted server or the reader failed."""
        self.done = False
        self.token = b""
        """The client's progress token, JSON-encoded; empty without one."""
        self.token_key = b""
        """The token as the hosted server knows it."""
        self.listens = False
        self.log_level = False
        self._loop = loop
        self._limit = limit
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return when there is an interim frame or the call is done."""
        if self.done or self.frames:
            return
        self._waiter = self._loop.create_future()
        await self._waiter

    async def completed(self) -> list[bytes]:
        """Return when the call is done, with the interim frames that came before."""
        passed: list[bytes] = []
        while not self.done:
            await self.wait()
            passed += self.frames
            self.frames.clear()
        return passed

    def push(self, data: bytes) -> bool:
        """Hand over an interim frame; False (and the call fails) when the reader is too slow."""
        if self.done:
            return True
        if len(self.frames) >= self._limit:
            self.fail(errors.Unavailable("The stream was read too slowly and has been closed."))
            return False
        self.frames.append(data)
        self.wake()
        return True

    def finish(self, response: bytes, code: int | None) -> None:
        """The response has come."""
        if not self.done:
            self.response, self.code, self.done = response, code, True
            self.wake()

    def fail(self, failure: errors.SmcpError) -> None:
        """There will be no response."""
        if not self.done:
            self.failure, self.done = failure, True
            self.wake()

    def abandon(self) -> None:
        """Nobody reads any more, and the hosted server is not told: drop what comes."""
        self.frames.clear()
        self.done = True

    def wake(self) -> None:
        """Let `wait` return, whether or not there is something."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Calls:
    """The calls in flight on one hosted server."""

    def __init__(
        self, *, modern: bool, write: Callable[[bytes], None], stray: Callable[[bytes, str], None], limit: int
    ) -> None:
        """`write` sends one message; `stray` gets what belongs to no call (message, method); `limit` frames a call."""
        self._modern = modern
        self._write = write
        self._stray = stray
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._pending: dict[int, Call] = {}
        self._tokens: dict[bytes, int] = {}
        self._asked: set[bytes] = set()
        self._closed: errors.SmcpError | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def send(self, message: jsonrpc.Message) -> tuple[int, Call]:
        """Forward a client's request; returns its number (for `cancel`) and the call."""
        if self._closed is not None:
            raise self._closed
        self._next += 1
        number = self._next
        call = Call(self._loop, message.id, message.method, self._limit)
        params = message.params_raw
        meta = jsonrpc.obj(message.params.get("_meta"))
        if meta is not None:
            call.log_level = eras.META_LOG_LEVEL in meta
            if "progressToken" in meta:
                params = self._remember_token(params, number, call)
        call.listens = message.method == "subscriptions/listen"
        self._pending[number] = call
        self._write(jsonrpc.request(b"%d" % number, message.method, params))
        return number, call

    def ask(self, method: str, params: bytes) -> tuple[int, Call]:
        """A request of the platform's own (probe, list)."""
        kind = jsonrpc.Kind.REQUEST
        return self.send(jsonrpc.Message(kind, method, {}, b"0", params, b""))

    def tell(self, method: str) -> None:
        """A notification of the platform's own, without params."""
        if self._closed is not None:
            raise self._closed
        self._write(jsonrpc.notification(method))

    def forget(self, number: int) -> None:
        """The call is over or nobody waits for it any more; a late response is dropped."""
        call = self._pending.pop(number, None)
        if call is not None and call.token:
            self._tokens.pop(call.token_key, None)

    def cancel(self, number: int, reason: str) -> None:
        """Tell the hosted server that nobody waits for the call, and forget it."""
        if number in self._pending:
            self.forget(number)
            if self._closed is None:
                params = jsonrpc.encode({"requestId": number, "reason": reason})
                self._write(jsonrpc.notification("notifications/cancelled", params))

    def notify(self, message: jsonrpc.Message) -> None:
        """Forward a legacy client's notification; a cancellation gets our number for the client's id."""
        if self._closed is not None:
            raise self._closed
        if message.method != "notifications/cancelled":
            self._write(jsonrpc.notification(message.method, message.params_raw))
            return
        wanted = jsonrpc.encode(message.params.get("requestId"))
        for number, call in self._pending.items():
            if call.id == wanted:
                members = _members.decode(message.params_raw)
                members["requestId"] = msgspec.Raw(b"%d" % number)
                self._write(jsonrpc.notification(message.method, jsonrpc.encode(members)))
                return

    def answer(self, message: jsonrpc.Message) -> bool:
        """Forward a legacy client's response, if the hosted server asked for it; False when it didn't."""
        if message.id not in self._asked or self._closed is not None:
            return False
        self._asked.discard(message.id)
        self._write(message.body)
        return True

    def close(self, failure: errors.SmcpError) -> None:
        """The hosted server is gone: fail every call in flight, and later ones."""
        self._closed = failure
        pending, self._pending = self._pending, {}
        self._tokens.clear()
        for call in pending.values():
            call.fail(failure)

    def received(self, line: bytes) -> None:
        """One message of the hosted server. Raises `errors.ParseError` when it is not JSON-RPC."""
        frame = jsonrpc.frame(line)
        if not frame.method:
            self._response(frame)
        elif frame.id:
            self._request(frame, line)
        else:
            self._notification(frame, line)

    def _response(self, frame: jsonrpc.Frame) -> None:
        raw_id = bytes(frame.id)
        call = self._pending.pop(int(raw_id), None) if raw_id.isdigit() else None
        if call is None:
            return
        if call.token:
            self._tokens.pop(call.token_key, None)
        if frame.error:
            call.finish(jsonrpc.failure(call.id, frame.error), _code(frame.error))
        elif frame.result:
            result = self._closing(call, frame.result) if call.listens else frame.result
            call.finish(jsonrpc.result(call.id, result), None)
        else:
            call.fail(errors.ServerFailed("The hosted server answered with neither a result nor an error."))

    def _request(self, frame: jsonrpc.Frame, line: bytes) -> None:
        if self._modern:  # forbidden there (MCP 2026-07-28, "Base protocol"): dropped, and told to the server's log
            raise errors.ParseError("A modern server must not send requests; the message was dropped.")
        self._asked.add(bytes(frame.id))
        self._newest_or_stray(line, frame.method)

    def _notification(self, frame: jsonrpc.Frame, line: bytes) -> None:
        if frame.method == "notifications/progress":
            self._progress(frame, line)
        elif self._modern:
            self._modern_notice(frame, line)
        elif frame.method in _STREAM_FIRST:
            self._stray(line, frame.method)
        else:
            self._newest_or_stray(line, frame.method)

    def _newest_or_stray(self, line: bytes, method: str) -> None:
        # A legacy server does not say which request its message is related to (client-quirk 15).
        call = next(reversed(self._pending.values()), None)
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
        if self._modern:
            members["progressToken"] = msgspec.Raw(call.token)
            line = jsonrpc.notification(frame.method, jsonrpc.encode(members))
        call.push(line)

    def _modern_notice(self, frame: jsonrpc.Frame, line: bytes) -> None:
        members = _decode_members(frame.params)
        if frame.method == "notifications/message":
            asked = [call for call in self._pending.values() if call.log_level]
            if len(asked) == 1:  # it names no request: with two that asked, nobody can tell whose it is
                asked[0].push(line)
            return
        if frame.method == "notifications/cancelled":
            self._torn_down(members)
            return
        meta = _decode_members(members.get("_meta", msgspec.Raw(b"{}")))
        number = bytes(meta.get(eras.META_SUBSCRIPTION, b""))
        call = self._pending.get(int(number)) if number.isdigit() else None
        if call is not None and call.listens:
            meta[eras.META_SUBSCRIPTION] = msgspec.Raw(call.id)
            members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
            call.push(jsonrpc.notification(frame.method, jsonrpc.encode(members)))

    def _torn_down(self, members: _Members) -> None:
        raw = bytes(members.get("requestId", b""))
        call = self._pending.get(int(raw)) if raw.isdigit() else None
        if call is not None:
            members["requestId"] = msgspec.Raw(call.id)
            call.push(jsonrpc.notification("notifications/cancelled", jsonrpc.encode(members)))

    def _closing(self, call: Call, result: msgspec.Raw) -> bytes:
        members = _decode_members(result)
        meta = _decode_members(members.get("_meta", msgspec.Raw(b"{}")))
        if eras.META_SUBSCRIPTION in meta:
            meta[eras.META_SUBSCRIPTION] = msgspec.Raw(call.id)
            members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
        return jsonrpc.encode(members)

    def _remember_token(self, params: bytes, number: int, call: Call) -> bytes:
        members = _members.decode(params)
        meta = _members.decode(members["_meta"])
        call.token = bytes(meta["progressToken"])
        # Tokens are chosen by clients, who may share this server: there ours is the call's number.
        call.token_key = b"%d" % number if self._modern else call.token
        self._tokens[call.token_key] = number
        if not self._modern:
            return params
        meta["progressToken"] = msgspec.Raw(b"%d" % number)
        members["_meta"] = msgspec.Raw(jsonrpc.encode(meta))
        return jsonrpc.encode(members)


def _decode_members(raw: msgspec.Raw) -> _Members:
    try:
        return _members.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.ParseError("The hosted server sent params that are not an object.") from error


def _code(raw: msgspec.Raw) -> int:
    code = (jsonrpc.obj(jsonrpc.decode(raw)) or {}).get("code")
    return code if isinstance(code, int) else -32603
