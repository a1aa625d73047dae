"""Passkeys: W3C Web Authentication Level 3, the relying party's part (7.1, 7.2); fido2 reads the formats.

What is asked for: a discoverable credential (one that needs no address typed), and that the authenticator has verified
the person (PIN, finger, face): possession and knowledge or biometrics in one, so no second step follows.

A passkey belongs to a host name. Browsers make none for IP addresses (5.1.3, step 8: the effective domain is a domain),
and none over plain HTTP but for localhost. So a platform at http://127.0.0.1:8080 has passkeys at http://localhost:8080
only. The origin is the request's own, whose host the edge has checked; it is compared exactly, port included, and no
other host's page can stand in for it.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec
from fido2 import server, webauthn

from smcp.identity.accounts import sealing, users, ways
from smcp.kernel import clock, errors, ids

LONGEST: Final = 64 * 1024
"""Characters of a browser's answer."""
_ALGORITHMS: Final = (-7, -8, -257)
"""ES256, EdDSA, RS256 (RFC 9053, 2; RFC 8812, 2): what authenticators have, in the order of preference."""
_HOST: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*", re.ASCII)
_ADD: Final = "passkey being added"
_SIGN_IN: Final = "passkey signing in"
_TIMEOUT_MS: Final = int(sealing.LIFE_S * 1000)


class Refused(Exception):
    """The browser's answer is not good; the text is for the trail and the log, not for the caller."""


class Begun(NamedTuple):
    """What the page hands to the browser, and what comes back with its answer."""

    step: str
    """For a form field; sealed."""
    options: dict[str, Any]
    """For `navigator.credentials.create` or `.get`, in the JSON form of the standard (5.1.8, 5.1.9)."""


class _Step(msgspec.Struct, frozen=True):
    """Between challenge and answer."""

    challenge: str
    origin: str
    user: str = ""
    epoch: int = 0
    """Of who adds one."""


class Verified(NamedTuple):
    """Who has signed in with which passkey."""

    user: users.User
    passkey: ways.Passkey


class Passkeys:
    """Adds and checks passkeys. Who may add one, and what a sign-in opens, is said by `accounts`."""

    def __init__(self, people: users.Users, kept: ways.Store, steps: sealing.Steps, clock: clock.Clock) -> None:
        self._users = people
        self._ways = kept
        self._steps = steps
        self._clock = clock

    async def begin_adding(self, user: users.User, origin: str) -> Begun:
        """Ask the browser for a new passkey of `user`. Raises `errors.InvalidParams` where none can be."""
        mine = (await self._ways.get(user.tenant, user.id)).passkeys
        if len(mine) >= ways.MOST_PASSKEYS:
            raise errors.InvalidParams(f"An account has at most {ways.MOST_PASSKEYS} passkeys. Remove one first.")
        party = _server(origin)
        entity = webauthn.PublicKeyCredentialUserEntity(id=user.id.encode(), name=user.email, display_name=user.name)
        options, state = party.register_begin(
            entity,
            [webauthn.AttestedCredentialData(one.credential) for one in mine if one.rp == party.rp.id],
            resident_key_requirement=webauthn.ResidentKeyRequirement.REQUIRED,
            user_verification=webauthn.UserVerificationRequirement.REQUIRED,
        )
        step = _Step(state["challenge"], origin, user.id, user.epoch)
        return Begun(self._steps.seal(user.tenant, _ADD, step), _plain(options))

    async def finish_adding(self, user: users.User, step: str, answer: str, name: str) -> ways.Passkey:
        """Keep the passkey that the browser has made.

        Raises `Refused`, `errors.InvalidParams` for its name, and as `ways.Store.change_as`.
        """
        called = " ".join(name.split()) or "passkey"
        if len(called) > ways.MAX_PASSKEY_NAME or not called.isprintable():
            raise errors.InvalidParams(f"A passkey's name is up to {ways.MAX_PASSKEY_NAME} printable characters.")
        begun = self._steps.open(user.tenant, _ADD, step, _Step)
        mine = begun is not None and (begun.user, begun.epoch) == (user.id, user.epoch)
        if begun is None or not mine or not self._steps.use(user.tenant, step):
            raise Refused("the step is not one of this person's, has ended or was used")
        party = _server(begun.origin)
        try:
            found = party.register_complete(_state(begun), _read(answer)).credential_data
            if found is None or found.public_key[3] not in _ALGORITHMS:
                raise Refused("an algorithm that was not asked for")
        except Refused:
            raise
        # The library reads bytes that a stranger has written, and raises whatever it stumbles over.
        except Exception as error:
            raise Refused(str(error)) from error
        made = ways.Passkey(
            id=ids.new("passkey"), name=called, rp=str(party.rp.id), credential=bytes(found), created=self._clock.now()
        )

        def add(mine: ways.Ways) -> ways.Ways:
            if len(mine.passkeys) >= ways.MOST_PASSKEYS or any(_id(one) == _id(made) for one in mine.passkeys):
                raise Refused("too many, or one that is there already")
            return msgspec.structs.replace(mine, passkeys=(*mine.passkeys, made))

        await self._ways.change_as(self._users, user, add)
        return made

    async def remove(self, user: users.User, passkey_id: str) -> None:
        """Forget a passkey. Raises `errors.NotFound`, and as `ways.Store.change_as`."""

        def drop(mine: ways.Ways) -> ways.Ways:
            left = tuple(one for one in mine.passkeys if one.id != passkey_id)
            if len(left) == len(mine.passkeys):
                raise errors.NotFound
            return msgspec.structs.replace(mine, passkeys=left)

        await self._ways.change_as(self._users, user, drop)

    def begin_sign_in(self, tenant: ids.TenantId, origin: str) -> Begun:
        """Ask the browser for any passkey of this host. Raises `errors.InvalidParams` where there can be none."""
        party = _server(origin)
        options, state = party.authenticate_begin(user_verification=webauthn.UserVerificationRequirement.REQUIRED)
        return Begun(self._steps.seal(tenant, _SIGN_IN, _Step(state["challenge"], origin)), _plain(options))

    async def finish_sign_in(self, tenant: ids.TenantId, step: str, answer: str) -> Verified:
        """Whose passkey has answered. Raises `Refused`."""
        begun = self._steps.open(tenant, _SIGN_IN, step, _Step)
        if begun is None:
            raise Refused("the step has ended or was used")
        try:
            told = webauthn.AuthenticationResponse.from_dict(_read(answer))
            # 7.2, step 6: nobody was named before, so the answer must name somebody.
            handle = (told.response.user_handle or b"").decode("ascii")
        # As above.
        except Exception as error:
            raise Refused(str(error)) from error
        found = await self._users.get(tenant, handle) if users.USER_ID.fullmatch(handle) else None
        if found is None:
            raise Refused("nobody of this tenant")
        party = _server(begun.origin)
        mine = [one for one in (await self._ways.get(tenant, handle)).passkeys if one.rp == party.rp.id]
        try:
            good = party.authenticate_complete(
                _state(begun), [webauthn.AttestedCredentialData(one.credential) for one in mine], told
            )
        # As above.
        except Exception as error:
            raise Refused(str(error)) from error
        if not self._steps.use(tenant, step):
            raise Refused("the step was used")
        used = next(one for one in mine if _id(one) == good.credential_id)
        await self._ways.change(
            tenant, handle, lambda kept: self._counted(kept, used.id, told.response.authenticator_data.counter)
        )
        return Verified(found.value, used)

    def _counted(self, mine: ways.Ways, passkey_id: str, counter: int) -> ways.Ways:
        """7.2, step 22: a counter that does not grow tells of a copy of the key."""

        def one(passkey: ways.Passkey) -> ways.Passkey:
            if passkey.id != passkey_id:
                return passkey
            if counter <= passkey.counter and (counter, passkey.counter) != (0, 0):
                raise Refused("the signature counter went back")
            return msgspec.structs.replace(passkey, counter=counter, used=self._clock.now())

        return msgspec.structs.replace(mine, passkeys=tuple(one(passkey) for passkey in mine.passkeys))


def usable(origin: str) -> bool:
    """Can a browser have passkeys for pages of this origin?"""
    return _party(origin) is not None


def _party(origin: str) -> str | None:
    parts = urllib.parse.urlsplit(origin)
    host = (parts.hostname or "").rstrip(".")
    if _HOST.fullmatch(host) is None or (parts.scheme != "https" and host != "localhost"):
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # What browsers read as an IPv4 address ends in a number (URL Standard, 3.5).
        return None if host.rpartition(".")[2].isdecimal() else host
    return None


def _server(origin: str) -> Any:  # the library types its methods in part only
    host = _party(origin)
    if host is None:
        raise errors.InvalidParams(
            "Passkeys need a host name over HTTPS, or localhost: browsers have none for IP addresses."
        )
    made = server.Fido2Server(
        webauthn.PublicKeyCredentialRpEntity(id=host, name="SMCP"), verify_origin=lambda told: told == origin
    )
    made.allowed_algorithms = [
        webauthn.PublicKeyCredentialParameters(type=webauthn.PublicKeyCredentialType.PUBLIC_KEY, alg=number)
        for number in _ALGORITHMS
    ]
    return made


def _state(step: _Step) -> dict[str, Any]:
    return {"challenge": step.challenge, "user_verification": webauthn.UserVerificationRequirement.REQUIRED}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it, without the library's own kinds of text."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(options), enc_hook=dict))["publicKey"]
    return plain | {"timeout": _TIMEOUT_MS}


def _read(answer: str) -> Mapping[str, Any]:
    if len(answer) > LONGEST:
        raise Refused("the answer is too long")
    return cast("Mapping[str, Any]", msgspec.json.decode(answer, type=dict[str, Any]))


def _id(passkey: ways.Passkey) -> bytes:
    return webauthn.AttestedCredentialData(passkey.credential).credential_id
