"""One legacy session as this process knows it, and the stream of its GET."""

import asyncio
import collections
import math
from collections.abc import Callable
from typing import Final, Protocol

from smcp.gateway import kept, targets
from smcp.kernel import ids, jsonrpc
from smcp.runtime import driver

HELLO_BYTES: Final = 16_384
"""Longest params of `initialize` that are kept; a session with longer ones can't go on in another copy."""
NOTED: Final = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Requests whose effect another copy of the server must be told of."""

_LISTS: Final = {
    "prompts": ("prompts/list",),
    "resources": ("resources/list", "resources/templates/list"),
    "tools": ("tools/list",),
}
"""Lists whose changes a server tells that says so in its capabilities."""
_QUEUE: Final = 256
"""Messages that wait for a session's GET stream; the oldest give way, here and at the next limit."""
_QUEUE_BYTES: Final = 4 * 1024 * 1024
_URIS: Final = 64
_URI_BYTES: Final = 8192
"""Subscriptions that are kept; a session with more can't go on in another copy."""

NOTHING: Final[frozenset[bytes]] = frozenset()
EVERYTHING: Final[frozenset[bytes]] = frozenset({b""})
"""What a session has missed: nobody knows; anything may have changed."""

Key = tuple[ids.TenantId, str]
"""Whose sessions: tenant and principal."""


class Table(Protocol):
    """Where a session is one of many: `sessions.Sessions`."""

    def now(self) -> float:
        """The monotonic time that sessions are measured with."""
        ...

    def lost(self, session: "Session") -> None:
        """Its copy is gone."""
        ...

    def note(self, session: "Session") -> None:
        """Its record is to be brought up to date."""
        ...


class Question(Protocol):
    """Who waits for a client's answer: `asking.Asking`."""

    def answer(self, told: str, message: jsonrpc.Message) -> None:
        """The answer to the question with our id `told`. Raises `errors.InvalidParams`."""
        ...


class Stream:
    """The one GET stream of a session. A new one replaces it."""

    def __init__(self) -> None:
        self.closed = False
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return at the next `wake`."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def wake(self) -> None:
        """There is something to send, or to notice."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Session(driver.Owner):
    """One legacy session. Times are the table's monotonic ones, but for `born`."""

    __slots__ = (
        "_held", "_queue", "born", "bridged", "busy", "client", "created", "deployment", "falls", "greeted", "hello",
        "id", "instance", "key", "level", "missed", "name", "over", "questions", "recorded", "replays", "reviving",
        "running", "server", "since", "sink", "stamp", "steady", "stream", "subscriptions", "table", "target",
        "tenant", "until", "used", "version", "wrote",
    )  # fmt: skip

    def __init__(
        self, table: Table, key: Key, server: ids.ServerName, name: str, deployment: str, version: str, born: float
    ) -> None:
        self.table = table
        self.id = ""
        """Empty until its client has shown it to this process."""
        self.name = name
        """What stands for the id elsewhere: in keys of the store."""
        self.key, self.tenant = key, key[0]
        self.client = ""
        """The OAuth client that opened it for its principal; empty where none did."""
        self.server, self.deployment = server, deployment
        self.target: targets.Target | None = None
        """Its deployment, ready to be started; None before it is needed, and with `bridged`."""
        self.instance: driver.Instance | None = None
        """Its own copy; None: it has none now, or never (`bridged`)."""
        self.bridged = False
        """Its requests go to copies that many share (`bridge`)."""
        self.stamp = b""
        """What a modern server is told with each request, JSON-encoded."""
        self.steady: frozenset[str] = frozenset()
        """Lists whose changes its server tells."""
        self.running: dict[tuple[driver.Instance, int], bytes] = {}
        """Calls in flight on shared copies, or between two copies: where, and their ids, perhaps all the same."""
        self.questions: dict[str, Question] = {}
        """What its client was asked in the calls of shared copies, by our ids; nobody but it knows them."""
        self.version = version
        self.born = born
        """When it began, seconds since the epoch."""
        self.created = self.used = self.since = table.now()
        """`since`: when it got its copy."""
        self.until = math.inf
        """When it ends, since another deployment is live."""
        self.busy = 0
        """Requests in flight: a busy session is not idle."""
        self.over = False
        """It has ended."""
        self.recorded = False
        """It is on record."""
        self.wrote = self.used
        """`used`, as it is on record."""
        self.hello = b""
        """The params of `initialize`; empty where they are too large to be kept."""
        self.greeted = False
        """`notifications/initialized` has come."""
        self.level = ""
        self.subscriptions: dict[str, None] = {}
        self.missed = NOTHING
        """Change notices, each once, that it is to be told with its next stream (`feeds`)."""
        self.replays = False
        """Another copy may take over, with the same handshake."""
        self.reviving: asyncio.Task[None] | None = None
        """Another copy is being made ready."""
        self.falls = 0
        """Copies in a row that were of no use."""
        self._queue: collections.deque[bytes] = collections.deque()
        self._held = 0
        self.stream: Stream | None = None
        self.sink: Callable[[bytes], None] | None = None
        """Takes what is for the GET stream, once one was opened (`replay`)."""

    @property
    def place(self) -> kept.Place:
        """Where its record is."""
        return kept.Place(self.key[1], self.server, self.name)

    def stray(self, data: bytes, method: str) -> None:
        """A message of the hosted server for the GET stream; it waits there until one is open."""
        if self.sink is not None:
            self.sink(data)
            return
        self._queue.append(data)
        self._held += len(data)
        while len(self._queue) > _QUEUE or (self._held > _QUEUE_BYTES and len(self._queue) > 1):
            self._held -= len(self._queue.popleft())
        if self.stream is not None:
            self.stream.wake()

    def waiting(self) -> bool:
        """Is there a message for the GET stream?"""
        return bool(self._queue)

    def take(self) -> bytes:
        """The oldest message for the GET stream. To be called when there is one."""
        data = self._queue.popleft()
        self._held -= len(data)
        return data

    def closed(self, reason: str) -> None:
        """The hosted server is gone; the session too, unless another copy may take over."""
        self.table.lost(self)

    def attach(self, stream: Stream) -> None:
        """A new GET stream, in place of an older one (client-quirk 4: a reconnect must not meet 409)."""
        self.close_stream()
        self.stream = stream

    def detach(self, stream: Stream) -> None:
        """A GET stream has ended."""
        if self.stream is stream:
            self.stream = None
            self.used = self.table.now()

    def close_stream(self) -> None:
        """End the GET stream, if there is one; its client may open another."""
        if self.stream is not None:
            self.stream.closed = True
            self.stream.wake()

    def promised(self, capabilities: object) -> None:
        """What its server said in `initialize` that it can do."""
        told = jsonrpc.obj(capabilities) or {}
        self.steady = frozenset(
            method
            for kind, methods in _LISTS.items()
            if (jsonrpc.obj(told.get(kind)) or {}).get("listChanged") is True
            for method in methods
        )

    def greet(self) -> None:
        """`notifications/initialized` has come."""
        if not self.greeted:
            self.greeted = True
            if not self.bridged:
                self.table.note(self)

    def noted(self, message: jsonrpc.Message) -> None:
        """The hosted server has granted one of `NOTED`."""
        if not self.replays:
            return  # no other copy will ask for it
        if message.method == "logging/setLevel":
            self.level = str(message.params.get("level", ""))[:64]
        else:
            uri = message.params.get("uri")
            if not isinstance(uri, str):
                return
            self.subscriptions.pop(uri, None)
            if message.method == "resources/subscribe":
                self.subscriptions[uri] = None
            if len(self.subscriptions) > _URIS or sum(map(len, self.subscriptions)) > _URI_BYTES:
                # Part of them would be lost in another copy, and nobody would know.
                self.subscriptions.clear()
                self.hello, self.replays = b"", False
        self.table.note(self)
