"""The measured side: the real platform as a process on a core of its own, and the echo server that it hosts."""

import contextlib
import os
import pathlib
import subprocess
import sys
import urllib.parse
from collections.abc import Generator
from typing import Any, Final, NamedTuple

import httpx2

from bench import cores, load, yardstick
from support import platform as running
from support import wheels

PACKAGE: Final = "smcp-bench-echo"
TENANT: Final = "bench"
SERVER: Final = "echo"
LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"

_META: Final = (
    '{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},'
    '"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}'
)

# Plan limits, raised so that the bench measures the platform and not its plan. Every stage still runs.
_PLAN: Final = {
    "SMCP_LIMITS_TENANT_PER_MINUTE": "100000000",
    "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "100000000",
    "SMCP_LIMITS_TENANT_CONCURRENCY": "4096",
    "SMCP_LIMITS_PRINCIPAL_CONCURRENCY": "4096",
    "SMCP_LIMITS_PRINCIPAL_SESSIONS": "4096",
    "SMCP_LIMITS_TENANT_INSTANCES": "4096",
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
    wheels.build_wheel(
        directory / "wheels", PACKAGE, "1.0.0", {"smcp_bench_echo.py": source}, {PACKAGE: "smcp_bench_echo:main"}
    )
    return running.Platform(directory, {**_PLAN, "SMCP_DEPLOY_WHEEL_DIRS": str(directory / "wheels")})


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
    family = platform.family()

    def running_as(module: str) -> int:
        return next(one.pid for one in family if f" -m {module} " in f"{one.command} ")

    node, launcher = running_as("smcp.app.node"), running_as("smcp.sandbox.launcher")
    foreground = next(one.pid for one in family if cores.family(one.pid) >= {node, launcher})
    return Roles(foreground, node, launcher)


def settle(platform: running.Platform) -> Keys:
    """Make the tenant, and deploy the echo server."""
    platform.create_tenant(TENANT)
    admin = platform.create_key(TENANT, "admin")
    platform.deploy(TENANT, f"pypi:{PACKAGE}==1.0.0", SERVER, admin)
    return Keys(Key(admin), Key(platform.create_key(TENANT, "mcp_user")))


def target(platform: running.Platform, key: Key, session: str = "") -> load.Target:
    """tools/call of the echo server, on the modern wire, or on the legacy one within `session`."""
    address = urllib.parse.urlsplit(platform.base_url)
    assert address.hostname is not None
    assert address.port is not None
    fields = {**_common(key), "host": address.netloc, **(_legacy(session) if session else _modern("tools/call"))}
    head = f"POST /t/{TENANT}/{SERVER}/mcp HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items())
    meta = "" if session else f',"_meta":{_META}'
    params = f'{{"name":"echo","arguments":{{"text":"text %d"}}{meta}}}'
    template = f'{{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{params}}}'.encode()

    def body(number: int) -> bytes:
        return template % (number, number)

    def expect(number: int) -> tuple[int, str]:
        return number, f"text {number}"

    return load.Target(address.hostname, address.port, head.encode(), body, expect)


def call(client: httpx2.Client, platform: running.Platform, key: Key) -> None:
    """One modern call. Raises RuntimeError unless it answers rightly."""
    made = target(platform, key)
    answer = client.post(
        f"{platform.base_url}/t/{TENANT}/{SERVER}/mcp",
        headers={**_common(key), **_modern("tools/call")},
        content=made.body(1),
    )
    if answer.status_code != 200 or '"text 1"' not in answer.text:
        raise RuntimeError(f"HTTP {answer.status_code}: {answer.text[:400]}")


def open_session(client: httpx2.Client, platform: running.Platform, key: Key) -> str:
    """A new legacy session, initialized; its id."""
    url = f"{platform.base_url}/t/{TENANT}/{SERVER}/mcp"
    params: dict[str, Any] = {
        "protocolVersion": LEGACY,
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    }
    asked = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = client.post(url, headers=_common(key), json=asked)
    if answer.status_code != 200:
        raise RuntimeError(f"HTTP {answer.status_code}: {answer.text[:400]}")
    session = answer.headers["mcp-session-id"]
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    client.post(url, headers={**_common(key), **_legacy(session)}, json=told).raise_for_status()
    return session


def end_session(client: httpx2.Client, platform: running.Platform, key: Key, session: str) -> None:
    """End a legacy session and its copy of the server."""
    url = f"{platform.base_url}/t/{TENANT}/{SERVER}/mcp"
    client.delete(url, headers={**_common(key), **_legacy(session)}).raise_for_status()


def _common(key: Key) -> dict[str, str]:
    return {
        "authorization": f"Bearer {key.text}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }


def _modern(method: str) -> dict[str, str]:
    return {"mcp-protocol-version": MODERN, "mcp-method": method, "mcp-name": "echo"}


def _legacy(session: str) -> dict[str, str]:
    return {"mcp-protocol-version": LEGACY, "mcp-session-id": session}


def _fixed(_number: int) -> tuple[int, str]:
    return yardstick.ANSWER_ID, yardstick.ANSWER_TEXT


class Yardstick(NamedTuple):
    """The running yardstick."""

    pid: int
    target: load.Target


class Site(NamedTuple):
    """The bare uvicorn app."""

    pid: int
    port: int


@contextlib.contextmanager
def site_on(where: cores.Cores) -> Generator[Site]:
    """The bare uvicorn app on the measured core."""
    root = pathlib.Path(__file__).parents[1]
    with on(where.measured, where.load):
        process = subprocess.Popen([sys.executable, "-m", "bench.yardstick"], cwd=root, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield Site(process.pid, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def yardstick_on(where: cores.Cores, like: load.Target) -> Generator[Yardstick]:
    """The bare uvicorn app, asked with the same headers and body as the platform is."""
    with site_on(where) as site:
        yield Yardstick(site.pid, like._replace(port=site.port, expect=_fixed))
