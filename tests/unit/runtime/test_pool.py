"""Which copy serves whom: spares, waking, balancing, crashes, silence; with copies inside this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

import msgspec
import pytest

from smcp.kernel import errors, ids, observe
from smcp.runtime import breaker, driver, groups, pool, starts
from smcp.sandbox.volumes import keeper
from support.inside import Copy, Inside, opened, spec

_ACME, _TIME = ids.TenantId("acme"), ids.ServerName("time")


@pytest.fixture
def inside() -> Inside:
    return Inside()


@contextlib.asynccontextmanager
async def _at_work(made: pool.Pool) -> AsyncGenerator[pool.Pool]:
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - what the pool does by itself is told to nobody
            await asyncio.sleep(0.005)


def _spares(copies: pool.Pool, server: str = "time") -> int:
    return sum(one.kind == "spare" for one in copies.view(_ACME, ids.ServerName(server)).copies)


def _copy(instance: driver.Instance) -> Copy:
    assert isinstance(instance, Copy)
    return instance


async def _habit(copies: pool.Pool, what: driver.Spec) -> None:
    """Two starts: from now on there is a spare."""
    for _ in range(2):
        await copies.release(await copies.private(what), "over")


# --- spares ---


@pytest.mark.requirement("runtime:pool:spares")
async def test_a_session_gets_a_copy_that_was_started_ahead_and_that_nobody_used(inside: Inside) -> None:
    async with _at_work(opened(inside, spares=1, idle_s=60)) as copies:
        await copies.private(spec())
        assert _spares(copies) == 0  # one start is chance
        await copies.private(spec())
        await _until(lambda: any(one.asked == ["ping"] and not len(one.calls) for one in inside.running))
        [spare] = [one for one in inside.running if one.asked]
        begun = len(inside.begun)
        mine = _copy(await copies.private(spec()))
        assert mine is spare
        assert mine.asked == ["ping"]
        assert len(inside.begun) == begun
        number, _ = mine.calls.ask("initialize", b"{}")  # its first words
        mine.answer(number)
        await _until(lambda: _spares(copies) >= 1)
        assert all(one is not mine for one in inside.running if one.asked == [])


@pytest.mark.requirement("runtime:pool:spares")
async def test_spares_go_when_nobody_asks_any_more(inside: Inside) -> None:
    metrics = observe.Metrics("0")
    async with _at_work(opened(inside, spares=4, idle_s=0.4, metrics=metrics)) as copies:
        async with asyncio.timeout(60):
            while not _spares(copies):  # they stay for so short that a busy machine may look too late
                await _habit(copies, spec())
                await asyncio.sleep(0.01)
        await _until(lambda: not inside.running and copies.used(_ACME) == (0, 0))
        assert 'smcp_spares_total{outcome="unused"}' in metrics.render().decode()


@pytest.mark.requirement("runtime:pool:spares")
@pytest.mark.parametrize("change", ["renew", "retire", "stop", "suspend"])
async def test_spares_go_with_what_they_were_made_of(inside: Inside, change: str) -> None:
    async with _at_work(opened(inside, spares=2, idle_s=60)) as copies:
        await _habit(copies, spec())
        await _until(lambda: _spares(copies))
        old = set(inside.running)
        if change == "renew":
            copies.renew(_ACME, _TIME)
        elif change == "retire":
            copies.retire(_ACME, _TIME, "dep-2")
        elif change == "stop":
            await copies.stop_server(_ACME, _TIME, "stopped")
        else:
            await copies.stop_tenant(_ACME, "suspended")
        await _until(lambda: not (old & inside.running))


@pytest.mark.requirement("runtime:pool:spares")
async def test_a_spare_gives_way_to_a_start_that_somebody_waits_for(inside: Inside) -> None:
    async with _at_work(opened(inside, instances=3, spares=2, idle_s=60)) as copies:
        held = [await copies.private(spec()) for _ in range(2)]
        await _until(lambda: _spares(copies))
        other = await copies.private(spec(server="other"))
        assert other in inside.running
        assert {*held, other} == {one for one in inside.running if not one.asked}
        assert len(inside.running) <= 3


@pytest.mark.requirement("runtime:pool:spares")
async def test_a_spare_that_is_still_coming_gives_way_too(inside: Inside) -> None:
    free = 0.01
    async with _at_work(opened(inside, instances=3, spares=2, idle_s=60, free=lambda: free)) as copies:
        for _ in range(2):
            await copies.private(spec())
        inside.start_now.clear()
        free = 0.5
        await _until(lambda: copies.used(_ACME)[0] == 3)  # the third is a spare that does not come
        waiting = asyncio.create_task(copies.private(spec(server="other")))
        await _until(lambda: waiting.done() or len(inside.begun) == 4)
        inside.start_now.set()
        assert _copy(await waiting).spec.server == "other"


@pytest.mark.requirement("runtime:pool:spares")
@pytest.mark.parametrize("steps", range(4))
async def test_who_leaves_in_the_moment_in_which_its_copy_comes_leaves_nothing(inside: Inside, steps: int) -> None:
    inside.start_now.clear()
    async with _at_work(opened(inside, idle_s=60)) as copies:
        caller = asyncio.create_task(copies.private(spec()))
        await inside.starting.wait()
        inside.start_now.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        if caller.cancel():
            await asyncio.gather(caller, return_exceptions=True)
        if caller.cancelled():
            await _until(lambda: copies.used(_ACME) == (0, 0) and not inside.running)


@pytest.mark.requirement("runtime:pool:spares")
async def test_a_spare_that_answers_nothing_is_kept_and_used(inside: Inside) -> None:
    inside.silent = True
    async with _at_work(opened(inside, spares=1, idle_s=60)) as copies:
        await _habit(copies, spec())
        await _until(lambda: any(one.asked == ["ping"] for one in inside.running))
        [spare] = [one for one in inside.running if one.asked]
        mine = await copies.private(spec())
        assert mine is spare
        assert len(mine.calls) == 0  # the question is nobody's any more
        spare.answer(1)  # and its late answer, too


@pytest.mark.requirement("runtime:pool:spares")
async def test_a_server_that_ends_when_it_is_asked_is_not_asked_again(inside: Inside) -> None:
    inside.dies = lambda what, modern: True
    async with _at_work(opened(inside, spares=1, idle_s=60)) as copies:
        await _habit(copies, spec())
        await _until(lambda: not inside.running and len(inside.begun) == 3)
        # Its spares were at fault, not the server: who asks for a copy still gets one.
        mine = _copy(await copies.private(spec()))
        assert mine.asked == []
        assert copies.view(_ACME, _TIME).breaker == "closed"


@pytest.mark.requirement("runtime:pool:spares")
async def test_neither_a_server_with_a_volume_nor_a_machine_short_of_memory_gets_spares(inside: Inside) -> None:
    kept = msgspec.structs.replace(spec(), volume=keeper.VolumeSpec("/data", 65536))
    free = 0.5
    async with _at_work(opened(inside, spares=2, idle_s=60, free=lambda: free)) as copies:
        await _habit(copies, kept)
        await _habit(copies, spec(server="other"))
        await _until(lambda: _spares(copies, "other"))
        assert _spares(copies) == 0
        free = 0.01
        await _until(lambda: not inside.running)


@pytest.mark.requirement("runtime:pool:spares")
async def test_a_modern_server_wakes_from_a_spare(inside: Inside) -> None:
    async with _at_work(opened(inside, spares=1, idle_s=60)) as copies:
        for _ in range(2):
            _copy(await copies.shared(spec())).die()
        await _until(lambda: any(one.asked and one.calls.sent and not len(one.calls) for one in inside.running))
        [spare] = inside.running
        assert await copies.shared(spec()) is spare


# --- waking ---


@pytest.mark.requirement("runtime:pool:wake")
async def test_fifty_callers_wake_a_server_with_one_start(inside: Inside) -> None:
    async with _at_work(opened(inside)) as copies:
        served = await asyncio.gather(*(copies.shared(spec()) for _ in range(50)))
        assert len(set(served)) == len(inside.begun) == 1
        # It had shown that it answers before anybody was sent to it.
        assert _copy(served[0]).asked == ["server/discover"]


@pytest.mark.requirement("runtime:pool:wake")
async def test_who_waits_for_a_copy_that_dies_before_it_speaks_waits_for_the_next(inside: Inside) -> None:
    inside.dies = lambda what, modern: len(inside.begun) < 3
    async with _at_work(opened(inside)) as copies:
        served = await asyncio.gather(*(copies.shared(spec()) for _ in range(10)))
        assert len(set(served)) == 1
        assert len(inside.begun) == 3


@pytest.mark.requirement("runtime:pool:wake")
async def test_an_idle_server_goes_to_zero_and_one_with_a_least_does_not(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=0.2)) as copies:
        gone, stays = _copy(await copies.shared(spec())), _copy(await copies.shared(spec(server="other", least=1)))
        async with asyncio.timeout(60):
            await gone.gone.wait()
        assert copies.instances(_ACME, _TIME) == 0
        assert stays.alive
        stays.die()
        await _until(lambda: copies.instances(_ACME, ids.ServerName("other")) == 1)


# --- crashes ---


@pytest.mark.requirement("runtime:pool:breaker")
async def test_a_server_that_crashes_at_its_start_is_left_alone_and_comes_back(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PAUSE_S", 3600.0)  # not over before all have asked
    inside.fails = "exit code 1"
    async with _at_work(opened(inside, idle_s=60)) as copies:
        with pytest.raises(errors.ServerCrashing) as refused:
            await copies.shared(spec())
        assert "why it failed" in refused.value.public
        assert len(inside.begun) == 3
        for _ in range(20):
            with pytest.raises(errors.ServerCrashing):
                await copies.shared(spec())
            with pytest.raises(errors.ServerCrashing):
                await copies.private(spec())
        assert len(inside.begun) == 3
        assert copies.view(_ACME, _TIME).breaker == "open"
        inside.fails = ""
        copies._starts.fuse(spec())._until = 0.0  # pyright: ignore[reportPrivateUsage] - the pause is over
        assert copies.view(_ACME, _TIME).breaker == "half_open"
        served = await asyncio.gather(*(copies.shared(spec()) for _ in range(5)))
        assert len(set(served)) == 1
        assert len(inside.begun) == 4
        assert copies.view(_ACME, _TIME).breaker == "closed"


@pytest.mark.requirement("runtime:pool:breaker")
async def test_a_copy_that_is_killed_at_work_opens_no_breaker(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=60)) as copies:
        for _ in range(8):
            copy = _copy(await copies.shared(spec()))
            number, call = copy.calls.ask("tools/call", b"{}")
            copy.answer(number)
            call.release()
            await asyncio.sleep(0)
            copy.die()
        assert copies.view(_ACME, _TIME).breaker == "closed"


@pytest.mark.requirement("runtime:pool:breaker")
async def test_a_stop_gives_a_crashing_server_another_chance(inside: Inside) -> None:
    inside.fails = "exit code 1"
    async with _at_work(opened(inside, idle_s=60)) as copies:
        with pytest.raises(errors.ServerCrashing):
            await copies.shared(spec())
        await copies.stop_server(_ACME, _TIME, "its owner stopped it")
        inside.fails = ""
        await copies.shared(spec())


@pytest.mark.requirement("runtime:pool:breaker")
async def test_what_an_earlier_deployment_did_is_no_state_of_the_server(inside: Inside) -> None:
    inside.fails = "exit code 1"
    async with _at_work(opened(inside, idle_s=60)) as copies:
        with pytest.raises(errors.ServerCrashing):
            await copies.shared(spec())
        inside.fails = ""
        copies.retire(_ACME, _TIME, "dep-2")
        await copies.shared(spec(deployment="dep-2"))
        assert copies.view(_ACME, _TIME).breaker == "closed"


# --- several copies ---


async def _two(inside: Inside, copies: pool.Pool) -> tuple[Copy, Copy]:
    """A server with two shared copies, both of which requests find."""
    ready: list[groups.Key] = []
    copies.when_ready(ready.append)
    await copies.shared(spec(least=2))
    await _until(lambda: len(ready) == 2)
    one, two = inside.running
    return one, two


@pytest.mark.requirement("runtime:pool:balance")
async def test_a_call_goes_to_the_copy_with_the_fewest_unanswered_calls(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=60)) as copies:
        one, two = await _two(inside, copies)
        for _ in range(10):
            best = copies.warm(spec())
            assert best is not None
            best.calls.ask("tools/call", b"{}")
        assert (len(one.calls), len(two.calls)) == (5, 5)
        for number in range(2, 7):
            two.answer(number)
        assert copies.warm(spec()) is two


@pytest.mark.requirement("runtime:pool:balance")
async def test_a_copy_that_dies_takes_only_its_own_calls_with_it(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=60)) as copies:
        one, two = await _two(inside, copies)
        _, lost = one.calls.ask("tools/call", b"{}")
        _, kept = two.calls.ask("tools/call", b"{}")
        one.die()
        assert copies.warm(spec()) is two
        assert isinstance(lost.failure, errors.ServerFailed)
        assert not kept.done


@pytest.mark.requirement("runtime:pool:scale")
async def test_a_slow_queue_brings_copies_up_to_the_manifests_most(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=2)) as copies:
        first = await copies.shared(spec(most=2))
        for _ in range(40):
            first.calls.ask("tools/call", b"{}")
        await _until(lambda: copies.warm(spec()) is not first)
        for one in inside.running:
            for _ in range(40):
                one.calls.ask("tools/call", b"{}")
        await asyncio.sleep(1.2)  # nothing is to happen: two more looks
        assert copies.instances(_ACME, _TIME) == 2


@pytest.mark.requirement("runtime:pool:scale")
async def test_a_server_with_a_volume_stays_alone(inside: Inside) -> None:
    kept = msgspec.structs.replace(spec(most=8), volume=keeper.VolumeSpec("/data", 65536))
    async with _at_work(opened(inside, idle_s=2)) as copies:
        first = await copies.shared(kept)
        for _ in range(40):
            first.calls.ask("tools/call", b"{}")
        await asyncio.sleep(1.7)  # nothing is to happen: three looks
        assert copies.instances(_ACME, _TIME) == 1


@pytest.mark.requirement("runtime:pool:drain")
async def test_a_retired_copy_does_not_wait_for_its_calls_for_ever(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=0.2, drain_s=0.5)) as copies:
        old = _copy(await copies.shared(spec()))
        _, call = old.calls.ask("tools/call", b"{}")
        began = time.monotonic()
        copies.retire(_ACME, _TIME, "dep-2")
        assert not call.done
        async with asyncio.timeout(60):
            await old.gone.wait()
        assert time.monotonic() - began >= 0.5
        assert call.failure is not None


# --- silence ---


@pytest.mark.requirement("runtime:pool:health")
async def test_an_idle_copy_that_does_not_answer_twice_is_replaced_and_a_busy_one_is_left_alone(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=60, check_s=0.05, answer_s=0.1)) as copies:
        idle = _copy(await copies.shared(spec()))
        busy = _copy(await copies.shared(spec(server="other")))
        busy.calls.ask("tools/call", b"{}")
        idle.silent = busy.silent = True
        async with asyncio.timeout(60):
            await idle.gone.wait()
        assert idle.asked.count("server/discover") >= 3
        assert busy.asked[-1] == "tools/call"
        assert await copies.shared(spec()) is not idle


@pytest.mark.requirement("runtime:pool:health")
async def test_a_copy_that_was_silent_for_a_whole_call_is_asked_and_replaced(inside: Inside) -> None:
    async with _at_work(opened(inside, idle_s=60, answer_s=0.1)) as copies:
        fine, hangs = _copy(await copies.shared(spec())), _copy(await copies.shared(spec(server="other")))
        hangs.silent = True
        for one in (fine, hangs):
            one.calls.ask("tools/call", b"{}")
            copies.suspect(one)
        async with asyncio.timeout(60):
            await hangs.gone.wait()
        assert fine.alive


# --- the plan ---


@pytest.mark.requirement("review:pool:cap")
async def test_memory_is_charged_as_what_copies_may_take(inside: Inside) -> None:
    async with _at_work(opened(inside, memory=250, idle_s=60)) as copies:
        await copies.private(spec())
        await copies.private(spec())
        assert copies.used(_ACME) == (2, 200)
        with pytest.raises(errors.RateLimited):
            await copies.private(spec())
        await copies.private(spec("globex"))


@pytest.mark.requirement("runtime:pool:fair")
async def test_one_tenants_burst_of_starts_does_not_come_before_anothers_start(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "TURN_S", 3600.0)
    inside.silent = True  # each start keeps its turn
    async with _at_work(opened(inside, starts=3, idle_s=60)) as copies:
        burst = [asyncio.create_task(copies.private(spec("flood"))) for _ in range(30)]
        await _until(lambda: len(inside.begun) == 2)
        await copies.private(spec("acme"))
        assert [one.tenant for one in inside.begun] == ["flood", "flood", "acme"]
        for task in burst:
            task.cancel()
        await asyncio.gather(*burst, return_exceptions=True)
    assert inside.running == set()
