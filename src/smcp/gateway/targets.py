"""Where a request goes: the live deployment of a server, ready to be started, from memory when it is warm."""

import collections
from collections.abc import Awaitable, Callable
from typing import Final

from smcp.access import policy
from smcp.deploy import versions
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import headers
from smcp.protocol.validate import tools
from smcp.runtime import checks, driver, peer
from smcp.stores import records

_KEPT: Final = 4096
_READING: Final = frozenset(
    {
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tools/list",
    }
)
"""Requests that change nothing."""


class Target:
    """A live deployment as the gateway uses it. Immutable, made once per deployment."""

    __slots__ = (
        "_mirrored", "_reading", "_repeatable", "book", "deployment", "described", "drain_s", "legacy", "modern",
        "poll_s", "resumes", "share", "spec",
    )  # fmt: skip

    def __init__(self, deployment: versions.Deployment, spec: driver.Spec, book: tools.Book) -> None:
        self.deployment = deployment
        self.spec = spec
        self.legacy = bool(deployment.eras.legacy)
        self.modern = bool(deployment.eras.modern)
        self.share = deployment.manifest.share
        if deployment.tasks and self.share == "tenant":
            # Only the server knows whose a task is, and it is not told who asks: in a copy for everybody any caller
            # could poll, read and cancel another's (CVE-2026-52870).
            self.share = "principal"
        self.poll_s = deployment.manifest.poll_s
        self.drain_s = float(deployment.manifest.drain_s)
        self.resumes = deployment.manifest.resumes
        """A legacy session of it may go on in another copy."""
        self.described: peer.Server | None = None
        """What it said in `server/discover`, once a legacy client has needed it."""
        self.book = book
        """Its tools, as clients were shown them."""
        book.seed((tool.name, tool.input_schema, tool.output_schema) for tool in deployment.tools)
        # Few tools mirror parameters into headers: only those are looked at per call.
        self._mirrored = {
            tool.name: jsonrpc.decode(tool.input_schema)
            for tool in deployment.tools
            if b"x-mcp-header" in tool.input_schema
        }

        self._repeatable = frozenset(tool.name for tool in deployment.tools if tool.repeatable)
        self._reading = frozenset(tool.name for tool in deployment.tools if tool.read_only)

    def only_reads(self, tool: str) -> bool:
        """Did the tool say, when it was deployed, that it changes nothing (`readOnlyHint`)?"""
        return tool in self._reading

    def knows(self, tool: str) -> bool:
        """Is there such a tool, as far as anybody was shown?"""
        return self.book.knows(tool)

    def repeatable(self, method: str, params: jsonrpc.Json) -> bool:
        """May this request be sent again when nobody knows whether it was carried out?

        What only reads may; a tool only where it said so when it was deployed (`readOnlyHint`, `idempotentHint`).
        """
        return method in _READING or (method == "tools/call" and params.get("name") in self._repeatable)

    def share_key(self, principal: policy.Principal) -> str:
        """Who shares a copy: everybody of the tenant, or one principal, where the manifest keeps users apart."""
        return "" if self.share == "tenant" else principal.id

    def check_headers(self, params: jsonrpc.Json, fields: headers.Fields) -> None:
        """Compare `Mcp-Param-*` with the arguments of a call. Raises `errors.HeaderMismatch`."""
        schema = self._mirrored.get(str(params.get("name")))
        if schema is not None:
            headers.check_params(schema, jsonrpc.obj(params.get("arguments")) or {}, fields)


class Targets:
    """Finds targets by tenant and server."""

    def __init__(
        self,
        found: versions.Versions,
        spec: Callable[[ids.TenantId, ids.ServerName, versions.Deployment], Awaitable[driver.Spec]],
        books: checks.Books,
    ) -> None:
        """`spec` says how a deployment is run; it comes from `app/wire.py`. `books`: each deployment's tools."""
        self._books = books
        self._versions = found
        self._spec = spec
        self._known: collections.OrderedDict[tuple[str, str], Target] = collections.OrderedDict()
        self._live: dict[tuple[str, str], tuple[int, Target]] = {}
        """What `known` found, and the store's changes at that time."""

    def known(self, tenant: ids.TenantId, server: ids.ServerName) -> Target | None:
        """The live target if memory has all of it, else None: ask `find`, which says why. Never waits."""
        changes = self._versions.changes
        found = self._live.get((tenant, server))
        if found is not None and found[0] == changes:
            return found[1]
        target = self._look_up(tenant, server)
        if target is None:
            self._live.pop((tenant, server), None)
        else:
            if len(self._live) >= _KEPT:
                self._live.clear()
            self._live[tenant, server] = changes, target
        return target

    def _look_up(self, tenant: ids.TenantId, server: ids.ServerName) -> Target | None:
        live = self._versions.peek_live(tenant, server)
        if live is None or live is records.UNKNOWN or live[0].desired != "running":
            return None
        return self._known.get((tenant, live[1].id))

    async def find(self, tenant: ids.TenantId, server: ids.ServerName) -> Target:
        """The live target. Raises `errors.NotFound`, or `errors.ServerStopped` when its owner stopped it."""
        while True:
            record, deployment = await self._versions.live(tenant, server)
            if record.desired != "running":
                raise errors.ServerStopped
            key = (tenant, deployment.id)
            target = self._known.get(key)
            if target is not None:
                return target
            await self._make(tenant, server, deployment)
            # Once more from the start: unpacking takes a while, in which it may have been stopped or deleted.

    async def deployed(self, tenant: ids.TenantId, server: ids.ServerName, deployment: str) -> Target:
        """A deployment that is or was live, by its id: for sessions that finish on it. Raises as `find`."""
        known = self._known.get((tenant, deployment))
        if known is not None:
            return known
        return await self._make(tenant, server, await self._versions.deployment(tenant, server, deployment))

    def outdated(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """What a server said until now is not its word any more: it was stopped, set back, or has other secrets."""
        for target in self._known.values():
            if (target.spec.tenant, target.spec.server) == (tenant, server):
                target.book.outdated()

    async def _make(self, tenant: ids.TenantId, server: ids.ServerName, deployment: versions.Deployment) -> Target:
        spec = await self._spec(tenant, server, deployment)
        target = Target(deployment, spec, self._books.of(tenant, deployment.id))
        # Its copies may have kept the book while nobody told it of a change here.
        target.book.outdated()
        self._known[tenant, deployment.id] = target
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return target
