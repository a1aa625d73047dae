"""Browser sessions: what a sign-in opens, for the pages.

The cookie holds 256 random bits and nothing else; kept is a keyed digest. Each sign-in makes a new one, whatever the
browser brought along, so nobody can plant one (session fixation, OWASP Session Management, "Renew the Session ID"), and
ends the one that was there. A session ends after eight hours without a request, after seven days, when its person signs
out, and with the account's epoch.

`Session` is what `find` returns after all of that was looked at; it is good for the one request.
"""

from typing import Final, NamedTuple

import msgspec

from smcp.identity.accounts import users
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

IDLE_S: Final = 8 * 3600.0
LIFE_S: Final = 7 * 86400.0
RECENT_S: Final = 600.0
"""How long after a sign-in its person may change how they sign in, and read codes."""
COARSE_S: Final = 60.0
"""How exact `seen` is."""
MOST: Final = 20
"""Sessions of one person; a new one beyond ends the one that was idle longest."""

_MAX_AGENT: Final = 200
_PURPOSE: Final = "identity.browser session digest"


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """An open session."""

    id: str
    """`visit-…`: names it in lists and forms. No credential."""
    tenant: ids.TenantId
    user: str
    epoch: int
    created: float
    """When its person showed who they are."""
    seen: float
    """Within a minute."""
    methods: tuple[str, ...]
    address: str
    """Where it was opened."""
    agent: str
    """What the browser calls itself, cut and printable."""
    place: str = ""
    """Digest of the cookie: where the record stands."""

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, tenant={self.tenant!r}, user={self.user!r})"


class Opened(NamedTuple):
    """A new session and the value of its cookie, which is kept nowhere."""

    session: Session
    cookie: str

    def __repr__(self) -> str:
        return f"Opened(session={self.session!r}, cookie=…)"


class _Place(msgspec.Struct, frozen=True):
    """Where a person's session stands."""

    digest: str


class Found(NamedTuple):
    """An open session and whose it is, both as they are now."""

    session: Session
    user: users.User


class BrowserSessions:
    """The sessions of all tenants."""

    def __init__(self, store: stores.Store, people: users.Users, clock: clock.Clock) -> None:
        self._store = store
        self._users = people
        self._clock = clock
        self._records = records.Records(store, Session, ("browser",), cached=16_384)
        self._places = records.Records(store, _Place, ("browser-of",), cached=1024)
        people.when_ended.append(self._forget)

    async def open(
        self, user: users.User, methods: tuple[str, ...], *, address: str, agent: str = "", previous: str = ""
    ) -> Opened:
        """Open a session for who has just signed in. `previous`: the cookie that came along, which ends."""
        await self._end_cookie(user.tenant, previous)
        mine = sorted(await self.list(user), key=lambda one: one.seen)
        for one in mine[: max(0, len(mine) - MOST + 1)]:
            await self.end(one)
        cookie, now = ids.token(256), self._clock.now()
        session = Session(
            id=ids.new("visit"),
            tenant=user.tenant,
            user=user.id,
            epoch=user.epoch,
            created=now,
            seen=now,
            methods=methods,
            address=address,
            agent="".join(letter for letter in agent[:_MAX_AGENT] if letter.isprintable()),
            place=self._digest(user.tenant, cookie),
        )
        await self._store.tenant(user.tenant).kv.apply(
            [
                self._records.staged((session.place,), session, ttl=LIFE_S),
                self._places.staged((user.id, session.id), _Place(session.place), ttl=LIFE_S),
            ]
        )
        return Opened(session, cookie)

    async def find(self, tenant: ids.TenantId, cookie: str) -> Found | None:
        """The open session of a cookie. Raises `errors.Unavailable` when it can't be told safely.

        The caller has asked whether the tenant is served.
        """
        if not self._store.fresh():
            await self._store.proven()
        if not cookie or len(cookie) > 100 or not cookie.isascii() or not self._store.knows(tenant):
            return None
        place = self._digest(tenant, cookie)
        found = await self._records.get(tenant, place)
        if found is None:
            return None
        session, now = found.value, self._clock.now()
        owner = await self._users.get(tenant, session.user)
        if owner is None or owner.value.disabled or owner.value.epoch != session.epoch:
            return None
        if now - session.seen >= IDLE_S or now - session.created >= LIFE_S:
            return None
        if now - session.seen >= COARSE_S:
            session = await self._seen(session, now)
        return Found(session, owner.value)

    async def list(self, user: users.User) -> list[Session]:
        """A person's open sessions, oldest first."""
        found: list[Session] = []
        now = self._clock.now()
        for _, entry in await self._places.list(user.tenant, user.id, limit=10 * MOST):
            session = await self._records.get(user.tenant, entry.value.digest)
            if session is not None and session.value.epoch == user.epoch and now - session.value.seen < IDLE_S:
                found.append(session.value)
        # Not by id: those of one millisecond have no order.
        return sorted(found, key=lambda one: one.created)

    async def end(self, session: Session) -> None:
        """End a session. Again is fine."""
        await self._store.tenant(session.tenant).kv.apply(
            [self._records.unstaged((session.place,)), self._places.unstaged((session.user, session.id))]
        )

    def recent(self, session: Session) -> bool:
        """Did its person sign in just now? Asked before anything that would outlive a borrowed browser."""
        return 0 <= self._clock.now() - session.created < RECENT_S

    async def _seen(self, session: Session, now: float) -> Session:
        try:
            return await self._records.update(
                session.tenant, (session.place,), lambda one: msgspec.structs.replace(one, seen=max(one.seen, now))
            )
        except (errors.NotFound, errors.QuotaExceeded):
            # Ended meanwhile: good for this request. A full tenant: its people must get in to make room.
            return session

    async def _end_cookie(self, tenant: ids.TenantId, cookie: str) -> None:
        if cookie and len(cookie) <= 100 and cookie.isascii():
            found = await self._records.get(tenant, self._digest(tenant, cookie))
            if found is not None:
                await self.end(found.value)

    async def _forget(self, tenant: ids.TenantId, user_id: str) -> None:
        """The epoch has ended them; this removes what is left. Those that are opened meanwhile stay."""
        owner = await self._users.get(tenant, user_id)
        for key, entry in await self._places.list(tenant, user_id, limit=10 * MOST):
            session = await self._records.get(tenant, entry.value.digest)
            if session is None:
                await self._places.delete(tenant, key)
            elif owner is None or session.value.epoch != owner.value.epoch:
                await self.end(session.value)

    def _digest(self, tenant: ids.TenantId, cookie: str) -> str:
        return crypto.keyed_digest(self._store.ring.data_key(tenant, _PURPOSE), tenant, cookie).hex()


def cookie_name(tenant: ids.TenantId, *, secure: bool) -> str:
    """What the cookie is called: with the prefix that binds it to host, HTTPS and path (RFC 6265bis, 4.1.3.2).

    Browsers take the prefix over HTTPS only; plain HTTP is for loopback addresses.
    """
    return f"__Host-smcp-{tenant}" if secure else f"smcp-{tenant}"
