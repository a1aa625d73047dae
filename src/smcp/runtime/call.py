"""One request in flight on a hosted server, and who waits for it."""

import asyncio
import collections
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.runtime import budgets, spool

_MOST_SHAPED: Final = 4 * 1024 * 1024
"""Bytes of a result on disk that is given to its caller in another form."""
_TOO_MUCH: Final = "The tenant's hosted servers have more waiting in memory than they may. Read what is waiting."


class Inputs(Protocol):
    """Who finds out what a modern server wants to know before it answers a call (`input_required`)."""

    def wanted(self, number: int, result: msgspec.Raw) -> bool:
        """The hosted server has answered `number` with `result`: does it only ask? Then the call is not over.

        Must not raise.
        """
        ...

    def failure(self, error: bytes) -> bytes:
        """The error that the hosted server answered with, as the caller is to see it."""
        ...

    def over(self) -> None:
        """The call is over: nothing is asked any more. Idempotent."""
        ...


class Past:
    """What happened to a call beside its answer; made when there is something."""

    __slots__ = ("asked", "floor", "lost", "told", "unsent")

    def __init__(self) -> None:
        self.asked = False
        """The hosted server has asked something, in this call or while it ran."""
        self.lost = False
        """The hosted server is gone, and nobody has decided yet what becomes of the call."""
        self.unsent = False
        """It never got there."""
        self.told = b""
        """The progress that its reader has, or is about to have: a number, JSON-encoded."""
        self.floor: float | None = None
        """The progress that was told before it was repeated."""


class Call:
    """One request in flight: interim frames, then the response. One consumer."""

    __slots__ = (
        "_budget",
        "_held",
        "_limit",
        "_limit_bytes",
        "_loop",
        "_shaping",
        "_waiter",
        "_watcher",
        "background",
        "code",
        "done",
        "failure",
        "frames",
        "id",
        "inputs",
        "listens",
        "log_level",
        "method",
        "own",
        "party",
        "past",
        "response",
        "shape",
        "spooled",
        "task",
        "token",
        "token_key",
        "tool",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        id_raw: bytes,
        method: str,
        limit: int,
        limit_bytes: int,
        budget: budgets.Budget,
    ) -> None:
        self.id = id_raw
        self.method = method
        self.frames: collections.deque[bytes] = collections.deque()
        self.response = b""
        self.spooled: spool.Result | None = None
        """The result, instead of `response`, when it is too large for memory."""
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
        self.background = False
        """It is no reason to keep its copy running."""
        self.own = False
        """The platform's own question."""
        self.tool = ""
        """The tool that is called, if it is one."""
        self.task = False
        """The answer will be a task, whose result comes by another way."""
        self.log_level = False
        self.party: object = None
        """Whose it is, where several of one caller may hear each other's log messages."""
        self.inputs: Inputs | None = None
        """Set where an answer may ask for more (legacy client, modern server)."""
        self.past: Past | None = None
        self.shape: Callable[[bytes | msgspec.Raw], bytes] | None = None
        """Makes of the hosted server's result what the caller gets. Raises `errors.ParseError` for what is none."""
        self._shaping: asyncio.Task[None] | None = None
        self._loop = loop
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._budget = budget
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: Callable[[], None] | None = None

    async def wait(self) -> None:
        """Return when there is an interim frame or the call is done."""
        if self.done or self.frames:
            return
        self._waiter = self._loop.create_future()
        await self._waiter

    async def completed(self) -> list[bytes]:
        """Return when the call is done, with the first interim frames that came before: as many as a reader may owe."""
        passed: list[bytes] = []
        size = 0
        while not self.done:
            await self.wait()
            while self.frames:
                frame = self.take()
                if len(passed) < self._limit and size + len(frame) <= self._limit_bytes:
                    size += len(frame)
                    passed.append(frame)
        return passed

    def push(self, data: bytes) -> None:
        """Hand over an interim frame; the call fails when its reader is too slow. One frame of any size is held."""
        if self.done:
            return
        if len(self.frames) >= self._limit or (self.frames and self._held + len(data) > self._limit_bytes):
            self.fail(errors.Unavailable("The stream was read too slowly and has been closed."))
            return
        if not self._budget.take(len(data)):
            self.fail(errors.Unavailable(_TOO_MUCH))
            return
        self._held += len(data)
        self.frames.append(data)
        self.wake()

    def take(self) -> bytes:
        """The oldest interim frame. To be called when there is one."""
        frame = self.frames.popleft()
        self._held -= len(frame)
        self._budget.give(len(frame))
        return frame

    def release(self) -> None:
        """Whatever is still held here is not needed any more. Idempotent."""
        self._budget.give(self._held)
        self._held = 0
        self.frames.clear()
        if self.spooled is not None:
            self.spooled.close()

    def finish(self, response: bytes, code: int | None) -> None:
        """The response has come."""
        if self.done:
            return
        if not self._budget.take(len(response)):
            self.fail(errors.Unavailable(_TOO_MUCH))
            return
        self._held += len(response)
        self.response, self.code, self.done = response, code, True
        self.wake()

    def finish_spooled(self, result: spool.Result) -> None:
        """The response has come, with a result that is too large for memory."""
        if self.done:
            result.close()
            return
        if self.shape is not None:
            self._shaping = self._loop.create_task(self._shaped(self.shape, result), name="shaping a large result")
            return
        self.spooled, self.done = result, True
        self.wake()

    async def _shaped(self, shape: Callable[[bytes | msgspec.Raw], bytes], result: spool.Result) -> None:
        try:
            if result.size > _MOST_SHAPED:
                raise errors.ParseError("It is too large.")
            shaped = shape(await result.whole())
        except errors.SmcpError as error:
            self.fail(errors.ServerFailed(f"The answer to {self.method} can't be read.", detail=error.public))
        else:
            self.finish(jsonrpc.result(self.id, shaped), None)
        finally:
            result.close()

    def fail(self, failure: errors.SmcpError) -> None:
        """There will be no response."""
        if not self.done:
            self.failure, self.done = failure, True
            self.wake()

    def lose(self, failure: errors.SmcpError) -> None:
        """There will be no response, since the hosted server is gone: the call may be repeated (`restart`)."""
        if not self.done:
            self.history().lost = True
            self.fail(failure)

    def restart(self) -> None:
        """What was lost is in flight again, on another copy. The same reader goes on."""
        past = self.history()
        past.lost = past.unsent = False
        past.floor = _number(past.told)
        self.failure, self.done = None, False

    def history(self) -> Past:
        """Where to put down what happened to it."""
        if self.past is None:
            self.past = Past()
        return self.past

    def rises(self, progress: bytes) -> bool:
        """May this progress be told? A repeated call tells nothing again: values must increase (MCP, "Progress")."""
        past = self.history()
        if past.floor is not None:
            value = _number(progress)
            if value is None or value <= past.floor:
                return False
        past.told = progress
        return True

    def abandon(self) -> None:
        """Nobody reads any more, and the hosted server is not told: drop what comes."""
        self.release()
        self.done = True

    def watch(self, tell: Callable[[], None]) -> None:
        """Call `tell` once, at the next `wake`: for who does not `wait`. It must not raise."""
        self._watcher = tell

    def wake(self) -> None:
        """Let `wait` return, or tell who watches, whether or not there is something."""
        tell = self._watcher
        if tell is not None:
            self._watcher = None
            tell()
            return
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _number(raw: bytes) -> float | None:
    try:
        value: object = msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
