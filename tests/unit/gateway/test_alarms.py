"""One timer for everybody who waits."""

import asyncio
import time

import pytest

from smcp.gateway import alarms


class Sleeper:
    """Notes when it was woken."""

    def __init__(self) -> None:
        self.woken: list[float] = []
        self.rung = asyncio.Event()

    def wake(self) -> None:
        """Note it."""
        self.woken.append(time.monotonic())
        self.rung.set()


@pytest.mark.requirement("gateway:hot:alarms")
async def test_each_is_woken_once_when_it_is_time_and_nobody_who_is_through() -> None:
    waking = alarms.Alarms(0.01)
    now = time.monotonic()
    early, late, through, again = (Sleeper() for _ in range(4))
    waking.set(early, now + 0.05)
    waking.set(late, now + 0.15)
    waking.set(through, now + 0.05)
    waking.clear(through)
    waking.clear(through)
    waking.set(again, now + 0.01)
    waking.set(again, now + 0.1)
    async with asyncio.timeout(60):
        await late.rung.wait()
    assert [len(one.woken) for one in (early, late, through, again)] == [1, 1, 0, 1]
    assert early.woken[0] >= now + 0.05
    assert again.woken[0] >= now + 0.1
    assert late.woken[0] >= now + 0.15
    # The timer stands still while nobody waits, and starts again with the next one.
    early.rung.clear()
    waking.set(early, time.monotonic())
    async with asyncio.timeout(60):
        await early.rung.wait()
    assert len(early.woken) == 2


@pytest.mark.requirement("gateway:hot:alarms")
async def test_a_sleeper_may_set_its_next_alarm_while_it_is_woken() -> None:
    waking = alarms.Alarms(0.005)

    class Restless(Sleeper):
        def wake(self) -> None:
            self.woken.append(time.monotonic())
            if len(self.woken) < 3:
                waking.set(self, time.monotonic())
            else:
                self.rung.set()

    one = Restless()
    waking.set(one, time.monotonic())
    async with asyncio.timeout(60):
        await one.rung.wait()
    assert len(waking) == 0
    waking.close()
