"""Change notices of modern servers for the GET streams of legacy sessions.

A legacy session hears that a list or a resource changed without asking, or after `resources/subscribe`; a modern server
tells it to who listens (`subscriptions/listen`). One such call, a `Feed`, stands for all sessions that share copies of
a server: it wants what they want together, and each of them gets what is for it.

A feed begins with the first GET stream and ends a while after the last one. It asks anew when somebody subscribes to
more, and drops the earlier call once the new one is acknowledged. When its copy is gone it listens to another one that
runs. It keeps a copy running, or starts one, only while a session that has a stream has subscribed to a resource: a
copy that could change no more than its lists is stopped when it is idle. After any time in which nobody listened every
session is told once, with its next stream, that the lists and its resources may have changed.

A session without a stream costs nothing here but what it has missed, each thing once. No session has a task.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

from smcp.gateway import living, targets
from smcp.kernel import errors, ids, observe
from smcp.protocol import translate
from smcp.runtime import calls, driver, groups, pool

URIS: Final = 64
"""Resources that one session may watch."""
URI_BYTES: Final = 8192
_FEED_URIS: Final = 1024
_FEED_BYTES: Final = 262_144
"""What one call asks for, for all sessions together."""
_LINGER_S: Final = 30.0
"""How long a feed goes on without a stream: who lost a connection comes back sooner."""
_LONGEST_PAUSE_S: Final = 60.0
_MISSED: Final = URIS + 8
_TOO_MANY: Final = f"A session may watch {URIS} resources, whose names have {URI_BYTES} bytes together: leave some."
_TOO_MANY_HERE: Final = "The sessions of this server watch as many resources as they may. Use `resources/read` instead."

_Key = tuple[ids.TenantId, ids.ServerName, str]
"""Tenant, server, and who shares."""


class Feed:
    """The sessions that share copies of a server, and the call that listens for them."""

    def __init__(self, feeds: "Feeds", key: _Key) -> None:
        self._feeds = feeds
        self.key = key
        self.members: set[living.Session] = set()
        """Those that are to hear of changes."""
        self.open: set[living.Session] = set()
        """Those of them that have a stream now."""
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._since = 0.0
        """Since when nobody has a stream."""
        self._instance: driver.Instance | None = None
        self._number = 0
        self._call: calls.Call | None = None
        self._asked: frozenset[str] = frozenset()
        self._keeps = False
        """The copy is kept running for it."""
        self._told = translate.Listened()
        """What the server has agreed to."""
        self._deployment = ""
        """What was live when it last looked."""
        self._deaf: driver.Instance | None = None
        """A copy that has nothing to tell."""
        self._pause = self._began = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    # --- from sessions ---

    def joined(self, session: living.Session) -> None:
        """A session has opened a stream."""
        self.members.add(session)
        self.open.add(session)
        if self._call is not None:
            self._flush(session)
        self.poke()

    def left(self, session: living.Session) -> None:
        """A session has no stream any more."""
        self.open.discard(session)
        self._since = time.monotonic()
        self._event.set()

    def poke(self) -> None:
        """Something has changed: look again."""
        self._event.set()
        if self._task is None and self.open:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="feed")

    def room(self, uri: str) -> bool:
        """May this resource be watched, too?"""
        uris = self._wanted() | {uri}
        return len(uris) <= _FEED_URIS and sum(map(len, uris)) <= _FEED_BYTES

    async def covered(self, uri: str, seconds: float) -> bool:
        """Return when the server was asked for notices about `uri`: has it agreed?

        Raises what kept it from being asked, or `errors.ServerTimeout`.
        """
        try:
            async with asyncio.timeout(seconds):
                while uri not in self._asked or self._call is None:
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiter)
                    self.poke()
                    await waiter
        except TimeoutError as error:
            raise errors.ServerTimeout("The hosted MCP server did not say in time that it listens.") from error
        return uri in self._told.uris

    def watches(self, uri: str) -> bool:
        """Does the server tell of changes of `uri` now?"""
        return self._call is not None and uri in self._told.uris

    # --- the call ---

    def _wanted(self) -> set[str]:
        return {uri for session in self.open for uri in session.subscriptions}

    async def _run(self) -> None:
        try:
            while self.open or time.monotonic() < self._since + _LINGER_S:
                self._event.clear()
                try:
                    await self._turn()
                except errors.SmcpError as error:
                    self._lost()
                    self._heard(error)
                    self._pause = min(_LONGEST_PAUSE_S, 2 * self._pause or 1.0)
                    await self._sleep(self._pause)
        except Exception as error:
            # Nobody waits for this task: a fault of ours must be told, and its sessions hear of the end below.
            self._feeds.log.error("a feed of notices failed", exc_info=error)
        finally:
            self._lost()
            self._heard(errors.Unavailable("Nobody listens to this server any more. Retry."))
            self._task = None
            self._feeds.tidy(self.key)

    async def _turn(self) -> None:
        """Listen to what is wanted, hand on what has come, and wait for more."""
        wanted = self._wanted()
        other = self._call is None or not wanted <= self._asked or bool(wanted) != self._keeps
        if self.open and other:
            await self._listen(frozenset(wanted))
        call = self._call
        if call is not None:
            self._hand_on(call)
            if call.done:
                if time.monotonic() - self._began > _LONGEST_PAUSE_S:
                    self._pause = 0.0
                raise call.failure or errors.ServerFailed("The hosted server tells of changes no more.")
            call.watch(self._event.set)
        await self._sleep(_LONGEST_PAUSE_S if self.open else self._since + _LINGER_S - time.monotonic())

    async def _sleep(self, seconds: float) -> None:
        """Return when there is something to do, or after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._event.wait()

    async def _listen(self, wanted: frozenset[str]) -> None:
        tenant, server, share = self.key
        target = await self._feeds.targets.find(tenant, server)
        if not shares(target) or (target.share == "tenant") != (share == ""):
            self._move(target)
            return
        if target.described is not None and not wanted and not translate.changes(target.described.capabilities):
            return
        instance = self._feeds.pool.peek(target.spec, share)
        if instance is None and wanted:
            instance = await self._feeds.pool.shared(target.spec, share)
            instance.principal = share
        before, self._deployment = self._deployment, target.spec.deployment
        if instance is None and before not in ("", self._deployment):
            # Nobody runs the new one yet: who is told now asks for its lists. It is told again when one runs.
            for session in list(self.open):
                self._tell(session, self._told.lists)
        if instance is None:
            return  # until one runs that others need
        if instance is self._deaf:
            self._heard(_silent())
            return
        params = translate.listen(wanted)
        number, call = instance.calls.ask(translate.LISTEN, params, background=not wanted)
        try:
            async with asyncio.timeout(self._feeds.patience_s):
                await call.wait()
        except TimeoutError as error:
            instance.calls.cancel(number, "timed out")
            call.release()
            raise errors.ServerTimeout from error
        if call.failure is not None:
            call.release()
            raise call.failure
        told = translate.listened(call.take()) if call.frames else None
        if told is None:
            # It refuses, has ended the call at once, or begins with something else.
            instance.calls.cancel(number, "it was not acknowledged")
            call.release()
            self._deaf = instance
            self._lost()
            self._heard(_silent())
            return
        self._take_over(instance, number, call, wanted, told)

    def _take_over(
        self,
        instance: driver.Instance,
        number: int,
        call: calls.Call,
        wanted: frozenset[str],
        told: translate.Listened,
    ) -> None:
        """The server has acknowledged `call`, which stands for the one before from now on."""
        before = self._call
        if before is not None:
            self._hand_on(before)
            self._close()
        self._instance, self._number, self._call = instance, number, call
        self._asked, self._keeps, self._told = wanted, bool(wanted), told
        self._deaf, self._began = None, time.monotonic()
        for session in list(self.members):
            if session in self.open:
                self._flush(session)
            else:
                for uri in session.subscriptions:
                    if uri not in told.uris:
                        _miss(session, translate.updated(uri))
        self._heard(None)

    def _hand_on(self, call: calls.Call) -> None:
        while call.frames:
            notice = translate.notice(call.take())
            if notice is None:
                continue
            for session in list(self.members):
                if notice.uri and not _watches(session, notice.uri):
                    continue
                if session in self.open:
                    session.stray(notice.line, notice.method)
                else:
                    _miss(session, notice.line)

    def _flush(self, session: living.Session) -> None:
        """Tell a session what it has missed."""
        missed, session.missed = session.missed, living.NOTHING
        if missed == living.EVERYTHING:
            lines = [*self._told.lists, *map(translate.updated, session.subscriptions)]
        else:
            lines = [*missed]
        self._tell(session, lines)

    @staticmethod
    def _tell(session: living.Session, lines: Iterable[bytes]) -> None:
        for line in lines:
            session.stray(line, "")

    def _lost(self) -> None:
        """Nobody listens now, and nobody knows what happens meanwhile. Idempotent."""
        if self._call is not None:
            self._close()
            for session in self.members:
                session.missed = living.EVERYTHING

    def _close(self) -> None:
        if self._call is not None and self._instance is not None:
            self._instance.calls.cancel(self._number, "nobody listens")
            self._call.release()
        self._instance, self._call = None, None

    def _heard(self, failure: errors.SmcpError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                if failure is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(failure)

    def _move(self, target: targets.Target) -> None:
        """Others share a copy now, since another deployment says so, or nobody does."""
        self._lost()
        self._heard(errors.Unavailable("Another version of this server was deployed just now. Retry."))
        members, opened = list(self.members), set(self.open)
        self.members.clear()
        self.open.clear()
        for session in members:
            feed = self._feeds.of(session, target)
            if feed is not None:
                feed.members.add(session)
                session.missed = living.EVERYTHING
                if session in opened:
                    feed.joined(session)

    def close(self) -> "asyncio.Task[None] | None":
        """Listen no more; the task that ends, if there is one."""
        if self._task is not None:
            self._task.cancel()
        return self._task


class Feeds:
    """Every feed of this node."""

    def __init__(self, found: targets.Targets, copies: pool.Pool, log: observe.Logger, *, patience_s: float) -> None:
        """`patience_s`: seconds for a server to acknowledge that it was asked to tell of changes."""
        self.targets = found
        self.pool = copies
        self.log = log
        self.patience_s = patience_s
        self._feeds: dict[_Key, Feed] = {}
        copies.when_ready(self._ready)

    def __len__(self) -> int:
        return len(self._feeds)

    def of(self, session: living.Session, target: targets.Target) -> Feed | None:
        """The feed of a session's server; None where no copy is shared."""
        if not shares(target):
            return None
        key = session.tenant, session.server, "" if target.share == "tenant" else session.key[1]
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(self, key)
        return feed

    def joined(self, session: living.Session, target: targets.Target | None) -> None:
        """A session has opened its stream."""
        feed = None if target is None or not session.bridged else self.of(session, target)
        if feed is not None:
            feed.joined(session)

    def left(self, session: living.Session) -> None:
        """A stream of a session has ended; perhaps another one has taken its place."""
        if session.bridged and session.stream is None:
            for feed in self._mine(session):
                feed.left(session)

    def ended(self, session: living.Session, reason: str) -> None:
        """A session has ended (`sessions.Sessions.listen`)."""
        if session.bridged:
            for feed in self._mine(session):
                feed.members.discard(session)
                feed.left(session)
                self.tidy(feed.key)

    def _mine(self, session: living.Session) -> list[Feed]:
        keys = [(session.tenant, session.server, share) for share in ("", session.key[1])]
        return [feed for key in keys if (feed := self._feeds.get(key)) is not None and session in feed.members]

    async def subscribe(self, session: living.Session, target: targets.Target, uri: str) -> None:
        """From now on the session hears of changes of `uri`, with its next stream where it has none.

        Raises `errors.InvalidParams` for one too many or that the server has no notices of, or what keeps it from being
        asked.
        """
        feed = self.of(session, target)
        if feed is None:
            raise errors.MethodNotFound("No copy of this server is shared: it has no resources that can be watched.")
        known = uri in session.subscriptions
        size = len(uri) + sum(map(len, session.subscriptions))
        many = not known and (len(session.subscriptions) >= URIS or size > URI_BYTES)
        if many or not feed.room(uri):
            self.tidy(feed.key)
            raise errors.InvalidParams(_TOO_MANY if many else _TOO_MANY_HERE)
        session.subscriptions[uri] = None
        feed.members.add(session)
        if session not in feed.open:
            if not feed.watches(uri):
                _miss(session, translate.updated(uri))
        else:
            try:
                if not await feed.covered(uri, self.patience_s):
                    raise errors.InvalidParams("The server does not tell of changes of this resource.")
            except errors.SmcpError:
                if not known:
                    session.subscriptions.pop(uri, None)
                raise
        session.table.note(session)

    def unsubscribe(self, session: living.Session, uri: str) -> None:
        """The session hears of `uri` no more."""
        if session.subscriptions.pop(uri, uri) is None:
            session.table.note(session)
            session.missed -= {translate.updated(uri)}
            for feed in self._mine(session):
                feed.poke()

    def tidy(self, key: _Key) -> None:
        """Forget a feed that nobody needs."""
        feed = self._feeds.get(key)
        if feed is not None and not feed.members:
            del self._feeds[key]
            feed.close()

    def _ready(self, key: groups.Key) -> None:
        """A shared copy has come."""
        feed = self._feeds.get((key[0], key[1], key[3]))
        if feed is not None:
            feed.poke()

    async def deployed(self, tenant: ids.TenantId, server: ids.ServerName, deployment: str) -> None:
        """Another deployment is live."""
        for key, feed in list(self._feeds.items()):
            if key[:2] == (tenant, server):
                feed.poke()

    async def close(self) -> None:
        """Listen no more."""
        ending = [task for feed in list(self._feeds.values()) if (task := feed.close()) is not None]
        await asyncio.gather(*ending, return_exceptions=True)


def _silent() -> errors.MethodNotFound:
    return errors.MethodNotFound("This server does not tell of changes.")


def shares(target: targets.Target) -> bool:
    """Do copies of it outlive a request, so that they can tell of something?"""
    return target.modern and target.share != "session"


def _watches(session: living.Session, uri: str) -> bool:
    # It may be a part of what was subscribed to (MCP 2025-11-25, schema: ResourceUpdatedNotification).
    return uri in session.subscriptions or any(
        uri.startswith(one if one.endswith("/") else one + "/") for one in session.subscriptions
    )


def _miss(session: living.Session, line: bytes) -> None:
    if session.missed != living.EVERYTHING:
        more = session.missed | {line}
        session.missed = more if len(more) <= _MISSED else living.EVERYTHING
