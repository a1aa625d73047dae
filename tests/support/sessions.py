"""Sessions of the gateway on a real store, without the gateway around them."""

from typing import Final

from contract import backends
from smcp.access import policy
from smcp.gateway import kept, sessions
from smcp.kernel import clock, errors, ids, observe
from smcp.kernel import settings as configuration
from smcp.runtime import driver
from smcp.stores import tenant as stores

ACME: Final = backends.ACME
OTHER: Final = backends.OTHER
IDLE_S: Final = 400.0
MAX_S: Final = 2000.0
TOUCH_S: Final = 60.0

SERVERS: Final = [ids.ServerName("files"), ids.ServerName("time")]


def _who(tenant: str, name: str) -> policy.Principal:
    return policy.Principal(ids.TenantId(tenant), name, "api_key", (policy.Role.MCP_USER,), "")


PEOPLE: Final = [_who("acme", "ann"), _who("acme", "bob"), _who("other", "ann")]


class World:
    """A store, and the sessions of one process on it."""

    def __init__(self, store: stores.Store, time: clock.Clock, most: int = 1000) -> None:
        self.store = store
        self.time = time
        self.told: list[tuple[str, str]] = []
        self.released: list[driver.Instance] = []
        self.kept = kept.Kept(store, observe.logger(configuration.Log()))
        self.table = sessions.Sessions(
            lambda instance, reason: self.released.append(instance),
            self.kept,
            time,
            observe.Metrics("test"),
            idle_s=IDLE_S,
            max_s=MAX_S,
            per_principal=lambda tenant: most,
        )
        self.table.listen(lambda session, reason: self.told.append((session.name, reason)))

    def again(self, most: int = 1000) -> "World":
        """What another process would know, that began now."""
        return World(self.store, self.time, most)

    async def open(self, who: policy.Principal, server: ids.ServerName, hello: bytes = b"{}") -> sessions.Session:
        """As the gateway does."""
        await self.table.load((who.tenant, who.id))
        self.table.make_room(who)
        made = self.table.open(who, server, "dep-1", None, "2025-11-25")
        made.hello, made.replays = hello, True
        await self.table.keep(made)
        return made

    async def found(
        self, who: policy.Principal, server: ids.ServerName, session_id: str, tenant: ids.TenantId | None = None
    ) -> sessions.Session | None:
        """As the gateway does."""
        at = tenant or who.tenant
        session = self.table.find(session_id, who, at, server)
        if session is not None:
            return session
        try:
            return await self.table.resume(session_id, who, at, server)
        except errors.SessionNotFound:
            return None

    async def rows(self) -> int:
        """How many records there are, of all tenants."""
        await self.kept.flush()
        return sum([len(await self.kept.of(tenant)) for tenant in (ACME, OTHER)])
