"""The device flow (RFC 8628): a program without a browser shows a short code, a person types it where they have one.

The person is signed in when they type it, so what a guesser could reach is another person's wish to log in, never
somebody's account; guesses are counted for each person all the same (5.1). The page says which client asks and where it
would get to, and that a code which somebody sent them is an attack (5.4).
"""

import collections
import enum
import secrets
from typing import Final, NamedTuple

import msgspec

from smcp.identity.oauth import clients, codes, lifetimes, opaque, refusals
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import records, shares
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

PENDING: Final = "authorization_pending"
SLOW_DOWN: Final = "slow_down"
EXPIRED: Final = "expired_token"

_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""Without vowels, so without words; without digits, so without look-alikes (RFC 8628, 6.1): 34 bits in eight."""
_LENGTH: Final = 8
_SLOWER_S: Final = 5.0
_POLLS: Final = 10_000
_GUESSES: Final = 10
"""Codes that one person may try in a minute."""
_GUESSERS: Final = 10_000


class State(enum.StrEnum):
    """How far a request has come."""

    PENDING = "pending"
    ALLOWED = "allowed"
    DENIED = "denied"
    USED = "used"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a device asks for, and what became of it."""

    client: str
    client_epoch: int
    server: str
    scopes: tuple[str, ...]
    digest: bytes
    expires: float
    state: State = State.PENDING
    user: str = ""
    user_epoch: int = 0
    grant: str = ""

    def __repr__(self) -> str:
        return f"Asked(client={self.client!r}, state={self.state.value!r})"


class _Named(msgspec.Struct, frozen=True):
    """Which request a code that is typed stands for."""

    id: str


class Begun(NamedTuple):
    """What a device is told."""

    device_code: str
    user_code: str
    """As it is shown: two groups of four letters."""
    expires_in: int
    interval: int

    def __repr__(self) -> str:
        return "Begun(…)"


class Found(NamedTuple):
    """A request that waits for an answer."""

    id: str
    asked: Asked


class Devices:
    """Requests of devices, of any tenant."""

    def __init__(self, store: stores.Store, time: clock.Clock, lives: lifetimes.Lifetimes) -> None:
        self._store = store
        self._clock = time
        self._lives = lives
        self._asked = records.Records(store, Asked, shares.prefix(shares.DEVICE))
        self._named = records.Records(store, _Named, shares.prefix(shares.USER_CODE))
        self._polls: collections.OrderedDict[tuple[ids.TenantId, str], tuple[float, float]] = collections.OrderedDict()
        self._guesses: collections.OrderedDict[tuple[ids.TenantId, str], tuple[float, int]] = collections.OrderedDict()

    # --- the device ---

    async def begin(self, client: clients.Client, server: str, scopes: tuple[str, ...]) -> Begun:
        """A device wants to log somebody in. Anybody may ask, so both records are in the strangers' share.

        Raises `errors.RateLimited` when as many wait in this tenant as may.
        """
        tenant, id, secret = client.tenant, opaque.new_id(), opaque.new_secret()
        lives = self._lives.device_s
        asked = Asked(
            client=client.id,
            client_epoch=client.epoch,
            server=server,
            scopes=scopes,
            digest=opaque.digest(self._store, opaque.DEVICE, tenant, id, secret),
            expires=self._clock.now() + lives,
        )
        while True:
            typed = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
            try:
                await self._store.tenant(tenant).kv.apply(
                    [
                        self._named.staged((self._place(tenant, typed),), _Named(id), expect=kv.ABSENT, ttl=lives),
                        self._asked.staged((id,), asked, expect=kv.ABSENT, ttl=lives + self._lives.used_s),
                    ]
                )
            except errors.Conflict:
                continue
            except errors.QuotaExceeded:
                raise errors.RateLimited(
                    "As many devices wait for a person here as may. Log in with a browser, or retry in some minutes.",
                    retry_after=60.0,
                    detail="share",
                ) from None
            break
        text = opaque.compose(opaque.DEVICE, tenant, id, secret)
        return Begun(text, f"{typed[:4]}-{typed[4:]}", int(lives), max(1, round(self._lives.poll_s)))

    async def poll(self, tenant: ids.TenantId, text: str, client: str) -> Found:
        """What a person has allowed, used already or not.

        Raises `refusals.Refused`: `authorization_pending`, `slow_down`, `access_denied`, `expired_token` (RFC 8628,
        3.5), or `invalid_grant` for what is no code of this client.
        """
        parsed = opaque.parse(opaque.DEVICE, text)
        if parsed is None or parsed.tenant != tenant:
            raise codes.refused("malformed")
        found = await self._asked.get(tenant, parsed.id)
        given = opaque.digest(self._store, opaque.DEVICE, tenant, parsed.id, parsed.secret)
        if not crypto.equal(found.value.digest if found else bytes(32), given) or found is None:
            raise codes.refused("unknown")
        asked = found.value
        if asked.client != client:
            raise codes.refused("client")
        if asked.state is State.DENIED:
            raise refusals.Refused(refusals.ACCESS_DENIED, "The person said no.", detail="denied")
        if asked.state is not State.USED and asked.expires <= self._clock.now():
            raise refusals.Refused(EXPIRED, "Nobody answered in time. Start again.", detail="expired")
        if asked.state is State.PENDING:
            self._paced(tenant, parsed.id)
            raise refusals.Refused(PENDING, "Nobody has typed the code so far. Ask again.", detail="pending")
        return Found(parsed.id, asked)

    async def use(self, tenant: ids.TenantId, id: str, grant: str) -> bool:
        """Turn an allowed request into `grant`; False where somebody else did so first."""
        return await self._move(tenant, id, State.ALLOWED, State.USED, self._lives.used_s, grant=grant)

    def _paced(self, tenant: ids.TenantId, id: str) -> None:
        now = self._clock.monotonic()
        last, interval = self._polls.pop((tenant, id), (-1e9, self._lives.poll_s))
        hasty = now - last < interval - 0.5
        if hasty:
            interval += _SLOWER_S
        self._polls[tenant, id] = now, interval
        if len(self._polls) > _POLLS:
            self._polls.popitem(last=False)
        if hasty:
            raise refusals.Refused(SLOW_DOWN, "Ask less often: wait five seconds longer each time.", detail="slow_down")

    # --- the person ---

    async def find(self, tenant: ids.TenantId, typed: str, user: str) -> Found:
        """The request that a signed-in person's code stands for; spelling, case and separators do not matter.

        Raises `errors.NotFound` for a code that nobody waits with, `errors.RateLimited` for who tries too many.
        """
        self._guessed(tenant, user)
        code = "".join(one for one in typed[:64].upper() if one in _LETTERS)
        named = await self._named.get(tenant, self._place(tenant, code)) if len(code) == _LENGTH else None
        found = None if named is None else await self._asked.get(tenant, named.value.id)
        if (
            named is None
            or found is None
            or found.value.state is not State.PENDING
            or found.value.expires <= self._clock.now()
        ):
            raise errors.NotFound(
                "No device waits with this code. Look whether it is still shown, or start again.", detail="device"
            )
        return Found(named.value.id, found.value)

    async def allow(self, tenant: ids.TenantId, id: str, user: str, user_epoch: int) -> bool:
        """A person said yes. The approval must be on record. False: it is too late, or it was answered."""
        more = self._lives.device_s + self._lives.used_s
        return await self._move(tenant, id, State.PENDING, State.ALLOWED, more, user=user, user_epoch=user_epoch)

    async def deny(self, tenant: ids.TenantId, id: str) -> bool:
        """A person said no. False: it is too late, or it was answered."""
        return await self._move(tenant, id, State.PENDING, State.DENIED, self._lives.used_s)

    async def _move(
        self,
        tenant: ids.TenantId,
        id: str,
        state: State,
        to: State,
        ttl: float,
        **changes: str | int,
    ) -> bool:
        found = await self._asked.get(tenant, id)
        if found is None or found.value.state is not state or found.value.expires <= self._clock.now():
            return False
        changed = msgspec.structs.replace(found.value, state=to, **changes)
        try:
            await self._asked.put(tenant, (id,), changed, expect=found.revision, ttl=ttl)
        except errors.Conflict:
            return False
        return True

    def _guessed(self, tenant: ids.TenantId, user: str) -> None:
        now = self._clock.monotonic()
        began, count = self._guesses.pop((tenant, user), (now, 0))
        if now - began >= 60.0:
            began, count = now, 0
        self._guesses[tenant, user] = began, count + 1
        if len(self._guesses) > _GUESSERS:
            self._guesses.popitem(last=False)
        if count >= _GUESSES:
            raise errors.RateLimited("Too many codes. Wait a minute.", retry_after=began + 60.0 - now)

    def _place(self, tenant: ids.TenantId, code: str) -> str:
        return self._store.tenant(tenant).private("oauth.user-code", code)
