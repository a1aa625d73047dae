"""A Worker in a workerd of its own, without SMCP's driver and sandbox, whose bindings lead to a real door."""

import asyncio
import json
import os
import pathlib
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import httpcore2

from smcp.runtime.bindings import door
from smcp.sandbox import tools

_START_S: Final = 120.0
_DATE: Final = "2026-01-01"


class Bound(NamedTuple):
    """A binding: its name, `kvNamespace` or another member of workerd's `Worker.Binding`, and its capability."""

    name: str
    member: str
    capability: str


class Worker:
    """Asks the Worker, whose `fetch` handler takes JSON and answers with JSON."""

    def __init__(self, connections: httpcore2.AsyncConnectionPool, socket: pathlib.Path, pid: int) -> None:
        self._connections = connections
        self.socket = socket
        """Where it listens."""
        self.pid = pid

    async def ask(self, body: Any) -> Any:
        """Its answer to `body`."""
        answer = await self._connections.request(
            "POST", "http://worker/", content=json.dumps(body).encode(), extensions={"timeout": {"read": _START_S}}
        )
        assert answer.status == 200, answer.content
        return json.loads(answer.content)


@asynccontextmanager
async def running(script: str, door_path: str, bindings: Sequence[Bound]) -> AsyncGenerator[Worker]:
    """The Worker whose code is `script`, with `bindings` behind the socket `door_path`."""
    program = tools.current(os.environ).workerd
    assert program is not None, "there is no workerd: `make dev` fetches it"
    with tempfile.TemporaryDirectory() as scratch:
        config, socket = pathlib.Path(scratch) / "config.capnp", pathlib.Path(scratch) / "socket"
        (pathlib.Path(scratch) / "worker.js").write_text(script)
        config.write_text(_config(door_path, bindings))
        process = await asyncio.create_subprocess_exec(
            program.path, "serve", "--control-fd=1", f"--socket-addr=http=unix:{socket}", str(config),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={}, cwd=scratch,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(_START_S):
                # One line of JSON when it listens; nothing, and an end, when it can't.
                if not await process.stdout.readline():
                    raise AssertionError((await process.stderr.read()).decode())
            async with httpcore2.AsyncConnectionPool(uds=str(socket)) as connections:
                yield Worker(connections, socket, process.pid)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _config(door_path: str, bindings: Sequence[Bound]) -> str:
    services = [
        f"(name = {_text(f'to-{one.name}')}, external = (address = {_text(f'unix:{door_path}')}, "
        f"http = (injectRequestHeaders = [(name = {_text(door.FIELD)}, value = {_text(one.capability)})])))"
        for one in bindings
    ]
    bound = ", ".join(f"(name = {_text(one.name)}, {one.member} = {_text(f'to-{one.name}')})" for one in bindings)
    return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main), {", ".join(services)}],
  sockets = [(name = "http", service = "main")],
);
const main :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = {_text(_DATE)},
  bindings = [{bound}],
);
"""


def _text(value: str) -> str:
    return json.dumps(value)
