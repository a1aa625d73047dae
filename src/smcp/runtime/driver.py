"""What every kind of hosted server looks like from here: a `Driver` starts an `Instance`, an instance carries calls.

The gateway speaks frames (one JSON-RPC message each, as bytes) and knows nothing of processes. Ids and progress
tokens are remapped by the instance, params and results pass through as they came.
"""

import abc
from collections.abc import Callable
from typing import Protocol

import msgspec

from smcp.kernel import ids


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one instance may take. Seconds and bytes."""

    memory_bytes: int
    tmp_bytes: int
    open_files: int
    processes: int
    start_timeout_s: float
    stop_grace_s: float
    max_message_bytes: int


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: resolved from a deployment, the same for every instance of it."""

    tenant: ids.TenantId
    server: ids.ServerName
    deployment: str
    artefact: str
    """Directory of the unpacked, read-only artefact on this node; mounted at /app."""
    argv: tuple[str, ...]
    """Command as seen inside the sandbox."""
    env: tuple[tuple[str, str], ...] = ()
    interpreter: str = ""
    """Directory of the interpreter to mount, empty when the distribution's is used."""


class Owner(Protocol):
    """Who hears from an instance outside of any call."""

    def frame(self, data: bytes) -> None:
        """A notification or request of the hosted server that belongs to no call in flight."""
        ...

    def closed(self, reason: str) -> None:
        """The instance is gone; every call in flight has been failed already."""
        ...


StderrSink = Callable[[str], None]
"""Gets each line that the hosted server writes to stderr, and life-cycle lines of the driver."""


class Driver(abc.ABC):
    """Starts instances of one kind (stdio, workerd, remote)."""

    @abc.abstractmethod
    async def start(self, spec: Spec, limits: Limits, stderr: StderrSink) -> "Instance":
        """A running instance, before any message. Raises `errors.ServerFailed` or `errors.SandboxMissing`."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End every instance that this driver started."""


class Instance(abc.ABC):
    """A running copy of a deployment. What it can do is in `runtime.calls` (mapping ids) over `send`."""

    owner: Owner | None = None

    @property
    @abc.abstractmethod
    def alive(self) -> bool:
        """False once the process is gone or asked to go."""

    @property
    @abc.abstractmethod
    def in_flight(self) -> int:
        """Calls that have not been answered yet."""

    @abc.abstractmethod
    async def stop(self, reason: str) -> None:
        """End it as a whole, with every process in its sandbox: ask, wait the grace time, kill. Idempotent."""
