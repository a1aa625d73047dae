"""Every behaviour of the fixture as the official Python client sees it, in both eras: alone, and hosted by SMCP.

The same tests for both: what the gateway must not change is what a client sees without it.
"""

import asyncio
import secrets

import mcp_types as types
import pytest
from mcp import MCPError, StdioServerParameters
from mcp.server.subscriptions import ResourceUpdated, ToolsListChanged

from support import clients, everything

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

Target = clients.Endpoint | StdioServerParameters
ERAS: list[clients.Mode] = ["legacy", "2026-07-28"]


@pytest.fixture(params=["alone", "hosted"])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "alone":
        return everything.over_stdio()
    endpoint: clients.Endpoint = request.getfixturevalue("fixture_endpoint")
    return endpoint


@pytest.fixture
def person() -> clients.Person:
    return clients.Person()


@pytest.mark.requirement("mcp:results:content")
@pytest.mark.parametrize("mode", ERAS)
async def test_every_kind_of_content_arrives(target: Target, mode: clients.Mode) -> None:
    kinds: dict[str, list[str]] = {}
    names = ("simple_text", "image_content", "audio_content", "embedded_resource", "multiple_content_types")
    async with clients.connected(target, mode) as client:
        for name in names:
            result = await client.call_tool(f"test_{name}", {})
            kinds[name] = [block.type for block in result.content]
        failed = await client.call_tool("test_error_handling", {})
    assert kinds == {
        "simple_text": ["text"],
        "image_content": ["image"],
        "audio_content": ["audio"],
        "embedded_resource": ["resource"],
        "multiple_content_types": ["text", "image", "resource"],
    }
    assert failed.is_error
    assert clients.texts(failed) == ("This tool intentionally returns an error for testing",)


@pytest.mark.requirement("mcp:results:schemas-untouched")
@pytest.mark.parametrize("mode", ERAS)
async def test_the_keywords_of_an_input_schema_are_not_touched(target: Target, mode: clients.Mode) -> None:
    async with clients.connected(target, mode) as client:
        listed = await client.list_tools()
    schema = next(tool.input_schema for tool in listed.tools if tool.name == "json_schema_2020_12_tool")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$defs"]["address"]["$anchor"] == "addressDef"
    assert schema["properties"]["address"] == {"$ref": "#/$defs/address"}
    assert {"allOf", "if", "then", "else", "additionalProperties"} <= schema.keys()


@pytest.mark.requirement("mcp:streams:progress")
@pytest.mark.parametrize("mode", ERAS)
async def test_progress_arrives_before_the_result_and_in_order(target: Target, mode: clients.Mode) -> None:
    reported: list[tuple[float, float | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total))

    async with clients.connected(target, mode) as client:
        await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
    assert reported == [(0, 100), (50, 100), (100, 100)]


@pytest.mark.requirement("mcp:streams:concurrent")
@pytest.mark.parametrize("mode", ERAS)
async def test_many_calls_at_once_each_get_their_own_answer_and_progress(target: Target, mode: clients.Mode) -> None:
    seen: dict[int, list[float]] = {number: [] for number in range(8)}

    async def call(number: int) -> str:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            seen[number].append(progress)

        slow = client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
        quick = client.call_tool("test_x_mcp_header", {"region": f"region-{number}"})
        _, answer = await asyncio.gather(slow, quick)
        return clients.texts(answer)[0]

    async with clients.connected(target, mode) as client:
        answers = await asyncio.gather(*(call(number) for number in seen))
    assert answers == [f"Region: region-{number}" for number in seen]
    assert seen == {number: [0, 50, 100] for number in seen}


@pytest.mark.requirement("mcp:streams:cancel")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_that_the_client_gives_up_is_cancelled_in_the_server(target: Target, mode: clients.Mode) -> None:
    name = {"name": secrets.token_hex(8)}
    running = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        running.set()

    async with clients.connected(target, mode) as client:
        call = asyncio.create_task(client.call_tool("test_wait", name, progress_callback=on_progress))
        await asyncio.wait_for(running.wait(), 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        cancelled = await client.call_tool("test_was_cancelled", name)
    assert clients.texts(cancelled) == ("yes",)


@pytest.mark.requirement("mcp:streams:log-messages")
async def test_log_messages_arrive_with_the_call_that_sent_them(target: Target, person: clients.Person) -> None:
    async with clients.connected(target, "legacy", person) as client:
        await client.call_tool("test_tool_with_logging", {})
    assert person.logged == ["Tool execution started", "Tool processing data", "Tool execution completed"]


@pytest.mark.requirement("mcp:legacy:server-asks")
async def test_a_legacy_server_may_ask_its_client_during_a_call(target: Target, person: clients.Person) -> None:
    async with clients.connected(target, "legacy", person) as client:
        sampled = await client.call_tool("test_sampling", {"prompt": "Capital of France?"})
        elicited = await client.call_tool("test_elicitation", {"message": "Who are you?"})
    assert clients.texts(sampled) == ("LLM response: Paris",)
    assert "Ada" in clients.texts(elicited)[0]
    assert person.asked == ["sampling", "Who are you?"]


@pytest.mark.requirement("mcp:modern:input-required")
async def test_a_modern_server_asks_by_input_required_rounds(target: Target, person: clients.Person) -> None:
    asking = ("elicitation", "sampling", "list_roots", "request_state", "multiple_inputs", "multi_round")
    said: list[str] = []
    async with clients.connected(target, "2026-07-28", person) as client:
        for name in asking:
            result = await client.call_tool(f"test_input_required_result_{name}", {})
            said.extend(clients.texts(result))
    assert said == [
        "Hello, Ada!",
        "The model answered the question about the capital",
        "The client has 1 roots: file:///project",
        "state-ok: the state came back as it was sent",
        "All three answers arrived, Ada",
        "Ada likes Ada",
    ]
    assert len(person.asked) == 9


@pytest.mark.requirement("mcp:results:resources-and-prompts")
@pytest.mark.parametrize("mode", ERAS)
async def test_resources_prompts_and_completions_arrive(target: Target, mode: clients.Mode) -> None:
    async with clients.connected(target, mode) as client:
        resources = await client.list_resources()
        templates = await client.list_resource_templates()
        text = await client.read_resource("test://static-text")
        blob = await client.read_resource("test://static-binary")
        templated = await client.read_resource("test://template/123/data")
        prompts = await client.list_prompts()
        prompt = await client.get_prompt("test_prompt_with_arguments", {"arg1": "one", "arg2": "two"})
        completed = await client.complete(
            types.PromptReference(name="test_prompt_with_arguments"), {"name": "arg1", "value": "par"}
        )
    assert {one.uri for one in resources.resources} >= {"test://static-text", "test://static-binary"}
    assert [one.uri_template for one in templates.resource_templates] == ["test://template/{id}/data"]
    assert isinstance(text.contents[0], types.TextResourceContents)
    assert isinstance(blob.contents[0], types.BlobResourceContents)
    assert isinstance(templated.contents[0], types.TextResourceContents)
    assert "123" in templated.contents[0].text
    assert len(prompts.prompts) == 5
    assert isinstance(prompt.messages[0].content, types.TextContent)
    assert prompt.messages[0].content.text == "Prompt with arguments: arg1='one', arg2='two'"
    assert completed.completion.values == ["paris", "park", "party"]


@pytest.mark.requirement("mcp:results:errors")
@pytest.mark.parametrize(("mode", "missing_resource"), [("legacy", -32002), ("2026-07-28", types.INVALID_PARAMS)])
async def test_a_servers_own_errors_arrive_with_their_codes(
    target: Target, mode: clients.Mode, missing_resource: int
) -> None:
    async with clients.connected(target, mode) as client:
        with pytest.raises(MCPError) as no_tool:
            await client.call_tool("no_such_tool", {})
        with pytest.raises(MCPError) as no_resource:
            await client.read_resource("test://no-such-resource")
    assert no_tool.value.code == types.INVALID_PARAMS
    assert no_resource.value.code == missing_resource
    assert no_resource.value.data == {"uri": "test://no-such-resource"}


@pytest.mark.requirement("mcp:streams:list-changes")
async def test_a_legacy_client_hears_of_changed_lists(target: Target, person: clients.Person) -> None:
    async with clients.connected(target, "legacy", person) as client:
        watch = types.SubscribeRequest(params=types.SubscribeRequestParams(uri="test://watched-resource"))
        await client.session.send_request(watch, types.EmptyResult)
        for kind in ("tool", "prompt", "resource"):
            await client.call_tool(f"test_trigger_{kind}_change", {})
        async with asyncio.timeout(60):
            heard = [await person.notices.get() for _ in range(3)]
    assert sorted(heard) == [
        "notifications/prompts/list_changed",
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    ]


@pytest.mark.requirement("mcp:streams:list-changes")
async def test_a_modern_client_hears_only_of_what_it_listens_for(target: Target) -> None:
    watched = "test://watched-resource"
    async with (
        clients.connected(target, "2026-07-28") as client,
        client.listen(tools_list_changed=True, resource_subscriptions=[watched]) as stream,
    ):
        for kind in ("prompt", "tool", "resource"):
            await client.call_tool(f"test_trigger_{kind}_change", {})
        async with asyncio.timeout(60):
            heard = [await anext(stream), await anext(stream)]
    assert heard == [ToolsListChanged(), ResourceUpdated(uri=watched)]
