"""What a way of authenticating is: it recognises a credential by its form, and turns it into a principal or refuses.

Every refusal looks the same to the caller (`errors.Unauthenticated`): an answer that told "expired" from "unknown"
would tell a guesser what exists. The reason goes into the error's private detail, for the log and the audit trail.
"""

import enum
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from smcp.access import policy
from smcp.kernel import errors


class Reason(enum.StrEnum):
    """Why a credential was refused: the closed list that `audit.events.AuthenticationFailed` carries."""

    ABSENT = "absent"
    """No Authorization header."""
    ADDRESS = "address"
    """A good credential, from a network that it does not name."""
    AUDIENCE = "audience"
    """A good credential, at another server than it was made for."""
    EXPIRED = "expired"
    MALFORMED = "malformed"
    """Not of the one canonical form, or its checksum does not match: nothing was looked up."""
    PROOF = "proof"
    """The credential works together with a DPoP proof only, which was not there or proves nothing; or without one."""
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    """No such tenant, no such id, or a wrong secret."""


class Proof(NamedTuple):
    """A DPoP proof (RFC 9449), and the request that it came with: its method, Host header and path."""

    text: str
    method: str
    authority: str
    path: str

    def __repr__(self) -> str:
        return f"Proof({self.method} {self.path})"


SHOWN: Final = Proof("", "", "", "")
"""Stands for a proof that was checked when the request began: it works once, and some requests live long."""

Recall = Callable[[], policy.Principal | None]
"""The principal behind a credential that was verified before, while memory can vouch for it; else None, which says
nothing: ask `Method.authenticate`. Never waits and never raises."""


class Method(Protocol):
    """One way of authenticating. A new one is one file in this folder and one entry in `app.wire`."""

    def recognises(self, credential: str) -> bool:
        """Does the credential have this method's form? Cheap, and touches nothing: the first that says yes decides."""
        ...

    def recall(self, credential: str) -> Recall | None:
        """What asks again whether a credential that was good still is; None where memory does not know it."""
        ...

    async def authenticate(self, credential: str, proof: Proof | None = None) -> policy.Principal:
        """Who this is. `proof` was shown where the credential says to be one that needs it (the scheme `DPoP`).

        Raises `errors.Unauthenticated`, `errors.TenantSuspended` or `errors.Unavailable`."""
        ...


def refused(reason: Reason) -> errors.Unauthenticated:
    """The one error for every refusal; `reason` stays private."""
    return errors.Unauthenticated(detail=reason.value)
