"""Workers that are written by hand, started through the driver in the real sandbox."""

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from smcp.kernel import ids, observe, settings
from smcp.runtime import driver, peer
from smcp.runtime.bindings import http, outbound
from smcp.runtime.drivers.workerd import driver as workerd
from smcp.runtime.drivers.workerd import generation, process
from smcp.sandbox import cells, egress, walls
from support import cell, conversations

DATE = "2026-11-01"
MCP = pathlib.Path(__file__).parent / "worker.js"
"""A module that makes an MCP server of tools: see there."""


Instance = driver.Instance


class Makers:
    """Bindings that are there for one test: by their names, whatever a server calls them."""

    def __init__(self, handlers: Mapping[str, http.Handler] | None = None) -> None:
        self._handlers = dict(handlers or {})
        config = settings.Egress(allowed_networks=conversations.LOOPBACK)
        self._out = outbound.Outbound(egress.Egress(config, observe.Metrics("tests")))

    def kv(self, spec: driver.Spec, namespace: str) -> http.Handler:
        """The one called so."""
        return self._handlers[f"{spec.tenant}/{namespace}"]

    def bucket(self, spec: driver.Spec, bucket: str) -> http.Handler:
        """The one called so."""
        return self._handlers[f"{spec.tenant}/{bucket}"]

    def outbound(self, spec: driver.Spec, told: Callable[[str], None]) -> outbound.Way:
        """The real one, that may reach this machine."""
        return self._out.open(spec, told)


class Workers:
    """A driver, and what its servers wrote."""

    def __init__(
        self,
        made: cell.Standing,
        *,
        answer_s: float = 60.0,
        gone_s: float = 1.0,
        volumes: Any = None,
        drain_s: float = 60.0,
        makers: Makers | None = None,
    ) -> None:
        self.standing = made
        self.lines: dict[str, list[str]] = {}
        tool = cell.found().pinned.workerd
        assert tool is not None, "run `make dev`, which fetches workerd"
        limits = cell.LIMITS

        def cell_of(tenant: ids.TenantId, binds: tuple[walls.Bind, ...], volume: walls.Volume | None, /) -> walls.Cell:
            return cells.worker(limits, tool, tenant, binds, volume)

        means = generation.Means(
            launcher=made.launcher,
            cell=cell_of,
            doors=made.house.doors,
            makers=makers or Makers(),
            patience=process.Patience(start_s=60.0, answer_s=answer_s, gone_s=gone_s),
            heap_mb=cells.heap_mb(limits),
        )
        self.driver = workerd.WorkerdDriver(means, conversations.limits(), volumes, drain_s=drain_s)

    def spec(
        self, server: str, source: str, *, tenant: str = "acme", deployment: str = "d1", **wishes: Any
    ) -> driver.Spec:
        """A deployment of a Worker whose first module is `source`; it may import `./mcp.js`."""
        place = pathlib.Path(self.standing.house.artefacts, tenant, f"{server}-{deployment}", "worker")
        modules: Mapping[str, str] = wishes.pop("modules", {})
        if not place.exists():
            place.mkdir(parents=True)
            for name, text in {"main.js": source, "mcp.js": MCP.read_text(), **modules}.items():
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_text(text)
        kinds = [driver.Module(name, "esm") for name in ("main.js", "mcp.js", *modules)]
        more = {name: wishes.pop(name) for name in ("env", "egress", "volume", "trial") if name in wishes}
        return driver.Spec(
            tenant=ids.TenantId(tenant),
            server=ids.ServerName(server),
            deployment=deployment,
            artefact=str(place.parent),
            argv=(),
            runtime="worker",
            worker=driver.Worker(modules=tuple(kinds), compatibility_date=DATE, **wishes),
            **more,
        )

    async def start(self, spec: driver.Spec, *, modern: bool = True) -> driver.Instance:
        """A conversation with it."""
        lines = self.lines.setdefault(f"{spec.tenant}/{spec.server}", [])
        return await self.driver.start(spec, modern=modern, lines=lines.append)


async def call(
    instance: driver.Instance, tool: str, *, modern: bool = True, timeout_s: float = 60.0, **arguments: Any
) -> str:
    """The text that a tool answers."""
    asked = {"name": tool, "arguments": arguments}
    result = await peer.Peer(instance, modern=modern, timeout_s=timeout_s).request("tools/call", asked)
    text: str = result["content"][0]["text"]
    return text


async def until(check: Callable[[], bool]) -> None:
    """Return when `check` says so; the test's own time is the limit."""
    while not check():  # noqa: ASYNC110 - what a log says has no event
        await asyncio.sleep(0.02)


def project(folder: pathlib.Path, source: str, more: Mapping[str, object]) -> pathlib.Path:
    """A folder to deploy, with a Worker whose code is `source` and whose configuration has `more`."""
    folder.mkdir(parents=True)
    (folder / "index.js").write_text(source)
    (folder / "mcp.js").write_text(MCP.read_text())
    wanted = {"name": folder.name, "main": "index.js", "compatibility_date": DATE, **more}
    (folder / "wrangler.json").write_text(json.dumps(wanted))
    return folder


@contextlib.asynccontextmanager
async def handmade(**wishes: Any) -> AsyncGenerator[Workers]:
    """A driver with a launcher of its own. In the end nothing of it is left."""
    tool = cell.found().pinned.workerd
    async with cell.standing(fixed=[tool.path] if tool is not None else []) as made:
        running = Workers(made, **wishes)
        try:
            yield running
        finally:
            await running.driver.close()
