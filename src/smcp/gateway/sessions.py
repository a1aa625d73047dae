"""Legacy sessions (MCP 2025-11-25, "Session Management"): one client, one copy of a server, until it ends.

A session is bound to principal, tenant, server and deployment: an id that is presented by anybody else, or on another
path, looks exactly like one that never was (CVE-2026-52869, agentgateway GHSA-mvgg-jvj2-4frq). It is never a
credential. Clients seldom send DELETE, so sessions end by idle time, by age, and at a cap per principal, where the
longest-idle one makes room.
"""

import asyncio
import collections
from collections.abc import Callable
from typing import Final

from smcp.access import policy
from smcp.kernel import clock, errors, ids, observe
from smcp.runtime import driver

_QUEUE: Final = 256
"""Messages that wait for a session's GET stream; the oldest give way, here and at the next limit."""
_QUEUE_BYTES: Final = 4 * 1024 * 1024


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
    """One legacy session."""

    __slots__ = (
        "_held", "_queue", "busy", "created", "deployment", "id", "instance", "key", "running", "server", "stamp",
        "stream", "table", "tenant", "used", "version",
    )  # fmt: skip

    def __init__(
        self,
        table: "Sessions",
        key: tuple[str, str],
        tenant: ids.TenantId,
        server: ids.ServerName,
        deployment: str,
        instance: driver.Instance | None,
        version: str,
        now: float,
    ) -> None:
        self.table = table
        self.id = ids.token(256)
        self.key = key
        self.tenant = tenant
        self.server = server
        self.deployment = deployment
        self.instance = instance
        """Its own copy; None: its requests go to copies that many share (`bridge`)."""
        self.stamp = b""
        """What a modern server is told with each request, JSON-encoded."""
        self.running: dict[bytes, tuple[driver.Instance, int]] = {}
        """Calls in flight on shared copies: what the client calls them, and where they are."""
        self.version = version
        self.created = self.used = now
        self.busy = 0
        """Requests in flight: a busy session is not idle."""
        self._queue: collections.deque[bytes] = collections.deque()
        self._held = 0
        self.stream: Stream | None = None

    def stray(self, data: bytes, method: str) -> None:
        """A message of the hosted server for the GET stream; it waits there until one is open."""
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
        """The hosted server is gone, and the session with it."""
        self.table.end(self, "died")

    def attach(self) -> Stream:
        """A new GET stream, in place of an older one (client-quirk 4: a reconnect must not meet 409)."""
        if self.stream is not None:
            self.stream.closed = True
            self.stream.wake()
        self.stream = Stream()
        return self.stream

    def detach(self, stream: Stream) -> None:
        """A GET stream has ended."""
        if self.stream is stream:
            self.stream = None
            self.used = self.table.now()


class Sessions:
    """Every legacy session of this node."""

    def __init__(
        self,
        release: Callable[[driver.Instance, str], None],
        time: clock.Clock,
        metrics: observe.Metrics,
        *,
        idle_s: float,
        max_s: float,
        per_principal: Callable[[ids.TenantId], int],
        told: Callable[["Session", str], None],
    ) -> None:
        """`release` ends a session's copy in the background (`pool.Pool.release_soon`); `told` hears of each end.

        `per_principal`: how many sessions a principal of a tenant may have.
        """
        self._release = release
        self._clock = time
        self._idle_s = idle_s
        self._max_s = max_s
        self._per_principal = per_principal
        self._told = told
        self._by_id: dict[str, Session] = {}
        self._by_principal: dict[tuple[str, str], dict[str, Session]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._duration = metrics.histogram(observe.Metric.SESSION_DURATION)
        metrics.watch(observe.Metric.SESSIONS, lambda: float(len(self._by_id)))

    async def start(self) -> None:
        """Begin to end what has expired."""
        self._sweeper = asyncio.create_task(self._sweep(), name="session-sweeper")

    async def close(self) -> None:
        """Forget every session; their copies are ended by the pool."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for session in list(self._by_id.values()):
            self.end(session, "stopped")

    def end_streams(self) -> None:
        """Close every GET stream; the sessions stay."""
        for session in self._by_id.values():
            if session.stream is not None:
                session.stream.closed = True
                session.stream.wake()

    def make_room(self, principal: policy.Principal) -> None:
        """End the longest-idle session of a principal that is at its cap, before a new one's copy is started."""
        mine = self._by_principal.get((principal.tenant, principal.id), {})
        most = self._per_principal(principal.tenant)
        while len(mine) >= most:
            idlest = min(mine.values(), key=lambda one: (one.busy > 0, one.used))
            self.end(idlest, "replaced")

    def most(self, tenant: ids.TenantId) -> int:
        """How many sessions the principal of a tenant has that has most of them."""
        return max((len(mine) for key, mine in self._by_principal.items() if key[0] == tenant), default=0)

    def open(
        self,
        principal: policy.Principal,
        server: ids.ServerName,
        deployment: str,
        instance: driver.Instance | None,
        version: str,
    ) -> Session:
        """A new session around a copy that has answered `initialize`, or without a copy of its own."""
        key = (principal.tenant, principal.id)
        session = Session(self, key, principal.tenant, server, deployment, instance, version, self._clock.monotonic())
        self._by_id[session.id] = session
        self._by_principal.setdefault(key, {})[session.id] = session
        return session

    def find(
        self, session_id: str, principal: policy.Principal, tenant: ids.TenantId, server: ids.ServerName
    ) -> Session:
        """The live session. Raises `errors.SessionNotFound` for everything else, always the same."""
        session = self._by_id.get(session_id)
        if (
            session is None
            or session.key != (principal.tenant, principal.id)
            or session.tenant != tenant
            or session.server != server
            or self._expired(session)
        ):
            raise errors.SessionNotFound
        session.used = self._clock.monotonic()
        return session

    def end(self, session: Session, reason: str) -> None:
        """End a session and its copy, for a reason in one word. Idempotent."""
        self.ended(session, reason)
        if session.instance is not None:
            self._release(session.instance, f"its session ended: {reason}")

    def ended(self, session: Session, reason: str) -> None:
        """Forget a session whose copy is gone or going."""
        if self._by_id.pop(session.id, None) is None:
            return
        mine = self._by_principal[session.key]
        del mine[session.id]
        if not mine:
            del self._by_principal[session.key]
        self._told(session, reason)
        self._duration.observe(self._clock.monotonic() - session.created)
        if session.stream is not None:
            session.stream.closed = True
            session.stream.wake()

    def __len__(self) -> int:
        return len(self._by_id)

    def now(self) -> float:
        """The monotonic time that sessions are measured with."""
        return self._clock.monotonic()

    def _expired(self, session: Session) -> bool:
        now = self._clock.monotonic()
        idle = session.busy == 0 and session.stream is None and now - session.used > self._idle_s
        return idle or now - session.created > self._max_s

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_s / 4, 15.0))
            for session in [one for one in self._by_id.values() if self._expired(one)]:
                self.end(session, "expired")
