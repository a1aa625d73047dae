"""Servers and their deployments: what was made never changes, what is live is one pointer.

A deployment is written once, under a key that must not exist. `live` is a field of the server's record and moves by
compare-and-set: a crash between the two leaves what was live before, and a deployment that nobody sees and the next
publication removes. Reads come from memory (`stores.records`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from smcp.deploy import artefacts as artefact_store
from smcp.deploy import manifest, wheels
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

Desired = Literal["running", "stopped"]
Runtime = Literal["python", "node", "worker", "remote"]
"""What runs it: a Python, a Node.js, an isolate of V8, or somebody else, elsewhere."""
Wire = Literal["", "streamable", "sse"]
"""How a remote server was found to speak; empty for a hosted one."""
Locked = wheels.Locked

MOST_KEPT: Final = 50
_PAGE: Final = 1000


class Eras(msgspec.Struct, frozen=True):
    """Protocol versions that a server answered to, newest first, by era."""

    legacy: tuple[str, ...] = ()
    modern: tuple[str, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    """A tool as the server described it when it was deployed."""

    name: str
    description: str
    input_schema: bytes
    """JSON. Bytes and not `msgspec.Raw`, which would end up as it is in the record's MessagePack."""
    repeatable: bool = False
    """It said that it only reads, or that calling it again changes nothing more (`readOnlyHint`, `idempotentHint`)."""
    output_schema: bytes = b""
    """JSON; empty where it has none, and in deployments that are older than this member."""
    read_only: bool = False
    """It said that it changes nothing (`readOnlyHint`); False in deployments that are older than this member."""


class ServerInfo(msgspec.Struct, frozen=True):
    """What the server calls itself."""

    name: str = ""
    version: str = ""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable version of a server."""

    id: str
    server: str
    number: int
    """1, 2, 3 … within the server; one that failed leaves a gap."""
    created: float
    by: str
    """Id of the principal who deployed it."""
    source: str
    """With the exact version that was taken."""
    digest: str
    """Of the artefact; of a remote server its description's (`remotes.digest`)."""
    manifest: manifest.Manifest
    lock: tuple[wheels.Locked, ...]
    argv: tuple[str, ...]
    """As seen inside the sandbox; empty for a remote server and a Worker."""
    interpreter: str
    """Label of what it was built for: a Python (`sandbox.interpreter`), a Node.js (`sandbox.node`) or a workerd
    (`sandbox.tools`); empty for a remote server."""
    runtime: Runtime = "python"
    eras: Eras = Eras()
    tools: tuple[Tool, ...] = ()
    server_info: ServerInfo = ServerInfo()
    instructions: str = ""
    tasks: bool = False
    """It hands out tasks: names of work that whoever knows one may ask about."""
    wire: Wire = ""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A named endpoint of a tenant."""

    name: str
    created: float
    live: str | None = None
    """Id of the deployment that answers; None only until the first one is live."""
    desired: Desired = "running"
    number: int = 0
    """The number given to a deployment last."""
    earlier: tuple[str, ...] = ()
    """Ids of deployments that were live before, the last one last."""


class Versions:
    """Every tenant's servers."""

    def __init__(
        self,
        store: stores.Store,
        clock: clocks.Clock,
        artefacts: artefact_store.Artefacts,
        kept: Callable[[ids.TenantId], int] = lambda _: MOST_KEPT,
    ) -> None:
        """`kept`: how many earlier deployments of one server a tenant keeps; the oldest go when a new one is live."""
        self._kept = kept
        self._store = store
        self._servers = records.Records(store, Server, ("server",))
        self._deployments = records.Records(store, Deployment, ("deployment",), cached=4096)
        self._artefacts = artefacts
        self._clock = clock
        self._changing: dict[ids.TenantId, asyncio.Lock] = {}

    def changing(self, tenant: ids.TenantId) -> asyncio.Lock:
        """Held while an artefact is saved and published, or removed: so none is removed that is just being used."""
        return self._changing.setdefault(tenant, asyncio.Lock())

    # --- reading ---

    @property
    def changes(self) -> int:
        """While this number stays the same, `peek_live` answers the same, if it has answered."""
        return self._store.changes

    async def servers(self, tenant: ids.TenantId) -> list[Server]:
        """The tenant's servers, by name."""
        return [server for server in await self._every(tenant) if server.live is not None]

    async def server(self, tenant: ids.TenantId, name: str) -> Server:
        """One server. Raises `errors.NotFound`."""
        found = await self._servers.get(tenant, name)
        if found is None or found.value.live is None:
            raise errors.NotFound
        return found.value

    def peek_live(self, tenant: ids.TenantId, name: str) -> "tuple[Server, Deployment] | records.Unknown | None":
        """As `live` if memory knows; None when there is none; `records.UNKNOWN` when it has to be read. Never waits."""
        server = self._servers.peek(tenant, name)
        if server is None or server is records.UNKNOWN:
            return server
        if server.value.live is None:
            return None
        deployment = self._deployments.peek(tenant, name, server.value.live)
        if deployment is None or deployment is records.UNKNOWN:
            return records.UNKNOWN
        return server.value, deployment.value

    async def live(self, tenant: ids.TenantId, name: str) -> tuple[Server, Deployment]:
        """A server and its live deployment. Raises `errors.NotFound`."""
        known = self.peek_live(tenant, name)
        if known is None:
            raise errors.NotFound
        if known is not records.UNKNOWN:
            return known
        server = await self.server(tenant, name)
        assert server.live is not None
        return server, await self.deployment(tenant, name, server.live)

    async def deployment(self, tenant: ids.TenantId, name: str, deployment: str) -> Deployment:
        """One deployment. Raises `errors.NotFound`."""
        found = await self._deployments.get(tenant, name, deployment)
        if found is None:
            raise errors.NotFound
        return found.value

    async def deployments(self, tenant: ids.TenantId, name: str) -> list[Deployment]:
        """The deployments that are or were live, oldest first. Raises `errors.NotFound` without the server."""
        server = await self.server(tenant, name)
        seen = {server.live, *server.earlier}
        return [one for one in await self._all(tenant, name) if one.id in seen]

    async def most_kept(self, tenant: ids.TenantId) -> int:
        """How many earlier deployments the server has that has most of them."""
        return max((len(server.earlier) for server in await self.servers(tenant)), default=0)

    # --- changing ---

    async def reserve(self, tenant: ids.TenantId, name: str) -> int:
        """The number of the server's next deployment. Makes the server's record when there is none; nobody sees
        it before something is live."""
        first = Server(name=name, created=self._clock.now())
        if await self._servers.get(tenant, name) is None:
            # A conflict: somebody else made it just now; the number below is ours alone.
            with contextlib.suppress(errors.Conflict):
                await self._servers.create(tenant, (name,), first)
        after = await self._servers.update(
            tenant, (name,), lambda server: msgspec.structs.replace(server, number=server.number + 1)
        )
        return after.number

    async def publish(self, tenant: ids.TenantId, deployment: Deployment) -> Server:
        """Write `deployment` and make it live. Hold `changing`.

        Raises `errors.Conflict` when a later deployment was published meanwhile, or the server was deleted.
        """
        await self._deployments.create(tenant, (deployment.server, deployment.id), deployment)

        def move(server: Server) -> Server:
            if server.number < deployment.number:
                # Deleted and made anew meanwhile: the numbers began again.
                raise errors.Conflict("The server was deleted during the deployment. Deploy again.")
            return _moved(server, deployment.id, self._kept(tenant))

        try:
            server = await self._servers.update(tenant, (deployment.server,), move)
        except errors.NotFound:
            raise errors.Conflict("The server was deleted during the deployment. Deploy again.") from None
        finally:
            await self._tidy(tenant, deployment.server)
        return server

    async def rollback(self, tenant: ids.TenantId, name: str, to: str | None = None) -> Server:
        """Make `to` (an id; None: what was live before) live. Raises `errors.NotFound` and `errors.Conflict`."""
        await self.server(tenant, name)

        def move(found: Server) -> Server:
            # Ids sort by time, so that going back twice goes back two steps instead of there and back.
            older = [one for one in found.earlier if one < (found.live or "")]
            if to is None and not older:
                raise errors.Conflict("There is no earlier deployment to go back to.")
            target = max(older) if to is None else to
            if target == found.live:
                return found
            if target not in found.earlier:
                raise errors.NotFound(f"The server {name} has no deployment '{target[:64]}'.")
            # Nothing goes here: who goes back may want to go forward again.
            return _moved(found, target, len(found.earlier) + 1)

        return await self._servers.update(tenant, (name,), move)

    async def set_desired(self, tenant: ids.TenantId, name: str, state: Desired) -> Server:
        """Wish the server running or stopped. Raises `errors.NotFound`."""
        await self.server(tenant, name)
        return await self._servers.update(
            tenant, (name,), lambda server: msgspec.structs.replace(server, desired=state)
        )

    async def delete(self, tenant: ids.TenantId, name: str) -> None:
        """Remove the server, its deployments, and artefacts that no other server uses. Raises `errors.NotFound`."""
        await self.server(tenant, name)
        async with self.changing(tenant):
            # The name first: from here on nobody finds what is being removed.
            await self._servers.delete(tenant, (name,))
            await self._remove(tenant, name, await self._all(tenant, name))

    async def abandon(self, tenant: ids.TenantId, name: str) -> None:
        """Remove the record that `reserve` made when nothing ever became live."""
        found = await self._servers.get(tenant, name)
        if found is not None and found.value.live is None:
            try:
                await self._servers.delete(tenant, (name,), expect=found.revision)
            except errors.Conflict:
                return  # another deployment of it is under way

    async def forget(self, tenant: ids.TenantId, digest: str) -> None:
        """Remove an artefact of a deployment that failed, unless another one uses it. Hold `changing`."""
        if digest not in await self._used(tenant):
            await self._artefacts.discard(tenant, digest)

    async def _every(self, tenant: ids.TenantId) -> list[Server]:
        found: list[Server] = []
        after: str | None = None
        while page := await self._servers.list(tenant, after=after, limit=_PAGE):
            found += [record.value for _, record in page]
            after = page[-1][0][-1]
        return found

    async def _all(self, tenant: ids.TenantId, name: str) -> list[Deployment]:
        found: list[Deployment] = []
        after: str | None = None
        while page := await self._deployments.list(tenant, name, after=after, limit=_PAGE):
            found += [record.value for _, record in page]
            after = page[-1][0][-1]
        return found

    async def _tidy(self, tenant: ids.TenantId, name: str) -> None:
        """Remove deployments that never became live, and those that `earlier` no longer holds."""
        found = await self._servers.get(tenant, name)
        kept = {found.value.live, *found.value.earlier} if found is not None else set[str | None]()
        await self._remove(tenant, name, [one for one in await self._all(tenant, name) if one.id not in kept])

    async def _remove(self, tenant: ids.TenantId, name: str, gone: list[Deployment]) -> None:
        for deployment in gone:
            await self._deployments.delete(tenant, (name, deployment.id))
        # A remote server has a description and no artefact.
        built = {deployment.digest for deployment in gone if deployment.runtime != "remote"}
        for digest in built - await self._used(tenant):
            await self._artefacts.discard(tenant, digest)

    async def _used(self, tenant: ids.TenantId) -> set[str]:
        names = [server.name for server in await self._every(tenant)]
        return {deployment.digest for name in names for deployment in await self._all(tenant, name)}


def _moved(server: Server, live: str, kept: int) -> Server:
    before = [one for one in (*server.earlier, server.live) if one is not None and one != live]
    return msgspec.structs.replace(server, live=live, earlier=tuple(before[-kept:]))
