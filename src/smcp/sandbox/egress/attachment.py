"""The platform's side of every cell's network."""

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from smcp.kernel import errors, ids, observe, settings
from smcp.sandbox.egress import budget, guard, lookup, names, relay, rules, verdicts
from smcp.sandbox.egress.verdicts import Reason

CONNECT_S: Final = 10.0
"""Seconds to find and reach a host."""
IDLE_S: Final = 300.0
"""A connection on which nothing moves for so many seconds is ended."""

_AT_ONCE: Final = 16
_USED_UP: Final = "the tenant's bytes of the day are used up"
_NOT_LISTED: Final = "not in the manifest's egress"
# What one cell may make the platform do: a loop that only asks or connects must not slow other tenants down.
_CONNECTS: Final = (128, 64.0)
_QUESTIONS: Final = (256, 128.0)
_PAUSE_S: Final = 0.25
_BYTES: Final = (8_388_608, 33_554_432.0)
_LEAST_CHUNK: Final = 8192
"""What a chunk counts at least: many small ones cost as much as a large one."""


class Egress:
    """One for a platform: the operator's settings, the resolver and the counters that all cells share."""

    def __init__(
        self,
        config: settings.Egress,
        metrics: observe.Metrics,
        resolve: lookup.Resolve | None = None,
        *,
        budgets: budget.Budgets | None = None,
        connect_s: float = CONNECT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """`budgets`: what tenants may move. Raises `errors.BadSettings` for networks or pinned hosts that are none."""
        self.budgets = budgets
        self.config = config
        self.connect_s = connect_s
        self.idle_s = idle_s
        self.guard = guard.Guard(config.allowed_networks)
        self.pins = _pins(config.hosts)
        self.counters = verdicts.counters(metrics)
        self.resolve = resolve or lookup.Lookup().addresses

    def attach(
        self,
        sockets: Sequence[socket.socket],
        allowed: tuple[rules.Rule, ...],
        told: Callable[[str], None],
        *,
        tenant: ids.TenantId | None = None,
        trusted: bool = False,
    ) -> "Attachment":
        """Serve one cell's `sockets` (of `network.enter`, from now on owned by the attachment) in the running loop.

        `told` gets a line per verdict, a bounded number of them. `trusted`: the operator wrote the rules, so that
        their hosts may be on a private network. `tenant`: whose budget it is; None: nobody's, as for builds.
        """
        shared = None if tenant is None or self.budgets is None else self.budgets(tenant)
        return Attachment(self, sockets, allowed, told, shared, trusted=trusted)


class _Target(msgspec.Struct, frozen=True):
    """Where a connection of the cell is meant to go."""

    host: str
    port: int
    literal: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Attachment:
    """One cell's network, served. `sent` and `received` count the bytes of the cell's connections."""

    def __init__(
        self,
        egress: Egress,
        sockets: Sequence[socket.socket],
        allowed: tuple[rules.Rule, ...],
        told: Callable[[str], None],
        shared: budget.Budget | None,
        *,
        trusted: bool,
    ) -> None:
        self._budget = shared
        self.sent = 0
        self.received = 0
        self._egress = egress
        self._rules = allowed
        self._trusted = trusted
        self._verdicts = verdicts.Verdicts(egress.counters, told)
        self._names = names.Names()
        self._connects = verdicts.Bucket(*_CONNECTS)
        self._questions = verdicts.Bucket(*_QUESTIONS)
        self._bytes = verdicts.Bucket(*_BYTES)
        self._lookups = lookup.Questions(egress.resolve)
        self._open: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._sockets = list(sockets)
        self._closed = False
        self._loop = asyncio.get_running_loop()
        for one in self._sockets:
            one.setblocking(False)
            self._listen(one)

    def close(self) -> None:
        """Close the sockets and end every connection. May be called again."""
        if self._closed:
            return
        self._closed = True
        for handle in self._pauses.values():
            handle.cancel()
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()
        for task in self._open:
            task.cancel()
        self._lookups.close()

    # --- readiness ---

    def _listen(self, one: socket.socket) -> None:
        self._pauses.pop(one, None)
        self._loop.add_reader(one, self._asked if one.type == socket.SOCK_DGRAM else self._arrived, one)

    def _pause(self, one: socket.socket) -> None:
        """Leave what comes to the kernel's short queue for a while."""
        self._loop.remove_reader(one)
        self._pauses[one] = self._loop.call_later(_PAUSE_S, self._listen, one)

    def _asked(self, one: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._questions.ready():
                return self._pause(one)
            # Nothing there (any more), or nobody who takes the answer: both are the cell's own business.
            try:
                packet, sender = one.recvfrom(names.LARGEST + 1)
            except OSError:
                return None
            self._questions.take()
            reply = names.answer(packet, self._find)
            if reply is not None:
                with contextlib.suppress(OSError):
                    one.sendto(reply, sender)
        return None

    def _find(self, name: str, wanted: bool) -> str | None:
        if rules.canonical(name) and any(rule.names(name) for rule in self._rules):
            return self._names.address(name)
        if wanted:
            self._verdicts.tell(Reason.NAME, name, why=_NOT_LISTED)
        return None

    def _arrived(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._connects.ready():
                return self._pause(listener)
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                return None
            except OSError:
                # Out of descriptors, or the connection is gone already: the listener would be ready again at once.
                return self._pause(listener)
            self._connects.take()
            self._begin(client)
        return None

    # --- one connection ---

    def _begin(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address, port = client.getsockname()
        except OSError:
            return relay.reset(client)
        target = self._target(address, port)
        if target is None:
            return relay.reset(client)
        if len(self._open) >= self._egress.config.connections:
            self._verdicts.tell(Reason.BUSY, str(target), why=f"{len(self._open)} connections are open")
            return relay.reset(client)
        task = self._loop.create_task(self._connection(client, target))
        self._open.add(task)
        # A task that is cancelled before its first step runs no line of its own, hence the second closing here.
        task.add_done_callback(lambda ended: (self._open.discard(ended), client.close()))
        return None

    def _target(self, address: str, port: int) -> _Target | None:
        """What the cell meant by `address`, if a rule says so."""
        if any(rule.literal and rule.host == address and rule.port == port for rule in self._rules):
            return _Target(address, port, literal=True)
        name = self._names.name(address)
        if name is None:
            stale = any(ipaddress.IPv4Address(address) in network for network in names.NETWORKS)
            why = "its address was given to no name" if stale else _NOT_LISTED
            self._verdicts.tell(Reason.ADDRESS, f"{address}:{port}", why=why)
            return None
        if not any(rule.names(name) and rule.port == port for rule in self._rules):
            self._verdicts.tell(Reason.PORT, f"{name}:{port}", why=_NOT_LISTED)
            return None
        return _Target(name, port, literal=False)

    async def _connection(self, client: socket.socket, target: _Target) -> None:
        upstream: socket.socket | None = None
        orderly = False
        try:
            upstream = await self._reach(target) if await self._affordable(target) else None
            if upstream is not None:
                idle_s = self._egress.idle_s
                sent = functools.partial(self._count_sent, target)
                received = functools.partial(self._count_received, target)
                orderly = await relay.relay(client, upstream, idle_s, sent, received)
        finally:
            for one in (client, upstream):
                if one is not None:
                    one.close() if orderly else relay.reset(one)

    async def _affordable(self, target: _Target) -> bool:
        """May anything more be moved? Told when not."""
        if self._budget is None:
            return True
        why = _USED_UP
        try:
            if await self._budget.ready():
                return True
        except errors.Unavailable:
            why = "what the tenant has moved today can't be read"
        self._verdicts.tell(Reason.QUOTA, str(target), why=why)
        return False

    async def _reach(self, target: _Target) -> socket.socket | None:
        """A connection to one of the checked addresses; None when there is none, which is told."""
        reason = Reason.UNKNOWN
        try:
            async with asyncio.timeout(self._egress.connect_s):
                addresses = await self._addresses(target)
                for address in addresses:
                    refusal = self._egress.guard.refusal(address, trusted=self._trusted)
                    if refusal:
                        # One wrong address condemns the name: an honest one does not mix them.
                        self._verdicts.tell(Reason.NETWORK, str(target), verdicts.plain(address), refusal)
                        return None
                reason = Reason.UNREACHABLE
                made, address = await relay.dial(addresses, target.port)
        except (OSError, UnicodeError) as error:
            self._verdicts.tell(reason, str(target), why=verdicts.why(reason, error))
            return None
        self._verdicts.tell(Reason.ALLOWED, str(target), address)
        return made

    async def _addresses(self, target: _Target) -> list[str]:
        """What `target` leads to now. This list is what is checked and what is dialled."""
        if target.literal:
            return [target.host]
        pinned = self._egress.pins.get(target.host)
        if pinned is not None:
            return pinned
        return await self._lookups.addresses(target.host, target.port)

    def _count_sent(self, target: _Target, amount: int) -> float:
        wait = self._count(target, amount)
        self.sent += amount
        return wait

    def _count_received(self, target: _Target, amount: int) -> float:
        wait = self._count(target, amount)
        self.received += amount
        return wait

    def _count(self, target: _Target, amount: int) -> float:
        if self._budget is not None and not self._budget.spend(amount):
            self._verdicts.tell(Reason.QUOTA, str(target), why=_USED_UP)
            raise budget.UsedUp
        return self._bytes.take(max(amount, _LEAST_CHUNK))


def _pins(texts: Sequence[str]) -> dict[str, list[str]]:
    """What `egress.hosts` says; a name may have several addresses. Raises `errors.BadSettings`."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, address = text.partition("=")
        try:
            rule = rules.parse(f"{name}:{rules.DEFAULT_PORT}")
            plain = str(ipaddress.ip_address(address))
        except (errors.InvalidParams, ValueError) as error:
            raise errors.BadSettings(f"egress.hosts: {text[:300]!a} is not written as name=address.") from error
        if rule.wildcard or rule.literal:
            raise errors.BadSettings(f"egress.hosts: {text[:300]!a} gives an address to what is not one name.")
        found.setdefault(rule.host, []).append(plain)
    return found
