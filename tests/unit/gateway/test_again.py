"""What of a lost call is decided where, without a platform around it."""

import asyncio

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import calls


class Pipe:
    """A copy that a test speaks for."""

    def __init__(self, *, modern: bool) -> None:
        self.sent: list[bytes] = []
        self.calls = calls.Calls(modern=modern, write=self.sent.append, stray=lambda data, method: None, limit=64)

    def progress(self, token: str, value: str) -> None:
        """It tells of progress."""
        params = f'{{"progressToken":{token},"progress":{value}}}'
        self.calls.received(jsonrpc.notification("notifications/progress", params.encode()))


def message(token: str = "") -> jsonrpc.Message:
    """A call, with a progress token."""
    params = f'{{"name":"x","_meta":{{"progressToken":{token}}}}}' if token else '{"name":"x"}'
    decoded = jsonrpc.decode(params.encode())
    return jsonrpc.Message(jsonrpc.Kind.REQUEST, "tools/call", decoded, b"7", params.encode(), b"")


def told(call: calls.Call) -> list[object]:
    """The progress that its reader gets."""
    found: list[object] = []
    while call.frames:
        found.append(jsonrpc.decode(call.take())["params"]["progress"])
    return found


@pytest.mark.requirement("gateway:lost:progress")
@pytest.mark.parametrize("modern", [True, False])
async def test_progress_that_was_told_is_not_told_again(modern: bool) -> None:
    first, second = Pipe(modern=modern), Pipe(modern=modern)
    number, call = first.calls.send(message('"t"'))
    token = str(number) if modern else '"t"'
    for value in ("1", "2.5"):
        first.progress(token, value)
    first.calls.close(errors.ServerFailed("gone"))
    assert call.done
    call.restart()
    assert told(call) == [1, 2.5]  # what came before it was lost is not lost
    number = second.calls.again(call, message('"t"'))
    token = str(number) if modern else '"t"'
    for value in ("1", "2", "2.5", '"odd"', "3"):
        second.progress(token, value)
    assert told(call) == [3]
    second.calls.received(jsonrpc.result(b"%d" % number, b"{}"))
    assert (call.response, call.failure) == (jsonrpc.result(b"7", b"{}"), None)


@pytest.mark.requirement("gateway:lost:told")
async def test_only_calls_that_lost_their_copy_say_so() -> None:
    pipe = Pipe(modern=True)
    _, answered = pipe.calls.send(message())
    number, slow = pipe.calls.send(message())
    pipe.calls.received(jsonrpc.result(b"1", b"{}"))
    pipe.calls.cancel(number, "timed out", errors.ServerTimeout())
    _, lost = pipe.calls.send(message())
    pipe.calls.close(errors.ServerFailed("gone"))
    assert [call.past is not None and call.past.lost for call in (answered, slow, lost)] == [False, False, True]
    assert answered.past is None  # a call that goes well keeps nothing


@pytest.mark.requirement("gateway:lost:unsent")
async def test_what_was_never_written_is_known() -> None:
    pipe = Pipe(modern=True)
    _, there = pipe.calls.send(message())
    _, never = pipe.calls.send(message())
    pipe.calls.unsent([pipe.sent[1], jsonrpc.notification("notifications/initialized"), b"no JSON"])
    pipe.calls.close(errors.ServerFailed("gone"))
    assert [call.past is not None and call.past.unsent for call in (there, never)] == [False, True]


@pytest.mark.requirement("gateway:lost:asked")
async def test_a_legacy_question_counts_for_every_call_in_flight() -> None:
    pipe = Pipe(modern=False)
    made = [pipe.calls.send(message())[1] for _ in range(2)]
    pipe.calls.received(b'{"jsonrpc":"2.0","id":"q","method":"roots/list"}')
    _, later = pipe.calls.send(message())
    assert [call.past is not None and call.past.asked for call in (*made, later)] == [True, True, False]


@pytest.mark.requirement("gateway:lost:told")
async def test_who_cancels_a_call_between_two_copies_ends_it() -> None:
    first = Pipe(modern=True)
    number, call = first.calls.send(message())
    first.calls.close(errors.ServerFailed("gone"))
    call.restart()
    first.calls.park(number, call)
    waiting = asyncio.ensure_future(call.wait())
    first.calls.cancel(number, "the client cancelled it", errors.BadRequest(calls.CANCELLED))
    await waiting
    assert str(call.failure) == f"bad_request: {calls.CANCELLED}"
