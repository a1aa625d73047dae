"""A Worker's artefact in a workerd of its own, without SMCP's driver: does what was built run?"""

import asyncio
import json
import os
import pathlib
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import httpcore2

from smcp.deploy.workers import code, section
from smcp.sandbox import tools

_MEMBERS: Final = {"esm": "esModule", "cjs": "commonJsModule", "text": "text", "data": "data", "json": "json"}
_START_S: Final = 120.0


class Client:
    """Asks the Worker."""

    def __init__(self, connections: httpcore2.AsyncConnectionPool) -> None:
        self._connections = connections

    async def get(self, path: str = "/") -> str:
        """The body of the answer."""
        return (await self._sent("GET", path, b"")).decode()

    async def post(self, path: str, body: object) -> str:
        """The body of the answer to a JSON-RPC message."""
        return (await self._sent("POST", path, json.dumps(body).encode())).decode()

    async def _sent(self, method: str, path: str, body: bytes) -> bytes:
        headers = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
        answer = await self._connections.request(
            method, f"http://worker{path}", headers=headers, content=body, extensions={"timeout": {"read": _START_S}}
        )
        return answer.content


@asynccontextmanager
async def running(artefact: pathlib.Path, worker: section.Worker) -> AsyncGenerator["Client"]:
    """A client of the Worker in `artefact`, with its variables and Durable Objects.

    What it wrote is in the error if it does not start.
    """
    program = tools.current(os.environ).workerd
    assert program is not None, "there is no workerd"
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as errors:
        objects = pathlib.Path(scratch) / "objects"
        objects.mkdir()
        config, socket = pathlib.Path(scratch) / "config.capnp", pathlib.Path(scratch) / "socket"
        # A file to embed is named from the configuration's own directory on.
        (pathlib.Path(scratch) / "code").symlink_to(artefact / code.DIRECTORY)
        config.write_text(_config(artefact, worker, str(objects)))
        process = await asyncio.create_subprocess_exec(
            program.path, "serve", "--control-fd=1", f"--socket-addr=http=unix:{socket}", str(config),
            stdout=asyncio.subprocess.PIPE, stderr=errors.fileno(), env={}, cwd=scratch,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                # One line of JSON when it listens; nothing, and an end, when it can't.
                if not await process.stdout.readline():
                    errors.seek(0)
                    raise AssertionError(errors.read().decode())
            async with httpcore2.AsyncConnectionPool(uds=str(socket)) as connections:
                yield Client(connections)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _config(artefact: pathlib.Path, worker: section.Worker, objects: str) -> str:
    modules = ", ".join(
        f"(name = {json.dumps(one.name)}, {_MEMBERS.get(one.kind, one.kind)} = embed {json.dumps(f'code/{one.name}')})"
        for one in code.read(artefact)
    )
    bindings = [f"(name = {json.dumps(n)}, json = {json.dumps(json.dumps(v))})" for n, v in worker.vars.items()]
    durables = worker.durable_objects
    bindings += [
        f"(name = {json.dumps(one.binding)}, durableObjectNamespace = {json.dumps(one.class_name)})" for one in durables
    ]
    classes = ", ".join(
        f"(className = {json.dumps(one.class_name)}, uniqueKey = {json.dumps(one.class_name)}, enableSql = true)"
        for one in durables
    )
    return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "objects", disk = (path = {json.dumps(objects)}, writable = true)),
  ],
  sockets = [(name = "http", service = "main")],
);
const main :Workerd.Worker = (
  modules = [{modules}],
  compatibilityDate = {json.dumps(worker.compatibility_date)},
  compatibilityFlags = {json.dumps(list(worker.compatibility_flags))},
  bindings = [{", ".join(bindings)}],
  durableObjectNamespaces = [{classes}],
  durableObjectStorage = (localDisk = "objects"),
);
"""
