"""The measured side: the real platform as a process on a core of its own, and the echo server that it hosts."""

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Generator
from typing import Final, NamedTuple

from bench import cores, load, wire, yardstick
from support import platform as running
from support import wheels

PACKAGE: Final = "smcp-bench-echo"
_MODERN: Final = "smcp-bench-echo-modern"
_LEGACY: Final = "smcp-bench-echo-legacy"
TENANT: Final = "bench"
SERVER: Final = "echo"
"""Speaks both eras."""
SHARED: Final = "echo-modern"
"""Speaks 2026-07-28 only, so that legacy sessions share one copy of it."""
REMOTE: Final = "echo-remote"
"""Speaks 2026-07-28, and is reached over HTTP."""
OWN: Final = "echo-legacy"
"""Speaks the legacy era only: a copy for each session."""

# Plan limits, raised so that the bench measures the platform and not its plan. Every stage still runs.
LIMITS: Final = {
    "SMCP_LIMITS_PLATFORM_PER_SECOND": "1000000",
    "SMCP_LIMITS_TENANT_PER_MINUTE": "100000000",
    "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "100000000",
    "SMCP_LIMITS_TENANT_CONCURRENCY": "4096",
    "SMCP_LIMITS_PRINCIPAL_CONCURRENCY": "4096",
    "SMCP_LIMITS_PRINCIPAL_SESSIONS": "4096",
    "SMCP_LIMITS_TENANT_INSTANCES": "4096",
    # Where the remote echo server is: on this machine.
    "SMCP_EGRESS_ALLOWED_NETWORKS": "127.0.0.0/8",
    "SMCP_LIMITS_STANDARD": "session_per_minute=100000000,memory_bytes=1000000000000000",
}


class Key(NamedTuple):
    """A caller's credential."""

    text: str

    def __repr__(self) -> str:
        return "Key(hidden)"


class Keys(NamedTuple):
    """Of the tenant that is measured."""

    admin: Key
    caller: Key


@contextlib.contextmanager
def on(core: int, after: int) -> Generator[None]:
    """Processes started inside stand on `core`; this one goes to `after` in the end."""
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, {after})


def prepare(directory: pathlib.Path) -> running.Platform:
    """A platform that can deploy the echo server; not started."""
    source = pathlib.Path(__file__).with_name("echo.py").read_text("utf-8")
    for name, run in ((PACKAGE, "main"), (_MODERN, "modern"), (_LEGACY, "legacy")):
        module = name.replace("-", "_")
        wheels.build_wheel(directory / "wheels", name, "1.0.0", {f"{module}.py": source}, {name: f"{module}:{run}"})
    return running.Platform(directory, {**LIMITS, "SMCP_DEPLOY_WHEEL_DIRS": str(directory / "wheels")})


class Roles(NamedTuple):
    """The processes of one platform."""

    foreground: int
    platform: int
    """Faces the network: what a call costs is its time."""
    launcher: int

    def hosted(self) -> set[int]:
        """Everything below the launcher: hosted servers, and bubblewrap around them."""
        return cores.family(self.launcher) - {self.launcher}


def started(platform: running.Platform, where: cores.Cores) -> Roles:
    """Start `platform` on its core, with everything that it will start."""
    with on(where.measured, where.load):
        platform.start()
    return roles(platform)


def roles(platform: running.Platform) -> Roles:
    """The processes of a platform that runs."""
    family = platform.family()

    def running_as(module: str) -> int:
        return next(one.pid for one in family if f" -m {module} " in f"{one.command} ")

    node, launcher = running_as("smcp.app.node"), running_as("smcp.sandbox.launcher")
    foreground = next(one.pid for one in family if cores.family(one.pid) >= {node, launcher})
    return Roles(foreground, node, launcher)


def settle(platform: running.Platform) -> Keys:
    """Make the tenant, and deploy the echo server in its two builds."""
    platform.create_tenant(TENANT)
    admin = platform.create_key(TENANT, "admin")
    platform.deploy(TENANT, f"pypi:{PACKAGE}==1.0.0", SERVER, admin)
    platform.deploy(TENANT, f"pypi:{_MODERN}==1.0.0", SHARED, admin)
    return Keys(Key(admin), Key(platform.create_key(TENANT, "mcp_user")))


def settle_legacy(platform: running.Platform, admin: Key) -> None:
    """Deploy the echo server that speaks the legacy era only."""
    platform.deploy(TENANT, f"pypi:{_LEGACY}==1.0.0", OWN, admin.text)


def endpoint(platform: running.Platform, key: Key, server: str = SERVER) -> wire.Endpoint:
    """Where a server of the tenant is, for `key`."""
    return wire.Endpoint(f"{platform.base_url}/t/{TENANT}/{server}/mcp", key.text)


def _fixed(_number: int) -> tuple[int, str]:
    return yardstick.ANSWER_ID, yardstick.ANSWER_TEXT


class Yardstick(NamedTuple):
    """The running yardstick."""

    pid: int
    target: load.Target


class Site(NamedTuple):
    """What serves HTTP beside the platform."""

    pid: int
    port: int


@contextlib.contextmanager
def module_on(where: cores.Cores, module: str) -> Generator[Site]:
    """A module of the bench that serves, as a process on the measured core."""
    root = pathlib.Path(__file__).parents[1]
    with on(where.measured, where.load):
        process = subprocess.Popen([sys.executable, "-m", module], cwd=root, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield Site(process.pid, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate(timeout=10)


@contextlib.contextmanager
def remote(platform: running.Platform, admin: Key, where: cores.Cores) -> Generator[Site]:
    """The echo server over HTTP, on the measured core, deployed as a remote server of the newer era."""
    with module_on(where, "bench.lean") as site:
        platform.deploy(TENANT, f"http://127.0.0.1:{site.port}/mcp", REMOTE, admin.text, 'era = "modern"\n')
        yield site


def site_on(where: cores.Cores) -> contextlib.AbstractContextManager[Site]:
    """The bare uvicorn app on the measured core."""
    return module_on(where, "bench.yardstick")


@contextlib.contextmanager
def yardstick_on(where: cores.Cores, like: load.Target) -> Generator[Yardstick]:
    """The bare uvicorn app, asked with the same headers and body as the platform is."""
    with site_on(where) as site:
        yield Yardstick(site.pid, like._replace(port=site.port, expect=_fixed))
