"""`subscriptions/listen` at a legacy server: its notices and `resources/subscribe`, on the stream of one request.

Several may listen on one private session. The server is told to watch a resource when the first of them asks for it,
and not to any more when the last has gone.
"""

import collections
import contextlib
import functools
import time
from typing import Final

from smcp.gateway import exchange, living, parkedruns, read, recheck, reviving
from smcp.kernel import errors, jsonrpc
from smcp.protocol import sse, upward

_URIS: Final = 256
"""Resources that one request may ask for."""
_WAITING: Final = 256
"""Notices that wait for a slow reader; those that say the same wait as one."""


class _Fan(living.Stream):
    """Stands where a legacy session has its GET stream, for all who listen: the session is in use, and they hear when
    it ends."""

    def __init__(self, private: parkedruns.Private) -> None:
        super().__init__()
        self._private = private

    def wake(self) -> None:
        for one in self._private.listeners:
            if isinstance(one, Listener):
                one.closed = one.closed or self.closed
                one.wake()


class Listener(living.Stream):
    """One who listens."""

    def __init__(self, id_raw: bytes, notices: frozenset[str], uris: frozenset[str]) -> None:
        super().__init__()
        self._id = id_raw
        self._notices = notices
        self._uris = uris
        self._queue: collections.OrderedDict[bytes, None] = collections.OrderedDict()
        self.slow = False

    def hear(self, frame: jsonrpc.Frame) -> None:
        """A notice of the server: kept if it was asked for."""
        if frame.method == upward.UPDATED:
            uri = upward.member(frame.params, "uri")
            if not isinstance(uri, str) or not any(upward.concerns(uri, one) for one in self._uris):
                return
        elif frame.method not in self._notices:
            return
        data = upward.tagged(frame.method, frame.params, self._id)
        if data not in self._queue and len(self._queue) >= _WAITING:
            self.slow = True
        else:
            self._queue[data] = None
        self.wake()

    def take(self) -> bytes | None:
        """The oldest notice that waits."""
        return self._queue.popitem(last=False)[0] if self._queue else None

    def idle(self) -> bool:
        """Is there nothing to send, and nothing to notice?"""
        return not self._queue and not self.slow and not self.closed


async def serve(
    parts: exchange.Parts, x: exchange.Exchange, private: parkedruns.Private, message: jsonrpc.Message
) -> None:
    """Tell what was asked for, until the client hangs up or the session ends. Raises `exchange.ClientGone`."""
    if not read.accepts(x, "text/event-stream"):
        raise errors.NotAcceptable("subscriptions/listen is answered with an event stream.")
    wanted = message.params.get("notifications")
    changes = upward.changes(wanted, private.offers)
    asked = upward.watched(wanted, private.offers)
    if len(asked) > _URIS:
        raise errors.InvalidParams(f"resourceSubscriptions has more than {_URIS} resources.")
    private.session.busy += 1
    watched: list[str] = []
    listener: Listener | None = None
    try:
        for uri in asked:
            if await _watch(parts, private, uri):
                watched.append(uri)
        listener = Listener(message.id, frozenset(changes.values()), frozenset(watched))
        _attach(private, listener)
        x.out.when_gone(functools.partial(_gone, x, listener))
        x.open_stream()
        granted = {**dict.fromkeys(changes, True), **({"resourceSubscriptions": watched} if watched else {})}
        await x.stream(sse.event(upward.acknowledged(message.id, granted)))
        await _follow(parts, x, listener)
        if not private.session.over and not private.instance.alive:
            raise errors.ServerFailed
        await x.stream(sse.event(upward.ended(message.id, private.info)))
        x.end_stream()
    finally:
        private.session.busy -= 1
        if listener is not None:
            _detach(private, listener)
        for uri in watched:
            _unwatch(private, uri)


def _gone(x: exchange.Exchange, listener: Listener) -> None:
    x.gone = True
    listener.wake()


async def _follow(parts: exchange.Parts, x: exchange.Exchange, listener: Listener) -> None:
    """Send what comes, until it is over."""
    heartbeat = parts.settings.gateway.heartbeat_s
    told = checked = time.monotonic()
    try:
        while not listener.closed:
            data = listener.take()
            while data is not None:
                await x.stream(sse.event(data))
                told = time.monotonic()
                data = listener.take()
            checked = await recheck.check(parts, x, checked)
            if x.gone:
                raise exchange.ClientGone
            if listener.slow:
                raise errors.Unavailable("The stream was read too slowly and has been closed.")
            now = time.monotonic()
            if now - told >= heartbeat - recheck.EARLY:
                told = now
                await x.stream(sse.HEARTBEAT)
                continue
            if listener.idle():
                parts.alarms.set(listener, told + heartbeat)
                await listener.wait()
    finally:
        parts.alarms.clear(listener)


def _attach(private: parkedruns.Private, listener: Listener) -> None:
    private.listeners.append(listener)
    if private.session.stream is None:
        private.session.attach(_Fan(private))


def _detach(private: parkedruns.Private, listener: Listener) -> None:
    private.listeners.remove(listener)
    if not private.listeners and private.session.stream is not None:
        private.session.detach(private.session.stream)


async def _watch(parts: exchange.Parts, private: parkedruns.Private, uri: str) -> bool:
    """Have the server tell of changes of a resource; False when it does not know it."""
    async with private.changing:
        if not private.uris[uri]:
            asked = private.instance.calls.ask("resources/subscribe", jsonrpc.encode({"uri": uri}))
            call, before = await reviving.answered(parts, private.instance, *asked)
            for frame in before:
                private.heard(None, frame)
            if call.code is not None:
                return False
        private.uris[uri] += 1
        return True


def _unwatch(private: parkedruns.Private, uri: str) -> None:
    private.uris[uri] -= 1
    if not private.uris[uri]:
        del private.uris[uri]
        with contextlib.suppress(errors.SmcpError):
            private.tell("resources/unsubscribe", {"uri": uri})
