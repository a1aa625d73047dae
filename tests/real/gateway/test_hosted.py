"""Hosted servers that misbehave: their client gets a clear error, their log a line, the platform and others nothing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
import pytest

from support import processes, wire, yardstick
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

Make = Callable[[Endpoint], wire.Caller]


@pytest.fixture(scope="module")
def others(gate: Gate) -> wire.Vitals:
    """What other files' tests have left at work on the same platform: copies that stop by idleness, later."""
    return wire.vitals(gate.platform)


@pytest.fixture(autouse=True)
async def unharmed(gate: Gate, others: wire.Vitals) -> AsyncGenerator[None]:
    """Whatever a server does, the same platform answers others in time, and holds no more than before."""
    async with httpx2.AsyncClient(timeout=120.0) as http:
        async for _ in _watched(gate, wire.Caller(http, gate.umbra), others):
            yield


async def _watched(gate: Gate, umbra: wire.Caller, others: wire.Vitals) -> AsyncGenerator[None]:
    await umbra.act("echo")
    before = wire.vitals(gate.platform)
    slowest = held = 0.0
    done = asyncio.Event()

    async def neighbour() -> None:
        nonlocal slowest, held
        while not done.is_set():
            began = time.monotonic()
            assert (await umbra.act("echo"))["canary"] == "umbra-tool"
            slowest = max(slowest, time.monotonic() - began)
            began = time.monotonic()
            await asyncio.sleep(0.02)
            held = max(held, time.monotonic() - began)

    async with yardstick.beside() as machine:
        asking = asyncio.create_task(neighbour())
        yield
        done.set()
        await asking
    # Who asks waits for the machine, and for what else this process does; not for what another tenant's server does.
    assert slowest < 5 + 10 * machine.worst + 2 * held, (machine.worst, held)
    most = others.instances + 3  # the shared copies of three servers, and what was there
    wanted = before._replace(instances=most, children=others.children + 9)
    after = await wire.settled(gate.platform, wanted, files=12)
    assert after.pid == before.pid
    assert after.more(wanted._replace(in_flight=0)) == {}
    assert after.files <= before.files + 12  # the pipes of a copy that was not there before
    assert await wire.waited_for(gate.platform) == 0


async def _logged(gate: Gate, after: int, *texts: str) -> bool:
    """Whether a line of the log behind position `after` holds each of `texts`; lines are written in batches."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(all(text in line for text in texts) for line in await _log(gate, after)):
            return True
        await asyncio.sleep(0.1)
    return False


async def _log(gate: Gate, after: int) -> list[str]:
    """The lines behind position `after`."""
    return [text for _, text in await asyncio.to_thread(_lines, gate, after)]


async def _end(gate: Gate) -> int:
    """The position of the last line."""
    return max([0, *(position for position, _ in await asyncio.to_thread(_lines, gate, 0))])


def _lines(gate: Gate, after: int) -> list[tuple[int, str]]:
    # Beside the event loop: the neighbour asks on, and how long it waits is measured.
    lines: list[tuple[int, str]] = []
    while True:
        page = gate.platform.api("GET", f"/tenants/acme/servers/tool/logs?after={after}&limit=1000", key=gate.admin)
        lines += [(int(line["position"]), line["text"]) for line in page["items"]]
        if page["next"] is None:
            return lines
        after = int(page["next"])


async def _error(one: wire.Caller, session: str | None, act: str, **arguments: Any) -> dict[str, Any]:
    """The JSON-RPC error that a call ends with."""
    params = wire.call(act, **arguments)
    call = (
        one.modern("tools/call", params, "mine")
        if session is None
        else one.legacy(session, "tools/call", params, "mine")
    )
    said = wire.messages(await call)[-1]
    assert said["id"] == "mine"
    assert "error" in said, said
    return said["error"]


@pytest.mark.requirement("gateway:hosted:dies")
@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize(("act", "arguments"), [("exit", {}), ("killed", {}), ("hog", {"chunks": 40})])
async def test_a_server_that_dies_in_a_call_is_a_clear_error_at_once_and_lives_again(
    gate: Gate, acme: wire.Caller, era: str, act: str, arguments: dict[str, Any]
) -> None:
    session = await acme.open() if era == "legacy" else None
    await acme.act("echo", session)
    lines = await _end(gate)
    # At once: when the call's time was over, the error would be another one.
    error = await _error(acme, session, act, **arguments)
    assert (error["code"], error["data"]) == (-32000, {"mayHaveRun": True})
    assert await _logged(gate, lines, "ended by itself (exit code")
    # A session goes on in another copy: the server keeps nothing that would be lost (docs/decisions/0031-sessions.md).
    assert (await acme.act("echo", session, text="again"))["text"] == "again"


@pytest.mark.requirement("gateway:hosted:garbage")
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_garbage_on_stdout_and_forged_answers_are_logged_and_change_nothing(
    gate: Gate, acme: wire.Caller, era: str
) -> None:
    session = await acme.open() if era == "legacy" else None
    waiting = asyncio.create_task(acme.act("echo", session, text="neighbour"))
    assert await acme.act("garbage", session) == "after all"
    assert (await waiting)["text"] == "neighbour"
    assert await _logged(gate, 0, "ignored a message", "I print to stdout")
    assert (await acme.act("echo", session, text="fine"))["text"] == "fine"


@pytest.mark.requirement("gateway:hosted:garbage")
async def test_an_answer_that_is_none_is_an_error_at_once(acme: wire.Caller) -> None:
    error = await _error(acme, None, "broken")
    assert error["code"] == -32000
    assert "in time" not in error["message"]


@pytest.mark.requirement("gateway:hosted:floods")
async def test_a_flood_of_messages_on_stdout_is_taken_and_holds_nobody_up(acme: wire.Caller) -> None:
    assert await acme.act("out", kind="notices", thousands=200) == "flooded"


@pytest.mark.requirement("gateway:hosted:floods")
async def test_a_flood_of_garbage_on_stdout_ends_its_server_and_the_log_says_why(gate: Gate, acme: wire.Caller) -> None:
    lines = await _end(gate)
    error = await _error(acme, None, "out", kind="garbage", thousands=200)
    assert (error["code"], error["data"]) == (-32000, {"mayHaveRun": True})
    assert await _logged(gate, lines, "[smcp] ended", "that are no messages")
    assert (await acme.act("echo", text="again"))["text"] == "again"


@pytest.mark.requirement("gateway:hosted:floods")
async def test_a_flood_on_stderr_is_cut_and_the_log_says_so(gate: Gate, acme: wire.Caller) -> None:
    await asyncio.sleep(1.1)  # what an earlier flood used up of this second's lines
    lines = await _end(gate)
    assert await acme.act("err", thousands=100) == "flooded"
    # What was dropped is told with the first line of another second.
    new: list[str] = []
    for _ in range(20):
        await asyncio.sleep(1.1)
        await acme.act("err", thousands=0)
        new = await _log(gate, lines)
        if any("lines were dropped" in line for line in new):
            break
    assert 400 < len(new) < 10_000
    assert any("lines were dropped" in line for line in new)
    assert max(map(len, new)) <= 4096


@pytest.mark.requirement("gateway:hosted:floods")
async def test_a_message_over_the_cap_ends_its_server_and_the_log_names_the_setting(
    gate: Gate, acme: wire.Caller
) -> None:
    for size in (1_500_000, 30_000_000):
        error = await _error(acme, None, "long", bytes=size)
        assert error["code"] == -32000
        assert (await acme.act("echo", text="again"))["text"] == "again"
    assert await _logged(gate, 0, "runtime.max_message_bytes")
    assert len((await acme.modern("tools/call", wire.call("long", bytes=800_000))).content) > 800_000


@pytest.mark.requirement("gateway:hosted:whole")
async def test_a_session_ends_with_every_process_its_server_started_however_stubborn(
    gate: Gate, acme: wire.Caller
) -> None:
    before = wire.vitals(gate.platform)
    session = await acme.open()
    await acme.act("family", session, count=6)
    assert await acme.act("stubborn", session) == "stubborn"
    family = gate.platform.family()
    assert len(family) >= before.children + 6
    assert await acme.end(session) == 204
    after = await wire.settled(gate.platform, before)
    assert after.children <= before.children
    assert len(processes.alive(family)) <= before.children + wire.OWN_PROCESSES


@pytest.mark.requirement("gateway:hosted:whole")
async def test_two_hundred_starts_and_ends_leave_no_process_no_zombie_and_no_file(gate: Gate, caller: Make) -> None:
    # A principal of its own: what other tests have left is not what makes room.
    one = caller(gate.second._replace(key=gate.platform.create_key("acme", "mcp_user")))
    await one.act("echo")
    before = wire.vitals(gate.platform)

    async def cycles(count: int) -> None:
        for number in range(count):
            session = await one.open()
            if number % 3 == 0:
                await one.end(session)
            elif number % 3 == 1:
                await _error(one, session, "exit")
            # else: the next one makes room

    await asyncio.gather(*(cycles(50) for _ in range(4)))
    await one.close()
    after = await wire.settled(gate.platform, before, files=8)
    assert after.more(before) == {}
    assert after.files <= before.files + 8  # this client's own connections
    assert wire.zombies(gate.platform) == 0
