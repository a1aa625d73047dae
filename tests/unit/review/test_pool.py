"""Stopping, replacing and counting copies while others start: nothing is left over, nobody waits for a stranger."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from smcp.kernel import errors, ids
from smcp.runtime import pool
from support.inside import Copy, Inside, opened
from support.inside import spec as _spec

_ACME, _GLOBEX, _TIME = ids.TenantId("acme"), ids.TenantId("globex"), ids.ServerName("time")


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
async def copies(inside: Inside) -> AsyncGenerator[pool.Pool]:
    made = opened(inside, instances=2)
    await made.start()
    yield made
    await made.close()


@pytest.mark.requirement("review:pool:stop")
async def test_a_copy_that_is_starting_when_its_server_is_stopped_does_not_stay(
    inside: Inside, copies: pool.Pool
) -> None:
    inside.start_now.clear()
    private = asyncio.create_task(copies.private(_spec()))
    shared = asyncio.create_task(copies.shared(_spec()))
    await inside.starting.wait()
    stopping = asyncio.create_task(copies.stop_server(_ACME, _TIME, "stopped"))
    await asyncio.sleep(0)
    inside.start_now.set()
    await stopping
    for waiting in (private, shared):
        with pytest.raises(errors.Unavailable):
            await waiting
    assert inside.running == set()
    assert copies.instances(_ACME, _TIME) == 0


@pytest.mark.requirement("review:pool:stop")
async def test_stopping_waits_for_no_other_tenants_server(inside: Inside, copies: pool.Pool) -> None:
    mine = await copies.private(_spec(_GLOBEX))
    inside.end_now.clear()
    copies.release_soon(mine, "hangs")
    async with asyncio.timeout(60):
        await copies.stop_server(_ACME, _TIME, "stopped")


@pytest.mark.requirement("review:pool:stop")
async def test_a_tenants_copies_end_together_and_nobody_elses(inside: Inside, copies: pool.Pool) -> None:
    await copies.private(_spec())
    await copies.shared(_spec())
    other = await copies.shared(_spec(_GLOBEX))
    await copies.stop_tenant(_ACME, "suspended")
    assert inside.running == {other}


@pytest.mark.requirement("review:pool:cap")
async def test_a_copy_counts_until_its_process_is_gone(inside: Inside, copies: pool.Pool) -> None:
    first = await copies.private(_spec())
    second = await copies.shared(_spec())
    with pytest.raises(errors.RateLimited):
        await copies.private(_spec())
    inside.end_now.clear()
    copies.release_soon(first, "its session ended")
    waiting = asyncio.create_task(copies.private(_spec()))
    await asyncio.wait({waiting}, timeout=0.05)
    assert inside.running == {first, second}
    inside.end_now.set()
    third = await waiting
    assert inside.running == {second, third}


@pytest.mark.requirement("review:pool:retire")
async def test_a_deployments_copy_ends_when_another_is_live_after_its_last_call(
    inside: Inside, copies: pool.Pool
) -> None:
    old, other = await copies.shared(_spec()), await copies.shared(_spec(_GLOBEX))
    assert isinstance(old, Copy)
    heard, listening = old.calls.ask("subscriptions/listen", b"{}")
    number, calling = old.calls.ask("tools/call", b"{}")
    _, _ = other.calls.ask("subscriptions/listen", b"{}")
    copies.retire(_ACME, _TIME, "dep-2")
    assert isinstance(listening.failure, errors.Unavailable)
    assert not calling.done
    old.answer(number)
    old.calls.forget(heard)  # as the listener's exchange does when it hears of the end
    async with asyncio.timeout(60):
        await old.gone.wait()
    assert other in inside.running
