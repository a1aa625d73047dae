"""Roles that leave tools out, and keys that are for little, through a platform: on every list, and by name."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import httpx2
import pytest

from support import gates, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_ALL: Final = {"do", "shape", "look"}
_USE: Final = ["mcp:connect", "mcp:list", "mcp:read", "mcp:call"]


@pytest.fixture(scope="module")
def looker(gate: Gate) -> str:
    """A key that has the tools that only read."""
    gates.role(gate, "looker", _USE, read_only=True)
    return gates.key(gate, "looker")


def _server(gate: Gate, name: str, more: str = "") -> Endpoint:
    cache = json.dumps({"ttlMs": 3_600_000, "cacheScope": "public"})
    manifest = f'{more}[env]\nCANARY = "acme-{name}"\nLOOK = "1"\nCACHE = \'{cache}\'\n'
    return Endpoint(gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, gate.admin, manifest), gate.acme.key)


@pytest.fixture(scope="module")
def both(gate: Gate) -> Endpoint:
    """Acme's server of both eras, with a tool that only reads."""
    return _server(gate, "cut")


@pytest.fixture(scope="module")
def servers(gate: Gate) -> dict[str, Endpoint]:
    """The same in one era each."""
    return {era: _server(gate, f"cut-{era}", f'era = "{era}"\n') for era in ("modern", "legacy")}


def _names(answer: httpx2.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {tool["name"] for tool in wire.messages(answer)[-1]["result"]["tools"]}


def _call(tool: str) -> wire.Json:
    return {"name": tool, "arguments": {"act": "echo", "text": "x"}}


def _refusal(answer: httpx2.Response, tool: str) -> tuple[int, Any]:
    """What is answered, but for the name that the caller wrote and the request's id."""
    body = wire.messages(answer)[-1]
    assert "error" in body, body
    return answer.status_code, json.loads(json.dumps(body).replace(tool, "…"))


@pytest.mark.requirement("oauth:tools:every-pairing", "attack:tools:list-only")
@pytest.mark.parametrize("hosted", ["modern", "legacy"])
@pytest.mark.parametrize("spoken", ["modern", "legacy", "legacy-stream"])
async def test_a_tool_that_is_left_out_is_on_no_list_and_looks_as_if_it_did_not_exist(
    caller: Make, servers: dict[str, Endpoint], looker: str, hosted: str, spoken: str
) -> None:
    at = servers[hosted]
    mine, theirs = caller(at._replace(key=looker)), caller(at)
    sessions = {one: "" if spoken == "modern" else await one.open() for one in (mine, theirs)}
    accept = {"accept": "text/event-stream"} if spoken == "legacy-stream" else {}

    async def ask(one: wire.Caller, method: str, params: wire.Json | None = None) -> httpx2.Response:
        if spoken == "modern":
            return await one.modern(method, params)
        return await one.legacy(sessions[one], method, params, **accept)

    for _ in range(2):  # the second time perhaps from what is kept
        assert _names(await ask(mine, "tools/list")) == {"look"}
        assert _names(await ask(theirs, "tools/list")) == _ALL
    assert wire.said(wire.messages(await ask(mine, "tools/call", _call("look")))[-1]) is not None
    hidden = _refusal(await ask(mine, "tools/call", _call("do")), "do")
    absent = _refusal(await ask(mine, "tools/call", _call("there-is-none")), "there-is-none")
    assert hidden == absent
    assert hidden[1]["error"]["code"] == -32602
    assert hidden[0] == (400 if spoken == "modern" else 200)
    # Nothing of the tool shows through what is checked of calls: its schema, and the fields that mirror it.
    shaped = {"name": "shape", "arguments": {"n": "no number"}}
    assert _refusal(await ask(mine, "tools/call", shaped), "shape") == hidden


@pytest.mark.requirement("oauth:tools:every-pairing", "attack:tools:list-only")
async def test_a_batch_and_the_admin_api_leave_the_same_tools_out(
    gate: Gate, caller: Make, both: Endpoint, looker: str, http: httpx2.AsyncClient
) -> None:
    mine = caller(both._replace(key=looker))
    session = await mine.open("2025-03-26")
    asked = [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}] + [
        {"jsonrpc": "2.0", "id": tool, "method": "tools/call", "params": _call(tool)} for tool in ("do", "look", "none")
    ]
    fields = {**wire.legacy(session, "ping")[0], "mcp-protocol-version": "2025-03-26"}
    answer = await mine.send(fields, json.dumps(asked).encode())
    told = {one["id"]: one for one in answer.json()}
    assert [tool["name"] for tool in told[1]["result"]["tools"]] == ["look"]
    assert told["do"]["error"]["code"] == told["none"]["error"]["code"] == -32602
    assert told["do"]["error"]["message"].replace("do", "…") == told["none"]["error"]["message"].replace("none", "…")
    assert "result" in told["look"]

    api = f"{gate.platform.base_url}/api/v1/tenants/acme/servers/cut"
    listed = await http.get(f"{api}/tools", headers=mine.bearer)
    assert {tool["name"] for tool in listed.json()["tools"]} == {"look"}
    errors: list[tuple[int, str]] = []
    for tool in ("do", "none"):
        body = {"tool": tool, "arguments": {"act": "echo"}}
        answer = await http.post(f"{api}/call", headers=mine.bearer, json=body)
        errors.append((answer.status_code, answer.json()["error"]["message"].replace(tool, "…")))
    assert errors[0] == errors[1]
    assert errors[0][0] == 400


_MIRROR: Final = "com.example/mirror"
"""A method of the scripted server's own, which says what it keeps to itself."""


@pytest.mark.requirement("oauth:tools:unknown-methods", "attack:tools:list-only")
@pytest.mark.parametrize("hosted", ["modern", "legacy"])
async def test_a_method_that_may_be_a_tool_by_another_name_does_not_exist_for_narrowed_callers(
    caller: Make, servers: dict[str, Endpoint], looker: str, hosted: str
) -> None:
    at = servers[hosted]
    mine, theirs = caller(at._replace(key=looker)), caller(at)
    sessions = {one: await one.open() for one in (mine, theirs)}
    asked = {"uri": "file:///canary"}
    for method in (_MIRROR, "tasks/result", "tasks/get", "tools/call/do", "Tools/Call"):
        modern = await mine.modern(method, asked)
        legacy = await mine.legacy(sessions[mine], method, asked)
        assert (modern.status_code, legacy.status_code) == (404, 200), method
        for answer in (modern, legacy):
            error = wire.messages(answer)[-1]["error"]
            # The gateway's own words, and not the hosted server's.
            assert (error["code"], error["message"]) == (-32601, f"There is no such method: {method}")
    # The session is not lost by it, and a notification that nobody knows is refused without a 404 (a lost session).
    told = await mine.legacy(sessions[mine], "com.example/told", asked, id_=None)
    assert told.status_code == 400
    assert _names(await mine.legacy(sessions[mine], "tools/list")) == {"look"}
    for act in ("asked", "heard"):
        answer = await mine.legacy(sessions[mine], "tools/call", {"name": "look", "arguments": {"act": act}})
        reached = {one["method"] for one in wire.said(wire.messages(answer)[-1])}
        assert not reached & {_MIRROR, "tasks/result", "com.example/told"}, reached
    # Who has all of the tools asks the hosted server.
    spoken = await (
        theirs.modern(_MIRROR, asked) if hosted == "modern" else theirs.legacy(sessions[theirs], _MIRROR, asked)
    )
    assert "canary of" in spoken.text


@pytest.mark.requirement("oauth:tools:unknown-methods", "attack:tools:list-only")
async def test_a_batch_and_the_old_transport_have_no_other_methods_either(
    gate: Gate, caller: Make, both: Endpoint, looker: str, http: httpx2.AsyncClient
) -> None:
    wanted = {"jsonrpc": "2.0", "id": 7, "method": _MIRROR, "params": {"uri": "file:///canary"}}
    mine = caller(both._replace(key=looker))
    session = await mine.open("2025-03-26")
    fields = {**wire.legacy(session, "ping")[0], "mcp-protocol-version": "2025-03-26"}
    answer = await mine.send(fields, json.dumps([wanted]).encode())
    assert [one["error"]["code"] for one in answer.json()] == [-32601]

    old = _server(gate, "cut-old", "sse = true\n")._replace(key=looker)
    bearer = {"authorization": f"Bearer {looker}"}
    url = old.url.removesuffix("/mcp") + "/sse"
    async with http.stream("GET", url, headers={**bearer, "accept": "text/event-stream"}) as opened:
        stream = wire.Stream(opened)
        assert await stream.line() == "event: endpoint"
        address = old.url.partition("/t/")[0] + (await stream.line()).removeprefix("data: ")
        greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": wire.hello("2024-11-05")}
        for message in (greeting, wanted):
            assert (await http.post(address, headers=bearer, json=message)).status_code == 202
            answered = await stream.message()
            assert answered["id"] == message["id"]
        assert answered["error"]["code"] == -32601


@pytest.mark.requirement("oauth:tools:kept-apart", "attack:cache:cross-principal")
async def test_what_is_kept_for_one_choice_of_tools_is_not_given_for_another(
    gate: Gate, caller: Make, servers: dict[str, Endpoint]
) -> None:
    at = servers["modern"]
    gates.role(gate, "doer", _USE, tools=["d*"], servers=["cut-modern"])
    gates.role(gate, "other-doer", _USE, tools=["d*", "x*"], servers=["cut-modern"])
    doer, other = (caller(at._replace(key=gates.key(gate, role))) for role in ("doer", "other-doer"))
    everybody = caller(at)
    for one, wanted in ((doer, {"do"}), (everybody, _ALL), (other, {"do"}), (doer, {"do"}), (everybody, _ALL)):
        assert _names(await one.modern("tools/list")) == wanted


@pytest.mark.requirement("oauth:roles:next-request")
async def test_a_changed_role_counts_from_the_next_request_on(gate: Gate, caller: Make, both: Endpoint) -> None:
    gates.role(gate, "changing", _USE, tools=["look"])
    mine = caller(both._replace(key=gates.key(gate, "changing")))
    session = await mine.open()
    assert _names(await mine.modern("tools/list")) == {"look"}
    assert _names(await mine.legacy(session, "tools/list")) == {"look"}
    gates.role(gate, "changing", _USE)
    assert _names(await mine.modern("tools/list")) == _ALL
    assert _names(await mine.legacy(session, "tools/list")) == _ALL
    gates.role(gate, "changing", _USE, servers=["second"])
    assert (await mine.modern("tools/list")).status_code == 404
    assert (await caller(gate.second._replace(key=mine.at.key)).modern("tools/list")).status_code == 200
    gate.platform.api("DELETE", "/tenants/acme/roles/changing", key=gate.admin)
    assert (await mine.modern("tools/list")).status_code == 404


@pytest.mark.requirement("oauth:roles:streams-end")
async def test_what_is_kept_of_a_stream_is_not_for_who_has_other_tools_now(
    gate: Gate, caller: Make, both: Endpoint
) -> None:
    """Attack: the answer of a call that was allowed then is fetched with Last-Event-ID when it is not any more."""
    gates.role(gate, "coming-back", _USE)
    mine = caller(both._replace(key=gates.key(gate, "coming-back")))
    session = await mine.open()
    params = {"name": "do", "arguments": {"act": "steps", "count": 3}, "_meta": {"progressToken": 1}}
    async with mine.streaming(*wire.legacy(session, "tools/call", params)) as stream:
        last = ""
        while not last:
            last, _ = await stream.event()
        await stream.end()
    async with mine.listening(session, last) as again:
        assert any('"done' in line for line in await again.end())
    fields = {**mine.bearer, "accept": "text/event-stream", "mcp-session-id": session, "last-event-id": last}
    for changed, status in (
        ({"actions": _USE, "tools": ["look"]}, 400),
        ({"actions": ["mcp:connect", "mcp:list", "mcp:read"]}, 403),
    ):
        gates.role(gate, "coming-back", **changed)
        answer = await mine.http.get(mine.url, headers=fields)
        assert (answer.status_code, "done" in answer.text) == (status, False)


@pytest.mark.requirement("oauth:tools:seen-not-called")
async def test_a_tool_that_may_only_be_seen_is_refused_with_403(gate: Gate, caller: Make, both: Endpoint) -> None:
    gates.role(gate, "seer", ["mcp:connect", "mcp:list"])
    gates.role(gate, "look-caller", ["mcp:call"], tools=["look"])
    mine = caller(both._replace(key=gates.key(gate, "seer", "look-caller")))
    assert _names(await mine.modern("tools/list")) == _ALL
    assert (await mine.modern("tools/call", _call("look"))).status_code == 200
    assert (await mine.modern("tools/call", _call("do"))).status_code == 403


@pytest.mark.requirement("oauth:keys:narrowed")
async def test_a_key_is_worth_no_more_than_its_scopes_and_its_servers(gate: Gate, caller: Make, both: Endpoint) -> None:
    reading = caller(both._replace(key=gates.key(gate, "mcp_user", scopes=["mcp:read"])))
    assert _names(await reading.modern("tools/list")) == _ALL
    refused = await reading.modern("tools/call", _call("do"))
    # A key has the scopes that it was made with: no challenge sends its holder after more.
    assert (refused.status_code, refused.headers.get("www-authenticate")) == (403, None)

    key = gates.key(gate, "admin", servers=["cut"])
    assert (await caller(both._replace(key=key)).modern("tools/call", _call("do"))).status_code == 200
    elsewhere = [
        await caller(gate.second._replace(url=url, key=key)).modern("tools/call", _call("do"))
        for url in (gate.second.url, gate.second.url.replace("/second/", "/none/"))
    ]
    assert [answer.status_code for answer in elsewhere] == [404, 404]
    assert elsewhere[0].content == elsewhere[1].content
    for path in ("/tenants/acme/keys", "/tenants/acme/servers", "/tenants/acme/servers/second"):
        answer = httpx2.get(
            f"{gate.platform.base_url}/api/v1{path}", headers={"Authorization": f"Bearer {key}"}, timeout=120.0
        )
        assert answer.status_code == 404, path
    assert gate.platform.api("GET", "/tenants/acme/servers/cut", key=key)["name"] == "cut"


@pytest.mark.requirement("oauth:keys:networks")
async def test_a_key_from_elsewhere_is_refused_as_a_wrong_one_is(gate: Gate, caller: Make, both: Endpoint) -> None:
    here = gates.key(gate, "mcp_user", networks=["127.0.0.0/8", "::1/128"])
    there = gates.key(gate, "mcp_user", networks=["203.0.113.0/24"])
    assert (await caller(both._replace(key=here)).modern("tools/list")).status_code == 200
    answers = [await caller(both._replace(key=key)).modern("tools/list") for key in (there, wire.miskeyed(here))]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].content == answers[1].content
    assert answers[0].headers["www-authenticate"] == answers[1].headers["www-authenticate"]
    whoami = f"{gate.platform.base_url}/api/v1/whoami"
    told = httpx2.get(whoami, headers={"Authorization": f"Bearer {there}"}, timeout=120.0)
    assert told.status_code == 401
    # What a stranger writes into a forwarding header is not where the request comes from.
    lying = await caller(both._replace(key=there)).modern("tools/list", x_forwarded_for="203.0.113.5")
    assert lying.status_code == 401
    why: list[Any] = []
    for _ in range(30):
        why = [entry["event"].get("why") for entry in gate.platform.audit("platform")]
        if "address" in why:
            break
        # So many refusals of a minute are on record, and other tests' may have been those.
        await asyncio.sleep(5)
        assert (await caller(both._replace(key=there)).modern("tools/list")).status_code == 401
    assert "address" in why


@pytest.mark.requirement("oauth:keys:rotation", "oauth:keys:life")
async def test_a_key_is_rotated_with_an_overlap_from_the_command_line(gate: Gate, caller: Make, both: Endpoint) -> None:
    made = gate.platform.smcp(
        "key", "create", "--role", "mcp_user", "--scope", "mcp:call", "-t", "acme", key=gate.admin
    )
    old = made["key"]
    assert old["expires"] == pytest.approx(old["created"] + 90 * 86400)
    new = gate.platform.smcp("key", "rotate", old["id"], "-t", "acme", key=gate.admin)
    for secret in (made["secret"], new["secret"]):
        assert (await caller(both._replace(key=secret)).modern("tools/call", _call("do"))).status_code == 200
    assert (new["key"]["roles"], new["key"]["scopes"]) == (old["roles"], old["scopes"])
    again = gate.platform.smcp("key", "rotate", old["id"], "-t", "acme", key=gate.admin, code=1)
    assert again["error"]["code"] == "conflict"
    at_once = gate.platform.smcp(
        "key", "rotate", new["key"]["id"], "--overlap-hours", "0", "-t", "acme", key=gate.admin
    )
    assert (await caller(both._replace(key=new["secret"])).modern("tools/list")).status_code == 401
    assert (await caller(both._replace(key=at_once["secret"])).modern("tools/list")).status_code == 200
    told = [entry["event"]["event"] for entry in gate.platform.audit("acme", key=gate.admin)]
    assert told.count("key_rotated") == 2


@pytest.mark.requirement("oauth:roles:command-line")
def test_roles_and_the_policy_are_asked_from_the_command_line(gate: Gate, both: Endpoint) -> None:
    def smcp(*argv: str, code: int = 0) -> Any:
        return gate.platform.smcp(*argv, "-t", "acme", key=gate.admin, code=code)

    made = smcp("role", "set", "auditor", "--allow", "audit:*", "--allow", "mcp:list", "--tool", "l*")
    assert made["actions"] == ["audit:read", "audit:verify", "mcp:list"]
    assert "auditor" in [role["name"] for role in smcp("role", "list")["items"]]
    assert smcp("role", "show", "mcp_user")["changed"] is None
    asked = ("policy", "test", "mcp:list", "--server", "cut", "--role", "auditor", "--tool")
    assert smcp(*asked, "look")["allowed"] is True
    assert smcp(*asked, "do", "--expect", "hidden")["hidden"] is True
    assert smcp(*asked, "do", "--expect", "allow", code=1)["error"]["code"] == "unexpected"
    stepping = ("policy", "test", "mcp:call", "--server", "cut", "--role", "mcp_user", "--scope", "mcp:read")
    assert smcp(*stepping)["decision"] == "step_up"
    assert smcp("role", "delete", "auditor", "--yes") == {"deleted": "auditor"}
    assert smcp("role", "show", "auditor", code=5)["error"]["code"] == "not_found"
