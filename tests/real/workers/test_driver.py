"""Workers through the driver, in the real sandbox: calls, company, replacement, and how they end."""

import asyncio
import json
import os

import pytest

from smcp.kernel import errors, ids
from smcp.runtime import driver, sampler
from support import handmade

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_ANSWER_S = 10.0
"""Longer than a machine that is busy keeps an innocent process from its processor."""

_PLAIN = """
import { serve } from "./mcp.js";
let seen = 0;
export default serve({
  who: () => "WHO",
  count: () => ++seen,
  env: (_, env) => JSON.stringify(env),
  slow: async ({ ms }) => { await new Promise((done) => setTimeout(done, ms)); return "WHO"; },
  spin: () => { for (;;); },
  hog: () => { const held = []; for (;;) held.push(new Array(100000).fill(Math.random())); },
  reach: async ({ url }) => { const got = await fetch(url); return `${got.status} ${await got.text()}`; },
});
"""


def _named(who: str) -> str:
    return _PLAIN.replace("WHO", who)


def _pid(lines: list[str]) -> int:
    """The process that a server's log names last."""
    return int([line for line in lines if line.startswith("[smcp] started, process ")][-1].rpartition(" ")[2])


def _gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def _listed(path: str) -> list[str]:
    return os.listdir(path)


@pytest.mark.requirement("workers:driver:call")
@pytest.mark.parametrize("modern", [True, False])
async def test_a_worker_answers_calls_of_its_era(*, modern: bool) -> None:
    async with handmade.handmade() as made:
        instance = await made.start(made.spec("one", _named("me")), modern=modern)
        assert await handmade.call(instance, "who", modern=modern) == "me"
        assert instance.alive
        await instance.stop("done")
        assert not instance.alive
        with pytest.raises(errors.ServerFailed):
            await handmade.call(instance, "who", modern=modern)


@pytest.mark.requirement("workers:driver:company")
async def test_a_tenants_workers_share_a_process_and_another_tenants_have_another() -> None:
    async with handmade.handmade() as made:
        one = await made.start(made.spec("one", _named("one")))
        two = await made.start(made.spec("two", _named("two")))
        far = await made.start(made.spec("one", _named("far"), tenant="globex"))
        assert [await handmade.call(each, "who") for each in (one, two, far)] == ["one", "two", "far"]
        pids = [_pid(made.lines[name]) for name in ("acme/one", "acme/two", "globex/one")]
        assert pids[0] == pids[1] != pids[2]
        # Isolates of their own: what one of them keeps in memory is not the other's.
        assert [await handmade.call(each, "count") for each in (one, two, one)] == ["1", "1", "2"]


@pytest.mark.requirement("workers:driver:own-process")
async def test_a_worker_that_asks_for_it_and_one_on_trial_have_a_process_of_their_own() -> None:
    async with handmade.handmade() as made:
        specs = [
            made.spec("one", _named("one")),
            made.spec("two", _named("two"), alone=True),
            made.spec("one", _named("new"), deployment="d2", trial=True),
        ]
        pids: list[int] = []
        for each in specs:
            instance = await made.start(each)
            await handmade.call(instance, "who")
            pids.append(_pid(made.lines[f"acme/{each.server}"]))
        assert len(set(pids)) == 3


@pytest.mark.requirement("workers:driver:replacement")
async def test_a_change_of_who_is_there_loses_no_call() -> None:
    async with handmade.handmade() as made:
        one = await made.start(made.spec("one", _named("one")))
        before = _pid(made.lines["acme/one"])
        enough, answers = asyncio.Event(), 0

        async def stream() -> None:
            nonlocal answers
            while not enough.is_set():
                assert await handmade.call(one, "slow", ms=answers % 40) == "one"
                answers += 1

        streams = [asyncio.create_task(stream()) for _ in range(6)]
        # A call that is under way at every change: its process waits for it.
        long = asyncio.create_task(handmade.call(one, "slow", ms=1500))
        others: list[driver.Instance] = []
        for number in range(3):
            others.append(await made.start(made.spec(f"other-{number}", _named(f"other-{number}"))))
            assert await handmade.call(others[-1], "who") == f"other-{number}"
        assert _pid(made.lines["acme/one"]) != before
        seen = answers
        while answers < seen + 20:
            await asyncio.sleep(0)
            assert not any(task.done() for task in streams)
        enough.set()
        await asyncio.gather(*streams)
        assert await long == "one"
        assert one.alive
        # The older processes end; the newest one is there for everybody.
        await handmade.until(
            lambda: sum("another process has taken over" in one for one in made.lines["acme/one"]) == 3
        )
        assert await handmade.call(one, "who") == "one"
        assert _gone(before)


@pytest.mark.requirement("workers:driver:watchdog")
async def test_a_loop_stops_its_tenants_process_only_and_that_one_is_killed_and_answers_again() -> None:
    async with handmade.handmade(answer_s=_ANSWER_S, gone_s=60.0) as made:
        spec = made.spec("one", _named("one"))
        bad, far = await made.start(spec), await made.start(made.spec("far", _named("far"), tenant="globex"))
        assert await handmade.call(bad, "who") == "one"
        spinning = asyncio.create_task(handmade.call(bad, "spin"))
        while not spinning.done():
            assert await handmade.call(far, "who") == "far"
        with pytest.raises(errors.ServerFailed, match="it did not answer any more"):
            await spinning
        assert not bad.alive
        assert f"[smcp] killed: it did not answer for {_ANSWER_S:g} s" in made.lines["acme/one"]
        again = await made.start(spec)
        assert await handmade.call(again, "who") == "one"
        assert far.alive
        assert await handmade.call(far, "who") == "far"


@pytest.mark.requirement("workers:driver:memory")
async def test_a_heap_that_grows_without_end_ends_its_own_process_only() -> None:
    async with handmade.handmade(gone_s=60.0) as made:
        spec = made.spec("one", _named("one"))
        bad, far = await made.start(spec), await made.start(made.spec("far", _named("far"), tenant="globex"))
        with pytest.raises(errors.ServerFailed, match="ended"):
            await handmade.call(bad, "hog")
        assert not bad.alive
        assert any("ended by itself" in line for line in made.lines["acme/one"])
        assert await handmade.call(far, "who") == "far"
        assert await handmade.call(await made.start(spec), "who") == "one"


@pytest.mark.requirement("workers:driver:idle")
async def test_when_the_last_one_is_left_its_process_is_gone_and_nothing_of_it_is_there() -> None:
    async with handmade.handmade() as made:
        specs = [made.spec("one", _named("one")), made.spec("two", _named("two"))]
        instances = [await made.start(each) for each in (*specs, specs[0])]
        pid = _pid(made.lines["acme/two"])
        await instances[0].stop("idle")
        await instances[1].stop("idle")
        assert await handmade.call(instances[2], "who") == "one"
        await instances[2].stop("idle")
        assert _gone(pid)
        assert _listed(os.path.join(made.standing.house.doors, "acme")) == []


@pytest.mark.requirement("workers:driver:does-not-start")
@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("this is no JavaScript", "SyntaxError"),
        ("import './nope.js'; export default {};", "nope.js"),
        ("throw new RangeError('at the door'); export default {};", "at the door"),
    ],
)
async def test_a_worker_that_does_not_start_says_why_and_keeps_nobody_from_starting(source: str, why: str) -> None:
    async with handmade.handmade() as made:
        one = await made.start(made.spec("one", _named("one")))
        with pytest.raises(errors.ServerFailed, match=why):
            await made.start(made.spec("bad", source))
        assert any(why in line for line in made.lines["acme/bad"])
        assert not any(why in line for line in made.lines["acme/one"])
        assert await handmade.call(one, "who") == "one"
        two = await made.start(made.spec("two", _named("two")))
        assert await handmade.call(two, "who") == "two"


@pytest.mark.requirement("workers:driver:variables")
async def test_variables_come_as_they_are_whatever_is_in_them() -> None:
    odd = '"), (name = "x", text = "é\n\\ \x01 \' `${1}` \u2028 \U0001f600'
    variables = (("TEXT", json.dumps(odd)), ("NUMBER", "17"), ("DEEP", json.dumps({"a": [odd, None]})))
    async with handmade.handmade() as made:
        spec = made.spec("one", _named("one"), variables=variables, env=(("PLAIN", odd), ('"odd" name\\', "x")))
        found = json.loads(await handmade.call(await made.start(spec), "env"))
        expected = {"PLAIN": odd, '"odd" name\\': "x", "TEXT": odd, "NUMBER": 17, "DEEP": {"a": [odd, None]}}
        assert found == expected


@pytest.mark.requirement("workers:driver:no-network")
async def test_without_egress_fetch_ends_in_the_process() -> None:
    async with handmade.handmade() as made:
        instance = await made.start(made.spec("one", _named("one")))
        for url in ("http://example.com/", "https://127.0.0.1/", "http://[::1]/"):
            assert (await handmade.call(instance, "reach", url=url)).startswith("403 This server may reach nothing")


@pytest.mark.requirement("workers:driver:metered")
async def test_what_a_shared_process_takes_is_told_for_each_server_by_what_it_was_asked() -> None:
    async with handmade.handmade() as made:
        told: list[tuple[str, sampler.Used]] = []

        def used(_tenant: ids.TenantId, server: ids.ServerName, _principal: str, taken: sampler.Used) -> None:
            told.append((server, taken))

        def took(server: str) -> tuple[float, float, float]:
            mine = [taken for name, taken in told if name == server]
            return (
                sum(each.copy_s for each in mine),
                sum(each.cpu_s for each in mine),
                sum(each.memory_byte_s for each in mine),
            )

        sampling = sampler.Sampler(made.driver, made.standing.launcher, used, every_s=3600.0)
        made.driver.sampled = sampling.shared
        one = await made.start(made.spec("one", _named("one")))
        await one.stop("idle")
        assert all(amount > 0 for amount in took("one"))
        specs = [made.spec("one", _named("one")), made.spec("two", _named("two"))]
        # The first process ends for the second, which both share: one of them is asked three times as often.
        instances = [await made.start(each) for each in specs]
        await handmade.until(lambda: sum("ended after" in line for line in made.lines["acme/one"]) == 2)
        told.clear()
        for number in (0, 0, 0, 1):
            await handmade.call(instances[number], "who")
        await asyncio.gather(*(each.stop("idle") for each in instances))
        assert took("one") == pytest.approx([3 * amount for amount in took("two")])
        await sampling.close()
