"""Other gateways, in front of the same echo server: what they are, how they are installed and how they are started.

Each is installed by its own package manager, at the version written here, below a cache directory of the user's. None
is a dependency of anything, and one that can't be installed is told, not left out in silence.
"""

import contextlib
import http.client
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple

from bench import cores, echo, guest, wire

_INSTALL_S: Final = 600
_START_S: Final = 60.0
_UV: Final = str(pathlib.Path(sys.executable).with_name("uv"))
_ECHO: Final = (sys.executable, "-I", echo.__file__)

# One connected client for all sessions: fastmcp's fastest way (a fresh one for each request is its default).
_FASTMCP: Final = """
import asyncio, sys
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.server import create_proxy
async def main():
    async with Client(StdioTransport(sys.argv[2], sys.argv[3:])) as client:
        proxy = create_proxy(client)
        await proxy.run_http_async(
            transport="http", host="127.0.0.1", port=int(sys.argv[1]), path="/mcp", log_level="error", show_banner=False
        )
asyncio.run(main())
"""
# As Debian's default, but for what a reverse proxy needs: connections to the server behind are kept.
_NGINX: Final = """
daemon off; worker_processes 1; pid %(folder)s/pid; error_log %(folder)s/error.log;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %(folder)s; proxy_temp_path %(folder)s; fastcgi_temp_path %(folder)s;
  uwsgi_temp_path %(folder)s; scgi_temp_path %(folder)s; keepalive_requests 100000000;
  upstream lean { server 127.0.0.1:%(behind)d; keepalive 128; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:%(port)d;
    location / { proxy_pass http://lean; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
"""


class MissingError(Exception):
    """A peer can't be installed or started here; the text says why."""


class Peer(NamedTuple):
    """A running peer."""

    name: str
    endpoint: wire.Endpoint
    front: Callable[[], set[int]]
    """Its own processes."""
    hosted: Callable[[], set[int]]
    """Those of the echo server behind it."""


def _cache() -> pathlib.Path:
    around = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(around) if around else pathlib.Path.home() / ".cache") / "smcp-bench"


def _installed(name: str, *commands: Sequence[str]) -> pathlib.Path:
    """The folder in which `commands` have installed `name`; `{}` in them is that folder."""
    folder = _cache() / name
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for command in commands:
            try:
                done = subprocess.run(
                    [part.replace("{}", str(folder)) for part in command],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=_INSTALL_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise MissingError(f"installing it: {error}") from error
            if done.returncode != 0:
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                raise MissingError(f"installing it: {' '.join(last)[:300]}")
        (folder / "complete").touch()
    return folder


def _python(package: str) -> pathlib.Path:
    """The programs of a virtual environment with `package` in it."""
    # Newest certificates are asked for before every index has them; any of this year's serve on the loopback.
    override = _cache() / "override.txt"
    override.parent.mkdir(parents=True, exist_ok=True)
    override.write_text("certifi>=2026\n", "utf-8")
    folder = _installed(
        package,
        (_UV, "venv", "--python", sys.executable, "{}/venv"),
        (_UV, "pip", "install", "--python", "{}/venv/bin/python", "--override", str(override), package),
    )
    return folder / "venv" / "bin"


def _nginx() -> str:
    """The machine's own, or Debian's package unpacked in the cache, which changes nothing outside of it."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found:
        return found
    folder = _installed(
        "nginx",
        ("apt-get", "download", "nginx"),
        ("sh", "-c", "dpkg-deb --extract nginx_*.deb {}/root"),
        ("{}/root/usr/sbin/nginx", "-V"),
    )
    return str(folder / "root/usr/sbin/nginx")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(argv: Sequence[str], where: cores.Cores) -> Generator[subprocess.Popen[bytes]]:
    """A process on the measured core; it and everything below it is gone in the end."""
    with guest.on(where.measured, where.load), tempfile.TemporaryFile() as said:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield process
    finally:
        below = cores.family(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()


def _wait(process: subprocess.Popen[bytes], endpoint: wire.Endpoint) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        client = wire.Client(endpoint)
        try:
            client.echo(1, client.open_session())
            return
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise MissingError(f"it does not answer: {error}") from error
            time.sleep(0.1)
        finally:
            client.close()


@contextlib.contextmanager
def _gateway(name: str, argv: Callable[[int], Sequence[str]], where: cores.Cores) -> Generator[Peer]:
    """A peer that starts the echo server by itself; `argv` is its command for a port."""
    port = _free_port()
    with _running(argv(port), where) as process:
        endpoint = wire.Endpoint(f"http://127.0.0.1:{port}/mcp", "")
        _wait(process, endpoint)

        def behind() -> set[int]:
            # Whoever names the echo server, the peer's own first process (whose argument it is) left out.
            below = cores.family(process.pid) - {process.pid}
            return {pid for pid in below if echo.__file__ in cores.command(pid)}

        yield Peer(name, endpoint, lambda: cores.family(process.pid) - behind(), behind)


def mcp_proxy(where: cores.Cores) -> contextlib.AbstractContextManager[Peer]:
    """mcp-proxy (Python): stdio behind streamable HTTP."""
    program = str(_python("mcp-proxy==0.13.0") / "mcp-proxy")

    def argv(port: int) -> Sequence[str]:
        return [program, "--log-level", "ERROR", "--port", str(port), "--", *_ECHO]

    return _gateway("mcp-proxy 0.13.0 (PyPI)", argv, where)


def fastmcp(where: cores.Cores) -> contextlib.AbstractContextManager[Peer]:
    """fastmcp's proxy, with one client that all share."""
    program = str(_python("fastmcp==4.1.6") / "python")
    return _gateway("fastmcp 4.1.6, proxy", lambda port: [program, "-c", _FASTMCP, str(port), *_ECHO], where)


def supergateway(where: cores.Cores) -> contextlib.AbstractContextManager[Peer]:
    """supergateway (npm), stateful: a copy of the server for each session."""
    package = "supergateway@4.0.0"
    folder = _installed(package, ("npm", "install", "--no-audit", "--no-fund", "--prefix", "{}", package))
    program = str(folder / "node_modules/.bin/supergateway")
    options = ("--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none")
    echo_line = shlex.join(_ECHO)
    return _gateway(
        "supergateway 4.0.0 (npm)",
        lambda port: [program, "--stdio", echo_line, *options, "--port", str(port)],
        where,
    )


@contextlib.contextmanager
def nginx(where: cores.Cores) -> Generator[Peer]:
    """nginx as a plain reverse proxy in front of the lean HTTP server."""
    program, port = _nginx(), _free_port()
    with guest.module_on(where, "bench.lean") as lean, tempfile.TemporaryDirectory(prefix="smcp-nginx-") as folder:
        config = pathlib.Path(folder) / "nginx.conf"
        # Its worker has a user of its own when it is started as root.
        pathlib.Path(folder).chmod(0o777)
        config.write_text(_NGINX % {"folder": folder, "port": port, "behind": lean.port}, "utf-8")
        with _running([program, "-e", f"{folder}/error.log", "-c", str(config)], where) as process:
            endpoint = wire.Endpoint(f"http://127.0.0.1:{port}/mcp", "")
            _wait(process, endpoint)
            yield Peer(
                "nginx, lean HTTP server behind", endpoint, lambda: cores.family(process.pid), lambda: {lean.pid}
            )


ALL: Final[Sequence[tuple[str, Callable[[cores.Cores], contextlib.AbstractContextManager[Peer]]]]] = (
    ("nginx", nginx),
    ("mcp-proxy", mcp_proxy),
    ("fastmcp's proxy", fastmcp),
    ("supergateway", supergateway),
)
