"""What one caller's message may cost everybody else."""

import time

import pytest

from smcp.kernel import errors, jsonrpc

_HEAD = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"a":"'
_BODIES = {
    "one long text": _HEAD + b"a" * 900_000 + b'","b":[' + b"[]," * 70 + b"1]}}",
    "brackets only": _HEAD + b'","b":[' + b"[]," * 300_000 + b"1]}}",
}


@pytest.mark.requirement("review:json:cost")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES)
def test_looking_for_depth_costs_no_more_than_reading(body: bytes) -> None:
    def cost(max_depth: int) -> float:
        times: list[float] = []
        for _ in range(5):
            began = time.process_time()
            jsonrpc.parse(body, max_depth=max_depth)
            times.append(time.process_time() - began)
        return min(times)

    # With the cap above the number of brackets the search for depth is skipped.
    assert cost(64) < 3 * cost(1_000_000) + 0.02


@pytest.mark.requirement("review:json:cost")
@pytest.mark.parametrize("text", [rb'"[[[\"[[["', rb'"\\"', rb'"a\\\"["', b'""'])
def test_brackets_in_texts_are_no_depth(text: bytes) -> None:
    body = _HEAD + b'","b":[' + text + b",[[[]]]" + b',"' + b"[" * 90 + b'"]}}'
    assert jsonrpc.parse(body, max_depth=6).method == "tools/call"
    with pytest.raises(errors.TooDeep):
        jsonrpc.parse(body, max_depth=5)
