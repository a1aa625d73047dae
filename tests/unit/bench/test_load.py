"""The bench believes no answer it has not checked."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Final

import pytest
from bench import echo, load

Answer = Callable[[int], bytes]
ENOUGH: Final = 20
"""So many requests a run must have come to."""


def _http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def _right(number: int) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": {"content": [{"text": f"text {number}"}]}}).encode()


def _body(number: int) -> bytes:
    return b"%d" % number


def _expected(number: int) -> tuple[int, str]:
    return number, f"text {number}"


WRONG: dict[str, Answer] = {
    "another request's answer": lambda n: _http(_right(n + 1)),
    "another text": lambda n: _http(_right(n).replace(b"text", b"test")),
    "a refusal": lambda n: _http(_right(n), b"429 Too Many Requests"),
    "an error": lambda _n: _http(b'{"jsonrpc":"2.0","id":1,"error":{}}'),
    "nothing": lambda _n: _http(b""),
    "not HTTP": lambda _n: b"hello\r\n\r\n",
}


async def _measured(answer: Answer) -> load.Sample:
    """Load a server that answers the request with number n by `answer(n)`, until it was asked for enough."""
    for seconds in (0.1, 1.0, 30.0):
        with contextlib.suppress(_TooShort):
            return await _run(answer, seconds)
    raise AssertionError("no run got far enough")


class _TooShort(Exception):
    """The machine was busy elsewhere: such a run says nothing."""


async def _run(answer: Answer, seconds: float) -> load.Sample:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                asked = int(await reader.readexactly(length))
                writer.write(answer(asked))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = int(server.sockets[0].getsockname()[1])
        target = load.Target("127.0.0.1", port, (b"POST / HTTP/1.1\r\nhost: x\r\n",), _body, _expected)
        try:
            sample = await load.measure(target, 3, 0.01, seconds, lambda: 0.0)
        except RuntimeError as error:
            if "none came at all" in str(error):
                raise _TooShort from None
            raise
        if asked < ENOUGH:
            raise _TooShort
        return sample


@pytest.mark.requirement("bench:load:checked")
async def test_right_answers_are_counted_as_json_and_as_an_event_stream() -> None:
    plain = await _measured(lambda n: _http(_right(n)))
    streamed = await _measured(lambda n: _http(b": hello\n\nevent: message\ndata: " + _right(n) + b"\n\n"))
    for sample in (plain, streamed):
        assert sample.calls > 0
        assert 0 < sample.p50_ms <= sample.p99_ms


@pytest.mark.requirement("bench:load:checked")
@pytest.mark.parametrize("wrong", list(WRONG))
async def test_one_wrong_answer_leaves_the_run_without_a_result(wrong: str) -> None:
    with pytest.raises(RuntimeError, match="wrong answer under load"):
        await _measured(lambda n: WRONG[wrong](n) if n == ENOUGH else _http(_right(n)))


@pytest.mark.requirement("bench:echo:eras")
def test_the_echo_server_answers_both_eras() -> None:
    modern = echo.answer({"id": 1, "method": "server/discover"})
    legacy = echo.answer({"id": 2, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}})
    called = echo.answer({"id": 3, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}})
    assert modern is not None
    assert modern["result"]["supportedVersions"] == ["2026-07-28"]
    assert legacy is not None
    assert legacy["result"]["protocolVersion"] == "2025-06-18"
    assert called is not None
    assert called["result"]["content"] == [{"type": "text", "text": "x"}]
    assert echo.answer({"method": "notifications/initialized"}) is None
    unknown = echo.answer({"id": 4, "method": "no/such"})
    assert unknown is not None
    assert unknown["error"]["code"] == -32601
