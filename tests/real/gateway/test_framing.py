"""HTTP requests whose end two readers could see in two places: whatever is hidden in one is never carried out."""

import json

import pytest

from support import wire
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_PATH = "/t/acme/tool/mcp"


def _head(gate: Gate, *more: str, path: str = _PATH) -> bytes:
    host, port = wire.address(gate.platform.base_url)
    fields, _ = wire.modern("tools/call", wire.call("echo"))
    lines = [f"POST {path} HTTP/1.1", f"host: {host}:{port}", f"authorization: Bearer {gate.acme.key}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, *more]).encode("latin-1") + b"\r\n\r\n"


def _hidden(gate: Gate) -> bytes:
    """A whole request to acme's other server, whose answer would show its canary."""
    _, body = wire.modern("tools/call", wire.call("echo", text="hidden"), 99)
    return _head(gate, f"content-length: {len(body)}", "connection: close", path="/t/acme/second/mcp") + body


def _body() -> bytes:
    return wire.modern("tools/call", wire.call("echo", text="outer"), 1)[1]


_LENGTHS = [
    ["content-length: 6", "transfer-encoding: chunked"],
    ["transfer-encoding: chunked", "content-length: 6"],
    ["Content-Length: 6", "CONTENT-LENGTH: 7"],
    ["content-length: 0", "content-length: 0"],
    ["content-length: 6, 6"],
    ["content-length: 6 6"],
    ["content-length : 6"],
    ["content-length:\t+6"],
    ["content-length: 0x6"],
    ["content-length: 6\x0b"],
    ["content-length: -6"],
    ["transfer-encoding: identity"],
    ["transfer-encoding: xchunked"],
    ["transfer-encoding: chunked, identity"],
    ["transfer-encoding: chunked", "transfer-encoding: chunked"],
    ["transfer-encoding: chunked", "transfer-encoding: x"],
    ["transfer-encoding : chunked"],
    ["transfer-encoding:\x0bchunked"],
    ['transfer-encoding: "chunked"'],
    ["transfer_encoding: chunked", "transfer-encoding: gzip"],
    ["x: y\r\n transfer-encoding: chunked", "transfer-encoding: gzip"],
    ["transfer-encoding:\r\n chunked"],
    ["content-length:\r\n 6"],
    ["x: a\nb: c", "content-length: 6"],
    ["x: a\rb: c", "content-length: 6"],
    ["x: a\x00b", "content-length: 6"],
    ["content-length: 6\ntransfer-encoding: chunked"],
    ["content-length: 6\rtransfer-encoding: chunked"],
    [" content-length: 6"],
    ["(content-length): 6", "content-length: 6 "],
    [": x", "content-length: 6"],
]
"""Fields that tell two readers two lengths, or one of them none."""


@pytest.mark.requirement("gateway:attacks:framing")
@pytest.mark.parametrize("fields", _LENGTHS, ids=lambda fields: repr("|".join(fields)))
async def test_a_request_hidden_in_another_by_its_length_is_never_carried_out(gate: Gate, fields: list[str]) -> None:
    for payload in (b"0\r\n\r\n", b'6\r\n{"a":1\r\n0\r\n\r\n'):
        sent = _head(gate, *fields) + payload + _hidden(gate)
        answer = await wire.raw(gate.platform.base_url, sent)
        assert b"acme-second" not in answer.body, answer
        # Refused as a whole: nothing that follows a length which nobody can be sure of is a request.
        assert 400 <= answer.status < 500, answer
        assert b"HTTP/1.1" not in answer.body, answer


_CHUNKS = [
    b"%x\n%b\r\n0\r\n\r\n",
    b"%x\r\n%b\n0\n\n",
    b"%x \t;a\r%b\r\n0\r\n\r\n",
    b"0x%x\r\n%b\r\n0\r\n\r\n",
    b"+%x\r\n%b\r\n0\r\n\r\n",
    b"-%x\r\n%b\r\n0\r\n\r\n",
    b" %x\r\n%b\r\n0\r\n\r\n",
    b"1%016x\r\n%b\r\n0\r\n\r\n",
    b"fffffffffffffff%x\r\n%b\r\n0\r\n\r\n",
    b"%x;\nx\r\n%b\r\n0\r\n\r\n",
    b"%x\r\n%bX\r\n0\r\n\r\n",
    b"%x\r\n%b0\r\n\r\n",
]
"""Chunks that some readers take and others end elsewhere."""


@pytest.mark.requirement("gateway:attacks:framing")
@pytest.mark.parametrize("form", _CHUNKS, ids=repr)
async def test_a_request_hidden_in_another_by_its_chunks_is_never_carried_out(gate: Gate, form: bytes) -> None:
    body = _body()
    sent = _head(gate, "transfer-encoding: chunked") + form % (len(body), body) + _hidden(gate)
    answer = await wire.raw(gate.platform.base_url, sent)
    assert b"acme-second" not in answer.body, answer
    assert 400 <= answer.status < 500, answer


@pytest.mark.requirement("gateway:attacks:framing")
@pytest.mark.parametrize(
    "form",
    [b"%x\r\n%b\r\n0\r\n\r\n", b"%x;name=value\r\n%b\r\n0;last\r\n\r\n", b'000%X;q="a b"\r\n%b\r\n0\r\nx-t: y\r\n\r\n'],
    ids=repr,
)
async def test_chunks_that_every_reader_takes_are_one_request_and_what_follows_is_the_next(
    gate: Gate, form: bytes
) -> None:
    body = _body()
    sent = _head(gate, "transfer-encoding: chunked") + form % (len(body), body) + _hidden(gate)
    answer = await wire.raw(gate.platform.base_url, sent)
    first, _, rest = answer.body.partition(b"HTTP/1.1 200")
    assert (answer.status, b"acme-tool" in first, b"acme-second" in first) == (200, True, False)
    assert b"acme-second" in rest  # not hidden: a second request, with a key of its own


@pytest.mark.requirement("gateway:attacks:framing")
@pytest.mark.parametrize("target", [_PATH, "/healthz", "/api/v1/whoami", "/api/docs"])
async def test_a_body_where_none_belongs_is_never_the_next_request(gate: Gate, target: str) -> None:
    host, port = wire.address(gate.platform.base_url)
    hidden = _hidden(gate)
    for verb in ("GET", "HEAD", "OPTIONS", "DELETE"):
        length = f"content-length: {len(hidden)}"
        head = f"{verb} {target} HTTP/1.1\r\nhost: {host}:{port}\r\n{length}\r\nconnection: close\r\n\r\n"
        answer = await wire.raw(gate.platform.base_url, head.encode() + hidden)
        assert answer.status != 0
        assert b"acme-second" not in answer.body
        assert b"HTTP/1.1" not in answer.body


@pytest.mark.requirement("gateway:attacks:framing")
async def test_a_key_goes_with_its_own_request_and_with_none_that_shares_its_connection(gate: Gate) -> None:
    body = _body()
    first = _head(gate, f"content-length: {len(body)}") + body
    second = _hidden(gate).replace(f"authorization: Bearer {gate.acme.key}\r\n".encode(), b"")
    answer = await wire.raw(gate.platform.base_url, first + second)
    assert answer.status == 200
    assert b"acme-second" not in answer.body
    assert b"HTTP/1.1 401" in answer.body
    told = json.loads(answer.body.partition(b"HTTP/1.1")[0])
    assert wire.said(told)["text"] == "outer"
