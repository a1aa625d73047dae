"""The remote driver: a server that somebody else runs, spoken to over HTTP through the one guarded way out.

An instance is a conversation and no process: for a modern server a client that everybody shares, for a legacy one a
session of its own. It sees frames only, so nothing of the platform's client can reach the server but what is in one: no
header of a client's, no token, no cookie. What is added are the fields that the deployment names, with secrets as
values, and only for the origin that the deployment names.
"""

import asyncio
import contextlib
import functools
import hashlib
import ssl
import weakref
from collections.abc import Callable
from typing import Final

import msgspec

from smcp.kernel import errors, ids, jsonrpc
from smcp.runtime import budgets, calls, checks, driver, spool
from smcp.runtime.drivers import stdio
from smcp.sandbox import egress
from smcp.upstream import client, fields, legacy, mirrors, modern, oldsse, places
from smcp.upstream import wire as wires

_AT_ONCE: Final = 128
"""Messages of one instance that are under way at once: each has a connection of its own."""
_LISTENERS: Final = 512
"""Streams that last, of one instance, beside those messages."""
_WAITING: Final = 256
"""Messages that wait for the ones before them."""
_WAITING_BYTES: Final = 8 * 1024 * 1024
_MESSAGE_BYTES: Final = spool.IN_MEMORY
"""Largest message that is taken: it is collected in memory, and counts against what the tenant may have waiting."""
_BROKEN: Final = 500
"""Lines of an instance's own in the server's log."""
_FALL_BACK: Final = (400, 404, 405, 406, 415)

Counted = Callable[[driver.Spec, int, int], None]
"""Gets the bytes that were sent to and received from a server."""


class RemoteDriver(driver.Driver):
    """Makes conversations with remote servers."""

    def __init__(
        self,
        limits: driver.Limits,
        reach: egress.Egress,
        checked: stdio.Checked | None = None,
        counted: Counted | None = None,
        secure: ssl.SSLContext | None = None,
    ) -> None:
        """`secure` says which certificates are trusted; without it those of the system."""
        self._limits = limits
        self._reach = reach
        self._checked = checked
        self._counted = counted
        self._secure = secure or ssl.create_default_context()
        self._instances: set[RemoteInstance] = set()
        self._clients: weakref.WeakValueDictionary[tuple[object, ...], Shared] = weakref.WeakValueDictionary()
        self._mirrors: weakref.WeakValueDictionary[tuple[object, ...], mirrors.Mirrors] = weakref.WeakValueDictionary()
        self._budgets: weakref.WeakValueDictionary[ids.TenantId, budgets.Budget] = weakref.WeakValueDictionary()
        self._closed = False

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        """A conversation, before any message: nothing is dialled. Raises `errors.ServerFailed`,
        `errors.SecretMissing`."""
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        if spec.remote is None:
            raise errors.ServerFailed("The deployment names no remote server.")
        try:
            place = places.parse(spec.remote.url)
        except errors.InvalidParams as error:
            raise errors.ServerFailed(f"The remote server's address is wrong: {error.public}") from error
        made = RemoteInstance(
            self._limits,
            lines,
            self._instances.discard,
            self._client(spec, place, lines),
            modern=modern,
            budget=self._budget(spec.tenant),
            checked=None if self._checked is None else functools.partial(self._checked, spec, modern=modern),
        )
        made.choose(spec.remote.wire, place, self._known(spec))
        self._instances.add(made)
        return made

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(one.stop("the platform stops") for one in list(self._instances)))

    def _client(self, spec: driver.Spec, place: places.Place, lines: driver.Lines) -> "Shared":
        """Connections are shared by who has the same tenant, deployment, origin and credentials, and by nobody else."""
        credentials = _credentials(spec)
        digest = hashlib.sha256(msgspec.json.encode(credentials)).digest()
        key = (spec.tenant, spec.server, spec.deployment, place.origin, digest)
        found = self._clients.get(key)
        if found is None:
            counted = functools.partial(self._counted, spec) if self._counted is not None else _nobody
            http = client.Client(self._reach, self._secure, spec.tenant, lines, counted, credentials)
            found = self._clients[key] = Shared(http)
        return found

    def _known(self, spec: driver.Spec) -> mirrors.Mirrors:
        key = (spec.tenant, spec.server, spec.deployment)
        found = self._mirrors.get(key)
        if found is None:
            found = self._mirrors[key] = mirrors.Mirrors()
        return found

    def _budget(self, tenant: ids.TenantId) -> budgets.Budget:
        found = self._budgets.get(tenant)
        if found is None:
            found = self._budgets[tenant] = budgets.Budget(self._limits.tenant_buffer_bytes)
        return found


class Shared:
    """Connections, and how many instances use them: they are closed with the last one."""

    def __init__(self, http: client.Client) -> None:
        self.http = http
        self._users = 0

    def enter(self) -> None:
        """One more."""
        self._users += 1

    async def leave(self) -> None:
        """One less."""
        self._users -= 1
        if not self._users:
            await self.http.close()


class RemoteInstance(driver.Instance, wires.Owner):
    """One conversation."""

    def __init__(
        self,
        limits: driver.Limits,
        lines: driver.Lines,
        gone: "Callable[[RemoteInstance], None]",
        shared: Shared,
        *,
        modern: bool,
        budget: budgets.Budget,
        checked: Callable[[Callable[[str], None]], checks.Checks] | None = None,
    ) -> None:
        self._limits = limits
        self._lines = lines
        self._gone = gone
        self._shared = shared
        self._modern = modern
        self._budget = budget
        self._wire: wires.Wire | None = None
        self._or_sse: wires.Wire | None = None
        """What is spoken where the server turns out to be no Streamable HTTP one."""
        self._answered = False
        self._stopping = ""
        self._ended = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._listening = 0
        self._before: asyncio.Task[None] | None = None
        """The last message that what follows waits for."""
        self._held = 0
        self._brakes = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lines_left = _BROKEN
        shared.enter()
        self.calls = calls.Calls(
            modern=modern,
            write=self._write,
            stray=self._stray,
            limit=limits.stream_buffer,
            limit_bytes=min(limits.max_message_bytes, spool.IN_MEMORY),
            budget=budget,
            checked=None if checked is None else checked(self.note),
        )

    def choose(self, wanted: str, place: places.Place, known: mirrors.Mirrors) -> None:
        """Say which wire is spoken: before the first message."""
        limit = min(self._limits.max_message_bytes, _MESSAGE_BYTES)
        http = self._shared.http
        if wanted == "sse":
            self._wire = oldsse.OldSse(http, place, self, limit)
        elif self._modern:
            self._wire = modern.Modern(http, place, self, limit, known)
        else:
            self._wire = legacy.Legacy(http, place, self, limit)
            self._or_sse = oldsse.OldSse(http, place, self, limit) if wanted == "auto" else None

    @property
    def wire(self) -> driver.Wire:
        """`streamable` or `sse`; empty before the server has answered."""
        return self._wire.name if self._wire is not None and self._answered else ""

    @property
    def alive(self) -> bool:
        return not self._stopping

    def brake(self, on: bool) -> None:
        self._brakes += 1 if on else -1
        (self._flowing.clear if self._brakes else self._flowing.set)()

    async def stop(self, reason: str) -> None:
        if not self._stopping:
            self._end(errors.ServerFailed("The conversation with the remote server has ended.", detail=reason), reason)
        await self._ended.wait()

    # --- to the server ---

    def _write(self, body: bytes) -> None:
        if self._stopping:
            raise errors.ServerFailed("The conversation with the remote server has ended.")
        if self._modern and self._wire is not None and self._wire.name == "sse":
            raise errors.ServerFailed("A server of HTTP+SSE speaks no modern version of MCP.")
        frame = jsonrpc.frame(body)
        number = int(bytes(frame.id)) if frame.method and frame.id else 0
        sent = wires.Sent(number, frame.method, frame.params, body)
        full = len(self._tasks) - self._listening >= _AT_ONCE + _WAITING
        if full or (sent.lasts and self._listening >= _LISTENERS) or self._held + len(body) > _WAITING_BYTES:
            raise errors.Unavailable("Too many messages to the remote server are under way. Retry shortly.")
        cancelled = _cancelled(frame) if frame.method == "notifications/cancelled" else 0
        if cancelled and self._modern:
            self._abort(cancelled)
            return
        self._held += len(body)
        self._listening += sent.lasts
        task = asyncio.create_task(self._deliver(sent, self._before, cancelled), name="remote message")
        self._tasks[task] = number
        task.add_done_callback(functools.partial(self._delivered, sent))
        if not number:
            # What has no response has no other sign of its arrival: what follows it must not overtake it.
            self._before = task

    def _delivered(self, sent: wires.Sent, task: "asyncio.Task[None]") -> None:
        self._held -= len(sent.body)
        self._listening -= sent.lasts
        self._tasks.pop(task, None)
        if self._before is task:
            self._before = None

    async def _deliver(self, sent: wires.Sent, before: "asyncio.Task[None] | None", cancelled: int) -> None:
        try:
            if before is not None:
                await asyncio.wait({before})
            # What lasts keeps nobody from being answered: it has a bound and connections of its own.
            async with contextlib.nullcontext() if sent.lasts else self._places:
                await self._post(sent)
        except errors.ParseError as error:
            self._failed(sent, errors.ServerInvalid(f"The remote server's answer is not valid: {error.public}"))
        except errors.SmcpError as error:
            self._failed(sent, error)
        except Exception:
            # A fault of ours: the log gets it with the task, and nobody waits for what will not come.
            self._failed(sent, errors.ServerFailed("The conversation with the remote server failed on the platform."))
            raise
        finally:
            if cancelled:
                self._abort(cancelled)

    async def _post(self, sent: wires.Sent) -> None:
        assert self._wire is not None
        if self._or_sse is None or sent.method != "initialize":
            await self._wire.post(sent)
            return
        # Streamable HTTP first; what refuses that may be older (MCP 2025-11-25, "Backwards Compatibility").
        newer, older, self._or_sse = self._wire, self._or_sse, None
        try:
            await newer.post(sent)
        except errors.ServerFailed as refused:
            if (refused.data or {}).get("httpStatus") not in _FALL_BACK:
                raise
            # Before it is spoken to: its answer may come, and what follows be written, before it has taken this one.
            self._wire = older
            try:
                await older.post(sent)
            except errors.SmcpError:
                self._wire = newer
                await older.close()
                raise refused from None

    def _failed(self, sent: wires.Sent, error: errors.SmcpError) -> None:
        if self._stopping:
            return
        what = f"{sent.method[:64]}: " if sent.method else ""
        self.note(f"{what}{error.public}")
        if not self._answered and sent.number:
            # Nothing was ever heard: whoever waits for a first word would wait for long.
            self._end(error, error.public)
        elif sent.number:
            self.calls.lost(sent.number, error)

    def _abort(self, number: int) -> None:
        for task, mine in self._tasks.items():
            if mine == number:
                task.cancel()

    # --- from the server (wires.Owner) ---

    def received(self, frame: bytes, of: int | None) -> None:
        self._answered = True
        self.calls.received(frame, of)

    def waits(self, number: int) -> bool:
        return self.calls.waits(number)

    def take(self, size: int) -> bool:
        return self._budget.take(size)

    def give(self, size: int) -> None:
        self._budget.give(size)

    async def flow(self) -> None:
        await self._flowing.wait()

    def note(self, text: str) -> None:
        if self._lines_left > 0:
            self._lines_left -= 1
            self._lines(f"[smcp] {text}")

    def gone(self, failure: errors.SmcpError) -> None:
        if not self._stopping:
            self._end(failure, failure.public)

    # --- the end ---

    def _end(self, failure: errors.SmcpError, reason: str) -> None:
        self._stopping = reason
        self._lines(f"[smcp] ended: {reason}")
        self.calls.close(failure)
        me = asyncio.current_task()
        for task in self._tasks:
            if task is not me:
                task.cancel()
        self._ending = asyncio.create_task(self._finish(reason), name="remote end")

    async def _finish(self, reason: str) -> None:
        try:
            for one in (self._wire, self._or_sse):
                if one is not None:
                    with contextlib.suppress(errors.SmcpError, TimeoutError):
                        async with asyncio.timeout(self._limits.stop_grace_s):
                            await one.close()
            await self._shared.leave()
        finally:
            self._ended.set()
            self._gone(self)
            if self.owner is not None:
                self.owner.closed(reason)

    def _stray(self, data: bytes, method: str) -> None:
        if self.owner is not None:
            self.owner.stray(data, method)


def _credentials(spec: driver.Spec) -> tuple[tuple[str, str], ...]:
    """The configured fields. Raises `errors.SecretMissing`, without any value."""
    assert spec.remote is not None
    values = dict(spec.env)
    found: list[tuple[str, str]] = []
    for name, secret in spec.remote.headers:
        why = fields.refusal(name)
        if why:
            raise errors.ServerFailed(f"The header {name[:128]!a} can't be set: {why}.")
        text = fields.value(name, values[secret]) if secret in values else None
        if text is None:
            raise errors.SecretMissing(f"The secret {secret} is not set, or is no text that a header can have.")
        found.append((name, text))
    return tuple(found)


def _cancelled(frame: jsonrpc.Frame) -> int:
    params = (jsonrpc.obj(jsonrpc.decode(frame.params)) if frame.params else None) or {}
    number = params.get("requestId")
    return number if type(number) is int else 0


def _nobody(_sent: int, _received: int) -> None:
    pass
