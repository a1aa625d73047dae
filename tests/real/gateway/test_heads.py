"""One connection, the same head again and again, then another: nothing worked out for one serves another."""

import asyncio
import json

import pytest

from support import wire
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_LISTED = 200


class _Connection:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, path: str, fields: dict[str, str], body: bytes) -> int:
        """POST; the status."""
        await self.send(request(path, fields, body))
        return (await self.answer())[0]

    async def send(self, data: bytes) -> None:
        """In one piece, and not together with what follows."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next answer: its status and its body."""
        async with asyncio.timeout(60):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            told = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
            body = await self._reader.readexactly(int(told["content-length"]))
        return int(head.split(" ", 2)[1]), body

    def close(self) -> None:
        """End it."""
        self._writer.close()


def request(path: str, fields: dict[str, str], body: bytes, length: str = "") -> bytes:
    """A whole POST request; `length`: another Content-Length than the body's."""
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"content-length: {length or len(body)}"]).encode() + b"\r\n\r\n" + body


@pytest.mark.requirement("gateway:hot:head")
async def test_each_request_of_a_connection_is_judged_by_its_own_head_and_by_what_holds_now(gate: Gate) -> None:
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "head"}, key=gate.admin)
    host, port = wire.address(gate.platform.base_url)
    connection = _Connection(*await asyncio.open_connection(host, port))
    fields, body = wire.modern("tools/list")
    good = {"host": f"{host}:{port}", "authorization": f"Bearer {made['secret']}", **fields}
    mine, theirs = "/t/acme/tool/mcp", "/t/umbra/tool/mcp"
    bad_key = {**good, "authorization": f"Bearer {wire.miskeyed(made['secret'])}"}
    other_method = {**good, "mcp-method": "tools/call"}
    no_version = {name: value for name, value in good.items() if not name.startswith("mcp-")}
    longer = json.dumps({**json.loads(body), "id": 123456789}).encode()
    try:
        for path, head, sent, status in (
            (mine, good, body, _LISTED),
            (mine, good, longer, _LISTED),
            (theirs, good, body, 404),
            (mine, good, body, _LISTED),
            (mine, bad_key, body, 401),
            (mine, good, body, _LISTED),
            (mine, other_method, body, 400),
            (mine, {**good, "host": "evil.example"}, body, 403),
            (mine, {**good, "origin": "http://evil.example"}, body, 403),
            (mine, no_version, body, 400),
            (mine, {**good, "accept": "text/html"}, body, 406),
            (mine, {**good, "content-type": "text/plain"}, body, 415),
            (mine, good, body, _LISTED),
        ):
            # As often as it takes until the head is known by heart, so that each other one comes behind such a head.
            for _ in range(3):
                assert await connection.ask(mine, good, body) == _LISTED
            assert await connection.ask(path, head, sent) == status, (
                path,
                sorted(set(head.items()) ^ set(good.items())),
            )
        gate.platform.api("DELETE", f"/tenants/acme/keys/{made['key']['id']}", key=gate.admin)
        assert await connection.ask(mine, good, body) == 401
        assert await connection.ask(mine, good, body) == 401
    finally:
        connection.close()


@pytest.mark.requirement("gateway:hot:repeat")
async def test_a_head_known_by_heart_takes_bodies_whole_in_pieces_and_in_a_row(gate: Gate) -> None:
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "again"}, key=gate.admin)
    host, port = wire.address(gate.platform.base_url)
    connection = _Connection(*await asyncio.open_connection(host, port))
    fields, listing = wire.modern("tools/list")
    fields = {"host": f"{host}:{port}", "authorization": f"Bearer {made['secret']}", **fields}
    path, number = "/t/acme/tool/mcp", 0

    def again() -> tuple[int, bytes]:
        nonlocal number
        number = number * 2 + 1
        return number, request(path, fields, json.dumps({**json.loads(listing), "id": number}).encode())

    async def answered(*numbers: int) -> None:
        for one in numbers:
            status, body = await connection.answer()
            assert (status, json.loads(body)["id"]) == (_LISTED, one)

    try:
        for _ in range(3):
            for _ in range(3):
                one, data = again()
                await connection.send(data)
                await answered(one)
            one, data = again()
            cut = data.index(b"\r\n\r\n") + 4
            await connection.send(data[:cut])
            await asyncio.sleep(0.05)  # so that the body comes by itself
            await connection.send(data[cut:])
            await answered(one)
            (one, first), (two, second), (three, third) = again(), again(), again()
            await connection.send(first + second + third[:40])
            await answered(one, two)
            await connection.send(third[40:])
            await answered(three)
            (one, first), (two, second) = again(), again()
            await connection.send(first)
            await connection.send(second)
            await answered(one, two)
        # One byte less is told than comes: what is told is no message, and that byte begins no request.
        body = json.dumps({**json.loads(listing), "id": 1}).encode()
        await connection.send(request(path, fields, body, str(len(body) - 1)))
        assert (await connection.answer())[0] == 400
    finally:
        connection.close()
