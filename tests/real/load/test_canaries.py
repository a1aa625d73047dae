"""Ten thousand calls of two tenants at once, all with the same ids, tokens and subscriptions: nothing crosses."""

import asyncio
import contextlib
import json
from typing import Any, Final, NamedTuple

import httpx2
import pytest

from real.load.conftest import Running
from support import load, wire
from support.clients import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_TENANTS: Final = ("acme", "umbra")
_MODERN: Final = 'era = "modern"\n[scale]\nmax = 1\n'
_SERVERS: Final = {
    "shared": _MODERN,  # one copy for all principals of the tenant
    "own": 'era = "legacy"\n',  # a copy for each session
    "bridged": _MODERN,  # legacy sessions over one copy
}
_BOTH: Final = "application/json, text/event-stream"
_ACCEPTS: Final = (_BOTH, _BOTH, "text/event-stream", "application/json")
_EACH: Final = 10
"""Every tenth call says something to those who listen."""
_PLANS: Final = {"shared": (100, 14), "own": (14, 50), "bridged": (4, 100)}
"""Connections of each of four principals to each server, and calls on each: 5,600 + 2,800 + 1,600."""
_SUBSCRIPTION: Final = "listen-1"


class Who(NamedTuple):
    """A principal at a server."""

    tenant: str
    number: int
    at: Endpoint
    session: str | None

    @property
    def name(self) -> str:
        """The canary of the principal."""
        return f"{self.tenant}/{self.number}"


class Heard:
    """What one who listens has heard."""

    def __init__(self) -> None:
        self.frames: list[wire.Json] = []
        self.opened = asyncio.Event()
        self.more = asyncio.Event()

    async def read(self, opening: contextlib.AbstractAsyncContextManager[wire.Stream]) -> None:
        """Listen until cancelled."""
        async with opening as stream:
            self.opened.set()
            while True:
                self.frames.append(await stream.message())
                self.more.set()

    async def until(self, count: int) -> list[wire.Json]:
        """What was heard, once it is so much."""
        async with asyncio.timeout(120):
            while len(self.frames) < count:
                self.more.clear()
                await self.more.wait()
        return self.frames


def _call(who: Who, server: str, lane: int, step: int, lanes: int) -> tuple[bytes, Any, Any, str, str, bool]:
    """A request as it is sent; and its id, token, Accept, text, and whether it tells those who listen."""
    number = step * lanes + lane
    # The same of every principal of every tenant; and a number and its text are two ids.
    id_: Any = number if number % 2 else str(number - 1)
    token: Any = None if number % 4 == 0 else (number % 5 if server == "shared" else number)
    accept, text = _ACCEPTS[(number // 4) % 4], f"{who.name}/{server}/{number}"
    tells = server != "bridged" and step % _EACH == 0 and lane < 2
    if tells:
        # The canary goes out to all who listen, and the answer is a word.
        word = {"uri": text} if server == "shared" else {"n": text}
        params = wire.call("publish" if server == "shared" else "notice", token, **word)
    else:
        params = wire.call("echo", token, text=text)
    made = wire.modern if who.session is None else _legacy(who.session)
    fields, body = made("tools/call", params, id_)
    base, slash, path = who.at.url.partition("/t/")
    sent = {**fields, "authorization": f"Bearer {who.at.key}", "accept": accept}
    return load.request("POST", base, slash + path, sent, body), id_, token, accept, text, tells


def _legacy(session: str) -> Any:
    def made(method: str, params: wire.Json, id_: Any) -> tuple[dict[str, str], bytes]:
        return wire.legacy(session, method, params, id_)

    return made


def _frames(answer: load.Answer) -> list[wire.Json]:
    if answer.fields["content-type"].startswith("text/event-stream"):
        return [json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(answer.body)]


async def _lane(who: Who, server: str, lane: int, told: list[str]) -> int:
    """The calls of one connection, each answer of which is looked at whole; how many they were."""
    lanes, steps = _PLANS[server]
    connection = await load.connected(who.at.url.partition("/t/")[0])
    for step in range(steps):
        request, id_, token, accept, text, tells = _call(who, server, lane, step, lanes)
        answer = await connection.ask(request)
        assert answer.status == 200, answer
        *before, last = _frames(answer)
        assert (type(last["id"]), last["id"]) == (type(id_), id_), (text, last)
        if tells:
            told.append(text)
            assert (wire.said(last), before) == ("told", []), (text, before, last)
            continue
        said = wire.said(last)
        assert (said["text"], said["canary"]) == (text, who.tenant), (text, last)
        wanted = [(token, text)] if token is not None and "event-stream" in accept else []
        seen = [(one["params"]["progressToken"], one["params"]["message"]) for one in before]
        assert seen == wanted, (text, before)
    connection.transport.close()
    return steps


async def _opened(http: httpx2.AsyncClient, platform: Any) -> dict[str, list[Who]]:
    """Two principals of each of two tenants at three servers, each with a session where the server has them."""
    found: dict[str, list[Who]] = {server: [] for server in _SERVERS}
    for tenant in _TENANTS:
        platform.create_tenant(tenant)
        admin = platform.create_key(tenant, "admin")
        keys = [platform.create_key(tenant) for _ in range(2)]
        for server, manifest in _SERVERS.items():
            env = f'[env]\nCANARY = "{tenant}"\nERAS = "{"legacy" if server == "own" else "modern"}"\n'
            url = platform.deploy(tenant, f"pypi:{wire.SCRIPTED}", server, admin, manifest + env)
            for number, key in enumerate(keys):
                at = Endpoint(url, key)
                session = None if server == "shared" else await wire.Caller(http, at).open()
                found[server].append(Who(tenant, number, at, session))
    return found


@pytest.mark.requirement("load:canaries:none-crosses")
async def test_ten_thousand_calls_of_two_tenants_with_the_same_ids_tokens_and_subscriptions_do_not_cross(
    running: Running,
) -> None:
    limits = httpx2.Limits(max_connections=64)
    # CVE-2026-25536, and what else one shared copy, pipe or table could mix up.
    with running({"SMCP_LIMITS_PRINCIPAL_SESSIONS": "50"}) as platform:
        async with httpx2.AsyncClient(timeout=120.0, limits=limits) as http, asyncio.TaskGroup() as group:
            everybody = await _opened(http, platform)
            heard: dict[Who, Heard] = {}
            told: dict[Who, list[str]] = {who: [] for server in everybody.values() for who in server}
            listeners: list[asyncio.Task[None]] = []
            for who in (*everybody["shared"], *everybody["own"]):
                one = wire.Caller(http, who.at)
                listen = wire.modern(
                    "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, _SUBSCRIPTION
                )
                opening = one.streaming(*listen) if who.session is None else one.listening(who.session)
                heard[who] = Heard()
                listeners.append(group.create_task(heard[who].read(opening)))
            for who in everybody["shared"]:
                assert (await heard[who].until(1))[0]["method"] == "notifications/subscriptions/acknowledged"
            async with asyncio.timeout(120):  # what is said before waits, but not without end
                await asyncio.gather(*(heard[who].opened.wait() for who in everybody["own"]))
            counts = await asyncio.gather(
                *(
                    _lane(who, server, lane, told[who])
                    for server, (lanes, _) in _PLANS.items()
                    for lane in range(lanes)
                    for who in everybody[server]
                )
            )
            assert sum(counts) == 10_000
            await _listened(everybody, heard, told)
            for one in listeners:
                one.cancel()


async def _listened(everybody: dict[str, list[Who]], heard: dict[Who, Heard], told: dict[Who, list[str]]) -> None:
    """Each listener has heard all that was for it, once, under its own id, and nothing else."""
    for who in everybody["own"]:
        # One session is one copy: its own words in the order in which they were said.
        frames = await heard[who].until(len(told[who]))
        words = [one["params"]["n"] for one in frames]
        assert sorted(words) == sorted(told[who])
        assert len(words) > 0
    for who in everybody["shared"]:
        wanted = sorted(word for one in everybody["shared"] if one.tenant == who.tenant for word in told[one])
        first, *frames = await heard[who].until(len(wanted) + 1)
        assert sorted(one["params"]["uri"] for one in frames) == wanted
        ids = {one["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] for one in (first, *frames)}
        assert ids == {_SUBSCRIPTION}
