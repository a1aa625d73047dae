"""What a way of authenticating is: it recognises a credential by its form, and turns it into a principal or refuses.

Every refusal looks the same to the caller (`errors.Unauthenticated`): an answer that told "expired" from "unknown"
would tell a guesser what exists. The reason goes into the error's private detail, for the log and the audit trail.
"""

import enum
from collections.abc import Callable
from typing import Protocol

from smcp.access import policy
from smcp.kernel import errors


class Reason(enum.StrEnum):
    """Why a credential was refused: the closed list that `audit.events.AuthenticationFailed` carries."""

    ABSENT = "absent"
    """No Authorization header."""
    EXPIRED = "expired"
    MALFORMED = "malformed"
    """Not of the one canonical form, or its checksum does not match: nothing was looked up."""
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    """No such tenant, no such id, or a wrong secret."""


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

    async def authenticate(self, credential: str) -> policy.Principal:
        """Who this is. Raises `errors.Unauthenticated`, `errors.TenantSuspended` or `errors.Unavailable`."""
        ...


def refused(reason: Reason) -> errors.Unauthenticated:
    """The one error for every refusal; `reason` stays private."""
    return errors.Unauthenticated(detail=reason.value)
