"""What every kind of hosted server looks like from here: a `Driver` starts an `Instance`, an instance carries calls.

The gateway speaks frames (one JSON-RPC message each, as bytes) and knows nothing of processes. Ids and progress
tokens are remapped by the instance, params and results pass through as they came.
"""

import abc
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from smcp.kernel import ids
from smcp.runtime import calls
from smcp.sandbox import egress, launch, walls
from smcp.sandbox.egress import rules
from smcp.sandbox.volumes import keeper

Wire = Literal["", "streamable", "sse"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the platform is with one instance. What the instance may take is said by its sandbox."""

    stop_grace_s: float
    """Seconds between asking it to end and killing it."""
    max_message_bytes: int
    """Largest single message that is taken from it."""
    stream_buffer: int
    """Interim messages held for a slow reader of one call."""
    tenant_buffer_bytes: int
    """Bytes that all hosted servers of a tenant may have waiting in memory."""


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """A server that somebody else runs: where it is, and what it is shown."""

    url: str
    """Its endpoint, canonical: scheme, lower-case ASCII host, no default port, no user, no fragment. `http` is only
    dialled where the operator has opened the address (`egress.allowed_networks`)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Header fields by name, and the name of the secret that is the value of each, found in `Spec.env`."""
    wire: Literal["auto", "streamable", "sse"] = "auto"
    """How it is spoken to: Streamable HTTP, the HTTP+SSE of MCP 2024-11-05, or whichever it answers."""


class Module(msgspec.Struct, frozen=True):
    """A file of a Worker's code."""

    name: str
    """As the code imports it, and its path below the artefact's directory `worker`."""
    kind: Literal["esm", "cjs", "text", "data", "json", "wasm"]


class Durable(msgspec.Struct, frozen=True):
    """A namespace of Durable Objects."""

    binding: str
    class_name: str
    key: str
    """What its objects' ids are derived from: it stays the same from deployment to deployment."""
    sqlite: bool = True


class Service(msgspec.Struct, frozen=True):
    """Another server of the same tenant, called as if it were a function."""

    binding: str
    server: ids.ServerName
    entrypoint: str = ""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is a Cloudflare Worker: an isolate of V8 instead of a command."""

    modules: tuple[Module, ...]
    """The first is the one that handles requests."""
    compatibility_date: str
    compatibility_flags: tuple[str, ...] = ()
    path: str = "/mcp"
    """Where its `fetch` handler expects MCP."""
    variables: tuple[tuple[str, str], ...] = ()
    """Binding and value as JSON text: a string is bound as text, anything else as what it is."""
    kv: tuple[tuple[str, str], ...] = ()
    """Binding and the tenant's KV namespace."""
    buckets: tuple[tuple[str, str], ...] = ()
    """Binding and the tenant's bucket of objects."""
    durables: tuple[Durable, ...] = ()
    services: tuple[Service, ...] = ()
    alone: bool = False
    """It gets a process of its own, instead of one with the tenant's other Workers."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: resolved from a deployment, the same for every instance of it."""

    tenant: ids.TenantId
    server: ids.ServerName
    deployment: str
    artefact: str
    """Directory of the unpacked, read-only artefact on this node; mounted at /app."""
    argv: tuple[str, ...]
    """Command as seen inside the sandbox."""
    runtime: Literal["python", "node", "worker"] = "python"
    tier: Literal["", "gvisor"] = ""
    """What holds it: as `walls.Cell.tier`."""
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[walls.File, ...] = ()
    egress: tuple[rules.Rule, ...] = ()
    """What it may reach."""
    secrets: tuple[tuple[str, str], ...] = ()
    """Secrets that it can't do without, by name: `env` or `file`. Their values are found when a copy starts."""
    volume: keeper.VolumeSpec | None = None
    """What it keeps, if anything."""
    mount: walls.Volume | None = None
    """`volume`, opened for one copy: set by whoever starts it."""
    least: int = 0
    """Copies that stay, once the server was asked for: shared ones of a modern server, spares of a legacy one."""
    most: int = 0
    """Shared copies of a modern server at most; 0 for as many as the plan allows."""
    remote: Remote | None = None
    """Set for a server that runs elsewhere: then there is neither artefact nor command, and no sandbox."""
    trial: bool = False
    """It is only tried out, beside what is live."""
    worker: Worker | None = None
    """Set for a Worker: then there is no command."""

    @property
    def driver(self) -> Literal["stdio", "worker", "remote"]:
        """What runs it, as metrics call it."""
        if self.remote is not None:
            return "remote"
        return "stdio" if self.worker is None else "worker"

    def __repr__(self) -> str:
        # The environment is the tenant's; a repr ends up in logs.
        return f"Spec({self.tenant}/{self.server} {self.deployment})"


class Owner(Protocol):
    """Who hears from an instance outside of any call."""

    def stray(self, data: bytes, method: str) -> None:
        """A notification or request of the hosted server that belongs to no call in flight."""
        ...

    def closed(self, reason: str) -> None:
        """The instance is gone; every call in flight has been failed already."""
        ...


Lines = Callable[[str], None]
"""Gets each line that the hosted server writes to stderr, and life-cycle lines of the driver."""


class Instance(abc.ABC):
    """A running copy of a deployment."""

    owner: Owner | None = None
    principal: str = ""
    """Whose copy it is alone; empty when several share it."""
    process: launch.Child | None = None
    """Its cell, if it has one."""
    attachment: egress.Attachment | None = None
    """Its network, if it has one."""
    calls: calls.Calls
    hide: Callable[[str], str] = staticmethod(str)
    """Takes the values of its secrets out of a text of its own that is kept or shown to others than its callers."""

    @property
    def wire(self) -> Wire:
        """How a remote server was found to speak, once it has answered."""
        return ""

    @property
    @abc.abstractmethod
    def alive(self) -> bool:
        """False once the process is gone or asked to go."""

    def brake(self, on: bool) -> None:  # noqa: B027  what can't be held back needs not say so
        """Read no more of what it says, or read on: each `True` is followed by one `False`. For a copy of one session:
        the others that share a copy would be held up, too."""

    @abc.abstractmethod
    async def stop(self, reason: str) -> None:
        """End it as a whole, with every process in its sandbox: ask, wait the grace time, kill. Idempotent."""


class Driver(abc.ABC):
    """Starts instances of one kind (stdio, workerd, remote)."""

    @abc.abstractmethod
    async def start(self, spec: Spec, *, modern: bool, lines: Lines) -> Instance:
        """A running instance, before any message; the era is locked by the first one.

        Raises `errors.ServerFailed` or `errors.SandboxMissing`.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """End every instance that this driver started."""
