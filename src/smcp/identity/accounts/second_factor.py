"""The second factor: codes of an authenticator app, and the recovery codes for when it is lost.

Whoever types a code has typed the password. `throttle` makes that slow, and forgets; here wrong codes in a row are
counted with what the person signs in with, in the write that checks the code. From `MOST_WRONG` on, the app's six
digits are looked at on devices only that the account was used on. A recovery code can't be guessed, and passes from
anywhere: so a guesser keeps nobody out. A right code ends the row; the owner is told of it for `TOLD_S`.
"""

from typing import Final, NamedTuple

import msgspec

from smcp.identity.accounts import totp, users, ways
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import tenant as stores

MOST_WRONG: Final = 50
"""Wrong codes in a row, after which a device that the account was not used on has to show something better."""
TELL: Final = 5
"""From so many in a row on, their owner is told: fewer are mistyped."""
TOLD_S: Final = 30 * 86400.0
"""How long, since the last of them."""


class Guesses(NamedTuple):
    """Wrong codes in a row that its owner should know of: somebody else may know the password."""

    many: int
    last: float
    """Epoch seconds."""


class Used(NamedTuple):
    """What became of a code."""

    how: str
    """`totp`, `recovery`; empty for a wrong one."""
    closed: bool = False
    """Were the app's codes not looked at, because of `MOST_WRONG`?"""
    row: int = 0
    """Wrong ones in a row, this one included."""


class Begun(NamedTuple):
    """An authenticator app that is being added. Both hold its secret: show them once, keep them nowhere."""

    text: str
    address: str
    """An `otpauth:` address, for a picture."""


class SecondFactor:
    """Begins, confirms, uses and removes it. Who may is said by `accounts`."""

    def __init__(self, store: stores.Store, people: users.Users, kept: ways.Store, clock: clock.Clock) -> None:
        self._store = store
        self._users = people
        self._ways = kept
        self._clock = clock

    async def begin(self, user: users.User, issuer: str) -> Begun:
        """A new app for a person; it counts when `confirm` has seen a code of it. Raises as `ways.Store.change_as`."""
        secret = totp.new_secret()
        await self._ways.change_as(
            self._users,
            user,
            lambda mine: msgspec.structs.replace(mine, totp_coming=secret, totp_epoch=user.epoch),
        )
        return Begun(totp.text(secret), totp.address(secret, issuer, user.email))

    async def confirm(self, user: users.User, code: str) -> tuple[str, ...]:
        """Ask for a code from now on; returns recovery codes. Raises `errors.InvalidParams`, and as `begin`."""
        codes, key, now = totp.recovery_codes(), self._recovery_key(user.tenant), self._clock.now()
        digests = tuple(digest for one in codes if (digest := totp.recovery_digest(key, user.id, one)))

        def confirm(mine: ways.Ways) -> ways.Ways:
            # One that was begun before everything ended may be somebody else's.
            begun = mine.totp_coming if mine.totp_epoch == user.epoch else b""
            used = totp.matching(begun, code, now, 0) if begun else None
            if used is None:
                raise errors.InvalidParams("That is not the app's code of this moment. Type the one that it shows now.")
            return calm(msgspec.structs.replace(mine, totp=begun, totp_coming=b"", totp_step=used, recovery=digests))

        await self._ways.change_as(self._users, user, confirm)
        return codes

    async def remove(self, user: users.User) -> None:
        """Ask for no code any more. Again is fine. Raises as `begin`."""
        await self._ways.change_as(
            self._users,
            user,
            lambda mine: calm(msgspec.structs.replace(mine, totp=b"", totp_coming=b"", totp_step=0, recovery=())),
        )

    async def use(self, user: users.User, code: str, *, known: bool) -> Used:
        """Use a code up, or count it as a wrong one. `known`: was the account used on this device before?"""
        key, now = self._recovery_key(user.tenant), self._clock.now()
        digest = totp.recovery_digest(key, user.id, code) if len(code) <= 100 else None
        said = Used("")

        def use(mine: ways.Ways) -> ways.Ways:
            nonlocal said  # called again when somebody else has written
            closed = not known and mine.wrong >= MOST_WRONG
            step = totp.matching(mine.totp, code[:100], now, mine.totp_step) if mine.totp and not closed else None
            if step is not None:
                said = Used("totp")
                return _right(msgspec.structs.replace(mine, totp_step=step))
            left = tuple(kept for kept in mine.recovery if digest is None or not crypto.equal(kept, digest))
            if len(left) < len(mine.recovery):
                said = Used("recovery")
                return _right(msgspec.structs.replace(mine, recovery=left))
            said = Used("", closed, mine.wrong + 1)
            return msgspec.structs.replace(mine, wrong=mine.wrong + 1, wrong_at=now)

        try:
            await self._ways.change(user.tenant, user.id, use)
        except errors.QuotaExceeded:
            if said.how:
                raise
            # A full tenant has no room for the count: it is a wrong code all the same, and `throttle` counts it.
        return said

    def guesses(self, mine: ways.Ways) -> Guesses | None:
        """What to tell the owner of `mine`: the longer of the row that goes on and the last one that was told of."""
        rows = [Guesses(mine.wrong, mine.wrong_at), Guesses(mine.guessed, mine.guessed_at)]
        told = [row for row in rows if row.many >= TELL and self._clock.now() - row.last < TOLD_S]
        return max(told, default=None)

    def _recovery_key(self, tenant: ids.TenantId) -> bytes:
        return self._store.ring.data_key(tenant, "identity.recovery code digest")


def calm(mine: ways.Ways) -> ways.Ways:
    """`mine` without a row of wrong codes: there is another password, or another app, to be guessed first."""
    return msgspec.structs.replace(mine, wrong=0, wrong_at=0.0, guessed=0, guessed_at=0.0)


def _right(mine: ways.Ways) -> ways.Ways:
    """A right code ends the row, and whoever has to know of it is still told."""
    if mine.wrong < TELL:
        return msgspec.structs.replace(mine, wrong=0, wrong_at=0.0)
    return msgspec.structs.replace(mine, wrong=0, wrong_at=0.0, guessed=mine.wrong, guessed_at=mine.wrong_at)
