"""Large results on disk: what is taken for one, and what comes back."""

import asyncio
import contextlib
import json
import os
import pathlib
from collections.abc import Generator
from typing import Any

import pytest

from smcp.kernel import errors
from smcp.runtime import budgets, spool

_ROOM = 64 << 20


@pytest.fixture
def spools(tmp_path: pathlib.Path) -> Generator[spool.Spools]:
    """In a directory of the test's."""
    made = spool.Spools(str(tmp_path))
    yield made
    made.close()


async def kept(spools: spool.Spools, data: bytes, step: int = 100_003) -> spool.Line:
    """`data` as a line that has come in steps, on disk."""
    ended = asyncio.Event()
    budget = budgets.Budget(_ROOM)
    line = spool.Line(spools.open(budget.take, budget.give), lambda _: None, lambda _: ended.set())
    for at in range(0, len(data), step):
        assert line.feed(data[at : at + step])
        await asyncio.sleep(0)
    line.end()
    await asyncio.wait_for(ended.wait(), 60)
    return line


async def result(spools: spool.Spools, data: bytes) -> Any:
    """The result that is found in `data`, in pieces and as a whole alike; None when none is."""
    line = await kept(spools, data)
    assert line.failure == ""
    if not isinstance(line.found, tuple):
        return None
    assert line.found[0] == 12
    pieces = [piece async for piece in line.found[1].pieces()]
    assert max(map(len, pieces)) <= spool.PIECE
    whole = b"".join(pieces)
    assert whole == await line.found[1].whole()
    assert len(whole) == line.found[1].size
    line.found[1].close()
    return json.loads(whole)


_TEXTS = [
    "x" * 200_000,
    'a "quoted\\ text\\" with {brackets] and \\u00e4 in it' * 4000,
    "\\" * 131_072,
    "ä€😀" * 30_000,
]


@pytest.mark.requirement("runtime:spool:envelope")
@pytest.mark.parametrize("text", _TEXTS, ids=["plain", "quotes", "backslashes", "unicode"])
@pytest.mark.parametrize(
    "order", ["jsonrpc id result", "result jsonrpc id", "id result jsonrpc", "jsonrpc result id", "result id jsonrpc"]
)
async def test_a_result_is_found_wherever_the_id_stands(spools: spool.Spools, text: str, order: str) -> None:
    value: dict[str, Any] = {
        "content": [{"type": "text", "text": text}],
        "id": 7,
        "x": [[], {}, {"jsonrpc": "2.0"}],
        "n": {"id": 5},
    }
    members: dict[str, Any] = {"jsonrpc": "2.0", "id": 12, "result": value}
    message: dict[str, Any] = {name: members[name] for name in order.split()}
    for data in (
        json.dumps(message).encode(),
        json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode(),
        b" " + json.dumps(message).encode() + b" \r",
    ):
        assert await result(spools, data) == value


@pytest.mark.requirement("runtime:spool:envelope")
async def test_what_is_no_plain_result_comes_back_as_it_was(spools: spool.Spools) -> None:
    big = "y" * 300_000
    for data in (
        json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"message": big}}).encode(),
        json.dumps({"jsonrpc": "2.0", "id": 12, "error": {"code": 1, "message": big}}).encode(),
        json.dumps({"jsonrpc": "2.0", "id": "twelve", "result": {"text": big}}).encode(),
        json.dumps({"jsonrpc": "2.0", "id": 12, "result": {"text": big}, "extra": 1}).encode(),
        json.dumps({"jsonrpc": "2.0", "id": 12, "result": big}).encode(),
        json.dumps({"id": 12, "result": {"text": big}}).encode(),
        b'{"jsonrpc":"2.0","id":12,"id":12,"result":{"text":"%b"}}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b"},"id":13}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b"}}}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b"},{}}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b}}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b\\"}}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{}},{"text":"%b"}' % big.encode(),
        b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b\xff"}}' % big.encode(),
        b"no JSON " + big.encode(),
    ):
        assert (await kept(spools, data)).found == data


@pytest.mark.requirement("runtime:spool:envelope")
@pytest.mark.parametrize("before", [0, 1, 4095, 4096, 4097, 100_000])
async def test_brackets_are_matched_over_any_number_of_them(spools: spool.Spools, before: int) -> None:
    text = b"y" * 300_000
    inside = b"[" * before + b"]" * before + b"{}" * before
    data = b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b"%b}}'
    line = await kept(spools, data % (text, inside))
    assert isinstance(line.found, tuple)
    line.found[1].close()
    for left in (inside + b"}{", b"}{" + inside, inside + b"]]]", b"[" + inside):
        assert (await kept(spools, data % (text, left))).found == data % (text, left)


@pytest.mark.requirement("runtime:spool:bounded")
async def test_a_line_that_is_no_plain_result_and_larger_than_memory_may_hold_is_given_up(spools: spool.Spools) -> None:
    line = await kept(spools, b"z" * (spool.IN_MEMORY + 1), 1 << 20)
    assert line.found is None
    line.drop()


@pytest.mark.requirement("runtime:spool:bounded")
async def test_what_waits_on_disk_counts_until_it_is_closed(spools: spool.Spools) -> None:
    budget = budgets.Budget(3_000_000)
    paused: list[bool] = []
    first = spool.Line(spools.open(budget.take, budget.give), paused.append, lambda _: None)
    second = spool.Line(spools.open(budget.take, budget.give), paused.append, lambda _: None)
    assert first.feed(bytes(2_000_000))
    assert paused == []  # it was taken for writing at once
    assert first.feed(bytes(900_000))
    assert paused == []
    assert not second.feed(bytes(200_000))
    first.drop()
    first.drop()
    assert second.feed(bytes(2_900_000))
    assert second.feed(bytes(100_000))
    assert not second.feed(b"x")
    second.drop()
    assert budget.take(3_000_000)


@pytest.mark.requirement("runtime:spool:bounded")
async def test_the_pipe_waits_for_the_disk(spools: spool.Spools) -> None:
    ended, resumed = asyncio.Event(), asyncio.Event()
    paused: list[bool] = []

    def pause(stop: bool) -> None:
        paused.append(stop)
        if not stop:
            resumed.set()

    budget = budgets.Budget(_ROOM)
    line = spool.Line(spools.open(budget.take, budget.give), pause, lambda _: ended.set())
    for _ in range(20):
        assert line.feed(bytes(spool.PIECE * 4))
    assert paused == [True]
    await asyncio.wait_for(resumed.wait(), 60)
    assert paused == [True, False]
    line.end()
    await asyncio.wait_for(ended.wait(), 60)
    assert line.spool.size == 20 * spool.PIECE * 4
    line.drop()


def _opened(below: pathlib.Path) -> list[pathlib.Path]:
    """The descriptors of this process whose files are or were in a directory."""
    found: list[pathlib.Path] = []
    for one in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of another thread, and closed meanwhile
            if os.readlink(one).startswith(str(below)):
                found.append(one)
    return found


def _changed(file: pathlib.Path) -> bytes:
    """What an open file holds; then a part of it is overwritten."""
    stored = file.read_bytes()
    with file.open("r+b") as opened:
        opened.seek(100_000)
        opened.write(b"changed")
    return stored


@pytest.mark.requirement("runtime:spool:sealed")
async def test_a_disk_sees_noise_and_no_name_and_nothing_stays(spools: spool.Spools, tmp_path: pathlib.Path) -> None:
    line = await kept(spools, b'{"jsonrpc":"2.0","id":12,"result":{"text":"%b"}}' % (b"canary" * 50_000))
    assert os.listdir(tmp_path) == []
    [mine] = _opened(tmp_path)
    stored = _changed(mine)
    assert len(stored) > 300_000
    assert b"canary" not in stored
    assert isinstance(line.found, tuple)
    with pytest.raises(errors.Unavailable):
        await line.found[1].whole()
    line.found[1].close()
    spools.close()
    assert _opened(tmp_path) == []
    with pytest.raises(errors.Unavailable):
        await line.found[1].whole()


@pytest.mark.requirement("runtime:spool:bounded")
async def test_a_disk_that_takes_nothing_is_told_and_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    spools = spool.Spools(str(tmp_path / "missing"))
    line = await kept(spools, bytes(1_000_000))
    assert line.failure.startswith("it could not be kept: ")
    line.drop()
    spools.close()
