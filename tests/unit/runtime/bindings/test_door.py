"""The socket of a process of Workers, asked over real connections by well-behaved and by hostile clients."""

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from smcp.kernel import errors
from smcp.runtime.bindings import door, http

_ENOUGH_S = 60.0


class _House:
    """A door, and what it told."""

    def __init__(self, path: str, opened: door.Door, told: list[str]) -> None:
        self.path = path
        self.door = opened
        self.told = told

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncGenerator["_Client"]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            yield _Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, head: str, capability: str = "", body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """The answer to a request whose first line and fields are `head`."""
        self.send(head, capability, body)
        return await self.answer()

    def send(self, head: str, capability: str = "", body: bytes = b"") -> None:
        lines = [*head.split("\n"), "Host: fake-host"]
        if capability:
            lines.append(f"X-SMCP-Capability: {capability}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(_ENOUGH_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            if "transfer-encoding" in fields:
                whole = bytearray()
                while size := int(await self.reader.readline(), 16):
                    whole += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readexactly(2)
                body = bytes(whole)
            else:
                body = await self.reader.readexactly(int(fields.get("content-length", "0")))
            return int(head[0].split()[1]), fields, body

    async def ended(self) -> bytes:
        """What came until the other side closed."""
        async with asyncio.timeout(_ENOUGH_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@contextlib.asynccontextmanager
async def _opened(
    directory: pathlib.Path, *, uid: int | None = None, limits: http.Limits | None = None
) -> AsyncGenerator[_House]:
    path = str(directory / "door")
    told: list[str] = []
    opened = await door.Door.open(
        path, os.getuid() if uid is None else uid, told.append, limits=limits or http.Limits()
    )
    try:
        yield _House(path, opened, told)
    finally:
        await opened.close()


async def _echo(request: http.Request) -> http.Response:
    body = await request.read(1_000_000)
    shown = b"\n".join([request.method.encode(), request.target.encode(), *sorted(request.headers)])
    return http.Response(200, [(b"x-shown", shown.replace(b"\n", b"|"))], body)


async def test_a_request_reaches_its_handler_without_the_capability(tmp_path: pathlib.Path) -> None:
    async with _opened(tmp_path) as house, house.client() as client:
        capability = house.door.admit(_echo)
        for body in (b"", b"hello"):  # one connection for both
            status, fields, answer = await client.ask(
                f"PUT /a%2Fb?urlencoded=true HTTP/1.1\nContent-Length: {len(body)}\nX-Two: 1\nX-Two: 2",
                capability,
                body,
            )
            assert (status, answer) == (200, body)
            assert fields["x-shown"] == "PUT|/a%2Fb?urlencoded=true|content-length|host|x-two"
        assert house.told == []


@pytest.mark.requirement("workers:door:capability")
@pytest.mark.parametrize("shown", ["", "forged", "A" * 43, "two"])
async def test_a_forged_capability_gets_nothing(tmp_path: pathlib.Path, shown: str) -> None:
    reached: list[str] = []

    async def handler(request: http.Request) -> http.Response:
        reached.append(request.target)
        return http.Response(200)

    async with _opened(tmp_path) as house, house.client() as client:
        capability = house.door.admit(handler)
        if shown == "two":  # the code's own beside the one that workerd adds
            head = f"GET /k HTTP/1.1\nX-SMCP-Capability: {capability}"
            status, _, body = await client.ask(head, capability)
        else:
            status, _, body = await client.ask("GET /k HTTP/1.1", shown)
        assert (status, body) == (403, b"")
        assert await client.ended() == b""
        assert reached == []
        assert house.told == ["bindings: refused a request without the key of a binding"]


@pytest.mark.requirement("workers:door:capability")
async def test_a_capability_that_was_revoked_gets_nothing_and_what_it_asked_breaks_off(tmp_path: pathlib.Path) -> None:
    reached = asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        reached.set()
        await asyncio.Event().wait()
        return http.Response(200)

    async with _opened(tmp_path) as house, house.client() as first, house.client() as second:
        capability, other = house.door.admit(handler), house.door.admit(_echo)
        first.send("GET /k HTTP/1.1", capability)
        await reached.wait()
        house.door.revoke(capability)
        house.door.revoke(capability)
        assert await first.ended() == b""
        assert (await second.ask("GET /k HTTP/1.1", other))[0] == 200
        assert (await second.ask("GET /k HTTP/1.1", capability))[0] == 403


@pytest.mark.requirement("workers:door:capability")
async def test_a_capability_of_another_tenants_socket_gets_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with _opened(tmp_path / "a") as house, _opened(tmp_path / "b") as other, other.client() as client:
        assert (await client.ask("GET /k HTTP/1.1", house.door.admit(_echo)))[0] == 403


@pytest.mark.requirement("workers:door:peer")
async def test_a_process_of_another_user_gets_nothing(tmp_path: pathlib.Path) -> None:
    async with _opened(tmp_path, uid=os.getuid() + 1) as house, house.client() as client:
        client.send("GET /k HTTP/1.1", house.door.admit(_echo))
        assert await client.ended() == b""
        assert house.told == ["bindings: refused a connection from a process of another user"]


@pytest.mark.requirement("workers:door:plain")
@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("CONNECT 169.254.169.254:80 HTTP/1.1", 405),
        ("GET /k HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket", 501),
        ("GET /k HTTP/1.1\nUpgrade: h2c", 501),
        ("GET http://example.org/k HTTP/1.1", 400),
        ("GET k HTTP/1.1", 400),
        ("OPTIONS * HTTP/1.1", 400),
        ("GET /k HTTP/1.0", 400),
        ("PUT /k HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked", 400),
        ("PUT /k HTTP/1.1\nContent-Length: 3\nContent-Length: 4", 400),
        ("PUT /k HTTP/1.1\nTransfer-Encoding: gzip, chunked", 400),
        ("GET /k HTTP/1.1\nX-Long: " + "x" * 70_000, 431),
        ("GET /k HTTP/1.1\nX : y", 400),
    ],
)
async def test_what_is_no_plain_request_reaches_no_handler(tmp_path: pathlib.Path, head: str, status: int) -> None:
    reached: list[str] = []

    async def handler(request: http.Request) -> http.Response:
        reached.append(request.target)
        return http.Response(200)

    async with _opened(tmp_path) as house, house.client() as client:
        got, _, body = await client.ask(head, house.door.admit(handler))
        assert (got, body) == (status, b"")
        assert await client.ended() == b""
        assert (reached, len(house.told)) == ([], 1)


@pytest.mark.requirement("workers:door:plain")
async def test_a_connect_without_a_capability_gets_nothing(tmp_path: pathlib.Path) -> None:
    """workerd adds no header to a CONNECT that the code makes it send."""
    async with _opened(tmp_path) as house, house.client() as client:
        house.door.admit(_echo, proxy=True)
        assert (await client.ask("CONNECT 169.254.169.254:80 HTTP/1.1"))[0] == 405
        assert await client.ended() == b""


async def test_only_a_proxy_takes_urls_and_it_takes_nothing_else(tmp_path: pathlib.Path) -> None:
    async with _opened(tmp_path) as house, house.client() as client, house.client() as another:
        capability = house.door.admit(_echo, proxy=True)
        status, fields, _ = await client.ask("GET https://example.org/x?y HTTP/1.1", capability)
        assert (status, fields["x-shown"]) == (200, "GET|https://example.org/x?y|host")
        assert (await another.ask("GET /k HTTP/1.1", capability))[0] == 400


@pytest.mark.requirement("workers:door:plain")
async def test_a_request_behind_another_is_not_answered(tmp_path: pathlib.Path) -> None:
    async with _opened(tmp_path) as house, house.client() as client:
        capability = house.door.admit(_echo)
        one = f"GET /k HTTP/1.1\r\nHost: h\r\nX-SMCP-Capability: {capability}\r\n\r\n"
        client.writer.write((one + one).encode())
        assert await client.ended() == b""
        assert house.told == ["bindings: refused a request that did not wait for the answer of the one before"]


async def test_a_request_that_overtakes_the_end_of_an_answer_is_answered(tmp_path: pathlib.Path) -> None:
    """The client may know that an answer is whole before the handler's iterator has been told to go on."""
    going = asyncio.Event()

    async def slow_to_end() -> AsyncIterator[bytes]:
        yield b"whole"
        await going.wait()

    async def handler(request: http.Request) -> http.Response:
        return http.Response(200, body=slow_to_end(), length=5) if request.target == "/1" else http.Response(204)

    async with _opened(tmp_path) as house, house.client() as client:
        capability = house.door.admit(handler)
        assert (await client.ask("GET /1 HTTP/1.1", capability))[2] == b"whole"
        client.send("GET /2 HTTP/1.1", capability)
        await client.writer.drain()
        asyncio.get_running_loop().call_later(0.05, going.set)
        assert (await client.answer())[0] == 204


@pytest.mark.requirement("workers:door:streams")
async def test_bodies_stream_both_ways_at_the_speed_of_their_readers(tmp_path: pathlib.Path) -> None:
    total, piece = 64 * 1024 * 1024, os.urandom(256 * 1024)
    go_on = asyncio.Event()
    seen = 0

    async def back(request: http.Request) -> AsyncIterator[bytes]:
        nonlocal seen
        async for data in request.body:
            await go_on.wait()
            seen += len(data)
            yield data

    async def handler(request: http.Request) -> http.Response:
        return http.Response(200, body=back(request))

    async with _opened(tmp_path) as house, house.client() as client:
        client.send("PUT /k HTTP/1.1\nTransfer-Encoding: chunked", house.door.admit(handler))
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(total // len(piece)):
                client.writer.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                await client.writer.drain()
                sent += len(piece)
            client.writer.write(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 4 * 1024 * 1024  # nobody reads: what has gone is in buffers, whatever the sum
        go_on.set()
        status, _, body = await client.answer()
        await sending
        assert (status, seen) == (200, total)
        assert body == piece * (total // len(piece))


async def test_an_answer_before_the_body_was_read_keeps_the_connection(tmp_path: pathlib.Path) -> None:
    async def handler(request: http.Request) -> http.Response:
        if request.target == "/large":
            await request.read(10)
        return http.Response(204)

    async with _opened(tmp_path) as house, house.client() as client:
        capability = house.door.admit(handler)
        body = b"x" * 1_000_000
        assert (await client.ask(f"PUT /large HTTP/1.1\nContent-Length: {len(body)}", capability, body))[0] == 413
        assert (await client.ask("GET /k HTTP/1.1", capability))[0] == 204


@pytest.mark.requirement("workers:door:closed")
@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("the reason"), 500), (errors.Unavailable("why"), 503), (errors.ServerFailed("why"), 502)],
)
async def test_a_failing_handler_is_an_answer_without_words(
    tmp_path: pathlib.Path, error: Exception, status: int
) -> None:
    async def handler(request: http.Request) -> http.Response:
        raise error

    async with _opened(tmp_path) as house, house.client() as client:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        capability = house.door.admit(handler)
        for _ in range(2):  # and the connection goes on
            got, fields, body = await client.ask("GET /k HTTP/1.1", capability)
            assert (got, fields, body) == (status, {"content-length": "0"}, b"")
        # A fault of somebody else's is not the platform's: whoever raises that tells of it.
        assert len(house.told) == (0 if status == 502 else 1)
        assert not any("reason" in line or "why" in line for line in house.told)


@pytest.mark.requirement("workers:door:closed")
@pytest.mark.parametrize("length", [None, 10, 2])
async def test_half_an_answer_does_not_pass_for_the_whole(tmp_path: pathlib.Path, length: int | None) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        if length is None:
            raise errors.Unavailable

    async def handler(request: http.Request) -> http.Response:
        return http.Response(200, body=broken(), length=length)

    async with _opened(tmp_path) as house, house.client() as client:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        client.send("GET /k HTTP/1.1", house.door.admit(handler))
        rest = await client.ended()
        assert not rest.endswith(b"0\r\n\r\n")
        if length is not None:
            assert len(rest.partition(b"\r\n\r\n")[2]) < length


@pytest.mark.requirement("workers:door:closed")
async def test_a_handlers_header_field_can_not_end_the_head(tmp_path: pathlib.Path) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(200, [(b"x-a", b"1\r\nX-B: 2")])

    async with _opened(tmp_path) as house, house.client() as client:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        assert (await client.ask("GET /k HTTP/1.1", house.door.admit(handler)))[:2] == (500, {"content-length": "0"})


@pytest.mark.requirement("workers:door:bounds")
@pytest.mark.parametrize(
    "begin",
    [
        b"GET /k HTT",
        b"GET /k HTTP/1.1\r\nX: ",
        b"PUT /k HTTP/1.1\r\nX-SMCP-Capability: %b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx",
    ],
)
async def test_a_request_that_never_arrives_ends(tmp_path: pathlib.Path, begin: bytes) -> None:
    limits = http.Limits(head_s=0.2, stall_s=0.2, linger_s=0.2)
    async with _opened(tmp_path, limits=limits) as house, house.client() as client:
        capability = house.door.admit(_echo)
        client.writer.write(begin.replace(b"%b", capability.encode()))
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.requirement("workers:door:bounds")
@pytest.mark.parametrize("begin", [b"0\r\nX-Trailer: ", b"1;"])
async def test_trailers_and_extensions_of_chunks_have_an_end(tmp_path: pathlib.Path, begin: bytes) -> None:
    async with _opened(tmp_path) as house, house.client() as client:
        head = f"PUT /k HTTP/1.1\r\nX-SMCP-Capability: {house.door.admit(_echo)}\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.writer.write(head.encode() + begin)
        with contextlib.suppress(ConnectionError):
            while True:
                client.writer.write(b"x" * 60_000)
                await client.writer.drain()
        assert house.told == ["bindings: refused a request with too large a head"]


@pytest.mark.requirement("workers:door:bounds")
async def test_connections_and_requests_at_once_have_an_end(tmp_path: pathlib.Path) -> None:
    going, going_on = asyncio.Event(), asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        going.set()
        await going_on.wait()
        return http.Response(204)

    limits = http.Limits(connections=3, wait_s=0.2)
    async with _opened(tmp_path, limits=limits) as house, contextlib.AsyncExitStack() as stack:
        capability, other = house.door.admit(handler, at_once=1), house.door.admit(_echo)
        first, second, third = [await stack.enter_async_context(house.client()) for _ in range(3)]
        first.send("GET /k HTTP/1.1", capability)
        await going.wait()
        assert (await second.ask("GET /k HTTP/1.1", capability))[0] == 503
        assert (await third.ask("GET /k HTTP/1.1", other))[0] == 200  # another binding has places of its own
        fourth = await stack.enter_async_context(house.client())
        assert await fourth.ended() == b""
        going_on.set()
        assert (await first.answer())[0] == 204
        assert (await second.ask("GET /k HTTP/1.1", capability))[0] == 204


@pytest.mark.requirement("workers:door:bounds")
async def test_who_does_not_read_an_answer_loses_it(tmp_path: pathlib.Path) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65_536
        finally:
            closed.set()

    async def handler(request: http.Request) -> http.Response:
        return http.Response(200, body=endless())

    async with _opened(tmp_path, limits=http.Limits(stall_s=0.2)) as house:
        reader, writer = await asyncio.open_unix_connection(house.path, limit=1024)
        client = _Client(reader, writer)
        client.send("GET /k HTTP/1.1", house.door.admit(handler))
        async with asyncio.timeout(_ENOUGH_S):
            await closed.wait()
        writer.close()


async def test_what_happens_often_is_told_seldom(tmp_path: pathlib.Path) -> None:
    async with _opened(tmp_path) as house:
        for _ in range(120):
            async with house.client() as client:
                await client.ask("GET /k HTTP/1.1", "forged")
        assert [line.partition("(")[2] for line in house.told] == ["", "10 times so far)", "100 times so far)"]


async def test_a_client_that_goes_away_ends_its_request(tmp_path: pathlib.Path) -> None:
    reached, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return http.Response(200)

    async with _opened(tmp_path) as house:
        async with house.client() as client:
            client.send("GET /k HTTP/1.1", house.door.admit(handler))
            await reached.wait()
        async with asyncio.timeout(_ENOUGH_S):
            await ended.wait()


@pytest.mark.requirement("workers:door:closed")
async def test_closing_ends_everything(tmp_path: pathlib.Path) -> None:
    reached, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()
        return http.Response(200)

    async with _opened(tmp_path) as house, house.client() as client, house.client() as idle:
        client.send("GET /k HTTP/1.1", house.door.admit(handler))
        await reached.wait()
        await house.door.close()
        assert ended.is_set()
        assert await client.ended() == b""
        assert await idle.ended() == b""
        with pytest.raises(FileNotFoundError):
            await asyncio.open_unix_connection(house.path)


async def test_a_path_may_be_long_and_a_socket_of_a_killed_platform_is_replaced(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    directory.mkdir(parents=True)
    first = await door.Door.open(str(directory / "door"), None, print)
    async with _opened(directory):
        assert (directory / "door").is_socket()
    await first.close()
