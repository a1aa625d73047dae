"""The transport of MCP 2024-11-05: two addresses, one stream, and no way around anything."""

import asyncio
import contextlib
import json
import re
from collections.abc import Callable

import httpx2
import pytest

from support import clients, gates, oldwire, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_ADDRESS = re.compile(r"/t/acme/old/messages\?session_id=[A-Za-z0-9_-]{43}")


def _same(answer: httpx2.Response) -> tuple[int, bytes, list[str]]:
    """An answer without what may differ: the request's own id, the date, what is left of a rate."""
    fields = sorted(f"{name}: {value}" for name, value in answer.headers.items())
    apart = ("smcp-request-id", "date", "ratelimit")
    return answer.status_code, answer.content, [one for one in fields if not one.startswith(apart)]


@pytest.mark.requirement("gateway:old-sse:endpoint")
async def test_answers_questions_notices_and_progress_come_on_the_one_stream(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    async with oldwire.streaming(http, gate.old) as old:
        assert old.answer.headers["content-type"] == "text/event-stream"
        assert "no-cache" in old.answer.headers["cache-control"]
        await old.open()
        assert _ADDRESS.fullmatch(old.address)
        said = wire.said(await old.ask(1, "tools/call", wire.call("echo", text="hi")))
        assert (said["text"], said["canary"]) == ("hi", "acme-old")
        call = {"jsonrpc": "2.0", "id": "p", "method": "tools/call", "params": wire.call("steps", 7, count=3)}
        assert (await old.post(call)).status_code == 202
        seen = [await old.stream.message() for _ in range(4)]
        assert [one.get("params", {}).get("progress") for one in seen] == [0, 1, 2, None]
        assert (await old.post({**call, "id": 2, "params": wire.call("ask")})).status_code == 202
        question = await old.stream.message()
        assert question["method"] == "roots/list"
        assert (await old.post({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})).status_code == 202
        assert wire.said(await old.stream.message())["answer"] == {"roots": []}
        assert (await old.post({**call, "id": 3, "params": wire.call("notice", n=5)})).status_code == 202
        both = [await old.stream.message(), await old.stream.message()]
        assert {one.get("method", "answer") for one in both} == {"notifications/tools/list_changed", "answer"}
        heard = wire.said(await old.ask(4, "tools/call", wire.call("heard")))
        assert [one["method"] for one in heard] == ["notifications/initialized"]
        big = await old.ask(5, "tools/call", wire.call("long", bytes=900_000))
        assert len(big["result"]["x"]) == 900_000
        unknown = await old.ask(6, "made/up")
        assert unknown["error"]["code"] == -32601


@pytest.mark.requirement("gateway:old-sse:endpoint")
async def test_cancelling_goes_to_the_server_and_calls_run_side_by_side(gate: Gate, http: httpx2.AsyncClient) -> None:
    async with oldwire.streaming(http, gate.old) as old:
        await old.open()
        call = {"jsonrpc": "2.0", "id": "n", "method": "tools/call", "params": wire.call("never", "t")}
        assert (await old.post(call)).status_code == 202
        assert (await old.stream.message())["method"] == "notifications/progress"
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "n"}}
        assert (await old.post(cancel)).status_code == 202
        heard = wire.said(await old.ask(2, "tools/call", wire.call("heard")))
        assert [one["method"] for one in heard] == ["notifications/initialized", "notifications/cancelled"]


@pytest.mark.requirement("gateway:old-sse:endpoint")
async def test_a_batch_is_answered_event_by_event_where_the_version_has_batches(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    pings = [{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(5)]
    async with oldwire.streaming(http, gate.old) as old:
        await old.open()
        assert (await old.post([*pings, 1])).status_code == 202
        seen = [await old.stream.message() for _ in range(6)]
        assert {one["id"] for one in seen} == {0, 1, 2, 3, 4, None}
    async with oldwire.streaming(http, gate.old) as old:
        await old.open("2025-11-25")
        assert (await old.post(pings)).status_code == 400


@pytest.mark.requirement("gateway:old-sse:off")
async def test_switched_off_its_addresses_are_those_of_a_server_that_does_not_exist(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    base = gate.platform.base_url
    query = f"messages?session_id={'A' * 43}"
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    for key in (gate.acme.key, gate.umbra.key, "wrong"):
        for verb in ("GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"):
            for rest in ("sse", query):
                seen: set[str] = set()
                for server in ("acme/tool", "acme/nothing", "nobody/tool", "umbra/none"):
                    fields = {"authorization": f"Bearer {key}", "content-type": "text/plain", "accept": "image/png"}
                    answer = await http.request(verb, f"{base}/t/{server}/{rest}", headers=fields, content=body)
                    # The challenge says again which server was asked for: an echo, of one that is there or not.
                    seen.add(str(_same(answer)).replace(f"/t/{server}/mcp", "/t/…/mcp"))
                assert len(seen) == 1, (verb, rest, seen)
    for verb in ("GET", "POST"):
        fields = {"authorization": f"Bearer {gate.acme.key}"}
        off, unknown = [
            await http.request(verb, f"{base}/t/acme/tool/{rest}", headers=fields) for rest in ("sse", "nothing")
        ]
        assert (off.status_code, off.content) == (unknown.status_code, unknown.content)
        assert off.status_code == 404


@pytest.mark.requirement("gateway:old-sse:endpoint")
async def test_an_address_has_one_spelling(gate: Gate, http: httpx2.AsyncClient) -> None:
    before = wire.vitals(gate.platform)
    host = ":".join(map(str, wire.address(gate.platform.base_url)))
    async with oldwire.streaming(http, gate.old) as old:
        await old.open()
        told = old.address.rpartition("=")[2]
        path = "/t/acme/old/messages"
        body = json.dumps({"jsonrpc": "2.0", "method": "notifications/never"}).encode()
        bearer = {"authorization": f"Bearer {gate.old.key}", "host": host, "content-type": "application/json"}
        fields = [*{**bearer, "content-length": str(len(body))}.items()]
        for other in (
            f"{path}/?session_id={told}", f"{path}?session_id={told}&", f"{path}?&session_id={told}",
            f"{path}?session_id={told}&session_id={told}", f"{path}?session_id={told}&x=1", f"{path}?sessionId={told}",
            f"{path}?SESSION_ID={told}", f"{path}?session_id={told}%20", f"{path}?session_id={told}x",
            f"{path}?session%5Fid={told}", path, f"{path}?", f"{path}?session_id=",
            f"/t/acme/old/mcp?session_id={told}",
            f"/t/acme/old/sse?session_id={told}", f"/t/acme/old//messages?session_id={told}",
            f"/t/acme/OLD/messages?session_id={told}", f"/t/acme/old/mcp/messages?session_id={told}",
            f"/t/acme/old/Messages?session_id={told}", f"/t/acme/old/%6dessages?session_id={told}",
        ):  # fmt: skip
            answer = await wire.raw(gate.platform.base_url, wire.request("POST", other, fields, body))
            assert answer.status in (400, 404, 405), (other, answer)
        for other in (
            "/t/acme/old/sse/", "/t/acme/old/sse?", "/t/acme/old/sse?x=1", "/t/acme/old/SSE", "/t/acme/old/%73se",
            "/t/acme/old/mcp/sse", "/t/acme/old/sse;x", "/t/acme/old/sse#x",
        ):  # fmt: skip
            answer = await wire.raw(gate.platform.base_url, wire.request("GET", other, [*bearer.items()]))
            assert answer.status in (400, 404), (other, answer)
        heard = wire.said(await old.ask(2, "tools/call", wire.call("heard")))
        assert [one["method"] for one in heard] == ["notifications/initialized"]
    assert (await wire.settled(gate.platform, before)).sessions <= before.sessions


@pytest.mark.requirement("gateway:old-sse:bound")
async def test_a_stream_of_somebody_else_or_somewhere_else_looks_like_one_that_never_was(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    # CVE-2026-52869, agentgateway GHSA-mvgg-jvj2-4frq
    call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": wire.call("echo", text="stolen")}
    async with oldwire.streaming(http, gate.old) as dead:
        await dead.open()
        ended = dead.address
    async with oldwire.streaming(http, gate.old) as old:
        await old.open()
        never, told = f"{old.address[:-43]}{'A' * 43}", old.address[-43:]
        seen = {
            str(_same(await old.post(call, key, address)))
            for key, address in [
                (gate.colleague.key, old.address),
                (gate.reader.key, old.address),
                (gate.old.key, never),
                (gate.old.key, ended),
                (gate.old.key, old.address[:-43] + told.swapcase()),
                (gate.colleague.key, never),
            ]
        }
        assert len(seen) == 1, seen
        assert "(404, " in seen.pop()
        stranger = {_same(await old.post(call, gate.umbra.key, address))[:2] for address in (old.address, never)}
        assert len(stranger) == 1
        for bearer in ({}, {"authorization": "Bearer smcp_acme_wrong"}):
            answer = await http.post(old.url(), headers=bearer, json=call)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert wire.said(await old.ask(1, "tools/call", wire.call("echo", text="mine")))["text"] == "mine"
        # The stream's name is not the name of its session: at today's endpoint it is nobody's.
        mixed = await wire.Caller(http, gate.old).legacy(told, "tools/list")
        assert mixed.status_code == 404
        session = await wire.Caller(http, gate.old).open()
        assert (await old.post(call, address=f"{old.address[:-43]}{session}")).status_code == 404
        await wire.Caller(http, gate.old).end(session)


@pytest.mark.requirement("gateway:old-sse:stages")
async def test_who_may_not_call_tools_may_not_at_the_old_addresses_either(gate: Gate, http: httpx2.AsyncClient) -> None:
    # ToolHive GHSA-h4mf-84xq-q2fc
    reader = gate.old._replace(key=gate.reader.key)
    async with oldwire.streaming(http, reader) as old:
        await old.open()
        assert "tools" in (await old.ask(1, "tools/list"))["result"]
        refused = await old.ask(2, "tools/call", wire.call("echo", text="no"))
        assert refused["error"]["message"] == "Your roles do not allow this action."
        assert (await old.ask(3, "made/up"))["error"] == refused["error"]
        batch = [{"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": wire.call("echo")}]
        assert (await old.post(batch)).status_code == 202
        assert (await old.stream.message())["error"] == refused["error"]
    fields = {"authorization": f"Bearer {gate.platform.operator_key}", "accept": "text/event-stream"}
    answer = await http.get(gate.old.url.removesuffix("mcp") + "sse", headers=fields)
    assert answer.status_code == 403
    entries = gate.platform.audit("acme", key=gate.admin)
    calls = [one["event"] for one in entries if one["event"]["event"] == "mcp_call" and one["event"]["server"] == "old"]
    assert [one for one in calls if one["method"] == "tools/call" and one["outcome"] == "refused"]
    assert [one for one in calls if one["method"] == "initialize" and one["outcome"] == "ok"]


@pytest.mark.requirement("gateway:old-sse:stages")
async def test_the_edge_is_the_same(gate: Gate, http: httpx2.AsyncClient) -> None:
    url = gate.old.url.removesuffix("mcp") + "sse"
    bearer = {"authorization": f"Bearer {gate.old.key}"}
    sse = {"accept": "text/event-stream"}
    assert (await http.get(url, headers=sse)).status_code == 401
    for bad in ({"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}):
        assert (await http.get(url, headers={**bearer, **sse, **bad})).status_code == 403
    assert (await http.get(url, headers={**bearer, "accept": "application/json"})).status_code == 406
    for verb in ("POST", "DELETE"):
        answer = await http.request(verb, url, headers=bearer)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert (await http.get(url, headers={**bearer, **sse, "mcp-protocol-version": wire.MODERN})).status_code == 400
    async with oldwire.streaming(http, gate.old) as old:
        await old.begin()
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert (await old.post(ping)).status_code == 400  # nothing before initialize
        assert (await old.post(ping, content_type="text/plain")).status_code == 415
        assert (await old.post(b"{")).json()["error"]["code"] == -32700
        assert (await old.post(b'"' + b"x" * 5_000_000 + b'"')).status_code == 413
        assert (await old.post(ping, origin="http://evil.example")).status_code == 403
        assert (await http.get(old.url(), headers=bearer)).status_code == 405
        assert (await http.delete(old.url(), headers=bearer)).headers["allow"] == "POST"


@pytest.mark.requirement("gateway:old-sse:life")
async def test_the_session_ends_with_its_stream_and_the_stream_with_its_session(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    # The streams of earlier tests have ended, and their sessions with them.
    before = (await wire.steady(gate.platform))._replace(in_flight=0)
    async with oldwire.streaming(http, gate.old) as old:
        await old.open()
        assert wire.vitals(gate.platform).sessions == before.sessions + 1
        second = await old.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": wire.hello("2024-11-05")})
        assert second.status_code == 400
        call = {"jsonrpc": "2.0", "id": "n", "method": "tools/call", "params": wire.call("never", "t")}
        assert (await old.post(call)).status_code == 202
        assert (await old.stream.message())["method"] == "notifications/progress"
    after = await wire.settled(gate.platform, before)
    assert after.more(before) == {}
    async with oldwire.streaming(http, gate.old) as old:
        await old.open()
        assert (await old.post({**call, "params": wire.call("exit")})).status_code == 202
        await old.stream.end()
    after = await wire.settled(gate.platform, before)
    assert after.more(before) == {}


@pytest.mark.requirement("gateway:old-sse:life")
async def test_a_refused_initialize_leaves_nothing_and_may_be_tried_again(gate: Gate, http: httpx2.AsyncClient) -> None:
    before = wire.vitals(gate.platform)
    async with oldwire.streaming(http, gate.old) as old:
        await old.begin()
        refused = await old.ask(0, "initialize", {**wire.hello(), "protocolVersion": "refuse-me"})
        assert refused["error"]["code"] == -32602
        assert (await wire.settled(gate.platform, before)).sessions <= before.sessions
        assert "result" in await old.ask(1, "initialize", wire.hello(oldwire.VERSION))


@pytest.mark.requirement("gateway:old-sse:life")
async def test_who_does_not_read_is_told_to_and_costs_bounded_memory(
    gate: Gate, http: httpx2.AsyncClient, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    host, port = wire.address(gate.platform.base_url)
    reader, writer = await asyncio.open_connection(host, port, limit=4096)
    try:
        fields = [("host", f"{host}:{port}"), ("authorization", f"Bearer {gate.old.key}")]
        head = "GET /t/acme/old/sse HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields) + "\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"data: ")
        old = oldwire.Old(http, gate.old, httpx2.Response(200))
        old.address = (await reader.readline()).decode().strip()
        start = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": wire.hello(oldwire.VERSION)}
        assert (await old.post(start)).status_code == 202
        await reader.readuntil(b'"protocolVersion"')
        answers: list[int] = []
        for number in range(3000):
            arguments = {"text": "x" * 30_000}
            call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": wire.call("echo", **arguments)}
            answers.append((await old.post(call)).status_code)
            if answers[-1] == 429:
                break
        assert answers[-1] == 429
        assert set(answers[:-1]) == {202}
        other = caller(gate.second)
        session = await other.open()
        assert (await other.act("echo", session, text="x"))["text"] == "x"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.requirement("gateway:old-sse:clients")
async def test_the_python_client_lists_and_calls_tools(gate: Gate) -> None:
    at = gate.old._replace(url=gate.old.url.removesuffix("mcp") + "sse")
    seen = await clients.python_old(at, "do", {"act": "echo", "text": "hi"})
    assert (seen.tools, json.loads(seen.texts[0])["canary"]) == (("do", "shape"), "acme-old")


@pytest.mark.requirement("gateway:old-sse:clients")
async def test_the_typescript_client_falls_back_to_it_and_only_where_it_is(gate: Gate) -> None:
    at = gate.old._replace(url=gate.old.url.removesuffix("mcp") + "sse")
    for place, transport in ((at, "sse"), (gate.old, "http")):
        seen = await asyncio.to_thread(clients.typescript_old, place, "do", {"act": "echo", "text": "hi"})
        assert (seen.version, seen.tools) == (transport, ("do", "shape"))
        assert json.loads(seen.texts[0])["canary"] == "acme-old"


@pytest.mark.requirement("gateway:asking:old-sse")
async def test_questions_and_changes_of_a_modern_server_come_on_the_one_stream_too(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    offers = json.dumps({"tools": {"listChanged": True}, "resources": {"subscribe": True}})
    manifest = f"sse = true\n[env]\nERAS = 'modern'\nOFFERS = '{offers}'\n{gates.ALONE}"
    url = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "old-modern", gate.admin, manifest)
    async with oldwire.streaming(http, Endpoint(url, gate.acme.key)) as old:
        await old.open()
        params = wire.call("input", wants={"inputRequests": {"r": {"method": "roots/list"}}})
        call: wire.Json = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        assert (await old.post(call)).status_code == 202
        question = await old.stream.message()
        assert question["method"] == "roots/list"
        assert (await old.post({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})).status_code == 202
        assert wire.said(await old.stream.message()) == {"inputResponses": {"r": {"roots": []}}}
        assert (await old.ask(2, "resources/subscribe", {"uri": "x:1"}))["result"] == {}
        for told in ({"uri": "x:1"}, {"list": "tools"}):
            assert (await old.post({**call, "id": 3, "params": wire.call("publish", **told)})).status_code == 202
            both = [await old.stream.message(), await old.stream.message()]
            changed = {"notifications/resources/updated"} if "uri" in told else {"notifications/tools/list_changed"}
            assert {one["method"] for one in both if "method" in one} == changed
