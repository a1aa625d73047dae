"""Legacy clients at a server that speaks only the modern wire: the gateway shakes hands, and sessions share a copy."""

import asyncio
import contextlib
import json
from collections.abc import Callable

import httpx2
import pytest

from support import gates, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def modern_only(gate: Gate) -> Endpoint:
    """Acme's server that knows no handshake."""
    manifest = f'[env]\nCANARY = "acme-modern"\nERAS = "modern"\n{gates.ALONE}'
    return Endpoint(
        gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "modern-only", gate.admin, manifest), gate.acme.key
    )


@pytest.mark.requirement("gateway:bridge:handshake")
async def test_initialize_is_answered_from_what_the_server_said_of_itself(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    client = caller(modern_only)
    for asked, got in (("2025-06-18", "2025-06-18"), ("1999-01-01", "2025-11-25")):
        answer = await client.legacy(None, "initialize", wire.hello(asked))
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert result["protocolVersion"] == got
        assert result["serverInfo"]["name"] == "scripted"
        assert result["capabilities"] == {"tools": {}, "logging": {}}
        session = answer.headers["mcp-session-id"]
        assert (await client.legacy(session, "ping", mcp_protocol_version=got)).json()["result"] == {}
        listed = await client.legacy(session, "tools/list", mcp_protocol_version=got)
        assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["do", "shape"]
        assert await client.end(session) == 204
        assert (await client.legacy(session, "ping")).status_code == 404


@pytest.mark.requirement("gateway:bridge:shared")
async def test_many_sessions_share_one_copy_and_each_request_carries_what_its_session_said(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    client = caller(modern_only)
    sessions = [await client.open() for _ in range(5)]
    copies = {(await client.act("echo", session, text="x"))["born"] for session in sessions}
    assert len(copies) == 1
    refused = await client.legacy(sessions[0], "logging/setLevel", {"level": "loud"})
    assert refused.json()["error"]["code"] == -32602
    assert (await client.legacy(sessions[0], "logging/setLevel", {"level": "debug"})).json()["result"] == {}
    first, second = [await client.act("meta", session) for session in sessions[:2]]
    assert first["io.modelcontextprotocol/logLevel"] == "debug"
    assert "io.modelcontextprotocol/logLevel" not in second
    assert first["io.modelcontextprotocol/clientInfo"] == wire.hello()["clientInfo"]
    assert first["io.modelcontextprotocol/clientCapabilities"] == wire.hello()["capabilities"]


@pytest.mark.requirement("gateway:bridge:shared")
async def test_a_client_cannot_put_a_stamp_of_its_own_in_place_of_the_gateways(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    client = caller(modern_only)
    session = await client.open()
    forged: wire.Json = {
        "io.modelcontextprotocol/clientCapabilities": {"sampling": {}},
        "mine": [1, {"deep": "\u00e9"}],
    }
    params: wire.Json = {"name": "do", "arguments": {"act": "meta"}, "_meta": forged}
    meta = wire.said((await client.legacy(session, "tools/call", params)).json())
    assert meta["io.modelcontextprotocol/clientCapabilities"] == wire.hello()["capabilities"]
    assert meta["mine"] == forged["mine"]


@pytest.mark.requirement("gateway:bridge:progress")
async def test_progress_reaches_the_session_that_asked_under_its_own_token(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    client = caller(modern_only)
    sessions = [await client.open() for _ in range(3)]

    async def one(session: str, text: str) -> None:
        params = {"name": "do", "arguments": {"act": "echo", "text": text}, "_meta": {"progressToken": "same"}}
        told, result = wire.messages(await client.legacy(session, "tools/call", params, id_=7))
        assert told["params"] == {"progressToken": "same", "progress": 1, "message": text}
        assert (result["id"], wire.said(result)["text"]) == (7, text)

    await asyncio.gather(*(one(session, f"text {number}") for number, session in enumerate(sessions)))


@pytest.mark.requirement("gateway:bridge:cancel")
async def test_a_session_cancels_its_own_call_and_not_its_neighbours_of_the_same_id(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    client = caller(modern_only)
    first, second = await client.open(), await client.open()
    params = {"name": "do", "arguments": {"act": "never"}}
    waiting = [asyncio.create_task(client.legacy(one, "tools/call", params, id_=9)) for one in (first, second)]
    async with asyncio.timeout(120):
        while True:
            await client.legacy(first, "notifications/cancelled", {"requestId": 9}, id_=None)
            heard = [
                one["params"]["requestId"] for one in await client.act("heard", first) if "cancelled" in one["method"]
            ]
            if heard:
                break
            await asyncio.sleep(0.05)
    assert len(set(heard)) == 1
    # Its request is over, and keeps no place among those in flight; the neighbour's goes on.
    async with asyncio.timeout(120):
        assert "cancelled" in (await waiting[0]).json()["error"]["message"]
    assert not waiting[1].done()
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.requirement("gateway:bridge:limits")
async def test_what_cannot_be_carried_is_refused_by_name_and_the_session_lives_on(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller], http: httpx2.AsyncClient
) -> None:
    client = caller(modern_only)
    session = await client.open()
    answer = await client.legacy(session, "resources/subscribe", {"uri": "x:y"})
    assert answer.json()["error"]["code"] == -32601
    assert "resources/subscribe" in answer.json()["error"]["message"]
    question = json.dumps({"jsonrpc": "2.0", "id": 5, "result": {}}).encode()
    assert (await client.send(wire.legacy(session, "x")[0], question)).status_code == 202
    assert (await client.act("echo", session, text="still here"))["text"] == "still here"


@pytest.mark.requirement("gateway:bridge:cancel")
@pytest.mark.parametrize("by", ["cancelled", "deleted"])
async def test_a_session_that_ends_or_says_so_ends_all_its_calls_of_one_id(
    modern_only: Endpoint, caller: Callable[[Endpoint], wire.Caller], by: str
) -> None:
    client, other = caller(modern_only), caller(modern_only)
    session, neighbour = await client.open(), await other.open()

    async def heard() -> set[int]:
        told = await other.act("heard", neighbour)
        return {one["params"]["requestId"] for one in told if one["method"] == "notifications/cancelled"}

    before = await heard()
    params = wire.call("never", token="t")
    async with contextlib.AsyncExitStack() as stack:
        fields, body = wire.legacy(session, "tools/call", params, 9)
        streams = [await stack.enter_async_context(client.streaming(fields, body)) for _ in range(2)]
        for stream in streams:
            assert (await stream.message())["method"] == "notifications/progress"
        if by == "deleted":
            assert await client.end(session) == 204
        else:
            told = await client.legacy(session, "notifications/cancelled", {"requestId": 9}, id_=None)
            assert told.status_code == 202
        for stream in streams:
            assert "error" in await stream.message()
    assert len(await heard() - before) == 2
