"""Signing in, and what people do to their own accounts: what the pages call.

A sign-in is a password, and a code where the account has an app; or a passkey alone. What is wrong is never told: no
such account, a wrong password, a closed account, a suspended or unknown tenant have one answer, after one argon2. The
trail has the reason. `throttle` says how guessing is slowed.

Nothing here opens a session: `SignedIn` goes to `browser.BrowserSessions.open`. To sign in again is how a session
becomes recent.
"""

import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Final, NamedTuple

import msgspec

from smcp.audit import identity, trail
from smcp.identity.accounts import (
    failures,
    invitations,
    inviters,
    own,
    passkeys,
    passwords,
    sealing,
    second_factor,
    throttle,
    users,
    ways,
)
from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

_SECOND: Final = "code after the password"
_LONGEST_EMAIL: Final = 1000


class SignInRefused(Exception):
    """Somebody did not get in. One text, whatever the reason."""

    public = "That did not work. Look at the address and what you typed, and try again."


class NewDeviceRefused(SignInRefused):
    """The password was right, and too many codes behind it were not: known devices only. Told whatever was typed."""

    public = (
        "Too many wrong codes in a row. On this device a passkey or a recovery code signs you in, a code of the"
        " authenticator does not; it does in a browser that you have signed in with before."
    )


class SignedIn(NamedTuple):
    """Who has signed in, how, and the mark that makes this browser a known device: a cookie for `throttle.DEVICE_S`."""

    user: users.User
    methods: tuple[str, ...]
    """`password`, `totp`, `recovery`, `passkey`, `setup`."""
    device: str


class NeedsSecond(NamedTuple):
    """The password was right, and the account has an app: `pending` goes into a form, and comes back with a code."""

    pending: str


class _Pending(msgspec.Struct, frozen=True):
    """Between the password and the code."""

    user: str
    epoch: int
    account: str


class Rooms(NamedTuple):
    """What accounts are made of."""

    users: users.Users
    ways: ways.Store
    passwords: passwords.Passwords
    passkeys: passkeys.Passkeys
    second: second_factor.SecondFactor
    invitations: invitations.Invitations
    inviters: inviters.Inviters
    steps: sealing.Steps
    guard: throttle.Throttle
    devices: throttle.Devices


class _Attempt(NamedTuple):
    """One try at an account."""

    tenant: ids.TenantId
    account: str
    """Stands for the address that was typed, whether or not it exists."""
    address: str
    device: str
    known: bool
    request_id: str


class Accounts:
    """People's accounts of any tenant."""

    def __init__(
        self,
        store: stores.Store,
        audit: trail.Trail,
        clock: clock.Clock,
        tenant_active: Callable[[ids.TenantId], Awaitable[None]],
        rooms: Rooms,
    ) -> None:
        self._store = store
        self._trail = audit
        self._clock = clock
        self._tenant_active = tenant_active
        self._rooms = rooms
        self._failures = failures.Failures(store, audit, rooms.guard)

    # --- signing in ---

    async def sign_in(
        self, tenant: ids.TenantId, email: str, password: str, address: str, *, device: str = "", request_id: str = ""
    ) -> SignedIn | NeedsSecond:
        """Sign in with a password. `address`: where from; `device`: the browser's mark, if it has one.

        Raises `SignInRefused`, `errors.RateLimited` (too many wrong attempts, or too many at once),
        `errors.Unavailable`.
        """
        await self._proven()
        served = await self._served(tenant)
        account = _account(email)
        user = await self._rooms.users.find(tenant, account) if served and account else None
        attempt = self._attempt(tenant, account, user, address, device, request_id)
        kept = "" if user is None else (await self._rooms.ways.get(tenant, user.id)).password
        with self._counted(attempt):
            right = await self._right(kept, password, known=attempt.known)
            if user is None or user.disabled or not right:
                why = "unknown" if user is None else "closed" if right else "password"
                raise self._refused(attempt, why)
        if self._rooms.passwords.stale(kept):
            await self._rehash(user, kept, password)
        # Read again: argon2 has taken a while.
        user, mine = await self._still(user), await self._rooms.ways.get(tenant, user.id)
        if user is None or mine.password == "":
            raise self._refused(attempt, "closed")
        if mine.totp:
            step = _Pending(user.id, user.epoch, account)
            return NeedsSecond(self._rooms.steps.seal(tenant, _SECOND, step))
        return await self._in(user, ("password",), device, address, request_id)

    async def second(
        self, tenant: ids.TenantId, pending: str, code: str, address: str, *, device: str = "", request_id: str = ""
    ) -> SignedIn:
        """The code of an app, or a recovery code, after the password. Raises as `sign_in`."""
        await self._proven()
        served = await self._served(tenant)
        step = self._rooms.steps.open(tenant, _SECOND, pending, _Pending) if served else None
        user = await self._rooms.users.get(tenant, step.user) if step is not None else None
        if step is None or user is None or user.value.disabled or user.value.epoch != step.epoch:
            raise self._nobody(tenant, "step", address, request_id)
        attempt = self._attempt(tenant, step.account, user.value, address, device, request_id)
        with self._counted(attempt):
            used = await self._rooms.second.use(user.value, code, known=attempt.known)
            if not used.how or not self._rooms.steps.use(tenant, pending):
                await self._tell_of_guesses(user.value, used, request_id)
                refused = self._refused(attempt, "code")
                raise NewDeviceRefused if used.closed else refused
        return await self._in(user.value, ("password", used.how), device, address, request_id)

    def begin_passkey(self, tenant: ids.TenantId, origin: str) -> passkeys.Begun:
        """Ask the browser for a passkey. Raises `errors.InvalidParams` where there can be none, `errors.NotFound`."""
        return self._rooms.passkeys.begin_sign_in(tenant, origin)

    async def finish_passkey(
        self, tenant: ids.TenantId, step: str, answer: str, address: str, *, device: str = "", request_id: str = ""
    ) -> SignedIn:
        """Sign in with the browser's answer (its JSON text). Raises as `sign_in`.

        Neither a guesser at the account's password nor a full address refuses one: nothing can be guessed about it.
        """
        await self._proven()
        served = await self._served(tenant)
        try:
            if not served:
                raise passkeys.Refused("the tenant is not served")
            found = await self._rooms.passkeys.finish_sign_in(tenant, step, answer)
        except passkeys.Refused:
            raise self._nobody(tenant, "passkey", address, request_id) from None
        if found.user.disabled:
            raise self._nobody(tenant, "closed", address, request_id)
        return await self._in(found.user, ("passkey",), device, address, request_id)

    # --- beginning ---

    async def invited(
        self, tenant: ids.TenantId, code: str, address: str, *, request_id: str = ""
    ) -> invitations.Invitation:
        """What a code is for. Raises `errors.NotFound` (one text), `RateLimited`, `TenantSuspended`."""
        return (await self._shown(tenant, code, address, request_id)).invitation

    async def accept(
        self,
        tenant: ids.TenantId,
        code: str,
        name: str,
        password: str,
        address: str,
        *,
        email: str = "",
        request_id: str = "",
    ) -> SignedIn:
        """Make the account that a code is for, or let it begin anew. `email` counts for the set-up only.

        Raises as `invited`, and `errors.InvalidParams` (says what to change), `errors.Conflict` (the address is taken).
        """
        shown = await self._shown(tenant, code, address, request_id)
        told = shown.invitation
        self._trail.check(tenant)
        own_address = users.address(email) if told.setup else told.email
        passwords.check(password, own_address, name or told.name)
        called = users.person(name or told.name)
        hashed = await self._rooms.passwords.hash(password)
        await self._still_invited(shown, request_id)
        if told.user:
            return await self._begin_anew(shown, hashed, address, request_id)
        user = users.User(
            id=ids.new("user"),
            tenant=tenant,
            email=own_address,
            name=called,
            roles=told.roles,
            created=self._clock.now(),
        )
        await self._apply_unless_used(
            shown, [*self._rooms.users.made(user), self._rooms.ways.made(user.id, ways.Ways(password=hashed))]
        )
        words = user.roles
        await self._trail.write(
            identity.UserCreated(tenant=tenant, actor=user.id, request_id=request_id, user=user.id, roles=words)
        )
        return await self._in(user, ("setup", "password"), "", address, request_id)

    async def _still_invited(self, shown: invitations.Shown, request_id: str) -> None:
        """Raises `errors.NotFound`, and ends the invitation, when its inviter could not make it now."""
        told = shown.invitation
        why = await self._rooms.inviters.refusal(told)
        if why:
            await self._trail.write(
                identity.InvitationRefused(
                    tenant=told.tenant,
                    actor="anonymous",
                    request_id=request_id,
                    outcome="refused",
                    invitation=told.id,
                    why=why,
                )
            )
            with contextlib.suppress(errors.NotFound):  # somebody was faster
                await self._rooms.invitations.withdraw(told.tenant, told.id)
            raise invitations.invalid(f"invitation: {why}")

    async def _begin_anew(self, shown: invitations.Shown, hashed: str, address: str, request_id: str) -> SignedIn:
        tenant, user_id = shown.invitation.tenant, shown.invitation.user
        found = await self._rooms.users.get(tenant, user_id)
        if found is None or found.value.disabled:
            raise errors.NotFound("This account is closed.", detail="user")
        if (found.value.epoch, found.value.roles) != (shown.invitation.epoch, shown.invitation.roles):
            # Whoever made the code could have made the account as it was then; as it is now, perhaps not.
            raise errors.NotFound("This account has changed since. Ask for another code.", detail="invitation")
        fresh = await self._rooms.ways.replaced(tenant, user_id, lambda _: ways.Ways(password=hashed))
        await self._apply_unless_used(shown, [fresh, self._rooms.users.ending(found)])
        user = await self._rooms.users.ended(tenant, user_id)
        await self._changed(user, "began-anew", request_id)
        return await self._in(user, ("setup", "password"), "", address, request_id)

    async def _apply_unless_used(self, shown: invitations.Shown, writes: list[kv.Put]) -> None:
        ended = self._rooms.invitations.ended(shown)
        try:
            await self._store.tenant(shown.invitation.tenant).kv.apply([*writes, ended])
        except errors.Conflict:
            raise errors.Conflict(
                "This code was used in the meantime, or the address has an account. Sign in, or ask for another code."
            ) from None

    async def _shown(self, tenant: ids.TenantId, code: str, address: str, request_id: str) -> invitations.Shown:
        await self._proven()
        try:
            taken = self._rooms.guard.admit_address(address)
        except errors.RateLimited:
            self._failures.held_off(tenant, "", address, "", request_id)
            raise
        await self._tenant_active(tenant)
        try:
            shown = await self._rooms.invitations.show(tenant, code)
        except errors.NotFound:
            # Admitted, so counted: an address has so many of these, and no more come to be told.
            self._failures.note(tenant, "invitation", address, request_id)
            raise
        taken.back()
        return shown

    # --- one's own account ---

    async def set_password(
        self, user: users.User, password: str, *, methods: tuple[str, ...] = (), request_id: str = ""
    ) -> SignedIn:
        """Change a password; everything that was open ends, so the caller opens a session anew. Raises `InvalidParams`.

        `methods`: how the person had signed in. The caller has made sure that the session is recent
        (`browser.BrowserSessions.recent`), here and below; all of it raises `errors.Unauthenticated`, and changes
        nothing, when what the session was opened for has ended meanwhile: signed out, closed, another password.
        """
        passwords.check(password, user.email, user.name)
        self._trail.check(user.tenant)
        hashed = await self._rooms.passwords.hash(password)
        found = await self._rooms.users.get(user.tenant, user.id)
        if found is None or found.value.disabled or found.value.epoch != user.epoch:
            raise errors.Unauthenticated(detail="the session has ended meanwhile")
        kept = await self._rooms.ways.replaced(
            user.tenant,
            user.id,
            lambda mine: second_factor.calm(msgspec.structs.replace(mine, password=hashed, totp_coming=b"")),
        )
        await self._store.tenant(user.tenant).kv.apply([kept, self._rooms.users.ending(found)])
        changed = await self._rooms.users.ended(user.tenant, user.id)
        await self._changed(changed, "password", request_id)
        # Marks of devices have ended with the rest; the one at hand stays known.
        return SignedIn(changed, methods, self._rooms.devices.mark(changed.tenant, changed.id, changed.epoch))

    async def begin_app(self, user: users.User, issuer: str) -> second_factor.Begun:
        """A new authenticator app for a person; it counts when `confirm_app` has seen a code of it."""
        return await self._rooms.second.begin(user, issuer)

    async def confirm_app(self, user: users.User, code: str, *, request_id: str = "") -> tuple[str, ...]:
        """Ask for a code at every sign-in with a password from now on; returns recovery codes, shown this once.

        Raises `errors.InvalidParams` for a wrong code.
        """
        self._trail.check(user.tenant)
        codes = await self._rooms.second.confirm(user, code)
        await self._changed(user, "app", request_id)
        return codes

    async def remove_app(self, user: users.User, *, request_id: str = "") -> None:
        """Sign in without codes again. Again is fine."""
        self._trail.check(user.tenant)
        await self._rooms.second.remove(user)
        await self._changed(user, "app-removed", request_id)

    async def own(self, user: users.User) -> own.Own:
        """How a person signs in, as they may see it."""
        return own.shown(await self._rooms.ways.get(user.tenant, user.id))

    async def guesses(self, user: users.User) -> second_factor.Guesses | None:
        """Wrong codes behind the right password that the person should know of."""
        return self._rooms.second.guesses(await self._rooms.ways.get(user.tenant, user.id))

    async def begin_adding_passkey(self, user: users.User, origin: str) -> passkeys.Begun:
        """Ask the browser for a new passkey. Raises `errors.InvalidParams` where there can be none."""
        return await self._rooms.passkeys.begin_adding(user, origin)

    async def finish_adding_passkey(
        self, user: users.User, step: str, answer: str, name: str, *, request_id: str = ""
    ) -> None:
        """Keep the browser's new passkey (its JSON text). Raises `errors.InvalidParams`."""
        self._trail.check(user.tenant)
        try:
            await self._rooms.passkeys.finish_adding(user, step, answer, name)
        except passkeys.Refused as error:
            raise errors.InvalidParams("The passkey was not added. Try again.", detail=str(error)) from None
        await self._changed(user, "passkey", request_id)

    async def remove_passkey(self, user: users.User, passkey_id: str, *, request_id: str = "") -> None:
        """Forget a passkey. Raises `errors.NotFound`."""
        self._trail.check(user.tenant)
        await self._rooms.passkeys.remove(user, passkey_id)
        await self._changed(user, "passkey-removed", request_id)

    # --- inside ---

    async def _proven(self) -> None:
        if not self._store.fresh():
            await self._store.proven()

    async def _served(self, tenant: ids.TenantId) -> bool:
        with contextlib.suppress(errors.NotFound, errors.TenantSuspended):
            await self._tenant_active(tenant)
            return self._store.knows(tenant)
        return False

    def _attempt(
        self, tenant: ids.TenantId, account: str, user: users.User | None, address: str, mark: str, request_id: str
    ) -> _Attempt:
        rooms = self._rooms
        device = "" if user is None else rooms.devices.read(tenant, user.id, user.epoch, mark)
        known = rooms.guard.knows(tenant, account, device)
        return _Attempt(tenant, account, address, device, known, request_id)

    @contextlib.contextmanager
    def _counted(self, attempt: _Attempt) -> Generator[None]:
        """What is refused inside counts as a wrong attempt; what is right, or ends otherwise, does not."""
        places = (attempt.tenant, attempt.account, attempt.address, attempt.device if attempt.known else "")
        try:
            taken = self._rooms.guard.admit(*places)
        except errors.RateLimited:
            self._failures.held_off(*places, attempt.request_id)
            raise
        try:
            yield
        except SignInRefused:
            raise
        except BaseException:
            taken.back()
            raise
        taken.back()

    async def _right(self, kept: str, password: str, *, known: bool) -> bool:
        if len(password) > passwords.MAX:
            password = ""  # never right, and takes as long
        return await self._rooms.passwords.verify(kept or None, password, known=known)

    async def _still(self, user: users.User) -> users.User | None:
        found = await self._rooms.users.get(user.tenant, user.id)
        return None if found is None or found.value.disabled or found.value.epoch != user.epoch else found.value

    async def _rehash(self, user: users.User, old: str, password: str) -> None:
        """Keep the password under today's parameters, unless it was changed meanwhile."""
        fresh = await self._rooms.passwords.hash(password)
        with contextlib.suppress(errors.QuotaExceeded):  # a full tenant's people still sign in
            await self._rooms.ways.change(
                user.tenant,
                user.id,
                lambda mine: msgspec.structs.replace(mine, password=fresh) if mine.password == old else mine,
            )

    async def _in(
        self, user: users.User, methods: tuple[str, ...], mark: str, address: str, request_id: str
    ) -> SignedIn:
        # The last look: whatever was waited for, somebody may have closed the account, or signed it out, meanwhile.
        now = await self._still(user)
        if now is None:
            self._failures.note(user.tenant, "closed", address, request_id)
            raise SignInRefused
        user = now
        await self._trail.write(
            identity.SignedIn(
                tenant=user.tenant,
                actor=user.id,
                request_id=request_id,
                methods=methods,
                address=self._trail.digest(user.tenant, address),
            )
        )
        return SignedIn(user, methods, self._rooms.devices.mark(user.tenant, user.id, user.epoch, mark))

    async def _tell_of_guesses(self, user: users.User, used: second_factor.Used, request_id: str) -> None:
        if used.row == second_factor.MOST_WRONG:
            await self._trail.write(
                identity.CodesGuessed(
                    tenant=user.tenant, actor="anonymous", request_id=request_id, user=user.id, codes=used.row
                )
            )

    def _refused(self, attempt: _Attempt, why: str) -> SignInRefused:
        self._failures.note(attempt.tenant, why, attempt.address, attempt.request_id, account=attempt.account)
        return SignInRefused()

    def _nobody(self, tenant: ids.TenantId, why: str, address: str, request_id: str) -> SignInRefused:
        self._failures.unnamed(tenant, why, address, request_id)
        return SignInRefused()

    async def _changed(self, user: users.User, what: str, request_id: str) -> None:
        words = user.roles
        await self._trail.write(
            identity.UserChanged(
                tenant=user.tenant, actor=user.id, request_id=request_id, user=user.id, what=what, roles=words
            )
        )


def _account(email: str) -> str:
    """What stands for the address that was typed: as `users.address` writes it, empty where it can't be one."""
    try:
        return users.address(email[:_LONGEST_EMAIL])
    except errors.InvalidParams:
        return ""
