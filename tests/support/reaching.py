"""A Worker in a bare workerd whose way out is the platform's, servers for it to reach, and what each of them saw."""

import asyncio
import contextlib
import json
import os
import pathlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from smcp.kernel import ids, observe, settings
from smcp.runtime import driver
from smcp.runtime.bindings import door, outbound
from smcp.sandbox import egress, tools
from smcp.sandbox.egress import rules, substituted
from support import authority

WAIT_S: Final = 60.0
SCRIPT: Final = pathlib.Path(__file__).parents[1] / "fixtures/workers/reacher.js"
ALLOWED: Final = "allowed.example"
OTHER: Final = "other.example"
NAMES: Final = (ALLOWED, OTHER, "third.example")
LOOPBACK: Final = ("127.0.0.0/8",)


class Came:
    """One request that a site got."""

    def __init__(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.fields = [(name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in lines[1:-2])]
        self.body = b""

    def field(self, name: str) -> str:
        """All values of a field, joined by commas."""
        return ", ".join(value for one, value in self.fields if one == name)


Do = Callable[[Came, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server that notes what it gets."""

    def __init__(self, do: "Do | None" = None) -> None:
        self._do = do or hello
        self.came: list[Came] = []
        self.connections = 0
        self.closed = asyncio.Semaphore(0)
        """Released when a connection has ended."""
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                while True:
                    came = Came(await reader.readuntil(b"\r\n\r\n"))
                    self.came.append(came)
                    await self._do(came, reader, writer)
                    await writer.drain()
        finally:
            self.closed.release()
            writer.close()

    @contextlib.asynccontextmanager
    async def open(self, secure: ssl.SSLContext | None) -> AsyncGenerator["Site"]:
        """Listening on loopback."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=secure) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            server.close()


async def hello(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A plain answer, after the body was read."""
    if length := came.field("content-length"):
        came.body = await reader.readexactly(int(length))
    writer.write(answer(b"hello"))


def answer(body: bytes = b"", *fields: str, status: int = 200) -> bytes:
    """A whole answer."""
    return "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body


class Reacher:
    """The Worker, and the platform's side of its way out."""

    def __init__(self, socket: str, lines: list[str], moved: list[int], env: Mapping[str, str]) -> None:
        self._socket = socket
        self.lines = lines
        """What is in the server's log."""
        self.moved = moved
        """Bytes that were sent and received."""
        self.env = env

    async def ask(self, way: str, **what: Any) -> Any:
        """What a `way` of the script came to."""
        body = json.dumps(what).encode()
        async with self.open("POST", f"/{way}", body) as (status, reader):
            text = await asyncio.wait_for(reader.read(), WAIT_S)
            assert status == 200, text
            return json.loads(text)

    async def fetch(self, url: str, **init: Any) -> Any:
        """What `fetch(url, init)` came to: `status`, `headers`, `text`, or `error`."""
        found = await self.ask("fetch", url=url, **init)
        if "headers" in found:
            found["headers"] = dict(found["headers"])
        return found

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, path: str, body: bytes = b"", wait_s: float = WAIT_S
    ) -> AsyncGenerator[tuple[int, asyncio.StreamReader]]:
        """The status of an answer and its body, which ends with its connection and is read only as it is asked for."""
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=65536)
        try:
            # HTTP/1.0: no chunks, and the end of the connection is the end of the body.
            writer.write(f"{method} {path} HTTP/1.0\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), wait_s)
            yield int(head.split(b" ", 2)[1]), reader
        finally:
            writer.close()

    def through(self, way: str, url: str, **more: object) -> str:
        """The path of a `way` whose answer is that of `url`."""
        return f"/{way}?url={quote(url, safe='')}" + "".join(f"&{name}={value}" for name, value in more.items())


class World:
    """Where Workers run."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        hosts: Sequence[str] = tuple(f"{name}=127.0.0.1" for name in NAMES),
        networks: Sequence[str] = LOOPBACK,
        resolve: "egress.Resolve | None" = None,
        place_s: float = outbound.PLACE_S,
        **patience: Any,
    ) -> None:
        self.directory = directory
        self.authority = authority.Authority(directory / "ca")
        config = settings.Egress(hosts=tuple(hosts), allowed_networks=tuple(networks))
        self.reach = egress.Egress(config, observe.Metrics("test"), resolve, **patience)
        self.moved = [0, 0]
        self.outbound = outbound.Outbound(self.reach, self._count, self.authority.client(), place_s=place_s)

    def _count(self, _spec: driver.Spec, sent: int, received: int) -> None:
        self.moved[0] += sent
        self.moved[1] += received

    def secure(self, *names: str) -> ssl.SSLContext:
        """What a server of these names speaks TLS with."""
        return server_context(self.authority, *(names or NAMES))

    def spec(
        self, allowed: Sequence[str], secrets: Mapping[str, str], tenant: str, kind: str = substituted.WORD
    ) -> driver.Spec:
        """A deployment that may reach `allowed` and has these secrets, of a `kind` to be substituted."""
        return driver.Spec(
            tenant=ids.tenant(tenant),
            server=ids.ServerName("reacher"),
            deployment="d1",
            artefact="",
            argv=(),
            runtime="worker",
            env=tuple(secrets.items()),
            secrets=tuple((name, kind) for name in secrets),
            egress=rules.parsed(allowed),
        )

    @contextlib.asynccontextmanager
    async def worker(
        self,
        *allowed: str,
        secrets: Mapping[str, str] | None = None,
        tenant: str = "acme",
        kind: str = substituted.WORD,
        start: "Start | None" = None,
    ) -> AsyncGenerator[Reacher]:
        """A Worker that may reach `allowed`. `start`: how its process is started."""
        lines: list[str] = []
        way = self.outbound.open(self.spec(allowed, secrets or {}, tenant, kind), lines.append)
        where = self.directory / f"{tenant}-{len(list(self.directory.iterdir()))}"
        where.mkdir(mode=0o755)
        gate = await door.Door.open(str(where / "door"), None, lines.append)
        try:
            capability = gate.admit(way.answer, proxy=True)
            service = f"""external = (address = "unix:{where}/door", http = (style = proxy,
                injectRequestHeaders = [(name = "{door.FIELD}", value = "{capability}")]))"""
            async with running(where, service, way.env, start):
                yield Reacher(str(where / "in"), lines, self.moved, way.env)
        finally:
            await gate.close()
            await way.close()


def server_context(made: authority.Authority, *names: str) -> ssl.SSLContext:
    """What a server of these names speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*made.issue(*names, prefix=names[0]))
    return context


Start = Callable[[Sequence[str], pathlib.Path], "contextlib.AbstractAsyncContextManager[None]"]
"""Runs a command that may use a directory, and what ends when the context does."""


@contextlib.asynccontextmanager
async def running(
    where: pathlib.Path, service: str, env: Mapping[str, str], start: Start | None = None
) -> AsyncGenerator[None]:
    """The script in a workerd that listens at `in` in the directory `where`, and goes out by `service`."""
    program = tools.find(tools.WORKERD, os.environ)
    assert program is not None, "'make dev' fetches workerd"
    bindings = ", ".join(f"(name = {json.dumps(name)}, text = {json.dumps(value)})" for name, value in env.items())
    config = where / "config.capnp"
    config.write_text(
        f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .reacher), (name = "out", {service})],
  sockets = [(name = "http", address = "unix:{where}/in", http = (), service = "main")],
);
const reacher :Workerd.Worker = (
  modules = [(name = "reacher.js", esModule = embed "reacher.js")],
  compatibilityDate = "2026-11-01",
  compatibilityFlags = ["nodejs_compat"],
  bindings = [{bindings}],
  globalOutbound = "out",
);
"""
    )
    (where / "reacher.js").write_bytes(SCRIPT.read_bytes())
    async with (start or _started)([program.path, "serve", str(config)], where):
        async with asyncio.timeout(WAIT_S):
            await _listening(where / "in")
        yield


async def _listening(socket: pathlib.Path) -> None:
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            await asyncio.sleep(0.02)  # nothing tells: workerd makes its socket when it is ready
            continue
        writer.close()
        return


@contextlib.asynccontextmanager
async def _started(command: Sequence[str], where: pathlib.Path) -> AsyncGenerator[None]:
    with (where / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env={})
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
