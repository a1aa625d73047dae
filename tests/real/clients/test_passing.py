"""What SMCP passes through between a client and a server of one era, version by version, on the wire itself."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx2
import pytest

from support import wire
from support.builds import Builds

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

MODERN: Final = "2026-07-28"
VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN)
_CAN: Final[wire.Json] = {
    "roots": {"listChanged": True},
    "sampling": {"tools": {}},
    "elicitation": {"form": {}, "url": {}},
}
_META: Final = "io.modelcontextprotocol/"
_WATCHED: Final = "test://watched-resource"


class Peer:
    """A client of one version at the build of its era."""

    def __init__(self, one: wire.Caller, version: str) -> None:
        self.one = one
        self.version = version
        self.session = ""

    async def open(self) -> None:
        """Shake hands, where the version does."""
        if self.version != MODERN:
            params = {**wire.hello(self.version), "capabilities": _CAN}
            answer = await self.one.legacy(None, "initialize", params)
            assert answer.json()["result"]["protocolVersion"] == self.version
            self.session = answer.headers["mcp-session-id"]
            assert (await self.one.send(*self.form("notifications/initialized", id_=None))).status_code == 202

    def form(self, method: str, params: wire.Json | None = None, id_: Any = 1) -> tuple[dict[str, str], bytes]:
        """Header fields and body of a message."""
        given = params or {}
        if self.version == MODERN:
            meta = {f"{_META}clientCapabilities": _CAN, **given.get("_meta", {})}
            return wire.modern(method, {**given, "_meta": meta}, id_)
        fields, body = wire.legacy(self.session, method, given, id_)
        return {**fields, "mcp-protocol-version": self.version}, body

    async def ask(self, method: str, params: wire.Json | None = None, **more: str) -> list[wire.Json]:
        """The messages that answer a request; the answer itself is last."""
        answer = await self.one.send(*self.form(method, params), **more)
        found = wire.messages(answer)
        assert found, answer
        assert found[-1]["id"] == 1
        return found

    async def result(self, method: str, params: wire.Json | None = None) -> Any:
        """The result of a request."""
        last = (await self.ask(method, params))[-1]
        assert "result" in last, last
        return last["result"]

    async def reply(self, question: wire.Json, result: wire.Json) -> None:
        """Answer a request of the server."""
        body = json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": result}).encode()
        assert (await self.one.send(self.form("ping")[0], body)).status_code == 202


@pytest.fixture
async def peer(request: pytest.FixtureRequest, all_builds: Builds) -> AsyncGenerator[Peer]:
    """A client of the version that the test is run for."""
    version: str = request.param
    async with httpx2.AsyncClient(timeout=120.0) as http:
        one = Peer(wire.Caller(http, all_builds["modern" if version == MODERN else "legacy"]), version)
        await one.open()
        yield one
        if one.session:
            await one.one.end(one.session)


every = pytest.mark.parametrize("peer", VERSIONS, indirect=True)
legacy = pytest.mark.parametrize("peer", VERSIONS[:-1], indirect=True)
newest_legacy = pytest.mark.parametrize("peer", ["2025-11-25"], indirect=True)
modern = pytest.mark.parametrize("peer", [MODERN], indirect=True)


@pytest.mark.requirement("gateway:pass:features")
@every
async def test_resources_templates_prompts_and_completions_are_the_servers_own(peer: Peer) -> None:
    listed = (await peer.result("resources/list"))["resources"]
    assert {one["uri"] for one in listed} == {"test://static-text", "test://static-binary", _WATCHED}
    [template] = (await peer.result("resources/templates/list"))["resourceTemplates"]
    assert template["uriTemplate"] == "test://template/{id}/data"
    [text] = (await peer.result("resources/read", {"uri": "test://template/a b/data"}))["contents"]
    assert json.loads(text["text"]) == {"id": "a b", "data": "Data for a b"}
    [blob] = (await peer.result("resources/read", {"uri": "test://static-binary"}))["contents"]
    assert blob["mimeType"] == "image/png"
    assert blob["blob"]
    assert "text" not in blob
    prompt = {"name": "test_prompt_with_arguments", "arguments": {"arg1": "one", "arg2": "zwölf"}}
    [message] = (await peer.result("prompts/get", prompt))["messages"]
    assert message["content"]["text"] == "Prompt with arguments: arg1='one', arg2='zwölf'"
    word = {"ref": {"type": "ref/prompt", "name": prompt["name"]}, "argument": {"name": "arg1", "value": "part"}}
    done = (await peer.result("completion/complete", word))["completion"]
    assert (done["values"], done["total"], done["hasMore"]) == (["party"], 1, False)


@pytest.mark.requirement("gateway:pass:progress")
@every
@pytest.mark.parametrize("token", ["mine", 0])
async def test_progress_has_the_clients_own_token_and_does_not_come_without_one(peer: Peer, token: Any) -> None:
    call: wire.Json = {"name": "test_tool_with_progress", "arguments": {}}
    *notes, _ = await peer.ask("tools/call", {**call, "_meta": {"progressToken": token}})
    assert [(one["method"], one["params"]["progressToken"], one["params"]["progress"]) for one in notes] == [
        ("notifications/progress", token, done) for done in (0, 50, 100)
    ]
    assert len(await peer.ask("tools/call", call)) == 1


@pytest.mark.requirement("gateway:pass:level")
@modern
@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 3), ("error", 0), (None, 0)])
async def test_a_modern_request_says_which_log_messages_it_wants(peer: Peer, level: str | None, count: int) -> None:
    meta = {} if level is None else {f"{_META}logLevel": level}
    *notes, _ = await peer.ask("tools/call", {"name": "test_tool_with_logging", "arguments": {}, "_meta": meta})
    assert [one["method"] for one in notes] == ["notifications/message"] * count


@pytest.mark.requirement("gateway:pass:watch")
@legacy
async def test_a_watched_resource_is_told_on_the_sessions_stream_until_it_is_not_watched(peer: Peer) -> None:
    change: wire.Json = {"name": "test_trigger_resource_change", "arguments": {}}
    other: wire.Json = {"name": "test_trigger_tool_change", "arguments": {}}
    async with peer.one.listening(peer.session) as stream:
        await peer.result("resources/subscribe", {"uri": _WATCHED})
        await peer.result("tools/call", change)
        told = await stream.message()
        assert (told["method"], told["params"]["uri"]) == ("notifications/resources/updated", _WATCHED)
        await peer.result("resources/unsubscribe", {"uri": _WATCHED})
        await peer.result("tools/call", change)
        # What comes next is the next change of another kind: the one before was told to nobody.
        await peer.result("tools/call", other)
        assert (await stream.message())["method"] == "notifications/tools/list_changed"


@pytest.mark.requirement("gateway:pass:listen")
@modern
@pytest.mark.parametrize(
    ("wanted", "tool", "method"),
    [
        ({"toolsListChanged": True}, "test_trigger_tool_change", "notifications/tools/list_changed"),
        ({"promptsListChanged": True}, "test_trigger_prompt_change", "notifications/prompts/list_changed"),
        ({"resourceSubscriptions": [_WATCHED]}, "test_trigger_resource_change", "notifications/resources/updated"),
    ],
)
async def test_a_modern_listener_hears_each_kind_that_it_asked_for(
    peer: Peer, wanted: wire.Json, tool: str, method: str
) -> None:
    listen = peer.form("subscriptions/listen", {"notifications": wanted}, "mine")
    async with peer.one.streaming(*listen) as stream:
        first = await stream.message()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        # All three happen; only the one that was asked for comes.
        for each in ("test_trigger_tool_change", "test_trigger_prompt_change", "test_trigger_resource_change"):
            if each != tool:
                await peer.result("tools/call", {"name": each, "arguments": {}})
        await peer.result("tools/call", {"name": tool, "arguments": {}})
        told = await stream.message()
        assert told["method"] == method
        assert told["params"]["_meta"][f"{_META}subscriptionId"] == "mine"


@pytest.mark.requirement("gateway:pass:asks")
@newest_legacy
async def test_a_legacy_server_has_the_clients_model_use_its_tools(peer: Peer) -> None:
    call: wire.Json = {"name": "test_sampling_with_tools", "arguments": {"prompt": "Weather in Paris?"}}
    async with peer.one.streaming(*peer.form("tools/call", call, 7)) as stream:
        first = await stream.message()
        assert first["method"] == "sampling/createMessage"
        assert [tool["name"] for tool in first["params"]["tools"]] == ["get_weather"]
        assert first["params"]["toolChoice"] == {"mode": "auto"}
        use = {"type": "tool_use", "id": "use-1", "name": "get_weather", "input": {"city": "Paris"}}
        await peer.reply(first, {"role": "assistant", "content": [use], "model": "m", "stopReason": "toolUse"})
        second = await stream.message()
        [_, turn, results] = second["params"]["messages"]
        assert turn["content"] == [use]
        assert (results["content"][0]["type"], results["content"][0]["toolUseId"]) == ("tool_result", "use-1")
        done = {"type": "text", "text": "Sunny"}
        await peer.reply(second, {"role": "assistant", "content": done, "model": "m", "stopReason": "endTurn"})
        last = await stream.message()
        assert (last["id"], last["result"]["content"][0]["text"]) == (7, "LLM response: Sunny")


@pytest.mark.requirement("gateway:pass:asks")
@newest_legacy
async def test_an_elicitation_by_url_is_asked_and_told_to_be_complete(peer: Peer) -> None:
    call: wire.Json = {"name": "test_elicitation_url", "arguments": {}}
    async with peer.one.streaming(*peer.form("tools/call", call)) as stream:
        question = await stream.message()
        assert (question["method"], question["params"]["mode"]) == ("elicitation/create", "url")
        number = question["params"]["elicitationId"]
        assert question["params"]["url"].endswith(f"?elicitation={number}")
        await peer.reply(question, {"action": "accept"})
        told = await stream.message()
        assert (told["method"], told["params"]["elicitationId"]) == ("notifications/elicitation/complete", number)
        assert (await stream.message())["result"]["content"][0]["text"] == "The user's answer: accept"


@pytest.mark.requirement("gateway:pass:asks")
@newest_legacy
async def test_an_error_that_sends_the_user_to_an_address_keeps_its_code_and_data(peer: Peer) -> None:
    call: wire.Json = {"name": "test_url_elicitation_required", "arguments": {"name": "raw"}}
    error = (await peer.ask("tools/call", call))[-1]["error"]
    assert error["code"] == -32042
    [asked] = error["data"]["elicitations"]
    assert (asked["mode"], asked["elicitationId"]) == ("url", "raw")
    assert (await peer.result("tools/call", call))["content"][0]["text"] == "raw is connected"


_REGION: Final[wire.Json] = {"name": "test_x_mcp_header", "arguments": {"region": "zürich"}}
_GOOD: Final = "=?base64?esO8cmljaA==?="


@pytest.mark.requirement("gateway:pass:params")
@modern
@pytest.mark.parametrize("name", ["Mcp-Param-Region", "mcp-param-region", "MCP-PARAM-REGION"])
async def test_a_mirrored_argument_is_taken_in_any_case_and_in_the_sentinel_form(peer: Peer, name: str) -> None:
    fields, body = peer.form("tools/call", _REGION)
    answer = await peer.one.send({**fields, name: _GOOD}, body)
    assert answer.status_code == 200
    assert wire.messages(answer)[-1]["result"]["content"][0]["text"] == "Region: zürich"


@pytest.mark.requirement("gateway:pass:params")
@modern
@pytest.mark.parametrize(
    "told",
    [
        [],
        ["genf"],
        ["=?base64?Z2VuZg==?="],
        ["=?base64?esO8cmljaA?="],
        ["=?base64?!!!!?="],
        ["=?base64?/w==?="],
        [_GOOD, _GOOD],
    ],
    ids=["missing", "different", "different-base64", "unpadded", "no-base64", "no-utf-8", "doubled"],
)
async def test_a_mirrored_argument_that_is_not_the_bodys_is_400(peer: Peer, told: list[str]) -> None:
    fields, body = peer.form("tools/call", _REGION)
    pairs = [*peer.one.bearer.items(), *fields.items(), *(("mcp-param-region", value) for value in told)]
    answer = await peer.one.http.post(peer.one.url, headers=pairs, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.json()["id"]) == (400, -32020, 1)
    assert "region" in error["message"].lower()


@pytest.mark.requirement("gateway:pass:accept")
@every
@pytest.mark.parametrize("accept", ["*/*", "application/*", "application/*, text/*"])
async def test_a_wildcard_takes_the_plain_answer(peer: Peer, accept: str) -> None:
    fields, body = peer.form("tools/list")
    answer = await peer.one.send({**fields, "accept": accept}, body)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "application/json")
    assert answer.json()["result"]["tools"]
