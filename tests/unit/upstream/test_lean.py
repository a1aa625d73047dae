"""The lean client, against a server by hand: what an answer may be, when a request is repeated, and who waits."""

import asyncio
import contextlib

import pytest

from smcp.kernel import errors
from smcp.upstream import connection, places
from support.leanly import HEAD, JSON, PLACE, PLAIN, both, calling, done, failed, warm

# --- answers ---


@pytest.mark.requirement("workers:lean:request")
async def test_a_request_says_what_it_was_told_to_and_names_one_host() -> None:
    async with both(host="worker.localhost") as (client, server):
        place = places.Place("http", "elsewhere.example", 8080, "/a/b?c=d")

        async def send() -> None:
            async with client.send("POST", place, [*JSON, ("Mcp-Name", "a b")], b"{1}") as answer:
                assert answer.ready() == b"{}"
                assert answer.place == place

        task = asyncio.create_task(send())
        found = await (await server.peer()).answer(PLAIN)
        await task
    assert found.body == b"{1}"
    assert found.head.split(b"\r\n") == [
        b"POST /a/b?c=d HTTP/1.1",
        b"Host: worker.localhost",
        b"User-Agent: smcp",
        b"Accept-Encoding: identity",
        b"Content-Type: application/json",
        b"Mcp-Name: a b",
        b"Content-Length: 3",
        b"",
    ]


@pytest.mark.requirement("workers:lean:answers")
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (PLAIN, 200, b"{}"),
        (HEAD + b"Content-Length: 0\r\n\r\n", 200, b""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\nTrailer: x\r\n\r\n", 200, b"{}"),
        (HEAD + b"Transfer-Encoding: Chunked \r\n\r\n0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PLAIN, 200, b"{}"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nhere", 404, b"here"),
    ],
)
async def test_an_answer_is_read_to_its_end_and_its_connection_is_used_again(
    answer: bytes, status: int, body: bytes
) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(answer)
        found = await done(task)
        assert (found.status, found.body) == (status, body)
        task = calling(client)
        await peer.answer(PLAIN)
        assert (await done(task)).body == b"{}"
        assert server.nobody()


@pytest.mark.requirement("workers:lean:answers")
async def test_fields_are_found_by_name_and_the_first_one_counts() -> None:
    async with both() as (client, server):
        task = calling(client)
        fields = b"CONTENT-TYPE: Text/Event-Stream; x=y\r\nX-A:  1 \r\nx-a: 2\r\nContent-Length: 0\r\n"
        await (await server.peer()).answer(b"HTTP/1.1 200 OK\r\n%b\r\n" % fields)
        found = await done(task)
    assert (found.media, found.field("x-a"), found.field("x-b")) == ("text/event-stream", "1", "")


@pytest.mark.requirement("workers:lean:answers")
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_may_end_with_its_connection(version: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(b"HTTP/%b 200 OK\r\n\r\nall of " % version)
        await peer.send(b"it")
        peer.close()
        assert (await done(task)).body == b"all of it"


@pytest.mark.requirement("workers:lean:answers")
@pytest.mark.parametrize("length", [b"", b"Content-Length: 5\r\n"])
async def test_the_answer_to_head_has_no_body(length: bytes) -> None:
    async with both() as (client, server):
        task = calling(client, "HEAD", b"")
        peer = await server.peer()
        await peer.answer(b"HTTP/1.1 200 OK\r\n%b\r\n" % length)
        assert (await done(task)).body == b""
        assert await peer.ended()


@pytest.mark.requirement("workers:lean:answers")
async def test_a_large_request_and_a_large_answer_pass() -> None:
    async with both() as (client, server):
        body = bytes(range(256)) * 20_000
        task = calling(client, body=body)
        peer = await server.peer()
        assert (await peer.request()).body == body
        await peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (await done(task)).body == body
        assert server.nobody()


@pytest.mark.requirement("workers:lean:early")
async def test_an_answer_may_come_while_the_request_is_still_written() -> None:
    async with both() as (client, server):
        task = calling(client, body=bytes(8_000_000))
        peer = await server.peer()
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!")
        found = await done(task)
        assert (found.status, found.body) == (413, b"no!")
        # What is left of the request must not come in front of the next one.
        assert await peer.ended()
        task = calling(client)
        assert (await (await server.peer()).answer(PLAIN)).body == b"{}"
        await done(task)


# --- hostile answers ---


@pytest.mark.requirement("attack:lean:smuggling")
@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
        HEAD + b"Content-Length: +2\r\n\r\n{}",
        HEAD + b"Content-Length: -1\r\n\r\n{}",
        HEAD + b"Content-Length: 0x2\r\n\r\n{}",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}extra\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"A: b\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"A: b\nContent-Length: 2\n\n{}",
        HEAD + b"A: b\x00\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n{}" + PLAIN,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + PLAIN,
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 99 No\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 2000 No\r\nContent-Length: 2\r\n\r\n{}",
        b"ICY 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"\x16\x03\x01\x00\x05hello",
    ],
)
async def test_an_answer_that_two_readers_could_understand_differently_is_refused(answer: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(answer)
        await failed(task, errors.ServerFailed, "hosted server does not speak HTTP as it should")
        assert await peer.ended()


@pytest.mark.requirement("attack:lean:behind")
@pytest.mark.parametrize(
    "behind", [PLAIN, b"HTTP/1.1 200", b"H", b"garbage", b"\r\n" + PLAIN, b"GET / HTTP/1.1\r\n\r\n", bytes(3)]
)
@pytest.mark.parametrize(
    "answer",
    [
        PLAIN,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Connection: close\r\n" + PLAIN[len(HEAD) :],
    ],
)
async def test_what_comes_behind_an_answer_is_no_answer_to_the_next_request(answer: bytes, behind: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(answer + behind)
        assert (await done(task)).body == b"{}"
        assert await peer.ended()
        task = calling(client)
        await (await server.peer()).answer(HEAD + b"Content-Length: 4\r\n\r\nnext")
        assert (await done(task)).body == b"next"


@pytest.mark.requirement("attack:lean:behind")
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_where_there_is_none_is_no_answer_to_the_next_request(status: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(PLAIN), PLAIN))
        assert (await done(task)).body == b""
        assert await peer.ended()


@pytest.mark.requirement("attack:lean:behind")
async def test_what_an_idle_connection_says_closes_it() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        await peer.send(PLAIN)
        assert await peer.ended()


@pytest.mark.requirement("attack:lean:bounds")
@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Many: 1\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"a" * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"n" * 1000),
        (b"HTTP/1.1 200 ", b"OK " * 300),
        (b"", b"\r\n" * 500),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"extension" * 100),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-Trailer: 1\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: ", b"a" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
    ],
)
async def test_what_is_no_body_has_a_bound(begin: bytes, more: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.request()
        sent = len(begin)
        with contextlib.suppress(ConnectionError):
            await peer.send(begin)
            while sent < 64 * connection.HEAD_BYTES:
                await peer.send(more)
                sent += len(more)
                await asyncio.sleep(0)
        assert sent < 16 * connection.HEAD_BYTES
        await failed(task, errors.ServerFailed, "hosted server does not speak HTTP as it should")


@pytest.mark.requirement("attack:lean:bounds")
async def test_a_body_may_not_be_larger_than_its_reader_takes() -> None:
    async with both() as (client, server):

        async def read() -> None:
            async with client.send("POST", PLACE, JSON, b"{}") as answer:
                await answer.read(1000)

        task = asyncio.create_task(read())
        peer = await server.peer()
        await peer.answer(HEAD + b"Content-Length: 1001\r\n\r\n" + bytes(1001))
        with pytest.raises(errors.ServerFailed, match="The hosted server's answer is larger than the platform takes"):
            await task


@pytest.mark.requirement("attack:lean:half")
@pytest.mark.parametrize("rest", [b"", b"HTT", b"HTTP/1.1 200 OK\r\n", HEAD + b"\r"])
async def test_a_head_that_is_not_whole_is_no_answer(rest: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(rest)
        peer.close()
        await failed(task, errors.ServerFailed, "connection to the hosted server broke")


@pytest.mark.requirement("attack:lean:half")
@pytest.mark.parametrize(
    "rest",
    [
        HEAD + b"Content-Length: 3\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    ],
)
async def test_a_body_that_is_not_whole_is_given_as_far_as_it_came_and_then_fails(rest: bytes) -> None:
    async with both() as (client, server):
        got: list[bytes] = []

        async def read() -> None:
            async with client.send("POST", PLACE, JSON, b"{}") as answer:
                assert answer.ready() is None
                async for chunk in answer.chunks():
                    got.append(chunk)

        task = asyncio.create_task(read())
        peer = await server.peer()
        await peer.answer(rest)
        peer.close()
        with pytest.raises(errors.ServerFailed, match="connection to the hosted server broke"):
            await task
        assert b"".join(got) == b"{}"


@pytest.mark.requirement("workers:lean:answers")
async def test_redirects_and_compression_are_the_servers_fault() -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(b"HTTP/1.1 307 No\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n")
        await failed(task, errors.ServerFailed, r"redirects \(307\), which is not followed")
        task = calling(client)
        await peer.answer(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")
        await failed(task, errors.ServerFailed, "compressed")
