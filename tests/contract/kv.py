"""What every key-value back end does. A back end inherits `KVContract` and gives the fixture `kv`."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores.kv import base

# Fixtures are shared by the examples of a test on purpose, and inherited tests by the classes that inherit them.
UNHURRIED = (
    HealthCheck.function_scoped_fixture,
    HealthCheck.differing_executors,
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
)

segments = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=4) | st.sampled_from(
    ["a", "b", "a\0", "\0", "\0\xff", "aa", "é", "\U0010ffff", "\x01"]
)
key_lists = st.lists(st.lists(segments, min_size=1, max_size=3).map(tuple), min_size=1, max_size=12, unique=True)


def in_order(keys: Sequence[base.Key]) -> list[base.Key]:
    """The order that the interface promises, worked out another way than the back ends do."""
    return sorted(keys, key=lambda key: [segment.encode() for segment in key])


class KVContract:
    """Inherit, and define fixtures `clock` (a frozen one) and `kv`."""

    @pytest.fixture
    def clock(self) -> clocks.FrozenClock:
        return clocks.FrozenClock()

    async def test_a_value_that_was_put_is_got_with_its_revision(self, kv: base.KV) -> None:
        revision = await kv.put(("a", "b"), b"\0value\xff")
        assert await kv.get(("a", "b")) == base.Entry(("a", "b"), b"\0value\xff", revision)
        assert await kv.get(("a",)) is None
        assert await kv.get(("a", "b", "c")) is None

    async def test_revisions_grow_over_the_whole_store_and_are_positive(self, kv: base.KV) -> None:
        revisions = [await kv.put((name,), b"") for name in "abcab"]
        assert revisions[0] > 0
        assert revisions == sorted(set(revisions))
        assert await kv.delete(("a",)) > revisions[-1]

    async def test_a_removed_key_is_gone_and_removing_nothing_is_fine(self, kv: base.KV) -> None:
        await kv.put(("a",), b"1")
        await kv.delete(("a",))
        await kv.delete(("a",))
        assert await kv.get(("a",)) is None

    @pytest.mark.requirement("stores:kv:compare-and-set")
    async def test_expect_holds_or_the_write_is_a_conflict(self, kv: base.KV) -> None:
        first = await kv.put(("a",), b"1", expect=base.ABSENT)
        with pytest.raises(errors.Conflict):
            await kv.put(("a",), b"2", expect=base.ABSENT)
        with pytest.raises(errors.Conflict):
            await kv.put(("a",), b"2", expect=first + 1)
        second = await kv.put(("a",), b"2", expect=first)
        with pytest.raises(errors.Conflict):
            await kv.delete(("a",), expect=first)
        assert await kv.get(("a",)) == base.Entry(("a",), b"2", second)
        await kv.delete(("a",), expect=second)
        with pytest.raises(errors.Conflict):
            await kv.put(("a",), b"3", expect=second)

    @pytest.mark.requirement("stores:kv:compare-and-set")
    async def test_of_many_writers_with_the_same_expectation_one_wins(self, kv: base.KV) -> None:
        async def claim(writer: int) -> bool:
            try:
                await kv.put(("claim",), b"%d" % writer, expect=base.ABSENT)
            except errors.Conflict:
                return False
            return True

        won = await asyncio.gather(*[claim(writer) for writer in range(20)])
        assert won.count(True) == 1
        entry = await kv.get(("claim",))
        assert entry is not None
        assert entry.value == b"%d" % won.index(True)

    @pytest.mark.requirement("stores:kv:atomic")
    async def test_apply_does_all_or_nothing_under_one_revision(self, kv: base.KV) -> None:
        kept = await kv.put(("kept",), b"old")
        with pytest.raises(errors.Conflict):
            await kv.apply(
                [base.Put(("new",), b"1"), base.Delete(("kept",)), base.Put(("kept", "x"), b"", expect=kept)]
            )
        assert await kv.get(("new",)) is None
        assert await kv.get(("kept",)) == base.Entry(("kept",), b"old", kept)
        revision = await kv.apply([base.Put(("new",), b"1"), base.Put(("two",), b"2"), base.Delete(("kept",))])
        assert [(e.key, e.revision) for e in await kv.scan(())] == [(("new",), revision), (("two",), revision)]

    async def test_apply_refuses_a_key_named_twice_and_nothing(self, kv: base.KV) -> None:
        with pytest.raises(ValueError, match="twice"):
            await kv.apply([base.Put(("a",), b"1"), base.Delete(("a",))])
        with pytest.raises(ValueError, match="nothing"):
            await kv.apply([])

    @pytest.mark.parametrize("key", [(), ("",), ("a", ""), ("\ud800",)])
    async def test_a_key_that_is_empty_or_no_text_is_refused(self, kv: base.KV, key: base.Key) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  Python's own for surrogates, ours for the others
            await kv.put(key, b"")
        with pytest.raises(ValueError):  # noqa: PT011
            await kv.get(key)

    @pytest.mark.requirement("stores:kv:order")
    @given(names=key_lists, prefix=st.lists(segments, max_size=2).map(tuple), starts=st.just("") | segments)
    @settings(max_examples=30, deadline=None, suppress_health_check=UNHURRIED)
    async def test_scan_gives_what_lies_below_a_prefix_in_order(
        self, kv: base.KV, names: list[base.Key], prefix: base.Key, starts: str
    ) -> None:
        for entry in await kv.scan(()):
            await kv.delete(entry.key)
        for name in names:
            await kv.put(name, repr(name).encode())
        wanted = [
            name
            for name in in_order(names)
            if name[: len(prefix)] == prefix
            and (not starts or (len(name) > len(prefix) and name[len(prefix)].startswith(starts)))
        ]
        found = await kv.scan(prefix, starts_with=starts)
        assert [entry.key for entry in found] == wanted
        assert all(entry.value == repr(entry.key).encode() for entry in found)
        paged: list[base.Key] = []
        while page := await kv.scan(prefix, starts_with=starts, after=paged[-1] if paged else None, limit=2):
            paged += [entry.key for entry in page]
        assert paged == wanted
        assert [entry.key async for entry in kv.snapshot(prefix)] == [
            n for n in in_order(names) if n[: len(prefix)] == prefix
        ]

    @pytest.mark.requirement("stores:kv:ttl")
    async def test_a_key_is_gone_when_its_time_to_live_has_passed(self, kv: base.KV, clock: clocks.FrozenClock) -> None:
        ended = await kv.put(("short",), b"1", ttl=10)
        await kv.put(("long",), b"2", ttl=100)
        entry = await kv.get(("short",))
        assert entry is not None
        assert entry.expires == clock.now() + 10
        clock.advance(10)
        assert await kv.get(("short",)) is None
        assert [entry.key for entry in await kv.scan(())] == [("long",)]
        assert [entry.key async for entry in kv.snapshot()] == [("long",)]
        with pytest.raises(errors.Conflict):
            await kv.put(("short",), b"x", expect=ended)
        await kv.put(("short",), b"3", expect=base.ABSENT)
        clock.advance(1000)
        entry = await kv.get(("short",))
        assert entry is not None, "a write without a time to live ends the old one"

    @pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf")])
    async def test_a_time_to_live_is_a_positive_number(self, kv: base.KV, ttl: float) -> None:
        with pytest.raises(ValueError, match="time to live"):
            await kv.put(("a",), b"", ttl=ttl)

    @pytest.mark.requirement("stores:kv:watch")
    async def test_watchers_have_heard_of_a_change_before_the_write_returns(self, kv: base.KV) -> None:
        heard: list[base.Change] = []
        end = kv.watch(("a",), heard.append)
        first = await kv.put(("a",), b"0")
        assert [(c.key, c.value, c.revision) for c in heard] == [(("a",), b"0", first)]
        await kv.put(("ab",), b"1")
        await kv.put(("b", "a"), b"1")
        second = await kv.apply([base.Put(("a", "b"), b"2"), base.Delete(("a",)), base.Put(("c",), b"")])
        assert [(c.key, c.value, c.revision) for c in heard[1:]] == [
            (("a", "b"), b"2", second),
            (("a",), None, second),
        ]
        end()
        end()
        await kv.put(("a",), b"3")
        assert len(heard) == 3

    @pytest.mark.requirement("stores:kv:watch")
    async def test_a_watcher_hears_changes_in_the_order_of_their_revisions(self, kv: base.KV) -> None:
        heard: list[int] = []
        end = kv.watch((), lambda change: heard.append(change.revision))
        revisions = await asyncio.gather(*[kv.put(("k", str(n % 7)), b"%d" % n) for n in range(100)])
        end()
        assert heard == sorted(revisions)

    @pytest.mark.requirement("stores:kv:snapshot")
    async def test_a_snapshot_is_of_one_moment_while_writes_go_on(self, kv: base.KV) -> None:
        for start in range(0, 1200, 100):
            await kv.apply([base.Put(("k", f"{n:04}"), b"old") for n in range(start, start + 100)])
        seen: dict[base.Key, bytes] = {}
        async for entry in kv.snapshot(("k",)):
            if not seen:
                await kv.put(("k", "1199"), b"new")
                await kv.delete(("k", "1198"))
                await kv.put(("k", "2000"), b"new")
            seen[entry.key] = entry.value
        assert len(seen) == 1200
        assert set(seen.values()) == {b"old"}

    @pytest.mark.requirement("stores:kv:cancel")
    async def test_a_cancelled_write_is_decided_before_the_cancellation_is_heard(self, kv: base.KV) -> None:
        for attempt in range(20):
            writing = asyncio.create_task(kv.put(("c", str(attempt)), b""))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])
            heard: list[base.Change] = []
            end = kv.watch(("c",), heard.append)
            present = await kv.get(("c", str(attempt)))
            await kv.put(("other",), b"")
            assert await kv.get(("c", str(attempt))) == present
            assert heard == []
            end()

    async def test_a_ping_answers_and_a_closed_store_says_so(self, kv: base.KV) -> None:
        await kv.ping()

    async def test_values_of_every_size_come_back(self, kv: base.KV) -> None:
        for size in (0, 1, 4095, 4096, 70_000, 2_000_000):
            await kv.put(("size",), bytes(size))
            entry = await kv.get(("size",))
            assert entry is not None
            assert entry.value == bytes(size)
