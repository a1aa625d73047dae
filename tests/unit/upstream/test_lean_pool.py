"""Connections of the lean client: which are used again, when a request is repeated, who waits, and how long."""

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import Callable

import pytest

from smcp.kernel import errors
from smcp.upstream import connection, lean
from support import byhand
from support.leanly import HEAD, JSON, PLACE, PLAIN, Called, both, call, calling, done, failed, warm

NEXT = HEAD + b"Content-Length: 4\r\n\r\nnext"


# --- kept connections ---


@pytest.mark.requirement("workers:lean:kept")
async def test_the_connection_that_was_used_last_is_used_first() -> None:
    async with both() as (client, server):
        first, second = calling(client), calling(client)
        peers = [await server.peer(), await server.peer()]
        for peer in peers:
            await peer.answer(PLAIN)
        await done(first)
        await done(second)
        for _ in range(3):
            task = calling(client)
            await peers[1].answer(NEXT)
            assert (await done(task)).body == b"next"
        assert server.nobody()


@pytest.mark.requirement("workers:lean:kept")
async def test_a_kept_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        peer.close()
        task = calling(client)
        assert (await (await server.peer()).answer(NEXT)).body == b"{}"
        assert (await done(task)).body == b"next"


@pytest.mark.requirement("workers:lean:kept")
async def test_a_connection_that_nobody_uses_is_closed_before_the_server_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "KEPT_S", 0.2)
    async with both() as (client, server):
        peer = await warm(client, server)
        assert await peer.ended()


@pytest.mark.requirement("workers:lean:kept")
async def test_no_more_connections_are_kept_than_it_was_told() -> None:
    async with both(kept=1) as (client, server):
        tasks = [calling(client), calling(client)]
        peers = [await server.peer(), await server.peer()]
        for peer in peers:
            await peer.answer(PLAIN)
        for task in tasks:
            await done(task)
        assert await peers[1].ended()
        task = calling(client)
        await peers[0].answer(NEXT)
        await done(task)


@pytest.mark.requirement("workers:lean:kept")
@pytest.mark.parametrize("answer", [HEAD + b"Connection: close\r\n" + PLAIN[len(HEAD) :], b"HTTP/1.0" + PLAIN[8:]])
async def test_a_connection_that_the_server_will_close_is_not_kept(answer: bytes) -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await peer.answer(answer)
        await done(task)
        assert await peer.ended()


@pytest.mark.requirement("workers:lean:renewed")
async def test_after_another_process_took_over_no_older_connection_gets_a_request() -> None:
    async with both() as (client, server):
        idle = await warm(client, server)
        under_way = calling(client)
        await idle.request()
        other = calling(client)
        second = await server.peer()
        await second.answer(PLAIN)
        await done(other)
        client.renew()
        assert await second.ended()
        await idle.send(PLAIN)
        assert (await done(under_way)).body == b"{}"
        assert await idle.ended()
        task = calling(client)
        await (await server.peer()).answer(NEXT)
        assert (await done(task)).body == b"next"


# --- repeating ---


@pytest.mark.requirement("workers:lean:repeated")
async def test_a_request_that_a_closing_connection_did_not_read_is_repeated_once_on_a_new_one() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        task = calling(client, body=b"again")
        await byhand.readable(peer)
        peer.close()  # with the request in it, which it has not read
        assert (await (await server.peer()).answer(NEXT)).body == b"again"
        assert (await done(task)).body == b"next"


@pytest.mark.requirement("workers:lean:repeated")
async def test_a_request_that_was_not_wholly_written_is_repeated() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        task = calling(client, body=bytes(4_000_000))
        await peer.head()
        peer.close()
        assert len((await (await server.peer()).answer(NEXT)).body) == 4_000_000
        assert (await done(task)).body == b"next"


@pytest.mark.requirement("workers:lean:repeated")
async def test_a_request_is_repeated_on_no_kept_connection_and_only_once() -> None:
    async with both() as (client, server):
        tasks = [calling(client), calling(client)]
        kept = [await server.peer(), await server.peer()]
        for peer in kept:
            await peer.answer(PLAIN)
        for task in tasks:
            await done(task)
        task = calling(client)
        await byhand.readable(kept[1])
        kept[1].close()
        fresh = await server.peer()
        await byhand.readable(fresh)
        fresh.close()
        await failed(task, errors.ServerFailed, "connection to the hosted server broke")
        assert server.nobody()


@pytest.mark.requirement("workers:lean:carried-out")
async def test_a_request_that_was_read_may_have_been_carried_out_and_is_not_repeated() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        task = calling(client)
        await peer.request()
        peer.close()
        await failed(task, errors.ServerFailed, "connection to the hosted server broke")
        assert server.nobody()


@pytest.mark.requirement("workers:lean:carried-out")
async def test_a_request_whose_answer_has_begun_is_not_repeated() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        task = calling(client)
        await byhand.readable(peer)
        await peer.send(b"H")
        peer.close()
        await failed(task, errors.ServerFailed, "connection to the hosted server broke")
        assert server.nobody()


@pytest.mark.requirement("workers:lean:carried-out")
async def test_a_request_on_a_new_connection_is_not_repeated() -> None:
    async with both() as (client, server):
        task = calling(client)
        peer = await server.peer()
        await byhand.readable(peer)
        peer.close()
        await failed(task, errors.ServerFailed, "connection to the hosted server broke")
        assert server.nobody()


@pytest.mark.requirement("workers:lean:repeated")
async def test_what_only_reads_is_repeated_although_it_was_read() -> None:
    async with both() as (client, server):
        peer = await warm(client, server)
        task = calling(client, "GET", b"")
        await peer.request()
        peer.close()
        await (await server.peer()).answer(NEXT)
        assert (await done(task)).body == b"next"


@pytest.mark.requirement("workers:lean:unreachable")
async def test_a_server_that_is_not_there_is_told() -> None:
    with byhand.socket_path() as path:
        client = lean.Client(path)
        for _ in range(2):
            with pytest.raises(errors.ServerFailed, match="The hosted server can't be reached"):
                await call(client)
        await client.close()


@pytest.mark.requirement("workers:lean:unreachable")
async def test_a_server_with_too_many_waiting_before_it_is_waited_for() -> None:
    async with both(backlog=0) as (client, server):
        tasks = [calling(client) for _ in range(8)]
        for _ in tasks:
            await (await server.peer()).answer(NEXT)
        assert [(await done(task)).body for task in tasks] == [b"next"] * 8


# --- places ---


@pytest.mark.requirement("workers:lean:places")
async def test_who_comes_first_is_served_first_on_no_more_connections_than_there_may_be() -> None:
    async with both(most=2) as (client, server):
        tasks = [calling(client, body=b"%d" % number) for number in range(10)]
        peers = [await server.peer(), await server.peer()]
        served = [{(await peer.answer(NEXT)).body for peer in peers} for _ in range(5)]
        for task in tasks:
            await done(task)
        assert served == [{b"%d" % number, b"%d" % (number + 1)} for number in range(0, 10, 2)]
        assert server.nobody()


@pytest.mark.requirement("workers:lean:places")
async def test_streams_that_last_take_no_place_from_calls() -> None:
    async with both(most=1, streams=1) as (client, server):
        stream = calling(client, "GET", b"", lasting=True)
        held = await server.peer()
        await held.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        task = calling(client)
        await (await server.peer()).answer(NEXT)
        assert (await done(task)).body == b"next"
        held.close()
        await done(stream)


@pytest.mark.requirement("workers:lean:places")
async def test_who_waits_too_long_for_a_place_or_behind_too_many_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "PLACE_S", 0.3)
    monkeypatch.setattr(lean, "WAITING", 1)
    async with both(most=1) as (client, server):
        first = calling(client)
        peer = await server.peer()
        await peer.request()
        waiting = calling(client)
        await asyncio.sleep(0)
        await failed(calling(client), errors.Unavailable, "Too many connections to the hosted server are in use")
        await failed(waiting, errors.Unavailable, "Too many connections to the hosted server are in use")
        await peer.send(NEXT)
        await done(first)


async def _cancelled(task: "asyncio.Task[Called]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done(task)


@pytest.mark.requirement("workers:lean:cancelled")
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", HEAD + b"Content-Length: 5\r\n\r\n12"])
async def test_who_hangs_up_closes_the_connection_and_gives_its_place_back(begun: bytes) -> None:
    async with both(most=1) as (client, server):
        for _ in range(3):
            task = calling(client)
            peer = await server.peer()
            await peer.answer(begun)
            for _ in range(3):
                await asyncio.sleep(0)
            await _cancelled(task)
            assert await peer.ended()
        task = calling(client)
        await (await server.peer()).answer(NEXT)
        assert (await done(task)).body == b"next"


@pytest.mark.requirement("workers:lean:cancelled")
async def test_who_hangs_up_while_it_waits_for_a_place_takes_none() -> None:
    async with both(most=1) as (client, server):
        first, second, third = calling(client, body=b"1"), calling(client, body=b"2"), calling(client, body=b"3")
        peer = await server.peer()
        await peer.request()
        await _cancelled(second)
        await peer.send(PLAIN)
        await done(first)
        assert (await peer.answer(NEXT)).body == b"3"
        assert (await done(third)).body == b"next"


@pytest.mark.requirement("workers:lean:cancelled")
async def test_a_place_that_comes_just_when_it_is_not_wanted_any_more_goes_to_the_next() -> None:
    async with both(most=1) as (client, server):
        holder = client.send("POST", PLACE, JSON, b"1")
        entering = asyncio.ensure_future(holder.__aenter__())
        peer = await server.peer()
        await peer.answer(HEAD + b"Content-Length: 5\r\n\r\n")
        await entering
        second, third = calling(client, body=b"2"), calling(client, body=b"3")
        await asyncio.sleep(0)
        await holder.__aexit__()  # hands the place to the second,
        second.cancel()  # which goes before it can take it
        assert await peer.ended()
        assert (await (await server.peer()).answer(NEXT)).body == b"3"
        assert (await done(third)).body == b"next"
        with pytest.raises(asyncio.CancelledError):
            await done(second)


@pytest.mark.requirement("workers:lean:cancelled")
async def test_a_client_that_is_closed_ends_all_that_is_under_way() -> None:
    async with both(most=1) as (client, server):
        first, second = calling(client), calling(client)
        peer = await server.peer()
        await peer.request()
        await client.close()
        await failed(first, errors.ServerFailed, "conversation with the hosted server has ended")
        await failed(second, errors.ServerFailed, "conversation with the hosted server has ended")
        await failed(calling(client), errors.ServerFailed, "conversation with the hosted server has ended")
        assert await peer.ended()


# --- times ---


async def _drip(peer: byhand.Peer, data: bytes, until: Callable[[], bool]) -> None:
    """One byte after the other, and the last one for ever."""
    try:
        for place in range(1 << 20):
            await peer.send(data[min(place, len(data) - 1) :][:1])
            await asyncio.sleep(0.02)
            if until():
                return
    except ConnectionError:
        pass


@pytest.mark.requirement("workers:lean:silence")
@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nX-Long: a"])
async def test_a_head_that_does_not_come_or_comes_a_byte_at_a_time_is_late(drip: bytes) -> None:
    async with both() as (client, server):
        began = time.monotonic()
        task = calling(client, silence_s=1.5)
        peer = await server.peer()
        await peer.request()
        if drip:
            await _drip(peer, drip, task.done)
        await failed(task, errors.ServerTimeout, "The hosted server did not answer in time")
        assert time.monotonic() - began > 1.4
        assert await peer.ended()


@pytest.mark.requirement("workers:lean:silence")
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_body_may_take_its_time_as_long_as_something_of_it_comes() -> None:
    for silence_s in (3.0, 6.0, 15.0):
        async with both() as (client, server):
            if await _unhurried(client, server, silence_s):
                return
    raise AssertionError("this machine stood still again and again")


async def _unhurried(client: lean.Client, server: byhand.ByHand, silence_s: float) -> bool:
    """Was each piece of the body sent well within the silence? If not, this says nothing."""
    task = calling(client, silence_s=silence_s)
    peer = await server.peer()
    await peer.answer(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    longest, last = 0.0, time.monotonic()
    with contextlib.suppress(ConnectionError):
        for _ in range(8):
            await peer.send(b"1\r\na\r\n")
            await asyncio.sleep(silence_s / 6)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    early = task.done()
    if early and longest > silence_s / 2:
        await asyncio.gather(task, return_exceptions=True)
        return False
    assert not early
    await _drip(peer, b"2;extension", task.done)  # which is nothing of it
    await failed(task, errors.ServerTimeout, "The hosted server did not answer in time")
    assert await peer.ended()
    return True


@pytest.mark.requirement("workers:lean:silence")
async def test_a_server_that_does_not_read_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.3)
    async with both() as (client, server):
        task = calling(client, body=bytes(8_000_000))
        await server.peer()
        await failed(task, errors.ServerTimeout, "The hosted server did not answer in time")


@pytest.mark.requirement("workers:lean:back-pressure")
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_reader_that_is_slow_stops_the_server_and_is_not_taken_for_a_silent_one() -> None:
    async with both() as (client, server):
        length = 64 * 1024 * 1024
        async with asyncio.timeout(byhand.WAIT_S):
            holder = client.send("POST", PLACE, JSON, b"{}", silence_s=3.0)
            entering = asyncio.ensure_future(holder.__aenter__())
            peer = await server.peer()
            await peer.answer(HEAD + b"Content-Length: %d\r\n\r\n" % length)
            answer = await entering
            sent = await peer.fill()
            # What waits here, what was read at once, and what the kernel has.
            assert sent < 4 * 1024 * 1024
            await asyncio.sleep(3.5)
            got = 0
            rest = asyncio.create_task(peer.send(bytes(length - sent)))
            async for chunk in answer.chunks():
                got += len(chunk)
            await rest
            await holder.__aexit__()
        assert got == length


@pytest.mark.requirement("attack:lean:pieces")
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_bytes() -> None:
    async with both() as (client, server):
        piece = b"2\r\nab\r\n"
        holder = client.send("POST", PLACE, JSON, b"{}")
        entering = asyncio.ensure_future(holder.__aenter__())
        peer = await server.peer()
        await peer.answer(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + piece)
        answer = await entering
        tracemalloc.start()
        try:
            sent = await peer.fill(piece * 8192)
            held, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sent // len(piece) * 2 > connection.HELD
        assert held < 1.5 * 1024 * 1024
        assert most < 4 * 1024 * 1024
        assert (await anext(answer.chunks())).startswith(b"ab")
        await holder.__aexit__()
