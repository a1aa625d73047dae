"""Sessions on record: whatever happens in whatever order, who finds which, and what is left in the store."""

import asyncio
import pathlib
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from contract import backends
from smcp.access import policy
from smcp.kernel import clock, ids
from support.sessions import ACME, IDLE_S, MAX_S, PEOPLE, SERVERS, TOUCH_S, World

T = TypeVar("T")


class Known(NamedTuple):
    """A session in the model."""

    who: policy.Principal
    server: ids.ServerName
    born: float
    used: float
    wrote: float
    """What is on record of `used`, at the least."""


class Machine(RuleBasedStateMachine):
    """Sessions opened, used, ended, expired and forgotten by crashes, beside a model that forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.directory.name)
        self.clock = clock.FrozenClock()
        self.live: dict[str, Known] = {}
        self.dead: set[str] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        async def opened() -> World:
            store = await backends.opened(self.path, self.clock)
            return World(store, self.clock)

        self.world = self.run(opened())

    def teardown(self) -> None:
        self.run(self.world.store.close())
        self.runner.close()
        self.directory.cleanup()

    def shown(self) -> list[str]:
        return [*self.live, *sorted(self.dead)]

    @rule(who=st.sampled_from(PEOPLE), server=st.sampled_from(SERVERS))
    def open(self, who: policy.Principal, server: ids.ServerName) -> None:
        made = self.run(self.world.open(who, server))
        now = self.clock.now()
        self.live[made.id] = Known(who, server, now, now, now)

    @precondition(lambda self: self.live or self.dead)
    @rule(data=st.data(), who=st.sampled_from(PEOPLE), server=st.sampled_from(SERVERS))
    def look(self, data: st.DataObject, who: policy.Principal, server: ids.ServerName) -> None:
        session_id = data.draw(st.sampled_from(self.shown()))
        known = self.live.get(session_id)
        if known is None or (known.who, known.server) != (who, server):
            assert self.run(self.world.found(who, server, session_id)) is None
        else:
            self.look_at_ones_own(session_id, known)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        session_id = data.draw(st.sampled_from(list(self.live)))
        self.look_at_ones_own(session_id, self.live[session_id])

    def look_at_ones_own(self, session_id: str, known: Known) -> None:
        found = self.run(self.world.found(known.who, known.server, session_id))
        now = self.clock.now()
        if now - known.born > MAX_S or now - known.used > IDLE_S:
            assert found is None
        elif now - known.wrote <= IDLE_S:
            assert found is not None
        if found is not None:
            assert (found.key, found.server) == ((known.who.tenant, known.who.id), known.server)
            self.live[session_id] = known._replace(used=now)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        session_id = data.draw(st.sampled_from(list(self.live)))
        known = self.live[session_id]
        found = self.run(self.world.found(known.who, known.server, session_id))
        if found is None:
            return  # its time is over; the next sweep, or the time to live, takes its record

        async def end() -> None:
            removed = self.world.table.end(found, "deleted")
            assert removed is not None
            await removed

        self.run(end())
        del self.live[session_id]
        self.dead.add(session_id)

    @rule(seconds=st.sampled_from([1.0, 70.0, 250.0, 390.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        async def swept() -> None:
            self.world.table.sweep()
            await self.world.kept.flush()

        self.run(swept())
        for session_id, known in self.live.items():
            if known.used - known.wrote >= TOUCH_S:
                self.live[session_id] = known._replace(wrote=known.used)

    @rule(who=st.sampled_from(PEOPLE))
    def revoke(self, who: policy.Principal) -> None:
        self.run(self.world.table.revoked(who.tenant, who.id))
        self._gone(lambda one: one.who == who)

    @rule(server=st.sampled_from(SERVERS))
    def stop(self, server: ids.ServerName) -> None:
        self.run(self.world.table.end_all(ACME, "stopped", server=server))
        self._gone(lambda one: one.who.tenant == ACME and one.server == server)

    def _gone(self, affected: Callable[[Known], bool]) -> None:
        for session_id in [one for one, known in self.live.items() if affected(known)]:
            del self.live[session_id]
            self.dead.add(session_id)

    @rule()
    def crash(self) -> None:
        """What was not written is lost; nothing that was told to a client may be."""
        self.world = World(self.world.store, self.clock)

    @rule()
    def stop_in_order(self) -> None:
        self.run(self.world.table.close())
        self.live = {one: known._replace(wrote=known.used) for one, known in self.live.items()}
        self.world = World(self.world.store, self.clock)

    @rule()
    def count(self) -> None:
        """No record outlives its session by more than two touches, and none is nobody's."""
        now = self.clock.now()
        most = sum(now - one.born <= MAX_S and now - one.used <= IDLE_S + 2 * TOUCH_S for one in self.live.values())
        assert self.run(self.world.rows()) <= most


TestSessions = pytest.mark.requirement("gateway:kept:model")(Machine.TestCase)
TestSessions.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
