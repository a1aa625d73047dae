"""How much a cell may move over the network: asked before a connection, told before each chunk."""

from collections.abc import Callable
from typing import Protocol

from smcp.kernel import ids


class Budget(Protocol):
    """Bytes that all cells of one tenant share."""

    async def ready(self) -> bool:
        """May more be moved? Raises `errors.Unavailable` when nobody can say."""
        ...

    def spend(self, amount: int) -> bool:
        """Count `amount` bytes that are about to move; False, and nothing counted, when they may not."""
        ...


Budgets = Callable[[ids.TenantId], Budget]
"""From a tenant to its budget."""


class UsedUp(OSError):
    """The budget has no room for the next chunk: the connection ends here."""
