"""Probing a new deployment: which eras does it speak, who is it, which tools does it have?

The era of a server is locked by its first message, and some servers exit or stay silent when they are asked
`server/discover` (client-quirk 13): so each question gets a copy of its own, with a timeout, and the verdict is
recorded with the deployment. For a remote server a copy is a session of its own there, and nothing is fetched on the
way but through the driver's guarded client.
"""

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from smcp.deploy import deployer, versions
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import eras
from smcp.protocol.validate import tools as schemas
from smcp.runtime import driver, peer

_STDERR: Final = 12
"""Lines of what it wrote that the error repeats."""
_KEPT: Final = 200
"""Lines that its log keeps of a copy that did not answer."""
_COPIES: Final = 3
"""Copies that are asked one question, when they end instead of answering."""

_WHOLE: Final = 10
"""Times the patience with one answer: for everything. A server that answers each of many pages just in time would keep
others' deployments waiting for an hour."""
_REMARKS: Final = 5
"""Schemas of a new deployment that its owner is told of, when they will not be applied."""

_TASKS: Final = "io.modelcontextprotocol/tasks"

SpecOf = Callable[[ids.TenantId, ids.ServerName, versions.Deployment], Awaitable[driver.Spec]]


class Prober:
    """Starts copies of a deployment that is not live yet and asks them."""

    def __init__(
        self,
        stdio: driver.Driver,
        spec: SpecOf,
        lines: Callable[[driver.Spec], driver.Lines],
        *,
        timeout_s: float,
        whole_s: float = 0.0,
    ) -> None:
        """`lines` gives a server's log, which gets what a copy wrote that did not answer.

        `timeout_s` is for one answer, `whole_s` for all of them (0: so many times as long).
        """
        self._stdio = stdio
        self._lines = lines
        self._spec = spec
        self._timeout_s = timeout_s
        self._whole_s = whole_s or timeout_s * _WHOLE

    async def __call__(
        self, tenant: ids.TenantId, server: ids.ServerName, draft: versions.Deployment
    ) -> deployer.Probed:
        """What the deployment is. Raises `errors.DeployFailed` when it answers in no era, with what it wrote."""
        spec = msgspec.structs.replace(await self._spec(tenant, server, draft), trial=True)
        if spec.volume is not None:
            # It sees what the live version keeps, and what it makes of it is forgotten: it is not live yet.
            spec = msgspec.structs.replace(spec, volume=msgspec.structs.replace(spec.volume, scratch=True))
        wanted = draft.manifest.era
        said: collections.deque[str] = collections.deque(maxlen=_KEPT)
        try:
            async with asyncio.timeout(self._whole_s), contextlib.AsyncExitStack() as kept:
                modern = await self._ask(spec, said, kept, modern=True) if wanted != "legacy" else None
                legacy = await self._ask(spec, said, kept, modern=False) if wanted != "modern" else None
        except TimeoutError as error:
            raise errors.DeployFailed("The server took too long to tell which tools it has.") from error
        found = modern or legacy
        if found is None:
            written = [line for line in said if not line.startswith("[smcp]")]
            log = self._lines(spec)
            for line in ("[smcp] deployed nothing: a copy of the new version did not answer. It wrote:", *written):
                log(line)
            told = " / ".join(written[-_STDERR:]) or "nothing"
            where = f"{spec.remote.url} does" if spec.remote is not None else "The server does"
            raise errors.DeployFailed(f"{where} not answer as an MCP server. It wrote, or failed with: {told[-1500:]}")
        spoken = tuple(one for one in eras.MODERN if modern and one in modern.server.versions)
        older = tuple(one for one in (legacy.server.versions[::-1] if legacy else ()) if one in eras.LEGACY)
        if not spoken and not older:
            raise errors.DeployFailed("The server speaks no version of MCP that is spoken here.")
        # In a thread: megabytes, looked through for every form of every secret, may take long.
        probed = await asyncio.to_thread(_probed, found, versions.Eras(legacy=older, modern=spoken))
        # Modern MCP knows one way over HTTP; of the others a legacy session has said which one it is.
        return msgspec.structs.replace(probed, wire=(legacy or found).wire)

    async def _ask(
        self, spec: driver.Spec, said: collections.deque[str], kept: contextlib.AsyncExitStack, *, modern: bool
    ) -> "_Answer | None":
        """What it answers in one era; None when it answers nothing there. What `kept` ends may be asked more."""
        found: _Answer | None = None
        for _ in range(_COPIES):
            # A copy that ended has said neither yes nor no: what ended it (the machine's memory ran out, say) must not
            # make a server that speaks both eras one of a single era for ever.
            found, ended = await self._ask_copy(spec, said, kept, modern=modern)
            if not ended:
                break
        return found

    async def _ask_copy(
        self, spec: driver.Spec, said: collections.deque[str], kept: contextlib.AsyncExitStack, *, modern: bool
    ) -> "tuple[_Answer | None, bool]":
        """The answer of one copy, if there is one, and whether it ended by itself instead."""
        instance = await self._stdio.start(spec, modern=modern, lines=said.append)
        async with contextlib.AsyncExitStack() as ending:
            ending.push_async_callback(instance.stop, "the probe is over")
            try:
                client = peer.Peer(instance, modern=modern, timeout_s=self._timeout_s)
                server = await client.introduce()
                tools = await client.tools() if "tools" in server.capabilities else []
            except (errors.RpcError, errors.ServerFailed, errors.ServerTimeout) as error:
                # Not of this era, or not a server at all: the other question, or the caller, tells which.
                said.append(f"({instance.hide(error.public)})")
                return None, not instance.alive
            if spec.worker is not None:
                # The next question finds its process there: an isolate is locked to no era by its first message.
                kept.push_async_exit(ending.pop_all())
            return _Answer(server, tools, instance.hide, instance.wire), False


class _Answer(msgspec.Struct, frozen=True):
    server: peer.Server
    tools: list[jsonrpc.Json]
    hide: Callable[[str], str]
    wire: versions.Wire


def _probed(found: _Answer, spoken: versions.Eras) -> deployer.Probed:
    described = tuple(_tool(one, found.hide) for one in found.tools)
    seen = ((one.name, one.input_schema, one.output_schema) for one in described)
    return deployer.Probed(
        eras=spoken,
        tools=described,
        remarks=tuple(map(found.hide, schemas.remarks(seen, _REMARKS))),
        server_info=_info(found.server, found.hide),
        instructions=found.hide(found.server.instructions)[:16384],
        tasks=_has_tasks(found.server.capabilities),
    )


def _has_tasks(capabilities: jsonrpc.Json) -> bool:
    """As an extension (MCP 2026-07-28), or as the experiment that the core had in 2025-11-25."""
    return _TASKS in (jsonrpc.obj(capabilities.get("extensions")) or {}) or "tasks" in capabilities


def _tool(tool: jsonrpc.Json, hide: Callable[[str], str]) -> versions.Tool:
    hints = jsonrpc.obj(tool.get("annotations")) or {}
    return versions.Tool(
        name=str(tool.get("name", ""))[:256],
        description=hide(str(tool.get("description", "")))[:8192],
        input_schema=jsonrpc.encode(tool.get("inputSchema", {})),
        repeatable=hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True,
        output_schema=jsonrpc.encode(tool["outputSchema"]) if "outputSchema" in tool else b"",
        read_only=hints.get("readOnlyHint") is True,
    )


def _info(server: peer.Server, hide: Callable[[str], str]) -> versions.ServerInfo:
    return versions.ServerInfo(
        name=hide(str(server.info.get("name", "")))[:256], version=hide(str(server.info.get("version", "")))[:256]
    )
