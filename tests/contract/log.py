"""What every log back end does. A back end inherits `LogContract` and gives the fixture `log`."""

import asyncio

import pytest

from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores.log import base


class LogContract:
    """Inherit, and define fixture `log`; `trimmed` says how its records are trimmed."""

    @pytest.fixture
    def clock(self) -> clocks.FrozenClock:
        return clocks.FrozenClock()

    async def trimmed(self, log: base.Log, now: float) -> int:
        return await log.trim(now=now)

    @pytest.fixture
    def twin(self, log: base.Log) -> base.Log:
        """A further handle over the same storage, as another process has one."""
        return log

    @pytest.mark.requirement("stores:log:positions")
    async def test_records_come_back_in_order_with_positions_from_one(
        self, log: base.Log, clock: clocks.FrozenClock
    ) -> None:
        assert await log.last(("s",)) == 0
        assert await log.append(("s",), [b"a", b""]) == 2
        clock.advance(5)
        assert await log.append(("s",), [b"c"]) == 3
        records = await log.read(("s",))
        assert [(r.position, r.data) for r in records] == [(1, b"a"), (2, b""), (3, b"c")]
        assert [r.time for r in records] == [clock.now() - 5, clock.now() - 5, clock.now()]
        assert await log.last(("s",)) == 3
        assert await log.read(("other",)) == []

    async def test_a_batch_of_a_thousand_is_one_append(self, log: base.Log) -> None:
        await log.append(("s",), [b"first"])
        assert await log.append(("s",), [b"%d" % n for n in range(1001)]) == 1002
        records = await log.read(("s",), after=1, limit=2000)
        assert [(r.position, r.data) for r in records] == [(n + 2, b"%d" % n) for n in range(1001)]

    async def test_reading_pages_by_position_and_by_time(self, log: base.Log, clock: clocks.FrozenClock) -> None:
        for n in range(10):
            await log.append(("s",), [b"%d" % n])
            clock.advance(1)
        assert [r.position for r in await log.read(("s",), after=3, limit=4)] == [4, 5, 6, 7]
        assert [r.position for r in await log.read(("s",), since=clock.now() - 3)] == [8, 9, 10]
        assert await log.read(("s",), after=10**30) == []
        assert await log.read(("s",), limit=0) == []

    @pytest.mark.requirement("stores:log:second-writer")
    async def test_an_append_that_expects_another_end_is_a_conflict(self, log: base.Log) -> None:
        assert await log.append(("s",), [b"1"], expect=0) == 1
        with pytest.raises(errors.Conflict):
            await log.append(("s",), [b"x"], expect=0)
        with pytest.raises(errors.Conflict):
            await log.append(("s",), [b"x"], expect=2)
        assert await log.append(("s",), [b"2"], expect=1) == 2
        assert [r.data for r in await log.read(("s",))] == [b"1", b"2"]

    @pytest.mark.requirement("stores:log:positions")
    async def test_many_appenders_of_one_stream_get_positions_without_gaps(self, log: base.Log) -> None:
        ends = await asyncio.gather(*[log.append(("s",), [b"%d" % n] * (1 + n % 3)) for n in range(60)])
        records = await log.read(("s",), limit=1000)
        assert [r.position for r in records] == list(range(1, len(records) + 1))
        for n, end in enumerate(ends):
            assert {r.data for r in records[end - 1 - n % 3 : end]} == {b"%d" % n}

    @pytest.mark.requirement("stores:log:many-writers")
    async def test_each_record_of_many_writers_through_two_handles_is_there_once_in_its_writers_order(
        self, log: base.Log, twin: base.Log
    ) -> None:
        placed: dict[int, bytes] = {}

        async def write(handle: base.Log, name: str, count: int) -> None:
            for n in range(count):  # all of one length: who lost a race then guesses right where the winner goes on
                records = [f"{name} {n} {part}".encode() for part in range(2)]
                end = await handle.append(("s",), records)
                for position, data in enumerate(records, end - len(records) + 1):
                    assert placed.setdefault(position, data) is data, "one position was given twice"

        await asyncio.gather(
            *[write(log, f"a{writer}", 200) for writer in range(16)],
            *[write(twin, f"b{writer}", 100) for writer in range(4)],
        )
        assert sorted(placed) == list(range(1, len(placed) + 1))
        assert [(r.position, r.data) for r in await log.read(("s",), limit=10**6)] == sorted(placed.items())
        numbers: dict[bytes, list[tuple[int, int]]] = {}
        for _, data in sorted(placed.items()):
            name, n, part = data.split()
            numbers.setdefault(name, []).append((int(n), int(part)))
        assert all(of_one == sorted(of_one) for of_one in numbers.values())

    async def test_an_append_of_nothing_or_for_no_time_is_refused(self, log: base.Log) -> None:
        with pytest.raises(ValueError, match="nothing"):
            await log.append(("s",), [])
        with pytest.raises(ValueError, match="time to live"):
            await log.append(("s",), [b""], ttl=0)
        with pytest.raises(ValueError, match="non-empty"):
            await log.append((), [b""])

    @pytest.mark.requirement("stores:log:trim")
    async def test_trimming_removes_what_is_over_and_positions_never_return(
        self, log: base.Log, clock: clocks.FrozenClock
    ) -> None:
        await log.append(("s",), [b"short"] * 3, ttl=10)
        await log.append(("s",), [b"long"], ttl=1000)
        await log.append(("t",), [b"short"], ttl=10)
        assert await self.trimmed(log, clock.now() + 9) == 0
        assert await self.trimmed(log, clock.now() + 10) == 4
        assert [(r.position, r.data) for r in await log.read(("s",))] == [(4, b"long")]
        assert await log.streams(()) == [("s",)]
        assert await log.append(("t",), [b"next"]) == 2

    @pytest.mark.requirement("stores:log:shrink")
    async def test_shrinking_removes_the_oldest_of_one_stream_until_the_rest_fits(self, log: base.Log) -> None:
        assert await log.shrink(("s",), most=10) == 0
        for start in range(0, 5000, 1000):
            await log.append(("s",), [b"%04d" % n for n in range(start, start + 1000)])
        await log.append(("other",), [b"1234"] * 3)
        whole = await log.shrink(("s",), most=10**9)
        assert whole % 5000 == 0
        size = whole // 5000
        assert await log.shrink(("s",), most=10 * size + size - 1) == 10 * size
        assert [r.data for r in await log.read(("s",))] == [b"%04d" % n for n in range(4990, 5000)]
        assert len(await log.read(("other",))) == 3
        assert await log.append(("s",), [b"next"]) == 5001
        assert await log.shrink(("s",), most=0) == 0
        assert await log.read(("s",)) == []
        assert await log.append(("s",), [b"again"]) == 5002

    async def test_streams_are_listed_by_prefix_in_order(self, log: base.Log) -> None:
        for stream in [("b",), ("a", "x"), ("a",), ("ab",), ("a", "\0")]:
            await log.append(stream, [b""])
        assert await log.streams(("a",)) == [("a",), ("a", "\0"), ("a", "x")]
        assert await log.streams(()) == [("a",), ("a", "\0"), ("a", "x"), ("ab",), ("b",)]

    async def test_dropping_removes_a_prefix_and_nothing_else(self, log: base.Log) -> None:
        for stream in [("a",), ("a", "x"), ("ab",)]:
            await log.append(stream, [b"1"])
        await log.drop(("a",))
        assert await log.streams(()) == [("ab",)]
        assert await log.last(("a", "x")) == 0
        assert await log.append(("a", "x"), [b"again"]) == 1

    @pytest.mark.requirement("stores:log:tail")
    async def test_a_tail_gives_what_is_there_and_then_what_comes(self, log: base.Log) -> None:
        await log.append(("s",), [b"1", b"2"])
        seen: list[int] = []
        ready = asyncio.Event()

        async def follow() -> None:
            async for record in log.tail(("s",), after=1):
                seen.append(record.position)
                ready.set()
                if record.position == 6:
                    return

        following = asyncio.create_task(follow())
        await ready.wait()
        await log.append(("other",), [b"x"])
        await log.append(("s",), [b"3", b"4"])
        await log.append(("s",), [b"5", b"6"])
        await asyncio.wait_for(following, 60)
        assert seen == [2, 3, 4, 5, 6]

    async def test_a_ping_answers(self, log: base.Log) -> None:
        log.check()
        await log.ping()
