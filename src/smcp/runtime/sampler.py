"""What running copies take, told from time to time and at their end: processor, memory, and bytes to and from outside.

A driver around the driver. Every few seconds it asks the launcher, which alone may look, about all copies at once; what
is new since the last time is told to whoever counts. What nothing can measure is told as time that was not measured.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.sandbox import egress, launch
from smcp.sandbox.launcher import messages

SAMPLE_S: Final = 5.0
_YOUNG_S: Final = 2.0
"""A copy that lives for less than this may not have been looked at by the launcher yet."""


class Used(NamedTuple):
    """What one copy took since it was told last. Times in seconds."""

    copy_s: float = 0.0
    """For how long it ran."""
    cpu_s: float = 0.0
    cpu_unknown_s: float = 0.0
    """The part of `copy_s` for which nothing tells what it took of the processor."""
    memory_byte_s: float = 0.0
    memory_unknown_s: float = 0.0
    egress_sent: int = 0
    egress_received: int = 0


Told = Callable[[ids.TenantId, ids.ServerName, str, Used], None]
"""Gets the tenant, the server, and the principal whose copy it is, empty when several share it. Must not raise."""


Shares = Callable[[], Sequence[tuple[driver.Spec, float]]]
"""Whose a process is that several servers share, since it was asked last: parts that sum up to 1."""


class _Copy:
    """One process's account."""

    def __init__(self, child: launch.Child, told: Callable[[Used], None], network: egress.Attachment | None) -> None:
        self.child = child
        self._told = told
        self._network = network
        self._begun = self._since = time.monotonic()
        self._cpu_s = self._byte_s = 0.0
        self._sent = self._received = 0

    def sampled(self, reading: messages.Reading) -> None:
        """It still runs."""
        if reading.cpu_s is not None or time.monotonic() - self._begun >= _YOUNG_S:
            self._tell(reading.cpu_s, reading.memory_byte_s)

    def ended(self, ended: "asyncio.Future[messages.Exited]") -> None:
        """It is gone."""
        self._tell(ended.result().cpu_s, ended.result().memory_byte_s)

    def _tell(self, cpu_s: float | None, byte_s: float | None) -> None:
        now = time.monotonic()
        ran, self._since = now - self._since, now
        network = self._network
        sent, received = (network.sent, network.received) if network is not None else (0, 0)
        used = Used(
            copy_s=ran,
            cpu_s=0.0 if cpu_s is None else max(0.0, cpu_s - self._cpu_s),
            cpu_unknown_s=ran if cpu_s is None else 0.0,
            memory_byte_s=0.0 if byte_s is None else max(0.0, byte_s - self._byte_s),
            memory_unknown_s=ran if byte_s is None else 0.0,
            egress_sent=sent - self._sent,
            egress_received=received - self._received,
        )
        self._cpu_s = self._cpu_s if cpu_s is None else cpu_s
        self._byte_s = self._byte_s if byte_s is None else byte_s
        self._sent, self._received = sent, received
        self._told(used)


class Sampler(driver.Driver):
    """Starts copies through `inner`, and tells what they take."""

    def __init__(
        self, inner: driver.Driver, launcher: launch.Launcher, told: Told, *, every_s: float = SAMPLE_S
    ) -> None:
        self._inner = inner
        self._launcher = launcher
        self._told = told
        self._every_s = every_s
        self._copies: dict[int, _Copy] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        instance = await self._inner.start(spec, modern=modern, lines=lines)
        child = instance.process
        if child is not None:

            def told(used: Used) -> None:
                self._told(spec.tenant, spec.server, instance.principal, used)

            self._watch(_Copy(child, told, instance.attachment))
        return instance

    def shared(self, child: launch.Child, shares: Shares) -> None:
        """Tell what a process takes that several servers share, each its part of it."""

        def told(used: Used) -> None:
            for spec, part in shares():
                self._told(spec.tenant, spec.server, "", _part(used, part))

        self._watch(_Copy(child, told, None))

    def _watch(self, copy: _Copy) -> None:
        self._copies[copy.child.number] = copy
        copy.child.exited.add_done_callback(lambda ended: self._gone(copy, ended))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sample_on(), name="sampler")

    async def close(self) -> None:
        await self._inner.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _gone(self, copy: _Copy, ended: "asyncio.Future[messages.Exited]") -> None:
        del self._copies[copy.child.number]
        copy.ended(ended)

    async def _sample_on(self) -> None:
        """As long as there are copies."""
        while self._copies:
            await asyncio.sleep(self._every_s)
            with contextlib.suppress(errors.Unavailable):  # the launcher is gone, and every copy with it
                found = await self._launcher.measure(list(self._copies))
                for number, reading in found.items():
                    copy = self._copies.get(number)
                    if copy is not None:
                        copy.sampled(reading)


def _part(used: Used, part: float) -> Used:
    return Used(
        copy_s=used.copy_s * part,
        cpu_s=used.cpu_s * part,
        cpu_unknown_s=used.cpu_unknown_s * part,
        memory_byte_s=used.memory_byte_s * part,
        memory_unknown_s=used.memory_unknown_s * part,
    )
