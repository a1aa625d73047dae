"""A room: who lives in one process, through all its generations.

A tenant's Workers share a room. One with Durable Objects, one that asks for it, and one that is only tried out has a
room of its own. Who comes joins the next generation, and is let in when that one answers; who has left is not in it.
A room that is left by the last one has no process.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.runtime.drivers.workerd import generation
from smcp.sandbox.volumes import keeper
from smcp.stores import decided
from smcp.upstream import connection, places, transport

_TIDY_S: Final = 5.0
"""Seconds for which a Worker that was left stays in a process that others use: those who leave together go together."""
_AGAIN: Final = "A new process takes over. Listen again."


Volume = Callable[["Member"], Coroutine[None, None, keeper.Hold]]
"""Opens what a room's one member keeps."""


class Member:
    """A Worker that lives in a room: one deployment with one environment."""

    def __init__(self, room: "Room", number: int, spec: driver.Spec) -> None:
        self.number = number
        self.spec = spec
        self.failed = ""
        """Why it does not start."""
        self.proven = False
        """It has been in a process that answered."""
        self.users = 0
        self._starting = 0
        self._served = False
        self.instances: set[driver.Instance] = set()
        self.ended: Callable[[errors.SmcpError], None] = _nobody
        """Hears that it is gone, with all that it was asked."""
        self.lines: list[driver.Lines] = []
        """Of those who use it: one of them is enough."""
        self.line = Line(room, self)
        self._room = room

    def enter(self) -> None:
        """One more uses it."""
        self.users += 1

    async def leave(self) -> None:
        """One less."""
        self.users -= 1
        if not self.users:
            await self._room.left(self)

    @contextlib.contextmanager
    def starting(self) -> Generator[None]:
        """Around a start of it as a server. Where all that it served before has ended it gets another isolate, though
        the one that it had is still there: for who binds it, or because its last conversation is not over yet."""
        if self._served and not self._starting and not any(one.alive for one in self.instances):
            self._served = False
            self.number = self._room.number()
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def serves(self, instance: driver.Instance) -> None:
        """A conversation with it has begun."""
        self.instances.add(instance)
        self._served = True

    def say(self, text: str) -> None:
        """A line for its server's log."""
        if self.lines:
            self.lines[-1](text)


class Line(transport.Client):
    """Requests to one Worker, whichever generation it is in."""

    who = connection.WHO

    def __init__(self, room: "Room", member: Member) -> None:
        self._room = room
        self._member = member

    def send(
        self,
        method: str,
        place: places.Place,
        fields: transport.Fields,
        body: bytes = b"",
        *,
        silence_s: float = transport.SILENCE_S,
        lasting: bool = False,
    ) -> "_Sending":
        return _Sending(self._room, self._member, (method, place, fields, body), silence_s, lasting=lasting)

    def begin(
        self,
        method: str,
        place: places.Place,
        fields: transport.Fields,
        body: bytes,
        told: Callable[[], None],
        *,
        silence_s: float = transport.SILENCE_S,
    ) -> "_Begun | None":
        seat = self._room.seat(self._member)
        begun = None if seat is None else seat.client.begin(method, place, fields, body, told, silence_s=silence_s)
        return None if seat is None or begun is None else _Begun(seat, begun)

    async def close(self) -> None:
        """Nothing of its own to close: connections are a generation's."""


class _Begun(transport.Begun):
    """A request that was sent without waiting: its generation does not end before it is answered."""

    def __init__(self, seat: generation.Seat, inner: transport.Begun) -> None:
        self._seat: generation.Seat | None = seat
        self._inner = inner
        seat.entered()

    def whole(self) -> transport.Answer | None:
        return self._inner.whole()

    def close(self) -> None:
        self._inner.close()
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.left()

    async def __aenter__(self) -> transport.Answer:
        try:
            return await self._inner.__aenter__()
        except BaseException as error:
            await _explained(self._seat, error)
            raise

    async def __aexit__(self, *raised: Any) -> None:
        await self._inner.__aexit__(*raised)
        await _explained(self._seat, raised[1])


class _Sending(contextlib.AbstractAsyncContextManager[transport.Answer, None]):
    """A request that may have to wait for its server; then as `_Begun`."""

    def __init__(
        self,
        room: "Room",
        member: Member,
        request: tuple[str, places.Place, transport.Fields, bytes],
        silence_s: float,
        *,
        lasting: bool,
    ) -> None:
        self._room = room
        self._member = member
        self._request = request
        self._silence_s = silence_s
        self._lasting = lasting
        self._seat: generation.Seat | None = None

    async def __aenter__(self) -> transport.Answer:
        seat = self._room.seat(self._member) or await self._room.wait(self._member)
        if self._lasting:
            self._inner = seat.streams.send(*self._request, silence_s=self._silence_s, lasting=True)
            return await self._inner.__aenter__()
        self._seat = seat
        seat.entered()
        try:
            self._inner = seat.client.send(*self._request, silence_s=self._silence_s)
            return await self._inner.__aenter__()
        except BaseException as error:
            await self._over(error)
            raise

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._inner.__aexit__(*raised)
        finally:
            await self._over(raised[1])

    async def _over(self, error: BaseException | None) -> None:
        seat, self._seat = self._seat, None
        try:
            await _explained(seat, error)
        finally:
            if seat is not None:
                seat.left()


async def _explained(seat: generation.Seat | None, error: BaseException | None) -> None:
    """A connection breaks a moment before its process is told to be gone; and that end says why."""
    if isinstance(error, errors.ServerFailed) and seat is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seat.gone_s):
                await seat.ended.wait()


class Room:
    """Members, and the generation that answers for them."""

    def __init__(
        self,
        means: generation.Means,
        tenant: ids.TenantId,
        volume: Volume | None,
        *,
        drain_s: float,
        sampled: generation.Shared | None = None,
    ) -> None:
        """`volume` opens what its one member keeps: no two processes have it at the same time, and no two deployments.
        `drain_s` bounds how long an older generation waits for its last answer."""
        self._means = means
        self._tenant = tenant
        self._volume = volume
        self._drain_s = drain_s
        self._sampled = sampled
        self._members: dict[tuple[object, ...], Member] = {}
        self._numbers = 0
        self._lock = asyncio.Lock()
        self._current: generation.Generation | None = None
        self._all: set[generation.Generation] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tidying: asyncio.TimerHandle | None = None
        self._uid: tuple[int | None] | None = None

    # --- who lives here ---

    @property
    def empty(self) -> bool:
        """Nobody lives here, and nothing runs."""
        return not (self._members or self._all or self._tasks or self._lock.locked())

    def room_for(self, key: tuple[object, ...], more: int = 0) -> bool:
        """May this one live here, too, with `more` others?"""
        return key in self._members or len(self._members) + more < generation.MOST

    def member(self, key: tuple[object, ...], spec: driver.Spec) -> Member:
        """Who lives here as `key`; a new one if need be. The caller enters it at once, and leaves it in the end."""
        found = self._members.get(key)
        if found is None or found.failed:
            found = self._members[key] = Member(self, self.number(), spec)
        return found

    def number(self) -> int:
        """A number that no isolate of this room has had."""
        self._numbers += 1
        return self._numbers

    async def left(self, member: Member) -> None:
        """Nobody uses it any more. Returns when its process is gone, if nobody else is in there."""
        for key, one in list(self._members.items()):
            if one is member:
                del self._members[key]
        if not self._members:
            await self._close("idle")
        elif self._tidying is None:
            loop = asyncio.get_running_loop()
            self._tidying = loop.call_later(_TIDY_S, lambda: self._background(self._tidy()))

    async def close(self) -> None:
        """End everything."""
        self._members.clear()
        await self._close("the platform stops")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close(self, reason: str) -> None:
        async with self._lock:
            if self._members:
                return  # somebody has come meanwhile
            if self._tidying is not None:
                self._tidying.cancel()
                self._tidying = None
            self._current = None
            await asyncio.gather(*(self._end(one, reason) for one in list(self._all)))

    async def _tidy(self) -> None:
        """Who has left goes, with what it had in memory."""
        self._tidying = None
        with contextlib.suppress(errors.SmcpError):
            async with self._lock:
                # Somebody may have come meanwhile: then they are gone already.
                here = {one.number for one in self._members.values()}
                current = self._current
                if here and current is not None and current.alive and not here.issuperset(current.seats):
                    await self._next()

    # --- who answers ---

    def seat(self, member: Member) -> generation.Seat | None:
        """Where it is answered from: the hot path, without an await."""
        current = self._current
        if current is None or not current.alive:
            return None
        if current.hold is not None:
            current.hold.active = True
        return current.seats.get(member.number)

    async def wait(self, member: Member) -> generation.Seat:
        """As `seat`, once there is one. Raises `errors.ServerFailed`."""
        async with self._lock:
            seat = self.seat(member)
        if seat is None:
            raise errors.ServerFailed("The hosted server has ended.")
        return seat

    async def settle(self, member: Member) -> None:
        """Return when `member` is in a generation that answers.

        Raises `errors.ServerFailed` or `errors.ServerTimeout` when it does not start, and what starts of cells raise.
        """
        async with self._lock:
            while self.seat(member) is None:
                if member.failed:
                    raise errors.ServerFailed(f"The Worker does not start: {member.failed}", detail=member.failed)
                await self._next()

    async def _next(self) -> None:
        """Another generation, of all who live here now. With one more try for those who don't keep others from
        starting. The lock is held."""
        members = [one for one in self._members.values() if not one.failed]
        if not members:
            return
        older = members[:-1] if self._volume is not None else []
        members = members[len(older) :]
        hold = await self._volume(members[0]) if self._volume is not None else None
        try:
            if hold is not None and self._current is not None:
                old, self._current = self._current, None
                await self._retired(old)
            for one in older:
                one.failed = "another deployment has taken over"
                one.ended(errors.Unavailable("Another deployment of the server has taken over. Retry."))
            made = generation.Generation(self._means, self._tenant, members, self._gone)
        except BaseException:
            if hold is not None:
                hold.release()
            raise
        made.hold = hold
        # As they are called now: who is stopped and started again meanwhile is called otherwise.
        services = _services(members)
        self._all.add(made)
        try:
            if self._uid is None:
                self._uid = (await self._means.launcher.identify(self._tenant),)
            await made.begin(services, self._uid[0], self._sampled)
        except errors.SmcpError as error:
            await decided.decided(self._end(made, "it did not start"))
            self._blame(made, members, error)
            return
        except BaseException:
            await decided.decided(self._end(made, "nobody waits for it any more"))
            raise
        for one in members:
            one.proven = True
        old, self._current = self._current, made
        if old is not None:
            self._background(self._retired(old))

    def _blame(self, made: generation.Generation, members: list[Member], error: errors.SmcpError) -> None:
        """Who kept the others from starting is left out the next time. Raises `error` where nobody is to blame."""
        failed = {id(made.occupants[number]): why for number, why in made.failed.items() if number in made.occupants}
        found = [one for one in members if id(one) in failed]
        if not found and isinstance(error, errors.ServerFailed | errors.ServerTimeout):
            # Nothing says whose fault it is: theirs who were never seen to start.
            found = [one for one in members if not one.proven]
        if not found:
            raise error
        for one in found:
            one.failed = failed.get(id(one)) or error.detail or error.public
            one.ended(errors.ServerFailed(f"The Worker does not start: {one.failed}", detail=one.failed))

    async def _retired(self, old: generation.Generation) -> None:
        """Let it answer what it was asked, and end it."""
        for member in self._members.values():
            for instance in member.instances:
                instance.calls.end_listening(errors.Unavailable(_AGAIN))
        await old.drain(self._drain_s)
        await self._end(old, "another process has taken over")

    async def _end(self, one: generation.Generation, reason: str) -> None:
        await one.stop(reason)
        self._all.discard(one)

    def _gone(self, ended: generation.Generation) -> None:
        """Its process is gone, however that came."""
        if ended is not self._current:
            return
        self._current = None
        failure = errors.ServerFailed(
            f"The hosted server ended before it answered: {ended.process.reason}.", detail=ended.process.reason
        )
        for member in self._members.values():
            member.ended(failure)
        self._background(self._end(ended, ended.process.reason))

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _services(members: list[Member]) -> dict[int, dict[str, int]]:
    """Whom each one's services are, by binding: of two deployments of a server the later one."""
    there = {one.spec.server: one.number for one in members}
    found: dict[int, dict[str, int]] = {}
    for one in members:
        mine = {**there, one.spec.server: one.number}
        services = one.spec.worker.services if one.spec.worker is not None else ()
        found[one.number] = {each.binding: mine[each.server] for each in services if each.server in mine}
    return found


def _nobody(_failure: errors.SmcpError) -> None:
    pass
