"""Streams of the legacy wire that outlive their connections (MCP 2025-11-25, "Resumability and Redelivery")."""

import asyncio
import re
from collections.abc import Callable

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


async def rest(stream: wire.Stream) -> list[tuple[str, wire.Json]]:
    """The events up to the end of a stream."""
    found: list[tuple[str, wire.Json]] = []
    try:
        while True:
            found.append(await stream.event())
    except StopAsyncIteration:
        return found


def progress(events: list[tuple[str, wire.Json]]) -> list[int]:
    """The numbers of the progress notifications among `events`."""
    return [event["params"]["progress"] for _, event in events if event.get("method") == "notifications/progress"]


@pytest.mark.requirement("gateway:resume:primed")
async def test_a_stream_begins_with_an_id_and_no_data_and_every_event_has_an_id_of_its_own(acme: wire.Caller) -> None:
    session = await acme.open()
    ids: list[str] = []
    for _ in range(2):
        answer = await acme.legacy(session, "tools/call", wire.call("steps", token="t", count=3))
        lines = answer.text.split("\n")
        assert lines[0].startswith("id: ")
        assert lines[1:4] == ["retry: 2000", "data: ", ""]
        ids += [line[4:] for line in lines if line.startswith("id: ")]
    assert len(ids) == len(set(ids)) == 2 * 5
    assert {len(id_) for id_ in ids} == {22}
    # The modern wire has nothing of this, whatever is asked for.
    answer = await acme.modern("tools/call", wire.call("steps", token="t", count=3), last_event_id=ids[0])
    assert len(wire.messages(answer)) == 4
    assert "id: " not in answer.text.replace('"id": ', "")


@pytest.mark.requirement("gateway:resume:primed")
@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
async def test_older_clients_get_ids_but_no_event_without_data(acme: wire.Caller, version: str) -> None:
    session = await acme.open(version)
    answer = await acme.legacy(
        session, "tools/call", wire.call("steps", token="t", count=3), mcp_protocol_version=version
    )
    events = answer.text.split("\n\n")[:-1]
    assert len(events) == 4
    assert all(event.startswith("id: ") and "\ndata: {" in event for event in events)
    after = events[1].split("\n")[0][4:]
    async with acme.listening(session, after) as stream:
        assert await stream.line() == ": keep-alive"
        assert progress(await rest(stream)) == [2]


@pytest.mark.requirement("gateway:resume:broken")
async def test_a_call_goes_on_without_its_connection_and_its_stream_is_fetched_later(acme: wire.Caller) -> None:
    session = await acme.open()
    async with acme.streaming(*wire.legacy(session, "tools/call", wire.call("ticks", token="t", count=6), 5)) as stream:
        seen = [await stream.event() for _ in range(3)]
    assert progress(seen) == [0, 1]
    async with acme.listening(session, seen[-1][0]) as stream:
        events = await rest(stream)
    assert progress(events) == [2, 3, 4, 5]
    assert wire.said(events[-1][1]) == "done"
    assert events[-1][1]["id"] == 5
    # Once more, all of it, long after its end; and nothing but it.
    async with acme.listening(session, seen[0][0]) as stream:
        again = await rest(stream)
    assert progress(again) == [0, 1, 2, 3, 4, 5]
    assert again[3:] == events[1:]
    # What came last has nothing behind it.
    async with acme.listening(session, events[-1][0]) as stream:
        assert [event for _, event in await rest(stream) if event] == []


@pytest.mark.requirement("gateway:resume:apart")
async def test_several_streams_are_resumed_at_once_and_none_shows_anothers_events(acme: wire.Caller) -> None:
    session = await acme.open()

    async def begin(number: int) -> str:
        params = wire.call("ticks", token=f"t-{number}", count=5)
        async with acme.streaming(*wire.legacy(session, "tools/call", params, number)) as stream:
            return (await stream.event())[0]

    async def resume(number: int, after: str) -> None:
        async with acme.listening(session, after) as stream:
            events = [event for _, event in await rest(stream) if event]
        assert {event["params"]["progressToken"] for event in events[:-1]} == {f"t-{number}"}
        assert [event["params"]["progress"] for event in events[:-1]] == [0, 1, 2, 3, 4]
        assert events[-1]["id"] == number

    async with acme.listening(session) as listening:
        await listening.event()
        firsts = [await begin(number) for number in range(1, 4)]
        await asyncio.gather(*(resume(number, first) for number, first in enumerate(firsts, 1)))
        # None of them was the session's one listening stream.
        await acme.act("notice", session, n=9)
        assert (await listening.message())["params"] == {"n": 9}


@pytest.mark.requirement("gateway:resume:listening")
async def test_the_listening_stream_is_resumed_where_it_broke(acme: wire.Caller) -> None:
    session = await acme.open()
    await acme.act("notice", session, n=0)
    async with acme.listening(session) as stream:
        first = await stream.event()
        zero = await stream.event()
        await acme.act("notice", session, n=1)
        one = await stream.event()
    assert (first[1], zero[1]["params"], one[1]["params"]) == ({}, {"n": 0}, {"n": 1})
    await acme.act("notice", session, n=2)
    await acme.act("notice", session, n=3)

    async def heard(after: str, count: int) -> list[int]:
        async with acme.listening(session, after) as stream:
            return [(await stream.message())["params"]["n"] for _ in range(count)]

    assert await heard(zero[0], 3) == [1, 2, 3]
    assert await heard(first[0], 4) == [0, 1, 2, 3]
    await acme.act("notice", session, n=4)
    assert await heard("", 1) == [4]  # without an id: what nobody was sent
    assert await heard(one[0], 3) == [2, 3, 4]


@pytest.mark.requirement("gateway:resume:foreign")
async def test_an_event_of_somebody_else_is_none(gate: Gate, acme: wire.Caller, caller: Make) -> None:
    session = await acme.open()
    answer = await acme.legacy(session, "tools/call", wire.call("steps", token="t", count=2))
    found = re.findall(r"^id: ([\w-]{22})$", answer.text, re.MULTILINE)
    assert found, answer.text
    id_ = found[0]
    mine = await acme.open()

    async def status(who: wire.Caller, at: str, session: str, after: str) -> int:
        fields = {**who.bearer, "accept": "text/event-stream", "mcp-session-id": session, "last-event-id": after}
        answer = await who.http.get(at, headers=fields)
        assert "progress" not in answer.text
        return answer.status_code

    for who in (caller(gate.colleague), caller(gate.umbra)):
        assert await status(who, acme.url, session, id_) == 404
    assert await status(acme, caller(gate.second).url, session, id_) == 404
    assert await status(acme, acme.url, mine, id_) == 400  # the caller's own session, another one's event
    flipped = ("A" if id_[0] != "A" else "B") + id_[1:]
    for wrong in (flipped, id_[:-1], id_ + "A", "0", "x y" * 7 + "A", "=" * 22, "../" * 7 + "A"):
        assert await status(acme, acme.url, session, wrong) == 400
    await acme.end(session)
    assert await status(acme, acme.url, session, id_) == 404
