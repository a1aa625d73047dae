"""The workerd driver: an instance is a conversation with one isolate, in a process that its tenant's Workers share."""

import asyncio
import functools
import hashlib
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime import budgets, driver
from smcp.runtime.drivers import conversation, stdio
from smcp.runtime.drivers.workerd import config, generation, rooms
from smcp.sandbox.volumes import keeper
from smcp.stores import decided
from smcp.upstream import mirrors, places, transport

_SERVICES: Final = 32
ANSWER_S: Final = 10.0
"""Seconds of computing without a pause, after which a process is ended. All Workers of the tenant wait meanwhile."""
_DURABLE: Final = keeper.VolumeSpec(config.DATA, 67_108_864)
"""What Durable Objects are kept in, where the manifest asks for no volume."""


class Found(NamedTuple):
    """A server that another one binds as a service."""

    spec: driver.Spec
    """With its secrets."""
    lines: driver.Lines


Peers = Callable[[ids.TenantId, ids.ServerName], Awaitable[Found]]
"""Finds what is live of a tenant's server. Raises `errors.NotFound`, `errors.ServerStopped` and what the start of one
raises."""


class Use:
    """One conversation's use of a Worker, and of those that this one binds as services. A `conversation.Way`."""

    def __init__(self, member: rooms.Member, needs: Sequence[rooms.Member]) -> None:
        self._member = member
        self._needs = needs
        self._entered = 0

    @property
    def held(self) -> bool:
        """Is there a conversation, or the start of one?"""
        return self._entered > 0

    @property
    def whose(self) -> tuple[ids.TenantId, ids.ServerName]:
        """The server whose Worker is spoken to."""
        return self._member.spec.tenant, self._member.spec.server

    def reaches(self, server: ids.ServerName) -> bool:
        """Does it bind this server of its tenant, itself or through another?"""
        return any(one.spec.server == server for one in self._needs)

    @property
    def http(self) -> transport.Client:
        """Carries messages to the first one."""
        return self._member.line

    def enter(self) -> None:
        """It begins."""
        self._entered += 1
        for one in (self._member, *self._needs):
            one.enter()

    async def leave(self) -> None:
        """It is over."""
        self._entered -= 1
        for one in (*self._needs, self._member):
            await one.leave()


class WorkerdDriver(driver.Driver):
    """Starts conversations with isolates, and the processes that these are in."""

    def __init__(
        self,
        means: generation.Means,
        limits: driver.Limits,
        volumes: keeper.Volumes | None = None,
        checked: stdio.Checked | None = None,
        *,
        drain_s: float = 60.0,
    ) -> None:
        """`drain_s` bounds how long a process that was replaced waits for its last answer."""
        self._means = means
        self._limits = limits
        self._volumes = volumes
        self._checked = checked
        self._drain_s = drain_s
        self.sampled: generation.Shared | None = None
        """Hears of each process: set by whoever composes."""
        self.peers: Peers | None = None
        """Set by whoever composes; without it no Worker may bind another."""
        self._rooms: dict[tuple[object, ...], rooms.Room] = {}
        self._instances: set[conversation.Conversation] = set()
        self._uses: weakref.WeakSet[Use] = weakref.WeakSet()
        self._mirrors: weakref.WeakValueDictionary[tuple[object, ...], mirrors.Mirrors] = weakref.WeakValueDictionary()
        self._budgets: weakref.WeakValueDictionary[ids.TenantId, budgets.Budget] = weakref.WeakValueDictionary()
        self._closed = False

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        """A conversation with an isolate that answers.

        Raises `errors.ServerFailed` or `errors.ServerTimeout` when it does not start, `errors.SandboxMissing`,
        `errors.SecretMissing`, and `errors.ServerStopped` while a server that it binds is stopped.
        """
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        if spec.worker is None:
            raise errors.ServerFailed("The deployment is no Worker.")
        generation.check(spec)
        needs = await self._needs(spec)
        room, member = self._place(spec, len(needs))
        use = Use(member, [self._joined(room, one) for one in needs])
        self._uses.add(use)
        use.enter()
        member.lines.append(lines)
        try:
            with member.starting():
                await room.settle(member)
            made = conversation.Conversation(
                self._limits,
                lines,
                functools.partial(self._gone, member, lines),
                use,
                modern=modern,
                budget=self._budget(spec.tenant),
                checked=None if self._checked is None else functools.partial(self._checked, spec, modern=modern),
            )
        except BaseException:
            member.lines.remove(lines)
            await decided.decided(use.leave())
            raise
        made.choose("streamable", places.Place("http", "localhost", 80, spec.worker.path), self._known(spec))
        self._instances.add(made)
        member.serves(made)
        await use.leave()  # the conversation is in
        if self._closed or member.failed:
            await made.stop("the platform stops")
            raise errors.Unavailable("The platform is stopping.")
        return made

    def binders(self, tenant: ids.TenantId, server: ids.ServerName) -> set[ids.ServerName]:
        """The tenant's servers whose Workers are spoken to and reach `server` by service bindings.

        What they were given of it at their start they keep: who stops or changes it has to end them, too.
        """
        return {use.whose[1] for use in self._uses if use.held and use.whose[0] == tenant and use.reaches(server)}

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(one.stop("the platform stops") for one in list(self._instances)))
        await asyncio.gather(*(room.close() for room in list(self._rooms.values())))

    def _place(self, spec: driver.Spec, more: int) -> tuple[rooms.Room, rooms.Member]:
        """Where it lives."""
        key = _identity(spec)
        for name in [name for name, room in self._rooms.items() if room.empty]:
            del self._rooms[name]
        number = 0
        while True:
            name = (*process(spec), number)
            room = self._rooms.get(name)
            if room is None:
                room = self._rooms[name] = rooms.Room(
                    self._means,
                    spec.tenant,
                    self._volume if self._volumes is not None and _volume(spec) is not None else None,
                    drain_s=self._drain_s,
                    sampled=self.sampled,
                )
            if room.room_for(key, more):
                member = room.member(key, spec)
                member.ended = functools.partial(_ended, member)
                return room, member
            number += 1

    @staticmethod
    def _joined(room: rooms.Room, found: Found) -> rooms.Member:
        """A service, in the room of who binds it."""
        member = room.member(_identity(found.spec), found.spec)
        member.ended = functools.partial(_ended, member)
        if not member.lines:
            member.lines.append(found.lines)
        return member

    async def _needs(self, spec: driver.Spec) -> list[Found]:
        """Who is bound as a service, directly or by another that is. Raises what `_peer` raises."""
        found: dict[ids.ServerName, Found] = {}
        waiting = [spec]
        while waiting:
            one = waiting.pop()
            assert one.worker is not None
            for service in one.worker.services:
                if service.server in (spec.server, *found):
                    continue
                if len(found) >= _SERVICES:
                    raise errors.ServerFailed(f"A Worker reaches at most {_SERVICES} others by service bindings.")
                made = found[service.server] = await self._peer(one, service.server)
                waiting.append(made.spec)
        return list(found.values())

    async def _peer(self, spec: driver.Spec, server: ids.ServerName) -> Found:
        """Raises `errors.ServerFailed` and `errors.ServerStopped`."""
        who = f"The server {spec.server} binds the server {server}"
        if self.peers is None:
            raise errors.ServerFailed(f"{who}, and no server is known here.")
        try:
            found = await self.peers(spec.tenant, server)
        except errors.ServerStopped as error:
            # Nothing crashed, so nothing counts as a crash: the next start may come when that one has been started.
            raise errors.ServerStopped(f"{who}, which is stopped. 'smcp server start' starts it.") from error
        except errors.NotFound as error:
            raise errors.ServerFailed(f"{who}, which can't be had: {error.public}") from error
        if found.spec.tenant != spec.tenant or found.spec.worker is None:
            raise errors.ServerFailed(f"{who}, which is no Worker.")
        if found.spec.worker.durables or found.spec.volume is not None:
            raise errors.ServerFailed(
                f"{who}, whose Durable Objects are in a process of their own: call it as a server."
            )
        return found

    async def _volume(self, member: rooms.Member) -> keeper.Hold:
        wanted = _volume(member.spec)
        assert self._volumes is not None
        assert wanted is not None
        return await self._volumes.acquire(member.spec.tenant, member.spec.server, wanted, member.say)

    def _gone(self, member: rooms.Member, lines: driver.Lines, made: conversation.Conversation) -> None:
        self._instances.discard(made)
        member.instances.discard(made)
        if lines in member.lines:
            member.lines.remove(lines)

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


def _shares(spec: driver.Spec) -> bool:
    """Does this Worker live in the process of its tenant's other Workers?"""
    worker = spec.worker
    assert worker is not None
    return not (worker.alone or worker.durables or spec.volume is not None or spec.trial)


def process(spec: driver.Spec) -> tuple[object, ...]:
    """The same for all Workers that live in one process: what their room is called."""
    if spec.trial:
        return (spec.tenant, spec.server, spec.deployment)
    return (spec.tenant,) if _shares(spec) else (spec.tenant, spec.server)


def _volume(spec: driver.Spec) -> keeper.VolumeSpec | None:
    wanted = spec.volume
    if wanted is None and spec.worker is not None and spec.worker.durables:
        wanted = msgspec.structs.replace(_DURABLE, scratch=spec.trial)
    return None if wanted is None else msgspec.structs.replace(wanted, path=config.DATA)


def _identity(spec: driver.Spec) -> tuple[object, ...]:
    """What has to be the same for two to be one Worker. Secrets are compared by their digest."""
    digest = hashlib.sha256(msgspec.json.encode((spec.worker, spec.env, spec.egress, spec.secrets))).digest()
    return (spec.server, spec.deployment, digest)


def _ended(member: rooms.Member, failure: errors.SmcpError) -> None:
    for instance in list(member.instances):
        if isinstance(instance, conversation.Conversation):
            instance.gone(failure)
