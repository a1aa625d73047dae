"""Hosted servers inside the test's own process, for tests of who gets which copy: a driver that makes no process.

Everything around it is real. Copies answer what the platform asks them, and start, end, fail and fall silent when the
test says so.
"""

import asyncio
import json
from collections.abc import Callable

from smcp.kernel import errors, ids, jsonrpc, observe
from smcp.runtime import calls, driver, ledger, pool

QUESTIONS = ("server/discover", "ping")


class Inside(driver.Driver):
    """Starts copies."""

    def __init__(self) -> None:
        self.start_now, self.end_now = asyncio.Event(), asyncio.Event()
        self.start_now.set()
        self.end_now.set()
        self.starting = asyncio.Event()
        """Set when a start has begun."""
        self.begun: list[driver.Spec] = []
        """Every start, in order."""
        self.running: set[Copy] = set()
        self.silent = False
        """Copies answer nothing by themselves."""
        self.fails = ""
        """How starts fail, if they do."""
        self.dies: Callable[[driver.Spec, bool], bool] = _never
        """Which copies end when they are asked for the first time (spec, modern)."""

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        self.begun.append(spec)
        self.starting.set()
        await self.start_now.wait()
        if self.fails:
            lines("why it failed")
            raise errors.ServerFailed(self.fails)
        copy = Copy(self, spec, lines, modern=modern)
        self.running.add(copy)
        return copy

    async def close(self) -> None:
        self.start_now.set()
        self.end_now.set()


class Copy(driver.Instance):
    """One copy."""

    def __init__(self, home: Inside, spec: driver.Spec, lines: driver.Lines, *, modern: bool) -> None:
        self.calls = calls.Calls(modern=modern, write=self._write, stray=lambda data, method: None, limit=4)
        self.spec = spec
        self.silent = home.silent
        self.asked: list[str] = []
        """Methods that it was asked for, in order."""
        self.gone = asyncio.Event()
        self._home = home
        self._lines = lines
        self._dies = home.dies(spec, modern)
        self._stopping = False

    @property
    def alive(self) -> bool:
        return not self._stopping

    async def stop(self, reason: str) -> None:
        self._stopping = True
        await self._home.end_now.wait()
        self._end(reason)

    def die(self, words: str = "last words") -> None:
        """End as a process does that nobody asked to."""
        self._lines(words)
        self._stopping = True
        self._end("it ended by itself")

    def answer(self, number: int) -> None:
        """Answer a call."""
        self.calls.received(jsonrpc.result(b"%d" % number, b"{}"))

    def _end(self, reason: str) -> None:
        if not self.gone.is_set():
            self._home.running.discard(self)
            self.gone.set()
            self.calls.close(errors.ServerFailed("The hosted server ended before it answered.", detail=reason))
            if self.owner is not None:
                self.owner.closed(reason)

    def _write(self, data: bytes) -> None:
        message = json.loads(data)
        self.asked.append(message["method"])
        if self._dies:
            asyncio.get_running_loop().call_soon(self.die)
        elif not self.silent and message["method"] in QUESTIONS:
            asyncio.get_running_loop().call_soon(self._reply, message["id"])

    def _reply(self, number: int) -> None:
        if not self._stopping:
            self.answer(number)


def spec(
    tenant: str = "acme", server: str = "time", deployment: str = "dep-1", *, least: int = 0, most: int = 0
) -> driver.Spec:
    """What to run."""
    return driver.Spec(
        tenant=ids.TenantId(tenant),
        server=ids.ServerName(server),
        deployment=deployment,
        artefact="",
        argv=(),
        least=least,
        most=most,
    )


def opened(
    home: Inside,
    *,
    instances: int = 40,
    spares: int = 0,
    memory: int = 1 << 40,
    idle_s: float = 60.0,
    starts: int = 4,
    check_s: float = 30.0,
    answer_s: float = 60.0,
    drain_s: float = 60.0,
    metrics: observe.Metrics | None = None,
    free: Callable[[], float] = lambda: 1.0,
) -> pool.Pool:
    """A pool of copies of `home`; each may take 100 bytes of memory.

    It ends nothing for having waited, unless the test says so: a busy machine may stand still for a second or two.
    """
    return pool.Pool(
        home,
        lambda spec: lambda line: None,
        metrics or observe.Metrics("0"),
        pool.Patience(idle_stop_s=idle_s, start_s=60.0, drain_s=drain_s, check_s=check_s, answer_s=answer_s),
        caps=lambda tenant: ledger.Caps(instances, spares, memory),
        starts_at_once=starts,
        memory_bytes=lambda spec: 100,
        free_memory=free,
    )


def _never(_spec: driver.Spec, _modern: bool) -> bool:
    return False
