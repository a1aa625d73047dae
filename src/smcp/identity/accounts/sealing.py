"""What a person's browser holds between two steps of signing in: sealed, short-lived, and nothing in memory for it.

Between the password and the code, and between a passkey's challenge and its answer, the platform has to remember
something. Anybody can begin as often as they like, so nothing is kept for it: the browser holds it, sealed under a key
of the tenant. What has succeeded is remembered, until it would end by itself: it passes once.
"""

import base64
import binascii
import collections
from typing import Final, TypeVar

import msgspec

from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import tenant as stores

LIFE_S: Final = 300.0
LONGEST: Final = 2048
_USED: Final = 8192
"""Steps of one tenant that have passed within `LIFE_S`; whoever wants more of them is in nobody else's way."""

_T = TypeVar("_T")


class _Held(msgspec.Struct, frozen=True):
    """What is sealed: the step, and when it ends (epoch seconds)."""

    ends: float
    step: msgspec.Raw


class Steps:
    """Seals and opens steps; `use` lets one pass once."""

    def __init__(self, store: stores.Store, clock: clock.Clock) -> None:
        self._store = store
        self._clock = clock
        self._used: dict[ids.TenantId, collections.OrderedDict[str, float]] = {}

    def seal(self, tenant: ids.TenantId, purpose: str, step: msgspec.Struct) -> str:
        """`step` as text for a form field. Raises `errors.NotFound` when there is no such tenant."""
        held = msgspec.msgpack.encode(_Held(self._clock.now() + LIFE_S, msgspec.Raw(msgspec.msgpack.encode(step))))
        sealed = self._box(tenant).seal(held, crypto.length_prefixed(tenant, purpose))
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, tenant: ids.TenantId, purpose: str, text: str, kind: type[_T]) -> _T | None:
        """The step; None when it was not sealed here for this purpose, has ended, or was used."""
        if len(text) > LONGEST or not text.isascii() or text in self._used.get(tenant, ()):
            return None
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            held = msgspec.msgpack.decode(
                self._box(tenant).open(sealed, crypto.length_prefixed(tenant, purpose)), type=_Held
            )
        except (binascii.Error, errors.TamperedData, errors.NotFound):
            return None
        # One text, one step: base 64 has several spellings of the last digit.
        if self._clock.now() >= held.ends or base64.urlsafe_b64encode(sealed).decode().rstrip("=") != text:
            return None
        return msgspec.msgpack.decode(held.step, type=kind)

    def use(self, tenant: ids.TenantId, text: str) -> bool:
        """Let a step that was opened pass; False when it has passed already. Raises `errors.RateLimited`."""
        now, used = self._clock.now(), self._used.setdefault(tenant, collections.OrderedDict())
        while used and next(iter(used.values())) <= now:
            used.popitem(last=False)
        if text in used:
            return False
        if len(used) >= _USED:
            # Not the oldest: forgetting one would let it pass twice.
            raise errors.RateLimited("Too many people are signing in at this moment. Wait a little and retry.")
        used[text] = now + LIFE_S
        return True

    def _box(self, tenant: ids.TenantId) -> crypto.Xaes:
        return crypto.Xaes(self._store.ring.data_key(tenant, "identity.sign-in step"))
