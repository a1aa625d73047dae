"""A cell's network with real walls around a real client, and a server for it to talk to."""

import asyncio
import contextlib
import http.server
import json
import os
import pathlib
import socket
import sys
import tempfile
import textwrap
import threading
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from smcp.kernel import ids, observe, settings
from smcp.sandbox import egress, interpreter
from smcp.sandbox.egress import rules

_CHILD: Final = pathlib.Path(__file__).with_name("netcell_child.py")
_WAIT_S: Final = 240.0
NOBODY: Final = 65534
LOOPBACK: Final = ("127.0.0.0/8",)
CONNECT: Final = """
import json, socket
try:
    with socket.create_connection(({host!r}, {port}), 60) as made:
        print(json.dumps(repr(made.recv(1))))
except OSError as error:
    print(json.dumps(type(error).__name__))
"""
"""What a connection to `host` and `port` that the guard refuses ends with."""


class Said(NamedTuple):
    """How a client ended."""

    code: int
    out: str
    err: str


class Netcell:
    """One namespace with its sockets; `run` may be called once."""

    def __init__(self, process: asyncio.subprocess.Process, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._process = process

    async def run(
        self, *argv: str, binds: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
    ) -> Said:
        """Run `argv` behind walls in this network."""
        with tempfile.TemporaryDirectory(dir="/tmp") as made:
            os.chmod(made, 0o755)
            command = _walls(pathlib.Path(made), binds or {}, {"PATH": "/usr/bin:/bin", **(env or {})})
            return await asyncio.wait_for(self._run([*command, "--", *argv]), _WAIT_S)

    async def stay(self, *argv: str) -> Said:
        """Run `argv` in this network, and but for the name system's files with this machine's; until called off."""
        with tempfile.TemporaryDirectory(dir="/tmp") as made:
            files = _files(pathlib.Path(made))
            return await self._run(["/usr/bin/bwrap", "--die-with-parent", "--dev-bind", "/", "/", *files, "--", *argv])

    async def _run(self, command: Sequence[str]) -> Said:
        out, err = await self._process.communicate(json.dumps(command).encode() + b"\n")
        return Said(self._process.returncode or 0, out.decode(), err.decode())

    async def ask(self, code: str) -> Any:
        """What Python `code` prints as JSON in its last line, run inside."""
        found = interpreter.current()
        binds = {bind.target: bind.source for bind in found.binds}
        said = await self.run(found.executable, "-c", textwrap.dedent(code), binds=binds, env=dict(found.env))
        assert said.code == 0, said
        return json.loads(said.out.splitlines()[-1])


@contextlib.asynccontextmanager
async def opened(ports: Sequence[int], uid: int | None = None) -> AsyncGenerator[Netcell]:
    """A fresh cell network. `uid`: without privilege, in a user namespace of that uid (default: as this process)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = os.geteuid()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_CHILD),
        str(theirs.fileno()),
        json.dumps(list(ports)),
        str(own if uid is None else uid),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
    )
    theirs.close()
    try:
        _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 16, 32)
        ours.close()
        if not descriptors:
            _, err = await process.communicate()
            raise AssertionError(err.decode())
        yield Netcell(process, [socket.socket(fileno=one) for one in descriptors])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class World:
    """An egress guard with its journal and metrics."""

    def __init__(self, config: settings.Egress, resolve: egress.Resolve | None = None, **patience: Any) -> None:
        self.metrics = observe.Metrics("test")
        self.egress = egress.Egress(config, self.metrics, resolve, **patience)
        self.lines: list[str] = []
        self.told = asyncio.Event()

    def _tell(self, line: str) -> None:
        self.lines.append(line)
        self.told.set()

    @contextlib.asynccontextmanager
    async def cell(
        self, *texts: str, uid: int | None = None, tenant: ids.TenantId | None = None, trusted: bool = False
    ) -> AsyncGenerator[tuple[Netcell, egress.Attachment]]:
        """A cell with these rules, attached."""
        parsed = rules.parsed(texts, trusted=trusted)
        async with opened(rules.ports(parsed), uid) as cell:
            attachment = self.egress.attach(cell.sockets, parsed, self._tell, tenant=tenant, trusted=trusted)
            try:
                yield cell, attachment
            finally:
                attachment.close()


def pinned(*names: str, connections: int = 64, **patience: Any) -> World:
    """A world in which `names` are on this machine."""
    hosts = tuple(f"{name}=127.0.0.1" for name in names)
    config = settings.Egress(hosts=hosts, allowed_networks=LOOPBACK, connections=connections)
    return World(config, None, **patience)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: tests break connections on purpose."""


@contextlib.contextmanager
def website(text: str = "hello") -> Generator[int]:
    """An HTTP server on 127.0.0.1 that answers `text` to everything; its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = _Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _walls(made: pathlib.Path, binds: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    """Walls like a cell's, but for the network, which is the one that bwrap is started in."""
    words = ["/usr/bin/bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox", "--die-with-parent"]
    words += ["--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    words += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            words += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    words += _files(made)
    for bind in egress.binds():
        words += ["--ro-bind", bind.source, bind.target]
    for target, source in binds.items():
        words += ["--ro-bind", source, target]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp"]


def _files(made: pathlib.Path) -> list[str]:
    words: list[str] = []
    for file in egress.files():
        place = made / file.path.replace("/", "_")
        place.write_bytes(file.content)
        words += ["--ro-bind", str(place), file.path]
    return words
