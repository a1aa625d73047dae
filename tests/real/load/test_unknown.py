"""Who is nobody: a hundred thousand requests without a valid credential."""

import asyncio
import collections
import itertools
from collections.abc import Iterator

import pytest

from real.load.conftest import Running
from support import load, wire
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_WARM = 8_000
_MANY = 100_000
_TOGETHER = 64
_EACH = 40
"""Requests of one address: fewer than it may send in a minute, so that most get as far as they can."""
_USAGE = b"platform\0usage"
"""The tenant's own, of its deployment, which is added up later."""
_GROWTH = 12 << 20
"""Bytes of memory: what the tables of addresses take, which are bounded, and what an allocator keeps."""


def _requests(platform: Platform, key: str) -> list[bytes]:
    """What somebody without a key may try."""
    base = platform.base_url
    keys = [
        None, "Bearer", "Bearer ", "Basic abc", f"Bearer {wire.miskeyed(key)}", f"Bearer {key[:-4]}", f"Bearer {key}x",
        "Bearer " + "x" * 4000, "Bearer smcp_unknown_0000000000", f"bearer {key} {key}", "Bearer a.b.c",
    ]  # fmt: skip
    paths = [
        "/t/acme/tool/mcp",
        "/t/acme/none/mcp",
        "/t/nobody/tool/mcp",
        "/api/v1/tenants",
        "/api/v1/tenants/acme/keys",
    ]
    sent = [wire.modern("tools/call", wire.call("echo")), wire.legacy(None, "initialize", wire.hello())]
    sent.append(wire.legacy("f" * 64, "tools/list"))
    made: list[bytes] = []
    for credential, path, (fields, body), verb in itertools.product(keys, paths, sent, ("POST", "GET", "DELETE")):
        given = fields if credential is None else {**fields, "authorization": credential}
        made.append(load.request(verb, base, path, given, body if verb == "POST" else b""))
    return made


async def _knock(platform: Platform, requests: Iterator[bytes], count: int, first: int) -> collections.Counter[int]:
    """Send `count` requests, from as many addresses as it takes from number `first` on; how each was answered."""
    answers: collections.Counter[int] = collections.Counter()
    numbers = iter(range(first, first + count // _EACH))

    async def caller() -> None:
        for number in numbers:
            source = f"127.{1 + number // 62500}.{1 + number // 250 % 250}.{1 + number % 250}"
            connection = await load.connected(platform.base_url, source)
            for _ in range(_EACH):
                answer = await connection.ask(next(requests))
                answers[answer.status] += 1
                # An answer to a broken request may end its connection, and says so before the end itself comes.
                if connection.transport.is_closing() or answer.fields.get("connection") == "close":
                    connection.transport.close()
                    connection = await load.connected(platform.base_url, source)
            connection.transport.close()

    await asyncio.gather(*(caller() for _ in range(_TOGETHER)))
    return answers


@pytest.mark.requirement("load:unknown:nothing")
async def test_100_000_requests_of_nobody_leave_no_session_no_record_and_no_memory(running: Running) -> None:
    with running({"SMCP_LIMITS_UNAUTHENTICATED_PER_MINUTE": "60"}) as platform:
        platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))
        key = platform.create_key("acme")
        requests = itertools.cycle(_requests(platform, key))
        await _knock(platform, requests, _WARM, 0)
        before, held, kept = wire.vitals(platform), load.memory(platform), load.records(platform, _USAGE)
        on_disk, used = load.stored(platform.data), load.cpu_s(platform)
        answers = await _knock(platform, requests, _MANY, _WARM)
        used = load.cpu_s(platform) - used
        grown = load.memory(platform) - held
        after = await wire.settled(platform, before, files=8)
        more = load.stored(platform.data) - on_disk
        print(f"{_MANY} requests: {dict(answers)}, {grown >> 10} KiB of memory, {more >> 10} KiB on disk, {used:.1f} s")
        assert sum(answers.values()) == _MANY
        assert set(answers) <= {400, 401, 405, 429}, answers
        assert answers[401] > _MANY / 2
        assert (after.sessions, after.instances, after.children) == (before.sessions, before.instances, before.children)
        assert after.files <= before.files + 8
        assert load.records(platform, _USAGE).keys() <= kept.keys()
        assert grown < _GROWTH
        # What the trail tells of them is bounded for all addresses together.
        assert more < 8 << 20
