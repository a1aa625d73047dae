"""What the head of a request says, worked out once for as long as a connection sends the same head again.

Clients that keep a connection send the same request line and header fields with every call, but for the length of the
body. What follows from those bytes alone, and from the connection, is the same too: which server is meant, which era is
spoken, which answers are taken. Nothing here is a decision that can change: whether the credential is good, how much is
left of a rate, and which deployment is live are asked for every request.
"""

from collections.abc import Callable

from smcp.access import policy, tools
from smcp.kernel import ids
from smcp.protocol import eras


class Head:
    """Filled in by the stages as they come to it; a stage that refuses leaves its part empty."""

    __slots__ = (
        "address", "allowed", "credential", "era", "good", "lines", "media", "plain", "recall", "server", "session",
        "standard", "tenant", "version", "way",
    )  # fmt: skip

    def __init__(self) -> None:
        self.good = False
        """The edge has let it pass."""
        self.address = ""
        """Who asks: the peer, or who a trusted proxy says."""
        self.lines = b""
        """Header lines of every answer to it."""
        self.tenant: ids.TenantId | None = None
        self.server: ids.ServerName | None = None
        self.credential: str | None = None
        self.recall: Callable[[], policy.Principal | None] | None = None
        """Asks whether the credential, which was good once, still is: see `authenticator.Authenticator.recall`."""
        self.allowed: tuple[policy.Principal, policy.Action, tools.Choice | None] | None = None
        """Who was last allowed what at this address, and of which tools. `policy.decide` and `tools.choice` are
        functions of principal, action and address, and of nothing else."""
        self.session: str | None = None
        """The session id that it names, empty without one; None until it was looked for."""
        self.way = ""
        """`sse` and `messages` at the two addresses of the old transport, empty at the endpoint of today's."""
        self.era = eras.Era.LEGACY
        self.version = ""
        self.standard: eras.Standard | None = None
        """The fields that the modern wire mirrors from the body."""
        self.media = False
        """The body is declared as JSON, and an answer that we have is taken."""
        self.plain: bool | None = None
        """Is a JSON answer taken?"""
