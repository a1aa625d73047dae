"""Legacy sessions (MCP 2025-11-25, "Session Management"): one client, one copy of a server, until it ends.

A session is bound to principal, tenant, server and deployment: an id that is presented by anybody else, or on another
path, looks exactly like one that never was (CVE-2026-52869, agentgateway GHSA-mvgg-jvj2-4frq). It is never a
credential. Clients seldom send DELETE, so sessions end by idle time, by age, and at a cap per principal, where the
longest-idle one makes room.

Each is on record before its client learns its id (`kept`), so that it goes on after a restart of the platform. What is
on record of a principal is read once, when it first shows a session or wants one: from then on memory knows all of its
sessions, and an id that it does not know costs no look into the store.
"""

import asyncio
import collections
import math
from collections.abc import Callable
from typing import Final

from smcp.access import policy
from smcp.gateway import kept, living
from smcp.kernel import clock, errors, ids, observe
from smcp.runtime import driver

Session = living.Session
Stream = living.Stream

_TOUCH_S: Final = 60.0
"""How old `used` on record may be."""
_PRINCIPALS: Final = 1024
"""Principals without a session that are known to have none."""
_SHORT_S: Final = 10.0
"""A copy that ends sooner than this after it was given to a session was of no use to it."""


class Sessions:
    """Every legacy session of this node."""

    def __init__(
        self,
        release: Callable[[driver.Instance, str], None],
        records: kept.Kept,
        time: clock.Clock,
        metrics: observe.Metrics,
        *,
        idle_s: float,
        max_s: float,
        per_principal: Callable[[ids.TenantId], int],
    ) -> None:
        """`release` ends a session's copy in the background (`pool.Pool.release_soon`).

        `per_principal`: how many sessions a principal of a tenant may have.
        """
        self._release = release
        self._records = records
        self._clock = time
        self._idle_s = idle_s
        self._max_s = max_s
        self._touch_s = min(_TOUCH_S, idle_s / 4)
        self._per_principal = per_principal
        self._listeners: list[Callable[[Session, str], None]] = []
        self._by_id: dict[str, Session] = {}
        """Those whose id was shown to this process."""
        self._by_name: dict[tuple[ids.TenantId, str], Session] = {}
        """All that this process knows."""
        self._by_principal: dict[living.Key, dict[str, Session]] = {}
        """A principal that is here has been read; its sessions by name."""
        self._loading: dict[living.Key, asyncio.Task[None]] = {}
        self._live: dict[tuple[ids.TenantId, str], tuple[str, float]] = {}
        """Deployments that went live since this process began, and how long sessions of earlier ones may go on."""
        self._left: set[tuple[ids.TenantId, kept.Place]] = set()
        """Records of sessions that have ended, which could not be removed yet."""
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False
        self._duration = metrics.histogram(observe.Metric.SESSION_DURATION)
        metrics.watch(observe.Metric.SESSIONS, lambda: float(len(self._by_name)))

    # --- life ---

    async def start(self) -> None:
        """Begin to end what has expired, and to bring records up to date."""
        self._sweeper = asyncio.create_task(self._sweep(), name="session-sweeper")

    async def close(self) -> None:
        """Bring the records up to date, and end the sessions that can't go on; copies are ended by the pool."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self._closed = True
        for session in list(self._by_name.values()):
            # One that nobody has asked for yet is left as it is.
            if session.recorded and (session.bridged or session.replays or session.target is None):
                if session.used != session.wrote:
                    self.note(session)
            else:
                self.end(session, "stopped")
        await self._records.close()

    def listen(self, told: Callable[[Session, str], None]) -> None:
        """`told` hears of each session's end from now on, with the reason in one word. It must not raise."""
        self._listeners.append(told)

    def end_streams(self) -> None:
        """Close every GET stream; the sessions stay."""
        for session in self._by_id.values():
            session.close_stream()

    # --- one principal's ---

    async def load(self, key: living.Key) -> None:
        """From now on memory knows every session of a principal. Raises `errors.Unavailable`."""
        if key in self._by_principal:
            return
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._load(key))
            loading.add_done_callback(lambda _: self._loading.pop(key))
        await asyncio.shield(loading)

    async def _load(self, key: living.Key) -> None:
        found = await self._records.of(*key)
        if len(self._by_principal) >= _PRINCIPALS:
            # Who has none now is read again when there is a reason to: none is forgotten.
            self._by_principal = {one: mine for one, mine in self._by_principal.items() if mine}
        self._by_principal.setdefault(key, {})
        for place, record in found.items():
            session = Session(
                self, key, ids.ServerName(place.server), place.name, record.deployment, record.version, record.created
            )
            now, since = self._clock.monotonic(), self._records.now()
            # A clock that was set back makes nobody older than now.
            session.created = now - max(0.0, since - record.created)
            session.used = session.wrote = now - max(0.0, since - record.used)
            session.until = now + record.until - since if record.until else math.inf
            session.bridged, session.stamp, session.client = record.bridged, record.stamp, record.client
            session.hello, session.greeted, session.level = record.hello, record.greeted, record.level
            session.subscriptions = dict.fromkeys(record.subscriptions)
            if record.bridged:
                session.missed = living.EVERYTHING
            session.recorded = True
            self._add(session)
            if self._expired(session):
                self.end(session, "expired")

    def make_room(self, principal: policy.Principal) -> None:
        """End the longest-idle session of a principal that is at its cap, before a new one's copy is started.

        Behind `load`.
        """
        mine = self._by_principal.get((principal.tenant, principal.id), {})
        most = self._per_principal(principal.tenant)
        while len(mine) >= most:
            idlest = min(mine.values(), key=lambda one: (one.busy > 0, one.used))
            self.end(idlest, "replaced")

    async def most(self, tenant: ids.TenantId) -> int:
        """How many sessions the principal of a tenant has that has most of them. Raises `errors.Unavailable`."""
        stored = collections.Counter(place.principal for place in await self._records.of(tenant))
        mine = {key[1]: len(mine) for key, mine in self._by_principal.items() if key[0] == tenant}
        return max({**stored, **mine}.values(), default=0)

    # --- one session ---

    def open(
        self,
        principal: policy.Principal,
        server: ids.ServerName,
        deployment: str,
        instance: driver.Instance | None,
        version: str,
        *,
        bridged: bool = False,
    ) -> Session:
        """A new session around a copy that has answered `initialize`, or without one; `keep` follows. Behind `load`.

        Raises `errors.Unavailable` when another deployment has gone live meanwhile, which leaves no time to this one.
        """
        key = (principal.tenant, principal.id)
        live, drain_s = self._live.get((principal.tenant, server), (deployment, 0.0))
        if live != deployment and drain_s <= 0 and not bridged:
            raise errors.Unavailable("Another version of this server was deployed just now. Send initialize again.")
        session_id = ids.token(256)
        name = self._records.name(principal.tenant, session_id)
        session = Session(self, key, server, name, deployment, version, self._records.now())
        session.id = session_id
        session.instance = instance
        session.client = principal.client
        session.bridged = bridged
        self._by_id[session_id] = session
        self._add(session)
        # Its copy was started before: `retire` has not seen it.
        self.drain(session, live, drain_s)
        return session

    async def keep(self, session: Session) -> None:
        """Put a new session on record: before that, its id must not be told to anybody.

        Where the tenant's storage is full the session is not kept, and ends with the platform. Raises
        `errors.Unavailable`; then it has ended.
        """
        session.recorded = True
        try:
            await self._put(session)
        except errors.QuotaExceeded:
            session.recorded = False
        except BaseException:
            self.end(session, "refused")
            raise

    def note(self, session: Session) -> None:
        """Something about a session has changed: bring its record up to date, soon."""
        if session.recorded:
            self._put(session)

    def find(
        self, session_id: str, principal: policy.Principal, tenant: ids.TenantId, server: ids.ServerName
    ) -> Session | None:
        """The session, if its id was shown before; None says nothing: ask `resume`. The hot path, without an await."""
        session = self._by_id.get(session_id)
        if (
            session is None
            or session.key != (principal.tenant, principal.id)
            or session.tenant != tenant
            or session.server != server
            or self._expired(session)
        ):
            return None
        session.used = self._clock.monotonic()
        return session

    async def resume(
        self, session_id: str, principal: policy.Principal, tenant: ids.TenantId, server: ids.ServerName
    ) -> Session:
        """The session, also one that is only on record yet; it may have no copy. No copy is started here.

        Raises `errors.SessionNotFound` for everything else, always the same and after the same work.
        """
        key = (principal.tenant, principal.id)
        await self.load(key)
        session = self._by_name.get((principal.tenant, self._records.name(principal.tenant, session_id)))
        if (
            session is None
            or session.key != key
            or session.tenant != tenant
            or session.server != server
            or self._expired(session)
        ):
            raise errors.SessionNotFound
        session.id = session_id
        self._by_id[session_id] = session
        session.used = self._clock.monotonic()
        return session

    def there_is(self, session_id: str, tenant: ids.TenantId) -> bool:
        """Has this process met such a session of the tenant, whoever's it is? For the trail: no caller may learn it."""
        return (tenant, self._records.name(tenant, session_id)) in self._by_name

    def lost(self, session: Session) -> None:
        """A session's copy is gone by itself, or was called off."""
        instance = session.instance
        if self._closed or instance is None or instance.alive:
            return
        if not session.replays:
            self.end(session, "died")
            return
        now = self._clock.monotonic()
        session.falls = session.falls + 1 if now - session.since < _SHORT_S else 0
        session.instance = None
        self._release(instance, "it has ended")
        # Who listens must come back, or would wait for what nobody says any more.
        session.close_stream()

    def end(self, session: Session, reason: str) -> "asyncio.Future[None] | None":
        """End a session, its copy and its record, for a reason in one word. Idempotent.

        The future is done when the record is gone.
        """
        if session.over:
            return None
        session.over = True
        del self._by_name[session.tenant, session.name]
        self._by_id.pop(session.id, None)
        del self._by_principal[session.key][session.name]
        removed = self._drop(session.tenant, session.place) if session.recorded else None
        session.recorded = False
        for told in self._listeners:
            told(session, reason)
        self._duration.observe(self._clock.monotonic() - session.created)
        session.close_stream()
        if session.instance is not None:
            self._release(session.instance, f"its session ended: {reason}")
        for instance, number in list(session.running):
            # Its copies go on, for others.
            instance.calls.cancel(number, "its session ended", errors.SessionNotFound())
        return removed

    # --- many of them ---

    async def end_all(
        self,
        tenant: ids.TenantId,
        reason: str,
        *,
        server: str = "",
        principal: str = "",
        client: str = "",
        bridged: bool = True,
    ) -> None:
        """End every session of a tenant, or of one server, principal or OAuth client of it; returns when no record is
        left.

        Those that have no copy of their own stay without `bridged`. Raises `errors.Unavailable`; then those that this
        process knows have ended, and records that are left are removed once that is possible.
        """
        removed = self._drop_left(tenant)
        if not (principal or client):
            for at in [at for at in self._live if at[0] == tenant and server in ("", at[1])]:
                del self._live[at]  # it may be an earlier one that answers next

        def end_known() -> None:
            for session in list(self._by_name.values()):
                if session.tenant != tenant or (session.bridged and not bridged):
                    continue
                if (
                    server in ("", session.server)
                    and principal in ("", session.key[1])
                    and client in ("", session.client)
                ):
                    gone = self.end(session, reason)
                    if gone is not None:
                        removed.append(gone)

        end_known()
        for place in await self._records.of(tenant, principal):
            await self.load((tenant, place.principal))
        end_known()
        await self._records.flush()
        await asyncio.gather(*removed)

    async def revoked(self, tenant: ids.TenantId, principal: str) -> None:
        """A principal's credential is worth nothing any more: its sessions end. Raises as `end_all`."""
        await self.end_all(tenant, "revoked", principal=principal)

    async def client_revoked(self, tenant: ids.TenantId, client: str) -> None:
        """As `revoked`, for an OAuth client: what it has opened for people, and for itself."""
        await self.end_all(tenant, "revoked", client=client)

    def retire(self, tenant: ids.TenantId, server: ids.ServerName, live: str, drain_s: float) -> None:
        """Deployment `live` has taken over: sessions of others end when their time is over."""
        self._live[tenant, server] = live, drain_s
        for session in list(self._by_name.values()):
            if session.tenant == tenant and session.server == server:
                self.drain(session, live, drain_s)

    def drain(self, session: Session, live: str, drain_s: float) -> None:
        """`live` is the deployment that answers: a session of another one has `drain_s` seconds to finish, or less."""
        if session.bridged:
            return
        now = self._clock.monotonic()
        until = math.inf if session.deployment == live else min(session.until, now + drain_s)
        if until <= now:
            self.end(session, "replaced")
        elif until != session.until:
            session.until = until
            self.note(session)

    def __len__(self) -> int:
        return len(self._by_name)

    def now(self) -> float:
        """The monotonic time that sessions are measured with."""
        return self._clock.monotonic()

    # --- inside ---

    def _add(self, session: Session) -> None:
        self._by_name[session.tenant, session.name] = session
        self._by_principal.setdefault(session.key, {})[session.name] = session

    def _drop(self, tenant: ids.TenantId, place: kept.Place) -> "asyncio.Future[None]":
        removed = self._records.drop(tenant, place)

        def heard(done: "asyncio.Future[None]") -> None:
            # With its record, a session would come back with the next start of the platform: the sweeper tries again.
            if not done.cancelled() and done.exception() is not None:
                self._left.add((tenant, place))

        removed.add_done_callback(heard)
        return removed

    def _drop_left(self, tenant: ids.TenantId | None = None) -> "list[asyncio.Future[None]]":
        left = {one for one in self._left if tenant in (None, one[0])}
        self._left -= left
        return [self._drop(*one) for one in left]

    def _put(self, session: Session) -> "asyncio.Future[None]":
        now, since = self._clock.monotonic(), self._records.now()
        session.wrote = session.used
        used = since - (now - session.used)
        until = since + session.until - now if session.until != math.inf else 0.0
        record = kept.Record(
            deployment=session.deployment,
            version=session.version,
            created=session.born,
            used=used,
            bridged=session.bridged,
            hello=session.hello,
            greeted=session.greeted,
            level=session.level,
            subscriptions=tuple(session.subscriptions),
            stamp=session.stamp,
            until=until,
            client=session.client,
        )
        # A little longer than the session: `used` may be that much older on record than it is.
        ends = min(session.born + self._max_s, used + self._idle_s + 2 * self._touch_s, until or math.inf)
        return self._records.put(session.tenant, session.place, record, ends)

    def _expired(self, session: Session) -> bool:
        now = self._clock.monotonic()
        idle = session.busy == 0 and session.stream is None and now - session.used > self._idle_s
        return idle or now - session.created > self._max_s or now >= session.until

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_s / 8, self._touch_s / 2, 15.0))
            self.sweep()

    def sweep(self) -> None:
        """End what has expired, and bring the records of those at work up to date."""
        self._drop_left()
        now = self._clock.monotonic()
        for session in list(self._by_name.values()):
            if self._expired(session):
                self.end(session, "replaced" if now >= session.until else "expired")
                continue
            if session.busy or session.stream is not None:
                session.used = now
            if session.used - session.wrote >= self._touch_s:
                self.note(session)
