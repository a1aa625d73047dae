"""Legacy sessions: unguessable, bound to who opened them and where, bounded in number and time."""

import asyncio
import base64
import json
import pathlib
import time
from collections.abc import Callable

import httpx2
import pytest

from support import gates, processes, wire
from support.clients import Endpoint
from support.gates import Gate
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_BITS = 128


def _same(answer: httpx2.Response) -> tuple[int, bytes, list[str]]:
    """An answer without what may differ: the request's own id and the date."""
    fields = sorted(f"{name}: {value}" for name, value in answer.headers.items())
    return (
        answer.status_code,
        answer.content,
        [f for f in fields if not f.startswith(("smcp-request-id", "date", "ratelimit:"))],
    )


@pytest.mark.requirement("gateway:sessions:unguessable")
async def test_session_ids_are_random_and_never_the_same(acme: wire.Caller) -> None:
    seen = [await acme.open() for _ in range(30)]
    raws = [base64.urlsafe_b64decode(one + "=" * (-len(one) % 4)) for one in seen]
    assert len(set(seen)) == 30
    assert all(len(one) * 8 >= _BITS for one in raws)
    assert all(one.isascii() and one.isprintable() and " " not in one for one in seen)
    ones = sum(bin(int.from_bytes(one, "big")).count("1") for one in raws)
    bits = sum(len(one) * 8 for one in raws)
    # Six standard deviations of a fair coin: fails for fair ids once in 500 million runs.
    assert abs(ones - bits / 2) < 6 * (bits / 4) ** 0.5
    for place in range(len(raws[0])):  # no place holds a counter, a time or an address
        assert len({one[place] for one in raws}) > 15


@pytest.mark.requirement("gateway:sessions:bound")
async def test_a_session_of_somebody_else_or_somewhere_else_looks_like_one_that_never_was(
    gate: Gate, http: httpx2.AsyncClient, acme: wire.Caller
) -> None:
    # CVE-2026-52869, agentgateway GHSA-mvgg-jvj2-4frq
    session, dead = await acme.open(), await acme.open()
    assert await acme.end(dead) == 204
    callers = [wire.Caller(http, at) for at in (gate.colleague, gate.second, gate.umbra)]
    crossed = wire.Caller(http, gate.second._replace(key=gate.colleague.key))
    for verb in ("POST", "GET", "DELETE"):
        answers: set[str] = set()
        for one, told in [
            *((caller, session) for caller in [*callers, crossed]),
            (acme, dead),
            (acme, "A" * len(session)),
            (acme, session.swapcase()),
            (acme, session[:-1]),
            (acme, "x"),
            (callers[0], "never-was"),
        ]:
            fields, body = wire.legacy(told, "tools/call", wire.call("echo"), 7)
            sent = {**one.bearer, **fields}
            answer = await http.request(verb, one.url, headers=sent, content=body if verb == "POST" else None)
            answers.add(str(_same(answer)))
        assert len(answers) == 1, answers
        assert "(404, " in answers.pop()
    assert (await acme.act("echo", session, text="mine"))["canary"] == "acme-tool"


@pytest.mark.requirement("gateway:sessions:bound")
async def test_another_tenants_route_is_not_found_whatever_session_is_shown(
    gate: Gate, http: httpx2.AsyncClient, umbra: wire.Caller
) -> None:
    session = await umbra.open()
    stranger = wire.Caller(http, gate.umbra._replace(key=gate.acme.key))
    nowhere = wire.Caller(http, gate.umbra._replace(key=gate.acme.key, url=gate.umbra.url.replace("umbra", "nobody")))
    shown = [_same(await one.legacy(session, "tools/list")) for one in (stranger, nowhere)]
    assert shown[0] == shown[1]
    assert shown[0][0] == 404


@pytest.mark.requirement("gateway:sessions:refused")
async def test_a_refused_initialize_leaves_nothing_behind(gate: Gate, acme: wire.Caller) -> None:
    before = wire.vitals(gate.platform)
    answer = await acme.legacy(None, "initialize", {**wire.hello(), "protocolVersion": "refuse-me"})
    assert answer.json()["error"]["code"] == -32602
    assert "mcp-session-id" not in answer.headers
    malformed = await acme.legacy(
        None, "initialize", {"_meta": {"io.modelcontextprotocol/protocolVersion": wire.MODERN}}
    )
    assert malformed.status_code == 400
    assert "mcp-session-id" not in malformed.headers
    after = await wire.settled(gate.platform, before)
    assert after.more(before) == {}


@pytest.mark.requirement("gateway:sessions:life")
async def test_delete_ends_a_session_and_its_copy_of_the_server(gate: Gate, acme: wire.Caller) -> None:
    before = wire.vitals(gate.platform)
    session = await acme.open()
    family = gate.platform.family()
    assert await acme.end(session) == 204
    assert await acme.end(session) == 404
    after = await wire.settled(gate.platform, before)
    assert after.more(before) == {}
    assert len(processes.alive(family)) <= before.children + wire.OWN_PROCESSES


@pytest.mark.requirement("gateway:sessions:life")
async def test_initialize_with_a_stale_session_id_opens_a_new_one(acme: wire.Caller) -> None:
    old = await acme.open()
    assert await acme.end(old) == 204
    answer = await acme.legacy(None, "initialize", wire.hello(), mcp_session_id=old)
    assert answer.status_code == 200
    new = answer.headers["mcp-session-id"]
    assert new != old
    assert (await acme.act("echo", new, text="x"))["text"] == "x"


@pytest.mark.requirement("gateway:sessions:life")
async def test_a_request_without_a_session_is_400_and_a_get_without_one_405(acme: wire.Caller) -> None:
    assert (await acme.legacy(None, "tools/list")).status_code == 400
    answer = await acme.http.get(acme.url, headers={**acme.bearer, "accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.requirement("gateway:sessions:cap")
async def test_at_the_cap_the_longest_idle_session_makes_room(
    gate: Gate, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    # A principal of its own: what other tests have left is not what makes room.
    one = caller(gate.acme._replace(key=gate.platform.create_key("acme", "mcp_user")))
    before = wire.vitals(gate.platform).sessions
    sessions = [await one.open() for _ in range(6)]
    await one.act("echo", sessions[0])
    newest = await one.open()
    for session, status in [(sessions[1], 404), (sessions[0], 200), (sessions[2], 200), (newest, 200)]:
        assert (await one.legacy(session, "ping")).status_code == status
    assert wire.vitals(gate.platform).sessions <= before + 6


@pytest.mark.requirement("gateway:sessions:cap")
async def test_many_at_once_do_not_pass_the_cap(gate: Gate, caller: Callable[[Endpoint], wire.Caller]) -> None:
    one = caller(gate.colleague)
    answers = await asyncio.gather(*(one.legacy(None, "initialize", wire.hello()) for _ in range(16)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    alive = [await one.legacy(answer.headers["mcp-session-id"], "ping") for answer in answers if answer.is_success]
    assert sum(answer.status_code == 200 for answer in alive) <= 6
    for answer in answers:
        await one.end(answer.headers.get("mcp-session-id", ""))


@pytest.mark.requirement("gateway:sessions:stream")
async def test_a_new_get_replaces_the_old_stream_and_brings_what_waited(acme: wire.Caller) -> None:
    session = await acme.open()
    await acme.act("notice", session, n=1)
    async with acme.listening(session) as old:
        assert (await old.message())["params"] == {"n": 1}
        async with acme.listening(session) as new:
            await new.line()
            await old.end()
            await acme.act("notice", session, n=2)
            assert (await new.message())["params"] == {"n": 2}
            assert await acme.end(session) == 204
            await new.end()


@pytest.mark.requirement("gateway:sessions:unauthenticated")
async def test_two_thousand_posts_without_a_key_make_no_session_no_copy_and_no_record(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    # CVE-2026-63128
    before = wire.vitals(gate.platform)
    last = _trail(gate, "acme")[-1]["position"]
    size = _memory(before.pid)
    fields, body = wire.legacy(None, "initialize", wire.hello())

    async def some(number: int) -> set[int]:
        keys = [{}, {"authorization": f"Bearer smcp_acme_{number:052d}"}, {"mcp-session-id": f"s{number}"}]
        sent = [{**fields, **keys[turn % 3]} for turn in range(100)]
        return {await _decided(http, gate.acme.url, one, body) for one in sent}

    assert set().union(*await asyncio.gather(*(some(number) for number in range(20)))) == {401}
    after = wire.vitals(gate.platform)
    # What another test left may end meanwhile; nothing may have come.
    assert after.more(before._replace(in_flight=after.in_flight)) == {}
    # What an earlier test left behind may still end meanwhile; none of these posts is in the tenant's trail.
    new = _trail(gate, "acme", last)
    assert {one["event"]["event"] for one in new} <= {"audit_read", "session_ended", "mcp_call"}, new
    assert len(new) < 20, new
    assert _memory(before.pid) - size < 32 << 20


async def _decided(http: httpx2.AsyncClient, url: str, fields: dict[str, str], body: bytes) -> int:
    """The status; asked again where the store was slow just now (503), so that nothing was decided."""
    for _ in range(20):
        status = (await http.post(url, headers=fields, content=body)).status_code
        if status != 503:
            return status
        await asyncio.sleep(0.2)
    return 503


def _trail(gate: Gate, tenant: str, after: int = 0) -> list[wire.Json]:
    """The entries of the tenant's trail behind a position."""
    found: list[wire.Json] = []
    while True:
        page = gate.platform.api("GET", f"/tenants/{tenant}/audit?after={after}&limit=500", key=gate.admin)
        found += page["items"]
        if page["next"] is None:
            return found
        after = page["next"]


def _memory(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = pathlib.Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]
    return int(pages) * 4096


@pytest.mark.requirement("gateway:sessions:expiry")
async def test_a_session_ends_when_idle_and_at_its_age_but_not_while_it_works(tmp_path: pathlib.Path) -> None:
    wire.wheel(tmp_path / "wheels")
    # Far apart, and far from what a busy machine needs for a start of the server.
    limits = {"SMCP_GATEWAY_SESSION_IDLE_S": "10", "SMCP_GATEWAY_SESSION_MAX_S": "40"}
    settings = {**gates.SETTINGS, **limits, "SMCP_DEPLOY_WHEEL_DIRS": str(tmp_path / "wheels")}
    with Platform(tmp_path, settings) as platform:
        at = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))["tool"]
        async with httpx2.AsyncClient(timeout=120.0) as http:
            one = wire.Caller(http, at)
            began = time.monotonic()
            heard = await one.open()
            async with one.listening(heard) as stream:
                busy = await one.open()
                working = asyncio.create_task(one.act("sleep", busy, seconds=14))
                idle = await one.open()
                await asyncio.sleep(12)  # time itself is what is tested
                assert (await one.legacy(idle, "ping")).status_code == 404
                assert (await one.legacy(heard, "ping")).status_code == 200
                assert await working == "awake"
                while (await one.legacy(heard, "ping")).status_code == 200:
                    assert time.monotonic() - began < 120
                    await asyncio.sleep(0.1)
                assert time.monotonic() - began >= 39
                await stream.end()
            now = wire.vitals(platform)
            after = await wire.settled(platform, now._replace(sessions=0, instances=0, children=0))
            assert (after.sessions, after.instances, after.children) == (0, 0, 0)
        entries = platform.api("GET", "/tenants/acme/audit?limit=1000", key=platform.create_key("acme", "admin"))
        assert json.dumps(entries).count('"expired"') >= 3
