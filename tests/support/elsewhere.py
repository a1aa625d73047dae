"""Servers that run elsewhere: builds of the fixture over HTTP, deployed on a platform as remote servers.

A platform for them opens this machine's own network (`SETTINGS`). What reaches such a server passes a relay that keeps
every byte, so that a test can look for what must not be there.
"""

import contextlib
import secrets
import socket
import socketserver
import threading
import urllib.parse
from collections.abc import Generator
from typing import Final, NamedTuple, Self, cast

from support import everything, netcell
from support.clients import Endpoint
from support.everything import Build
from support.platform import Platform

SETTINGS: Final = {"SMCP_EGRESS_ALLOWED_NETWORKS": ",".join(netcell.LOOPBACK)}
SECRET: Final = "API_TOKEN"
_CHUNK: Final = 65_536


class Started(NamedTuple):
    """A server that runs."""

    url: str
    token: str
    """The credential that it wants."""
    received: bytearray
    """All that came to it, as it came."""

    def __repr__(self) -> str:
        return f"Started(url={self.url!r}, token=hidden)"


class Elsewhere:
    """The builds of the fixture over HTTP, each started and deployed as a remote server when it is first asked for.

    To be used as `builds.Builds` is; the servers run until the end of the `with` block.
    """

    def __init__(self, platform: Platform, tenant: str = "elsewhere") -> None:
        self._platform = platform
        self._tenant = tenant
        self._ends = contextlib.ExitStack()
        self._found: dict[Build, Endpoint] = {}
        self.running: dict[Build, Started] = {}
        """What is behind each build that was asked for."""
        platform.create_tenant(tenant)
        self.admin = platform.create_key(tenant, "admin")
        self._caller = platform.create_key(tenant, "mcp_user")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._ends.close()

    def __getitem__(self, build: Build) -> Endpoint:
        """Where `build` is, and a key that may only call it."""
        if build not in self._found:
            one = self.running[build] = self.start(build)
            url = deploy(self._platform, self._tenant, build, one.url, self.admin, one.token)
            self._found[build] = Endpoint(url, self._caller)
        return self._found[build]

    def start(self, build: Build) -> Started:
        """Start another `build`, behind a relay, without deploying it."""
        token, received = f"CANARY-{secrets.token_hex(12)}", bytearray()
        url = self._ends.enter_context(everything.over_http(token, build))
        return Started(self._ends.enter_context(relayed(url, received)), token, received)

    def rest(self) -> None:
        """End what sessions have left running."""
        for build in self._found:
            for action in ("stop", "start"):
                self._platform.api("POST", f"/tenants/{self._tenant}/servers/{build}/{action}", key=self.admin)


def deploy(platform: Platform, tenant: str, name: str, url: str, admin: str, token: str, manifest: str = "") -> str:
    """Deploy the server at `url` with `token` as its bearer; the endpoint's address."""
    where = f"/tenants/{tenant}/servers/{name}/secrets/{SECRET}"
    platform.api("PUT", where, {"value": token, "kind": "env"}, key=admin)
    text = f'{manifest}\n[remote.headers]\nAuthorization = "{SECRET}"\n'
    return platform.deploy(tenant, url, name, admin, text)


@contextlib.contextmanager
def relayed(url: str, received: bytearray) -> Generator[str]:
    """The address of a relay in front of the server at `url`; what comes in is added to `received`."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    there = (parts.hostname, parts.port)

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client = cast("socket.socket", self.request)
            with contextlib.suppress(OSError), socket.create_connection(there) as upstream:
                back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
                back.start()
                _copy(client, upstream, received)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        # By itself it lets five wait: who comes behind them, on a busy machine, has to come again a second later.
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Connection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            # Same host name as before: the fixture looks at Host, whose port it leaves open.
            yield parts._replace(netloc=f"127.0.0.1:{server.server_address[1]}").geturl()
        finally:
            server.shutdown()


def _copy(source: socket.socket, target: socket.socket, kept: bytearray | None = None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            if kept is not None:
                kept += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
