"""Whose start comes next: order and bounds, for every order of events that hypothesis finds."""

import asyncio
import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import errors, ids
from smcp.runtime import turns

_FLOOD, _OTHER = ids.TenantId("flood"), ids.TenantId("other")


async def _started(lane: turns.Turns, order: list[str], tenant: ids.TenantId, *, spare: bool = False) -> turns.Turn:
    turn = await lane.take(tenant, spare=spare)
    order.append(tenant)
    return turn


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.requirement("runtime:pool:fair")
async def test_a_flood_of_one_tenants_starts_leaves_a_turn_to_every_other_tenant_at_once() -> None:
    lane = turns.Turns(4)
    order: list[str] = []
    flood = [asyncio.create_task(_started(lane, order, _FLOOD)) for _ in range(200)]
    await _settle()
    assert order == [_FLOOD] * 3
    mine = asyncio.create_task(_started(lane, order, _OTHER))
    await _settle()
    assert order == [_FLOOD] * 3 + [_OTHER]
    for task in (*flood, mine):
        task.cancel()
    await asyncio.gather(*flood, mine, return_exceptions=True)


@pytest.mark.requirement("runtime:pool:fair")
async def test_tenants_that_wait_get_turns_in_rotation_whoever_asked_more_often() -> None:
    lane = turns.Turns(2)
    order: list[str] = []
    tenants = [ids.TenantId(f"t{number}") for number in range(3)]
    tasks = [asyncio.create_task(_started(lane, order, tenants[0])) for _ in range(50)]
    await _settle()
    for tenant in tenants[1:]:
        tasks += [asyncio.create_task(_started(lane, order, tenant)) for _ in range(4)]
    await _settle()
    for _ in range(12):
        done = [task for task in tasks if task.done() and not task.cancelled()]
        tasks = [task for task in tasks if task not in done]
        for task in done:
            task.result().end()
        await _settle()
    # From the moment all three wait, nobody is passed over for more than one round of the others.
    waits = order[order.index("t1") :]
    assert all(set(waits[at : at + 5]) >= {"t1", "t2"} for at in range(5))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.requirement("runtime:pool:fair")
async def test_spares_wait_for_everybody_and_never_have_all_turns() -> None:
    lane = turns.Turns(3)
    order: list[str] = []
    spares = [asyncio.create_task(_started(lane, order, ids.TenantId(f"s{n}"), spare=True)) for n in range(5)]
    await _settle()
    assert len(order) == 2
    asked = [asyncio.create_task(_started(lane, order, _OTHER)) for _ in range(3)]
    await _settle()
    assert order[2:] == [_OTHER]
    for turn in [task.result() for task in (*spares, *asked) if task.done()]:
        turn.end()
    await _settle()
    assert order[3:5] == [_OTHER] * 2
    for task in (*spares, *asked):
        task.cancel()
    await asyncio.gather(*spares, *asked, return_exceptions=True)


@pytest.mark.requirement("runtime:pool:fair")
async def test_the_queue_of_one_tenant_is_bounded() -> None:
    lane = turns.Turns(1)
    tasks = [asyncio.create_task(lane.take(_FLOOD)) for _ in range(turns.WAITING + 1)]
    await _settle()
    with pytest.raises(errors.Unavailable) as refused:
        await lane.take(_FLOOD)
    assert dict(refused.value.headers)["Retry-After"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (lane.waiting, lane.queued(_FLOOD)) == (0, 0)


_Event = tuple[str, int, bool]


@pytest.mark.requirement("runtime:pool:fair")
@given(
    limit=st.integers(1, 4),
    script=st.lists(st.tuples(st.sampled_from(("ask", "end", "leave")), st.integers(0, 3), st.booleans()), max_size=60),
)
def test_bounds_hold_nothing_is_lost_and_no_free_turn_waits(limit: int, script: list[_Event]) -> None:
    asyncio.run(_play(limit, script))


async def _play(limit: int, script: list[_Event]) -> None:
    lane = turns.Turns(limit)
    waiting: list[tuple[ids.TenantId, bool, asyncio.Task[turns.Turn]]] = []
    held: list[turns.Turn] = []
    for act, number, spare in script:
        tenant = ids.TenantId(f"t{number}")
        if act == "ask":
            waiting.append((tenant, spare, asyncio.create_task(lane.take(tenant, spare=spare))))
        elif act == "end" and held:
            held.pop(number % len(held)).end()
        elif act == "leave" and waiting:
            waiting.pop(number % len(waiting))[2].cancel()
        await _settle()
        held += [task.result() for _, _, task in waiting if task.done()]
        waiting = [one for one in waiting if not one[2].done()]
        each = max(1, limit - 1)
        mine = collections.Counter(turn.tenant for turn in held)
        assert lane.running == len(held) <= limit
        assert all(count <= each for count in mine.values())
        assert lane.waiting == sum(1 for _, patient, _ in waiting if not patient)
        if len(held) < limit:
            assert all(mine[tenant] >= each for tenant, patient, _ in waiting if not patient)
    for turn in held:
        turn.end()
    for _, _, task in waiting:
        task.cancel()
    ends = await asyncio.gather(*(task for _, _, task in waiting), return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError | turns.Turn) for one in ends)
