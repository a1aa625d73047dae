"""What a page has to remember until the next form comes back: sealed, in the form itself.

An authorization request waits while its person signs in, and again while they read the consent page. Kept on the
server, such requests would be memory that anybody can fill; as a target in a URL they would be an open redirect. A
ticket is neither: only we can make one, it names one of a closed list of places (`Place`), and it opens only for the
tenant, the step and the browser (or session) that it was made for, for a limited time.
"""

import base64
import binascii
import enum
from typing import Final

import msgspec

from smcp.kernel import clock, crypto, errors, ids
from smcp.web import csrf

LIVES_S: Final = 1800.0
"""Seconds that a ticket opens: as long as a person may take to find their second factor."""
_LONGEST: Final = 40_000
_PURPOSE: Final = "page-tickets"


class Step(enum.StrEnum):
    """What a ticket is for; it opens nowhere else."""

    CONSENT = "consent"
    DEVICE = "device"
    SECOND = "second"
    SIGN_IN = "sign-in"
    TOTP = "totp"


class Place(enum.StrEnum):
    """Where a person goes on after they signed in: nothing else is ever the target of a redirect of ours."""

    ACCOUNT = "account"
    AUTHORIZE = "authorize"
    CLIENTS = "clients"
    DEVICE = "device"
    SECURITY = "security"
    SESSIONS = "sessions"

    def path(self, tenant: ids.TenantId) -> str:
        """Its path, without a query."""
        if self is Place.AUTHORIZE:
            return f"/oauth/{tenant}/authorize"
        return f"/account/{tenant}" if self is Place.ACCOUNT else f"/account/{tenant}/{self.value}"


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What is in a ticket."""

    place: Place
    query: str = ""
    """The query string as it came, which is read again by the one parser there is when it is gone on with."""
    targets: tuple[str, ...] = ()
    """Where the answer to it would go: origins that `form-action` must allow on the pages in between."""
    note: str = ""
    """The name of the application that waits, for people."""
    step: str = ""
    """What the step itself has to remember."""


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    made: float
    kept: Kept


_TOLD: Final = "This page is too old, or was opened in another browser. Go back to the application and start again."


class Tickets:
    """Makes and opens tickets."""

    def __init__(self, key: csrf.DataKey, time: clock.Clock) -> None:
        self._key = key
        self._clock = time

    def seal(self, tenant: ids.TenantId, step: Step, holder: str, kept: Kept) -> str:
        """A ticket for the browser or session `holder`."""
        sealed = self._cipher(tenant).seal(
            msgspec.msgpack.encode(_Sealed(self._clock.now(), kept)), _bound(tenant, step, holder)
        )
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, tenant: ids.TenantId, step: Step, holder: str, ticket: str) -> Kept:
        """What is in `ticket`. Raises `errors.BadRequest`."""
        if not 0 < len(ticket) <= _LONGEST:
            raise errors.BadRequest(_TOLD, detail="length")
        try:
            sealed = base64.b64decode(ticket + "=" * (-len(ticket) % 4), altchars=b"-_", validate=True)
            opened = self._cipher(tenant).open(sealed, _bound(tenant, step, holder))
            found = msgspec.msgpack.decode(opened, type=_Sealed)
        except (binascii.Error, ValueError, errors.TamperedData, msgspec.DecodeError) as error:
            raise errors.BadRequest(_TOLD, detail="sealed") from error
        if not 0 <= self._clock.now() - found.made < LIVES_S:
            raise errors.BadRequest(_TOLD, detail="age")
        return found.kept

    def _cipher(self, tenant: ids.TenantId) -> crypto.Xaes:
        return crypto.Xaes(self._key(tenant, _PURPOSE))


def _bound(tenant: ids.TenantId, step: Step, holder: str) -> bytes:
    return crypto.length_prefixed("page ticket", tenant, step.value, holder)
