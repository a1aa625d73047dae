"""Sessions on record, case by case."""

import asyncio
import base64
import collections
import gc
import itertools
import math
import pathlib
import tracemalloc
from collections.abc import AsyncGenerator

import msgspec
import pytest

from contract import backends
from smcp.access import policy
from smcp.gateway import living
from smcp.kernel import clock, errors, ids, jsonrpc
from support.sessions import ACME, IDLE_S, PEOPLE, SERVERS, TOUCH_S, World

ANN, BOB, THEIRS = PEOPLE
FILES, TIME = SERVERS


@pytest.fixture
def now() -> clock.FrozenClock:
    return clock.FrozenClock()


@pytest.fixture
async def world(tmp_path: pathlib.Path, now: clock.FrozenClock) -> AsyncGenerator[World]:
    store = await backends.opened(tmp_path, now)
    yield World(store, now)
    await store.close()


def _message(method: str, **params: str) -> jsonrpc.Message:
    return jsonrpc.Message(jsonrpc.Kind.REQUEST, method, dict(params), b"1", jsonrpc.encode(params), b"")


@pytest.mark.requirement("gateway:kept:sealed")
async def test_neither_the_id_nor_what_the_client_said_is_in_a_file_of_the_store(
    tmp_path: pathlib.Path, world: World
) -> None:
    made = await world.open(ANN, FILES, b'{"clientInfo":{"name":"a-name-that-nobody-else-has"}}')
    made.noted(_message("resources/subscribe", uri="file:///a-place-that-nobody-else-has"))
    await world.kept.flush()
    written = b"".join(file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file())
    assert made.name.encode() in written  # or the next line would prove nothing
    assert made.id.encode() not in written
    assert base64.urlsafe_b64decode(made.id + "=") not in written
    assert b"nobody-else-has" not in written


@pytest.mark.requirement("gateway:kept:whole")
async def test_what_another_copy_must_be_told_is_on_record(world: World) -> None:
    made = await world.open(ANN, FILES, b'{"protocolVersion":"2025-11-25"}')
    made.greet()
    made.noted(_message("logging/setLevel", level="debug"))
    for uri in ("a:1", "a:2"):
        made.noted(_message("resources/subscribe", uri=uri))
    made.noted(_message("resources/unsubscribe", uri="a:1"))
    await world.kept.flush()
    found = await world.again().found(ANN, FILES, made.id)
    assert found is not None
    assert (found.hello, found.greeted, found.level) == (made.hello, True, "debug")
    assert (list(found.subscriptions), found.version, found.deployment) == (["a:2"], made.version, "dep-1")
    assert (found.born, found.bridged, found.recorded) == (made.born, False, True)


@pytest.mark.requirement("gateway:kept:bounded")
async def test_a_client_that_subscribes_to_everything_gives_up_its_replay_and_takes_no_more_room(world: World) -> None:
    made = await world.open(ANN, FILES)
    for number in range(1000):
        made.noted(_message("resources/subscribe", uri=f"a:{number}" * 20))
    await world.kept.flush()
    assert not made.replays
    [record] = (await world.kept.of(ACME)).values()
    assert (record.hello, record.subscriptions) == (b"", ())
    again = await world.again().found(ANN, FILES, made.id)
    assert again is not None
    assert again.hello == b""


@pytest.mark.requirement("gateway:kept:ends")
async def test_an_end_is_not_undone_by_what_was_still_to_be_written(world: World, now: clock.FrozenClock) -> None:
    made = await world.open(ANN, FILES)
    now.advance(TOUCH_S + 1)
    assert world.table.find(made.id, ANN, ACME, FILES) is made
    world.table.sweep()  # its last use is being written
    made.greet()
    world.table.end(made, "deleted")
    world.table.note(made)
    made.noted(_message("logging/setLevel", level="debug"))
    assert await world.rows() == 0
    assert world.told == [(made.name, "deleted")]


@pytest.mark.requirement("gateway:kept:drain")
async def test_a_session_whose_copy_started_while_another_deployment_went_live_has_no_more_time_than_the_others(
    world: World, now: clock.FrozenClock
) -> None:
    world.table.retire(ACME, FILES, "dep-2", 50.0)
    late = await world.open(ANN, FILES)  # of dep-1
    now.advance(51.0)
    assert world.table.find(late.id, ANN, ACME, FILES) is None
    world.table.retire(ACME, FILES, "dep-3", 0.0)
    with pytest.raises(errors.Unavailable, match="initialize again"):
        await world.open(ANN, FILES)
    world.table.sweep()
    assert await world.rows() == 0
    await world.table.end_all(ACME, "replaced", server=FILES)  # a rollback: what answers now is an earlier one
    assert (await world.open(ANN, FILES)).until == math.inf


@pytest.mark.requirement("gateway:kept:ends")
async def test_an_end_that_the_store_missed_is_told_and_made_up_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise errors.Unavailable

    first, second = await world.open(ANN, FILES), await world.open(BOB, FILES)
    with monkeypatch.context() as patch:
        patch.setattr(world.store.tenant(ACME).kv, "apply", away)
        removed = world.table.end(first, "deleted")
        assert removed is not None
        with pytest.raises(errors.Unavailable):
            await removed
        with pytest.raises(errors.Unavailable):
            await world.table.end_all(ACME, "stopped", server=FILES)
    assert second.over
    assert await world.rows() == 2  # a restart would bring both back
    world.table.sweep()
    assert await world.rows() == 0


@pytest.mark.requirement("gateway:kept:ends")
async def test_sessions_that_nobody_ends_leave_no_row(
    world: World, now: clock.FrozenClock, tmp_path: pathlib.Path
) -> None:
    for _ in range(50):
        await world.open(ANN, FILES)
    before = (await world.store.tenant(ACME).usage()).keys
    now.advance(IDLE_S + 1)
    world.table.sweep()
    assert await world.rows() == 0
    assert (await world.store.tenant(ACME).usage()).keys == before - 50
    assert len(world.table) == 0
    # Also when nobody was there to end them.
    for _ in range(50):
        await world.open(ANN, FILES)
    later = world.again()
    now.advance(IDLE_S + 2 * TOUCH_S + 1)
    assert await later.rows() == 0


@pytest.mark.requirement("gateway:kept:cap")
async def test_the_cap_holds_and_is_told_across_a_restart(world: World, now: clock.FrozenClock) -> None:
    opened: list[living.Session] = []
    for _ in range(3):
        opened.append(await world.open(ANN, FILES))
        now.advance(1)
    await world.open(BOB, FILES)
    later = world.again(most=3)
    assert await later.table.most(ACME) == 3
    newest = await later.open(ANN, TIME)
    assert await later.table.most(ACME) == 3
    assert later.told == [(opened[0].name, "replaced")]
    assert await later.found(ANN, FILES, opened[0].id) is None
    for one in opened[1:]:
        assert await later.found(ANN, FILES, one.id) is not None
    assert await later.found(ANN, TIME, newest.id) is newest
    assert await later.rows() == 4


@pytest.mark.requirement("gateway:kept:quiet")
async def test_neither_a_request_nor_an_invented_id_touches_the_store(world: World) -> None:
    made = await world.open(ANN, FILES)
    later = world.again()
    assert await later.found(ANN, FILES, made.id) is not None
    before = collections.Counter(world.store.counts.calls)
    for _ in range(500):
        assert await later.found(ANN, FILES, ids.token()) is None
        assert await later.found(ANN, FILES, made.id) is not None
    assert collections.Counter(world.store.counts.calls) == before


@pytest.mark.requirement("gateway:kept:bound")
async def test_a_session_on_record_is_there_for_its_principal_at_its_server_only(world: World) -> None:
    # CVE-2026-52869, agentgateway GHSA-mvgg-jvj2-4frq
    made = await world.open(ANN, FILES)
    for first in (world, world.again()):
        assert await first.found(BOB, FILES, made.id) is None
        assert await first.found(ANN, TIME, made.id) is None
        assert await first.found(THEIRS, FILES, made.id) is None
        assert await first.found(THEIRS, FILES, made.id, ACME) is None
        assert await first.found(ANN, FILES, made.id, THEIRS.tenant) is None
        assert await first.found(ANN, FILES, made.id.lower()) is None
        assert await first.found(ANN, FILES, made.name) is None
        assert await first.found(ANN, FILES, made.id) is not None


@pytest.mark.requirement("gateway:kept:drain")
async def test_a_session_of_an_earlier_deployment_ends_when_its_time_is_over_also_after_a_restart(
    world: World, now: clock.FrozenClock
) -> None:
    made, moves = await world.open(ANN, FILES), await world.open(ANN, FILES)
    moves.bridged = True
    elsewhere = await world.open(ANN, TIME)
    world.table.retire(ACME, FILES, "dep-2", 100.0)
    await world.kept.flush()
    now.advance(60)
    world.table.retire(ACME, FILES, "dep-3", 100.0)  # no later end for what ends already
    await world.kept.flush()
    later = world.again()
    assert await later.found(ANN, FILES, made.id) is not None
    now.advance(41)
    assert await later.found(ANN, FILES, made.id) is None
    for one in (moves, elsewhere):
        assert await later.found(ANN, one.server, one.id) is not None
    later.table.sweep()
    assert later.told == [(made.name, "replaced")]
    assert await later.rows() == 2


@pytest.mark.requirement("gateway:kept:full")
async def test_where_the_storage_is_full_sessions_are_opened_all_the_same(
    tmp_path: pathlib.Path, now: clock.FrozenClock
) -> None:
    store = await backends.opened(tmp_path, now, quota_keys=2)
    world = World(store, now)
    made = [await world.open(ANN, FILES) for _ in range(4)]
    assert [one.recorded for one in made] == [True, True, False, False]
    for one in made:
        assert await world.found(ANN, FILES, one.id) is one
    assert await world.rows() == 2
    # One that does not fit keeps none of the same transaction from being written.
    world.table.end(made[0], "deleted")
    more = await asyncio.gather(*(world.open(BOB, FILES) for _ in range(3)))
    assert sum(one.recorded for one in more) == 1
    assert await world.rows() == 2
    await store.close()


@pytest.mark.requirement("gateway:kept:away")
async def test_without_its_record_no_session_is_opened(tmp_path: pathlib.Path, now: clock.FrozenClock) -> None:
    store = await backends.opened(tmp_path, now)
    world = World(store, now)
    await world.table.load((ACME, ANN.id))
    await store.close()
    with pytest.raises(errors.Unavailable):
        await world.open(ANN, FILES)
    assert len(world.table) == 0
    with pytest.raises(errors.Unavailable):
        await world.found(BOB, FILES, "x")


@pytest.mark.requirement("gateway:sessions:unguessable")
async def test_thousands_of_ids_show_no_pattern(world: World) -> None:
    # CVE-2025-6515
    await world.table.load((ACME, ANN.id))
    made = [world.table.open(ANN, FILES, "dep-1", None, "").id for _ in range(4000)]
    raws = [base64.urlsafe_b64decode(one + "=" * (-len(one) % 4)) for one in made]
    assert len(set(raws)) == 4000
    assert {len(raw) * 8 for raw in raws} == {256}
    # Six standard deviations of fair coins: fails for fair ids once in two million runs over all 512 tests.
    within = 6 * (4000 / 4) ** 0.5
    for bit in range(256):
        ones = [int.from_bytes(raw, "big") >> bit & 1 for raw in raws]
        assert abs(sum(ones) - 2000) < within
        # Neither does a bit tell the same bit of the next id.
        assert abs(sum(a ^ b for a, b in itertools.pairwise(ones)) - 2000) < within


@pytest.mark.requirement("gateway:kept:memory")
async def test_a_session_takes_less_than_eight_kilobytes(world: World) -> None:
    hello = b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"client","version":"1"}}'
    await world.table.load((ACME, ANN.id))

    def opened() -> None:
        for number in range(1000):
            one = world.table.open(ANN, FILES, "dep-1", None, "2025-11-25")
            one.hello = hello + b" " * (number % 7)

    opened()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    opened()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (after - before) / 1000 < 8192


@pytest.mark.requirement("gateway:kept:memory")
@pytest.mark.timeout(600)
async def test_principals_that_come_once_take_no_memory_for_ever_and_none_of_their_sessions_is_forgotten(
    world: World,
) -> None:
    stays = await world.open(ANN, FILES)

    async def come(principal: str) -> None:
        who = policy.Principal(ACME, principal, "api_key", (policy.Role.MCP_USER,), "")
        world.table.end(await world.open(who, FILES), "deleted")

    await come("0")
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1, 8000):
        await come(str(number))
    await world.kept.flush()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 2_097_152
    assert await world.found(ANN, FILES, stays.id) is stays


@pytest.mark.requirement("oauth:sessions:revoked")
async def test_what_a_client_has_opened_ends_with_the_client_and_nothing_else_does(world: World) -> None:
    """Attack: a session outlives the client that opened it; also one that was on record only."""
    client = "https://app.example/client"
    for_ann, for_bob = (msgspec.structs.replace(one, client=client) for one in (ANN, BOB))
    opened = [await world.open(one, FILES) for one in (for_ann, for_bob)]
    own, other = await world.open(ANN, TIME), await world.open(msgspec.structs.replace(BOB, client="c-2"), TIME)
    await world.kept.flush()
    again = world.again()
    await again.table.client_revoked(ACME, client)
    for one, session in zip((for_ann, for_bob), opened, strict=True):
        assert await again.found(one, FILES, session.id) is None
    assert await again.found(ANN, TIME, own.id) is not None
    assert await again.found(BOB, TIME, other.id) is not None
    assert await again.rows() == 2
    await again.table.revoked(ACME, BOB.id)
    assert await again.found(BOB, TIME, other.id) is None
