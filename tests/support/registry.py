"""A small npm registry on this machine's loopback: packages that a test makes, and who asked for what."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
import urllib.parse
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def tarball(files: Mapping[str, str | bytes], *more: tarfile.TarInfo, root: str = "package") -> bytes:
    """A package's file: `files` by path below `root`, and `more` entries (links, devices) as they are."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(f"{root}/{name}" if root else name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
        for entry in more:
            archive.addfile(entry)
    return gzip.compress(raw.getvalue(), mtime=0)


def integrity(data: bytes) -> str:
    """Subresource Integrity of `data`."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


class Registry:
    """Packages by name; `address` is what npm's option `registry` takes."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[tuple[str, str]] = []
        """Path and Authorization of every request."""
        self.token = ""
        """When set, only who brings it is answered."""
        self.knocked = threading.Event()
        """Set when somebody has asked for something."""
        self.gate = threading.Event()
        """While it is cleared, nobody is answered."""
        self.gate.set()
        self._packages: dict[str, dict[str, Any]] = {}
        self._files: dict[str, bytes] = {}

    def add(self, package: Mapping[str, Any], files: Mapping[str, str | bytes] | None = None) -> None:
        """Publish a version: its package.json (with name and version), and its other files."""
        meta = json.dumps(package)
        self.add_file(package, tarball({"package.json": meta, **(files or {})}))

    def add_file(self, package: Mapping[str, Any], data: bytes, claimed: str = "") -> None:
        """Publish a version whose file is `data`; the registry says that its integrity is `claimed` (default: true)."""
        name, version = str(package["name"]), str(package["version"])
        path = f"/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
        self._files[path] = data
        known = self._packages.setdefault(name, {"name": name, "dist-tags": {}, "versions": {}})
        dist = {"tarball": f"{self.address}{path}", "integrity": claimed or integrity(data)}
        scripts: Mapping[str, Any] = package.get("scripts") or {}
        extra = {"hasInstallScript": True} if {"preinstall", "install", "postinstall"} & set(scripts) else {}
        known["versions"][version] = {**package, **extra, "dist": dist}
        known["dist-tags"]["latest"] = version

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        self.asked.append((path, authorization))
        self.knocked.set()
        self.gate.wait()
        if self.token and authorization != f"Bearer {self.token}":
            return 401, b'{"error": "who are you?"}'
        plain = urllib.parse.unquote(path.partition("?")[0])
        if plain in self._files:
            return 200, self._files[plain]
        found = self._packages.get(plain.removeprefix("/"))
        return (404, b'{"error": "not found"}') if found is None else (200, json.dumps(found).encode())

    def paths(self) -> Sequence[str]:
        """What was asked for, decoded."""
        return [urllib.parse.unquote(path) for path, _ in self.asked]


@contextmanager
def serving() -> Generator[Registry]:
    """A registry that listens, until the end."""
    registry = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = registry.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # npm comes with many connections at once, and waits a second for each that is dropped

    with Server(("127.0.0.1", 0), Handler) as server:
        registry.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            registry.gate.set()
            server.shutdown()
            thread.join()
