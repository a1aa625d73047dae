"""Lists of buckets: the same as a simple model's, page by page."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import backends
from contract.backends import ACME
from contract.kv import UNHURRIED
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import bucket_lists, bucket_model, buckets
from smcp.stores import tenant as stores
from support.buckets import pieces


class Kit:
    """A bucket on a loop that outlives a test's examples."""

    def __init__(self, runner: asyncio.Runner, store: stores.Store) -> None:
        self.runner = runner
        self.counts = store.counts
        self.bucket = buckets.Buckets(store).bucket(ACME, "photos")

    def filled(self, keys: list[str]) -> None:
        async def fill() -> None:
            await self.bucket.empty()
            await asyncio.gather(*[self.bucket.put(key, pieces()) for key in keys])

        self.runner.run(fill())


@pytest.fixture
def kit() -> Iterator[Kit]:
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as directory:
        store = runner.run(backends.opened(Path(directory), clocks.FrozenClock()))
        yield Kit(runner, store)
        runner.run(store.close())


def expected(keys: set[str], prefix: str, delimiter: str, start_after: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix) or key.encode() <= start_after.encode():
            continue
        head, middle, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        entry = ("prefix", prefix + head + middle) if middle else ("key", key)
        if entry not in found:
            found.append(entry)
    return found


async def paged(
    bucket: buckets.Bucket, limit: int, prefix: str = "", delimiter: str = "", start_after: str = ""
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    cursor = ""
    while True:
        page = await bucket.page(
            prefix=prefix, delimiter=delimiter, start_after=start_after, cursor=cursor, limit=limit
        )
        rows = [("key", listed.key) for listed in page.objects] + [("prefix", text) for text in page.prefixes]
        assert len(rows) <= limit
        assert rows or page.cursor is None
        found += sorted(rows, key=lambda row: row[1].encode())
        if page.cursor is None:
            return found
        cursor = page.cursor


texts = st.text(st.sampled_from("ab/é\U0010ffff\0"), min_size=1, max_size=5)


@pytest.mark.requirement("workers:objects:list")
@given(
    keys=st.sets(texts, max_size=25),
    prefix=st.just("") | texts.map(lambda text: text[:2]),
    delimiter=st.sampled_from(["", "/", "a/", "\U0010ffff"]),
    start_after=st.just("") | texts,
    limit=st.integers(1, 7),
)
@settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
def test_a_list_in_pages_is_the_models(
    kit: Kit, keys: set[str], prefix: str, delimiter: str, start_after: str, limit: int
) -> None:
    kit.filled(list(keys))
    found = kit.runner.run(paged(kit.bucket, limit, prefix, delimiter, start_after))
    assert found == expected(keys, prefix, delimiter, start_after)


@pytest.mark.requirement("workers:objects:list")
def test_a_common_prefix_of_many_keys_costs_few_reads(kit: Kit) -> None:
    keys = [f"{folder}/{n:03d}" for folder in "abcd" for n in range(150)]
    kit.filled([*keys, "e"])
    counts = kit.counts
    before = counts.bytes.copy()
    page = kit.runner.run(kit.bucket.page(delimiter="/", limit=10))
    assert page.prefixes == ("a/", "b/", "c/", "d/")
    assert [listed.key for listed in page.objects] == ["e"]
    read = sum((counts.bytes - before).values())
    whole = kit.runner.run(kit.bucket.page()).objects
    assert len(whole) == 601
    assert read * 2 < sum((counts.bytes - before).values()) - read


@pytest.mark.requirement("workers:objects:list")
def test_an_answer_stays_within_its_size(kit: Kit) -> None:
    custom = {"k": "v" * 2000}

    async def fill() -> None:
        about = bucket_model.About(custom=custom)
        await asyncio.gather(*[kit.bucket.put(f"k{n}", pieces(), about=about) for n in range(8)])
        page = await kit.bucket.page(most_bytes=5000)
        assert 1 <= len(page.objects) <= 4
        assert page.cursor is not None
        assert len((await kit.bucket.page(most_bytes=1)).objects) == 1
        assert len((await kit.bucket.page()).objects) == 8

    kit.runner.run(fill())


@pytest.mark.requirement("workers:objects:cursor")
@pytest.mark.parametrize("cursor", ["x", "é", "cA==", "eGFi", "/w==", "a" * 7])
def test_a_cursor_that_was_made_up_is_refused(kit: Kit, cursor: str) -> None:
    async def ask() -> None:
        with pytest.raises(errors.ObjectRefused):
            await kit.bucket.page(cursor=cursor)

    kit.runner.run(ask())
    assert bucket_lists.MOST_BYTES < 1024 * 1024
