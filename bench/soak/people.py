"""Who calls in a soak: clients of both eras, who list, call, stream, cancel, open sessions, and leave unheard."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import httpx2

from bench.soak import lean, story
from support import wire
from support.clients import Endpoint

_PATIENCE_S: Final = 240.0
"""An answer that takes longer never comes. A machine that does much else starts a Python server in half a minute."""
_SIZES: Final = (1, 20, 300, 5_000, 60_000)
_NEVER_HELD_S: Final = 60.0


class Server(NamedTuple):
    """A deployed server, and who may call it."""

    place: story.Place
    endpoint: Endpoint
    legacy: bool
    """Whether clients of the legacy era can use it."""
    often: int
    """How often it is visited, beside the others."""


class Broken(Exception):
    """An error instead of an answer; the text tells it."""


class Gate:
    """Open while there is load; closed, everybody finishes what they do and waits."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._inside = 0

    def open(self) -> None:
        """Let everybody go on."""
        self._open.set()

    async def close(self) -> None:
        """Return when nobody is inside any more."""
        self._open.clear()
        await self._idle.wait()

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncGenerator[None]:
        """Wait until it is open, and be inside."""
        await self._open.wait()
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()


class Person:
    """One client, which visits one server after the other."""

    def __init__(self, number: int, servers: Sequence[Server], told: story.Story, gate: Gate, pause_s: float) -> None:
        self._random = random.Random(number)
        self._servers = servers
        self._told = told
        self._gate = gate
        self._pause_s = pause_s
        self._next = 0

    async def live(self) -> None:
        """Visit until cancelled."""
        while True:
            async with self._gate.enter():
                limits = httpx2.Limits(max_connections=8, max_keepalive_connections=4)
                async with httpx2.AsyncClient(timeout=_PATIENCE_S, limits=limits) as http:
                    for _ in range(self._random.randrange(1, 6)):
                        await self._visit(http)
                        await asyncio.sleep(self._random.random() * self._pause_s)

    async def _visit(self, http: httpx2.AsyncClient) -> None:
        [server] = self._random.choices(self._servers, [one.often for one in self._servers])
        caller = wire.Caller(http, server.endpoint)
        if server.legacy and self._random.random() < 0.4:
            await _Session(server, caller, self._told, self._random, self._number).run()
            return
        doings = [("call", self._call), ("call", self._call), ("list", self._list)]
        doings += [("stream", self._stream), ("cancel", self._cancel)]
        what, do = self._random.choice(doings)
        await attempt(self._told, server.place, f"modern {what}", time.monotonic(), lambda: do(caller))

    def _number(self) -> int:
        self._next += 1
        return self._next

    async def _call(self, caller: wire.Caller) -> None:
        number, text = self._number(), _text(self._random)
        answer = await caller.modern("tools/call", _called("echo", text=text), number)
        right(message(answer), number, text)

    async def _list(self, caller: wire.Caller) -> None:
        number = self._number()
        listed(message(await caller.modern("tools/list", id_=number)), number)

    async def _stream(self, caller: wire.Caller) -> None:
        number, n = self._number(), self._random.randrange(1, 12)
        async with caller.streaming(*wire.modern("tools/call", _counting(n), number)) as stream:
            await counted(stream, number, n)

    async def _cancel(self, caller: wire.Caller) -> None:
        number = self._number()
        # Hanging up is how the modern era cancels.
        async with caller.streaming(*wire.modern("tools/call", _called("hold", token="t"), number)) as stream:
            await progress(stream)


class _Session:
    """One legacy session, from `initialize` to its end, or to its client's."""

    def __init__(
        self,
        server: Server,
        caller: wire.Caller,
        told: story.Story,
        chance: random.Random,
        number: Callable[[], int],
    ) -> None:
        self._server = server
        self._caller = caller
        self._told = told
        self._random = chance
        self._number = number
        self._id = ""
        self._well = time.monotonic()

    async def run(self) -> None:
        """All of it. It is over at the first error."""
        if not await self._try("open", self._open):
            return
        listening = asyncio.ensure_future(self._listen()) if self._random.random() < 0.3 else None
        try:
            doings = [("call", self._call), ("call", self._call), ("list", self._list)]
            doings += [("stream", self._stream), ("cancel", self._cancel)]
            for _ in range(self._random.randrange(0, 8)):
                if not await self._try(*self._random.choice(doings)):
                    return
            if self._random.random() < 0.5:
                await self._try("end", self._end)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def _try(self, what: str, do: Callable[[], Awaitable[None]]) -> bool:
        began = time.monotonic()
        done = await attempt(self._told, self._server.place, f"legacy {what}", self._well, do)
        self._well = began if done else self._well
        return done

    async def _open(self) -> None:
        answer = await self._caller.legacy(None, "initialize", wire.hello(), 0)
        said = message(answer)
        if "result" not in said:
            raise Broken(str(said)[:300])
        self._id = answer.headers["mcp-session-id"]
        told = await self._caller.legacy(self._id, "notifications/initialized", id_=None)
        if told.status_code != 202:
            raise Broken(f"HTTP {told.status_code}: {told.text[:300]}")

    async def _listen(self) -> None:
        with contextlib.suppress(AssertionError, httpx2.HTTPError, StopAsyncIteration, TimeoutError):
            async with self._caller.listening(self._id) as stream:
                while True:
                    await stream.line()

    async def _call(self) -> None:
        number, text = self._number(), _text(self._random)
        answer = await self._caller.legacy(self._id, "tools/call", _called("echo", text=text), number)
        right(message(answer), number, text)

    async def _list(self) -> None:
        number = self._number()
        listed(message(await self._caller.legacy(self._id, "tools/list", id_=number)), number)

    async def _stream(self) -> None:
        number, n = self._number(), self._random.randrange(1, 12)
        async with self._caller.streaming(*wire.legacy(self._id, "tools/call", _counting(n), number)) as stream:
            await counted(stream, number, n)

    async def _cancel(self) -> None:
        number = self._number()
        asked = wire.legacy(self._id, "tools/call", _called("hold", token="t"), number)
        async with self._caller.streaming(*asked) as stream:
            await progress(stream)
            told = await self._caller.legacy(self._id, "notifications/cancelled", {"requestId": number}, None)
            if told.status_code != 202:
                raise Broken(f"HTTP {told.status_code}: {told.text[:300]}")

    async def _end(self) -> None:
        status = await self._caller.end(self._id)
        if status not in (200, 204):
            raise Broken(f"HTTP {status} to DELETE")


async def attempt(
    told: story.Story, place: story.Place, what: str, began: float, do: Callable[[], Awaitable[None]]
) -> bool:
    """Do it, and tell how it went; whether it went well. An error is explained by a kill since `began`."""
    now = time.monotonic()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await do()
    except story.WrongError as error:
        told.wrong(place, what, f"wrong: {error}")
    except TimeoutError:
        told.wrong(place, what, f"nothing came in {_PATIENCE_S:.0f} s")
    except Broken as error:
        told.failed(story.Failure(place, what, str(error), began, time.monotonic()))
    except httpx2.HTTPError as error:
        # The platform itself is never killed: whatever happens behind it, it has to answer.
        told.wrong(place, what, f"the connection failed: {error!r}")
    else:
        told.well(what, time.monotonic() - now)
        return True
    return False


async def nothing_held(told: story.Story, servers: Sequence[Server]) -> None:
    """Every call that was cancelled is over, in the copies that all share. To be asked when all is quiet."""
    async with httpx2.AsyncClient(timeout=_PATIENCE_S) as http:
        await asyncio.gather(*(_nothing_held(told, server, wire.Caller(http, server.endpoint)) for server in servers))


async def _nothing_held(told: story.Story, server: Server, caller: wire.Caller) -> None:
    async def ask() -> None:
        said = message(await caller.modern("tools/call", _called("held")))
        while _text_of(said) != "0":
            if time.monotonic() > deadline:
                raise story.WrongError(f"calls go on that were cancelled: {said}")
            await asyncio.sleep(0.2)  # a cancellation is told to the server without an answer
            said = message(await caller.modern("tools/call", _called("held")))

    deadline = time.monotonic() + _NEVER_HELD_S
    await attempt(told, server.place, "held", time.monotonic(), ask)


def _text(chance: random.Random) -> str:
    return f"{chance.random()} " * (chance.choice(_SIZES) // 10 + 1)


def _called(tool: str, token: str | None = None, **arguments: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    return params if token is None else {**params, "_meta": {"progressToken": token}}


def _counting(n: int) -> dict[str, Any]:
    return _called("count", token="t", n=n, pause=0.01)


def message(answer: httpx2.Response) -> dict[str, Any]:
    """The response in an answer. Raises Broken for anything but 200."""
    if answer.status_code != 200:
        raise Broken(f"HTTP {answer.status_code}: {answer.text[:300]}")
    return wire.messages(answer)[-1]


def right(said: dict[str, Any], number: int, text: str) -> None:
    """Raises Broken for an error, WrongError for another answer than the one to this call."""
    if _text_of(said) != text or said.get("id") != number:
        raise story.WrongError(f"{number} was answered by {str(said)[:300]}")


def _text_of(said: dict[str, Any]) -> str:
    if "error" in said:
        raise Broken(str(said["error"])[:300])
    return str(said["result"]["content"][0]["text"])


def listed(said: dict[str, Any], number: int) -> None:
    """The same for a list of tools."""
    if "error" in said:
        raise Broken(str(said["error"])[:300])
    if said.get("id") != number or {one["name"] for one in said["result"]["tools"]} != set(lean.TOOLS):
        raise story.WrongError(f"{number} was answered by {str(said)[:300]}")


async def progress(stream: wire.Stream) -> None:
    """The first message on a stream is a notification of progress."""
    if stream.status != 200:
        raise Broken(f"HTTP {stream.status}: {' '.join(await stream.end())[:300]}")
    try:
        said = await stream.message()
    except StopAsyncIteration:
        raise Broken("the stream ended before its first message") from None
    if "error" in said:
        raise Broken(str(said["error"])[:300])
    if said.get("method") != "notifications/progress":
        raise story.WrongError(str(said)[:300])


async def counted(stream: wire.Stream, number: int, n: int) -> None:
    """Progress `n` times, then the answer."""
    for _ in range(n):
        await progress(stream)
    try:
        said = await stream.message()
    except StopAsyncIteration:
        raise Broken("the stream ended before the answer") from None
    right(said, number, "over")
