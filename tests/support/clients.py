"""Real MCP clients, as their users run them, with an API key as bearer header."""

import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import httpx2
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client import session
from mcp.client.context import ClientRequestContext
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from support import environments, node

Mode = Literal["legacy", "auto", "2026-07-28"]
Call = tuple[str, dict[str, Any]]

_CLIENT_S: Final = 240.0
# By itself the client takes a server for one of the older era whose first word needs more than 10 s: that would be a
# verdict on the machine. No server of these tests is without an answer.
session.DISCOVER_TIMEOUT_SECONDS = _CLIENT_S
_INSPECTOR: Final = node.MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "cli" / "build" / "index.js"


class Endpoint(NamedTuple):
    """Where a server is, and the key that opens it."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, key=hidden)"


@dataclass(frozen=True)
class Seen:
    """What a client saw: the protocol version it came to, the tools, and the answer of the one it called."""

    version: str
    tools: tuple[str, ...]
    texts: tuple[str, ...]
    is_error: bool


@dataclass
class Tour:
    """What a client saw that looked at everything: it was asked for, and told, all of this."""

    version: str = ""
    tools: list[str] = field(default_factory=list[str])
    resources: list[str] = field(default_factory=list[str])
    resource: str = ""
    prompts: list[str] = field(default_factory=list[str])
    prompt: str = ""
    completed: list[str] = field(default_factory=list[str])
    said: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    structured: dict[str, Any] = field(default_factory=dict[str, Any])
    progress: list[list[float]] = field(default_factory=list[list[float]])
    logged: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])
    isError: bool = False  # noqa: N815  # a member of the clients' JSON


@dataclass
class Person:
    """Who sits behind a client: answers what servers ask, and keeps what they tell."""

    asked: list[str] = field(default_factory=list[str])
    kinds: list[str] = field(default_factory=list[str])
    logged: list[str] = field(default_factory=list[str])
    notices: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])

    async def elicit(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        """Fill in the form: "Ada" wherever a text is wanted, yes wherever a yes or no is; or go to the address."""
        self.asked.append(params.message)
        self.kinds.append("form" if isinstance(params, types.ElicitRequestFormParams) else "url")
        if not isinstance(params, types.ElicitRequestFormParams):
            return types.ElicitResult(action="accept")
        properties: dict[str, dict[str, str]] = params.requested_schema["properties"]
        content = {name: True if one["type"] == "boolean" else "Ada" for name, one in properties.items()}
        return types.ElicitResult(action="accept", content=dict(content))

    async def sample(
        self, context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult | types.CreateMessageResultWithTools:
        """Answer as a model that says Paris, or uses the first tool it is given and then repeats what came of it."""
        self.asked.append("sampling")
        self.kinds.append("sampling")
        last, model = params.messages[-1].content_as_list[-1], "a model of the tests"
        if isinstance(last, types.ToolResultContent):
            text = last.content[0]
            assert isinstance(text, types.TextContent)
            return types.CreateMessageResult(role="assistant", content=text, model=model)
        if params.tools is None:
            return types.CreateMessageResult(role="assistant", content=types.TextContent(text="Paris"), model=model)
        use = types.ToolUseContent(name=params.tools[0].name, id="use-1", input={"city": "Paris"})
        return types.CreateMessageResultWithTools(role="assistant", content=[use], model=model, stop_reason="toolUse")

    async def roots(self, context: ClientRequestContext) -> types.ListRootsResult:
        """Show one folder."""
        self.asked.append("roots")
        self.kinds.append("roots")
        return types.ListRootsResult.model_validate({"roots": [{"uri": "file:///project", "name": "project"}]})

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        """Keep a log message."""
        self.logged.append(str(params.data))

    async def notice(self, message: types.ServerNotification | Exception) -> None:
        """Keep the name of any other notification; a transport's exception fails the test that looks here."""
        self.notices.put_nowait(str(message) if isinstance(message, Exception) else message.method)


@contextlib.asynccontextmanager
async def connected(
    target: Endpoint | StdioServerParameters, mode: Mode, person: Person | None = None, *, read_s: float = 120.0
) -> AsyncGenerator[Client]:
    """The official Python client (package mcp), connected to `target`, with `person` behind it.

    `read_s`: how long an answer may say nothing.
    """
    who = person or Person()
    async with contextlib.AsyncExitStack() as stack:
        transport: Any = target
        if isinstance(target, Endpoint):
            headers = {"Authorization": f"Bearer {target.key}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=read_s))
            transport = streamable_http_client(target.url, http_client=http)
        yield await stack.enter_async_context(
            Client(
                transport,
                mode=mode,
                elicitation_callback=who.elicit,
                sampling_callback=who.sample,
                sampling_capabilities=types.SamplingCapability(tools=types.SamplingToolsCapability()),
                list_roots_callback=who.roots,
                logging_callback=who.log,
                message_handler=who.notice,
            )
        )


async def python_old(target: Endpoint, tool: str, arguments: dict[str, Any]) -> Seen:
    """The same over the transport of MCP 2024-11-05."""
    transport: Any = sse_client(target.url, headers={"Authorization": f"Bearer {target.key}"}, timeout=120.0)
    async with Client(transport, mode="legacy") as client:
        tools = await client.list_tools()
        called = await client.call_tool(tool, arguments)
        return Seen(client.protocol_version, tuple(tool.name for tool in tools.tools), texts(called), called.is_error)


async def python(target: Endpoint, mode: Mode, tool: str, arguments: dict[str, Any]) -> Seen:
    """List the tools and call one with the official Python client."""
    async with connected(target, mode) as client:
        tools = await client.list_tools()
        called = await client.call_tool(tool, arguments)
        return Seen(client.protocol_version, tuple(tool.name for tool in tools.tools), texts(called), called.is_error)


def texts(called: types.CallToolResult) -> tuple[str, ...]:
    """The text blocks of a result."""
    return tuple(block.text for block in called.content if isinstance(block, types.TextContent))


def typescript(target: Endpoint, mode: Mode, tool: str, arguments: dict[str, Any]) -> Seen:
    """List the tools and call one with the official TypeScript client of 2.x (@modelcontextprotocol/client)."""
    return _seen(_node("modern.mjs", target, mode, [(tool, arguments)]), tool)


def typescript_classic(target: Endpoint, tool: str, arguments: dict[str, Any]) -> Seen:
    """The same with the TypeScript SDK of 1.x (@modelcontextprotocol/sdk), which most clients still embed."""
    return _seen(_node("classic.mjs", target, "legacy", [(tool, arguments)]), tool)


def python_classic(target: Endpoint, tool: str, arguments: dict[str, Any]) -> Seen:
    """The same with the Python SDK of 1.x."""
    return _seen(_python("classic", target, "legacy", [(tool, arguments)]), tool)


def typescript_old(target: Endpoint, tool: str, arguments: dict[str, Any]) -> Seen:
    """The same over whichever of the two HTTP transports the URL has; `version` is `sse` or `http`."""
    call = (target.url, tool, json.dumps(arguments))
    key = {"SMCP_TEST_BEARER": target.key}
    done = node.run(node.CLIENTS / "oldsse.mjs", *call, environ=key, timeout_s=_CLIENT_S)
    assert done.returncode == 0, f"oldsse.mjs ended with {done.returncode}:\n{done.stderr[-4000:]}"
    said = json.loads(done.stdout)
    blocks = tuple(block["text"] for block in said["content"] if block["type"] == "text")
    return Seen(said["version"], tuple(said["tools"]), blocks, said["isError"])


def _seen(tour: Tour, tool: str) -> Seen:
    return Seen(tour.version, tuple(tour.tools), tuple(tour.said[tool]), tour.isError)


async def tour_python(target: Endpoint, mode: Mode, calls: Sequence[Call]) -> Tour:
    """Everything with the official Python client (package mcp, 2.x)."""
    who, tour = Person(), Tour()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        tour.progress.append([progress, total or 0])

    async with connected(target, mode, who) as client:
        tour.version = client.protocol_version
        tour.tools = [tool.name for tool in (await client.list_tools()).tools]
        tour.resources = [str(one.uri) for one in (await client.list_resources()).resources]
        text = (await client.read_resource("test://static-text")).contents[0]
        assert isinstance(text, types.TextResourceContents)
        tour.resource = text.text
        tour.prompts = [one.name for one in (await client.list_prompts()).prompts]
        name = "test_prompt_with_arguments"
        block = (await client.get_prompt(name, {"arg1": "one", "arg2": "two"})).messages[0].content
        assert isinstance(block, types.TextContent)
        tour.prompt = block.text
        word = {"name": "arg1", "value": "par"}
        tour.completed = (await client.complete(types.PromptReference(name=name), word)).completion.values
        for name, arguments in calls:
            # In the modern era log messages are asked for by each request.
            meta: Any = None if mode == "legacy" else {types.LOG_LEVEL_META_KEY: "info"}
            called = await client.call_tool(name, arguments, progress_callback=on_progress, meta=meta)
            tour.said[name] = list(texts(called))
            tour.isError = called.is_error
            tour.structured = called.structured_content or tour.structured
    tour.logged, tour.asked = who.logged, who.kinds
    return tour


def tour_typescript(target: Endpoint, mode: str, calls: Sequence[Call]) -> Tour:
    """Everything with the TypeScript client of 2.x; `mode` may be an older version, to be offered in the handshake."""
    return _node("modern.mjs", target, mode, calls, "look")


def tour_typescript_classic(target: Endpoint, calls: Sequence[Call]) -> Tour:
    """Everything with the TypeScript SDK of 1.x."""
    return _node("classic.mjs", target, "legacy", calls, "look")


def tour_python_classic(target: Endpoint, calls: Sequence[Call]) -> Tour:
    """Everything with the Python SDK of 1.x."""
    return _python("classic", target, "legacy", calls, "look")


def tour_fastmcp(target: Endpoint, mode: Mode, calls: Sequence[Call]) -> Tour:
    """Everything with fastmcp's client."""
    return _python("fast", target, mode, calls, "look")


def _node(script: str, target: Endpoint, mode: str, calls: Sequence[Call], *more: str) -> Tour:
    key = {"SMCP_TEST_BEARER": target.key}
    arguments = (target.url, mode, json.dumps(calls), *more)
    done = node.run(node.CLIENTS / script, *arguments, environ=key, timeout_s=_CLIENT_S)
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return Tour(**json.loads(done.stdout))


def _python(name: environments.Name, target: Endpoint, mode: str, calls: Sequence[Call], *more: str) -> Tour:
    script = environments.FOLDER / f"{name}.py"
    done = subprocess.run(
        [environments.python(name), script, target.url, mode, json.dumps(calls), *more],
        env={**os.environ, "SMCP_TEST_BEARER": target.key},
        capture_output=True,
        text=True,
        timeout=_CLIENT_S,
        check=False,
    )
    assert done.returncode == 0, f"{name}.py ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return Tour(**json.loads(done.stdout))


def inspector(
    target: Endpoint, era: Literal["legacy", "auto", "modern"], method: str, *arguments: str, code: int = 0
) -> Any:
    """One method with MCP Inspector's command line, which must end with `code`: what it prints."""
    with tempfile.TemporaryDirectory(prefix="smcp-inspector-") as home:
        # In a file, because the command line of a process is everybody's to read.
        config = pathlib.Path(home) / "mcp.json"
        headers = {"Authorization": f"Bearer {target.key}"}
        server = {"type": "streamable-http", "url": target.url, "headers": headers}
        config.write_text(json.dumps({"mcpServers": {"hosted": server}}), "utf-8")
        done = node.run(
            _INSPECTOR,
            *("--config", str(config), "--server", "hosted", "--protocol-era", era, "--format", "json", "--quiet"),
            *("--stored-auth-only", "--connect-timeout", "120000", "--method", method, *arguments),
            environ={"HOME": home},
            timeout_s=_CLIENT_S,
        )
    assert done.returncode == code, f"the inspector ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout)
