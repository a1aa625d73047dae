"""Many calls over one pipe: what is one client's never reaches another, whatever ids they or the server choose."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import calls

_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_LOG_LEVEL = "io.modelcontextprotocol/logLevel"


class Pipe:
    """The other end of a hosted server's pipe, and what came out of it for nobody in particular."""

    def __init__(self, *, modern: bool, limit: int = 64, limit_bytes: int = 1 << 20) -> None:
        self.sent: list[dict[str, Any]] = []
        self.strays: list[tuple[dict[str, Any], str]] = []
        self.broken = False
        self.modern = modern
        self.calls = calls.Calls(
            modern=modern,
            write=self._write,
            stray=lambda data, method: self.strays.append((json.loads(data), method)),
            limit=limit,
            limit_bytes=limit_bytes,
        )

    def _write(self, message: bytes) -> None:
        if self.broken:
            raise errors.ServerFailed("The hosted server does not read its input.")
        self.sent.append(json.loads(message))

    def call(
        self, id_: Any, method: str = "tools/call", params: dict[str, Any] | None = None
    ) -> tuple[int, calls.Call]:
        return self.calls.send(message(id_, method, params))

    def says(self, **frame: Any) -> None:
        """A message of the hosted server."""
        self.calls.received(json.dumps({"jsonrpc": "2.0", **frame}).encode())


def message(id_: Any, method: str = "tools/call", params: dict[str, Any] | None = None) -> jsonrpc.Message:
    tree = {"jsonrpc": "2.0", "id": id_, "method": method, **({} if params is None else {"params": params})}
    return jsonrpc.parse(json.dumps(tree).encode(), max_depth=32)


def notification(method: str, params: dict[str, Any]) -> jsonrpc.Message:
    return jsonrpc.parse(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode(), max_depth=32)


def response(id_: Any) -> jsonrpc.Message:
    return jsonrpc.parse(json.dumps({"jsonrpc": "2.0", "id": id_, "result": {}}).encode(), max_depth=32)


def frames(call: calls.Call) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while call.frames:
        found.append(json.loads(call.take()))
    return found


@pytest.fixture(params=[True, False], ids=["modern", "legacy"])
async def pipe(request: pytest.FixtureRequest) -> Pipe:
    return Pipe(modern=bool(request.param))


@pytest.mark.requirement("protocol:calls:ids")
async def test_two_clients_with_the_same_id_get_each_their_own_answer(pipe: Pipe) -> None:
    (one, first), (two, second) = pipe.call(1), pipe.call(1)
    pipe.says(id=two, result={"for": "second"})
    pipe.says(id=one, result={"for": "first"})
    assert json.loads(first.response) == {"jsonrpc": "2.0", "id": 1, "result": {"for": "first"}}
    assert json.loads(second.response) == {"jsonrpc": "2.0", "id": 1, "result": {"for": "second"}}
    assert len(pipe.calls) == 0


@pytest.mark.requirement("protocol:calls:ids")
@pytest.mark.parametrize("id_", [0, -1, 2**80, "", "1", 'quote"\\', "é"])
async def test_the_answer_carries_the_clients_id_as_it_was(pipe: Pipe, id_: Any) -> None:
    number, call = pipe.call(id_)
    pipe.says(id=number, error={"code": -32602, "message": "no"})
    answer = json.loads(call.response)
    assert (answer["id"], type(answer["id"]), call.code) == (id_, type(id_), -32602)


@pytest.mark.requirement("protocol:calls:ids", "protocol:calls:tokens")
async def test_ten_thousand_interleaved_calls_of_two_clients_with_equal_ids_and_tokens_never_cross(pipe: Pipe) -> None:
    # CVE-2026-25536. A legacy copy has one client, whose tokens it chooses itself; there only the ids are equal.
    modern = pipe.modern
    dice = random.Random(25536)
    waiting: list[tuple[int, calls.Call, str, int]] = []
    answered = 0
    for turn in range(10_000):
        canary = f"{'ab'[turn % 2]}-{turn}"
        token = turn // 2 % 50 if modern else turn
        number, call = pipe.call(turn // 2 % 100, params={"canary": canary, "_meta": {"progressToken": token}})
        sent = pipe.sent.pop()
        assert sent["id"] == number
        assert sent["params"]["canary"] == canary
        waiting.append((number, call, canary, token))
        theirs = sent["params"]["_meta"]["progressToken"]
        pipe.says(method="notifications/progress", params={"progressToken": theirs, "progress": 1, "message": canary})
        while len(waiting) > 200 or (waiting and dice.random() < 0.4):
            number, call, canary, token = waiting.pop(dice.randrange(len(waiting)))
            pipe.says(id=number, result={"canary": canary})
            [progress] = frames(call)
            assert progress["params"] == {"progressToken": token, "progress": 1, "message": canary}
            assert json.loads(call.response)["result"] == {"canary": canary}
            answered += 1
    assert answered + len(waiting) == 10_000
    assert len(pipe.calls) == len(waiting)


@pytest.mark.requirement("protocol:calls:tokens")
async def test_progress_goes_to_the_call_that_has_the_token_and_to_nobody_else() -> None:
    pipe = Pipe(modern=True)
    (_, first), (_, second) = (pipe.call(1, params={"_meta": {"progressToken": "t", "x": 1}, "y": 2}) for _ in "ab")
    tokens = [one["params"]["_meta"]["progressToken"] for one in pipe.sent]
    assert tokens[0] != tokens[1]
    assert pipe.sent[0]["params"] == {"_meta": {"progressToken": tokens[0], "x": 1}, "y": 2}
    pipe.says(method="notifications/progress", params={"progressToken": tokens[1], "progress": 5})
    pipe.says(method="notifications/progress", params={"progressToken": "t", "progress": 6})
    pipe.says(method="notifications/progress", params={"progressToken": 99, "progress": 7})
    assert frames(first) == []
    assert [one["params"] for one in frames(second)] == [{"progressToken": "t", "progress": 5}]


@pytest.mark.requirement("protocol:calls:tokens")
async def test_a_legacy_client_may_use_a_token_again_and_the_newer_call_keeps_it() -> None:
    pipe = Pipe(modern=False)
    (one, _), (_, second) = (pipe.call(n, params={"_meta": {"progressToken": "t"}}) for n in (1, 2))
    pipe.says(id=one, result={})
    pipe.says(method="notifications/progress", params={"progressToken": "t", "progress": 1})
    assert [frame["params"]["progress"] for frame in frames(second)] == [1]


@pytest.mark.requirement("protocol:calls:subscriptions")
async def test_a_subscriptions_notices_reach_its_own_listener_under_the_listeners_own_id() -> None:
    pipe = Pipe(modern=True)
    (one, first), (two, second) = (pipe.call("s", "subscriptions/listen") for _ in "ab")
    _, other = pipe.call("s")
    for number in (one, two, 12345, "s"):
        params = {"uri": f"to:{number}", "_meta": {_SUBSCRIPTION: number}}
        pipe.says(method="notifications/resources/updated", params=params)
    for call, number in ((first, one), (second, two)):
        assert [f["params"] for f in frames(call)] == [{"uri": f"to:{number}", "_meta": {_SUBSCRIPTION: "s"}}]
    assert frames(other) == []
    pipe.says(id=one, result={"_meta": {_SUBSCRIPTION: one}})
    assert json.loads(first.response)["result"] == {"_meta": {_SUBSCRIPTION: "s"}}
    pipe.says(method="notifications/cancelled", params={"requestId": two, "reason": "over"})
    assert [f["params"] for f in frames(second)] == [{"requestId": "s", "reason": "over"}]


@pytest.mark.requirement("protocol:calls:subscriptions")
async def test_a_subscription_id_does_not_open_a_call_that_listens_to_nothing() -> None:
    pipe = Pipe(modern=True)
    number, call = pipe.call(1)
    pipe.says(method="notifications/tools/list_changed", params={"_meta": {_SUBSCRIPTION: number}})
    assert frames(call) == []


@pytest.mark.requirement("protocol:calls:logs")
async def test_log_messages_go_to_the_one_call_that_asked_and_to_nobody_when_two_did() -> None:
    pipe = Pipe(modern=True)
    asking = {"_meta": {_LOG_LEVEL: "info"}}
    (one, first), (_, silent) = pipe.call(1, params=asking), pipe.call(2)
    pipe.says(method="notifications/message", params={"level": "info", "data": "one"})
    (_, second) = pipe.call(3, params=asking)
    pipe.says(method="notifications/message", params={"level": "info", "data": "whose?"})
    pipe.says(id=one, result={})
    pipe.says(method="notifications/message", params={"level": "info", "data": "two"})
    assert [f["params"]["data"] for f in frames(first)] == ["one"]
    assert [f["params"]["data"] for f in frames(second)] == ["two"]
    assert frames(silent) == []


@pytest.mark.requirement("protocol:calls:forged")
async def test_answers_that_nobody_waits_for_change_nothing(pipe: Pipe) -> None:
    number, call = pipe.call(1)
    forged: list[Any] = [0, -1, 999, str(number), float(number), None, True, [number], {"id": number}, 10**5000]
    for id_ in forged:
        if id_ == 10**5000:
            pipe.calls.received(b'{"jsonrpc":"2.0","id":%b,"result":{"forged":1}}' % (b"9" * 5000))
        else:
            pipe.says(id=id_, result={"forged": 1})
    pipe.calls.received(b'{"jsonrpc":"2.0","result":{"forged":1}}')
    assert not call.done
    pipe.says(id=number, result={"ok": 1})
    pipe.says(id=number, result={"again": 1})
    assert json.loads(call.response)["result"] == {"ok": 1}


@pytest.mark.requirement("protocol:calls:forged")
@pytest.mark.parametrize(
    "rest",
    [b"", b',"error":null', b',"error":5', b',"error":"no"', b',"error":[]'],
)
async def test_an_answer_that_is_none_fails_its_call_at_once(pipe: Pipe, rest: bytes) -> None:
    number, call = pipe.call(1)
    with pytest.raises(errors.ParseError):
        pipe.calls.received(b'{"jsonrpc":"2.0","id":%d%b}' % (number, rest))
    assert isinstance(call.failure, errors.ServerFailed)
    assert len(pipe.calls) == 0


@pytest.mark.requirement("protocol:calls:forged")
async def test_a_listeners_broken_answer_fails_it_at_once() -> None:
    pipe = Pipe(modern=True)
    for result in (5, {"_meta": 5}):
        number, call = pipe.call(1, "subscriptions/listen")
        with pytest.raises(errors.ParseError):
            pipe.says(id=number, result=result)
        assert isinstance(call.failure, errors.ServerFailed)


@pytest.mark.requirement("protocol:calls:forged")
async def test_a_null_error_beside_a_result_is_a_result(pipe: Pipe) -> None:
    number, call = pipe.call(1)
    pipe.says(id=number, result={"ok": 1}, error=None)
    assert (call.code, json.loads(call.response)) == (None, {"jsonrpc": "2.0", "id": 1, "result": {"ok": 1}})


@pytest.mark.requirement("protocol:calls:cancel")
async def test_a_cancelled_call_is_told_by_its_number_and_forgotten(pipe: Pipe) -> None:
    number, call = pipe.call("mine")
    pipe.calls.cancel(number, "the client has gone")
    pipe.calls.cancel(number, "again")
    assert pipe.sent[1:] == [
        {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": number, "reason": "the client has gone"},
        }
    ]
    pipe.says(id=number, result={})
    assert not call.done
    assert len(pipe.calls) == 0


@pytest.mark.requirement("protocol:calls:cancel")
async def test_a_legacy_clients_cancellation_names_our_number_and_only_for_a_call_in_flight() -> None:
    pipe = Pipe(modern=False)
    made = [pipe.call(id_) for id_ in (7, "7", "é", 2**80, 9)]
    numbers = [number for number, _ in made[:-1]]
    del pipe.sent[:]
    for id_ in (7, "7", "é", 2**80, 8, None, True, 7.0, [7]):
        pipe.calls.notify(notification("notifications/cancelled", {"requestId": id_, "reason": "x"}))
    assert [one["params"] for one in pipe.sent] == [{"requestId": n, "reason": "x"} for n in numbers]
    # A server need not answer what was cancelled: nobody may go on waiting for it, and a late answer is nobody's.
    assert [call.failure and call.failure.public for _, call in made[:-1]] == [calls.CANCELLED] * 4
    assert len(pipe.calls) == 1
    pipe.says(id=numbers[0], result={})
    assert not made[-1][1].done


@pytest.mark.requirement("protocol:calls:cancel")
async def test_a_legacy_call_whose_client_hung_up_goes_on_can_be_cancelled_and_takes_nothing_from_others() -> None:
    pipe = Pipe(modern=False)
    (one, first), (two, second) = pipe.call(1), pipe.call(2)
    pipe.calls.abandon(two)
    pipe.says(id="q", method="elicitation/create", params={})
    assert [frame["id"] for frame in frames(first)] == ["q"]
    assert frames(second) == []
    pipe.calls.notify(notification("notifications/cancelled", {"requestId": 2}))
    assert pipe.sent[-1]["params"]["requestId"] == two
    pipe.says(id=two, result={})
    pipe.says(id=one, result={})
    assert len(pipe.calls) == 0


@pytest.mark.requirement("protocol:calls:bounded")
async def test_calls_that_were_left_and_never_answered_are_forgotten_in_the_end() -> None:
    pipe = Pipe(modern=False)
    for id_ in range(2000):
        number, _ = pipe.call(id_)
        pipe.calls.abandon(number)
    assert len(pipe.calls) <= 256


@pytest.mark.requirement("protocol:calls:routing")
async def test_a_legacy_servers_own_messages_go_to_the_newest_call_or_to_the_sessions_stream() -> None:
    pipe = Pipe(modern=False)
    pipe.says(method="notifications/message", params={"data": "early"})
    (_, first), (_, second) = pipe.call(1), pipe.call(2)
    pipe.says(method="notifications/message", params={"data": "log"})
    pipe.says(id="q-1", method="sampling/createMessage", params={"x": 1})
    pipe.says(method="notifications/tools/list_changed")
    pipe.says(method="notifications/resources/updated", params={"uri": "a:b"})
    assert frames(first) == []
    assert [frame["method"] for frame in frames(second)] == ["notifications/message", "sampling/createMessage"]
    assert [method for _, method in pipe.strays] == [
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    ]


@pytest.mark.requirement("protocol:calls:routing")
async def test_what_a_legacy_server_says_during_initialize_is_kept_for_the_stream() -> None:
    pipe = Pipe(modern=False)
    _, call = pipe.call(1, "initialize")
    pipe.says(method="notifications/message", params={"data": "hello"})
    assert (frames(call), [method for _, method in pipe.strays]) == ([], ["notifications/message"])


@pytest.mark.requirement("protocol:calls:routing")
async def test_a_modern_server_may_not_ask_and_its_notices_need_an_address() -> None:
    pipe = Pipe(modern=True)
    _, call = pipe.call(1)
    with pytest.raises(errors.ParseError):
        pipe.says(id=1, method="sampling/createMessage", params={})
    pipe.says(method="notifications/tools/list_changed")
    pipe.says(method="notifications/made_up", params={"x": 1})
    assert (frames(call), pipe.strays) == ([], [])


@pytest.mark.requirement("protocol:calls:answers")
async def test_a_client_answers_only_what_was_asked_and_only_once() -> None:
    pipe = Pipe(modern=False)
    asked: list[Any] = ["q", 5, "é", 2**70]
    for id_ in asked:
        pipe.says(id=id_, method="roots/list")
    del pipe.sent[:]
    assert [pipe.calls.answer(response(id_)) for id_ in ("unasked", "5", 6)] == [False] * 3
    assert [pipe.calls.answer(response(id_)) for id_ in asked] == [True] * 4
    assert [pipe.calls.answer(response(id_)) for id_ in asked] == [False] * 4
    assert [one["id"] for one in pipe.sent] == asked


@pytest.mark.requirement("protocol:calls:bounded")
async def test_what_a_legacy_server_asks_is_remembered_up_to_a_bound() -> None:
    pipe = Pipe(modern=False)
    for id_ in range(5000):
        pipe.says(id=id_, method="roots/list")
    assert [pipe.calls.answer(response(id_)) for id_ in (0, 4999)] == [False, True]
    for odd in (None, True, 1.5, [1], "x" * 300):
        with pytest.raises(errors.ParseError):
            pipe.says(id=odd, method="roots/list")


@pytest.mark.requirement("protocol:calls:slow-reader")
@pytest.mark.parametrize(("size", "held"), [(1, 8), (300, 3)])
async def test_a_slow_reader_holds_a_bounded_amount_and_is_told(size: int, held: int) -> None:
    pipe = Pipe(modern=True, limit=8, limit_bytes=1500)
    number, call = pipe.call(1, params={"_meta": {"progressToken": 1}})
    for _ in range(held):
        pipe.says(method="notifications/progress", params={"progressToken": number, "message": "x" * size})
    assert call.failure is None
    for _ in range(100):
        pipe.says(method="notifications/progress", params={"progressToken": number, "message": "x" * size})
    assert isinstance(call.failure, errors.Unavailable)
    assert len(frames(call)) <= 8


@pytest.mark.requirement("protocol:calls:slow-reader")
async def test_one_large_frame_is_held_and_reading_makes_room_again() -> None:
    pipe = Pipe(modern=True, limit=8, limit_bytes=100)
    number, call = pipe.call(1, params={"_meta": {"progressToken": 1}})
    for _ in range(50):
        pipe.says(method="notifications/progress", params={"progressToken": number, "message": "x" * 1000})
        assert len(frames(call)) == 1
    assert call.failure is None


@pytest.mark.requirement("protocol:calls:slow-reader")
async def test_who_waits_for_the_end_only_keeps_a_bounded_beginning() -> None:
    pipe = Pipe(modern=True, limit=8)
    number, call = pipe.call(1, params={"_meta": {"progressToken": 1}})
    waiting = asyncio.create_task(call.completed())
    for turn in range(100):
        pipe.says(method="notifications/progress", params={"progressToken": number, "progress": turn})
        await asyncio.sleep(0)
    pipe.says(id=number, result={})
    assert [json.loads(one)["params"]["progress"] for one in await waiting] == list(range(8))
    assert call.failure is None


@pytest.mark.requirement("protocol:calls:close")
async def test_the_end_of_the_server_fails_every_call_and_all_later_ones(pipe: Pipe) -> None:
    made = [pipe.call(id_)[1] for id_ in range(10)]
    waiting = [asyncio.create_task(call.wait()) for call in made]
    await asyncio.sleep(0)
    pipe.calls.close(errors.ServerFailed("gone"))
    await asyncio.gather(*waiting)
    assert {str(call.failure) for call in made} == {"server_failed: gone"}
    later: list[Callable[[], object]] = [
        lambda: pipe.call(11),
        lambda: pipe.calls.tell("notifications/initialized"),
        lambda: pipe.calls.notify(notification("notifications/initialized", {})),
    ]
    for one in later:
        with pytest.raises(errors.ServerFailed, match="gone"):
            one()
    assert pipe.calls.answer(response(1)) is False
    pipe.calls.cancel(1, "late")
    assert len(pipe.calls) == 0


@pytest.mark.requirement("protocol:calls:close")
async def test_what_can_not_be_written_is_not_waited_for(pipe: Pipe) -> None:
    pipe.broken = True
    for _ in range(3):
        with pytest.raises(errors.ServerFailed):
            pipe.call(1, params={"_meta": {"progressToken": "t"}})
    assert len(pipe.calls) == 0
