"""What waits in memory for one tenant's readers is bounded over all its calls and copies, and given back."""

import msgspec
import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import budgets, calls

_SIZE = 10_000


def _table(budget: budgets.Budget) -> calls.Calls:
    return calls.Calls(modern=True, write=lambda data: None, stray=lambda data, method: None, limit=64, budget=budget)


def _send(table: calls.Calls) -> tuple[int, calls.Call]:
    return table.send(jsonrpc.Message(jsonrpc.Kind.REQUEST, "tools/call", {}, b"7", b"{}", b""))


def _answer(table: calls.Calls, number: int, size: int) -> None:
    table.received(jsonrpc.result(b"%d" % number, msgspec.json.encode("x" * size)))


@pytest.mark.requirement("review:memory:tenant-budget")
async def test_answers_of_several_copies_share_one_budget_and_give_it_back() -> None:
    budget = budgets.Budget(_SIZE)
    one, other = _table(budget), _table(budget)
    (first, kept), (second, refused) = _send(one), _send(other)
    _answer(one, first, 6_000)
    _answer(other, second, 6_000)
    assert kept.code is None
    assert kept.failure is None
    assert isinstance(refused.failure, errors.Unavailable)
    kept.release()
    kept.release()
    third, again = _send(other)
    _answer(other, third, 6_000)
    assert again.failure is None
    again.release()
    assert budget.take(_SIZE)
    assert not budget.take(1)


@pytest.mark.requirement("review:memory:tenant-budget")
async def test_interim_messages_count_until_they_are_read_or_their_call_is_over() -> None:
    budget = budgets.Budget(_SIZE)
    _, call = _send(_table(budget))
    call.push(b"x" * 4_000)
    call.push(b"x" * 4_000)
    assert not budget.take(4_000)
    call.take()
    assert budget.take(4_000)
    call.push(b"x" * 4_000)
    assert isinstance(call.failure, errors.Unavailable)
    budget.give(4_000)
    call.release()
    assert budget.take(_SIZE)
