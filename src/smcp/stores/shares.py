"""Records that people without a credential cause: each kind has a small share of a tenant's storage, and no more.

They are kept below one segment of the tenant's keys and are not charged to its quota (`wrappers.quota` sees to both).
So a flood of them fills its own share, in which a further one is refused, and takes nothing of what the tenant itself
may write. The rates at the edges let through fewer than there is room for: a share is full when a process forgot them.

All of them together are 16 MB of a tenant at most.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

SEGMENT: Final = "strangers"
"""The first segment of their keys."""

ASSERTION: Final = "assertion"
"""Assertions that clients have used which nobody approved."""
CLIENT: Final = "client"
"""Clients that registered themselves and nobody approved."""
DEVICE: Final = "device"
"""Devices that wait for a person. Anybody can ask for one in the name of a public client, so all of them are."""
USER_CODE: Final = "user-code"
"""The codes that are typed for them."""


class Share(NamedTuple):
    """What a tenant keeps of one kind."""

    records: int
    bytes: int
    """Of one value as it is stored, sealed."""


SHARES: Final[Mapping[str, Share]] = {
    ASSERTION: Share(2_000, 128),
    CLIENT: Share(2_000, 4_096),
    DEVICE: Share(3_000, 2_048),
    USER_CODE: Share(2_000, 128),
}


def prefix(kind: str) -> tuple[str, str]:
    """Where the records of a kind are."""
    return (SEGMENT, kind)
