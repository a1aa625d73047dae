"""The official Python client of a handshake version at the build that knows only 2026-07-28: nothing is missing."""

import asyncio

import mcp_types as types
import pytest

from support import clients
from support.builds import Builds

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.mark.requirement("gateway:asking:client")
async def test_a_legacy_client_is_asked_everything_that_a_modern_server_wants_to_know(builds: Builds) -> None:
    person = clients.Person()
    said: dict[str, tuple[str, ...]] = {}
    names = ("elicitation", "sampling", "list_roots", "request_state", "multiple_inputs", "multi_round")
    async with clients.connected(builds["modern"], "legacy", person) as client:
        assert client.protocol_version == "2025-11-25"
        for name in (*names, "elicitation_url", "sampling_with_tools", "tampered_state", "capabilities"):
            called = await client.call_tool(f"test_input_required_result_{name}", {})
            assert not called.is_error, called
            said[name] = clients.texts(called)
        prompt = await client.get_prompt("test_input_required_result_prompt", {})
    assert said == {
        "elicitation": ("Hello, Ada!",),
        "sampling": ("The model answered the question about the capital",),
        "list_roots": ("The client has 1 roots: file:///project",),
        "request_state": ("state-ok: the state came back as it was sent",),
        "multiple_inputs": ("All three answers arrived, Ada",),
        "multi_round": ("Ada likes Ada",),
        "elicitation_url": ("The user's answer: accept",),
        "sampling_with_tools": ("LLM response: Sunny in Paris",),
        "tampered_state": ("state-ok: the state came back as it was sent",),
        "capabilities": ("Asked only for what was declared: user_name, greeting, client_roots",),
    }
    assert isinstance(prompt.messages[0].content, types.TextContent)
    assert "Ada" in prompt.messages[0].content.text
    assert {"form", "url", "sampling", "roots"} == set(person.kinds)


@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
@pytest.mark.requirement("gateway:feeds:client", "gateway:bridge:log-level")
async def test_a_legacy_client_hears_of_changes_and_logs_of_a_modern_server(builds: Builds) -> None:
    person = clients.Person()
    async with clients.connected(builds["modern"], "legacy", person) as client:
        await client.set_logging_level("info")  # pyright: ignore[reportDeprecated] - the era of this client has it
        # Both at once: whose message it is the server does not say, and here it is the same client's.
        calls = [client.call_tool("test_tool_with_logging", {}) for _ in range(2)]
        await asyncio.gather(*calls)
        await client.subscribe_resource("test://watched-resource")  # pyright: ignore[reportDeprecated] - as above
        wanted = {"tools/list_changed", "prompts/list_changed", "resources/updated"}
        for kind in ("tool", "prompt", "resource"):
            await client.call_tool(f"test_trigger_{kind}_change", {})
        async with asyncio.timeout(60):
            heard: set[str] = set()
            # Whose stream was not there from the first moment on is told once that anything may have changed.
            while not wanted <= heard:
                heard.add((await person.notices.get()).removeprefix("notifications/"))
    assert sorted(person.logged) == sorted(
        ["Tool execution started", "Tool processing data", "Tool execution completed"] * 2
    )
