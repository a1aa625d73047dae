"""A conversation with a server over HTTP, as an instance: what a remote server and a Worker have in common.

For a modern server it is a client that everybody shares, for a legacy one a session of its own. It sees frames only.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from smcp.kernel import errors, jsonrpc
from smcp.runtime import budgets, calls, checks, driver, spool
from smcp.runtime.drivers import deliveries
from smcp.upstream import legacy, mirrors, modern, oldsse, places, transport
from smcp.upstream import wire as wires

_MESSAGE_BYTES: Final = spool.IN_MEMORY
"""Largest message that is taken: it is collected in memory, and counts against what the tenant may have waiting."""
_BROKEN: Final = 500
"""Lines of an instance's own in the server's log."""
_FALL_BACK: Final = (400, 404, 405, 406, 415)


class Way(Protocol):
    """The way to a server, which several conversations may share."""

    @property
    def http(self) -> transport.Client:
        """Carries their messages."""
        ...

    def enter(self) -> None:
        """One more."""
        ...

    async def leave(self) -> None:
        """One less."""
        ...


class Conversation(driver.Instance, wires.Owner, deliveries.Speaker):
    """One conversation."""

    def __init__(
        self,
        limits: driver.Limits,
        lines: driver.Lines,
        gone: "Callable[[Conversation], None]",
        way: Way,
        *,
        modern: bool,
        budget: budgets.Budget,
        checked: Callable[[Callable[[str], None]], checks.Checks] | None = None,
    ) -> None:
        self._limits = limits
        self._lines = lines
        self._gone = gone
        self._way = way
        self._modern = modern
        self._budget = budget
        self._wire: wires.Wire | None = None
        self._or_sse: wires.Wire | None = None
        """What is spoken where the server turns out to be no Streamable HTTP one."""
        self._answered = False
        self._stopping = ""
        self._ended = asyncio.Event()
        self.who = way.http.who
        self._deliveries = deliveries.Deliveries(self)
        self._brakes = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lines_left = _BROKEN
        way.enter()
        self.calls = calls.Calls(
            modern=modern,
            write=self._write,
            stray=self._stray,
            limit=limits.stream_buffer,
            limit_bytes=min(limits.max_message_bytes, spool.IN_MEMORY),
            budget=budget,
            checked=None if checked is None else checked(self.note),
        )

    def choose(self, wanted: str, place: places.Place, known: mirrors.Mirrors) -> None:
        """Say which wire is spoken: before the first message."""
        limit = min(self._limits.max_message_bytes, _MESSAGE_BYTES)
        http = self._way.http
        if wanted == "sse":
            self._wire = oldsse.OldSse(http, place, self, limit)
        elif self._modern:
            self._wire = modern.Modern(http, place, self, limit, known)
        else:
            self._wire = legacy.Legacy(http, place, self, limit)
            self._or_sse = oldsse.OldSse(http, place, self, limit) if wanted == "auto" else None

    @property
    def wire(self) -> driver.Wire:
        """`streamable` or `sse`; empty before the server has answered."""
        return self._wire.name if self._wire is not None and self._answered else ""

    @property
    def alive(self) -> bool:
        return not self._stopping

    def brake(self, on: bool) -> None:
        self._brakes += 1 if on else -1
        (self._flowing.clear if self._brakes else self._flowing.set)()

    async def stop(self, reason: str) -> None:
        if not self._stopping:
            self._end(errors.ServerFailed(f"The conversation with the {self.who} has ended.", detail=reason), reason)
        await self._ended.wait()

    # --- to the server ---

    def _write(self, body: bytes) -> None:
        if self._stopping:
            raise errors.ServerFailed(f"The conversation with the {self.who} has ended.")
        if self._modern and self._wire is not None and self._wire.name == "sse":
            raise errors.ServerFailed("A server of HTTP+SSE speaks no modern version of MCP.")
        frame = jsonrpc.frame(body)
        number = int(bytes(frame.id)) if frame.method and frame.id else 0
        sent = wires.Sent(number, frame.method, frame.params, body)
        cancelled = _cancelled(frame) if frame.method == "notifications/cancelled" else 0
        if cancelled and self._modern:
            self._deliveries.abort(cancelled)
        else:
            self._deliveries.put(sent, cancelled)

    # --- deliveries.Speaker ---

    def begin(self, sent: wires.Sent, told: Callable[[], None]) -> transport.Begun | None:
        return None if self._wire is None or sent.method == "initialize" else self._wire.begin(sent, told)

    def heard(self, sent: wires.Sent, begun: transport.Begun) -> bool:
        # Who holds the server back is told nothing until he wants to hear more.
        return self._flowing.is_set() and self._wire is not None and self._wire.heard(sent, begun)

    async def post(self, sent: wires.Sent, begun: transport.Begun | None) -> None:
        assert self._wire is not None
        if self._or_sse is None or sent.method != "initialize":
            await self._wire.post(sent, begun)
            return
        # Streamable HTTP first; what refuses that may be older (MCP 2025-11-25, "Backwards Compatibility").
        newer, older, self._or_sse = self._wire, self._or_sse, None
        try:
            await newer.post(sent)
        except errors.ServerFailed as refused:
            if (refused.data or {}).get("httpStatus") not in _FALL_BACK:
                raise
            # Before it is spoken to: its answer may come, and what follows be written, before it has taken this one.
            self._wire = older
            try:
                await older.post(sent)
            except errors.SmcpError:
                self._wire = newer
                await older.close()
                raise refused from None

    def failed(self, sent: wires.Sent, error: errors.SmcpError) -> None:
        if self._stopping:
            return
        what = f"{sent.method[:64]}: " if sent.method else ""
        self.note(f"{what}{error.public}")
        if not self._answered and sent.number:
            # Nothing was ever heard: whoever waits for a first word would wait for long.
            self._end(error, error.public)
        elif sent.number:
            self.calls.lost(sent.number, error)

    # --- from the server (wires.Owner) ---

    def received(self, frame: bytes, of: int | None) -> None:
        self._answered = True
        self.calls.received(frame, of)

    def waits(self, number: int) -> bool:
        return self.calls.waits(number)

    def take(self, size: int) -> bool:
        return self._budget.take(size)

    def give(self, size: int) -> None:
        self._budget.give(size)

    async def flow(self) -> None:
        await self._flowing.wait()

    def note(self, text: str) -> None:
        if self._lines_left > 0:
            self._lines_left -= 1
            self._lines(f"[smcp] {text}")

    def gone(self, failure: errors.SmcpError) -> None:
        if not self._stopping:
            self._end(failure, failure.public)

    # --- the end ---

    def _end(self, failure: errors.SmcpError, reason: str) -> None:
        self._stopping = reason
        self._lines(f"[smcp] ended: {reason}")
        self.calls.close(failure)
        self._deliveries.close()
        self._ending = asyncio.create_task(self._finish(reason), name="end of a conversation")

    async def _finish(self, reason: str) -> None:
        try:
            for one in (self._wire, self._or_sse):
                if one is not None:
                    with contextlib.suppress(errors.SmcpError, TimeoutError):
                        async with asyncio.timeout(self._limits.stop_grace_s):
                            await one.close()
            await self._way.leave()
        finally:
            self._ended.set()
            self._gone(self)
            if self.owner is not None:
                self.owner.closed(reason)

    def _stray(self, data: bytes, method: str) -> None:
        if self.owner is not None:
            self.owner.stray(data, method)


def _cancelled(frame: jsonrpc.Frame) -> int:
    params = (jsonrpc.obj(jsonrpc.decode(frame.params)) if frame.params else None) or {}
    number = params.get("requestId")
    return number if type(number) is int else 0
