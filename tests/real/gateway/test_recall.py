"""Lists and reads that are answered without asking the server again, through a platform."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from support import gates, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


def _deploy(gate: Gate, tenant: str, admin: str, name: str, scope: str, more: str = "") -> str:
    cache = json.dumps({"ttlMs": 3_600_000, "cacheScope": scope})
    offers = json.dumps({"tools": {"listChanged": True}, "resources": {"subscribe": True}})
    manifest = f"{more}[env]\nCANARY = \"{tenant}-{name}\"\nCACHE = '{cache}'\nOFFERS = '{offers}'\n{gates.ALONE}"
    return gate.platform.deploy(tenant, f"pypi:{wire.SCRIPTED}", name, admin, manifest)


@pytest.fixture(scope="module")
def shared(gate: Gate) -> Endpoint:
    """Acme's server whose lists are public."""
    return Endpoint(_deploy(gate, "acme", gate.admin, "lists", "public", 'era = "modern"\n'), gate.acme.key)


@pytest.fixture(scope="module")
def private(gate: Gate) -> Endpoint:
    """Acme's server whose lists are private."""
    return Endpoint(_deploy(gate, "acme", gate.admin, "own-lists", "private", 'era = "modern"\n'), gate.acme.key)


async def _asked(caller: wire.Caller, method: str = "tools/list") -> int:
    """How often the copy at work was asked."""
    return [one["method"] for one in await caller.act("asked")].count(method)


async def _list(caller: wire.Caller, method: str = "tools/list", params: wire.Json | None = None) -> Any:
    answer = await caller.modern(method, params)
    assert answer.status_code == 200, answer.text
    return wire.messages(answer)[-1]["result"]


@pytest.mark.requirement("gateway:lists:shared")
async def test_a_public_list_is_asked_for_once_for_everybody_of_the_tenant(
    gate: Gate, shared: Endpoint, caller: Make
) -> None:
    one, other = caller(shared), caller(Endpoint(shared.url, gate.colleague.key))
    first = await _list(one)
    before = await _asked(one)
    assert before >= 1
    for each in (one, other, one):
        found = await _list(each, params={"_meta": {"progressToken": "t"}})
        assert {**found, "ttlMs": 0} == {**first, "ttlMs": 0}
        assert 0 < found["ttlMs"] <= first["ttlMs"]
    # A legacy client that can do as little asks the same, through the bridge.
    session = await one.open(capabilities={})
    answer = await one.legacy(session, "tools/list")
    assert wire.messages(answer)[-1]["result"]["tools"] == first["tools"]
    assert await _asked(one) == before


@pytest.mark.requirement("gateway:lists:apart", "attack:cache:cross-principal")
async def test_a_private_list_is_its_principals_own(gate: Gate, private: Endpoint, caller: Make) -> None:
    one, other = caller(private), caller(Endpoint(private.url, gate.colleague.key))
    await _list(one)
    before = await _asked(one)
    await _list(one)
    assert await _asked(one) == before
    await _list(other)
    assert await _asked(one) == before + 1
    await _list(other)
    assert await _asked(one) == before + 1


@pytest.mark.requirement("gateway:lists:apart", "attack:cache:cross-tenant")
async def test_a_public_resource_of_one_tenant_is_not_another_tenants(
    gate: Gate, shared: Endpoint, caller: Make
) -> None:
    gate.platform.create_tenant("lists")
    admin, key = (gate.platform.create_key("lists", role) for role in ("admin", "mcp_user"))
    theirs = caller(Endpoint(_deploy(gate, "lists", admin, "lists", "public", 'era = "modern"\n'), key))
    mine = caller(shared)
    for _ in range(2):
        for who, canary in ((mine, "acme-lists"), (theirs, "lists-lists")):
            found = await _list(who, "resources/read", {"uri": "file:///a"})
            assert found["contents"][0]["text"] == f"canary of {canary}"


@pytest.mark.requirement("gateway:lists:changes")
async def test_a_notice_of_a_change_ends_what_was_kept(shared: Endpoint, caller: Make) -> None:
    one = caller(shared)
    wanted = {"notifications": {"toolsListChanged": True}}
    async with one.streaming(*wire.modern("subscriptions/listen", wanted, "mine")) as stream:
        assert (await stream.message())["method"] == "notifications/subscriptions/acknowledged"
        await _list(one)
        before = await _asked(one)
        await _list(one)
        assert await _asked(one) == before
        await one.act("publish", list="tools")
        assert (await stream.message())["method"] == "notifications/tools/list_changed"
        await _list(one)
        assert await _asked(one) == before + 1


@pytest.mark.requirement("gateway:lists:input", "attack:cache:input")
@pytest.mark.parametrize("carried", [{"requestState": "s"}, {"inputResponses": {}}])
async def test_a_request_with_somebodys_input_is_neither_answered_from_what_is_kept_nor_kept(
    shared: Endpoint, caller: Make, carried: wire.Json
) -> None:
    one = caller(shared)
    params = {"uri": f"file:///{next(iter(carried))}"}
    for _ in range(2):
        await _list(one, "resources/read", params)
    before = await _asked(one, "resources/read")
    for _ in range(2):
        await _list(one, "resources/read", {**params, **carried})
    assert await _asked(one, "resources/read") == before + 2


@pytest.mark.requirement("gateway:lists:asleep")
async def test_what_is_kept_needs_no_copy_and_a_revoked_key_gets_nothing(
    gate: Gate, caller: Make, http: httpx2.AsyncClient
) -> None:
    url = _deploy(gate, "acme", gate.admin, "asleep", "public", 'era = "modern"\n')
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "short"}, key=gate.admin)
    one = wire.Caller(http, Endpoint(url, made["secret"]))
    await _list(one)
    await one.modern("tools/call", wire.call("exit"))
    before = (await wire.settled(gate.platform, wire.vitals(gate.platform)._replace(in_flight=0))).instances
    await _list(one)
    assert wire.vitals(gate.platform).instances <= before
    gate.platform.api("DELETE", f"/tenants/acme/keys/{made['key']['id']}", key=gate.admin)
    assert (await one.modern("tools/list")).status_code == 401


@pytest.mark.requirement("gateway:lists:deployed")
async def test_another_deployment_is_asked_itself(gate: Gate, caller: Make) -> None:
    endpoint = Endpoint(_deploy(gate, "acme", gate.admin, "next", "public", 'era = "modern"\n'), gate.acme.key)
    one = caller(endpoint)
    before = await _list(one)
    manifest = f'era = "modern"\n[env]\nLOOK = "1"\n{gates.ALONE}'
    gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "next", gate.admin, manifest)
    assert len((await _list(one))["tools"]) == len(before["tools"]) + 1


@pytest.mark.requirement("gateway:lists:legacy")
async def test_a_legacy_servers_list_is_kept_in_its_session_until_it_tells_of_a_change(
    older: Endpoint, caller: Make
) -> None:
    one = caller(older)
    session, other = await one.open(), await one.open()

    async def listed(at: str) -> list[str]:
        return [tool["name"] for tool in wire.messages(await one.legacy(at, "tools/list"))[-1]["result"]["tools"]]

    async def asked(at: str) -> int:
        return [said["method"] for said in await one.act("asked", at)].count("tools/list")

    assert await listed(session) == await listed(session)
    assert (await asked(session), await asked(other)) == (1, 0)
    await listed(other)
    assert await asked(other) == 1
    await one.act("grow", session, name="grown")
    assert "grown" in await listed(session)
    assert await asked(session) == 2
    # What is not said to be told when it changes is asked for each time.
    for _ in range(2):
        await one.legacy(session, "prompts/list")
    assert [said["method"] for said in await one.act("asked", session)].count("prompts/list") == 2


@pytest.mark.requirement("gateway:lists:apart", "attack:cache:meta")
async def test_what_a_server_reads_in_meta_is_answered_to_nobody_who_did_not_say_it(
    gate: Gate, shared: Endpoint, caller: Make
) -> None:
    one, other = caller(shared), caller(Endpoint(shared.url, gate.colleague.key))
    plain: wire.Json = {"uri": "file:///meta"}
    marked: wire.Json = {**plain, "_meta": {"com.example/project": "mine"}}
    await _list(one, "resources/read", marked)
    before = await _asked(one, "resources/read")
    await _list(other, "resources/read", plain)
    assert await _asked(one, "resources/read") == before + 1
    for each in (one, other):
        await _list(each, "resources/read", marked)
        await _list(each, "resources/read", plain)
    assert await _asked(one, "resources/read") == before + 1
    # Through the bridge, what a legacy client says there reaches the server, too.
    session = await one.open(capabilities={})
    for said, times in (({}, 1), ({"_meta": {"com.example/project": "other"}}, 2)):
        await one.legacy(session, "resources/read", {**plain, **said})
        assert await _asked(one, "resources/read") == before + times


@pytest.mark.requirement("gateway:lists:deployed")
@pytest.mark.parametrize("event", ["stop", "rollback", "secret"])
async def test_what_was_kept_ends_with_the_copies_that_said_it(gate: Gate, caller: Make, event: str) -> None:
    name, uri = f"ended-{event}", {"uri": "file:///a"}
    at = f"/tenants/acme/servers/{name}"
    one = caller(Endpoint(_deploy(gate, "acme", gate.admin, name, "public", 'era = "modern"\n'), gate.acme.key))

    def now(method: str, path: str, body: wire.Json | None = None) -> wire.Json:
        return gate.platform.api(method, at + path, body, key=gate.admin) or {}

    first = now("GET", "")["live"]
    for _ in range(2):
        await _list(one, "resources/read", uri)
    assert await _asked(one, "resources/read") == 1
    if event == "stop":
        now("POST", "/stop")
        assert (await one.modern("resources/read", uri)).status_code >= 400
        now("POST", "/start")
    elif event == "rollback":
        _deploy(gate, "acme", gate.admin, name, "private", 'era = "modern"\n')
        now("POST", "/rollback", {"to": first})
        assert now("GET", "")["live"] == first
    else:
        now("PUT", "/secrets/TOKEN", {"value": "another"})
    await _list(one, "resources/read", uri)
    # By the copy that is at work now.
    assert await _asked(one, "resources/read") == 1
