"""After a secret changed: who still has the old value, and for how long."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from smcp.kernel import errors, ids, jsonrpc
from smcp.runtime import driver, pool
from support.inside import Copy, Inside, opened, spec

_ACME, _TIME, _OTHER = ids.TenantId("acme"), ids.ServerName("time"), ids.ServerName("other")


def _spec(server: ids.ServerName = _TIME) -> driver.Spec:
    return spec(server=server)


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
async def copies(inside: Inside) -> AsyncGenerator[pool.Pool]:
    made = opened(inside, instances=4)
    await made.start()
    yield made
    await made.close()


async def _gone(copy: driver.Instance) -> None:
    assert isinstance(copy, Copy)
    async with asyncio.timeout(60):
        await copy.gone.wait()


@pytest.mark.requirement("deploy:secrets:rotate")
async def test_the_next_request_gets_a_new_copy_and_an_old_one_ends_with_its_last_call(
    inside: Inside, copies: pool.Pool
) -> None:
    old = await copies.shared(_spec())
    number, calling = old.calls.ask("tools/call", b"{}")
    heard, listening = old.calls.ask("subscriptions/listen", b"{}")
    copies.renew(_ACME, _TIME)
    new = await copies.shared(_spec())
    assert new is not old
    assert copies.warm(_spec()) is new
    assert isinstance(listening.failure, errors.Unavailable)
    assert old.alive
    assert not calling.done
    old.calls.received(jsonrpc.result(b"%d" % number, b"{}"))
    old.calls.forget(heard)  # as the listener's exchange does when it hears of the end
    await _gone(old)
    assert inside.running == {new}


@pytest.mark.requirement("deploy:secrets:rotate")
async def test_idle_copies_end_at_once_sessions_too_and_other_servers_stay(inside: Inside, copies: pool.Pool) -> None:
    shared, session = await copies.shared(_spec()), await copies.private(_spec())
    others = [await copies.shared(_spec(_OTHER)), await copies.private(_spec(_OTHER))]
    copies.renew(_ACME, _TIME)
    await _gone(shared)
    await _gone(session)
    assert inside.running == set(others)
    assert copies.instances(_ACME, _TIME) == 0


@pytest.mark.requirement("deploy:secrets:rotate")
async def test_a_sessions_copy_that_has_a_call_ends_behind_it(copies: pool.Pool) -> None:
    session = await copies.private(_spec())
    number, calling = session.calls.ask("tools/call", b"{}")
    copies.renew(_ACME, _TIME)
    assert session.alive
    session.calls.received(jsonrpc.result(b"%d" % number, b"{}"))
    assert calling.done
    await _gone(session)


@pytest.mark.requirement("deploy:secrets:rotate")
async def test_a_copy_that_is_just_starting_serves_who_waits_and_nobody_later(
    inside: Inside, copies: pool.Pool
) -> None:
    inside.start_now.clear()
    waiting = asyncio.create_task(copies.shared(_spec()))
    opening = asyncio.create_task(copies.private(_spec()))
    await inside.starting.wait()
    await asyncio.sleep(0)
    copies.renew(_ACME, _TIME)
    inside.start_now.set()
    first, session = await waiting, await opening
    assert await copies.shared(_spec()) is not first
    await _gone(first)
    await _gone(session)
