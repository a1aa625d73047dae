"""Kept events: whatever breaks, each client sees each event once, in order, or is told that it can't."""

import asyncio
import pathlib
import shutil
import tempfile
import time
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, stateful
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smcp.gateway import living, replay, tracks
from smcp.kernel import clock, crypto, errors, ids, observe, settings
from smcp.runtime import budgets, calls
from smcp.stores import local
from smcp.stores import tenant as stores

ACME = ids.TenantId("acme")
LOG = observe.logger(settings.Log())


async def store_in(directory: pathlib.Path, **more: int) -> stores.Store:
    """The embedded store, with acme in it."""
    found = local.open_local(directory, settings.Settings(), clock.SystemClock())
    await found.start()
    await found.provision(ACME)
    if more:
        found.limit(lambda _: stores.Quota(more["quota"], 1000))
    return found


class Alone:
    """The table of one session, which never ends."""

    def now(self) -> float:
        return time.monotonic()

    def has(self, session: living.Session) -> bool:
        return True

    def lost(self, session: living.Session) -> None:
        """Its copy is gone."""

    def note(self, session: living.Session) -> None:
        """Its record is to be brought up to date."""


def session() -> living.Session:
    """A session that nobody looks after."""
    return living.Session(Alone(), (ACME, "key"), ids.ServerName("tool"), "name", "d-1", "2025-11-25", 0.0)


def call(id_: bytes = b"1") -> calls.Call:
    """A call in flight."""
    return calls.Call(asyncio.get_running_loop(), id_, "tools/call", 1000, 1 << 24, budgets.Budget(1 << 30))


class Got(NamedTuple):
    """What a client has: the id of its last event and all data so far."""

    id: str
    data: list[bytes]


async def read(events: replay.Events, track: tracks.Track, follower: tracks.Follower, got: Got) -> Got:
    """All that is there for a follower now, until the writer has nothing more."""
    data, last = list(got.data), got.id
    while True:
        while follower.waits():
            for item in await events.more(track, follower):
                follower.after = max(follower.after, item.position)
                if item.kind in (tracks.MESSAGE, tracks.ENDED):
                    data.append(item.data)
                    assert item.position
                if item.kind != tracks.OPEN:
                    last = events.id(track, item.position).decode()
        await events.settled()
        if not follower.waits():
            return Got(last, data)


class Client:
    """One stream as its client sees it."""

    def __init__(self, track: tracks.Track, made: calls.Call | None) -> None:
        self.number = 0
        self.track = track
        self.call = made
        self.follower: tracks.Follower | None = None
        self.got = Got("", [])
        self.said: list[bytes] = []
        """All that the hosted server said."""
        self.ended = False


class Streams(stateful.RuleBasedStateMachine):
    """Random events, ends, breaks, resumptions and crashes of the platform."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.clients: list[Client] = []
        self.session = session()
        self.run(self.start())

    def run(self, work: "asyncio.Future[None] | object") -> None:
        self.loop.run_until_complete(asyncio.wait_for(cast("asyncio.Future[None]", work), 60))

    async def start(self) -> None:
        self.store = await store_in(self.directory)
        self.replays = replay.Replays(self.store, LOG, session_bytes=1 << 26, kept_s=600.0)
        self.events = await self.replays.of(self.session)

    async def stop(self) -> None:
        await self.replays.close()
        await self.store.close()

    def teardown(self) -> None:
        self.run(self.stop())
        self.loop.close()
        shutil.rmtree(self.directory)

    @stateful.rule()
    def open(self) -> None:
        async def work() -> None:
            made = call()
            track = self.events.open(tracks.Asked(b"1", "tools/call"))
            client = Client(track, made)
            client.follower = tracks.Follower(behind=False)
            track.follow(client.follower)
            track.drive(made, None)
            client.got = await read(self.events, track, client.follower, client.got)
            client.number = track.number
            self.clients.append(client)

        self.run(work())

    @stateful.precondition(lambda self: self.clients)
    @stateful.rule(which=st.integers(0, 99), count=st.integers(1, 200), size=st.sampled_from([0, 10, 1000]))
    def say(self, which: int, count: int, size: int) -> None:
        async def work() -> None:
            client = self.clients[which % len(self.clients)]
            if client.ended or client.call is None:
                return
            for _ in range(count):
                data = b'{"n":%d,"pad":"%b"}' % (len(client.said), b"x" * size)
                client.said.append(data)
                client.call.push(data)

        self.run(work())

    @stateful.precondition(lambda self: self.clients)
    @stateful.rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        async def work() -> None:
            client = self.clients[which % len(self.clients)]
            if client.ended or client.call is None:
                return
            client.ended = True
            client.said.append(b'{"end":1}')
            client.call.finish(b'{"end":1}', None)

        self.run(work())

    @stateful.precondition(lambda self: self.clients)
    @stateful.rule(which=st.integers(0, 99))
    def read(self, which: int) -> None:
        async def work() -> None:
            client = self.clients[which % len(self.clients)]
            if client.follower is not None:
                client.got = await read(self.events, client.track, client.follower, client.got)
                assert client.got.data == client.said

        self.run(work())

    @stateful.precondition(lambda self: self.clients)
    @stateful.rule(which=st.integers(0, 99))
    def hang_up(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        if client.follower is not None:
            client.track.leave(client.follower)
            client.follower = None

    @stateful.precondition(lambda self: self.clients)
    @stateful.rule(which=st.integers(0, 99))
    def resume(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        client.track, after = self.events.find(client.got.id)
        assert client.track.number == client.number
        client.follower = tracks.Follower(after, behind=True)
        client.track.follow(client.follower)

    @stateful.rule()
    def crash(self) -> None:
        """What is on record is all that is left; what was not is what no client has seen."""

        async def work() -> None:
            await self.stop()
            await self.start()
            for client in self.clients:
                client.follower, client.call = None, None
                client.track, after = self.events.find(client.got.id)
                follower = tracks.Follower(after, behind=True)
                got = await read(self.events, client.track, follower, client.got)
                assert got.data == client.said[: len(got.data)]
                client.said = got.data
                assert client.track.done == (got.data[-1:] == [b'{"end":1}'])

        self.run(work())


_SLOW = [HealthCheck.too_slow]  # each step waits for a disk
Streams.TestCase.settings = hypothesis_settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=_SLOW
)


@pytest.mark.requirement("gateway:resume:once")
class TestStreams(Streams.TestCase):
    """Run by pytest."""


async def opened(events: replay.Events) -> tuple[tracks.Track, calls.Call]:
    """A stream with a call, on record, that nobody follows."""
    track, made = events.open(tracks.Asked(b"1", "tools/call")), call()
    track.drive(made, None)
    await events.settled()
    return track, made


class Disk:
    """Holds back the word that a write to the log is done, which it is."""

    def __init__(self, store: stores.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrote, self.may_say = asyncio.Event(), asyncio.Event()
        log = store.tenant(ACME).log
        append = log.append

        async def slow(*args: Any, **more: Any) -> int:
            last = await append(*args, **more)
            self.wrote.set()
            await self.may_say.wait()
            return last

        monkeypatch.setattr(log, "append", slow)


@pytest.mark.requirement("gateway:resume:once")
async def test_what_is_read_from_the_log_before_it_is_known_to_be_there_does_not_come_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await store_in(tmp_path)
    try:
        replays = replay.Replays(store, LOG, session_bytes=1 << 20, kept_s=600.0)
        events = await replays.of(session())
        track, talking = await opened(events)
        talking.push(b"1")
        await events.settled()
        follower = tracks.Follower(track.number, behind=True)
        track.follow(follower)
        disk = Disk(store, monkeypatch)
        talking.push(b"2")
        await disk.wrote.wait()
        items = await events.more(track, follower)
        follower.after = items[-1].position
        disk.may_say.set()
        await events.settled()
        while follower.waits():
            items += await events.more(track, follower)
        assert [item.data for item in items if item.kind == tracks.MESSAGE] == [b"1", b"2"]
        await replays.close()
    finally:
        await store.close()


@pytest.mark.requirement("gateway:resume:bounds")
async def test_a_session_that_ends_while_its_events_are_written_costs_its_tenant_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await store_in(tmp_path, quota=1_000_000)
    try:
        replays = replay.Replays(store, LOG, session_bytes=1 << 20, kept_s=600.0)
        made = session()
        events = await replays.of(made)
        _, talking = await opened(events)
        disk = Disk(store, monkeypatch)
        talking.push(b"x" * 500_000)
        await disk.wrote.wait()
        replays.forget(made, "deleted")
        disk.may_say.set()
        await replays.settled()
        assert await store.tenant(ACME).reserve(900_000)
    finally:
        await store.close()


@pytest.mark.requirement("gateway:resume:bounds")
async def test_the_oldest_events_go_and_who_wants_them_is_told(tmp_path: pathlib.Path) -> None:
    store = await store_in(tmp_path)
    try:
        replays = replay.Replays(store, LOG, session_bytes=1 << 18, kept_s=600.0)
        made = session()
        events = await replays.of(made)
        track, talking = await opened(events)
        quiet, waiting = await opened(events)
        first = events.id(track, track.number).decode()
        for number in range(2000):
            talking.push(b'{"n":%d}' % number)
            if number % 50 == 0:
                await events.settled()
        await events.settled()
        waiting.finish(b"{}", None)
        await events.settled()
        stream = (replay.PREFIX, made.name)
        kept = await store.tenant(ACME).log.read(stream)
        assert len(kept) <= (1 << 18) // 1024 + 4
        _, after = events.find(first)
        with pytest.raises(errors.StreamNotKept):
            await events.more(track, tracks.Follower(after, behind=True))
        # One that said little has lost nothing, and the other one is known for as long as it goes on.
        found, after = events.find(events.id(quiet, quiet.number).decode())
        assert found is quiet
        assert (await read(events, quiet, tracks.Follower(after, behind=True), Got("", []))).data == [b"{}"]
        await replays.close()
        again = replay.Replays(store, LOG, session_bytes=1 << 18, kept_s=600.0)
        events = await again.of(made)
        known = events.tracks[track.number]
        assert known.asked == tracks.Asked(b"1", "tools/call")
        assert not known.done
        await again.close()
    finally:
        await store.close()


@pytest.mark.requirement("gateway:resume:bounds")
async def test_events_count_against_the_quota_and_a_full_one_costs_the_ids_only(tmp_path: pathlib.Path) -> None:
    store = await store_in(tmp_path, quota=100_000)
    try:
        replays = replay.Replays(store, LOG, session_bytes=1 << 20, kept_s=600.0)
        made = session()
        events = await replays.of(made)
        track, talking = await opened(events)
        follower = tracks.Follower(behind=False)
        track.follow(follower)
        for number in range(30):
            talking.push(b'{"n":%d,"pad":"%b"}' % (number, b"x" * 5000))
        talking.finish(b"{}", None)
        await events.settled()
        items: list[tracks.Item] = []
        while follower.waits():
            items += await events.more(track, follower)
        assert len(items) == 31
        assert [item for item in items if item.position] == []
        assert not track.kept
        # What the session had is given back with it.
        assert await store.tenant(ACME).reserve(90_000) is True
        store.tenant(ACME).give_back(90_000)
        replays.forget(made, "deleted")
        await replays.settled()
        await replays.close()
        assert await store.tenant(ACME).log.streams((replay.PREFIX,)) == []
    finally:
        await store.close()


@pytest.mark.requirement("gateway:resume:foreign")
def test_an_id_is_one_of_its_session_only() -> None:
    one, two = crypto.Blocks(bytes(32)), crypto.Blocks(bytes(31) + b"x")
    sealed = one.seal(b"12345678")
    assert one.open(sealed) == b"12345678"
    assert two.open(sealed) is None
    assert one.open(sealed[:15]) is None
    assert len({one.seal(number.to_bytes(8, "big")) for number in range(1000)}) == 1000
    for bit in range(128):
        flipped = (int.from_bytes(sealed, "big") ^ (1 << bit)).to_bytes(16, "big")
        assert one.open(flipped) is None
