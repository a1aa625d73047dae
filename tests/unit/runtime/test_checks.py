"""What a hosted server says is looked at where it is read; nothing of it may leave a caller waiting."""

import json
from typing import Any

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.protocol.validate import tools
from smcp.runtime import calls, checks

_TEXT = [{"type": "text", "text": "x"}]
_OUT = b'{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}'
_IN = b'{"type":"object","required":["a"]}'


class _Copy:
    """Calls with checks, and what they said."""

    def __init__(self, *, modern: bool = False) -> None:
        self.written: list[Any] = []
        self.strays: list[str] = []
        self.log: list[str] = []
        self.counted = 0
        self.book = tools.Book()
        self.book.seed([("t", _IN, b""), ("out", b"{}", _OUT)])
        self.calls = calls.Calls(
            modern=modern,
            write=lambda data: self.written.append(json.loads(data)),
            stray=lambda data, method: self.strays.append(method),
            limit=64,
            checked=checks.Checks(self.book, self.log.append, self._count, modern=modern),
        )

    def _count(self) -> None:
        self.counted += 1

    def say(self, message: Any) -> None:
        self.calls.received(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def ask(self, method: str, params: Any, result: Any) -> calls.Call:
        """A client's request, and the answer to it."""
        number, call = self.begin(method, params)
        self.say({"id": number, **(result if "error" in result else {"result": result})})
        return call

    def begin(self, method: str, params: Any) -> tuple[int, calls.Call]:
        raw = jsonrpc.encode(params)
        return self.calls.send(jsonrpc.Message(jsonrpc.Kind.REQUEST, method, params, b'"c"', raw, raw))

    def shake(self, version: str) -> "_Copy":
        result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "a", "version": "1"}}
        assert self.ask("initialize", {}, result).failure is None
        return self


def _told(call: calls.Call) -> str:
    assert call.done
    assert isinstance(call.failure, errors.ServerInvalid)
    return call.failure.public


@pytest.mark.requirement("validation:server:results")
async def test_a_wrong_result_ends_its_call_and_nothing_else() -> None:
    copy = _Copy().shake("2025-11-25")
    number, other = copy.begin("tools/list", {})
    assert "/content/0/text: " in _told(copy.ask("tools/call", {"name": "t"}, {"content": [{"type": "text"}]}))
    assert "/error: " in _told(copy.ask("tools/call", {"name": "t"}, {"error": {"code": "x", "message": "y"}}))
    assert len(copy.log) == copy.counted == 2
    assert "'t'" in copy.log[0]
    copy.say({"id": number, "result": {"tools": []}})
    assert other.done
    assert other.failure is None


@pytest.mark.requirement("validation:server:results")
async def test_a_wrong_answer_to_initialize_opens_nothing() -> None:
    copy = _Copy()
    assert "/serverInfo: " in _told(copy.ask("initialize", {}, {"protocolVersion": "2025-11-25", "capabilities": {}}))


@pytest.mark.requirement("validation:server:results")
async def test_names_that_a_server_chose_begin_no_line_in_its_log() -> None:
    copy = _Copy(modern=True)
    copy.ask("tools/call", {"name": "t\n[smcp] started"}, {})
    assert len(copy.log) == 1
    assert "\n" not in copy.log[0]


@pytest.mark.requirement("validation:server:output")
@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", "2026-07-28"])
async def test_a_structured_result_fits_its_schema(version: str) -> None:
    copy = _Copy(modern=True) if version == "2026-07-28" else _Copy().shake(version)
    asked = {"name": "out"}
    assert copy.ask("tools/call", asked, {"content": _TEXT, "structuredContent": {"n": 1}}).failure is None
    assert copy.ask("tools/call", asked, {"content": _TEXT, "isError": True}).failure is None
    wrong = copy.ask("tools/call", asked, {"content": _TEXT, "structuredContent": {"n": "hunter2"}})
    assert "/structuredContent/n: " in _told(wrong)
    assert "hunter2" not in _told(wrong)
    assert "/structuredContent: is missing" in _told(copy.ask("tools/call", asked, {"content": _TEXT}))
    # The same by the long way: an image is not one of the quick shapes.
    image = [{"type": "image", "data": "eA==", "mimeType": "image/png"}]
    assert copy.ask("tools/call", asked, {"content": image, "structuredContent": {"n": 1}}).failure is None
    assert copy.ask("tools/call", asked, {"content": image, "isError": True}).failure is None
    assert "/structuredContent: is missing" in _told(copy.ask("tools/call", asked, {"content": image}))
    assert "/n: " in _told(copy.ask("tools/call", asked, {"content": image, "structuredContent": {"n": "x"}}))


@pytest.mark.requirement("validation:server:output")
async def test_a_schema_that_is_null_is_none() -> None:
    copy = _Copy().shake("2025-11-25")
    copy.ask("tools/list", {}, {"tools": [{"name": "n", "inputSchema": {"type": "object"}, "outputSchema": None}]})
    copy.book.seed([])
    assert copy.ask("tools/call", {"name": "n"}, {"content": _TEXT}).failure is None
    seeded = tools.Book()
    seeded.seed([("n", b"null", b"null")])
    assert not seeded.promises("n")
    assert seeded.arguments("n", {}, b"{}", copy.log.append) == ""
    assert copy.log == []


@pytest.mark.requirement("validation:server:output")
async def test_older_versions_know_no_structured_results() -> None:
    copy = _Copy().shake("2025-03-26")
    assert copy.ask("tools/call", {"name": "out"}, {"content": _TEXT}).failure is None


@pytest.mark.requirement("validation:messages:lenient")
async def test_tasks_extensions_and_the_platforms_own_questions_are_not_looked_at() -> None:
    copy = _Copy().shake("2025-11-25")
    assert copy.ask("tools/call", {"name": "out", "task": {}}, {"task": {"taskId": "x"}}).failure is None
    assert copy.ask("tasks/get", {"taskId": "x"}, {"anything": 1}).failure is None
    number, call = copy.calls.ask("tools/list", b"{}")
    copy.say({"id": number, "result": {"tools": 3}})
    assert call.failure is None
    number, call = copy.calls.ask("tools/call", b'{"name":"out"}')
    copy.say({"id": number, "result": {"content": _TEXT}})
    assert "/structuredContent: is missing" in _told(call)


@pytest.mark.requirement("validation:server:notices")
async def test_a_wrong_notification_is_dropped_and_told_a_few_times_a_second() -> None:
    copy = _Copy().shake("2025-11-25")
    _, call = copy.begin("tools/call", {"name": "t"})
    copy.say({"method": "notifications/message", "params": {"level": "info", "data": 1}})
    for _ in range(1000):
        copy.say({"method": "notifications/message", "params": {"level": "loud", "data": 1}})
    copy.say({"method": "notifications/vendor", "params": {"x": 1}})
    assert len(call.frames) == 2
    assert copy.counted == 1000
    assert 1 <= len(copy.log) < 500
    assert "/level: " in copy.log[0]


@pytest.mark.requirement("validation:server:requests")
async def test_a_wrong_question_is_answered_for_the_client() -> None:
    copy = _Copy().shake("2025-11-25")
    _, call = copy.begin("tools/call", {"name": "t"})
    copy.say({"id": "q", "method": "sampling/createMessage", "params": {"maxTokens": 1}})
    assert not call.frames
    assert not copy.strays
    answer = copy.written[-1]
    assert (answer["id"], answer["error"]["code"]) == ("q", -32602)
    assert "/messages: " in answer["error"]["message"]


@pytest.mark.requirement("validation:client:answers")
async def test_a_wrong_answer_of_a_client_is_refused_and_the_server_is_told() -> None:
    copy = _Copy().shake("2025-11-25")
    body = b'{"jsonrpc":"2.0","id":"q","result":{"roots":["mine"]}}'
    answer = jsonrpc.Message(jsonrpc.Kind.RESPONSE, "", {}, b'"q"', b"", body)
    copy.say({"id": "q", "method": "roots/list"})
    with pytest.raises(errors.InvalidParams, match="/roots/0: "):
        copy.calls.answer(answer)
    assert copy.written[-1]["error"]["code"] == -32602
    assert not copy.calls.answer(answer)  # nobody asks any more
    copy.say({"id": "q", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1, "task": {}}})
    assert copy.calls.answer(answer)  # a task's answer is not looked at


@pytest.mark.requirement("validation:server:unreadable")
@pytest.mark.parametrize("value", [b"NaN", b'"\\ud83d"', b"-Infinity"])
async def test_an_answer_that_is_no_json_ends_its_call(value: bytes) -> None:
    copy = _Copy(modern=True)
    number, call = copy.begin("tools/call", {"name": "t"})
    with pytest.raises(errors.ParseError):
        copy.calls.received(b'{"jsonrpc":"2.0","id":%d,"result":{"x":%b}}' % (number, value))
    assert "not a JSON-RPC message" in _told(call)


@pytest.mark.requirement("validation:tools:newer")
async def test_arguments_are_refused_only_where_no_description_takes_them() -> None:
    copy = _Copy(modern=True)

    def wrong(value: jsonrpc.Json) -> str:
        return copy.book.arguments("t", value, jsonrpc.encode(value), copy.log.append)

    def listed(schema: Any) -> None:
        copy.ask(
            "tools/list", {}, {"ttlMs": 0, "cacheScope": "public", "tools": [{"name": "t", "inputSchema": schema}]}
        )

    assert wrong({}) == ': "a" is a required property'
    assert wrong({"a": 1}) == ""
    assert copy.book.arguments("nobody", {}, b"{}", copy.log.append) == ""
    copy.say({"method": "notifications/tools/list_changed", "params": {"_meta": {}}})
    assert wrong({}) == ""
    listed({"type": "object", "required": ["b"]})
    assert wrong({}) == ': "b" is a required property'
    assert wrong({"a": 1}) == wrong({"b": 1}) == ""
    for name in "cde":
        listed({"type": "object", "required": [name]})
    assert wrong({}) == ""  # a fifth description: they tell nothing any more
    assert copy.log == []


@pytest.mark.requirement("validation:schema:size")
async def test_a_schema_that_is_not_applied_is_told_once() -> None:
    copy = _Copy(modern=True)
    copy.book = book = tools.Book()
    book.seed([("t", b'{"$ref":"http://127.0.0.1/"}', b"")])
    for _ in range(3):
        assert book.arguments("t", {}, b"{}", copy.log.append) == ""
    assert copy.log == ["the inputSchema of tool 't' is not applied: it refers to something outside of it"]
