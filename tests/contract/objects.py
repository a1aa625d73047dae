"""What every objects back end does. A back end inherits `ObjectsContract` and gives the fixture `objects`."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.kv import UNHURRIED, in_order, key_lists
from smcp.kernel import errors
from smcp.stores.objects import base


async def pieces(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


async def whole(objects: base.Objects, name: base.Name, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([part async for part in objects.get(name, start=start, end=end)])


def pattern(size: int) -> bytes:
    """Bytes that differ from place to place, so that a moved piece shows."""
    return b"".join(n.to_bytes(4, "big") for n in range(size // 4 + 1))[:size]


class ObjectsContract:
    """Inherit, and define fixture `objects`."""

    @pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 12_000_000])
    async def test_an_object_comes_back_whole_whatever_its_size(self, objects: base.Objects, size: int) -> None:
        data = pattern(size)
        parts = [data[at : at + 100_000] for at in range(0, size, 100_000)]
        assert await objects.put(("big",), pieces(b"", *parts)) == size
        assert await objects.head(("big",)) == base.Info(("big",), size)
        assert await whole(objects, ("big",)) == data

    @given(data=st.data())
    @settings(max_examples=40, deadline=None, suppress_health_check=UNHURRIED)
    async def test_every_range_is_the_slice_that_it_names(self, objects: base.Objects, data: st.DataObject) -> None:
        size = 200_000
        if await objects.head(("r",)) is None:
            await objects.put(("r",), pieces(pattern(size)))
        place = st.sampled_from([0, 1, 65535, 65536, 65537, 131072, 196608, size - 1, size, size + 1, size + 70000])
        start = data.draw(place | st.integers(0, size + 10))
        end = data.draw(st.none() | place | st.integers(0, size + 10))
        assert await whole(objects, ("r",), start, end) == pattern(size)[start:end]

    @pytest.mark.requirement("stores:objects:create-only")
    async def test_an_object_is_written_once(self, objects: base.Objects) -> None:
        await objects.put(("a",), pieces(b"first"))
        with pytest.raises(errors.Conflict):
            await objects.put(("a",), pieces(b"second"))
        assert await whole(objects, ("a",)) == b"first"

    @pytest.mark.requirement("stores:objects:create-only")
    async def test_of_many_writers_of_one_name_one_wins_whole(self, objects: base.Objects) -> None:
        async def write(writer: int) -> bool:
            try:
                await objects.put(("race",), pieces(*[b"%02d" % writer] * 50_000))
            except errors.Conflict:
                return False
            return True

        won = await asyncio.gather(*[write(writer) for writer in range(6)])
        assert won.count(True) == 1
        assert await whole(objects, ("race",)) == b"%02d" % won.index(True) * 50_000

    @pytest.mark.requirement("stores:objects:whole-or-absent")
    @pytest.mark.parametrize("raised", [errors.QuotaExceeded, errors.TooLarge, ValueError, OSError])
    async def test_nothing_is_stored_when_the_source_fails(
        self, objects: base.Objects, raised: type[Exception]
    ) -> None:
        async def failing() -> AsyncGenerator[bytes, None]:
            yield bytes(6_000_000)
            raise raised("the source broke")

        with pytest.raises(raised, match="the source broke"):
            await objects.put(("a",), failing())
        assert await objects.head(("a",)) is None
        assert await objects.list(()) == []
        await objects.put(("a",), pieces(b"later"))
        assert await whole(objects, ("a",)) == b"later"

    @pytest.mark.requirement("stores:objects:whole-or-absent")
    async def test_nothing_is_visible_before_the_end_nor_after_a_cancellation(self, objects: base.Objects) -> None:
        begun, forever = asyncio.Event(), asyncio.Event()

        async def stalling() -> AsyncGenerator[bytes, None]:
            yield bytes(6_000_000)
            begun.set()
            await forever.wait()
            yield b""

        writing = asyncio.create_task(objects.put(("a",), stalling()))
        await begun.wait()
        assert await objects.head(("a",)) is None
        assert await objects.list(()) == []
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await objects.head(("a",)) is None

    async def test_what_does_not_exist_is_not_found(self, objects: base.Objects) -> None:
        assert await objects.head(("a",)) is None
        with pytest.raises(errors.NotFound):
            await whole(objects, ("a",))
        with pytest.raises(errors.NotFound):
            await whole(objects, ("a",), 5, 5)
        await objects.delete(("a",))

    async def test_a_deleted_object_is_gone_and_its_name_free(self, objects: base.Objects) -> None:
        await objects.put(("a",), pieces(b"1"))
        await objects.put(("a", "b"), pieces(b"2"))
        await objects.delete(("a",))
        assert await objects.head(("a",)) is None
        assert await whole(objects, ("a", "b")) == b"2"
        await objects.put(("a",), pieces(b"3"))
        assert await whole(objects, ("a",)) == b"3"

    @given(names=key_lists)
    @settings(max_examples=15, deadline=None, suppress_health_check=UNHURRIED)
    async def test_listing_gives_names_below_a_prefix_in_order_and_in_pages(
        self, objects: base.Objects, names: list[base.Name]
    ) -> None:
        for info in await objects.list(()):
            await objects.delete(info.name)
        for name in names:
            await objects.put(name, pieces(repr(name).encode()))
        for prefix in {(), names[0], names[0][:1]}:
            wanted = [name for name in in_order(names) if name[: len(prefix)] == prefix]
            assert [info.name for info in await objects.list(prefix)] == wanted
            paged: list[base.Name] = []
            while page := await objects.list(prefix, after=paged[-1] if paged else None, limit=2):
                paged += [info.name for info in page]
            assert paged == wanted
        assert await whole(objects, names[0]) == repr(names[0]).encode()

    @pytest.mark.requirement("stores:objects:names")
    @pytest.mark.parametrize(
        "name",
        [("..", "..", "x"), ("/etc/passwd",), (".",), ("%2e%2e",), ("a#1",), ("x" * 900,), ("é" * 300, "y"), ("A",)],
    )
    async def test_a_name_is_a_name_and_never_a_path(self, objects: base.Objects, name: base.Name) -> None:
        await objects.put(name, pieces(b"1"))
        await objects.put((*name, "below"), pieces(b"2"))
        assert await whole(objects, name) == b"1"
        assert [info.name for info in await objects.list(())] == [name, (*name, "below")]

    async def test_bad_names_and_ranges_are_refused(self, objects: base.Objects) -> None:
        for name in [(), ("",), ("a", "")]:
            with pytest.raises(ValueError, match="non-empty"):
                await objects.put(name, pieces(b""))
        await objects.put(("a",), pieces(b"1"))
        for start, end in [(-1, None), (0, -1)]:
            with pytest.raises(ValueError, match="range"):
                await whole(objects, ("a",), start, end)

    async def test_a_ping_answers(self, objects: base.Objects) -> None:
        await objects.ping()
