"""Results that their caller is given in another form: from memory and from disk, whole or not at all."""

import asyncio
import pathlib

import msgspec
import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import budgets, calls, spool


def _called(method: str) -> tuple[calls.Calls, int, calls.Call]:
    made = calls.Calls(
        modern=True, write=lambda _: None, stray=lambda _data, _method: None, limit=8, budget=budgets.Budget(64 << 20)
    )
    message = jsonrpc.Message(jsonrpc.Kind.REQUEST, method, {}, b'"mine"', b"{}", b"")
    number, call = made.send(message)
    return made, number, call


def _halved(result: bytes | msgspec.Raw) -> bytes:
    told = jsonrpc.obj(jsonrpc.decode(bytes(result)))
    if told is None or "tools" not in told:
        raise errors.ParseError("no list")
    return jsonrpc.encode({"tools": told["tools"][::2]})


async def _kept(directory: pathlib.Path, data: bytes) -> tuple[spool.Spools, tuple[int, spool.Result]]:
    """`data`, a large response, as it stands on disk."""
    spools, ended, budget = spool.Spools(str(directory)), asyncio.Event(), budgets.Budget(64 << 20)
    line = spool.Line(spools.open(budget.take, budget.give), lambda _: None, lambda _: ended.set())
    for at in range(0, len(data), 100_003):
        assert line.feed(data[at : at + 100_003])
        await asyncio.sleep(0)
    line.end()
    await asyncio.wait_for(ended.wait(), 60)
    assert isinstance(line.found, tuple)
    return spools, line.found


def _response(number: int, tools: list[str]) -> bytes:
    return jsonrpc.result(b"%d" % number, jsonrpc.encode({"tools": tools}))


@pytest.mark.requirement("oauth:tools:large")
async def test_a_result_is_shaped_before_anybody_can_read_it() -> None:
    made, number, call = _called("tools/list")
    call.shape = _halved
    made.received(_response(number, ["a", "b", "c"]))
    assert jsonrpc.decode(call.response)["result"] == {"tools": ["a", "c"]}

    made, number, call = _called("tools/list")
    call.shape = _halved
    with pytest.raises(errors.ParseError):
        made.received(jsonrpc.result(b"%d" % number, b'{"other":["a"]}'))
    assert isinstance(call.failure, errors.ServerFailed)
    assert call.response == b""


@pytest.mark.requirement("oauth:tools:large")
@pytest.mark.parametrize(("tools", "good"), [(40_000, True), (400_000, False)])
async def test_a_result_on_disk_is_shaped_too_and_one_beyond_all_measure_is_given_to_nobody(
    tmp_path: pathlib.Path, tools: int, good: bool
) -> None:
    made, number, call = _called("tools/list")
    call.shape = _halved
    names = [f"tool-{at:08}" for at in range(tools)]
    spools, (of, result) = await _kept(tmp_path, _response(number, names))
    try:
        assert of == number
        made.spooled(number, result)
        await asyncio.wait_for(call.wait(), 60)
        assert call.spooled is None
        if good:
            assert jsonrpc.decode(call.response)["result"] == {"tools": names[::2]}
        else:
            assert isinstance(call.failure, errors.ServerFailed)
    finally:
        spools.close()
