"""What a Worker's bindings lead to: handlers behind the one door of its process, each with a capability of its own."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

from smcp.runtime import driver
from smcp.runtime.bindings import door, http
from smcp.runtime.drivers.workerd import config


class Outbound(Protocol):
    """The way out of one server: `fetch`."""

    @property
    def env(self) -> Mapping[str, str]:
        """The environment as the code is to see it: without secrets that are put in on the way."""
        ...

    async def answer(self, request: http.Request) -> http.Response:
        """What the world outside says."""
        ...

    async def close(self) -> None:
        """It is not needed any more."""
        ...


class Makers(Protocol):
    """Makes what answers bindings, for one server."""

    def kv(self, spec: driver.Spec, namespace: str) -> http.Handler:
        """A KV namespace of the tenant."""
        ...

    def bucket(self, spec: driver.Spec, bucket: str) -> http.Handler:
        """A bucket of the tenant."""
        ...

    def outbound(self, spec: driver.Spec, told: Callable[[str], None]) -> Outbound:
        """The way out. Raises `errors.SecretMissing`."""
        ...


class Opened:
    """One Worker's bindings in one process."""

    def __init__(self, keys: config.Keys, outbound: Outbound) -> None:
        self.keys = keys
        self.env: Mapping[str, str] = outbound.env
        """What the code sees of the environment."""
        self._outbound = outbound

    async def close(self) -> None:
        """Behind the end of its process. Never raises."""
        with contextlib.suppress(Exception):
            await self._outbound.close()


def opened(
    at: door.Door,
    makers: Makers,
    spec: driver.Spec,
    told: Callable[[str], None],
) -> Opened:
    """Open what `spec` binds. Raises `errors.SecretMissing`."""
    worker = spec.worker
    assert worker is not None
    # Also for who may reach nothing: it says what the code may know of the environment.
    outbound = makers.outbound(spec, told)
    keys = config.Keys(
        kv=tuple((name, at.admit(makers.kv(spec, bound))) for name, bound in worker.kv),
        buckets=tuple((name, at.admit(makers.bucket(spec, bound))) for name, bound in worker.buckets),
        outbound=at.admit(outbound.answer, proxy=True) if spec.egress else "",
    )
    return Opened(keys, outbound)
