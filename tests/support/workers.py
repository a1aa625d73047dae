"""Servers that are Workers (tests/fixtures/workers): as folders to deploy, and in workerd itself, without SMCP."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Generator
from typing import Final, Literal, Self

from smcp.sandbox import tools
from support import node
from support.clients import Endpoint
from support.platform import Platform

Name = Literal["agent", "everything", "hono", "plain", "probes", "sdk-v1", "sdk-v2"]

FOLDER: Final = pathlib.Path(__file__).parents[1] / "fixtures" / "workers"
PATHS: Final[dict[Name, str]] = {"hono": "/api/mcp"}
"""Where a server's endpoint is, if not at /mcp."""
_INSTALL_S: Final = 900.0
_BUNDLE_S: Final = 120.0
_HEAP_MB: Final = 64


def project(name: Name, directory: pathlib.Path) -> pathlib.Path:
    """A copy of the project as somebody has it who checked it out, in `directory`."""
    return pathlib.Path(shutil.copytree(FOLDER / name, directory / name, ignore=shutil.ignore_patterns("node_modules")))


class Site:
    """A tenant with Workers. What it deployed is stopped when the `with` block ends."""

    def __init__(self, platform: Platform, tenant: str) -> None:
        self.platform = platform
        self.tenant = tenant
        platform.create_tenant(tenant)
        self.admin = platform.create_key(tenant, "admin")
        self.caller = platform.create_key(tenant, "mcp_user")
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for name in self._names:
            self.act(name, "stop")

    def deploy(self, folder: pathlib.Path, name: str = "") -> Endpoint:
        """Deploy the project in `folder`, as its owner does: where it is, and a key that may only call it."""
        name = name or folder.name
        done = self.platform.smcp("deploy", str(folder), "--name", name, key=self.admin)
        if name not in self._names:
            self._names.append(name)
        return Endpoint(done["server"]["endpoint"], self.caller)

    def act(self, name: str, action: Literal["start", "stop"]) -> None:
        """Start or stop a server."""
        self.platform.api("POST", f"/tenants/{self.tenant}/servers/{name}/{action}", key=self.admin)


def program(wanted: tools.Program) -> str:
    """Where a pinned program is on this machine; `make dev` has fetched it."""
    found = tools.find(wanted, os.environ)
    assert found is not None, f"{wanted.label} is missing: run 'make dev'"
    return found.path


def installed(name: Name) -> pathlib.Path:
    """The project itself, with the packages of its lock installed, once per lock and without running their scripts.

    Several test processes may call this at once.
    """
    root = FOLDER / name
    lock = root / "package-lock.json"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = root / "node_modules" / ".smcp-installed"
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            node.install(root, _INSTALL_S)
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(wanted, "utf-8")
    return root


def bundled(name: Name, target: pathlib.Path) -> pathlib.Path:
    """The project as the one module that workerd runs, at `target`, as a deployment would have it."""
    root = installed(name)
    main = json.loads((root / "package.json").read_text("utf-8"))["main"]
    done = subprocess.run(
        [
            *(program(tools.ESBUILD), str(root / main), f"--outfile={target}", "--bundle", "--format=esm"),
            *("--platform=neutral", "--target=es2024", "--conditions=workerd,worker,browser"),
            *("--main-fields=browser,module,main", "--external:cloudflare:*", "--external:node:*"),
            *("--keep-names", "--charset=ascii", "--minify-whitespace", '--define:process.env.NODE_ENV="production"'),
            "--log-level=error",
        ],
        capture_output=True,
        text=True,
        timeout=_BUNDLE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return target


@contextlib.contextmanager
def alone(name: Name, directory: pathlib.Path) -> Generator[str]:
    """The Worker in a workerd of its own, with nothing of SMCP around it: its endpoint's URL."""
    bundled(name, directory / "index.js")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (directory / "config.capnp").write_text(_config(), "ascii")
        command = [
            *(program(tools.WORKERD), "serve", f"--socket-fd=http={listener.fileno()}"),
            str(directory / "config.capnp"),
        ]
        with (directory / "workerd.log").open("wb") as log:
            process = subprocess.Popen(
                command, pass_fds=(listener.fileno(),), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
    try:
        # The socket listens already: whoever connects waits until the process answers.
        yield f"http://127.0.0.1:{port}{PATHS.get(name, '/mcp')}"
    finally:
        process.terminate()
        process.wait()


def _config() -> str:
    return f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "index.js", esModule = embed "index.js")],
    compatibilityDate = "2026-11-01",
  ))],
  sockets = [(name = "http", http = (), service = "main")],
  v8Flags = ["--max-old-space-size={_HEAP_MB}", "--max-semi-space-size=1"],
);
"""
