"""Reverse proxies for tests: a small one of our own, and nginx where it is installed. Both speak from `ADDRESS`."""

import contextlib
import pathlib
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Generator
from typing import Final, cast

ADDRESS: Final = "127.0.0.2"
"""Where the platform sees a proxy's connections come from."""
NGINX: Final = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
_PATIENCE_S: Final = 60.0

_CONF: Final = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream smcp {{
        server 127.0.0.1:{upstream};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://smcp;
            proxy_bind {address};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host "";
            proxy_set_header Forwarded "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(directory: pathlib.Path, port: int, upstream: int) -> Generator[None]:
    """nginx on `port`, set up as docs/how-to/behind-a-proxy.md says."""
    assert NGINX is not None
    file = directory / "nginx.conf"
    file.write_text(_CONF.format(directory=directory, port=port, upstream=upstream, address=ADDRESS))
    # As root it would change to another user, who can't enter the test's directory.
    directives = ["-g", "user root;"] if pathlib.Path(directory).stat().st_uid == 0 else []
    running = subprocess.Popen([NGINX, "-p", directory, "-c", file, *directives], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert running.poll() is None, (directory / "error.log").read_text()
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.02)  # it has no event for it
        yield
    finally:
        running.terminate()
        running.wait()


class _Handler(socketserver.BaseRequestHandler):
    """One connection with one request."""

    def handle(self) -> None:
        client: socket.socket = self.request
        client.settimeout(_PATIENCE_S)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(65_536)
            if not piece:
                return
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        lines = [one for one in head.split(b"\r\n") if not one.lower().startswith(b"connection:")]
        told = [b"X-Forwarded-For: " + str(self.client_address[0]).encode(), b"Connection: close"]
        where = ("127.0.0.1", cast("_Small", self.server).upstream)
        with socket.create_connection(where, timeout=_PATIENCE_S, source_address=(ADDRESS, 0)) as back:
            back.sendall(b"\r\n".join([*lines, *told]) + b"\r\n\r\n" + body)
            forth = threading.Thread(target=_copy, args=(client, back))
            forth.start()
            _copy(back, client)
            forth.join()


class _Small(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, port: int, upstream: int) -> None:
        self.upstream = upstream
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent: tests break connections on purpose."""


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until one side ends, which ends both."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def small(directory: pathlib.Path, port: int, upstream: int) -> Generator[None]:
    """A proxy that appends the client's address to X-Forwarded-For, and passes the rest on as it comes; one request of
    each connection. `directory` is not used: as `nginx`."""
    with _Small(port, upstream) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()
