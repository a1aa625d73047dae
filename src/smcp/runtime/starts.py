"""Starts: how a copy comes to be, from the wish to its first word, and how it ends.

A start that is asked for passes the breaker of its deployment, the ledger of its tenant, and waits for a turn. It keeps
the turn until the copy has said something, so that turns bound the processor time of whole starts and not only of
processes that begin.
"""

import asyncio
import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

from smcp.kernel import errors, ids, jsonrpc, observe
from smcp.protocol import eras
from smcp.runtime import breaker, calls, driver, ledger, turns

TURN_S: Final = 5.0
"""Seconds for which a copy that says nothing keeps its turn."""
_LOOK_S: Final = 0.01
"""Between looks whether a copy has said something, or ended: the driver tells nobody, so that a message costs no more
for it. The answer to the platform's own question is heard at once."""

_DISCOVER: Final = jsonrpc.encode(
    {
        "_meta": {
            eras.META_VERSION: eras.MODERN[-1],
            eras.META_CAPABILITIES: {},
            "io.modelcontextprotocol/clientInfo": {"name": "smcp", "version": "1"},
        }
    }
)

Server = tuple[ids.TenantId, ids.ServerName]


class Copy(driver.Owner):
    """A running copy, as the pool sees it. It owns the instance while no session does."""

    __slots__ = (
        "born", "ending", "entry", "heard", "instance", "modern", "on_closed", "outdated", "question", "silent", "spec",
        "turn",
    )  # fmt: skip

    def __init__(
        self, spec: driver.Spec, instance: driver.Instance, entry: ledger.Entry, turn: turns.Turn, *, modern: bool
    ) -> None:
        self.spec = spec
        self.instance = instance
        self.entry = entry
        self.turn = turn
        self.modern = modern
        self.born = time.monotonic()
        self.heard = instance.calls.heard
        """When it had last spoken, before it was given to anybody."""
        self.outdated = False
        """Something that it got at its start has changed: it ends with its last call."""
        self.silent = 0
        """Questions in a row that it did not answer."""
        self.question: tuple[int, calls.Call] | None = None
        """The platform's own, that may still be answered."""
        self.ending: asyncio.Task[None] | None = None
        self.on_closed: Callable[[Copy], None] | None = None
        instance.owner = self

    @property
    def server(self) -> Server:
        """Whose copy it is."""
        return self.spec.tenant, self.spec.server

    @property
    def useful(self) -> bool:
        """It has answered somebody."""
        return self.instance.calls.heard != self.heard

    def ask(self) -> calls.Call:
        """Ask it something that every server answers at any time; `settle` follows.

        The only request that MCP allows before `initialize` is `ping` (2025-11-25, "Lifecycle"); the modern era has
        none, and everybody answers `server/discover`. Raises `errors.ServerFailed`.
        """
        self.settle()
        if self.modern:
            self.question = self.instance.calls.ask("server/discover", _DISCOVER)
        else:
            self.question = self.instance.calls.ask("ping", b"{}")
        return self.question[1]

    async def moment(self, seconds: float) -> None:
        """Return after `seconds`, or when what was asked here is answered."""
        asked = None if self.question is None else self.question[1]
        if asked is None or asked.done or asked.frames:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asked.wait()

    def settle(self) -> None:
        """Nobody waits for the answer any more. It is not cancelled: who was not greeted yet may not like that."""
        question, self.question = self.question, None
        if question is not None:
            self.instance.calls.forget(question[0])
            question[1].release()

    def stray(self, data: bytes, method: str) -> None:
        """Belongs to no call and to no session: nobody is there to hear it."""

    def closed(self, reason: str) -> None:
        """It is gone."""
        if self.on_closed is not None:
            self.on_closed(self)


class Starts:
    """Starts and ends every copy of this node."""

    def __init__(
        self,
        stdio: driver.Driver,
        lines: Callable[[driver.Spec], driver.Lines],
        metrics: observe.Metrics,
        books: ledger.Ledger,
        *,
        at_once: int,
        timeout_s: float,
        memory: Callable[[driver.Spec], int | ledger.Process],
    ) -> None:
        """`lines` makes the sink of one copy's stderr, `memory` says what one copy may take at most, in
        bytes, or in which process it is."""
        self._stdio = stdio
        self._lines = lines
        self.ledger = books
        self.turns = turns.Turns(at_once)
        self._timeout_s = timeout_s
        self._memory = memory
        self.copies: set[Copy] = set()
        """All whose processes are not gone yet."""
        self.evict: Callable[[ids.TenantId], bool] = _nothing
        """Ends something of the tenant's that can be done without; False when there is nothing."""
        self._entering: collections.Counter[ids.TenantId] = collections.Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._breakers: dict[tuple[ids.TenantId, ids.ServerName, str], breaker.Breaker] = {}
        self.starting: collections.Counter[Server] = collections.Counter()
        self.coming: collections.Counter[str] = collections.Counter()
        """As `starting`, by driver."""
        self._took = {
            (kind, outcome): metrics.histogram(observe.Metric.INSTANCE_START, driver=kind, outcome=outcome)
            for kind, outcome in itertools.product(observe.DRIVERS, ("succeeded", "failed"))
        }
        self._crashes = metrics.counter(observe.Metric.INSTANCE_CRASHES)
        metrics.watch(observe.Metric.START_QUEUE, lambda: float(self.turns.waiting))
        metrics.watch(observe.Metric.BREAKERS, lambda: float(len(self._open())))

    # --- starting ---

    async def asked(self, spec: driver.Spec, *, modern: bool) -> Copy:
        """A copy for somebody who waits for it, before its first word.

        Raises `errors.ServerCrashing`, `errors.RateLimited` at the tenant's cap, `errors.Unavailable` when its turn
        does not come in time, or what the driver raises. Then, and when cancelled, nothing is left.
        """
        fuse = self.fuse(spec)
        probe = fuse.admit(time.monotonic())
        self.starting[spec.tenant, spec.server] += 1
        self.coming[spec.driver] += 1
        try:
            entry, turn = await self._admitted(spec)
            return await self._spawn(spec, entry, turn, modern=modern)
        except errors.ServerFailed as error:
            fuse.bad(time.monotonic(), error.detail or error.public)
            raise
        except BaseException:
            fuse.void(probe=probe)
            raise
        finally:
            self.coming[spec.driver] -= 1
            self.starting[spec.tenant, spec.server] -= 1
            if not self.starting[spec.tenant, spec.server]:
                del self.starting[spec.tenant, spec.server]

    async def spare(self, spec: driver.Spec, *, modern: bool) -> Copy | None:
        """A copy that nobody waits for; None where there is no room for it. Raises what the driver raises."""
        turn = await self.turns.take(spec.tenant, spare=True)
        entry = self.ledger.enter(spec.tenant, self._memory(spec), spare=True)
        if entry is None:
            turn.end()
            return None
        return await self._spawn(spec, entry, turn, modern=modern)

    async def prove(self, copy: Copy) -> None:
        """Return when a modern copy has answered `server/discover`; its breaker hears of it.

        Raises `errors.ServerFailed` when it ended before, `errors.ServerTimeout`. Then it is being ended.
        """
        fuse = self.fuse(copy.spec)
        try:
            asked = copy.ask()
            if not await self.spoken(copy, self._timeout_s):
                if copy.instance.alive:
                    raise errors.ServerTimeout("The hosted MCP server did not answer in time after its start.")
                if (copy.spec.remote or copy.spec.worker) is not None and asked.failure is not None:
                    raise asked.failure  # says what is wrong with the way there
                raise errors.ServerFailed("The hosted MCP server ended before it answered.")
        except errors.SmcpError as error:
            fuse.bad(time.monotonic(), error.public)
            self._crashes.inc()
            self.end(copy, "it did not answer after its start")
            raise
        except BaseException:
            fuse.void(probe=True)
            self.end(copy, "nobody waits for it any more")
            raise
        finally:
            copy.settle()
            copy.turn.end()
        fuse.good()
        copy.heard = copy.instance.calls.heard

    def listen(self, copy: Copy) -> None:
        """Hear a copy's first word, that somebody else will ask for; its breaker hears of it."""
        self._background(self._listen(copy))

    async def _listen(self, copy: Copy) -> None:
        fuse = self.fuse(copy.spec)
        if await self.spoken(copy, self._timeout_s):
            fuse.good()
        elif copy.instance.alive or copy.ending is not None:
            fuse.void(probe=True)

    async def spoken(self, copy: Copy, seconds: float) -> bool:
        """Wait until a copy has said something; False when it ends before, or says nothing for `seconds`.

        Its turn ends at the latest after `TURN_S`.
        """
        began = time.monotonic()
        try:
            while not copy.useful:
                waited = time.monotonic() - began
                if copy.ending is not None or not copy.instance.alive or waited >= seconds:
                    return False
                if waited >= TURN_S:
                    copy.turn.end()
                await copy.moment(_LOOK_S if waited < TURN_S else 0.1)
            return True
        finally:
            copy.turn.end()

    async def _admitted(self, spec: driver.Spec) -> tuple[ledger.Entry, turns.Turn]:
        try:
            async with asyncio.timeout(self._timeout_s):
                entry = await self._enter(spec)
                try:
                    return entry, await self.turns.take(spec.tenant)
                except BaseException:
                    entry.strike()
                    raise
        except TimeoutError as error:
            raise errors.Unavailable(
                "Too many hosted servers are being started; this one's turn did not come in time. Retry shortly.",
                headers=(("Retry-After", "5"),),
            ) from error

    async def _enter(self, spec: driver.Spec) -> ledger.Entry:
        tenant, memory = spec.tenant, self._memory(spec)
        while True:
            entry = self.ledger.enter(tenant, memory)
            if entry is not None:
                return entry
            # Each who waits needs a copy of its own to go.
            if self._ending(tenant) <= self._entering[tenant]:
                self.evict(tenant)
            if not self._ending(tenant) and not self.ledger.spares[tenant]:
                raise errors.RateLimited(
                    "The tenant runs as many copies of its servers as it may. End sessions, or wait.", retry_after=5.0
                )
            self._entering[tenant] += 1
            try:
                await self.ledger.room(tenant)
            finally:
                self._entering[tenant] -= 1
                if not self._entering[tenant]:
                    del self._entering[tenant]

    def _ending(self, tenant: ids.TenantId) -> int:
        return sum(1 for copy in self.copies if copy.ending is not None and copy.spec.tenant == tenant)

    async def _spawn(self, spec: driver.Spec, entry: ledger.Entry, turn: turns.Turn, *, modern: bool) -> Copy:
        began = time.monotonic()
        try:
            instance = await self._stdio.start(spec, modern=modern, lines=self._sink(spec))
        except BaseException as error:
            entry.strike()
            turn.end()
            if isinstance(error, errors.SmcpError):
                self._took[spec.driver, "failed"].observe(time.monotonic() - began)
            raise
        self._took[spec.driver, "succeeded"].observe(time.monotonic() - began)
        copy = Copy(spec, instance, entry, turn, modern=modern)
        self.copies.add(copy)
        return copy

    def _sink(self, spec: driver.Spec) -> driver.Lines:
        write, fuse = self._lines(spec), self.fuse(spec)

        def take(text: str) -> None:
            # The driver sees to it that only the platform's own words begin so.
            if not text.startswith("[smcp]"):
                fuse.said = text[:1000]
            write(text)

        return take

    # --- ending ---

    def end(self, copy: Copy, reason: str) -> "asyncio.Task[None]":
        """End a copy; the task is over when its processes are gone. Idempotent."""
        if copy.ending is None:
            copy.ending = self._background(self._end(copy, reason))
        return copy.ending

    async def _end(self, copy: Copy, reason: str) -> None:
        try:
            await copy.instance.stop(reason)
        finally:
            copy.turn.end()
            copy.entry.strike()
            self.copies.discard(copy)

    def crashed(self, copy: Copy) -> None:
        """A copy has ended without being told to."""
        self._crashes.inc()
        if not copy.useful:
            self.fuse(copy.spec).bad(time.monotonic(), "it ended before it answered a call")

    async def ended(self) -> None:
        """Return when everything that was told to end has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    # --- breakers ---

    def fuse(self, spec: driver.Spec) -> breaker.Breaker:
        """The breaker of a deployment."""
        key = (spec.tenant, spec.server, spec.deployment)
        found = self._breakers.get(key)
        if found is None:
            found = self._breakers[key] = breaker.Breaker()
        return found

    def fuses(self, server: Server) -> Iterator[breaker.Breaker]:
        """Those of a server's deployments."""
        return (one for key, one in self._breakers.items() if key[:2] == server)

    def forget(self, affected: Callable[[Server], bool], *, but: str = "") -> None:
        """Somebody has changed something about these servers: they are given another chance at once.

        What is known of deployment `but` stays.
        """
        for key in [key for key in self._breakers if affected(key[:2]) and key[2] != but]:
            del self._breakers[key]

    def tidy(self) -> None:
        """Let go of breakers that nobody needs: of what does not run, those that have nothing to tell any more."""
        now = time.monotonic()
        needed = {(*copy.server, copy.spec.deployment) for copy in self.copies}
        for key, one in list(self._breakers.items()):
            if one.idle(now) and key not in needed and not self.starting[key[:2]]:
                del self._breakers[key]

    def _open(self) -> list[breaker.Breaker]:
        now = time.monotonic()
        return [one for one in self._breakers.values() if one.state(now) is not breaker.State.CLOSED]

    def _background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _nothing(_tenant: ids.TenantId) -> bool:
    return False
