"""Everything that clients of today do with a server, over every version that each can be told to speak.

Each lists, calls, reads, gets a prompt, completes a word, hears progress and log messages, and is asked what it can be
asked. All see the same: that is how it shows that nothing depends on one client's habits.
"""

import asyncio
from typing import Any, Final, Literal

import pytest

from support import clients
from support.builds import Builds
from support.clients import Call, Endpoint, Mode, Tour
from support.everything import Build

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_COMMON: Final[list[Call]] = [
    ("test_simple_text", {}),
    ("test_structured_content", {"city": "Paris"}),
    ("test_tool_with_progress", {}),
    ("test_tool_with_logging", {}),
]
_LEGACY: Final[list[Call]] = [
    *_COMMON,
    ("test_sampling", {"prompt": "Capital of France?"}),
    ("test_elicitation", {"message": "Who are you?"}),
    ("test_list_roots", {}),
]
_NEWEST_LEGACY: Final[list[Call]] = [  # what 2025-11-25 added
    *_LEGACY,
    ("test_sampling_with_tools", {"prompt": "Weather in Paris?"}),
    ("test_elicitation_url", {}),
]
_MODERN: Final[list[Call]] = [
    *_COMMON,
    *(
        (f"test_input_required_result_{name}", {})
        for name in ("sampling", "elicitation", "list_roots", "sampling_with_tools", "elicitation_url")
    ),
]
_ASKED: Final = {
    "2024-11-05": ["roots", "sampling"],
    "2025-03-26": ["roots", "sampling"],
    "2025-06-18": ["form", "roots", "sampling"],
    "2025-11-25": ["form", "roots", "sampling", "sampling", "sampling", "url"],
    "2026-07-28": ["form", "roots", "sampling", "sampling", "sampling", "url"],
}
_CLASSIC_AND_NEW: Final[list[tuple[Mode, str]]] = [
    ("legacy", "2025-11-25"),
    ("auto", "2026-07-28"),
    ("2026-07-28", "2026-07-28"),
]


def _calls(version: str) -> list[Call]:
    """What a server can be asked to do over `version`."""
    if version >= "2026-07-28":
        return _MODERN
    if version >= "2025-11-25":
        return _NEWEST_LEGACY
    # Elicitation came with 2025-06-18.
    return [call for call in _LEGACY if version >= "2025-06-18" or call[0] != "test_elicitation"]


def _answers(version: str) -> dict[str, Any]:
    common = {
        "test_simple_text": "This is a simple text response for testing.",
        "test_structured_content": '{"temperature": 22.5, "conditions": "Sunny in Paris"}',
        "test_tool_with_progress": "Tool with progress executed successfully",
        "test_tool_with_logging": "Tool with logging executed successfully",
    }
    roots, weather, url = "The client has 1 roots: file:///project", "LLM response: Sunny in Paris", "The user's answer"
    if version >= "2026-07-28":
        return common | {
            "test_input_required_result_sampling": "The model answered the question about the capital",
            "test_input_required_result_elicitation": "Hello, Ada!",
            "test_input_required_result_list_roots": roots,
            "test_input_required_result_sampling_with_tools": weather,
            "test_input_required_result_elicitation_url": f"{url}: accept",
        }
    return common | {
        "test_sampling": "LLM response: Paris",
        "test_elicitation": "User response: action=accept, content={'username': 'Ada', 'email': 'Ada'}",
        "test_list_roots": roots,
        "test_sampling_with_tools": weather,
        "test_elicitation_url": f"{url}: accept",
    }


def _saw_everything(tour: Tour, version: str, *, urls: bool = True) -> None:
    calls = [name for name, _ in _calls(version)]
    assert tour.version == version
    assert {"test_simple_text", "test_structured_content"} <= set(tour.tools)
    assert set(tour.resources) == {"test://static-text", "test://static-binary", "test://watched-resource"}
    assert tour.resource == "This is the content of the static text resource."
    assert {"test_simple_prompt", "test_prompt_with_arguments"} <= set(tour.prompts)
    assert tour.prompt == "Prompt with arguments: arg1='one', arg2='two'"
    assert tour.completed == ["paris", "park", "party"]
    assert tour.said == {name: [text] for name, text in _answers(version).items() if name in calls}
    assert tour.structured == {"temperature": 22.5, "conditions": "Sunny in Paris"}
    assert tour.progress == [[0, 100], [50, 100], [100, 100]]
    assert tour.logged == ["Tool execution started", "Tool processing data", "Tool execution completed"]
    assert sorted(tour.asked) == _ASKED[version]


@pytest.mark.requirement("mcp:clients:python")
@pytest.mark.parametrize(("mode", "version"), _CLASSIC_AND_NEW)
async def test_the_python_sdk_does_everything(fixture_endpoint: Endpoint, mode: Mode, version: str) -> None:
    _saw_everything(await clients.tour_python(fixture_endpoint, mode, _calls(version)), version)


@pytest.mark.requirement("mcp:clients:python-1x")
def test_the_python_sdk_1_does_everything(fixture_endpoint: Endpoint) -> None:
    _saw_everything(clients.tour_python_classic(fixture_endpoint, _NEWEST_LEGACY), "2025-11-25")


@pytest.mark.requirement("mcp:clients:typescript")
@pytest.mark.parametrize(
    ("mode", "version"),
    [*_CLASSIC_AND_NEW, *((one, one) for one in ("2024-11-05", "2025-03-26", "2025-06-18"))],
)
def test_the_typescript_client_does_everything(fixture_endpoint: Endpoint, mode: str, version: str) -> None:
    _saw_everything(clients.tour_typescript(fixture_endpoint, mode, _calls(version)), version)


@pytest.mark.requirement("mcp:clients:typescript-1x")
def test_the_typescript_sdk_1_does_everything(fixture_endpoint: Endpoint) -> None:
    _saw_everything(clients.tour_typescript_classic(fixture_endpoint, _NEWEST_LEGACY), "2025-11-25")


@pytest.mark.requirement("mcp:clients:fastmcp")
@pytest.mark.parametrize(("mode", "version"), _CLASSIC_AND_NEW)
def test_fastmcp_does_everything(fixture_endpoint: Endpoint, mode: Mode, version: str) -> None:
    _saw_everything(clients.tour_fastmcp(fixture_endpoint, mode, _calls(version)), version)


@pytest.mark.requirement("mcp:clients:one-era")
@pytest.mark.parametrize("build", ["legacy", "modern"])
async def test_clients_of_both_eras_stay_modern_whatever_the_server_speaks(builds: Builds, build: Build) -> None:
    version = "2026-07-28"
    endpoint, calls = builds[build], _calls(version)
    # A client that has to wait too long for `server/discover` falls back to the handshake: copies stand ready first.
    await asyncio.gather(*(clients.python(endpoint, "2026-07-28", "test_simple_text", {}) for _ in range(2)))
    _saw_everything(await clients.tour_python(endpoint, "auto", calls), version)
    _saw_everything(clients.tour_typescript(endpoint, "auto", calls), version)
    _saw_everything(clients.tour_fastmcp(endpoint, "auto", calls), version)


@pytest.mark.requirement("mcp:clients:inspector")
@pytest.mark.parametrize("era", ["legacy", "auto", "modern"])
def test_the_inspectors_command_line_does_everything(
    fixture_endpoint: Endpoint, era: Literal["legacy", "auto", "modern"]
) -> None:
    def did(method: str, *arguments: str, code: int = 0) -> Any:
        return clients.inspector(fixture_endpoint, era, method, *arguments, code=code)["result"]

    assert {"test_simple_text", "test_sampling"} <= {tool["name"] for tool in did("tools/list")["tools"]}
    called = did("tools/call", "--tool-name", "test_structured_content", "--tool-arg", "city=Paris")
    assert called["structuredContent"] == {"temperature": 22.5, "conditions": "Sunny in Paris"}
    # Only the modern era names the server in each result: that is how it shows which one was spoken.
    assert ("io.modelcontextprotocol/serverInfo" in called.get("_meta", {})) == (era != "legacy")
    failed = did("tools/call", "--tool-name", "test_error_handling", code=5)  # how it tells of a tool's error
    assert failed["isError"]
    uris = {one["uri"] for one in did("resources/list")["resources"]}
    assert uris == {"test://static-text", "test://static-binary", "test://watched-resource"}
    text = did("resources/read", "--uri", "test://static-text")["contents"][0]["text"]
    assert text == "This is the content of the static text resource."
    templates = did("resources/templates/list")["resourceTemplates"]
    assert [one["uriTemplate"] for one in templates] == ["test://template/{id}/data"]
    assert len(did("prompts/list")["prompts"]) == 5
    filled = ("--prompt-name", "test_prompt_with_arguments", "--prompt-args", "arg1=one", "arg2=two")
    message = did("prompts/get", *filled)["messages"][0]["content"]["text"]
    assert message == "Prompt with arguments: arg1='one', arg2='two'"
    if era == "legacy":
        assert did("logging/setLevel", "--log-level", "info") == {}
