"""Uses a server with the Python SDK of 1.x: `python classic.py <url> <mode> <calls> [look]`.

There is one mode, legacy: this SDK offers the newest version that it knows, and can be told no other.
The key comes in the environment (SMCP_TEST_BEARER); what was seen goes to standard output as one JSON object.
"""

import asyncio
import json
import os
import sys
from typing import Any

import httpx
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl

seen: dict[str, Any] = {"said": {}, "asked": [], "logged": [], "progress": []}


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    """Fill in the form, or go to the address."""
    url = isinstance(params, types.ElicitRequestURLParams)
    seen["asked"].append("url" if url else "form")
    if url:
        return types.ElicitResult(action="accept")
    fields = params.requestedSchema["properties"].items()
    return types.ElicitResult(
        action="accept", content={name: True if one["type"] == "boolean" else "Ada" for name, one in fields}
    )


async def sample(context: Any, params: types.CreateMessageRequestParams) -> Any:
    """A model that says Paris, or uses the first tool it is given and then repeats what came of it."""
    seen["asked"].append("sampling")
    last = params.messages[-1].content_as_list[-1]
    told = {"role": "assistant", "model": "a model of the tests"}
    if last.type == "tool_result":
        return types.CreateMessageResult(**told, content=last.content[0])
    if not params.tools:
        return types.CreateMessageResult(**told, content=types.TextContent(type="text", text="Paris"))
    use = types.ToolUseContent(type="tool_use", id="use-1", name=params.tools[0].name, input={"city": "Paris"})
    return types.CreateMessageResultWithTools(**told, content=[use], stopReason="toolUse")


async def roots(context: Any) -> types.ListRootsResult:
    """Show one folder."""
    seen["asked"].append("roots")
    return types.ListRootsResult(roots=[types.Root(uri="file:///project", name="project")])


async def log(params: types.LoggingMessageNotificationParams) -> None:
    """Keep a log message."""
    seen["logged"].append(params.data)


async def progress(done: float, total: float | None, message: str | None) -> None:
    """Keep what is reported."""
    seen["progress"].append([done, total])


async def look(session: ClientSession) -> None:
    """Everything that the fixture server offers beside its tools."""
    await session.send_ping()
    await session.set_logging_level("info")
    seen["resources"] = [str(one.uri) for one in (await session.list_resources()).resources]
    seen["resource"] = (await session.read_resource(AnyUrl("test://static-text"))).contents[0].text
    seen["prompts"] = [one.name for one in (await session.list_prompts()).prompts]
    name = "test_prompt_with_arguments"
    seen["prompt"] = (await session.get_prompt(name, {"arg1": "one", "arg2": "two"})).messages[0].content.text
    asked = types.PromptReference(type="ref/prompt", name=name)
    seen["completed"] = (await session.complete(asked, {"name": "arg1", "value": "par"})).completion.values


async def main(url: str, calls: list[tuple[str, dict[str, Any]]], *, all_of_it: bool) -> None:
    """Connect, look around, make the calls, tell."""
    headers = {"Authorization": f"Bearer {os.environ['SMCP_TEST_BEARER']}"}
    async with (
        httpx.AsyncClient(headers=headers, timeout=60) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(
            read,
            write,
            elicitation_callback=elicit,
            sampling_callback=sample,
            sampling_capabilities=types.SamplingCapability(tools=types.SamplingToolsCapability()),
            list_roots_callback=roots,
            logging_callback=log,
        ) as session,
    ):
        seen["version"] = str((await session.initialize()).protocolVersion)
        if all_of_it:
            await look(session)
        seen["tools"] = [tool.name for tool in (await session.list_tools()).tools]
        for name, arguments in calls:
            called = await session.call_tool(name, arguments, progress_callback=progress)
            seen["said"][name] = [one.text for one in called.content if one.type == "text"]
            seen["isError"] = called.isError
            if called.structuredContent:
                seen["structured"] = called.structuredContent
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1], json.loads(sys.argv[3]), all_of_it=len(sys.argv) > 4))
