"""What is no request, or too much of one: a clear answer, and a platform that goes on as before."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest

from support import wire
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
async def unharmed(gate: Gate, acme: wire.Caller) -> AsyncGenerator[None]:
    """Whatever a test sends, afterwards the same process answers, and holds no more than before."""
    await acme.act("echo")
    before = wire.vitals(gate.platform)
    yield
    assert (await acme.act("echo", text="still here"))["text"] == "still here"
    after = await wire.settled(gate.platform, before, files=3)
    assert after.pid == before.pid
    assert after.files <= before.files + 3  # keep-alive connections of this test's own client
    assert after.more(before._replace(in_flight=0, children=after.children)) == {}


def _fields(gate: Gate, *more: tuple[str, str]) -> list[tuple[str, str]]:
    host, port = wire.address(gate.platform.base_url)
    bearer = ("authorization", f"Bearer {gate.acme.key}")
    return [("host", f"{host}:{port}"), bearer, ("content-type", "application/json"), *more]


async def _post(gate: Gate, body: bytes, *more: tuple[str, str]) -> wire.Answer:
    fields = _fields(gate, ("content-length", str(len(body))), *more)
    return await wire.raw(gate.platform.base_url, wire.request("POST", "/t/acme/tool/mcp", fields, body))


@pytest.mark.requirement("gateway:malformed:bodies")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\x00\x01\x02", -32700),
        (b"\xef\xbb\xbf{}", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":{"a":1,"\\u0061":2}}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\\ud800"}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + b"[" * 100 + b"]" * 100 + b"}}", -32600),
        (b"[" * 500_000, -32600),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"5", -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
    ],
)
async def test_a_body_that_is_no_message_is_a_clear_400(gate: Gate, body: bytes, code: int) -> None:
    for version in ("2025-11-25", "2026-07-28"):
        answer = await _post(gate, body, ("mcp-protocol-version", version))
        said = json.loads(answer.body)
        assert (answer.status, said["jsonrpc"], said["id"], said["error"]["code"]) == (400, "2.0", None, code)


@pytest.mark.requirement("gateway:malformed:bodies")
async def test_trailer_fields_are_neither_kept_nor_part_of_a_head(gate: Gate) -> None:
    chunked = _fields(gate, ("transfer-encoding", "chunked"))
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    body = b"%x\r\n%b\r\n0\r\norigin: https://evil\r\n\r\n" % (len(ping), ping)
    first = wire.request("POST", "/t/acme/tool/mcp", chunked, body)
    last = wire.request("OPTIONS", "/t/acme/tool/mcp", chunked[:1])
    # The same head, and then what was the first one's trailer.
    second = wire.request("POST", "/t/acme/tool/mcp", [*chunked, ("origin", "https://evil")], b"0\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", await _all(gate, _kept(first), _kept(second), last)) == [
        b"400",
        b"403",
        b"204",
    ]


@pytest.mark.requirement("gateway:malformed:bodies")
async def test_more_requests_in_a_row_than_wait_are_answered_in_their_order(gate: Gate) -> None:
    host, port = wire.address(gate.platform.base_url)
    one = wire.request("OPTIONS", "/t/acme/tool/mcp", [("host", f"{host}:{port}")], b"")
    answered = await _all(gate, _kept(one) * 70)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", answered) == [b"204"] * 64 + [b"503"]


def _kept(request: bytes) -> bytes:
    return request.replace(b"\r\nconnection: close", b"", 1)


async def _all(gate: Gate, *requests: bytes) -> bytes:
    host, port = wire.address(gate.platform.base_url)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        answered = b""
        for request in requests:
            writer.write(request)
            if request is not requests[-1]:
                answered += await reader.readuntil(b"}}")
        async with asyncio.timeout(120):
            return answered + await reader.read()
    finally:
        writer.close()


@pytest.mark.requirement("gateway:malformed:bodies")
async def test_wrong_types_in_params_never_come_out_as_500(acme: wire.Caller) -> None:
    odd: list[Any] = [None, 5, "x", [], {}, True, 1.5, "\x00", "é" * 300]
    for value in odd:
        for member in ("name", "arguments", "_meta", "uri", "cursor", "progressToken"):
            for method in ("tools/call", "resources/read", "tools/list"):
                fields, _ = wire.modern(method)
                body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {member: value}}).encode()
                answer = await acme.send(fields, body)
                assert answer.status_code in (200, 400, 404), (member, value, answer.text)


@pytest.mark.requirement("gateway:malformed:media")
async def test_other_media_are_refused_and_json_in_any_dress_is_taken(acme: wire.Caller) -> None:
    fields, body = wire.modern("tools/list")
    for kind in ("text/plain", "application/jsonx", "multipart/form-data; boundary=x", "text/json", ""):
        assert (await acme.send(fields, body, content_type=kind)).status_code == 415
    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/json;x=y"):
        assert (await acme.send(fields, body, content_type=kind)).status_code == 200


@pytest.mark.requirement("gateway:malformed:size")
async def test_a_body_of_ten_megabytes_is_413_with_and_without_its_length(acme: wire.Caller) -> None:
    fields, _ = wire.modern("tools/call")

    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(160):
            yield b" " * 65536

    for content in (b" " * 10_485_760, chunks()):
        status = 413
        with contextlib.suppress(httpx2.WriteError, httpx2.ReadError):  # the platform may hang up on so much
            answer = await acme.http.post(acme.url, headers={**acme.bearer, **fields}, content=content)
            status = answer.status_code
        assert status == 413


@pytest.mark.requirement("gateway:malformed:size")
async def test_a_length_that_lies_is_refused_or_waited_for_in_vain(gate: Gate) -> None:
    lies = ["-1", "+5", "0x10", "1e3", "5, 5", "99999999999999999999", "", " ", "٣"]
    for lie in lies:
        fields = [(n, v.encode().decode("latin-1")) for n, v in _fields(gate, ("content-length", lie))]
        answer = await wire.raw(gate.platform.base_url, wire.request("POST", "/t/acme/tool/mcp", fields, b"{}"))
        assert answer.status in (400, 413), (lie, answer)
    both = _fields(gate, ("content-length", "2"), ("transfer-encoding", "chunked"))
    smuggled = wire.request("POST", "/t/acme/tool/mcp", both, b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await wire.raw(gate.platform.base_url, smuggled)
    assert answer.status == 400
    assert b"HTTP/1.1" not in answer.body


@pytest.mark.requirement("gateway:malformed:slow")
async def test_a_refused_request_whose_body_never_ends_does_not_hold_its_connection(gate: Gate) -> None:
    host, port = wire.address(gate.platform.base_url)
    head = f"POST /t/acme/tool/mcp HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 100000\r\n\r\n".encode()
    # For far longer than is waited for; `raw` returns when the platform ends the connection.
    answer = await wire.raw(gate.platform.base_url, head, *[b" "] * 900, pause_s=0.1)
    assert answer.status == 401


@pytest.mark.requirement("gateway:malformed:slow")
async def test_slow_and_endless_header_fields_are_bounded_in_time_and_size(gate: Gate) -> None:
    async def slow() -> wire.Answer:
        line = b"POST /t/acme/tool/mcp HTTP/1.1\r\nhost: x\r\n"
        return await wire.raw(gate.platform.base_url, line, *[b"x-a: b\r\n"] * 90, pause_s=1.0)

    async def endless() -> wire.Answer:
        return await wire.raw(gate.platform.base_url, b"GET / HTTP/1.1\r\n", *[b"x-a: " + b"b" * 9000 + b"\r\n"] * 120)

    async def silent() -> wire.Answer:
        return await wire.raw(gate.platform.base_url)

    async def one_line() -> wire.Answer:
        return await wire.raw(gate.platform.base_url, b"GET /" + b"a" * 1_000_000)

    answers = await asyncio.gather(slow(), endless(), silent(), one_line())
    wanted = [{408}, {431}, {408}, {431}]
    assert [one.status for one, right in zip(answers, wanted, strict=True) if one.status not in right] == []
    fields = _fields(gate, ("x-padding", "x" * 40_000), ("content-length", "2"))
    answer = await wire.raw(gate.platform.base_url, wire.request("POST", "/t/acme/tool/mcp", fields, b"{}"))
    assert answer.status == 413


@pytest.mark.requirement("gateway:malformed:connections")
async def test_pipelined_requests_are_answered_in_their_order(gate: Gate) -> None:
    requests = b""
    for number in range(50):
        fields, body = wire.modern("tools/call", wire.call("echo", text=f"n{number}"), number)
        sent = [*_fields(gate)[:2], *fields.items(), ("content-length", str(len(body)))]
        one = wire.request("POST", "/t/acme/tool/mcp", sent, body)
        requests += one if number == 49 else one.replace(b"connection: close\r\n", b"")
    answer = await wire.raw(gate.platform.base_url, requests)
    everything = answer.body.decode()
    places = [everything.index(f'"n{number}\\"') if f'"n{number}\\"' in everything else everything.index(f"n{number}\\")
              for number in range(50)]  # fmt: skip
    assert places == sorted(places)
    assert everything.count("HTTP/1.1 200") == 49  # the first status line is the answer's own


@pytest.mark.requirement("gateway:malformed:connections")
async def test_half_closed_and_vanishing_connections_leave_nothing_behind(gate: Gate) -> None:
    fields, body = wire.modern("tools/call", wire.call("echo"))
    sent = [*_fields(gate)[:2], *fields.items(), ("content-length", str(len(body)))]
    whole = wire.request("POST", "/t/acme/tool/mcp", sent, body)
    await asyncio.gather(
        *(wire.raw(gate.platform.base_url, whole[:cut], eof=True) for cut in range(1, len(whole) + 1, 37))
    )
    host, port = wire.address(gate.platform.base_url)
    for cut in range(0, len(whole) + 1, 53):
        _, writer = await asyncio.open_connection(host, port)
        writer.write(whole[:cut])
        await writer.drain()
        writer.transport.abort()


@pytest.mark.requirement("gateway:malformed:connections")
async def test_bytes_that_are_no_http_are_answered_and_forgotten(gate: Gate) -> None:
    for data in (b"\x16\x03\x01\x02\x00", b"\x00" * 5000, b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
                 b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\nhost : x\r\n\r\n", b"FOO / HTTP/1.1\r\n"):  # fmt: skip
        assert (await wire.raw(gate.platform.base_url, data, eof=True)).status in (0, 400, 403, 405)


@pytest.mark.requirement("gateway:malformed:connections")
async def test_chunks_that_are_none_are_refused_when_they_come(gate: Gate) -> None:
    head = wire.request("POST", "/t/acme/tool/mcp", _fields(gate, ("transfer-encoding", "chunked")))
    # All at once, behind a chunk that was good, and behind the head alone. Not 408: nothing more can come.
    for pieces in ((head + b"zz\r\n",), (head + b"2\r\n{}\r\n", b"zz\r\n"), (head, b"zz\r\n")):
        answer = await wire.raw(gate.platform.base_url, *pieces, pause_s=0.2)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, -32600)
