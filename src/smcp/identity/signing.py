"""What a tenant signs with: a ring of ES256 keys (RFC 7518, 3.4), one at a time, replaced by itself.

The ring is one sealed record of its tenant. A key signs for `Lifetimes.signing_s`. Its successor is made, and
published, `ahead_s` before it signs, so that whoever keeps the key set for a while has it by then; the one before stays
published, and verifies, until everything that it signed has ended. Nothing has to be started, and no clock has to
strike: whoever signs looks. An administrator may rotate early, and after a leak have the keys before refused at once.

A token is verified by the key that its header names, if that is the id of a key of the tenant's own ring; the id is
looked up in a dictionary and is no path and no query. The header has `alg`, `typ` and `kid`, and nothing else: a key,
or where to get one, that comes with the token (`jwk`, `jku`, `x5c`, `x5u`) is not read, and neither is what would be
critical (RFC 7515, 4.1; RFC 8725, 3.1, 3.5, 3.11).
"""

import base64
import binascii
import collections
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from joserfc import errors as jose
from joserfc import jwk, jws

from smcp.audit import identity as events
from smcp.identity.oauth import lifetimes
from smcp.kernel import clock, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

_T = TypeVar("_T")

ALGORITHM: Final = "ES256"
LONGEST: Final = 4096
"""Characters of the longest token that is read."""

_TENANTS: Final = 4096
"""Rings whose keys are kept ready to use."""
_SKEW_S: Final = 60.0


class _Key(msgspec.Struct, frozen=True):
    """A private key (PKCS #8) and when it begins to sign."""

    id: str
    private: bytes
    created: float
    signs: float

    def __repr__(self) -> str:
        return f"_Key({self.id!r})"


class _Ring(msgspec.Struct, frozen=True):
    """A tenant's keys, in the order in which they sign."""

    keys: tuple[_Key, ...]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a header of ours has."""

    alg: Literal["ES256"]
    typ: str
    kid: str


class Rotated(NamedTuple):
    """What a rotation did."""

    key: str
    """The new key's id."""
    kept: tuple[str, ...]
    """Keys that verify until what they signed has ended."""
    ended: tuple[str, ...]
    """Keys that verify nothing any more."""


class _Ready(NamedTuple):
    ring: _Ring
    revision: int
    keys: dict[str, jwk.ECKey]


class Signing:
    """Signs and verifies for any tenant."""

    def __init__(
        self,
        store: stores.Store,
        time: clock.Clock,
        lives: lifetimes.Lifetimes,
        note: Callable[[events.SigningKeyRotated], None],
    ) -> None:
        """`note` tells the audit trail of a key that came because it was time for one."""
        self._clock = time
        self._lives = lives
        self._note = note
        self._rings = records.Records(store, _Ring, ("oauth-signing",))
        self._ready: collections.OrderedDict[ids.TenantId, _Ready] = collections.OrderedDict()

    async def sign(self, tenant: ids.TenantId, typ: str, payload: bytes) -> str:
        """A signed token (RFC 7515, 7.1) of type `typ`. Raises `errors.NotFound` for a tenant that does not exist."""
        ready = await self._current(tenant)
        now = self._clock.now()
        key = [one for one in ready.ring.keys if one.signs <= now][-1]
        header = {"alg": ALGORITHM, "kid": key.id, "typ": typ}
        return jws.serialize_compact(header, payload, ready.keys[key.id], algorithms=[ALGORITHM])

    async def verify(self, tenant: ids.TenantId, typ: str, token: str) -> bytes | None:
        """The payload of a token that this tenant signed as a `typ`; None for any other token.

        Makes nothing: a tenant that has signed nothing, or does not exist, has signed no token either.
        """
        header = read_part(token, 0, _Header)
        if header is None or header.typ.lower() != typ:
            return None
        found = await self._rings.get(tenant, "ring")
        if found is None or all(one.id != header.kid for one in self._serving(found.value)):
            return None
        return checked(token, self._load(tenant, found).keys[header.kid])

    def serves(self, tenant: ids.TenantId, kid: str) -> bool:
        """Does this key still verify? From memory alone: where that doesn't know, it does not."""
        found = self._rings.peek(tenant, "ring")
        return isinstance(found, records.Versioned) and any(one.id == kid for one in self._serving(found.value))

    async def published(self, tenant: ids.TenantId) -> dict[str, Any]:
        """The key set (RFC 7517, 5), public halves alone. Raises `errors.NotFound`."""
        ready = await self._current(tenant)
        return {
            "keys": [
                {**ready.keys[key.id].as_dict(private=False), "kid": key.id, "use": "sig", "alg": ALGORITHM}
                for key in self._serving(ready.ring)
            ]
        }

    async def held(self, tenant: ids.TenantId) -> tuple[str, ...]:
        """The ids of the keys that verify now. Makes nothing."""
        found = await self._rings.get(tenant, "ring")
        return () if found is None else tuple(one.id for one in self._serving(found.value))

    async def rotate(self, tenant: ids.TenantId, *, drop: bool = False) -> Rotated:
        """Sign with a new key from now on. What the others signed stays good, or with `drop` is refused at once.

        Whoever calls this tells the trail. Raises `errors.NotFound`.
        """
        while True:
            found = await self._rings.get(tenant, "ring")
            before = () if found is None else self._serving(found.value)
            now = self._clock.now()
            # A key that was announced and has not signed yet makes room: there is one next key.
            kept = () if drop else tuple(one for one in before if one.signs <= now)
            made = await self._write(tenant, found, kept, now)
            if made is not None:
                stay = tuple(one.id for one in kept)
                return Rotated(made, stay, tuple(one.id for one in before if one.id not in stay))

    def _serving(self, ring: _Ring) -> tuple[_Key, ...]:
        """Without those whose last token has ended."""
        now = self._clock.now()
        overlap = self._lives.access_s + _SKEW_S
        after = [*(key.signs for key in ring.keys[1:]), float("inf")]
        return tuple(key for key, ends in zip(ring.keys, after, strict=True) if ends + overlap > now)

    async def _current(self, tenant: ids.TenantId) -> _Ready:
        """The ring, with a key that signs now, and the next one where it is time to show it."""
        while True:
            found = await self._rings.get(tenant, "ring")
            now = self._clock.now()
            if found is None:
                made = await self._write(tenant, None, (), now)
            elif found.value.keys[-1].signs + self._lives.signing_s - self._lives.ahead_s <= now:
                kept = tuple(one for one in self._serving(found.value) if one.signs <= now)
                made = await self._write(tenant, found, kept, now + self._lives.ahead_s)
            else:
                return self._load(tenant, found)
            if made is not None:
                self._note(events.SigningKeyRotated(tenant=tenant, actor="platform", key=made))

    async def _write(
        self, tenant: ids.TenantId, found: records.Versioned[_Ring] | None, kept: tuple[_Key, ...], signs: float
    ) -> str | None:
        """Put a new key that `signs` from then on behind `kept`; None where somebody else changed the ring first."""
        made = jwk.ECKey.generate_key("P-256", auto_kid=False)
        key = _Key(ids.new("sig"), made.as_der(private=True), self._clock.now(), signs)
        ring = _Ring((*kept, key))
        try:
            await self._rings.put(tenant, ("ring",), ring, expect=0 if found is None else found.revision)
        except errors.Conflict:
            return None
        return key.id

    def _load(self, tenant: ids.TenantId, found: records.Versioned[_Ring]) -> _Ready:
        ready = self._ready.get(tenant)
        if ready is None or ready.revision != found.revision:
            keys = {key.id: jwk.ECKey.import_key(key.private) for key in found.value.keys}
            ready = self._ready[tenant] = _Ready(found.value, found.revision, keys)
            if len(self._ready) > _TENANTS:
                self._ready.popitem(last=False)
        return ready


def read_part(token: str, place: int, kind: type[_T]) -> _T | None:
    """One part of a compact token (0: the header, 1: the payload), read strictly; nothing vouches for it yet."""
    parts = token.split(".") if len(token) <= LONGEST and token.isascii() else []
    if len(parts) != 3:
        return None
    part = parts[place]
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=kind)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        return None


def key_of(token: str) -> str:
    """The id of the key that a token names; empty for what is no token of ours."""
    header = read_part(token, 0, _Header)
    return "" if header is None else header.kid


def checked(token: str, key: jwk.ECKey) -> bytes | None:
    """The payload, if `key` signed it with ES256; None otherwise. The header was read before (`read_part`)."""
    try:
        return jws.deserialize_compact(token, key, algorithms=[ALGORITHM]).payload
    except (jose.JoseError, ValueError):
        return None
